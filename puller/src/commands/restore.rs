//! `puller restore … --to FILE`.

use super::text;
use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use puller::{restore, verify};
use std::path::Path;

pub(crate) fn run(cli: &Cli, source: &str, copy: &str, to: &Path, dry_run: bool) -> Result<u8, Fault> {
    let source = super::open_store(cli)?.named(source)?;
    let copy = source.copy(copy)?;
    let restored = match restore::to_new_file(&source, &copy, to, dry_run) {
        // It is set aside, and where only its list of page hashes had rotted, it can be restored after all. Another run that
        // works on the source, or a dry run, leaves that to `verify`.
        Err(fault) if fault.kind == Kind::Rotten && !dry_run => match source.lock() {
            Ok(lock) => {
                let now = puller::clock::now()?;
                // It may have been removed, or written to, before the lock was there.
                let Ok(copy) = source.copy(&copy.id) else { return Err(fault) };
                match verify::copy(&source, &copy, false, now, &lock, &|_| {})?.is_mended {
                    true => restore::to_new_file(&source, &copy, to, dry_run)?,
                    false => return Err(fault),
                }
            }
            Err(_) => return Err(fault),
        },
        restored => restored?,
    };
    if cli.common.json {
        let line = serde_json::json!({
            "v": 1, "source": source.shown(), "copy": restored.copy, "outcome": if dry_run { "planned" } else { "restored" },
            "target": restored.target, "bytes": restored.bytes, "journal": restored.journal,
        });
        println!("{line}");
    } else if !cli.common.quiet {
        let done = if dry_run { "would be restored" } else { "restored and proven" };
        let (target, size) = (restored.target.display(), text::bytes(restored.bytes));
        println!("{} {done}: `{target}`, {size}, journal {}", restored.copy, restored.journal);
    }
    Ok(0)
}
