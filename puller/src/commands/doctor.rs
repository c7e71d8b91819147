//! `puller doctor`: the configuration, the store and each source, every finding ok, warn or fail, with what mends it.

use super::text;
use crate::cli::Cli;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::pb;
use pullback_shared::text::printable;
use puller::address::Address;
use puller::client::Client;
use puller::config::{Config, job_logs, known_stores};
use puller::freshness::{CLOCK_SLACK, length};
use puller::job_log::JobLog;
use puller::manifest::{Level, Manifest};
use puller::paired::{Paired, meant, path_of};
use puller::schedule::JobName;
use puller::scheduler::Scheduler;
use puller::source_dir::{SourceDir, StoredCopy};
use puller::store::{KnownStores, Sources, Store};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// How long an agent may give no sign of life while it is asked.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// A hold that stops the commits of an application for longer is worth a word.
const HOLD_LONG: Duration = Duration::from_secs(5);

/// A full check that is longer ago is worth a word: `--verify auto` makes one every week.
const FULL_CHECK_OLD: Duration = Duration::from_secs(30 * 86_400);

/// A certificate that ends sooner is worth a word.
const CERTIFICATE_ENDS: Duration = Duration::from_secs(90 * 86_400);

/// What `doctor` is to look at.
#[derive(clap::Args)]
pub(crate) struct Doctor {
    /// Only this source; none: the configuration, the store and every source
    source: Option<String>,
    #[command(flatten)]
    door: crate::cli::Door,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Ok,
    Warn,
    Fail,
}

/// What was found, in the order of finding.
#[derive(Default)]
struct Findings(Vec<Finding>);

struct Finding {
    state: State,
    source: Option<String>,
    about: String,
    hint: String,
}

impl Findings {
    fn add(&mut self, state: State, source: Option<&str>, about: impl Into<String>, hint: impl Into<String>) {
        let source = source.map(str::to_owned);
        self.0.push(Finding { state, source, about: about.into(), hint: hint.into() });
    }

    fn fault(&mut self, source: Option<&str>, fault: &Fault) {
        self.add(State::Fail, source, fault.message.clone(), fault.hint.clone());
    }
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

impl Finding {
    fn print(&self, cli: &Cli) {
        let Self { state, source, about, hint } = self;
        let (word, color) = match state {
            State::Ok => ("ok", 32),
            State::Warn => ("warn", 33),
            State::Fail => ("fail", 31),
        };
        if cli.common.json {
            let line =
                serde_json::json!({"v": 1, "state": word, "source": source, "about": about, "hint": hint});
            return println!("{line}");
        }
        let of_source = source.as_ref().map(|source| format!("{source}: ")).unwrap_or_default();
        let padding = " ".repeat(6 - word.len());
        let word = if cli.colors(&std::io::stdout()) { text::colored(word, color) } else { word.to_owned() };
        println!("{word}{padding}{of_source}{}", printable(about, 1000));
        if !hint.is_empty() {
            println!("      {}", printable(hint, 1000));
        }
    }
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
            format!("`chmod 700 {shown}`"),
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
            let shown = file.display();
            findings.add(
                State::Fail,
                None,
                format!("agent {name}: its file has mode {mode:03o}: others may read the key, and pull in your name"),
                format!("`chmod 600 {shown}`; if somebody may have read it, `pullback-agent peers revoke` there, and {again}"),
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

fn of_never_pulled(name: &str, config: &Config, asked: &Doctor, findings: &mut Findings) {
    findings.add(
        State::Warn,
        Some(name),
        "is configured, and was never pulled",
        format!("`puller pull {name}`"),
    );
    let Some(table) = config.about(Some(name)) else { return };
    if let Ok(Some(address)) = Address::written(&table.address).map(|address| address.map(meant)) {
        let reply = ask(&address, config, Some(name), asked);
        of_agent(name, &address, reply, None, table.optional, findings);
    }
}

/// Asks the agent of `address`, whose table in the configuration is called `table`, what it is and what it sees there.
fn ask(
    address: &Address,
    config: &Config,
    table: Option<&str>,
    asked: &Doctor,
) -> Result<pb::InfoReply, Fault> {
    Client::open(address, &super::door(&asked.door, config, table, ANSWER_WAIT)?)?.info(false)
}

fn of_source(source: &SourceDir, config: &Config, asked: &Doctor, now: Timestamp, findings: &mut Findings) {
    let name = source.shown();
    let copies = match source.copies() {
        Ok(copies) => copies,
        Err(fault) => return findings.fault(Some(&name), &fault),
    };
    of_copies(source, &copies, now, findings);
    let table = config.table_of(source);
    let newest = copies.iter().rev().find_map(|copy| copy.manifest.as_ref().ok());
    match source.address() {
        Ok(address) => {
            let address = meant(address);
            if let Some((table, settings)) = table {
                of_table(source, &address, table, &settings.address, findings);
            }
            let reply = ask(&address, config, table.map(|(name, _)| name), asked);
            let is_optional = table.is_some_and(|(_, table)| table.optional);
            of_agent(&name, &address, reply, newest, is_optional, findings);
        }
        Err(fault) if source.has_no_address() => {
            findings.add(State::Warn, Some(&name), fault.message, fault.hint);
        }
        Err(fault) => findings.fault(Some(&name), &fault),
    }
}

/// Whether the store and the configuration mean the same by a name and by an address.
fn of_table(source: &SourceDir, address: &Address, table: &str, configured: &str, findings: &mut Findings) {
    let name = source.shown();
    // Of two places behind ssh nobody knows here: paths have many spellings there.
    let may_be_one = |at: &Address| matches!((at, address), (Address::Ssh { .. }, Address::Ssh { .. }));
    let configured_at = Address::written(configured).ok().flatten();
    if configured_at.is_some_and(|at| !source.is_at(&at) && !may_be_one(&at)) {
        findings.add(
            State::Fail,
            Some(&name),
            format!(
                "is at `{address}` in the store, and at `{}` in the configuration",
                printable(configured, 300)
            ),
            format!(
                "if it is at the latter now, `puller sources adopt {name} {}`",
                printable(configured, 300)
            ),
        );
    } else if source.about.name.as_deref().is_some_and(|name| name != table) {
        findings.add(
            State::Fail,
            Some(&name),
            format!("is called `{table}` in the configuration"),
            format!("`puller sources rename {name} {table}`"),
        );
    }
}

fn of_copies(source: &SourceDir, copies: &[StoredCopy], now: Timestamp, findings: &mut Findings) {
    let name = source.shown();
    let good = copies.iter().filter(|copy| copy.is_good()).count();
    match good {
        0 => findings.add(State::Fail, Some(&name), "has no good copy", format!("`puller pull {name}`")),
        _ => findings.add(State::Ok, Some(&name), format!("copies: {}, good: {good}", copies.len()), ""),
    }
    for copy in copies.iter().filter(|copy| copy.verdict() == pullback_shared::verdict::Verdict::Rotten) {
        let about = format!("copy {} is rotten: it is no longer what was stored", copy.id);
        findings.add(State::Fail, Some(&name), about, "doc/operations.md, \"A rotten copy\"");
    }
    if let Some(newest) = copies.last().filter(|copy| matches!(copy.verdict().word(), "damaged" | "suspect"))
    {
        let about = format!("the newest copy, {}, is {}", newest.id, newest.verdict());
        findings.add(State::Fail, Some(&name), about, format!("`puller show {name} {}` says why", newest.id));
    }
    for missing in source.missing_copies().unwrap_or_default() {
        let about = format!("copy {missing} was stored, and its manifest is gone");
        findings.add(State::Fail, Some(&name), about, "`puller verify --all` says which copies are whole");
    }
    let full = copies
        .iter()
        .filter_map(|copy| copy.manifest.as_ref().ok()?.check(Level::Full))
        .map(|check| check.at);
    let since = full.max().and_then(|at| Duration::try_from(now.duration_since(at)).ok());
    let hint = format!("`puller verify {name} latest --full`");
    match since {
        Some(since) if since <= FULL_CHECK_OLD => {}
        Some(since) => {
            findings.add(
                State::Warn,
                Some(&name),
                format!("the last full check was {} ago", length(since)),
                hint,
            );
        }
        None if good > 0 => {
            findings.add(State::Warn, Some(&name), "no copy ever had SQLite's full check", hint)
        }
        None => {}
    }
}

fn of_agent(
    name: &str,
    address: &Address,
    reply: Result<pb::InfoReply, Fault>,
    newest: Option<&Manifest>,
    is_optional: bool,
    findings: &mut Findings,
) {
    let reply = match reply {
        Ok(reply) => reply,
        Err(fault) if is_optional && fault.kind == Kind::Unreachable => {
            return findings.add(
                State::Warn,
                Some(name),
                fault.message,
                "it is optional: maybe the machine is off",
            );
        }
        Err(fault) => return findings.fault(Some(name), &fault),
    };
    of_clock(name, reply.now, puller::clock::now().map_or(0, Timestamp::as_second), findings);
    let Some(database) = reply.databases.first() else { return };
    if let Some(problem) = database.problem.clone().map(Fault::decode) {
        return findings.fault(Some(name), &problem);
    }
    let release = pullback_shared::RELEASE;
    let about =
        format!("`{address}` answers: agent {}, SQLite {}", reply.agent_version, reply.sqlite_version);
    match reply.agent_version == release {
        true => findings.add(State::Ok, Some(name), about, ""),
        false => findings.add(
            State::Warn,
            Some(name),
            format!("{about}; this is puller {release}"),
            "they understand each other; update both to the same release when you can",
        ),
    }
    of_journal(name, database, newest, findings);
}

/// An agent of an earlier release does not tell its time: 0.
fn of_clock(name: &str, told: i64, now: i64, findings: &mut Findings) {
    let apart = now.saturating_sub(told);
    if told == 0 || apart.unsigned_abs() <= CLOCK_SLACK.as_secs().unsigned_abs() {
        return;
    }
    let by = length(Duration::from_secs(apart.unsigned_abs()));
    let way = if apart > 0 { "behind" } else { "ahead of" };
    findings.add(
        State::Warn,
        Some(name),
        format!("the agent's clock is {by} {way} this machine's"),
        "see which of the two is wrong, and set it: `timedatectl` on a Linux machine says whether it is set over the network",
    );
}

fn of_journal(name: &str, database: &pb::DatabaseInfo, newest: Option<&Manifest>, findings: &mut Findings) {
    if database.journal == "wal" {
        let about = format!(
            "journal wal: writers go on while it is read. The newest rows may be in the `-wal` ({} now), which `cp` or `scp` of \
             the database file alone leaves behind; a pull has them",
            text::bytes(database.wal_bytes)
        );
        return findings.add(State::Ok, Some(name), about, "");
    }
    // The time of the newest copy's hold, for as many bytes as there are now.
    let held = newest.filter(|manifest| manifest.bytes > 0).map(|manifest| {
        let growth = database.file_bytes as f64 / manifest.bytes as f64;
        Duration::try_from_secs_f64(manifest.transfer.held_seconds * growth).unwrap_or(Duration::MAX)
    });
    let size = text::bytes(database.file_bytes);
    match held {
        Some(held) => findings.add(
            if held > HOLD_LONG { State::Warn } else { State::Ok },
            Some(name),
            format!(
                "rollback journal: commits wait while {size} are read, about {:.3} s by the newest copy's hold",
                held.as_secs_f64()
            ),
            if held > HOLD_LONG { "`PRAGMA journal_mode=WAL` lets writers go on" } else { "" },
        ),
        None => findings.add(
            State::Warn,
            Some(name),
            format!("rollback journal: commits wait while its {size} are read"),
            "`PRAGMA journal_mode=WAL` lets writers go on; the first pull tells how long one takes",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_told_of_and_one_that_is_not_told_of_is_not() {
        let now = 1_795_000_000;
        let warned = |told: i64| {
            let mut findings = Findings::default();
            of_clock("gym", told, now, &mut findings);
            findings.0.pop().map(|finding| finding.about)
        };
        for right in [0, now, now - 300, now + 300] {
            assert_eq!(warned(right), None, "{right}");
        }
        assert!(warned(now - 301).is_some_and(|about| about.contains("behind")));
        assert!(warned(now + 301).is_some_and(|about| about.contains("ahead of")));
        // As a hostile agent tells.
        for hostile in [i64::MIN, -1, i64::MAX] {
            assert!(warned(hostile).is_some(), "{hostile}");
        }
    }
}
