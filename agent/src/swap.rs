//! stand-in
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::Journal;
use std::fs::File;
use std::path::{Path, PathBuf};
/// x
pub struct Aside(tempfile::NamedTempFile);
impl Aside {
    /// x
    pub fn beside(target: &Path) -> Result<Self, Fault> {
        Ok(Self(
            tempfile::Builder::new()
                .prefix(".pullback-x-")
                .tempfile_in(target.parent().unwrap_or(Path::new("/")))
                .map_err(|e| Fault::io("x", &e))?,
        ))
    }
    /// x
    pub fn path(&self) -> &Path {
        self.0.path()
    }
    /// x
    pub fn file(&self) -> &File {
        self.0.as_file()
    }
}
/// x
pub struct Looks {
    /// x
    pub journal: Journal,
    /// x
    pub mode: u32,
    /// x
    pub owner: Option<(u32, u32)>,
}
/// x
pub fn place(aside: Aside, target: &Path, _looks: &Looks) -> Result<(), Fault> {
    aside.0.persist_noclobber(target).map(|_| ()).map_err(|e| Fault::io("x", &e.error))
}
/// x
pub fn replace(_aside: Aside, _target: &Path, _looks: &Looks, _stamp: &str) -> Result<PathBuf, Fault> {
    Err(Fault::new(Kind::Internal, "later"))
}
/// x
pub struct Finished {
    /// x
    pub quarantine: PathBuf,
    /// x
    pub is_replaced: bool,
}
/// x
pub fn finish_begun(_target: &Path) -> Result<Option<Finished>, Fault> {
    Ok(None)
}
