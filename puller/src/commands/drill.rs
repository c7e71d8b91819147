//! `puller drill`: whether the newest good copy can be restored, and how long that takes.

use super::text;
use crate::cli::Cli;
use clap::builder::BoolishValueParser;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use puller::config::Config;
use puller::drill::{self, Drilled};
use puller::source_dir::{SourceDir, StoredCopy};
use puller::{clock, history, verify};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What `drill` was asked.
#[derive(clap::Args)]
pub(crate) struct Drill {
    /// The source
    #[arg(required_unless_present = "all")]
    source: Option<String>,
    /// Every source of the store
    #[arg(long, conflicts_with = "source", env = "PULLER_ALL", value_parser = BoolishValueParser::new())]
    all: bool,
    /// The folder to restore into; nothing stays there [default: beside the copies]
    #[arg(long, value_name = "DIR", env = "PULLER_TO")]
    to: Option<PathBuf>,
}

pub(crate) fn run(cli: &Cli, asked: &Drill) -> Result<u8, Fault> {
    let (store, config) = (super::open_store(cli)?, super::read_config(cli)?);
    let (mut drills, mut failed) = (0, Vec::new());
    let mut drill = |source: &SourceDir| {
        drills += 1;
        let (code, fault) = of_source(cli, asked, &config, source)?;
        if let Some(fault) = fault {
            super::say_fault(&fault);
            failed.push(fault.kind.exit());
        }
        Ok(code)
    };
    let code = match &asked.source {
        Some(source) => drill(&store.named(source)?)?,
        None => super::with_each_source(&store, &mut drill)?,
    };
    Ok(match (code, failed.as_slice()) {
        (code, []) => code,
        (_, [only]) if drills == 1 => *only,
        (0, _) => Kind::Partly.exit(),
        (code, _) => code,
    })
}

/// The exit code of what was found, or why it came to nothing; either way it stands in the history.
fn of_source(
    cli: &Cli,
    asked: &Drill,
    config: &Config,
    source: &SourceDir,
) -> Result<(u8, Option<Fault>), Fault> {
    let lock = source.lock()?;
    let (now, began) = (clock::now()?, Instant::now());
    let expect = config.table_of(source).map(|(_, table)| table.expect.clone()).unwrap_or_default();
    let drill = |copy: &StoredCopy| drill::run(source, copy, asked.to.as_deref(), &expect, now, &lock);
    let (copy, drilled) = match source.copy("latest") {
        Ok(copy) => {
            let drilled = match drill(&copy) {
                // It is named and set aside, and where only its list of page hashes had rotted, it can be restored after all.
                Err(fault) if fault.kind == Kind::Rotten => {
                    match verify::copy(source, &copy, false, now, &lock, &|_| {})?.is_mended {
                        true => drill(&copy),
                        false => Err(fault),
                    }
                }
                drilled => drilled,
            };
            (Some(copy), drilled)
        }
        Err(fault) => (None, Err(fault)),
    };
    puller::packing::settle(source, &lock)?;
    let took = began.elapsed();
    let line = line(source, copy.as_ref(), &drilled, took, now);
    history::add(source, &line)?;
    if cli.common.json {
        println!("{line}");
    }
    Ok(match drilled {
        Ok(drilled) => {
            let id = copy.map(|copy| copy.id).unwrap_or_default();
            say(cli, source, &id, &drilled, took);
            (if drilled.passed { 0 } else { Kind::Damaged.exit() }, None)
        }
        Err(fault) => (0, Some(fault)),
    })
}

fn line(
    source: &SourceDir,
    copy: Option<&StoredCopy>,
    drilled: &Result<Drilled, Fault>,
    took: Duration,
    now: Timestamp,
) -> Value {
    let (good, fault) = (drilled.as_ref().ok(), drilled.as_ref().err());
    json!({
        "v": 1, "at": clock::rfc3339(now), "run": "drill", "source": source.shown(),
        "outcome": if good.is_some_and(|drilled| drilled.passed) { "passed" } else { "failed" },
        "copy": copy.map(|copy| &copy.id), "bytes": good.map(|drilled| drilled.bytes),
        "verdict": good.map(|drilled| drilled.verdict.word()), "tables": good.map(|drilled| drilled.tables),
        "rows": good.map(|drilled| drilled.rows), "findings": good.map_or(&[][..], |drilled| &drilled.findings),
        "duration_seconds": took.as_secs_f64(), "error": fault.map(super::error_json),
    })
}

fn say(cli: &Cli, source: &SourceDir, copy: &str, drilled: &Drilled, took: Duration) {
    let (shown, size) = (source.shown(), text::bytes(drilled.bytes));
    let seconds = took.as_secs_f64();
    let Drilled { tables, rows, verdict, .. } = drilled;
    let counts = format!("{size}, tables: {tables}, rows: {rows}, {seconds:.1} s");
    if !drilled.passed {
        let code = Kind::Damaged.code();
        eprintln!(
            "error: {shown}: {copy} was restored, and is not as it should be ({verdict}; {counts}) [{code}]"
        );
        drilled.findings.iter().for_each(|line| eprintln!("  {}", printable(line, 1000)));
    } else if !cli.common.json && !cli.common.quiet {
        println!("{shown}: {copy} was restored, opened and checked in full: {verdict}, {counts}");
        drilled.findings.iter().for_each(|line| println!("  {}", printable(line, 1000)));
    }
}
