//! `puller pull`: every source asked for, one report each.

use super::progress::Bar;
use super::tell::{self, Tell};
use super::text;
use crate::cli::{Cli, Pull};
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use puller::address::Address;
use puller::clock;
use puller::config::Config;
use puller::history;
use puller::judge::Verify;
use puller::pull::{Options, Pulled, Run};
use puller::source_dir::{SourceDir, StoredCopy};
use puller::store::Store;
use serde_json::{Value, json};
use std::time::Duration;

/// Between two tries.
const RETRY_WAIT: Duration = Duration::from_secs(2);

pub(crate) fn run(cli: &Cli, asked: &Pull) -> Result<u8, Fault> {
    let config = super::read_config(cli)?;
    if asked.name.is_some() && asked.sources.len() > 1 {
        return Err(Fault::new(Kind::Usage, "`--name` is for one source"));
    }
    if asked.dry_run {
        return all(cli, asked, &config, None);
    }
    let tell = Tell::run_began(&config);
    let result = all(cli, asked, &config, Some(&tell));
    tell.run_ended(&result);
    result
}

fn all(cli: &Cli, asked: &Pull, config: &Config, tell: Option<&Tell>) -> Result<u8, Fault> {
    let mut codes = Vec::new();
    for typed in &asked.sources {
        codes.push(match tell {
            None => plan(cli, asked, config, typed)?,
            Some(tell) => one(cli, asked, config, typed, tell)?,
        });
    }
    let failed = codes.iter().filter(|code| **code != 0).count();
    match (codes.as_slice(), failed) {
        ([code], _) => Ok(*code),
        (_, 0) => Ok(0),
        _ => Ok(Kind::Partly.exit()),
    }
}

/// Pulls one source and reports; an error only for what would be wrong for all of them.
fn one(cli: &Cli, asked: &Pull, config: &Config, typed: &str, tell: &Tell) -> Result<u8, Fault> {
    let began = std::time::Instant::now();
    let mut source = None;
    let warn = |warnings: Vec<String>| warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let address = address_of(cli, config, typed).map(|address| address.to_string()).unwrap_or_default();
    warn(tell.before(&name_of(cli, asked, config, typed), &address));
    let result = attempt(cli, asked, config, typed, &mut source);
    let duration = began.elapsed();
    let at = clock::now()?;
    match result {
        Ok((shown, pulled)) => {
            let source = source.as_mut().expect("BUG: a copy without a source");
            let verdict = pulled.manifest.verdict;
            let line = report(&shown, source, &pulled, at, duration);
            let failed_before = tell::failed_last_time(source);
            record(source, &line);
            warn(tell.after(&address, &line, verdict.exit(), failed_before));
            match cli.common.json {
                true => println!("{line}"),
                false => say(cli, &shown, source, &pulled, duration),
            }
            complain(cli, &shown, source, &pulled);
            about_rotation(cli, asked, config, source);
            Ok(verdict.exit())
        }
        Err(fault) => {
            let shown = source.as_ref().map_or_else(|| typed.to_owned(), SourceDir::shown);
            let fault = with_newest_good(fault, source.as_ref());
            let line = failure(&shown, &fault, at, duration);
            if let Some(source) = source.as_ref().filter(|_| fault.kind != Kind::Locked) {
                record(source, &line);
            }
            warn(tell.after(&address, &line, fault.kind.exit(), false));
            if cli.common.json {
                println!("{line}");
            }
            eprintln!("error: `{shown}` was not pulled: {fault} [{}]", fault.kind.code());
            if !fault.hint.is_empty() {
                eprintln!("\nhint: {}", fault.hint);
            }
            Ok(fault.kind.exit())
        }
    }
}

fn attempt(
    cli: &Cli,
    asked: &Pull,
    config: &Config,
    typed: &str,
    found: &mut Option<SourceDir>,
) -> Result<(String, Pulled), Fault> {
    let now = clock::now()?;
    let address = address_of(cli, config, typed)?;
    let known = Store::open(&super::store_path(cli, config))
        .and_then(|store| store.find(Some(&address), asked.name.as_deref()));
    if let Ok(Some(source)) = &known {
        *found = Some(source.clone());
    } else {
        // Nothing is made in the store for a source that was never there: first see that there is one to pull.
        reachable(&address, asked.timeout)?;
    }
    let store = super::open_or_create_store(cli, config)?;
    let mut source = match found.take() {
        Some(source) => source,
        None => match store.find(Some(&address), asked.name.as_deref())? {
            Some(source) => source,
            None => store.create(&address, asked.name.as_deref())?,
        },
    };
    *found = Some(source.clone());
    let lock = source.lock()?;
    let options = Options {
        verify: asked.verify.or(config.verify).unwrap_or(Verify::Auto),
        full: asked.full,
        policy: (!asked.no_rotate).then(|| super::policy(asked.keep, config, source.about.name.as_deref())),
        timeout: asked.timeout,
    };
    let shown = source.shown();
    let bar = Bar::new(cli, &shown);
    let mut tries = 0;
    let pulled = loop {
        let run =
            Run { source: &mut source, lock: &lock, options: &options, now, watch: &bar }.pull(&address);
        match run {
            Err(fault) if fault.kind.is_transient() && tries < asked.retries => {
                tries += 1;
                tracing::warn!("try {tries} failed: {fault}");
                std::thread::sleep(RETRY_WAIT);
            }
            run => break run,
        }
    };
    bar.clear();
    *found = Some(source);
    Ok((shown, pulled?))
}

/// What the store calls the source; as typed, where it does not know it yet.
fn name_of(cli: &Cli, asked: &Pull, config: &Config, typed: &str) -> String {
    let known = address_of(cli, config, typed).and_then(|address| {
        Store::open(&super::store_path(cli, config))?.find(Some(&address), asked.name.as_deref())
    });
    known.ok().flatten().map_or_else(|| typed.to_owned(), |source| source.shown())
}

/// `--dry-run`: what a pull of `typed` would move. Nothing is made or changed in the store.
fn plan(cli: &Cli, asked: &Pull, config: &Config, typed: &str) -> Result<u8, Fault> {
    let at = clock::now()?;
    let planned = address_of(cli, config, typed).and_then(|address| {
        let store = Store::open(&super::store_path(cli, config)).ok();
        let source = store.map_or(Ok(None), |store| store.find(Some(&address), asked.name.as_deref()))?;
        puller::plan::plan(&address, source.as_ref(), asked.full, asked.timeout)
    });
    match planned {
        Ok(planned) if cli.common.json => {
            let line = json!({
                "v": 1, "source": typed, "outcome": "planned", "transfer": planned.transfer,
                "full_because": planned.full_because, "snapshot": planned.snapshot.to_string(),
                "page_size": planned.geometry.page_size.get(), "page_count": planned.geometry.page_count,
                "changed_pages": planned.pages, "bytes_expected": planned.bytes,
                "held_seconds": planned.held.as_secs_f64(), "error": null,
            });
            println!("{line}");
            Ok(0)
        }
        Ok(planned) => {
            let because = planned.full_because.map(|why| format!(", {why}")).unwrap_or_default();
            match planned.transfer {
                "none" => println!("{typed}: unchanged, nothing would be stored"),
                transfer => println!(
                    "{typed}: a {transfer} transfer{because}: {} of {} pages, at most {}",
                    planned.pages,
                    planned.geometry.page_count,
                    text::bytes(planned.bytes)
                ),
            }
            Ok(0)
        }
        Err(fault) => {
            if cli.common.json {
                println!("{}", failure(typed, &fault, at, Duration::ZERO));
            }
            super::say_fault(&fault);
            Ok(fault.kind.exit())
        }
    }
}

/// What `typed` means: an address, a source that the store knows, or a file here.
fn address_of(cli: &Cli, config: &Config, typed: &str) -> Result<Address, Fault> {
    if let Some(address) = Address::parse(typed)? {
        return Ok(address);
    }
    let here = std::path::Path::new(typed).symlink_metadata().is_ok();
    let known = Store::open(&super::store_path(cli, config)).and_then(|store| store.named(typed));
    match (known, here) {
        (Ok(source), false) => source.address(),
        (Ok(source), true) => {
            let address = source.address()?;
            let file = Address::Local(typed.into());
            match address.key() == file.key() {
                true => Ok(file),
                false => {
                    Err(Fault::new(Kind::Usage, format!("`{typed}` is a file here and the name of a source"))
                        .hint(format!("write `./{typed}` for the file, or `{address}` for the source")))
                }
            }
        }
        (Err(_), true) => Ok(Address::Local(typed.into())),
        (Err(fault), false) if fault.kind == Kind::Usage => Err(fault),
        (Err(_), false) => Err(Fault::new(
            Kind::Missing,
            format!("`{typed}` is no file here and no source that the store knows"),
        )
        .hint("name a database file, or HOST:PORT/NAME of an agent's database")),
    }
}

fn reachable(address: &Address, timeout: Duration) -> Result<(), Fault> {
    let reply = puller::client::Client::open(address, timeout)?.info(false)?;
    match reply.databases.into_iter().next().and_then(|database| database.problem) {
        Some(problem) => Err(Fault::decode(problem)),
        None => Ok(()),
    }
}

fn with_newest_good(fault: Fault, source: Option<&SourceDir>) -> Fault {
    let newest = source.and_then(|source| source.copies().ok()?.into_iter().rfind(StoredCopy::is_good));
    match (fault.kind, newest) {
        (Kind::Unreadable | Kind::NotADatabase | Kind::Missing, Some(copy)) => {
            let hint = format!("the newest good copy is {}; {}", copy.id, fault.hint);
            fault.hint(hint.trim_end_matches("; ").to_owned())
        }
        _ => fault,
    }
}

fn report(shown: &str, source: &SourceDir, pulled: &Pulled, at: Timestamp, duration: Duration) -> Value {
    let manifest = &pulled.manifest;
    json!({
        "v": 1,
        "at": clock::rfc3339(at),
        "run": "pull",
        "source": shown,
        "outcome": if pulled.stored { "stored" } else { "unchanged" },
        "transfer": pulled.transfer,
        "full_because": if pulled.stored { manifest.transfer.full_because.clone() } else { None },
        "snapshot": manifest.snapshot,
        "copy": manifest.copy,
        "path": puller::address::absolute(&source.file(&manifest.copy, "db")),
        "verdict": manifest.verdict.word(),
        "checked": pulled.checked.word(),
        "findings": pulled.findings,
        "page_size": manifest.page_size,
        "page_count": manifest.page_count,
        "changed_pages": pulled.changed_pages,
        "bytes_received": pulled.bytes_received,
        "bytes_sent": pulled.bytes_sent,
        "held_seconds": pulled.held.as_secs_f64(),
        "duration_seconds": duration.as_secs_f64(),
        "notes": pulled.notes,
        "removed": pulled.removed,
        "error": null,
    })
}

fn failure(shown: &str, fault: &Fault, at: Timestamp, duration: Duration) -> Value {
    json!({
        "v": 1,
        "at": clock::rfc3339(at),
        "run": "pull",
        "source": shown,
        "outcome": "failed",
        "duration_seconds": duration.as_secs_f64(),
        "error": super::error_json(fault),
    })
}

/// The copy is in the store already; a history that cannot be written is no reason to say otherwise.
fn record(source: &SourceDir, line: &Value) {
    if let Err(fault) = history::add(source, line) {
        eprintln!("warning: {fault}");
    }
}

fn say(cli: &Cli, shown: &str, source: &SourceDir, pulled: &Pulled, duration: Duration) {
    if cli.common.quiet {
        return;
    }
    let manifest = &pulled.manifest;
    let snapshot = &manifest.snapshot[..12.min(manifest.snapshot.len())];
    let (size, seconds) = (text::bytes(manifest.bytes), duration.as_secs_f64());
    match pulled.stored {
        true => {
            println!(
                "{shown}: stored {}, {size}, snapshot {snapshot}, {} ({} check)",
                manifest.copy,
                manifest.verdict,
                pulled.checked.word()
            );
            let because =
                manifest.transfer.full_because.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
            println!(
                "  {} transfer{because}: {} pages, {} received; source held {:.3} s; {seconds:.1} s in all",
                pulled.transfer,
                pulled.changed_pages,
                text::bytes(pulled.bytes_received),
                pulled.held.as_secs_f64(),
            );
        }
        false => println!(
            "{shown}: unchanged since {}, {size}, snapshot {snapshot}, {}; {} received, {seconds:.1} s",
            manifest.copy,
            manifest.verdict,
            text::bytes(pulled.bytes_received)
        ),
    }
    println!("  {}", source.file(&manifest.copy, "db").display());
    pulled.notes.iter().for_each(|note| println!("  note: {note}"));
    if !pulled.removed.is_empty() {
        println!("  removed by the policy: {}", pulled.removed.join(", "));
    }
}

/// What a person must hear even from cron.
fn complain(cli: &Cli, shown: &str, source: &SourceDir, pulled: &Pulled) {
    use pullback_shared::verdict::Verdict;
    let first = pulled.findings.first().map(String::as_str).unwrap_or_default();
    let newest = source.copies().ok().and_then(|copies| copies.into_iter().rfind(StoredCopy::is_good));
    let newest = newest
        .map_or("there is no good copy".to_owned(), |copy| format!("the newest good copy is {}", copy.id));
    match pulled.manifest.verdict {
        Verdict::Violations => {
            let more = pulled.findings.len().saturating_sub(1);
            eprintln!("warning: `{shown}` has rows that break its own rules: {first} (and {more} more)");
        }
        Verdict::Damaged => {
            eprintln!(
                "error: `{shown}` is damaged at the source; the copy is exact and {newest} [{}]",
                Kind::Damaged.code()
            );
            pulled.findings.iter().take(3).for_each(|finding| eprintln!("  SQLite: {finding}"));
            eprintln!(
                "\nhint: `puller restore {shown} --to FILE` brings the good copy back; until the source is well, each run ends like this"
            );
        }
        Verdict::Suspect => {
            eprintln!("error: `{shown}` looks emptied: {first}; {newest} [{}]", Kind::Suspect.code());
            eprintln!("\nhint: if that was meant, `puller accept {shown} {}`", pulled.manifest.copy);
        }
        Verdict::Ok | Verdict::Uncheckable | Verdict::Unchecked | Verdict::Rotten => {}
    }
    if cli.common.quiet {
        pulled
            .notes
            .iter()
            .filter(|note| note.contains("rotted") || note.contains("proof"))
            .for_each(|note| eprintln!("warning: {note}"));
    }
}

/// Without a policy nothing is ever removed; that is said once for each source.
fn about_rotation(cli: &Cli, asked: &Pull, config: &Config, source: &mut SourceDir) {
    let copies = source.copies().map_or(0, |copies| copies.len());
    let has_policy =
        asked.no_rotate || !super::policy(asked.keep, config, source.about.name.as_deref()).is_empty();
    if cli.common.quiet || source.about.told_about_rotation || copies < 2 || has_policy {
        return;
    }
    eprintln!(
        "note: {copies} copies are kept and nothing is ever removed; for a limit add `keep = {{ last = 30 }}` to `{}`, or \
         `--keep-last 30` to the command",
        puller::config::default_path().display()
    );
    // The run is over and was a success: that the note may be said again is no reason to fail.
    source.about.told_about_rotation = true;
    if let Err(fault) = source.lock().and_then(|_lock| source.write_about()) {
        tracing::debug!(%fault, "the note will be said again");
    }
}
