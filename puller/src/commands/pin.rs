//! `puller pin` and `puller unpin`: a person says that a copy stays, or leaves it to the rules again.

use crate::cli::Cli;
use clap::Args;
use pullback_shared::fault::{Fault, Kind};

#[derive(Args)]
pub(crate) struct Pin {
    /// The source
    source: String,
    /// A copy: `latest`, `latest~2`, an id as `list` shows it, or the beginning of one
    copy: String,
}

/// A copy that is pinned already, or is not, is as it was asked for: nothing is done, and that is no failure.
pub(crate) fn run(cli: &Cli, asked: &Pin, pinned: bool) -> Result<u8, Fault> {
    let source = super::open_store(cli)?.named(&asked.source)?;
    let lock = source.lock()?;
    let copy = source.copy(&asked.copy)?;
    let mut manifest =
        copy.manifest.map_err(|why| Fault::new(Kind::Rotten, format!("copy {}: {why}", copy.id)))?;
    let (run, outcome) = if pinned { ("pin", "pinned") } else { ("unpin", "unpinned") };
    let line = serde_json::json!({
        "v": 1, "at": puller::clock::rfc3339(puller::clock::now()?), "run": run, "source": source.shown(),
        "outcome": outcome, "copy": copy.id,
    });
    if manifest.pinned != pinned {
        manifest.pinned = pinned;
        source.write_manifest(&manifest, &lock)?;
        puller::history::add(&source, &line)?;
    }
    match cli.common.json {
        true => println!("{line}"),
        false if !cli.common.quiet => println!("{}: copy {} is {outcome}", source.shown(), copy.id),
        false => {}
    }
    Ok(0)
}
