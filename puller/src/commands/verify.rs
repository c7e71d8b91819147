//! `puller verify`: a copy, a source, everything, or any database file.

use crate::cli::Cli;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::verdict::Verdict;
use puller::history;
use puller::manifest::Manifest;
use puller::rot;
use puller::sampling::{self, Facts, Share};
use puller::source_dir::{SourceDir, StoredCopy};
use puller::verify::{self, Verified};
use serde_json::json;
use std::path::Path;

pub(crate) fn run(
    cli: &Cli,
    typed: Option<&str>,
    copy: Option<&str>,
    full: bool,
    sample: Option<Share>,
) -> Result<u8, Fault> {
    let Some(typed) = typed else {
        let verify = |source: &SourceDir| of_source(cli, source, None, full, sample);
        return super::with_each_source(&super::open_store(cli)?, verify);
    };
    let known = super::open_store(cli).and_then(|store| store.named(typed));
    let path = Path::new(typed);
    let is_file = copy.is_none() && path.symlink_metadata().is_ok();
    match known {
        Ok(source) if !is_file || source.about.name.as_deref() == Some(typed) => {
            of_source(cli, &source, copy, full, sample)
        }
        _ if is_file && sample.is_some() => {
            Err(Fault::new(Kind::Usage, format!("`{typed}` is a file, which is read whole"))
                .hint("`--sample` is for the copies of a source, or of all with `--all`"))
        }
        _ if is_file => {
            let found = verify::file(path)?;
            say(cli, "file", typed, &found);
            Ok(found.result.exit())
        }
        Ok(source) => of_source(cli, &source, copy, full, sample),
        Err(fault) => Err(fault),
    }
}

fn of_source(
    cli: &Cli,
    source: &SourceDir,
    copy: Option<&str>,
    full: bool,
    sample: Option<Share>,
) -> Result<u8, Fault> {
    let lock = source.lock()?;
    let now = puller::clock::now()?;
    let copies = match copy {
        Some(copy) => vec![source.copy(copy)?],
        None => source.copies()?,
    };
    let due = sample.map(|share| sampling::plan(&facts(&copies), share));
    let mut worst = 0;
    for copy in &copies {
        if due.as_ref().is_some_and(|due| !due.contains(&copy.id)) {
            // What is known to be rotten is named each time, though it is not read each time.
            if copy.verdict() == Verdict::Rotten {
                say(cli, &source.shown(), &copy.id, &Verified::rotten(rot::known(source, copy)));
                worst = worst.max(Verdict::Rotten.exit());
            }
            continue;
        }
        let bar = super::progress::Bar::new(cli, &copy.id);
        let bytes = copy.manifest.as_ref().map_or(0, |manifest| manifest.bytes);
        let progress = |read| puller::pull::Watch::proving(&bar, read, bytes);
        let found = verify::copy(source, copy, full, now, &lock, &progress)?;
        bar.clear();
        remember(source, copy, &found, now)?;
        say(cli, &source.shown(), &copy.id, &found);
        worst = worst.max(found.result.exit());
    }
    if copy.is_none() {
        for missing in rot::forget(source, source.missing_copies()?, now)? {
            let found = Verified::rotten(vec!["its manifest is gone".to_owned()]);
            say(cli, &source.shown(), &missing, &found);
            worst = worst.max(found.result.exit());
        }
    }
    puller::packing::settle(source, &lock)?;
    Ok(worst)
}

/// What a sample is planned with. A copy whose manifest rotted is named without it.
fn facts(copies: &[StoredCopy]) -> Vec<Facts> {
    let manifests = copies.iter().filter_map(|copy| copy.manifest.as_ref().ok());
    let of = |manifest: &Manifest| Facts {
        id: manifest.copy.clone(),
        bytes: manifest.bytes,
        proof: manifest.proof,
    };
    manifests.map(of).collect()
}

/// Only a change of what is thought of a copy is worth a line in the history; rot is written down where it is found.
fn remember(source: &SourceDir, copy: &StoredCopy, found: &Verified, now: Timestamp) -> Result<(), Fault> {
    if copy.verdict() == found.result || found.result == Verdict::Rotten {
        return Ok(());
    }
    let line = json!({
        "v": 1, "at": puller::clock::rfc3339(now), "run": "verify", "source": source.shown(),
        "outcome": "verified", "copy": copy.id, "verdict": found.result.word(), "findings": found.detail,
    });
    history::add(source, &line)
}

fn say(cli: &Cli, source: &str, copy: &str, found: &Verified) {
    if cli.common.json {
        let line = json!({"v": 1, "source": source, "copy": copy, "result": found.result.word(), "detail": found.detail});
        println!("{line}");
        return;
    }
    let bad = found.result.exit() != 0;
    if bad {
        let kind = match found.result {
            Verdict::Rotten => Kind::Rotten,
            Verdict::Suspect => Kind::Suspect,
            _ => Kind::Damaged,
        };
        let mended = if found.is_mended { ", and mended" } else { "" };
        eprintln!("error: {copy}: {}{mended} [{}]", found.result, kind.code());
        found.detail.iter().for_each(|line| eprintln!("  {line}"));
    } else if !cli.common.quiet {
        println!("{copy}: {}", found.result);
        found.detail.iter().for_each(|line| println!("  {line}"));
    }
}
