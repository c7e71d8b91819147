//! stand-in
use pullback_shared::fault::{Fault, Kind};
use rusqlite::Connection;
use std::path::Path;
/// x
pub struct Replaced {
    /// x
    pub table: String,
    /// x
    pub rows_before: Option<u64>,
    /// x
    pub rows: u64,
}
/// x
pub fn replace(
    _c: &mut Connection,
    _p: &Path,
    _n: &[String],
    _m: &mut dyn FnMut() -> Result<(), Fault>,
) -> Result<Vec<Replaced>, Fault> {
    Err(Fault::new(Kind::Internal, "later"))
}
