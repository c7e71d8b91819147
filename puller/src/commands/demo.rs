//! `puller demo`: a live database, a plain `cp` and a proven copy of the same moment, side by side on one screen.

use super::text;
use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use std::path::Path;

pub(crate) fn run(_cli: &Cli, _dir: Option<&Path>) -> Result<u8, Fault> {
    let _ = text::bytes(0);
    Err(Fault::new(Kind::Internal, "being written"))
}

pub(crate) fn write_for_ever(_database: &Path) -> Result<u8, Fault> {
    Err(Fault::new(Kind::Internal, "being written"))
}

pub(crate) fn serve(_config: &Path) -> Result<u8, Fault> {
    Err(Fault::new(Kind::Internal, "being written"))
}
