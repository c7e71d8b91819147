//! `puller doctor`: the configuration, the store and each source, every finding ok, warn or fail, with what mends it.

use super::doctor_source::{of_never_pulled, of_source};
use super::findings::{Findings, State};
use super::text;
use crate::cli::Cli;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::shell_word;
use puller::address::Address;
use puller::config::{Config, job_logs, known_stores};
use puller::freshness::length;
use puller::job_log::JobLog;
use puller::paired::{Paired, path_of};
use puller::schedule::JobName;
use puller::scheduler::Scheduler;
use puller::source_dir::SourceDir;
use puller::store::{KnownStores, Sources, Store};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// A certificate that ends sooner is worth a word.
const CERTIFICATE_ENDS: Duration = Duration::from_secs(90 * 86_400);

/// What `doctor` is to look at.
#[derive(clap::Args)]
pub(crate) struct Doctor {
    /// Only this source; none: the configuration, the store and every source
    source: Option<String>,
    #[command(flatten)]
    pub(super) door: crate::cli::Door,
}

pub(crate) fn run(cli: &Cli, asked: &Doctor) -> Result<u8, Fault> {
    let now = puller::clock::now()?;
    let mut findings = Findings::default();
    match super::read_config(cli) {
        Ok(config) => examine(cli, asked, &config, now, &mut findings)?,
        Err(fault) => findings.fault(None, &fault),
    }
    findings.0.iter().filter(|finding| !(cli.common.quiet && finding.state == State::Ok)).for_each(
        |finding| {
            finding.print(cli);
        },
    );
    let has_fault = findings.0.iter().any(|finding| finding.state == State::Fail);
    Ok(if has_fault { Kind::Found.exit() } else { 0 })
}

/// An error only where the one source that was asked for is not known.
fn examine(
    cli: &Cli,
    asked: &Doctor,
    config: &Config,
    now: Timestamp,
    findings: &mut Findings,
) -> Result<(), Fault> {
    let root = super::store_path(cli, config);
    let store = Store::open(&root);
    if asked.source.is_none() {
        let file = cli.common.config.clone().unwrap_or_else(puller::config::default_path);
        let there = if file.exists() { "" } else { " (not there: the defaults hold)" };
        findings.add(State::Ok, None, format!("configuration `{}`{there}", file.display()), "");
        match &store {
            Ok(_) => of_store(&root, config, findings),
            Err(fault) => findings.fault(None, fault),
        }
        of_other_stores(&root, findings);
        of_schedule(findings);
        of_paired(Paired::all(), now, findings);
    }
    let sources = store.as_ref().map_or(Ok(Sources::default()), Store::sources);
    let Sources { known: sources, damaged } = sources.unwrap_or_else(|fault| {
        findings.fault(None, &fault);
        Sources::default()
    });
    if asked.source.is_none() {
        damaged.iter().for_each(|damaged| findings.fault(Some(&damaged.label), &damaged.fault));
    }
    let never = config.never_pulled(&sources);
    match &asked.source {
        Some(typed) if never.contains(&typed.as_str()) => of_never_pulled(typed, config, asked, findings),
        Some(typed) => {
            let source = store?.named(typed)?;
            if let Ok(Address::Agent { agent, .. }) = source.address() {
                of_paired(Paired::read(&agent).transpose(), now, findings);
            }
            of_source(&source, config, asked, now, findings);
        }
        None => {
            sources.iter().for_each(|source| of_source(source, config, asked, now, findings));
            never.iter().for_each(|name| of_never_pulled(name, config, asked, findings));
        }
    }
    Ok(())
}

fn of_store(root: &Path, config: &Config, findings: &mut Findings) {
    let shown = root.display();
    match rustix::fs::access(root, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => findings.add(State::Ok, None, format!("store `{shown}` can be written to"), ""),
        Err(error) => {
            let fault = Fault::io(format!("store `{shown}`"), &error.into());
            findings.fault(None, &fault);
        }
    }
    let mode = root.metadata().map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    match mode & 0o077 {
        0 => {}
        // Not a fault: some file systems have no modes to change.
        _ => findings.add(
            State::Warn,
            None,
            format!("store `{shown}` has mode {mode:03o}: others may read the copies, or write to them"),
            format!("`chmod 700 {}`", shell_word(&root.to_string_lossy())),
        ),
    }
    of_room(root, findings);
    let states_policy = config.keep.is_some() || config.sources.values().any(|source| source.keep.is_some());
    if !states_policy {
        findings.add(
            State::Warn,
            None,
            "the configuration does not say what is kept: nothing is ever removed, unless an option says so",
            "`keep = { last = 30 }` in the configuration, or `--keep-last 30` in each command",
        );
    }
    let states_age =
        config.max_age.is_some() || config.sources.values().any(|source| source.max_age.is_some());
    if !states_age {
        findings.add(
            State::Warn,
            None,
            "the configuration does not say how old the last good run may be: `puller status` calls no source stale",
            "`max_age = \"26h\"` in the configuration, for one pull a day",
        );
    }
}

/// Whether the largest source would fit once more.
fn of_room(root: &Path, findings: &mut Findings) {
    let Ok(stat) = rustix::fs::statvfs(root) else { return };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let sources = Store::open(root).and_then(|store| store.sources()).unwrap_or_default().known;
    let newest =
        |source: &SourceDir| source.copies().ok()?.pop()?.manifest.ok().map(|manifest| manifest.bytes);
    let largest = sources.iter().filter_map(newest).max().unwrap_or_default();
    let about = format!("{} free for the store", text::bytes(free));
    match free > largest {
        true => findings.add(State::Ok, None, about, ""),
        false => findings.add(
            State::Fail,
            None,
            format!("{about}, and one more full copy of the largest source takes {}", text::bytes(largest)),
            "`puller rotate --all --keep-last N --dry-run` shows what could go",
        ),
    }
}

/// Stores that this user pulled into before: one that is gone is most likely on a disk that is not mounted.
fn of_other_stores(root: &Path, findings: &mut Findings) {
    let root = puller::address::absolute(root);
    for other in KnownStores::in_file(known_stores()).all().into_iter().filter(|other| *other != root) {
        let shown = other.display();
        match Store::open(&other) {
            Ok(_) => findings.add(State::Ok, None, format!("another store, `{shown}`"), ""),
            Err(_) => findings.add(
                State::Warn,
                None,
                format!("another store, `{shown}`, was used before and is not there"),
                format!(
                    "is its disk mounted? If it is gone for good, take its line out of `{}`",
                    known_stores().display()
                ),
            ),
        }
    }
}

/// The agents that this machine was paired with: who else could show what it shows them, and how long they take it.
fn of_paired(
    agents: impl IntoIterator<Item = Result<Paired, Fault>>,
    now: Timestamp,
    findings: &mut Findings,
) {
    for paired in agents {
        let paired = match paired {
            Ok(paired) => paired,
            Err(fault) => {
                findings.fault(None, &fault);
                continue;
            }
        };
        let (name, role, file) = (&paired.name, paired.role, path_of(&paired.name));
        let again = format!("pair again: `puller pair CODE --replace {name}`");
        let mode = file.metadata().map_or(0, |metadata| metadata.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let file = shell_word(&file.to_string_lossy());
            findings.add(
                State::Fail,
                None,
                format!("agent {name}: its file has mode {mode:03o}: others may read the key, and pull in your name"),
                format!("`chmod 600 {file}`; if somebody may have read it, `pullback-agent peers revoke` there, and {again}"),
            );
        }
        let left = Duration::try_from(paired.expires_at.duration_since(now));
        match left {
            Err(_) => findings.add(
                State::Fail,
                None,
                format!("agent {name}: the certificate ended at {}", paired.expires_at),
                again,
            ),
            Ok(left) if left < CERTIFICATE_ENDS => findings.add(
                State::Warn,
                None,
                format!("agent {name}: the certificate ends in {}", length(left)),
                again,
            ),
            Ok(_) => findings.add(
                State::Ok,
                None,
                format!(
                    "agent {name} is paired, role {}, until {}",
                    role.word(),
                    paired.expires_at.strftime("%Y-%m-%d")
                ),
                "",
            ),
        }
    }
}

/// The jobs that are installed, and how they last ended.
fn of_schedule(findings: &mut Findings) {
    let mut jobs = 0;
    for name in JobName::ALL {
        let installed = |scheduler: &Scheduler| scheduler.installed(name).ok().flatten();
        for job in Scheduler::ALL.iter().filter_map(installed) {
            jobs += 1;
            let log = JobLog::in_dir(&job_logs(), name);
            let (last, is_running) = (log.last(), log.is_running());
            let failed = last.as_ref().is_some_and(|last| !is_running && last.exit != Some(0));
            let outcome = last.map_or_else(|| "it never ran".to_owned(), |last| last.outcome(is_running));
            findings.add(
                if failed { State::Fail } else { State::Ok },
                None,
                format!("job {} ({}, {}): {outcome}", name.word(), job.scheduler.word(), job.place),
                if failed { format!("`{}` says why", log.path().display()) } else { String::new() },
            );
        }
    }
    if jobs == 0 {
        findings.add(
            State::Warn,
            None,
            "no job is installed here: who pulls?",
            "`puller schedule install`, unless a line of your own does",
        );
    }
}
