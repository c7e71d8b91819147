//! `puller cat`: the database file of a copy, byte for byte, on stdout.

use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use puller::manifest::Manifest;
use puller::unpacked;
use std::io::{ErrorKind, IsTerminal, Read, Write};

/// Bytes written at once.
const CHUNK: usize = 256 * 1024;

/// What `puller cat` is asked.
#[derive(clap::Args)]
pub(crate) struct Cat {
    /// The source
    source: String,
    /// A copy: `latest`, `latest~2`, an id as `list` shows it, or the beginning of one
    #[arg(default_value = "latest")]
    copy: String,
}

pub(crate) fn run(cli: &Cli, asked: &Cat) -> Result<u8, Fault> {
    if std::io::stdout().is_terminal() {
        return Err(Fault::new(Kind::Usage, "a database is nothing for a terminal to show").hint(format!(
            "`puller cat {} > FILE` writes it to a file; `puller open` opens it",
            asked.source
        )));
    }
    let source = super::open_store(cli)?.named(&asked.source)?;
    let copy = source.copy_to_restore(&asked.copy)?;
    let content = unpacked::open(&source, &copy)?;
    let snapshot = copy.manifest.as_ref().ok().and_then(Manifest::snapshot_id);
    let snapshot = snapshot.ok_or_else(|| unpacked::rotten(&source, &copy, "its manifest makes no sense"))?;
    let rotten = |error: std::io::Error| unpacked::rotten(&source, &copy, &error.to_string());
    // No page goes out that is not what it was.
    let mut pages = content.proven_pages(snapshot).map_err(rotten)?;
    let mut out = std::io::stdout().lock();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = match pages.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(rotten(error)),
        };
        match out.write_all(&buffer[..read]) {
            Ok(()) => {}
            // Whoever reads has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(0),
            Err(error) => return Err(Fault::io("standard output", &error)),
        }
    }
    out.flush().map_err(|error| Fault::io("standard output", &error))?;
    Ok(0)
}
