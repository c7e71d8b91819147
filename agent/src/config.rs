//! The agent's configuration: a TOML file, checked whole before anything starts.

use crate::room::RoomLimits;
use crate::settings::Settings;
use crate::source::HoldLimits;
use crate::users;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::Compression;
use pullback_shared::identity::{NAME_CHARS_MAX, name_of};
use pullback_shared::pairing::ADDRESSES_MAX;
use pullback_shared::text::printable;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// The default port.
pub const PORT: u16 = 7420;

/// Where the configurations of services lie, each called as its user.
pub const SERVICES: &str = "/etc/pullback";

/// Bytes of the name in an address.
const HOST_LEN_MAX: usize = 253;

/// Characters of what is wrong with the file.
const MESSAGE_CHARS_MAX: usize = 500;

/// The highest level of each compression; the lowest is 1. zstd has higher ones, which take longer still and make frames of
/// 1 MiB no smaller.
const ZSTD_LEVEL_MAX: u32 = 19;
const GZIP_LEVEL_MAX: u32 = 9;

/// Pulls at once: without a word about them, and at most.
const PULLS_DEFAULT: usize = 8;
const PULLS_MAX: usize = 1000;

/// The longest time that can be waited or held.
const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Mutual TLS, for paired pullers alone; without it, plaintext on loopback.
    pub tls: bool,
    /// What this machine is called in pairing codes; no file and no terminal trips over it.
    pub name: String,
    /// `HOST:PORT`, each of them, for pairing codes; none: to be worked out.
    pub addresses: Vec<String>,
    /// Answer gRPC reflection.
    pub reflection: bool,
    /// Pulls served at once; further ones are refused as `busy`.
    pub pulls_max: usize,
    /// How snapshots are taken.
    pub settings: Settings,
    /// Name and path of each database.
    pub databases: BTreeMap<String, PathBuf>,
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<Spanned<SocketAddr>>,
    state_dir: Option<Spanned<PathBuf>>,
    #[serde(default)]
    tls: Tls,
    name: Option<Spanned<String>>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    #[serde(default)]
    mirror: MirrorWish,
    reserve: Option<Bytes>,
    max_state: Option<Bytes>,
    lock_wait: Option<Seconds>,
    max_hold: Option<Seconds>,
    #[serde(default)]
    compression: CompressionWish,
    compression_level: Option<Spanned<i64>>,
    #[serde(default)]
    reflection: bool,
    #[serde(default)]
    allow_restore: bool,
    pulls_max: Option<Spanned<usize>>,
    #[serde(default)]
    database: BTreeMap<Spanned<String>, Database>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Database {
    path: Spanned<PathBuf>,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Tls {
    #[default]
    On,
    Off,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum MirrorWish {
    #[default]
    Keep,
    Discard,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum CompressionWish {
    #[default]
    Zstd,
    Gzip,
    None,
}

fn default_listen(tls: bool) -> SocketAddr {
    SocketAddr::from((if tls { [0, 0, 0, 0] } else { [127, 0, 0, 1] }, PORT))
}

/// A number of bytes: an integer, or text such as "64 MiB" or "1GiB".
#[derive(Deserialize)]
#[serde(try_from = "Number")]
struct Bytes(u64);

/// A time: an integer or fraction of seconds, or text such as "10s", "500ms", "2m".
#[derive(Deserialize)]
#[serde(try_from = "Number")]
struct Seconds(Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Integer(u64),
    Fraction(f64),
    Text(String),
}

/// Splits "64 MiB" into 64 and "mib".
fn split(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    Some((text[..at].parse().ok()?, text[at..].trim().to_ascii_lowercase()))
}

impl TryFrom<Number> for Bytes {
    type Error = String;

    fn try_from(number: Number) -> Result<Self, String> {
        let wrong = "a number of bytes, or text such as \"512 MiB\" or \"1 GiB\", was expected";
        let text = match number {
            Number::Integer(bytes) => return Ok(Self(bytes)),
            Number::Fraction(_) => return Err(wrong.to_owned()),
            Number::Text(text) => text,
        };
        let (value, unit) = split(&text).ok_or(wrong)?;
        let factor = match unit.as_str() {
            "" | "b" => 1u64,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => return Err(wrong.to_owned()),
        };
        Ok(Self((value * factor as f64) as u64))
    }
}

impl TryFrom<Number> for Seconds {
    type Error = String;

    fn try_from(number: Number) -> Result<Self, String> {
        let wrong = "a number of seconds, or text such as \"10s\", \"500ms\" or \"2m\", was expected";
        let seconds = match number {
            Number::Integer(seconds) => seconds as f64,
            Number::Fraction(seconds) => seconds,
            Number::Text(text) => {
                let (value, unit) = split(&text).ok_or(wrong)?;
                match unit.as_str() {
                    "ms" => value / 1000.0,
                    "" | "s" => value,
                    "m" | "min" => value * 60.0,
                    "h" => value * 3600.0,
                    _ => return Err(wrong.to_owned()),
                }
            }
        };
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) if time <= TIME_MAX => Ok(Self(time)),
            Ok(_) => Err("no more than 7 days can be waited or held".to_owned()),
            Err(_) => Err(wrong.to_owned()),
        }
    }
}

/// The time that `text` means, such as "10m".
pub fn time(text: &str) -> Result<Duration, String> {
    Seconds::try_from(Number::Text(text.to_owned())).map(|seconds| seconds.0)
}

impl File {
    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text)
            .map_err(|error| at(text, error.span().map_or(0, |span| span.start), error.message()))
    }
}

impl Config {
    /// Reads the configuration in the file at `path`. An error names file, line and key.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        Self::read_by(path, Self::parse)
    }

    /// The same for an agent that listens nowhere: what is said of that matters not, and does not have to be said.
    pub fn read_for_stdio(path: &Path) -> Result<Self, Fault> {
        Self::read_by(path, |text| Self::checked(text, File::parse(text)?))
    }

    /// What holds without a file, for an agent that listens nowhere.
    pub fn default_for_stdio() -> Self {
        Self::checked("", File::parse("").expect("BUG: no line is wrong")).expect("BUG: a wrong default")
    }

    fn read_by(path: &Path, parse: impl Fn(&str) -> Result<Self, String>) -> Result<Self, Fault> {
        let wrong =
            |why: String| Fault::new(Kind::Config, format!("the configuration `{}`: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| {
            let hint = match (error.kind(), services().as_slice()) {
                (std::io::ErrorKind::NotFound, [user, ..]) => {
                    format!("there is one for the user `{user}`: `sudo -u {user} pullback-agent …` reads it")
                }
                _ => "`pullback-agent init` makes one; `--config FILE` names another".to_owned(),
            };
            wrong(error.to_string()).hint(hint)
        })?;
        parse(&text).map_err(wrong).map_err(|fault| {
            if fault.hint.is_empty() {
                fault.hint("`pullback-agent config example` lists every key with its meaning")
            } else {
                fault
            }
        })
    }

    /// Reads `text` as if it were a file. What is wrong is said with its line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file = File::parse(text)?;
        let is_open = |listen: &&Spanned<SocketAddr>| !listen.get_ref().ip().is_loopback();
        if let Some(open) = file.listen.as_ref().filter(is_open).filter(|_| file.tls == Tls::Off) {
            let why = format!("without TLS the agent listens on loopback only, such as \"127.0.0.1:{PORT}\"");
            return Err(at(text, open.span().start, &why));
        }
        Self::checked(text, file)
    }

    fn checked(text: &str, file: File) -> Result<Self, String> {
        let tls = file.tls == Tls::On;
        let listen = file.listen.as_ref().map_or_else(|| default_listen(tls), |listen| *listen.get_ref());
        if let Some(name) = file.name.as_ref().filter(|name| !is_name(name.get_ref())) {
            let why = format!("`name` has up to {NAME_CHARS_MAX} small letters, digits, `-`, `_`, `.`");
            return Err(at(text, name.span().start, &why));
        }
        for (index, address) in file.addresses.iter().enumerate() {
            if index >= ADDRESSES_MAX || !is_address(address.get_ref()) {
                let why = format!(
                    "`addresses` are up to {ADDRESSES_MAX} of the form \"HOST:PORT\" or \"[IPv6]:PORT\""
                );
                return Err(at(text, address.span().start, &why));
            }
        }
        if let Some(dir) = file.state_dir.as_ref().filter(|dir| !dir.get_ref().is_absolute()) {
            return Err(at(text, dir.span().start, "`state_dir` has to begin with `/`"));
        }
        for (name, Database { path }) in &file.database {
            check_name(name.get_ref()).map_err(|why| at(text, name.span().start, &why))?;
            if !path.get_ref().is_absolute() {
                let why = format!("`[database.{}]`: `path` has to begin with `/`", name.get_ref());
                return Err(at(text, path.span().start, &why));
            }
        }
        let pulls_max = file.pulls_max.as_ref().map_or(PULLS_DEFAULT, |pulls| *pulls.get_ref());
        if let Some(pulls) = file.pulls_max.filter(|_| !(1..=PULLS_MAX).contains(&pulls_max)) {
            return Err(at(text, pulls.span().start, &format!("`pulls_max` is 1 to {PULLS_MAX}")));
        }
        let level = file.compression_level.as_ref();
        let compression = compression(file.compression, level.map(|level| *level.get_ref()))
            .map_err(|why| at(text, level.map_or(0, |level| level.span().start), &why))?;
        let defaults = HoldLimits::default();
        let settings = Settings {
            state_dir: Some(file.state_dir.map_or_else(default_state_dir, Spanned::into_inner)),
            mirror: file.mirror == MirrorWish::Keep,
            room: RoomLimits { reserve: file.reserve.map(|b| b.0), max_state: file.max_state.map(|b| b.0) },
            hold: HoldLimits {
                lock_wait: file.lock_wait.map_or(defaults.lock_wait, |s| s.0),
                max_hold: file.max_hold.map(|s| s.0),
            },
            compression,
            allow_restore: file.allow_restore,
        };
        let databases = file.database.into_iter();
        let databases =
            databases.map(|(name, database)| (name.into_inner(), database.path.into_inner())).collect();
        let name = file.name.map_or_else(|| name_of(&host(), "agent"), Spanned::into_inner);
        let addresses = file.addresses.into_iter().map(Spanned::into_inner).collect();
        Ok(Self { listen, tls, name, addresses, reflection: file.reflection, pulls_max, settings, databases })
    }
}

/// The compression that is meant. Without a level, the fastest: it gains most of what there is to gain.
fn compression(wish: CompressionWish, level: Option<i64>) -> Result<Compression, String> {
    let up_to = |max: u32| match level.map_or(Ok(1), u32::try_from) {
        Ok(level) if (1..=max).contains(&level) => Ok(level),
        _ => Err(format!("`compression_level` is 1 to {max} with this `compression`")),
    };
    match wish {
        CompressionWish::Zstd => up_to(ZSTD_LEVEL_MAX).map(|level| Compression::Zstd(level.cast_signed())),
        CompressionWish::Gzip => up_to(GZIP_LEVEL_MAX).map(Compression::Gzip),
        CompressionWish::None if level.is_some() => {
            Err("`compression_level` means nothing with `compression = \"none\"`".to_owned())
        }
        CompressionWish::None => Ok(Compression::None),
    }
}

/// What this machine calls itself, without its domain.
pub fn host() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name_of(name, "") == name
}

/// Whether `address` is `HOST:PORT`, as a puller would connect to it.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(literal) => literal.parse::<Ipv6Addr>().is_ok(),
        None => {
            (1..=HOST_LEN_MAX).contains(&host.len())
                && !host.starts_with('-')
                && host.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
        }
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The users that have a service here, as far as this one may see.
fn services() -> Vec<String> {
    let files = std::fs::read_dir(SERVICES).into_iter().flatten().flatten();
    let mut users: Vec<String> = files
        .filter_map(|file| file.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
        .filter(|user| users::called(user).is_some())
        .collect();
    users.sort();
    users
}

/// What is wrong with `text` at byte `start`, with the number and the words of its line.
fn at(text: &str, start: usize, why: &str) -> String {
    let line = text[..start.min(text.len())].matches('\n').count() + 1;
    let words = text.lines().nth(line - 1).unwrap_or_default().trim();
    format!("line {line} (`{}`): {}", printable(words, 80), printable(why, MESSAGE_CHARS_MAX))
}

/// Database names are typed by people after a slash and shown in tables: letters, digits, `-`, `_` and `.`.
fn check_name(name: &str) -> Result<(), String> {
    let fits = name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    match fits && !name.is_empty() && name.chars().count() <= 64 && !name.starts_with(['-', '.']) {
        true => Ok(()),
        false => Err(format!(
            "`[database.{}]`: a name has up to 64 letters, digits, `-`, `_`, `.`",
            printable(name, 64)
        )),
    }
}

/// `$XDG_STATE_HOME/pullback`, or `~/.local/state/pullback`.
pub fn default_state_dir() -> PathBuf {
    match std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(state) => state.join("pullback"),
        None => {
            std::env::home_dir().unwrap_or_else(|| PathBuf::from("/var/lib")).join(".local/state/pullback")
        }
    }
}

/// The configuration that holds where none is named: the user's own if it is there, else that of the user's service if
/// that is there, else the user's own to come.
pub fn default_config_path() -> PathBuf {
    let own = own_config_path();
    if own.symlink_metadata().is_ok() {
        return own;
    }
    let service =
        users::with_uid(users::me()).map(|me| Path::new(SERVICES).join(format!("{}.toml", me.name)));
    service.filter(|path| path.symlink_metadata().is_ok()).unwrap_or(own)
}

/// `$XDG_CONFIG_HOME/pullback/agent.toml`, or `~/.config/pullback/agent.toml`.
fn own_config_path() -> PathBuf {
    match std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(config) => config.join("pullback/agent.toml"),
        None => {
            std::env::home_dir().unwrap_or_else(|| PathBuf::from("/etc")).join(".config/pullback/agent.toml")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        match Config::parse(text) {
            Ok(config) => assert_eq!(format!("{:?}", config.settings.room), expected),
            Err(why) => assert!(why.contains(expected), "{why}"),
        }
    }

    #[test]
    fn a_wrong_key_is_named_with_its_line() {
        check(
            "tls = \"off\"\n\nlissten = \"127.0.0.1:0\"\n",
            "line 3 (`lissten = \"127.0.0.1:0\"`): unknown field `lissten`",
        );
        check("tls = \"off\"\n[database.gym]\npath = 7\n", "line 3");
        check("\"\\u001b[2J\" = 1", "unknown field `\\u{1b}[2J`");
        check("tls = \"off\"\nreserve = \"lots\"\n", "line 2 (`reserve = \"lots\"`): a number of bytes");
        check("tls = \"off\"\n[database.gym]\npath = \"gym.db\"\n", "begin with `/`");
        check("tls = \"off\"\nstate_dir = \"~/state\"\n", "begin with `/`");
        check("tls = \"off\"\n[database.\"../x\"]\npath = \"/x\"\n", "a name has");
    }

    #[test]
    fn without_tls_only_loopback_is_listened_on() {
        check("listen = \"0.0.0.0:1\"\ntls = \"off\"", "loopback only");
        check("listen = \"[::]:1\"\ntls = \"off\"", "line 1");
        let listen = |text: &str| Config::parse(text).map(|config| (config.tls, config.listen.to_string()));
        assert_eq!(listen(""), Ok((true, "0.0.0.0:7420".into())));
        assert_eq!(listen("tls = \"on\"\nlisten = \"10.0.0.1:1\""), Ok((true, "10.0.0.1:1".into())));
        assert_eq!(listen("tls = \"off\""), Ok((false, "127.0.0.1:7420".into())));
    }

    #[test]
    fn a_machine_has_a_name_and_addresses_that_can_be_connected_to() {
        let config = Config::parse("").unwrap();
        assert_eq!((config.name, config.addresses), (name_of(&host(), "agent"), vec![]));
        let config = Config::parse("name = \"pi\"\naddresses = [\"pi.lan:7420\", \"[fe80::1]:1\"]").unwrap();
        assert_eq!((config.name.as_str(), config.addresses.len()), ("pi", 2));
        for name in ["", "Pi", "../pi", "a b", "\\u001b", &"p".repeat(65)] {
            check(&format!("name = \"{name}\""), "line 1");
        }
        for address in ["pi", "pi:", "pi:0", "pi:65536", ":1", "-x:1", "a b:1", "[::1:1", "::1:1", "[pi]:1"] {
            check(&format!("\naddresses = [\"pi:1\", \"{address}\"]"), "line 2");
        }
        check(&format!("addresses = [{}]", "\"pi:1\",".repeat(ADDRESSES_MAX + 1)), "up to 16");
    }

    #[track_caller]
    fn check_compression(lines: &str, expected: Result<Compression, &str>) {
        match (Config::parse(&format!("tls = \"off\"\n{lines}")), expected) {
            (Ok(config), Ok(expected)) => assert_eq!(config.settings.compression, expected),
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (found, _) => panic!("{lines}: {found:?}"),
        }
    }

    #[test]
    fn a_compression_has_its_own_levels_and_is_fast_without() {
        check_compression("", Ok(Compression::Zstd(1)));
        check_compression("compression = \"gzip\"", Ok(Compression::Gzip(1)));
        check_compression("compression = \"none\"", Ok(Compression::None));
        check_compression("compression_level = 19", Ok(Compression::Zstd(19)));
        check_compression("compression = \"gzip\"\ncompression_level = 9", Ok(Compression::Gzip(9)));
        for level in ["0", "20", "-1", "4294967297"] {
            check_compression(&format!("compression_level = {level}"), Err("1 to 19"));
        }
        check_compression("compression = \"gzip\"\ncompression_level = 10", Err("1 to 9"));
        check_compression(
            "compression_level = 1\ncompression = \"none\"",
            Err("line 2 (`compression_level = 1`): `compression_level` means nothing"),
        );
    }

    #[test]
    fn sizes_and_times_are_numbers_or_text() {
        check(
            "tls = \"off\"\nreserve = 5\nmax_state = \"1.5 GiB\"",
            "RoomLimits { reserve: Some(5), max_state: Some(1610612736) }",
        );
        let config = Config::parse("tls = \"off\"\nlock_wait = \"500ms\"\nmax_hold = 2").unwrap();
        assert_eq!(config.settings.hold.lock_wait, Duration::from_millis(500));
        assert_eq!(config.settings.hold.max_hold, Some(Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused(
            lines in prop::collection::vec(
                prop_oneof![
                    "(listen|name|addresses|state_dir|mirror|compression|reflection|allow_restore|path) = (\"[a-zé\\\\/0-9.:]{0,12}\"?|-?[0-9]{1,20}|true|)",
                    "(reserve|max_state|lock_wait|max_hold|pulls_max|compression_level) = (\"[0-9.]{0,25} ?[a-zKMG]{0,3}\"|-?[0-9.e]{1,20}|nan|inf)",
                    "\\[database\\.(gym|\"\\PC{0,70}\")\\]",
                    "\\PC{0,20}",
                ],
                0..6,
            ),
        ) {
            let text = format!("tls = \"off\"\n{}", lines.join("\n"));
            match Config::parse(&text) {
                // What a pull adds to the clock does not go beyond what a clock can tell.
                Ok(config) => {
                    let hold = config.settings.hold;
                    prop_assert!(hold.lock_wait <= TIME_MAX && hold.max_hold.is_none_or(|time| time <= TIME_MAX));
                    prop_assert!((1..=PULLS_MAX).contains(&config.pulls_max));
                    prop_assert!(config.listen.ip().is_loopback());
                    prop_assert!(config.databases.values().all(|path| path.is_absolute()));
                }
                Err(why) => prop_assert!(why.starts_with("line "), "{why}"),
            }
        }
    }
}
