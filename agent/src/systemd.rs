//! The agent as a service of systemd: the files it takes, and what systemd is told and asked.

use crate::config::{self, Config, PORT};
use crate::durable::replace;
use crate::init::{Candidate, Configured, Starter, configure, make_dir};
use crate::users::{self, User};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The unit, one instance for each user.
const UNIT: &str = include_str!("../../deploy/pullback-agent@.service");

/// What stands in every unit of ours.
const MARK: &str = "pullback-agent serve";

/// What the unit shows to nobody: `PrivateTmp`.
const HIDDEN: [&str; 2] = ["/tmp", "/var/tmp"];

/// How the names of units end, after a dot.
const KINDS: [&str; 11] = [
    "automount",
    "device",
    "mount",
    "path",
    "scope",
    "service",
    "slice",
    "socket",
    "swap",
    "target",
    "timer",
];

/// Characters of what a program of the system says.
const SAID_CHARS_MAX: usize = 600;

/// Lines of the log that are quoted.
const LOG_LINES: &str = "5";

/// Where the system has things.
#[derive(Clone, Debug)]
pub struct Roots {
    /// The configurations.
    pub configs: PathBuf,
    /// The state directories.
    pub states: PathBuf,
    /// The units of systemd.
    pub units: PathBuf,
    /// The program that the unit runs.
    pub program: PathBuf,
    /// There where systemd runs.
    pub running: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            configs: config::SERVICES.into(),
            states: "/var/lib/pullback".into(),
            units: "/etc/systemd/system".into(),
            program: "/usr/local/bin/pullback-agent".into(),
            running: "/run/systemd/system".into(),
        }
    }
}

/// A service to be, of one user.
#[derive(Debug)]
pub struct Service {
    /// Whose databases it serves: the unit's instance.
    pub user: User,
    roots: Roots,
}

/// What was done to the files.
#[derive(Debug)]
pub struct Laid {
    /// The configuration.
    pub configured: Configured,
    /// Whether the program was copied to where the unit runs it.
    pub program: bool,
    /// Whether the unit was written.
    pub unit: bool,
}

impl Service {
    /// The service for `databases`, which must have one owner.
    pub fn of(databases: &[Candidate], roots: Roots) -> Result<Self, Fault> {
        let usage = |why: String, hint: &str| Err(Fault::new(Kind::Usage, why).hint(hint));
        let Some(first) = databases.first() else {
            return usage(
                "a service is one of the user that owns the databases, and none was named".to_owned(),
                "`pullback-agent init --service --database PATH`, or `--discover DIR`",
            );
        };
        if let Some(other) = databases.iter().find(|database| database.owner != first.owner) {
            return usage(
                format!(
                    "`{}` belongs to `{}` and `{}` to `{}`: an agent runs as the owner of its databases",
                    first.path.display(),
                    users::shown(first.owner),
                    other.path.display(),
                    users::shown(other.owner)
                ),
                "type the command once for each owner: each gets an agent",
            );
        }
        let is_hidden = |database: &&Candidate| HIDDEN.iter().any(|dir| database.path.starts_with(dir));
        if let Some(hidden) = databases.iter().find(is_hidden) {
            return usage(
                format!(
                    "`{}` is out of sight of a service, which has a `/tmp` of its own",
                    hidden.path.display()
                ),
                "keep the database elsewhere, or run `pullback-agent serve` without a service",
            );
        }
        let Some(user) = users::with_uid(first.owner) else {
            return usage(
                format!(
                    "`{}` belongs to user #{}, who is not in /etc/passwd",
                    first.path.display(),
                    first.owner
                ),
                "a service runs as a user with a name: `useradd` makes one",
            );
        };
        if !is_instance(&user.name) {
            return usage(
                format!("`{}` is no name that a unit of systemd can carry", printable(&user.name, 80)),
                "write a unit by hand; `pullback-agent config example` prints a configuration",
            );
        }
        Ok(Self { user, roots })
    }

    /// Whether this machine and this user can have services; else a sentence on what to do.
    pub fn possible(roots: &Roots) -> Result<(), Fault> {
        if !roots.running.is_dir() || ask(&["--version"]).is_err() {
            return Err(Fault::new(Kind::Usage, "there is no systemd here that could run a service").hint(
                "`pullback-agent init` without `--service` sets up this user; then start `pullback-agent serve` as this \
                 system starts its services",
            ));
        }
        if users::me() != 0 {
            return Err(Fault::new(Kind::Usage, "only root can set up a service").hint(
                "type the same with `sudo` before it; without `--service` it is set up for this user alone",
            ));
        }
        Ok(())
    }

    /// Where its configuration is.
    pub fn config(&self) -> PathBuf {
        self.roots.configs.join(format!("{}.toml", self.user.name))
    }

    /// Where its state is, unless its configuration names another place.
    pub fn state_dir(&self) -> PathBuf {
        self.roots.states.join(&self.user.name)
    }

    /// Its name for systemd.
    pub fn unit(&self) -> String {
        format!("pullback-agent@{}", self.user.name)
    }

    /// A port that no other service here has.
    fn port(&self) -> u16 {
        let files = fs::read_dir(&self.roots.configs).into_iter().flatten().flatten();
        let others = files.map(|file| file.path()).filter(|path| *path != self.config());
        let taken: Vec<u16> =
            others.filter_map(|path| Some(Config::read_for_stdio(&path).ok()?.listen.port())).collect();
        (PORT..u16::MAX).find(|port| !taken.contains(port)).unwrap_or(PORT)
    }

    /// Sees to it that all its files are there, but for the identity. `program` is the one to run.
    pub fn lay(&self, databases: &[Candidate], program: &Path) -> Result<Laid, Fault> {
        let program = install(program, &self.roots.program)?;
        let state_dir = self.state_dir();
        let configured = configure(
            &self.config(),
            databases,
            Starter { state_dir: Some(&state_dir), port: self.port(), mode: 0o644 },
        )?;
        let io = |error: std::io::Error| Fault::io(format!("`{}`", state_dir.display()), &error);
        make_dir(&self.roots.states, 0o755).map_err(io)?;
        match DirBuilder::new().mode(0o700).create(&state_dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
        // The folder above is root's, so that this is the folder and no link to another. What lies within is the user's own.
        let there = state_dir.symlink_metadata().map_err(io)?;
        if there.is_dir() && (there.uid(), there.gid()) != (self.user.uid, self.user.gid) {
            std::os::unix::fs::lchown(&state_dir, Some(self.user.uid), Some(self.user.gid)).map_err(io)?;
        }
        let unit = self.lay_unit()?;
        Ok(Laid { configured, program, unit })
    }

    fn lay_unit(&self) -> Result<bool, Fault> {
        let path = self.roots.units.join("pullback-agent@.service");
        let io = |error: std::io::Error| Fault::io(format!("`{}`", path.display()), &error);
        match fs::read_to_string(&path) {
            Ok(there) if there == UNIT => return Ok(false),
            Ok(there) if !there.contains(MARK) => {
                return Err(Fault::new(
                    Kind::Config,
                    format!("`{}` is there already, and is not Pullback's", path.display()),
                )
                .hint("look what it is, and move it away"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        make_dir(&self.roots.units, 0o755).map_err(io)?;
        replace(&path, UNIT.as_bytes(), 0o644).map_err(io)?;
        Ok(true)
    }

    /// Makes the identity as the user whose it is: what lies in a user's folder is nothing for root to touch.
    pub fn identify(&self) -> Result<(), Fault> {
        let mut command = Command::new(&self.roots.program);
        command.args(["init", "--quiet", "--config"]).arg(self.config());
        command.uid(self.user.uid).gid(self.user.gid).env_clear().current_dir("/").stdin(Stdio::null());
        let why = match command.output() {
            Ok(done) if done.status.success() => return Ok(()),
            Ok(done) => said(&done.stderr),
            Err(error) => error.to_string(),
        };
        Err(Fault::new(Kind::Io, format!("the identity could not be made as `{}`: {why}", self.user.name)))
    }

    /// Sees to it that it runs, with the configuration and the program as they are now. Whether anything had to be done.
    pub fn run(&self, is_other: bool) -> Result<bool, Fault> {
        let unit = self.unit();
        if is_other {
            ask(&["daemon-reload"])?;
        }
        let is_so = |question: &str| ask(&[question, "--quiet", &unit]).is_ok();
        let is_active = is_so("is-active");
        if is_active && is_so("is-enabled") && !is_other && self.is_up_to_date() {
            return Ok(false);
        }
        // A unit that is `Type=notify` is started when it serves, or has failed: that is what is waited for.
        let started = ask(&["enable", "--quiet", &unit]).and_then(|()| match is_active {
            true => ask(&["restart", &unit]),
            false => ask(&["start", &unit]),
        });
        started.map_err(|fault| {
            let log = Command::new("journalctl")
                .args(["--unit", &unit, "--lines", LOG_LINES, "--output", "cat", "--no-pager"])
                .stdin(Stdio::null())
                .output();
            let log = log.map_or_else(|_| String::new(), |log| said(&log.stdout));
            Fault::new(Kind::Io, format!("the service `{unit}` does not start: {fault}; its log: {log}"))
                .hint(format!("`systemctl status {unit}` and `journalctl -u {unit}` tell more"))
        })?;
        Ok(true)
    }

    /// Whether it was started after its configuration, the unit and the program were written.
    fn is_up_to_date(&self) -> bool {
        let asked = ["show", "--timestamp=unix", "--property=ActiveEnterTimestamp", "--value", &self.unit()];
        let Ok(output) = systemctl(&asked) else { return true };
        let told = String::from_utf8_lossy(&output.stdout);
        let Some(started) = told.trim().strip_prefix('@').and_then(|time| time.parse::<i64>().ok()) else {
            return true;
        };
        let unit = self.roots.units.join("pullback-agent@.service");
        let written = [self.config(), unit, self.roots.program.clone()].map(|file| file.metadata());
        written.into_iter().flatten().all(|file| file.mtime() <= started)
    }
}

/// Whether `user` can be the instance of a unit, and a name below our folders. One such as `pi.service` would mean that of `pi`.
fn is_instance(user: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_unit = user.rsplit_once('.').is_some_and(|(_, kind)| KINDS.contains(&kind));
    !user.is_empty() && user.chars().all(fits) && !user.starts_with(['-', '.']) && !is_unit
}

/// Copies the program `from` to `to`, where something else is there or nothing. Whether that was so.
fn install(from: &Path, to: &Path) -> Result<bool, Fault> {
    let io = |error: std::io::Error| Fault::io(format!("`{}`", to.display()), &error);
    if is_same(from, to).map_err(io)? {
        return Ok(false);
    }
    let dir = to.parent().unwrap_or(Path::new("/"));
    make_dir(dir, 0o755).map_err(io)?;
    let mut aside = tempfile::Builder::new().prefix(".pullback-").tempfile_in(dir).map_err(io)?;
    let mut program = fs::File::open(from).map_err(io)?;
    std::io::copy(&mut program, &mut aside).map_err(io)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    aside.as_file().set_permissions(mode).and_then(|()| aside.as_file().sync_all()).map_err(io)?;
    // Closed before it can be run: one that is open for writing cannot be.
    aside.into_temp_path().persist(to).map_err(|error| io(error.error))?;
    Ok(true)
}

/// Whether both files hold the same.
fn is_same(one: &Path, other: &Path) -> std::io::Result<bool> {
    let Ok(there) = other.metadata() else { return Ok(false) };
    if there.len() != one.metadata()?.len() || there.mode() & 0o111 != 0o111 {
        return Ok(false);
    }
    let hash = |path: &Path| {
        let mut hasher = blake3::Hasher::new();
        let mut file = fs::File::open(path)?;
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok::<_, std::io::Error>(hasher.finalize()),
                read => drop(hasher.update(&chunk[..read])),
            }
        }
    };
    Ok(hash(one)? == hash(other)?)
}

/// What `systemctl` says of the unit of `user`: a word such as `active`, `failed` or `inactive`; none where there is no systemd or no
/// such unit.
pub fn state_of(user: &str) -> Option<String> {
    let roots = Roots::default();
    if !roots.running.is_dir() || !roots.units.join("pullback-agent@.service").is_file() {
        return None;
    }
    let output = systemctl(&["is-active", &format!("pullback-agent@{user}")]).ok()?;
    Some(said(&output.stdout)).filter(|word| !word.is_empty())
}

fn systemctl(words: &[&str]) -> std::io::Result<Output> {
    Command::new("systemctl").args(words).stdin(Stdio::null()).output()
}

fn ask(words: &[&str]) -> Result<(), Fault> {
    let why = match systemctl(words) {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => said(&output.stderr),
        Err(error) => error.to_string(),
    };
    Err(Fault::new(Kind::Io, format!("`systemctl {}`: {why}", words.join(" "))))
}

fn said(text: &[u8]) -> String {
    printable(String::from_utf8_lossy(text).trim(), SAID_CHARS_MAX).replace("\\u{a}", " / ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn roots(dir: &Path) -> Roots {
        Roots {
            configs: dir.join("etc/pullback"),
            states: dir.join("var/lib/pullback"),
            units: dir.join("etc/systemd/system"),
            program: dir.join("usr/local/bin/pullback-agent"),
            running: dir.join("run/systemd/system"),
        }
    }

    fn candidate(path: &Path, owner: u32) -> Candidate {
        Candidate { path: path.to_owned(), owner }
    }

    #[test]
    fn the_files_of_a_service_are_laid_once() {
        let dir = tempfile::tempdir().unwrap();
        let me = users::me();
        let Some(user) = users::with_uid(me) else { return };
        let database = candidate(Path::new("/srv/gym.db"), me);
        fs::create_dir_all(dir.path().join("etc/pullback")).unwrap();
        fs::write(dir.path().join("etc/pullback/other.toml"), "listen = \"0.0.0.0:7420\"").unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "one").unwrap();
        let service = Service::of(std::slice::from_ref(&database), roots(dir.path())).unwrap();
        assert_eq!(service.unit(), format!("pullback-agent@{}", user.name));
        let databases = std::slice::from_ref(&database);
        let first = service.lay(databases, &program).unwrap();
        assert!(first.configured.made && first.program && first.unit, "{first:?}");
        let again = service.lay(databases, &program).unwrap();
        assert!(!again.configured.made && !again.program && !again.unit, "{again:?}");
        let config = Config::read(&service.config()).unwrap();
        assert_eq!((config.settings.state_dir, config.listen.port()), (Some(service.state_dir()), PORT + 1));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            [mode(&service.config()), mode(&service.state_dir()), mode(&service.roots.program)],
            [0o644, 0o700, 0o755]
        );
        // Another release of the program and of the unit takes the place of the one before.
        fs::write(&program, "two").unwrap();
        let unit = service.roots.units.join("pullback-agent@.service");
        fs::write(&unit, format!("# older\n{UNIT}")).unwrap();
        let newer = service.lay(databases, &program).unwrap();
        assert!(!newer.configured.made && newer.program && newer.unit, "{newer:?}");
        assert_eq!(fs::read(&service.roots.program).unwrap(), b"two");
        fs::write(&unit, "[Service]\nExecStart=/bin/true").unwrap();
        assert_eq!(service.lay(databases, &program).unwrap_err().kind, Kind::Config);
    }

    #[test]
    fn a_name_that_means_something_else_to_systemd_or_as_a_path_is_no_instance() {
        for name in ["pi", "www-data", "a.b", "_apt", "9"] {
            assert!(is_instance(name), "{name}");
        }
        for name in ["", "..", ".a", "-a", "../x", "a/b", "%i", "a@b", "a b", "a\\x2d", "pi.service", "회원"]
        {
            assert!(!is_instance(name), "{name}");
        }
    }

    #[test]
    fn a_service_is_one_user_s_who_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let of = |owners: &[u32]| {
            let databases: Vec<Candidate> = owners
                .iter()
                .map(|owner| candidate(&Path::new("/srv").join(format!("{owner}.db")), *owner))
                .collect();
            Service::of(&databases, roots(dir.path())).err().map(|fault| (fault.kind, fault.message))
        };
        for (owners, why) in
            [(&[][..], "none was named"), (&[0, 1], "belongs to"), (&[4_000_000_000], "/etc/passwd")]
        {
            let (kind, message) = of(owners).unwrap();
            assert!(kind == Kind::Usage && message.contains(why), "{message}");
        }
        let hidden = Service::of(&[candidate(Path::new("/tmp/x.db"), 0)], roots(dir.path())).err().unwrap();
        assert!(hidden.message.contains("out of sight"), "{hidden}");
        assert_eq!(Service::possible(&roots(dir.path())).unwrap_err().kind, Kind::Usage);
    }
}
