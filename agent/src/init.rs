//! `init`: a configuration to begin with, further databases in one that is there, and the identity. Typed again, or gone on
//! with after it was killed, it does what is still missing and nothing else.

use crate::config::{Config, PORT};
use crate::durable::replace;
use crate::identity::Identity;
use crate::source::{HoldLimits, Source};
use crate::users;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{Fingerprint, name_of};
use pullback_shared::text::shell_word;
use std::fs::{self, DirBuilder, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a locked database is waited for: that it is locked says that it is one.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// How a configuration begins.
const STARTER: &str = "\
# The configuration of pullback-agent. `pullback-agent config example` prints every key with its meaning, `pullback-agent
# config check` reads this file, `pullback-agent doctor` tries what it says.

# Every address of this machine, with mutual TLS: only machines get in that were paired by `pullback-agent pair`.
";

/// What stands above the first database.
const TABLES: &str = "
# One table for each database: its name for the puller, and its absolute path. `pullback-agent init --database PATH` adds one.
";

/// A database that is to be served: there, one, and of a known owner.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Absolute.
    pub path: PathBuf,
    /// The number of the user it belongs to.
    pub owner: u32,
}

impl Candidate {
    /// The database at `typed`. Whose it may be is for the caller to judge.
    pub fn at(typed: &Path) -> Result<Self, Fault> {
        if typed.to_str().is_none() {
            return Err(Fault::new(
                Kind::Usage,
                format!("`{}`: the configuration can only name what is UTF-8", typed.display()),
            )
            .hint(
                "give the file, and the folders it is in, names that are text; or name it through a link",
            ));
        }
        let source = Source::find(typed).map_err(|fault| match fault.kind {
            Kind::Refused => {
                let owner = typed.metadata().map_or_else(|_| "USER".to_owned(), |file| users::shown(file.uid()));
                let (owner, path) = (shell_word(&owner), shell_word(&typed.to_string_lossy()));
                fault.hint(format!(
                    "run this as its owner, `sudo -u {owner} pullback-agent init --database {path}`; or make a service \
                     of it, `sudo pullback-agent init --service --database {path}`"
                ))
            }
            _ => fault,
        })?;
        let limits = HoldLimits { lock_wait: LOCK_WAIT, max_hold: None };
        match source.hold(limits) {
            Ok(_) => {}
            // Somebody is at work on it: it is a database all the same.
            Err(fault) if matches!(fault.kind, Kind::Busy | Kind::HotJournal) => {}
            Err(fault) => return Err(fault),
        }
        let path = if typed.is_absolute() { typed } else { source.path() }.to_owned();
        match path.to_str() {
            Some(_) => Ok(Self { path, owner: source.metadata().uid() }),
            None => Err(Fault::new(
                Kind::Usage,
                format!("`{}`: the configuration can only name what is UTF-8", path.display()),
            )
            .hint("give the folders it is in names that are text")),
        }
    }
}

/// How a configuration is made where none is.
#[derive(Clone, Copy, Debug)]
pub struct Starter<'a> {
    /// Where state goes; none: where it goes without a word.
    pub state_dir: Option<&'a Path>,
    /// To listen at.
    pub port: u16,
    /// Of the file.
    pub mode: u32,
}

impl Starter<'_> {
    /// For the user who types it, and nobody else.
    pub const OWN: Self = Self { state_dir: None, port: PORT, mode: 0o600 };

    fn text(&self) -> String {
        let state_dir = self.state_dir.map(|dir| {
            format!(
                "\n# Where the identity lies, and the mirrors, which are a cache.\nstate_dir = {}\n",
                quoted(dir)
            )
        });
        let listen = SocketAddr::from(([0, 0, 0, 0], self.port));
        format!("{STARTER}listen = \"{listen}\"\n{}{TABLES}", state_dir.unwrap_or_default())
    }
}

/// What became of a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Configured {
    /// Whether it was made.
    pub made: bool,
    /// Name and path of each database that was added.
    pub added: Vec<(String, PathBuf)>,
}

/// Sees to it that there is a configuration at `path` with `databases`. One that is there stays as it is, with tables added for
/// databases that it does not have.
pub fn configure(path: &Path, databases: &[Candidate], starter: Starter<'_>) -> Result<Configured, Fault> {
    // A link to a configuration stays one.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let io = |error: std::io::Error| {
        let fault = Fault::io(format!("the configuration `{}`", path.display()), &error);
        match fault.kind {
            Kind::Refused => fault.hint(
                "it belongs to somebody else: `sudo pullback-agent init --service --database PATH` adds to that of a \
                 service; `--config FILE` names another",
            ),
            _ => fault,
        }
    };
    let is_there = path.symlink_metadata().is_ok();
    let before = if is_there { fs::read_to_string(path).map_err(io)? } else { starter.text() };
    let known = if is_there {
        Config::read_for_stdio(path)?.databases
    } else {
        Config::default_for_stdio().databases
    };
    let (text, added) = with_tables(&before, known.into_iter().collect(), databases);
    if is_there && added.is_empty() {
        return Ok(Configured { made: false, added });
    }
    if !is_there {
        make_dir(dir, if starter.mode == 0o600 { 0o700 } else { 0o755 }).map_err(io)?;
    }
    // Two that are typed at once each add their own.
    let lock = File::open(dir).and_then(|dir| dir.lock().map(|()| dir)).map_err(io)?;
    let is_as_seen = match fs::read_to_string(path) {
        Ok(now) => is_there && now == before,
        Err(_) => !is_there,
    };
    if !is_as_seen {
        drop(lock);
        return configure(path, databases, starter);
    }
    Config::parse(&text).map_err(|why| {
        Fault::new(Kind::Config, format!("`{}` cannot be added to: {why}", path.display()))
            .hint("add `[database.NAME]` with its `path` by hand, then `pullback-agent config check`")
    })?;
    replace(path, text.as_bytes(), starter.mode).map_err(io)?;
    Ok(Configured { made: !is_there, added })
}

/// Makes `dir`, and what it lies in, where they are not there, with `mode` whatever the umask is: what root makes for a user,
/// that user has to reach.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> std::io::Result<()> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode).create(dir) {
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(mode))?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn quoted(path: &Path) -> String {
    toml::Value::from(path.to_string_lossy().into_owned()).to_string()
}

/// `text` with a table for each of `databases` that is not among `known` yet, under a name of its own.
fn with_tables(
    text: &str,
    mut known: Vec<(String, PathBuf)>,
    databases: &[Candidate],
) -> (String, Vec<(String, PathBuf)>) {
    let mut text = text.to_owned();
    let mut added = Vec::new();
    for Candidate { path, .. } in databases {
        let is_same = |there: &PathBuf| {
            there == path
                || there.canonicalize().is_ok_and(|there| path.canonicalize().is_ok_and(|path| path == there))
        };
        if known.iter().any(|(_, there)| is_same(there)) {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let wanted = name_of(&stem, "database");
        // Room for a number.
        let short: String = wanted.chars().take(pullback_shared::identity::NAME_CHARS_MAX - 4).collect();
        let names = std::iter::once(wanted).chain((2..).map(|number| format!("{short}-{number}")));
        let is_free = |name: &String| !known.iter().any(|(taken, _)| taken == name);
        let Some(name) = names.into_iter().find(is_free) else { continue };
        let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        let key = if is_bare { name.clone() } else { toml::Value::from(name.clone()).to_string() };
        let gap = match text.as_str() {
            text if text.is_empty() || text.ends_with(TABLES) || text.ends_with("\n\n") => "",
            text if text.ends_with('\n') => "\n",
            _ => "\n\n",
        };
        text += &format!("{gap}[database.{key}]\npath = {}\n", quoted(path));
        known.push((name.clone(), path.clone()));
        added.push((name, path.clone()));
    }
    (text, added)
}

/// The identity of the agent with this state directory.
#[derive(Debug)]
pub struct Identified {
    /// Where it lies.
    pub dir: PathBuf,
    /// Its name.
    pub fingerprint: Fingerprint,
    /// Whether it was made.
    pub made: bool,
}

/// Sees to it that there is an identity below `state_dir`.
pub fn identify(state_dir: &Path) -> Result<Identified, Fault> {
    let (identity, made) = Identity::open_or_make(state_dir)?;
    Ok(Identified { dir: identity.dir().to_owned(), fingerprint: identity.fingerprint(), made })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(path: &Path) -> Candidate {
        Candidate { path: path.to_owned(), owner: users::me() }
    }

    #[test]
    fn a_starter_is_made_once_and_added_to_without_losing_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("deep/pullback/agent.toml");
        let (gym, other) = (dir.path().join("a/gym.db"), dir.path().join("b/gym.db"));
        for path in [&gym, &other] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let first = configure(&config, &[candidate(&gym)], Starter::OWN).unwrap();
        assert_eq!(first, Configured { made: true, added: vec![("gym".into(), gym.clone())] });
        let text = fs::read_to_string(&config).unwrap();
        let again = configure(&config, &[candidate(&gym)], Starter::OWN).unwrap();
        assert_eq!(again, Configured { made: false, added: vec![] });
        assert_eq!(fs::read_to_string(&config).unwrap(), text);
        // Known by another path, and a name that is taken.
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(&gym, &link).unwrap();
        let more = configure(&config, &[candidate(&link), candidate(&other)], Starter::OWN).unwrap();
        assert_eq!(more.added, [("gym-2".to_owned(), other)]);
        assert!(fs::read_to_string(&config).unwrap().starts_with(&text));
        let read = Config::read(&config).unwrap();
        assert_eq!(
            (read.databases.len(), read.tls, read.listen.to_string()),
            (2, true, "0.0.0.0:7420".into())
        );
        assert_eq!(config.metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn every_name_of_a_file_makes_a_table_that_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "회원 명부.db",
            "it's \"so\".sqlite",
            "new\nline.db",
            "-x",
            "...",
            "a.b.c",
            "tab\t.db",
            "\\u1.db",
            "a = 1 #.db",
        ];
        let long = "n".repeat(250);
        let databases: Vec<Candidate> = names
            .iter()
            .copied()
            .chain([long.as_str()])
            .map(|name| candidate(&dir.path().join(name)))
            .collect();
        let config = dir.path().join("agent.toml");
        configure(
            &config,
            &databases,
            Starter { state_dir: Some(&dir.path().join("state \"1\"")), port: 1, mode: 0o644 },
        )
        .unwrap();
        let read = Config::read(&config).unwrap();
        let mut paths: Vec<&PathBuf> = read.databases.values().collect();
        let mut expected: Vec<&PathBuf> = databases.iter().map(|database| &database.path).collect();
        paths.sort();
        expected.sort();
        assert_eq!(paths, expected);
        assert_eq!(read.settings.state_dir, Some(dir.path().join("state \"1\"")));
    }

    #[test]
    fn a_configuration_that_is_wrong_or_cannot_be_added_to_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("agent.toml");
        let database = candidate(&dir.path().join("x.db"));
        for text in [
            "listen = 7",
            "database = { gym = { path = \"/gym.db\" } }\n",
            "tls = \"off\"\nlisten = \"0.0.0.0:1\"",
        ] {
            fs::write(&config, text).unwrap();
            let fault = configure(&config, std::slice::from_ref(&database), Starter::OWN).unwrap_err();
            assert_eq!((fault.kind, fs::read_to_string(&config).unwrap().as_str()), (Kind::Config, text));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn folders_have_the_mode_they_are_given_whatever_the_umask_is() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        make_dir(&deep, 0o777).unwrap();
        for made in [deep.parent().unwrap(), &deep] {
            assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o777, "{}", made.display());
        }
        make_dir(&deep, 0o700).unwrap();
        assert_eq!(deep.metadata().unwrap().mode() & 0o777, 0o777, "one that is there stays as it is");
    }

    #[test]
    fn two_that_are_typed_at_once_both_add_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("agent.toml");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (config, path) = (&config, dir.path().join(format!("db{number}.db")));
                scope.spawn(move || configure(config, &[candidate(&path)], Starter::OWN).unwrap());
            }
        });
        assert_eq!(Config::read(&config).unwrap().databases.len(), 8);
    }
}
