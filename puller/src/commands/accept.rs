//! `puller accept`: a person says that a suspect copy is as it should be.

use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::verdict::Verdict;
use puller::judge;
use puller::pull::newest_good_before;

pub(crate) fn run(cli: &Cli, source: &str, copy: &str) -> Result<u8, Fault> {
    let source = super::open_store(cli)?.named(source)?;
    let lock = source.lock()?;
    let copy = source.copy(copy)?;
    let mut manifest =
        copy.manifest.clone().map_err(|why| Fault::new(Kind::Rotten, format!("copy {}: {why}", copy.id)))?;
    if manifest.verdict != Verdict::Suspect {
        return Err(Fault::new(
            Kind::Usage,
            format!("copy {} is {}, not suspect", copy.id, manifest.verdict),
        ));
    }
    manifest.accepted = true;
    let copies = source.copies()?;
    let good = newest_good_before(&copies, manifest.sequence);
    manifest.verdict = judge::verdict(&manifest, good).0;
    source.write_manifest(&manifest, &lock)?;
    puller::packing::settle(&source, &lock)?;
    let line = serde_json::json!({
        "v": 1, "at": puller::clock::rfc3339(puller::clock::now()?), "run": "accept", "source": source.shown(),
        "outcome": "accepted", "copy": copy.id, "verdict": manifest.verdict.word(),
    });
    puller::history::add(&source, &line)?;
    match cli.common.json {
        true => println!("{line}"),
        false if !cli.common.quiet => {
            println!("{}: copy {} is accepted, {}", source.shown(), copy.id, manifest.verdict)
        }
        false => {}
    }
    Ok(manifest.verdict.exit())
}
