//! The puller's configuration: a TOML file, and where things are without one.

use crate::address::{Address, NAME_RULE, is_name};
use crate::hooks::Moment;
use crate::judge::Verify;
use crate::packing::Pack;
use crate::paired::is_same;
use crate::policy::{Policy, Zone};
use crate::source_dir::SourceDir;
use crate::ssh::RemoteAgent;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The shortest and the longest time that can be written.
const SPAN_MIN: Duration = Duration::from_millis(100);
const SPAN_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Characters of what is wrong with it.
const MESSAGE_CHARS_MAX: usize = 500;

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where copies are kept.
    pub store: Option<PathBuf>,
    /// How closely new copies are looked at.
    pub verify: Option<Verify>,
    /// What is kept after a good pull.
    pub keep: Option<Policy>,
    /// How older copies are kept.
    pub pack: Option<Pack>,
    /// The time zone whose days and weeks the rules mean.
    pub timezone: Option<Zone>,
    /// A source whose last good run is longer ago is stale.
    pub max_age: Option<Span>,
    /// A source in which nothing has changed for longer is stale: does its application still write?
    pub max_unchanged: Option<Span>,
    /// Sources pulled at once.
    pub jobs: Option<NonZeroU16>,
    /// Tries after the first, when an agent cannot be reached or is lost.
    pub retries: Option<u32>,
    /// How long an agent may give no sign of life.
    pub timeout: Option<Span>,
    /// The program behind the ssh door.
    pub ssh: Option<PathBuf>,
    /// `[source.NAME]`, by their names.
    #[serde(default, rename = "source")]
    pub sources: BTreeMap<String, Source>,
    /// What is run before and after pulls and restores.
    #[serde(default)]
    pub hooks: Hooks,
    /// Who is told of runs.
    pub ping: Option<Ping>,
}

/// `[source.NAME]`: a source by its name, and what holds for it alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where it is, as it would be typed.
    pub address: String,
    /// As at the top.
    pub verify: Option<Verify>,
    /// As at the top.
    pub keep: Option<Policy>,
    /// As at the top.
    pub pack: Option<Pack>,
    /// As at the top.
    pub timezone: Option<Zone>,
    /// As at the top.
    pub max_age: Option<Span>,
    /// As at the top.
    pub max_unchanged: Option<Span>,
    /// A machine that is often off: that it cannot be reached is no failure, only that its copies grow old.
    #[serde(default)]
    pub optional: bool,
    /// Behind the ssh door: run the agent as the owner of the file.
    #[serde(default)]
    pub sudo: bool,
    /// Behind the ssh door: the agent's program.
    pub remote_agent: Option<String>,
    /// Tables that must be there, and the fewest rows each must have.
    #[serde(default)]
    pub expect: BTreeMap<String, u64>,
}

/// `[hooks]`: programs with their arguments; no shell reads them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Before each pull of a source.
    pub before_pull: Option<Vec<String>>,
    /// After each pull that stored a good copy or found nothing new.
    pub after_pull: Option<Vec<String>>,
    /// After each pull that failed.
    pub on_failure: Option<Vec<String>>,
    /// After the first good pull that follows a failed one.
    pub on_recovery: Option<Vec<String>>,
    /// Before a restore in place, which is not begun where this fails.
    pub before_restore: Option<Vec<String>>,
    /// After a restore in place, which did not succeed where this fails.
    pub after_restore: Option<Vec<String>>,
    /// After that a URL of the application, which must answer with 2xx.
    pub after_restore_url: Option<String>,
    /// How long it is asked.
    pub after_restore_wait: Option<Span>,
    /// How long each may take.
    pub timeout: Option<Span>,
}

impl Hooks {
    /// The program and the arguments of the hook that is run at `moment`.
    pub fn of(&self, moment: Moment) -> Option<&[String]> {
        match moment {
            Moment::BeforePull => &self.before_pull,
            Moment::AfterPull => &self.after_pull,
            Moment::OnFailure => &self.on_failure,
            Moment::OnRecovery => &self.on_recovery,
            Moment::BeforeRestore => &self.before_restore,
            Moment::AfterRestore => &self.after_restore,
        }
        .as_deref()
    }

    /// What is asked after a restore, and how long, as [`crate::health::healthy`] wants it.
    pub fn health(&self) -> Option<(&str, Duration)> {
        let wait = self.after_restore_wait.map_or(crate::health::WAIT, |span| span.0);
        Some((self.after_restore_url.as_deref()?, wait))
    }
}

/// `[ping]`: a URL that is told of the start and the end of each run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Where: `/start` and `/fail` are added for these.
    pub url: String,
}

/// A length of time, written as `20s`, `26h`, `7d`, or as a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SpanAsWritten")]
pub struct Span(pub Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum SpanAsWritten {
    Seconds(u64),
    Text(String),
}

impl TryFrom<SpanAsWritten> for Span {
    type Error = String;

    fn try_from(written: SpanAsWritten) -> Result<Self, String> {
        match written {
            SpanAsWritten::Seconds(seconds) => span(&seconds.to_string()),
            SpanAsWritten::Text(text) => span(&text),
        }
        .map(Self)
    }
}

/// Reads a length of time as people write it. A day has 24 hours.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong = |why: String| {
        format!("`{}` is no length of time: {why}; write it as 20s, 26h or 7d", printable(text, 80))
    };
    let duration = match text.parse::<u32>() {
        Ok(seconds) => jiff::SignedDuration::from_secs(seconds.into()),
        Err(_) => text
            .parse::<jiff::Span>()
            .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()))
            .map_err(|error| wrong(error.to_string()))?,
    };
    match Duration::try_from(duration) {
        Ok(duration) if duration >= SPAN_MIN && duration <= SPAN_MAX => Ok(duration),
        _ => Err(wrong("it is below 100 ms or above 100 years".to_owned())),
    }
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
        Self::parse(&text).map_err(|why| wrong(why).hint("`puller config example` shows every key"))
    }

    /// The keys of the file as they were written, once all of it was found right; none where there is no file.
    pub fn as_written(named: Option<&Path>) -> Result<toml::Table, Fault> {
        Self::read(named)?;
        let path = named.map_or_else(default_path, Path::to_owned);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Fault::io(format!("`{}`", path.display()), &error)),
        };
        text.parse().map_err(|error| Fault::new(Kind::Config, format!("`{}`: {error}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..start].matches('\n').count() + 1;
            let source = text.lines().nth(line - 1).unwrap_or_default().trim();
            format!(
                "line {line} (`{}`): {}",
                printable(source, 80),
                printable(error.message(), MESSAGE_CHARS_MAX)
            )
        })?;
        config.check().map_err(|(table, why)| {
            let is_it = |line: &&str| line.trim_start().starts_with('[') && line.contains(&table);
            let line = text.lines().position(|line| is_it(&line)).unwrap_or_default() + 1;
            format!("line {line} (`{}`): {why}", printable(&table, 80))
        })?;
        Ok(config)
    }

    /// What the shape of the file cannot say. An error names the table it is about.
    fn check(&self) -> Result<(), (String, String)> {
        let mut addresses = BTreeMap::new();
        for (name, source) in &self.sources {
            let wrong = |why: String| Err((format!("source.{name}"), why));
            if !is_name(name) {
                return wrong(NAME_RULE.to_owned());
            }
            match Address::written(&source.address) {
                Ok(Some(address)) => {
                    if let Some(other) = addresses.insert(address.key(), name) {
                        return wrong(format!(
                            "`[source.{other}]` has this address too; one address is one source"
                        ));
                    }
                }
                Ok(None) => {
                    return wrong(format!(
                        "address: `{}` is a name; write a path as /…, ./… or ~/…",
                        printable(&source.address, 200)
                    ));
                }
                Err(fault) => return wrong(format!("address: {fault}")),
            }
            if let Some(Err(why)) = source.remote_agent.as_ref().map(|agent| agent.parse::<RemoteAgent>()) {
                return wrong(format!("remote_agent: to be {why}"));
            }
        }
        let mut hooks = Moment::ALL.into_iter().filter_map(|moment| self.hooks.of(moment));
        if hooks.any(|words| words.first().is_none_or(String::is_empty)) {
            return Err((
                "hooks".to_owned(),
                "a hook is a program and its arguments, such as [\"/usr/local/bin/tell\", \"me\"]".to_owned(),
            ));
        }
        if let Some(Err(why)) = self.hooks.after_restore_url.as_deref().map(crate::ping::check) {
            return Err(("hooks".to_owned(), format!("after_restore_url: {why}")));
        }
        match &self.ping {
            Some(ping) => crate::ping::check(&ping.url).map_err(|why| ("ping".to_owned(), why)),
            None => Ok(()),
        }
    }

    /// What holds for a source: its own settings, and where it has none, those at the top. `None`: a source that has no table.
    pub fn about(&self, name: Option<&str>) -> Option<&Source> {
        self.sources.get(name?)
    }

    /// The names of the tables whose source is not among `sources`, those of the store.
    pub fn never_pulled(&self, sources: &[SourceDir]) -> Vec<&str> {
        let pulled: Vec<&str> = sources.iter().filter_map(|source| Some(self.table_of(source)?.0)).collect();
        self.sources.keys().map(String::as_str).filter(|name| !pulled.contains(name)).collect()
    }

    /// The table of a source in the store, with the name it has there: the one of its name, else the one of its address.
    pub fn table_of(&self, source: &SourceDir) -> Option<(&str, &Source)> {
        let by_name = source.about.name.as_ref().and_then(|name| self.sources.get_key_value(name));
        let own = Address::from_key(&source.about.key);
        let is_own =
            |at: Address| at.key() == source.about.key || own.as_ref().is_some_and(|own| is_same(own, &at));
        let is_at = |table: &&Source| Address::written(&table.address).ok().flatten().is_some_and(is_own);
        let by_address = || self.sources.iter().find(|(_, table)| is_at(table));
        by_name.or_else(by_address).map(|(name, table)| (name.as_str(), table))
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

/// Where the logs of scheduled jobs are.
pub fn job_logs() -> PathBuf {
    xdg("XDG_STATE_HOME", ".local/state").join("pullback/log")
}

/// Where the stores that were used are remembered.
pub fn known_stores() -> PathBuf {
    xdg("XDG_STATE_HOME", ".local/state").join("pullback/stores")
}

/// What `variable` names, if that is an absolute path, or a folder below the home.
pub(crate) fn xdg(variable: &str, below_home: &str) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    set.unwrap_or_else(|| std::env::home_dir().unwrap_or_else(|| PathBuf::from("/")).join(below_home))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = match Config::parse(text) {
            Ok(config) => format!("{config:?}"),
            Err(why) => why,
        };
        assert!(found.contains(expected), "{text}\n{found}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        check("jobs = 0", "line 1 (`jobs = 0`)");
        check("max_age = \"soon\"", "line 1 (`max_age = \"soon\"`): `soon` is no length of time");
        check("max_age = \"-1h\"", "line 1");
        check("max_age = \"26h\"", "Some(Span(93600s))");
        check("max_age = \"7d\"", "Some(Span(604800s))");
        check("max_age = 90", "Some(Span(90s))");
        check(
            "[source.gym]\naddress = \"pi:x\"\nremote_agent = \"a;b\"",
            "line 1 (`source.gym`): remote_agent: to be a name",
        );
        check("\"\\u001b[2J\" = 1", "unknown field `\\u{1b}[2J`");
        check("[ping]\nurl = \"https://me:word@hc.example/key#1\"", "`https://hc.example/…` is no URL");
        check("keep-last = 3", "line 1 (`keep-last = 3`): unknown field");
        check("keep = { last = 3, weeks = 1 }", "unknown field `weeks`");
        check("\n[source.gym]\nverify = \"full\"", "line 2 (`[source.gym]`): missing field `address`");
        check("\n[source.gym]\naddress = \"gym\"", "line 2 (`source.gym`): address: `gym` is a name");
        check("[source.gym]\naddress = \"raspberry-pi/gym\"", "raspberry-pi/gym");
        check(
            "[source.gym]\naddress = \"raspberry-pi/gym\"\n[source.club]\naddress = \"raspberry-pi/gym\"",
            "`[source.club]` has this address too",
        );
        check("[source.gym]\naddress = \"raspberry-pi/\"", "`raspberry-pi/` is a name");
        check("[source.gym]\naddress = \"pi/a/b.db\"", "`pi/a/b.db` is a name");
        check("[source.\"a/b\"]\naddress = \"/a\"", "line 1 (`source.a/b`): a name has letters");
        check("[source.gym]\naddress = \"pi:0/gym\"", "that is no port");
        check("[hooks]\nafter_pull = []", "line 1 (`hooks`): a hook is a program");
        check("[hooks]\nbefore_pull = [\"\"]", "line 1 (`hooks`): a hook is a program");
        check("[hooks]\ntimeout = \"5s\"", "timeout: Some(Span(5s))");
        check("[hooks]\nafter_restore = [\"\"]", "line 1 (`hooks`): a hook is a program");
        check("[hooks]\nafter_restore_wait = \"2m\"", "after_restore_wait: Some(Span(120s))");
        check(
            "[hooks]\nafter_restore_url = \"gym:8000/health\"",
            "line 1 (`hooks`): after_restore_url: `gym:8000/…` is no URL",
        );
        check("[ping]\nurl = \"hc.example/x\"", "line 1 (`ping`): `hc.example/…` is no URL");
        check("[ping]\nurl = \"https://hc.example/x\"", "url: \"https://hc.example/x\"");
        check("[source.gym]\naddress = \"/a\"\nexpect = { members = 1 }", "\"members\": 1");
    }

    #[test]
    fn an_application_is_asked_for_half_a_minute_unless_it_says_otherwise() {
        let health = |text: &str| {
            let config = Config::parse(&format!("[hooks]\n{text}")).expect("a right configuration");
            config.hooks.health().map(|(url, wait)| (url.to_owned(), wait.as_secs()))
        };
        assert_eq!(health("after_restore_wait = 5"), None);
        let url = "after_restore_url = \"http://gym:8000/health\"\n";
        assert_eq!(health(url), Some(("http://gym:8000/health".to_owned(), 30)));
        assert_eq!(health(&format!("{url}after_restore_wait = \"2m\"")).map(|health| health.1), Some(120));
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused_with_its_line(
            lines in prop::collection::vec(
                prop_oneof![
                    "(store|verify|keep|max_age|jobs|address) = (\"[a-zé\\\\/]{0,8}\"?|-?[0-9]{1,20}|[0-9.e]{1,9}|true|\\[\\]|)",
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
