//! What was typed, read; and for options of hand-made backup scripts, how the same is said here.

use crate::cli::{Cli, Color};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, ValueEnum};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::typed_color;

/// Options of old scripts, and what to type now.
const OLD: [(&str, &str); 6] = [
    ("--info-only", "`puller info SOURCE` says what is there, and moves nothing"),
    ("--stats-only", "`puller info SOURCE --tables` counts tables and rows"),
    ("--skip-checkpoint", "leave it out: nothing is ever checkpointed, and nothing is lost by it"),
    ("--method", "leave it out: there is one way, which is safe and fast"),
    (
        "--cleanup",
        "`puller pull SOURCE --keep-days 7` removes old copies after a good pull, `puller rotate SOURCE --keep-days 7` at any time",
    ),
    ("--backup-dir", "`--store DIR` says where copies are kept"),
];

/// The command line, or why it makes no sense. What clap has to say (help, its own errors) it says itself, and ends.
pub(crate) fn parse() -> Result<Cli, Fault> {
    let matches = Cli::command().color(color_of_clap()).try_get_matches();
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(cli),
        Err(error) => Err(old_spelling(&error).unwrap_or_else(|| error.exit())),
    }
}

fn old_spelling(error: &clap::Error) -> Option<Fault> {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidArg) else { return None };
    let typed = typed.split('=').next().unwrap_or_default();
    let (old, now) = OLD.iter().find(|(old, _)| *old == typed)?;
    (error.kind() == ErrorKind::UnknownArgument)
        .then(|| Fault::new(Kind::Usage, format!("`{old}` is an option of older scripts")).hint(*now))
}

/// `--color` holds for help and for errors of the command line as well, which come before it is read.
fn color_of_clap() -> clap::ColorChoice {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let typed = typed_color(&words);
    let set = std::env::var("PULLER_COLOR").unwrap_or_default();
    match Color::from_str(typed.unwrap_or(&set), false) {
        Ok(Color::Always) => clap::ColorChoice::Always,
        Ok(Color::Never) => clap::ColorChoice::Never,
        Ok(Color::Auto) | Err(_) => clap::ColorChoice::Auto,
    }
}
