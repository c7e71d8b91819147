//! The schedulers of this machine: what they are given is shown first, then written, and asked back.

use crate::config::xdg;
use crate::crontab;
use crate::durable;
use crate::launchd;
use crate::schedule::{Job, JobName, When};
use crate::systemd;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Of what a scheduler's program says, so much is passed on.
const SAID_CHARS_MAX: usize = 500;

/// Who runs the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scheduler {
    /// A timer of the user's own systemd
    Systemd,
    /// A launch agent of macOS
    Launchd,
    /// A line in the user's crontab
    Cron,
}

/// A job that is installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// With whom.
    pub scheduler: Scheduler,
    /// Where it stands.
    pub place: String,
    /// The command as it stands there.
    pub command: String,
    /// When it runs, as the scheduler writes it.
    pub when: When,
}

/// One thing that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The file, or that it is a line of the crontab.
    pub place: Place,
    /// What will stand there.
    pub content: String,
}

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, whole.
    File(PathBuf),
    /// The user's crontab, one line.
    Crontab,
}

impl Place {
    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Crontab => "crontab".to_owned(),
        }
    }
}

impl Scheduler {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Systemd, Self::Launchd, Self::Cron];

    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Launchd => "launchd",
            Self::Cron => "cron",
        }
    }

    /// The one for this machine.
    pub fn of_this_machine() -> Self {
        match cfg!(target_os = "macos") {
            true => Self::Launchd,
            false if Self::Systemd.answers().is_ok() => Self::Systemd,
            false => Self::Cron,
        }
    }

    /// Whether it can be given a job here.
    pub fn answers(self) -> Result<(), Fault> {
        match self {
            Self::Systemd => ask("systemctl", &["--user", "show-environment"]).map(drop).map_err(|fault| {
                Fault::new(Kind::Usage, format!("there is no systemd of your own to be reached: {fault}"))
                    .hint("log in directly instead of with `su` or `sudo`, or turn lingering on; or use `--with cron`")
            }),
            Self::Launchd => ask("launchctl", &["managername"]).map(drop).map_err(|fault| {
                Fault::new(Kind::Usage, format!("launchd does not answer: {fault}")).hint("use `--with cron`")
            }),
            Self::Cron => read_crontab().map(drop),
        }
    }

    /// What has to be written for `job`, and where.
    pub fn texts(self, job: &Job) -> Result<Vec<Text>, Fault> {
        let file = |path, content| Text { place: Place::File(path), content };
        Ok(match self {
            Self::Systemd => {
                let [service, timer] = units(job.name);
                vec![file(service, systemd::service(job)?), file(timer, systemd::timer(job))]
            }
            Self::Launchd => vec![file(property_list(job.name), launchd::plist(job)?)],
            Self::Cron => vec![Text { place: Place::Crontab, content: format!("{}\n", crontab::line(job)?) }],
        })
    }

    /// Asks systemd whether it understands a calendar expression; the others are known here.
    pub fn check(self, when: &When) -> Result<(), Fault> {
        let When::On(expression) = when else { return Ok(()) };
        if self != Self::Systemd {
            return Ok(());
        }
        match Command::new("systemd-analyze").args(["calendar", "--", expression]).output() {
            Ok(output) if !output.status.success() => {
                let why = said(&output);
                Err(Fault::new(Kind::Usage, format!("`{expression}` is no calendar of systemd's: {why}"))
                    .hint("write it as systemd.time(7) has it, such as `Mon..Fri 09:30`"))
            }
            _ => Ok(()),
        }
    }

    /// Writes `texts`, which are of the job `name`, and has them taken up.
    pub fn install(self, name: JobName, texts: &[Text]) -> Result<(), Fault> {
        for Text { place, content } in texts {
            match place {
                Place::Crontab => {
                    let line = content.trim_end_matches('\n');
                    write_crontab(&crontab::with(&read_crontab()?, name, line))?;
                    if crontab::find(&read_crontab()?, name).as_deref() != Some(line) {
                        return Err(Fault::new(
                            Kind::Io,
                            "`crontab` took the line and does not give it back",
                        ));
                    }
                }
                Place::File(path) => {
                    let dir = path.parent().expect("BUG: a file without a directory");
                    let written = durable::make_dir(dir)
                        .and_then(|()| durable::replace(path, content.as_bytes(), 0o644));
                    written.map_err(|error| Fault::io(format!("`{}`", path.display()), &error))?;
                }
            }
        }
        match self {
            Self::Systemd => {
                let timer = format!("{}.timer", systemd::unit(name));
                ask("systemctl", &["--user", "daemon-reload"])?;
                ask("systemctl", &["--user", "enable", "--quiet", &timer])?;
                // Not `start`: a timer that runs already has to read its calendar anew.
                ask("systemctl", &["--user", "restart", &timer])?;
            }
            Self::Launchd => {
                // What is not loaded cannot be unloaded, which is as well.
                let _ = ask("launchctl", &["bootout", &service_target(name)]);
                let path = property_list(name);
                ask("launchctl", &["bootstrap", &domain(), &path.to_string_lossy()])?;
            }
            Self::Cron => {}
        }
        Ok(())
    }

    /// The job as it is installed with this scheduler.
    pub fn installed(self, name: JobName) -> Result<Option<Installed>, Fault> {
        let found = |place: &Path, command: String, when: When| {
            Some(Installed { scheduler: self, place: place.display().to_string(), command, when })
        };
        Ok(match self {
            Self::Systemd => {
                let [service, timer] = units(name);
                match (read(&service)?, read(&timer)?) {
                    (Some(text), Some(of_timer)) => {
                        let value = |text: &str, key: &str| {
                            systemd::value(text, key).unwrap_or_default().replace("%%", "%")
                        };
                        let command = value(&text, "ExecStart").replace("$$", "$");
                        found(&timer, command, When::On(value(&of_timer, "OnCalendar")))
                    }
                    _ => None,
                }
            }
            Self::Launchd => {
                let path = property_list(name);
                let unknown = || (vec!["(not as it was written)".to_owned()], When::On("?".to_owned()));
                let text = read(&path)?.map(|text| launchd::read(&text).unwrap_or_else(unknown));
                text.and_then(|(command, when)| found(&path, command.join(" "), when))
            }
            Self::Cron => match read_crontab() {
                Ok(text) => crontab::find(&text, name).and_then(|line| {
                    let (command, when) = crontab::read(&line);
                    found(Path::new("crontab"), command, when)
                }),
                // Where there is no cron, there is no job of cron's.
                Err(_) => None,
            },
        })
    }

    /// Takes the job away, and only that; says whether there was one.
    pub fn uninstall(self, name: JobName) -> Result<bool, Fault> {
        let remove = |path: &Path| {
            let was = path.symlink_metadata().is_ok();
            durable::remove(path).map_err(|error| Fault::io(format!("`{}`", path.display()), &error))?;
            Ok(was)
        };
        match self {
            Self::Systemd => {
                let [service, timer] = units(name);
                if !service.exists() && !timer.exists() {
                    return Ok(false);
                }
                let answers = self.answers().is_ok();
                if answers {
                    let timer = format!("{}.timer", systemd::unit(name));
                    ask("systemctl", &["--user", "disable", "--quiet", "--now", &timer])?;
                }
                let file = timer.file_name().expect("BUG: a unit without a name");
                let wanted = timer.with_file_name("timers.target.wants").join(file);
                let mut was = false;
                for path in [&service, &timer, &wanted] {
                    was |= remove(path)?;
                }
                if answers {
                    ask("systemctl", &["--user", "daemon-reload"])?;
                }
                Ok(was)
            }
            Self::Launchd => {
                let path = property_list(name);
                if path.exists() {
                    // As above: it may not be loaded.
                    let _ = ask("launchctl", &["bootout", &service_target(name)]);
                }
                remove(&path)
            }
            Self::Cron => match self.installed(name)? {
                None => Ok(false),
                Some(_) => write_crontab(&crontab::without(&read_crontab()?, name)).map(|()| true),
            },
        }
    }

    /// Has the job run once. Cron cannot be asked: its line is run as cron would, with next to no variables. What the
    /// scheduler says about it is given back; how the run ended stands in its log. launchd does not wait for it.
    pub fn start(self, name: JobName) -> Result<String, Fault> {
        let mut command = match self {
            Self::Systemd => {
                let mut command = Command::new("systemctl");
                command.args(["--user", "start", &format!("{}.service", systemd::unit(name))]);
                command
            }
            Self::Launchd => {
                let mut command = Command::new("launchctl");
                command.args(["kickstart", &service_target(name)]);
                command
            }
            Self::Cron => {
                let line = crontab::find(&read_crontab()?, name)
                    .ok_or_else(|| Fault::new(Kind::Unknown, "the line is not in the crontab"))?;
                let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
                let mut command = Command::new("/bin/sh");
                command.args(["-c", &crontab::read(&line).0]).env_clear().current_dir(&home);
                command.env("HOME", &home).env("SHELL", "/bin/sh").env("PATH", "/usr/bin:/bin");
                command
            }
        };
        let output = command.stdin(Stdio::null()).output();
        let program = command.get_program().to_string_lossy();
        output.map(|output| said(&output)).map_err(|error| cannot_be_run(&program, &error))
    }

    /// When the scheduler says that the job runs next.
    pub fn next(self, name: JobName) -> Option<Timestamp> {
        if self != Self::Systemd {
            return None;
        }
        let timer = format!("{}.timer", systemd::unit(name));
        let output = ask("systemctl", &["--user", "list-timers", "--output=json", &timer]).ok()?;
        let timers: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        Timestamp::from_microsecond(timers[0]["next"].as_i64()?).ok()
    }

    /// What keeps the job from running when nobody is logged in, and what to do.
    pub fn warning(self) -> Option<String> {
        if self != Self::Systemd {
            return None;
        }
        let user = rustix::process::getuid().as_raw().to_string();
        let output =
            Command::new("loginctl").args(["show-user", &user, "-p", "Linger", "--value"]).output().ok()?;
        (output.stdout.trim_ascii() != b"yes").then(|| {
            let name = std::env::var("USER").ok().filter(|name| !name.is_empty()).unwrap_or(user);
            format!(
                "lingering is off: the timer runs only while you are logged in; `sudo loginctl enable-linger {}` \
                 lets it run always",
                printable(&name, SAID_CHARS_MAX)
            )
        })
    }
}

/// The service and the timer.
fn units(name: JobName) -> [PathBuf; 2] {
    let dir = xdg("XDG_CONFIG_HOME", ".config").join("systemd/user");
    ["service", "timer"].map(|kind| dir.join(format!("{}.{kind}", systemd::unit(name))))
}

fn property_list(name: JobName) -> PathBuf {
    let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
    home.join("Library/LaunchAgents").join(format!("{}.plist", launchd::label(name)))
}

/// launchd's name for the session of the user at the screen.
fn domain() -> String {
    format!("gui/{}", rustix::process::getuid().as_raw())
}

fn service_target(name: JobName) -> String {
    format!("{}/{}", domain(), launchd::label(name))
}

fn read(path: &Path) -> Result<Option<String>, Fault> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::io(format!("`{}`", path.display()), &error)),
    }
}

/// The user's crontab; one that is not there is empty.
fn read_crontab() -> Result<Vec<u8>, Fault> {
    let output = run("crontab", &["-l"], None)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false if crontab::says_none(&said(&output)) => Ok(Vec::new()),
        false => Err(refused("crontab -l", &output)),
    }
}

fn write_crontab(text: &[u8]) -> Result<(), Fault> {
    let output = run("crontab", &["-"], Some(text))?;
    output.status.success().then_some(()).ok_or_else(|| refused("crontab -", &output))
}

/// Runs a scheduler's program to an end that is well.
fn ask(program: &str, arguments: &[&str]) -> Result<Output, Fault> {
    let output = run(program, arguments, None)?;
    let shown = || format!("{program} {}", arguments.join(" "));
    if output.status.success() { Ok(output) } else { Err(refused(&shown(), &output)) }
}

fn run(program: &str, arguments: &[&str], input: Option<&[u8]>) -> Result<Output, Fault> {
    let wrong = |error: io::Error| cannot_be_run(program, &error);
    let mut command = Command::new(program);
    // What they say is read here, so that it has to be in one language.
    command.args(arguments).env("LC_ALL", "C").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() }).spawn().map_err(wrong)?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // One that does not read to the end says why with its exit code.
        let _ = stdin.write_all(text);
    }
    child.wait_with_output().map_err(wrong)
}

fn cannot_be_run(program: &str, error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound => Fault::new(Kind::Usage, format!("there is no `{program}` here")).hint(
            "install cron, or name another scheduler with `--with systemd` or `--with launchd`; `--print` shows what it would be given",
        ),
        _ => Fault::io(format!("`{program}`"), error),
    }
}

fn refused(command: &str, output: &Output) -> Fault {
    Fault::new(Kind::Io, format!("`{command}` failed: {}", said(output)))
}

/// What a program said on stderr, on one line; else how it ended.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.is_empty() {
        true => output.status.to_string(),
        false => printable(&lines.join("; "), SAID_CHARS_MAX),
    }
}
