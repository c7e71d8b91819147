//! The puller's configuration: a TOML file, and where things are without one.

use crate::judge::Verify;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where copies are kept.
    pub store: Option<PathBuf>,
    /// How closely new copies are looked at.
    pub verify: Option<Verify>,
    /// Keep the newest so many good copies.
    #[serde(rename = "keep-last")]
    pub keep_last: Option<u32>,
    /// Keep good copies of so many days.
    #[serde(rename = "keep-days")]
    pub keep_days: Option<u32>,
}

impl Config {
    /// Reads the file that was named, or the one in the usual place if there is one.
    pub fn read(named: Option<&Path>) -> Result<Self, Fault> {
        let path = named.map_or_else(default_path, Path::to_owned);
        let wrong =
            |why: String| Fault::new(Kind::Config, format!("the configuration `{}`: {why}", path.display()));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(
                    wrong(error.to_string()).hint("name it with `--config FILE`, or with `PULLER_CONFIG`")
                );
            }
        };
        Self::parse(&text).map_err(|why| wrong(why).hint("doc/operations.md lists the keys"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..start].matches('\n').count() + 1;
            let source = text.lines().nth(line - 1).unwrap_or_default().trim();
            format!("line {line} (`{}`): {}", printable(source, 80), error.message())
        })
    }
}

/// `$XDG_CONFIG_HOME/pullback/puller.toml`, or `~/.config/pullback/puller.toml`.
pub fn default_path() -> PathBuf {
    xdg("XDG_CONFIG_HOME", ".config").join("pullback/puller.toml")
}

/// `$XDG_DATA_HOME/pullback`, or `~/.local/share/pullback`.
pub fn default_store() -> PathBuf {
    xdg("XDG_DATA_HOME", ".local/share").join("pullback")
}

/// Where the stores that were used are remembered.
pub fn known_stores() -> PathBuf {
    xdg("XDG_STATE_HOME", ".local/state").join("pullback/stores")
}

fn xdg(variable: &str, below_home: &str) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    set.unwrap_or_else(|| std::env::home_dir().unwrap_or_else(|| PathBuf::from("/")).join(below_home))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused_with_its_line(
            lines in prop::collection::vec(
                prop_oneof![
                    "(store|verify|keep-last|keep-days|keep) = (\"[a-zé\\\\/]{0,8}\"?|-?[0-9]{1,20}|[0-9.e]{1,9}|true|\\[\\]|)",
                    "\\PC{0,20}",
                    "\\[\\[?[a-z.\"]{0,8}\\]?\\]?",
                ],
                0..6,
            ),
        ) {
            if let Err(why) = Config::parse(&lines.join("\n")) {
                prop_assert!(why.starts_with("line "), "{why}");
            }
        }
    }
}
