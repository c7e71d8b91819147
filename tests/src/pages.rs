//! The `--help` of a program and of each of its subcommands.

use crate::sandbox::Sandbox;
use std::path::Path;

/// The page of one command.
#[derive(Debug)]
pub struct Page {
    /// The words after the program, none for the program itself.
    pub words: Vec<String>,
    /// What `--help` prints, 100 columns wide.
    pub text: String,
    /// Whether other commands stand below it.
    pub has_more: bool,
}

/// Where there is no terminal, lines are broken by this.
const COLUMNS: &str = "100";

/// Every page of `program`, each before those of its own subcommands.
pub fn of(sandbox: &Sandbox, program: &Path) -> Vec<Page> {
    let (mut pages, mut next) = (Vec::new(), vec![Vec::new()]);
    while let Some(words) = next.pop() {
        let mut command = sandbox.command(program);
        command.args(&words).arg("--help").env("COLUMNS", COLUMNS);
        let text = sandbox.run(&mut command).exits(0).stdout;
        let below = subcommands(&text);
        let has_more = !below.is_empty();
        next.extend(below.into_iter().rev().map(|word| [&words[..], &[word]].concat()));
        pages.push(Page { words, text, has_more });
    }
    pages
}

/// The words listed below `Commands:`, without `help`, whose pages are those of the others.
fn subcommands(page: &str) -> Vec<String> {
    let Some((_, list)) = page.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = list.lines().take_while(|line| !line.is_empty());
    let entry =
        |line: &str| line.strip_prefix("  ").filter(|entry| !entry.starts_with(' ')).map(str::to_owned);
    let words = lines.filter_map(entry).filter_map(|entry| entry.split(' ').next().map(str::to_owned));
    words.filter(|word| word != "help").collect()
}
