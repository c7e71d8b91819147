//! What `--help` prints, of both programs and of each subcommand, is kept in tests/snapshots/: a change of it is seen, and meant.

use pullback_tests::pages;
use pullback_tests::programs;
use pullback_tests::sandbox::Sandbox;
use std::fs;
use std::path::Path;

/// When set, the snapshots are written anew instead of compared.
const UPDATE: &str = "PULLBACK_UPDATE_SNAPSHOTS";

#[track_caller]
fn check(name: &str, program: &Path) {
    let pages = pages::of(&Sandbox::new(), program);
    assert!(pages.len() >= 12, "{name} has only {} pages", pages.len());
    let text = |page: &pages::Page| {
        let words = [&[name.to_owned()], &page.words[..], &["--help".to_owned()]].concat();
        format!("$ {}\n{}\n", words.join(" "), page.text.trim_end())
    };
    let now = pages.iter().map(text).collect::<Vec<_>>().join("\n");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots").join(format!("{name}.txt"));
    if std::env::var_os(UPDATE).is_some() {
        return fs::write(&file, now).expect("a snapshot can be written");
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    let (mut kept_lines, mut now_lines) = (kept.lines(), now.lines());
    let mut line = 0;
    let (kept_line, now_line) = loop {
        line += 1;
        match (kept_lines.next(), now_lines.next()) {
            (None, None) => return,
            (kept, now) if kept == now => {}
            (kept, now) => break (kept.unwrap_or("(the end)"), now.unwrap_or("(the end)")),
        }
    };
    panic!(
        "--help of {name} is not as it was, from line {line} of {}:\n- {kept_line}\n+ {now_line}\nIf that is meant: \
         {UPDATE}=1 cargo test -p pullback-tests --test help, and commit the difference",
        file.display()
    );
}

#[test]
fn the_help_of_puller_is_as_it_was() {
    check("puller", programs::puller());
}

#[test]
fn the_help_of_the_agent_is_as_it_was() {
    check("pullback-agent", programs::agent());
}
