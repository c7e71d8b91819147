//! How people write a source, and what is meant by it.

use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::folded;
use pullback_shared::text::{other_spellings, printable};
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
    /// A database behind an agent that this machine was paired with.
    Agent {
        /// What the agent is called here.
        agent: String,
        /// The database's name in the agent's configuration; empty: all of them.
        database: String,
    },
    /// A database on a machine that ssh reaches.
    Ssh {
        /// The user there, if one was named.
        user: Option<String>,
        /// A name or address of the machine, or a name of the user's ssh configuration.
        host: String,
        /// The port, if one was named.
        port: Option<u16>,
        /// The path there; it begins with `/`, or with `~/` for the home directory of the user there.
        path: String,
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
        if let Some(place) = typed.strip_prefix("ssh://") {
            return Self::ssh_url(typed, place).map(Some);
        }
        if typed.starts_with(['/', '~']) || typed.starts_with("./") || typed.starts_with("../") {
            return Ok(Some(Self::Local(home(typed))));
        }
        let Some((host, rest)) = split_host(typed) else { return Ok(None) };
        if let Some((port, database)) = rest.split_once('/')
            && !host.contains('@')
            && !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
        {
            return Self::service(host, port, database).map(Some);
        }
        let far = Self::ssh(typed, host, None, rest)?;
        match Path::new(typed).symlink_metadata() {
            Ok(_) => Err(Fault::new(
                Kind::Usage,
                format!("`{}` is a file here, and a place that ssh could reach", printable(typed, 200)),
            )
            .hint(format!("write `./{}` for the file, or `{far}` for the place", printable(typed, 200)))),
            Err(_) => Ok(Some(far)),
        }
    }

    /// `AGENT/NAME`: a database behind an agent that is, or may be, paired. [`Self::parse`] leaves it open, since the same text
    /// may be a path, or a folder in the store.
    pub fn agent(text: &str) -> Option<Self> {
        let (agent, database) = text.split_once('/')?;
        let agent = folded(agent);
        let is_one = is_name(&agent) && is_database_name(database);
        is_one.then(|| Self::Agent { agent, database: database.to_owned() })
    }

    /// `AGENT` or `AGENT/`: all databases behind an agent.
    pub fn whole_agent(text: &str) -> Option<Self> {
        let agent = folded(text.strip_suffix('/').unwrap_or(text));
        is_name(&agent).then(|| Self::Agent { agent, database: String::new() })
    }

    /// Whether it is an agent with all of its databases.
    pub fn is_whole_agent(&self) -> bool {
        matches!(self, Self::Agent { database, .. } if database.is_empty())
    }

    /// Reads what stands in the configuration, where no path is meant that is not absolute, and no name of a source.
    pub fn written(text: &str) -> Result<Option<Self>, Fault> {
        Ok(Self::parse(text)?.or_else(|| Self::agent(text)))
    }

    /// `HOST:PORT` of an agent.
    pub fn door(&self) -> Option<String> {
        match self {
            Self::Service { host, port, .. } => Some(format!("{}:{port}", bracketed(host))),
            Self::Local(_) | Self::Agent { .. } | Self::Ssh { .. } => None,
        }
    }

    /// `ssh://[USER@]HOST[:PORT]/PATH`. The path is taken as it stands: `%20` is three characters.
    fn ssh_url(typed: &str, place: &str) -> Result<Self, Fault> {
        let slash = place.find('/').unwrap_or(place.len());
        let (machine, path) = place.split_at(slash);
        let (host, port) = match split_host(machine) {
            Some((host, port)) => {
                let number = port.parse().ok().filter(|number| *number > 0);
                let number = number.ok_or_else(|| wrong_ssh(typed, "that is no port"))?;
                (host, Some(number))
            }
            None => (machine, None),
        };
        let path = match path.strip_prefix("/~/") {
            Some(rest) => format!("~/{rest}"),
            None => path.to_owned(),
        };
        Self::ssh(typed, host, port, &path)
    }

    fn ssh(typed: &str, place: &str, port: Option<u16>, path: &str) -> Result<Self, Fault> {
        let (user, host) = match place.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, place),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_home = path == "~" || path == "~/" || path == "/~";
        match () {
            () if bare.is_empty() => return Err(wrong_ssh(typed, "the host is missing")),
            () if bare.starts_with('-') => return Err(wrong_ssh(typed, "a host does not begin with `-`")),
            () if bare.chars().any(is_in_no_ssh_word) => return Err(wrong_ssh(typed, "that is no host")),
            () if user.is_some_and(|user| {
                user.is_empty()
                    || user.starts_with('-')
                    || user.contains(':')
                    || user.chars().any(is_in_no_ssh_word)
            }) =>
            {
                return Err(wrong_ssh(typed, "that is no user"));
            }
            () if path.is_empty() || is_home || path.ends_with('/') => {
                return Err(wrong_ssh(typed, "the path of the database is missing"));
            }
            () if path.starts_with('~') && !path.starts_with("~/") => {
                return Err(wrong_ssh(
                    typed,
                    "the home of another user has to be written as its absolute path",
                ));
            }
            () => {}
        }
        let path = match path {
            path if path.starts_with('/') => format!("/{}", path.trim_start_matches('/')),
            path if path.starts_with("~/") => path.to_owned(),
            path => format!("~/{}", path.strip_prefix("./").unwrap_or(path)),
        };
        Ok(Self::Ssh { user: user.map(str::to_owned), host: bare.to_owned(), port, path })
    }

    /// Whether `other` is the same database behind another port of the same machine, such as the near end of a tunnel.
    pub fn differs_by_port(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Service { host, database, .. },
                Self::Service { host: other_host, database: other_database, .. },
            ) => host == other_host && database == other_database,
            _ => false,
        }
    }

    /// The same place with `path`, the absolute one that its agent tells. What is no such path is not taken.
    pub fn at(self, path: &str) -> Self {
        match self {
            Self::Ssh { user, host, port, .. } if path.starts_with('/') => {
                Self::Ssh { user, host, port, path: path.to_owned() }
            }
            address => address,
        }
    }

    /// As it can be typed again, whatever characters are in it.
    pub fn spelling(&self) -> String {
        match self {
            Self::Local(path) => absolute(path).to_string_lossy().into_owned(),
            Self::Service { host, port, database } => format!("{}:{port}/{database}", bracketed(host)),
            Self::Agent { agent, database } => format!("{agent}/{database}"),
            Self::Ssh { user, host, port, path } => {
                let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                // `ssh://HOST/~/x` is in the home directory; the directory `/~` needs another spelling.
                let slash = if path.starts_with("~/") || path.starts_with("/~/") { "/" } else { "" };
                format!("ssh://{user}{}{port}{slash}{path}", bracketed(host))
            }
        }
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
            Self::Service { .. } | Self::Agent { .. } => format!("agent:{}", self.spelling()),
            Self::Ssh { host, port, path, .. } => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("ssh:{}{port}:{path}", bracketed(host))
            }
        }
    }

    /// The address that [`Self::key`] was made of.
    pub fn from_key(key: &str) -> Option<Self> {
        match key.split_once(':')? {
            ("local", path) => Some(Self::Local(path.into())),
            ("agent", place) => Self::written(place).ok().flatten(),
            ("ssh", place) => {
                let is_path = |(at, _): &(usize, &str)| {
                    place[at + 1..].starts_with('/') || place[at + 1..].starts_with("~/")
                };
                let (machine, path) = place.split_at(place.match_indices(':').find(is_path)?.0);
                let slash = if path.starts_with(":~/") || path.starts_with(":/~/") { "/" } else { "" };
                Self::parse(&format!("ssh://{machine}{slash}{}", &path[1..])).ok().flatten()
            }
            _ => None,
        }
    }

    /// The two names its folder is made of: HOST and STEM.
    pub fn folder(&self) -> (String, String) {
        match self {
            Self::Local(path) => {
                let stem = absolute(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
                ("local".to_owned(), folder_name(&stem))
            }
            Self::Service { host, database, .. } | Self::Agent { agent: host, database } => {
                (folder_name(host), folder_name(database))
            }
            Self::Ssh { host, path, .. } => {
                let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (folder_name(host), folder_name(&stem))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { .. } => f.write_str(&self.spelling()),
            Self::Local(_) | Self::Agent { .. } | Self::Ssh { .. } => {
                f.write_str(&printable(&self.spelling(), 1024))
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
    let others = path.to_str().map(other_spellings).unwrap_or_default();
    if let Some(path) = others.iter().find_map(|path| Path::new(path).canonicalize().ok()) {
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

/// What no host or user has, and what a shell that the user's own ssh configuration starts (`ProxyCommand`) would obey.
fn is_in_no_ssh_word(c: char) -> bool {
    c.is_control() || c.is_whitespace() || "'\"`$\\;&<>|(){}[]*?!#~^=,/@".contains(c)
}

/// What stands before and after the colon that ends a host, which is before any slash. IPv6 addresses stand in brackets.
fn split_host(typed: &str) -> Option<(&str, &str)> {
    let before_slash = &typed[..typed.find('/').unwrap_or(typed.len())];
    let in_brackets = before_slash.find('[').filter(|at| *at == 0 || before_slash[..*at].ends_with('@'));
    let colon = match in_brackets.and_then(|_| before_slash.rfind(']')) {
        Some(bracket) => before_slash[bracket..].find(':')? + bracket,
        None => before_slash.find(':')?,
    };
    Some((&typed[..colon], &typed[colon + 1..]))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn wrong_ssh(typed: &str, why: &str) -> Fault {
    Fault::new(Kind::Usage, format!("`{}`: {why}", printable(typed, 200)))
        .hint("a database that ssh reaches is written HOST:PATH or ssh://[USER@]HOST[:PORT]/PATH; a file here may be written ./FILE")
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

/// Characters of the name of a database behind an agent, at most.
const DATABASE_CHARS_MAX: usize = 64;

/// Whether an agent may call a database `name`. What an agent tells is not believed to be a name before this was asked.
pub fn is_database_name(name: &str) -> bool {
    let fits = name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    let length = name.chars().take(DATABASE_CHARS_MAX + 1).count();
    fits && (1..=DATABASE_CHARS_MAX).contains(&length) && !name.starts_with(['-', '.'])
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
            Ok(Some(Address::Ssh { user, host, port, path })) => {
                format!("ssh {} {host} {} {path}", user.unwrap_or_default(), port.unwrap_or_default())
            }
            Ok(Some(Address::Agent { agent, database })) => format!("agent {agent} {database}"),
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
        check("[~]:1/gym", "usage: `[~]:1/gym`: that is no host");
        check("[[pi]]:1/gym", "usage: `[[pi]]:1/gym`: that is no host");
        check("gym", "name");
        check("raspberry-pi/gym", "name");
    }

    #[test]
    fn the_spellings_of_the_ssh_door_are_read() {
        check("pi:/home/pi/a.db", "ssh  pi 0 /home/pi/a.db");
        check("ssh://pi/home/pi/a.db", "ssh  pi 0 /home/pi/a.db");
        check("ssh://me@pi:2222/a b.db", "ssh me pi 2222 /a b.db");
        check("me@pi:a.db", "ssh me pi 0 ~/a.db");
        check("pi:~/a.db", "ssh  pi 0 ~/a.db");
        check("pi:./a/b.db", "ssh  pi 0 ~/a/b.db");
        check("ssh://pi/~/a.db", "ssh  pi 0 ~/a.db");
        check("pi:/~/a.db", "ssh  pi 0 /~/a.db");
        check("ssh://pi//~/a.db", "ssh  pi 0 /~/a.db");
        check("ssh://[fe80::1%eth0]:22/a.db", "ssh  fe80::1%eth0 22 /a.db");
        check("me@[::1]:a.db", "ssh me ::1 0 ~/a.db");
        check("pi:a:7/b.db", "ssh  pi 0 ~/a:7/b.db");
        check("me@pi:7420/gym", "ssh me pi 0 ~/7420/gym");
        check("pi:/a%20b$(touch x).db", "ssh  pi 0 /a%20b$(touch x).db");
    }

    #[test]
    fn what_ssh_could_take_for_something_else_is_refused() {
        for typed in
            ["-oProxyCommand=touch x:/a.db", "ssh://-oProxyCommand=x/a.db", "me@-x:/a.db", "ssh://me@-x/a"]
        {
            check(typed, &format!("usage: `{typed}`: a host does not begin with `-`"));
        }
        for typed in ["[-x]:/a", "ssh://[-oProxyCommand=x]:22/a"] {
            check(typed, &format!("usage: `{typed}`: a host does not begin with `-`"));
        }
        for typed in ["-l@pi:/a.db", "ssh://-oX@pi/a.db", "@pi:a"] {
            check(typed, &format!("usage: `{typed}`: that is no user"));
        }
        for host in ["a b", "a$(x)", "a`x`", "a;b", "a\nb", "a'b", "[a"] {
            check(&format!("{host}:/a.db"), "usage");
            check(&format!("ssh://{host}/a.db"), "usage");
        }
        for typed in [
            "pi:",
            "ssh://pi",
            "ssh://pi/",
            "pi:/a/",
            "pi:~",
            "pi:~/",
            "pi:~me/a.db",
            "ssh://pi:x/a",
            "ssh:///a",
        ] {
            check(typed, "usage");
        }
        check("ssh://pi:0/a.db", "usage: `ssh://pi:0/a.db`: that is no port");
    }

    #[test]
    fn a_database_behind_a_paired_agent_is_written_with_one_slash() {
        let agent = |text: &str| Address::agent(text).map(|address| (address.key(), address.folder()));
        let folder = ("raspberry-pi".to_owned(), "gym".to_owned());
        assert_eq!(agent("raspberry-pi/gym"), Some(("agent:raspberry-pi/gym".to_owned(), folder)));
        assert_eq!(agent("Raspberry-PI/gym"), agent("raspberry-pi/gym"));
        assert_eq!(agent("cafe\u{301}/gym"), agent("caf\u{e9}/gym"));
        assert_ne!(agent("pi/Gym"), agent("pi/gym"));
        assert!(agent("pi.local/회원.db").is_some());
        let others = [
            "",
            "/",
            "pi",
            "pi/",
            "/gym",
            "pi/a/b",
            "pi//gym",
            "pi/../gym",
            "pi/..",
            "pi/.gym",
            "pi/-rf",
            "../gym",
            ".pi/gym",
            "-pi/gym",
            "~/gym",
            "./gym",
            "pi:1/gym",
            "me@pi/gym",
            "pi/a b",
            "pi/a\nb",
            "pi/\0",
            "p\u{1b}i/gym",
        ];
        for other in others {
            assert_eq!(agent(other), None, "{other:?}");
        }
        assert!(agent(&format!("pi/{}", "a".repeat(64))).is_some());
        assert!(agent(&format!("pi/{}", "a".repeat(65))).is_none());
        assert!(agent(&format!("{}/gym", "a".repeat(65))).is_none());
        for whole in ["pi", "pi/"] {
            assert_eq!(Address::whole_agent(whole).map(|whole| whole.spelling()), Some("pi/".to_owned()));
        }
        for other in ["", "/", "pi//", "pi/gym", "./", "~/", "pi:1/"] {
            assert_eq!(Address::whole_agent(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_two_kinds_of_agents_are_told_apart_by_their_keys() {
        let from = |key: &str| Address::from_key(key).map(|address| format!("{address:?}"));
        let is = |key: &str, kind: &str| assert!(from(key).unwrap().starts_with(kind), "{key}");
        is("agent:raspberry-pi/gym", "Agent");
        is("agent:raspberry-pi:7420/gym", "Service");
        is("agent:[::1]:7420/gym", "Service");
        for none in ["agent:raspberry-pi", "agent:raspberry-pi/", "agent:pi/../gym", "agent:"] {
            assert_eq!(from(none), None, "{none}");
        }
    }

    #[test]
    fn the_user_is_no_part_of_a_source_and_the_port_is() {
        let key = |typed: &str| Address::parse(typed).unwrap().unwrap().key();
        assert_eq!(key("ssh://pi/x.db"), "ssh:pi:/x.db");
        assert_eq!(key("me@pi:/x.db"), "ssh:pi:/x.db");
        assert_eq!(key("ssh://pi:2222/x.db"), "ssh:pi:2222:/x.db");
        assert_eq!(key("[::1]:/x.db"), "ssh:[::1]:/x.db");
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
                "ssh://([a-z]@)?[a-z\\[\\]:~.-]{1,12}(:[0-9]{1,5})?/[/~]{0,3}\\PC{1,12}",
                "([a-z]@)?[a-z\\[\\]:~.-]{1,12}:[/~]{0,3}\\PC{1,12}",
                "[a-z.-]{1,12}/[\\PC--[/:]]{1,12}",
                "\\PC{0,30}",
            ],
        ) {
            let Ok(Some(address)) = Address::written(&typed) else { return Ok(()) };
            let (host, stem) = address.folder();
            for name in [host, stem] {
                prop_assert!(!name.is_empty() && name.len() <= 64 && !name.starts_with(['.', '-']), "{name:?}");
                prop_assert!(!name.contains(['/', '\0', '\n']), "{name:?}");
            }
            if !matches!(address, Address::Local(_)) {
                prop_assert_eq!(Address::written(&address.spelling()).unwrap(), Some(address.clone()));
                let again = Address::from_key(&address.key());
                prop_assert_eq!(again.map(|again| again.key()), Some(address.key()));
            }
        }
    }
}
