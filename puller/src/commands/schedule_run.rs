//! `puller schedule run`: what a scheduler calls. Nothing is said when all is well; else one paragraph, which cron mails and
//! systemd's journal keeps.

use super::schedule::{RunJob, keep_words};
use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use puller::clock;
use puller::config::job_logs;
use puller::job_log::{JobLog, RUN_LINES_MAX};
use puller::schedule::JobName;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// A machine that just woke up has no network for a while. The waits between so many tries of a source are 2, 4, 8, 16 and
/// 32 seconds: a minute.
const RETRIES: u32 = 5;

/// What the job `verify` reads of the copies each day: all of them within 25 runs, so within a month, also where a machine is
/// off on some days.
const SAMPLE: &str = "4%";

/// Of what a run says, so much is looked at.
const SAID_BYTES_MAX: u64 = 256 * 1024;

/// Lines of the paragraph, and then where the others are.
const PARAGRAPH_LINES_MAX: usize = 20;

pub(crate) fn run(cli: &Cli, asked: &RunJob) -> Result<u8, Fault> {
    let log = JobLog::in_dir(&job_logs(), asked.job);
    // A log that cannot be written is no reason not to pull.
    let _lock = match log.lock() {
        Ok(lock) => Some(lock),
        Err(fault) if fault.kind == Kind::Locked => return Err(fault),
        Err(fault) => {
            eprintln!("warning: {fault}");
            None
        }
    };
    let began = clock::now()?;
    warn(log.begin(began));
    let (code, said) = job(cli, asked)
        .unwrap_or_else(|fault| (fault.kind.exit(), vec![format!("error: {fault} [{}]", fault.kind.code())]));
    let (line, written) = log.end(began, clock::now()?, code, &said);
    warn(written);
    for line in said.iter().take(PARAGRAPH_LINES_MAX) {
        eprintln!("{line}");
    }
    if code != 0 || !said.is_empty() {
        eprintln!(
            "the job `{}` ended with exit code {code}; its log is `{}`",
            asked.job.word(),
            log.path().display()
        );
    }
    if cli.common.json {
        println!("{}", serde_json::json!(line));
    }
    Ok(code)
}

fn warn(written: Result<(), Fault>) {
    if let Err(fault) = written {
        eprintln!("warning: {fault}");
    }
}

/// Runs the command that the job stands for, and gives its exit code and the lines it said.
fn job(cli: &Cli, asked: &RunJob) -> Result<(u8, Vec<String>), Fault> {
    let program = std::env::current_exe().map_err(|error| Fault::io("the path of this program", &error))?;
    let io = |error: io::Error| Fault::io(format!("`{}`", program.display()), &error);
    let (mut output, ours) = io::pipe().map_err(io)?;
    let mut command = Command::new(&program);
    for (flag, path) in [("--config", &cli.common.config), ("--store", &cli.common.store)] {
        path.iter().for_each(|path| {
            command.arg(flag).arg(path);
        });
    }
    command.args([asked.job.word(), "--quiet"]).args(keep_words(&asked.keep));
    if asked.job == JobName::Pull && super::read_config(cli).is_ok_and(|config| config.retries.is_none()) {
        command.args(["--retries", &RETRIES.to_string()]);
    }
    match (asked.job, asked.sources.is_empty()) {
        (JobName::Verify, _) => command.args(["--all", "--sample", SAMPLE]),
        (JobName::Drill, _) | (_, true) => command.arg("--all"),
        (JobName::Pull, false) => command.arg("--").args(&asked.sources),
    };
    command.env_remove("PULLER_JSON").stdin(Stdio::null());
    command.stdout(ours.try_clone().map_err(io)?).stderr(ours);
    let mut child = command.spawn().map_err(io)?;
    // The command holds the other end of the pipe: it must go, or the output never ends.
    drop(command);
    let mut said = Vec::new();
    output.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut said).map_err(io)?;
    io::copy(&mut output, &mut io::sink()).map_err(io)?;
    let status = child.wait().map_err(io)?;
    let by_signal = 128 + status.signal().unwrap_or_default();
    let code = u8::try_from(status.code().unwrap_or(by_signal)).unwrap_or(u8::MAX);
    let said = String::from_utf8_lossy(&said);
    let mut said: Vec<String> =
        said.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if code != 0 && said.is_empty() {
        said.push(format!("`puller {}` ended without a word: {status}", asked.job.word()));
    }
    Ok((code, said))
}

const _: () = assert!(PARAGRAPH_LINES_MAX <= RUN_LINES_MAX, "the log has at least what was said");
