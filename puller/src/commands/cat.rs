//! `puller cat`: the database file of a copy, byte for byte, on stdout.

use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use puller::source_dir::{SourceDir, StoredCopy};
use puller::unpacked::Unpacked;
use puller::verify;
use std::fs::File;
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
    let (source, copy) = proven(cli, &asked.source, &asked.copy)?;
    let unpacked = Unpacked::of(&source, &copy)?;
    let shown = unpacked.path().display();
    let io = |error: std::io::Error| Fault::io(format!("`{shown}`"), &error);
    let expected = copy.manifest.as_ref().map_or(0, |manifest| manifest.bytes);
    let mut file = File::open(unpacked.path()).map_err(io)?;
    let mut out = std::io::stdout().lock();
    let (mut buffer, mut written) = (vec![0; CHUNK], 0);
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(io(error)),
        };
        match out.write_all(&buffer[..read]) {
            Ok(()) => written += read as u64,
            // Whoever reads has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(0),
            Err(error) => return Err(Fault::io("standard output", &error)),
        }
    }
    out.flush().map_err(|error| Fault::io("standard output", &error))?;
    match written == expected {
        true => Ok(0),
        false => Err(Fault::new(
            Kind::Rotten,
            format!("copy {} changed while it was read: {written} bytes came of {expected}", copy.id),
        )),
    }
}

/// The copy that is meant, once it is known to be what it was: what looks into it is not to be told of rot as if it were rows.
pub(super) fn proven(cli: &Cli, source: &str, copy: &str) -> Result<(SourceDir, StoredCopy), Fault> {
    let source = super::open_store(cli)?.named(source)?;
    let copy = source.copy(copy)?;
    verify::read(&source, &copy, false, &|_| {})?.map_err(|why| {
        Fault::new(Kind::Rotten, format!("copy {} is rotten: {why}", copy.id))
            .hint(format!("take another: `puller list {}` shows them", source.shown()))
    })?;
    Ok((source, copy))
}
