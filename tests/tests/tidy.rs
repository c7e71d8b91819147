//! The house as drawn: what ARCHITECTURE.md says of files, imports, words, limits and tests is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    /// From the repository's root, such as `agent/src/sink.rs`.
    path: String,
    text: String,
    /// Without comments and without the tests at its end.
    code: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder can be read") {
            let path = entry.expect("a folder can be read").path();
            match path.is_dir() {
                true if path.file_name().is_none_or(|name| name != "target") => walk(&path, found),
                false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
                _ => {}
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    ["shared", "agent", "puller", "tests"].iter().for_each(|folder| walk(&root.join(folder), &mut found));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source can be read");
        let before_tests = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = before_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = code.flat_map(|line| [line, "\n"]).collect();
        let path = path.strip_prefix(&root).expect("a source is in the repository").display().to_string();
        Source { path, text, code }
    };
    found.into_iter().map(read).collect()
}

/// Whether `word` stands in `code` by itself: `println!` is not in `eprintln!`.
fn says(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + word.len()..].chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// The words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The part of a document between the heading `title` and the next one of its kind.
fn section<'a>(document: &'a str, title: &str) -> &'a str {
    let after = document.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no `{title}`")).1;
    after.split("\n## ").next().unwrap_or_default()
}

#[test]
fn each_file_says_what_it_is_for() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{} does not open with what it is for", source.path);
    }
}

#[test]
fn each_word_is_said_only_where_it_may_be() {
    let architecture = document("ARCHITECTURE.md");
    let rows = section(&architecture, "Who may say what").lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<Vec<&str>> = rows.map(|row| quoted(row).collect()).collect();
    assert!(rows.len() >= 10, "the table is not where it was");
    for source in sources() {
        for row in &rows {
            let may = row[1..].iter().any(|file| source.path.starts_with(file));
            assert!(may || !says(&source.code, row[0]), "{} says `{}`", source.path, row[0]);
        }
    }
    for file in rows.iter().flat_map(|row| &row[1..]) {
        assert!(root().join(file).exists(), "{file} may say something and is not there");
    }
}

#[test]
fn imports_go_one_way() {
    let architecture = document("ARCHITECTURE.md");
    let plays: BTreeSet<&str> = quoted(section(&architecture, "Who may import whom")).collect();
    const NOT_IN_SHARED: [&str; 7] =
        ["std::fs", "std::net", "std::env", "std::process", "std::thread", "std::time", "jiff"];
    for Source { path, code, .. } in sources() {
        let folder = path.split('/').next().unwrap_or_default();
        let never: &[&str] = match folder {
            "shared" => &["pullback_agent", "puller::"],
            "agent" => &["puller::"],
            "tests" if plays.contains(path.as_str()) => &["pullback_agent::", "puller::"],
            "tests" => &["pullback_agent::", "puller::", "pullback_shared::"],
            _ => &[],
        };
        // This file has to name what it looks for.
        let is_this = path == "tests/tests/tidy.rs";
        let known = never.iter().find(|word| !is_this && code.contains(**word));
        assert!(known.is_none(), "{path} knows {known:?}");
        for word in NOT_IN_SHARED.iter().filter(|_| path.starts_with("shared/src")) {
            assert!(!says(&code, word), "{path} has `{word}`");
        }
        if folder == "puller" {
            let doors = code.split("pullback_agent::").skip(1);
            let may = |door: &str| {
                door.starts_with("serve::") || door.starts_with("config::") && path.ends_with("/demo.rs")
            };
            assert!(doors.into_iter().all(may), "{path} goes past the agent's front door");
        }
        let rim =
            ["/main.rs", "/cli.rs", "/commands/mod.rs"].iter().any(|end| path.ends_with(end)) || is_this;
        assert!(rim || !code.contains("commands::"), "{path} imports the rim");
    }
}

#[test]
fn nothing_unwraps_and_nothing_is_put_off() {
    let put_off = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    for Source { path, text, code } in sources() {
        assert!(path.starts_with("tests/") || !code.contains(".unwrap()"), "{path} unwraps");
        assert!(put_off.iter().all(|word| !says(&text, word)), "{path} puts something off");
    }
}

#[test]
fn the_map_has_every_file() {
    let architecture = document("ARCHITECTURE.md");
    let map = section(&architecture, "Code map");
    for Source { path, .. } in sources() {
        let (folder, name) =
            (path.split('/').next().unwrap_or_default(), path.rsplit('/').next().unwrap_or_default());
        if folder == "tests" || !path.contains("/src/") || name == "lib.rs" {
            continue;
        }
        let part = map.split(&format!("\n`{folder}/`")).nth(1).unwrap_or(map);
        let part = part.split("\n`").next().unwrap_or_default();
        assert!(part.contains(&format!("`{name}`")), "{path} is not on the map");
    }
}

#[test]
fn tests_limits_and_crates_that_are_named_exist() {
    let (architecture, sources) = (document("ARCHITECTURE.md"), sources());
    let all: String = sources.iter().map(|source| source.text.as_str()).collect();
    let tests = section(&architecture, "What must always hold").split("Tests:").skip(1);
    let tests: Vec<&str> =
        tests.flat_map(|part| quoted(part.split("\n\n").next().unwrap_or_default())).collect();
    assert!(tests.len() >= 30, "the tests are not where they were");
    for name in tests {
        assert!(all.contains(&format!("fn {name}(")), "there is no test `{name}`");
    }
    for name in quoted(section(&architecture, "Limits"))
        .filter(|word| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    {
        assert!(all.contains(&format!("const {name}:")), "there is no limit `{name}`");
    }
    let jobs: BTreeSet<&str> = quoted(section(&architecture, "Dependencies")).collect();
    let manifest: toml::Table = document("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let crates = manifest["workspace"]["dependencies"].as_table().expect("a table of dependencies");
    for name in crates.keys().filter(|name| !name.starts_with("pullback-")) {
        assert!(jobs.contains(name.as_str()), "`{name}` has no job in ARCHITECTURE.md");
    }
}

/// The variables of both programs in `text`.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    let ours = |word: &&str| {
        ["PULLER_", "PULLBACK_AGENT_"].iter().any(|start| word.len() > start.len() && word.starts_with(start))
    };
    words.filter(ours).map(str::to_owned).collect()
}

#[test]
fn environment_variables_are_those_that_the_documents_name() {
    let said = |source: &Source| -> BTreeSet<String> {
        // Only what stands in quotes is a variable; constants may begin with the same word.
        source.code.split('"').skip(1).step_by(2).flat_map(variables).collect()
    };
    let sources = sources();
    let programs =
        sources.iter().filter(|source| source.path.contains("/src/") && !source.path.starts_with("tests/"));
    let known: BTreeSet<String> = programs.flat_map(said).collect();
    assert_eq!(variables(&document("doc/operations.md")), known, "doc/operations.md names them all");
    for name in
        ["README.md", "CONTRIBUTING.md", "doc/json.md", "doc/errors.md", "doc/format.md", "doc/guides.md"]
    {
        assert!(variables(&document(name)).is_subset(&known), "{name} names a variable that is none");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "doc/format.md",
        "doc/json.md",
        "doc/errors.md",
        "doc/operations.md",
        "doc/guides.md",
    ] {
        let folder = root().join(name).parent().expect("a document lies in a folder").to_owned();
        let text = document(name);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.starts_with("https:")) {
            let file = link.split('#').next().unwrap_or_default();
            assert!(folder.join(file).exists(), "{name} leads to `{link}`, which is not there");
        }
    }
}
