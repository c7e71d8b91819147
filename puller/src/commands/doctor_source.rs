//! What `puller doctor` looks at of one source: its copies, its table in the configuration, and its agent.

use super::doctor::Doctor;
use super::findings::{Findings, State};
use super::text;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::pb;
use pullback_shared::text::printable;
use puller::address::Address;
use puller::client::Client;
use puller::config::Config;
use puller::freshness::{CLOCK_SLACK, length};
use puller::manifest::{Level, Manifest};
use puller::paired::meant;
use puller::source_dir::{SourceDir, StoredCopy};
use std::time::Duration;

/// How long an agent may give no sign of life while it is asked.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// A hold that stops the commits of an application for longer is worth a word.
const HOLD_LONG: Duration = Duration::from_secs(5);

/// A full check that is longer ago is worth a word: `--verify auto` makes one every week.
const FULL_CHECK_OLD: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn of_never_pulled(name: &str, config: &Config, asked: &Doctor, findings: &mut Findings) {
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

pub(super) fn of_source(
    source: &SourceDir,
    config: &Config,
    asked: &Doctor,
    now: Timestamp,
    findings: &mut Findings,
) {
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
