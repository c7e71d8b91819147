//! How people write a source, and what is meant by it.

use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a source is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A database file on this machine.
    Local(PathBuf),
    /// A database that an agent serves over TCP.
    Service {
        /// Name or address of the agent's machine.
        host: String,
        /// The agent's port.
        port: u16,
        /// The database's name in the agent's configuration.
        database: String,
    },
}

impl Address {
    /// Reads what was typed. `None`: not an address, but maybe a name that the store knows.
    pub fn parse(typed: &str) -> Result<Option<Self>, Fault> {
        if typed.is_empty() {
            return Err(
                Fault::new(Kind::Usage, "an empty source").hint("name a database file, or HOST:PORT/NAME")
            );
        }
        if typed.starts_with("ssh://") {
            return Err(no_ssh(typed));
        }
        if typed.starts_with(['/', '~']) || typed.starts_with("./") || typed.starts_with("../") {
            return Ok(Some(Self::Local(home(typed))));
        }
        let slash = typed.find('/').unwrap_or(typed.len());
        if let Some(colon) = typed[..slash].rfind(':') {
            let (host, rest) = (&typed[..colon], &typed[colon + 1..]);
            return match rest.split_once('/') {
                Some((port, database)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                    Self::service(host, port, database).map(Some)
                }
                _ if Path::new(typed).exists() => Ok(Some(Self::Local(typed.into()))),
                _ => Err(no_ssh(typed)),
            };
        }
        Ok(None)
    }

    fn service(host: &str, port: &str, database: &str) -> Result<Self, Fault> {
        let wrong = |why: &str| {
            Fault::new(
                Kind::Usage,
                format!("`{}:{port}/{}`: {why}", printable(host, 200), printable(database, 200)),
            )
            .hint("a database behind an agent is written HOST:PORT/NAME, such as 127.0.0.1:7420/gym")
        };
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("that is no port"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match () {
            () if bare.is_empty() => Err(wrong("the host is missing")),
            () if bare.starts_with('-') => Err(wrong("a host does not begin with `-`")),
            () if bare.chars().any(is_in_no_host) => Err(wrong("that is no host")),
            () if database.is_empty() => Err(wrong("the database's name is missing")),
            () => Ok(Self::Service { host: bare.to_owned(), port, database: database.to_owned() }),
        }
    }

    /// What makes this source this one, in `source.json`.
    pub fn key(&self) -> String {
        match self {
            Self::Local(path) => format!("local:{}", absolute(path).display()),
            Self::Service { .. } => format!("agent:{self}"),
        }
    }

    /// The two names its folder is made of: HOST and STEM.
    pub fn folder(&self) -> (String, String) {
        match self {
            Self::Local(path) => {
                let stem = absolute(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
                ("local".to_owned(), folder_name(&stem))
            }
            Self::Service { host, database, .. } => (folder_name(host), folder_name(database)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.write_str(&printable(&absolute(path).to_string_lossy(), 1024)),
            Self::Service { host, port, database } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                write!(f, "{host}:{port}/{database}")
            }
        }
    }
}

/// Brackets stand around an IPv6 address and `~` before a path: in a host they would be read as these the next time.
fn is_in_no_host(c: char) -> bool {
    c.is_control() || c.is_whitespace() || "[]~".contains(c)
}

/// The absolute path, with links resolved as far as the file is there.
pub fn absolute(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

fn home(typed: &str) -> PathBuf {
    match typed.strip_prefix("~/").and_then(|rest| Some(std::env::home_dir()?.join(rest))) {
        Some(path) => path,
        None => typed.into(),
    }
}

fn no_ssh(typed: &str) -> Fault {
    Fault::new(Kind::Usage, format!("`{}` is an ssh address, and this release has no ssh door yet", printable(typed, 200)))
        .hint("pull a local file (`./app.db`), or from an agent through a tunnel: `ssh -L 7420:127.0.0.1:7420 HOST`, then `puller pull 127.0.0.1:7420/NAME`")
}

/// `name` as one safe part of a path: letters, digits, `.`, `_` and `-`; never hidden, never empty, never long.
pub fn folder_name(name: &str) -> String {
    let mut folder = String::new();
    for c in name.chars() {
        let c = if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
        if folder.len() + c.len_utf8() > 64 {
            break;
        }
        folder.push(c);
    }
    let folder = folder.trim_start_matches(['.', '-']);
    if folder.is_empty() { "database".to_owned() } else { folder.to_owned() }
}

/// Whether a person may call a source `name`: it is a folder's name as it stands, and reads as no address.
pub fn is_name(name: &str) -> bool {
    folder_name(name) == name && matches!(Address::parse(name), Ok(None))
}

/// What a name is, for whoever wrote one that is none.
pub const NAME_RULE: &str =
    "a name has letters, digits, `.`, `_` and `-`, 64 bytes at most, and begins with one of the first two";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(typed: &str, expected: &str) {
        let found = match Address::parse(typed) {
            Ok(Some(Address::Local(path))) => format!("local {}", path.display()),
            Ok(Some(Address::Service { host, port, database })) => {
                format!("service {host} {port} {database}")
            }
            Ok(None) => "name".to_owned(),
            Err(fault) => format!("{}: {fault}", fault.kind.word()),
        };
        assert!(found.starts_with(expected), "`{typed}`: {found}");
    }

    #[test]
    fn what_is_typed_is_read_in_the_documented_order() {
        check("/a/b.db", "local /a/b.db");
        check("./-x.db", "local ./-x.db");
        check("./host:1/x", "local ./host:1/x");
        check("127.0.0.1:7420/gym", "service 127.0.0.1 7420 gym");
        check("[::1]:7420/gym", "service ::1 7420 gym");
        check("pi:99999/gym", "usage: `pi:99999/gym`: that is no port");
        check("pi:7420/", "usage");
        check("-oProxyCommand=x:1/gym", "usage");
        check("pi:/home/pi/a.db", "usage: `pi:/home/pi/a.db` is an ssh address");
        check("ssh://pi/a.db", "usage");
        check("[~]:1/gym", "usage: `[~]:1/gym`: that is no host");
        check("[[pi]]:1/gym", "usage: `[[pi]]:1/gym`: that is no host");
        check("gym", "name");
        check("raspberry-pi/gym", "name");
    }

    #[test]
    fn a_foreign_name_cannot_leave_its_folder() {
        for hostile in ["../../etc", "..", ".", "", "a/b", "\0", "-rf", ".ssh", "x\ny", &"가".repeat(200)] {
            let name = folder_name(hostile);
            assert!(
                !name.is_empty() && name.len() <= 64 && !name.starts_with(['.', '-']),
                "{hostile:?}: {name:?}"
            );
            assert!(!name.contains(['/', '\0', '\n']), "{hostile:?}: {name:?}");
        }
        assert_eq!(folder_name("회원.db"), "회원.db");
    }

    proptest! {
        #[test]
        fn a_source_is_found_again_by_its_key(
            typed in prop_oneof![
                "[a-z~./:\\[\\]0-9@ -]{1,30}",
                "[a-z\\[\\]:~.-]{1,12}:[0-9]{1,5}/\\PC{1,12}",
                "\\PC{0,30}",
            ],
        ) {
            let Ok(Some(address)) = Address::parse(&typed) else { return Ok(()) };
            let (host, stem) = address.folder();
            for name in [host, stem] {
                prop_assert!(!name.is_empty() && name.len() <= 64 && !name.starts_with(['.', '-']), "{name:?}");
                prop_assert!(!name.contains(['/', '\0', '\n']), "{name:?}");
            }
            if let Address::Service { .. } = &address {
                prop_assert_eq!(Address::parse(&address.to_string()).unwrap(), Some(address));
            }
        }
    }
}
