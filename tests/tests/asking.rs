//! What explains itself: `explain`, `doctor`, `config`, `completions`, `man`, options of old scripts, and a reader that left.

use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{databases, programs, wounds};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const ERRORS: &str = include_str!("../../doc/errors.md");
const PULLER_TOML: &str = include_str!("../../deploy/puller.toml");
const AGENT_TOML: &str = include_str!("../../deploy/agent.toml");

fn configure(sandbox: &Sandbox, text: &str) {
    let dir = sandbox.file("home/xdg_config_home/pullback");
    fs::create_dir_all(&dir).expect("a folder can be made");
    fs::write(dir.join("puller.toml"), text).expect("a configuration can be written");
}

fn gym(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.db("gym.db");
    databases::gym(&path, 50_000, 4096);
    path
}

#[test]
fn every_code_of_the_document_is_explained_by_both_programs() {
    let sandbox = Sandbox::new();
    let rows: Vec<Vec<&str>> = ERRORS
        .lines()
        .filter(|line| line.starts_with("| P"))
        .map(|line| line.trim_matches(['|', ' ']).split(" | ").collect())
        .collect();
    assert!(rows.len() > 20, "the table is not where it was");
    for row in &rows {
        let (code, word) = (row[0], row[1].trim_matches('`'));
        for ran in [sandbox.puller(&["explain", code]), sandbox.agent(&["explain", word])] {
            let ran = ran.exits(0);
            assert!(ran.stdout.starts_with(&format!("{code} `{word}`, exit code {}", row[2])), "{ran}");
            assert!(ran.stdout.contains("What to do: "), "{ran}");
        }
    }
    let all = sandbox.puller(&["explain", "--json"]).exits(0).json();
    assert_eq!(all.len(), rows.len());
    let two = sandbox.puller(&["explain", "p6", "7", "--json"]).exits(0).json();
    assert_eq!(two.iter().map(|line| &line["word"]).collect::<Vec<_>>(), ["busy", "missing"]);
    let unknown = sandbox.puller(&["explain", "bussy"]).exits(2);
    assert!(unknown.stderr.contains("did you mean P06 `busy`?"), "{unknown}");
}

#[test]
fn options_of_old_scripts_are_answered_with_the_new_spelling() {
    let sandbox = Sandbox::new();
    let check = |arguments: &[&str], expected: &str| {
        let ran = sandbox.run(sandbox.command(programs::puller()).args(arguments)).exits(2);
        assert!(ran.stderr.contains("is an option of older scripts [P01]"), "{ran}");
        assert!(ran.stderr.contains(expected) && ran.stdout.is_empty(), "{ran}");
    };
    for (option, expected) in [
        ("--info-only", "`puller info SOURCE`"),
        ("--stats-only", "`puller info SOURCE --tables`"),
        ("--skip-checkpoint", "nothing is ever checkpointed"),
        ("--cleanup", "`puller pull SOURCE --keep-days 7`"),
        ("--backup-dir", "`--store DIR`"),
    ] {
        check(&[option], expected);
        check(&[option, "pull", "./a.db"], expected);
        check(&["pull", option, "./a.db"], expected);
        check(&["pull", "./a.db", option], expected);
        check(&["--json", "pull", "./a.db", option], expected);
    }
    for words in [&["--method", "query"][..], &["--method=scp"]] {
        check(words, "there is one way");
        check(&[&["pull", "./a.db"], words].concat(), "there is one way");
    }
    check(&["pull", "./a.db", "--cleanup", "--keep-days", "7"], "--keep-days 7");
    let other = sandbox.puller(&["pull", "--nonsense"]).exits(2);
    assert!(other.stderr.contains("unexpected argument '--nonsense'"), "{other}");
    // A file may be called anything.
    let file = sandbox.puller(&["pull", "--", "--info-only"]).exits(7);
    assert!(file.stderr.contains("[P07]"), "{file}");
}

/// The keys that puller names when it meets one that it does not know, in the table `head`.
#[track_caller]
fn known(sandbox: &Sandbox, head: &str) -> BTreeSet<String> {
    let file = sandbox.file("unknown.toml");
    fs::write(&file, format!("{head}\nnonsense = 1\n")).expect("a file can be written");
    let ran = sandbox.puller(&["config", "check", "--config", file.to_str().expect("UTF-8")]).exits(2);
    let line = ran.stderr.lines().find(|line| line.contains("expected")).unwrap_or_else(|| panic!("{ran}"));
    let expected = line.split_once("expected").map_or("", |(_, after)| after);
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_has_every_key_and_is_right_with_them_and_without() {
    let sandbox = Sandbox::new();
    let printed = sandbox.puller(&["config", "example"]).exits(0);
    assert_eq!(printed.stdout, PULLER_TOML);
    assert_eq!(sandbox.agent(&["config", "example"]).exits(0).stdout, AGENT_TOML);
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => key.to_owned(),
        _ => line.to_owned(),
    };
    let every_key: String = PULLER_TOML.lines().map(|line| uncommented(line) + "\n").collect();
    let file = sandbox.file("example.toml");
    let file = file.to_str().expect("UTF-8");
    for text in [PULLER_TOML, &every_key] {
        fs::write(file, text).expect("a file can be written");
        sandbox.puller(&["config", "check", "--config", file]).exits(0);
    }
    let table: toml::Table = every_key.parse().expect("TOML");
    let keys = |table: &toml::Table| table.keys().cloned().collect::<BTreeSet<String>>();
    assert_eq!(keys(&table), known(&sandbox, ""));
    let source = table["source"]["gym"].as_table().expect("a table");
    assert_eq!(keys(source), known(&sandbox, "[source.gym]\naddress = \"/a\""));
    assert_eq!(keys(table["hooks"].as_table().expect("a table")), known(&sandbox, "[hooks]"));
}

#[test]
fn the_settings_that_hold_are_shown_with_who_says_so() {
    let sandbox = Sandbox::new();
    configure(
        &sandbox,
        "max_age = \"26h\"\nretries = 2\nkeep = { last = 3 }\n[source.\"my.db\"]\naddress = \"/a\"\nexpect = { \"회원\" = 1 }\n\
         [ping]\nurl = \"https://me:word@hc.example/secret-uuid\"\n",
    );
    let mut command = sandbox.command(programs::puller());
    command.args(["config", "show", "--origin", "--store", "/elsewhere"]);
    command.env("PULLER_RETRIES", "5").env("PULLER_KEEP_DAYS", "7");
    let shown = sandbox.run(&mut command).exits(0);
    for line in [
        "max_age = \"26h\"  # file",
        "retries = 5  # environment, PULLER_RETRIES",
        "keep.last = 3  # file",
        "keep.days = 7  # environment, PULLER_KEEP_DAYS",
        "store = \"/elsewhere\"  # flag, --store",
        "verify = \"auto\"  # default",
        "source.\"my.db\".expect.\"회원\" = 1  # file",
        "ping.url = \"https://hc.example/…\"  # file",
    ] {
        assert!(shown.stdout.lines().any(|found| found == line), "{line}: {shown}");
    }
    // What is shown is a configuration, and says the same.
    let file = sandbox.file("shown.toml");
    fs::write(&file, &shown.stdout).expect("a file can be written");
    let again = sandbox.puller(&[
        "config",
        "show",
        "--config",
        file.to_str().expect("UTF-8"),
        "--store",
        "/elsewhere",
    ]);
    let plain = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(plain(&again.exits(0).stdout), plain(&shown.stdout));
    configure(&sandbox, "max_age = \"soon\"\n");
    sandbox.puller(&["config", "show"]).exits(2);
}

#[test]
fn bash_completes_commands_and_options() {
    let sandbox = Sandbox::new();
    let Some(bash) = ["/bin/bash", "/usr/bin/bash"].iter().map(Path::new).find(|path| path.exists()) else {
        return println!("SKIPPED: there is no bash");
    };
    let check = |program: &Path, typed: &[&str], expected: &[&str], never: &str| {
        let script = sandbox.run(sandbox.command(program).args(["completions", "bash"])).exits(0).stdout;
        let file = sandbox.file("completions.bash");
        fs::write(&file, script).expect("a file can be written");
        sandbox.run(sandbox.command(bash).arg("-n").arg(&file)).exits(0);
        let name = program.file_name().expect("a program has a name").to_string_lossy().into_owned();
        let words = format!("{name} {}", typed.join(" "));
        let (now, before) = (typed.last().expect("a word"), words.split(' ').rev().nth(1).expect("a word"));
        let complete = format!(
            "source '{}'; COMP_WORDS=({words}); COMP_CWORD={}; f=$(complete -p {name}); f=${{f#*-F }}; ${{f%% *}} {name} '{now}' '{before}'; echo \"${{COMPREPLY[@]}}\"",
            file.display(),
            typed.len(),
        );
        let ran = sandbox.run(sandbox.command(bash).args(["-c", &complete])).exits(0);
        let found: Vec<&str> = ran.stdout.split_whitespace().collect();
        assert!(expected.iter().all(|word| found.contains(word)), "{ran}");
        assert!(!ran.stdout.contains(never), "{ran}");
    };
    check(programs::puller(), &["s"], &["status", "sources", "show"], "pull");
    check(programs::puller(), &["d"], &["demo", "doctor"], "demo-writer");
    check(programs::puller(), &["status", "--m"], &["--max-age"], "status");
    check(programs::puller(), &["sources", "a"], &["adopt"], "rename");
    check(programs::agent(), &["do"], &["doctor"], "serve");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(sandbox.puller(&["completions", shell]).exits(0).stdout.contains("status"), "{shell}");
    }
    sandbox.puller(&["completions", "nonsense"]).exits(2);
}

#[test]
fn manual_pages_are_there_for_every_command_and_right() {
    let sandbox = Sandbox::new();
    let dir = sandbox.file("man");
    let to = dir.to_str().expect("UTF-8");
    sandbox.puller(&["man", "--dir", to]).exits(0);
    sandbox.agent(&["man", "--dir", to]).exits(0);
    assert_eq!(
        fs::read_to_string(dir.join("puller.1")).expect("a page"),
        sandbox.puller(&["man"]).exits(0).stdout
    );
    let pages: Vec<PathBuf> =
        fs::read_dir(&dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    for page in ["puller-status.1", "puller-sources-adopt.1", "pullback-agent-serve.1"] {
        assert!(dir.join(page).exists(), "{page}");
    }
    assert!(!dir.join("puller-demo-writer.1").exists());
    let groff = Path::new("/usr/bin/groff");
    if !groff.exists() {
        return println!("SKIPPED: there is no groff");
    }
    for page in pages {
        let mut command = sandbox.command(groff);
        let ran = sandbox.run(command.args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page)).exits(0);
        assert_eq!(ran.stderr, "", "{ran}");
    }
}

#[test]
fn a_reader_that_left_is_no_error() {
    let sandbox = Sandbox::new();
    gym(&sandbox);
    sandbox.pull(&["./gym.db", "--name", "gym"]).succeeds("stored");
    let check = |program: &Path, arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        drop(reader);
        let mut command = sandbox.command(program);
        let output = command.args(arguments).env("PULLER_STORE", sandbox.store()).stdout(writer).output();
        let output = output.expect("a program can be run");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    };
    for words in [
        "list",
        "list --json",
        "status",
        "status --json",
        "sources",
        "info",
        "history gym",
        "show gym",
        "explain",
        "explain P06",
        "config show",
        "config example",
        "config path",
        "completions bash",
        "completions zsh",
        "man",
        "doctor",
        "--help",
        "pull --help",
        "--version",
        "verify gym",
        "rotate gym --keep-last 1 -n",
    ] {
        check(programs::puller(), &words.split(' ').collect::<Vec<_>>());
    }
    for words in
        ["completions bash", "man", "explain", "config example", "config path", "--help", "info ./gym.db"]
    {
        check(programs::agent(), &words.split(' ').collect::<Vec<_>>());
    }
}

#[test]
fn colours_of_help_and_of_errors_are_as_asked() {
    let sandbox = Sandbox::new();
    let has_colours = |arguments: &[&str], variable: &str| {
        let mut command = sandbox.command(programs::puller());
        command.args(arguments).env("PULLER_COLOR", variable);
        let ran = sandbox.run(&mut command);
        format!("{}{}", ran.stdout, ran.stderr).contains('\x1b')
    };
    assert!(has_colours(&["--color", "always", "--help"], ""));
    assert!(has_colours(&["pull", "--nonsense", "--color=always"], ""));
    assert!(has_colours(&["--help"], "always"));
    assert!(!has_colours(&["--help", "--color", "never"], "always"));
    assert!(!has_colours(&["--help"], ""));
    let agent = |arguments: &[&str]| sandbox.agent(arguments).stdout.contains('\x1b');
    assert!(agent(&["--color", "always", "--help"]) && !agent(&["--help"]));
    assert!(!agent(&["--color", "always", "--help", "--color=never"]));
}

/// The findings of `doctor` that are no `ok`, and the exit code.
#[track_caller]
fn troubles(sandbox: &Sandbox, arguments: &[&str]) -> (Vec<String>, Ran) {
    let ran = sandbox.puller(&[&["doctor", "--json"], arguments].concat());
    let lines = ran.json().into_iter().filter(|line| line["state"] != "ok");
    let text = |line: serde_json::Value| {
        format!("{} {}: {}", line["state"], line["source"], line["about"]).replace('"', "")
    };
    (lines.map(text).collect(), ran)
}

#[test]
fn a_store_that_is_well_has_nothing_to_hear_from_the_doctor() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox);
    let open = databases::visits_in_the_wal(&path, 20);
    let served = Served::start(&sandbox, &[("gym", &path)]);
    configure(
        &sandbox,
        &format!(
            "max_age = \"26h\"\nkeep = {{ last = 3 }}\n[source.gym]\naddress = \"{}\"\n",
            served.source("gym")
        ),
    );
    sandbox.puller(&["pull", "gym"]).exits(0);
    let (mut found, ran) = troubles(&sandbox, &[]);
    // Jobs are those of whoever runs this test.
    found.retain(|line| !line.contains("job"));
    assert!(found.is_empty(), "{ran}");
    let quiet = sandbox.puller(&["doctor", "-q", "gym"]).exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""), "{quiet}");
    let told = sandbox.puller(&["doctor", "gym"]).exits(0);
    assert!(told.stdout.contains("journal wal") && told.stdout.contains("`cp` or `scp`"), "{told}");
    assert!(told.stdout.contains("answers: agent "), "{told}");
    drop(open);
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_what_mends_it() {
    let sandbox = Sandbox::new();
    let none = sandbox.puller(&["doctor"]).exits(13);
    assert!(none.stdout.contains("fail  there is no store at"), "{none}");
    let path = gym(&sandbox);
    let pulled = sandbox.pull(&["./gym.db", "--name", "gym"]).succeeds("stored");
    let (found, ran) = troubles(&sandbox, &[]);
    assert!(ran.code() == 0 || found.iter().any(|line| line.starts_with("fail null: job")), "{ran}");
    assert!(found.iter().any(|line| line.contains("does not say what is kept")), "{found:?}");
    assert!(found.iter().any(|line| line.contains("does not say how old")), "{found:?}");

    fs::set_permissions(sandbox.store(), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    assert!(troubles(&sandbox, &[]).0.iter().any(|line| line.contains("has mode 755")));

    // A store that was used before and is gone, as on a disk that is not mounted.
    let other = sandbox.file("other");
    sandbox.puller_in(&other, &["pull", "./gym.db"]).exits(0);
    fs::remove_dir_all(&other).expect("a folder can be removed");
    assert!(troubles(&sandbox, &[]).0.iter().any(|line| line.contains("was used before and is not there")));

    fs::set_permissions(&pulled.path, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    wounds::cut(&pulled.path, 8192);
    sandbox.puller(&["verify", "gym"]).exits(4);
    fs::remove_file(&path).expect("a file can be removed");
    configure(
        &sandbox,
        "[source.gym]\naddress = \"127.0.0.1:1/gym\"\n[source.off]\naddress = \"127.0.0.1:1/off\"\noptional = true\n",
    );
    let (found, ran) = troubles(&sandbox, &[]);
    assert_eq!(ran.code(), 13, "{ran}");
    for expected in [
        "fail gym: has no good copy",
        &format!("fail gym: copy {} is rotten", pulled.copy),
        "fail gym: is at `",
        "warn off: is configured, and was never pulled",
        "warn off: ",
    ] {
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}: {found:#?}");
    }
    assert!(
        found.iter().any(|line| line.starts_with("fail gym: ") && line.contains("no such file")),
        "{found:#?}"
    );
    configure(&sandbox, "jobs = 0\n");
    let (found, ran) = troubles(&sandbox, &[]);
    assert!(ran.code() == 13 && found.len() == 1 && found[0].contains("line 1"), "{ran}");
    configure(&sandbox, "");
    sandbox.puller(&["doctor", "nobody"]).exits(10);
}
