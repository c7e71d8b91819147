//! `pullback-agent backup DB FILE`: one proven file, on the device itself.

use crate::cli::Cli;
use pullback_agent::one_file;
use pullback_agent::source::HoldLimits;
use pullback_shared::fault::Fault;
use pullback_shared::text::to_hex;
use std::path::Path;

pub(crate) fn run(cli: &Cli, database: &Path, file: &Path) -> Result<u8, Fault> {
    let (one, verdict, findings) = one_file::backup(database, file, HoldLimits::default())?;
    let (md5, held) = (to_hex(&one.md5), one.held.as_secs_f64());
    if cli.common.json {
        let line = serde_json::json!({
            "v": 1, "path": file, "snapshot": one.snapshot.to_string(), "bytes": one.geometry.bytes(), "md5": md5,
            "verdict": verdict.word(), "findings": findings, "held_seconds": held,
        });
        println!("{line}");
    } else if !cli.common.quiet {
        let (bytes, shown) = (one.geometry.bytes(), file.display());
        println!("`{shown}`: {bytes} bytes, snapshot {}, md5 {md5}, verdict {verdict}", one.snapshot.short());
        println!("the source was held for {held:.3} s");
    }
    if !cli.common.json && verdict.exit() != 0 {
        eprintln!("SQLite finds the source damaged; the file is an exact copy of it:");
    }
    if !cli.common.json {
        findings.iter().for_each(|line| eprintln!("  {line}"));
    }
    Ok(verdict.exit())
}
