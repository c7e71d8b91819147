//! The tools people use now: `sqlite3 .backup`, then `zstd -1` or `rsync`.

use crate::meter::{self, Run};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// A first copy made by peers.
#[derive(Default)]
pub(crate) struct Copied {
    /// Until the last tool ended.
    pub(crate) seconds: Option<f64>,
    /// Until the result was durable as well.
    pub(crate) durable_seconds: Option<f64>,
    /// Of all tools.
    pub(crate) cpu_seconds: Option<f64>,
    /// Of the result.
    pub(crate) bytes: Option<f64>,
}

/// What comes after `.backup`.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// `zstd -1 < TMP > OUT`
    Zstd,
    /// `rsync TMP OUT`, on this machine
    Rsync,
}

/// `sqlite3 DB ".backup [--async] TMP"`, and then the other tool; a tool that is not there leaves no figures.
///
/// Without `--async`, SQLite makes TMP durable; no tool makes OUT durable, which is done here and timed apart.
pub(crate) fn copy(database: &Path, dir: &Path, options: &str, then: Then) -> Copied {
    let (staged, out) = (dir.join("backup.tmp"), dir.join("backup.out"));
    rustix::fs::sync();
    let began = Instant::now();
    let mut backup = Command::new("sqlite3");
    backup.arg(database).arg(format!(".backup {options} '{}'", staged.display()));
    let mut second = match then {
        Then::Zstd => Command::new("zstd"),
        Then::Rsync => Command::new("rsync"),
    };
    let copied = run(&mut backup).and_then(|backed_up| {
        match then {
            Then::Zstd => {
                second.args(["-1", "-q", "-c"]).stdin(File::open(&staged).ok()?);
            }
            Then::Rsync => {
                second.arg(&staged).arg(&out);
            }
        }
        let seconded = match then {
            Then::Zstd => run_into(&mut second, &out)?,
            Then::Rsync => run(&mut second)?,
        };
        let seconds = began.elapsed().as_secs_f64();
        File::open(&out).and_then(|out| out.sync_all()).ok()?;
        Some(Copied {
            seconds: Some(seconds),
            durable_seconds: Some(began.elapsed().as_secs_f64()),
            cpu_seconds: sum(backed_up.cpu_seconds, seconded.cpu_seconds),
            bytes: std::fs::metadata(&out).ok().map(|metadata| metadata.len() as f64),
        })
    });
    for path in [staged, out] {
        let _ = std::fs::remove_file(path);
    }
    copied.unwrap_or_default()
}

fn sum(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? + other?)
}

/// The version that `program` states, or that it is not there.
pub(crate) fn version(program: &str) -> String {
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let is_number = |word: &&str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    let number = said.split_whitespace().find(is_number).unwrap_or("not installed");
    format!("{program} {}", number.trim_matches([',', 'v']))
}

fn run(command: &mut Command) -> Option<Run> {
    let run = meter::run(command.stderr(Stdio::null())).ok()?;
    run.status.success().then_some(run)
}

fn run_into(command: &mut Command, out: &Path) -> Option<Run> {
    let run = meter::run_into(command.stderr(Stdio::null()), File::create(out).ok()?).ok()?;
    run.status.success().then_some(run)
}
