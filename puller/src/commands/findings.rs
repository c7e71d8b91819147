//! What `puller doctor` found: each finding ok, warn or fail, with what mends it.

use super::text;
use crate::cli::Cli;
use pullback_shared::fault::Fault;
use pullback_shared::text::printable;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum State {
    Ok,
    Warn,
    Fail,
}

/// What was found, in the order of finding.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

pub(super) struct Finding {
    pub(super) state: State,
    source: Option<String>,
    pub(super) about: String,
    hint: String,
}

impl Findings {
    pub(super) fn add(
        &mut self,
        state: State,
        source: Option<&str>,
        about: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let source = source.map(str::to_owned);
        self.0.push(Finding { state, source, about: about.into(), hint: hint.into() });
    }

    pub(super) fn fault(&mut self, source: Option<&str>, fault: &Fault) {
        self.add(State::Fail, source, fault.message.clone(), fault.hint.clone());
    }
}

impl Finding {
    pub(super) fn print(&self, cli: &Cli) {
        let Self { state, source, about, hint } = self;
        let (word, color) = match state {
            State::Ok => ("ok", 32),
            State::Warn => ("warn", 33),
            State::Fail => ("fail", 31),
        };
        if cli.common.json {
            let line =
                serde_json::json!({"v": 1, "state": word, "source": source, "about": about, "hint": hint});
            return println!("{line}");
        }
        let of_source = source.as_ref().map(|source| format!("{source}: ")).unwrap_or_default();
        let padding = " ".repeat(6 - word.len());
        let word = if cli.colors(&std::io::stdout()) { text::colored(word, color) } else { word.to_owned() };
        println!("{word}{padding}{of_source}{}", printable(about, 1000));
        if !hint.is_empty() {
            println!("      {}", printable(hint, 1000));
        }
    }
}
