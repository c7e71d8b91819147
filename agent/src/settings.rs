//! Where and how an agent works, whichever door it stands behind.

use crate::room::{Room, RoomLimits};
use crate::source::HoldLimits;
use pullback_shared::frame::Compression;
use std::path::PathBuf;

/// Where and how an agent works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where mirrors and spools go; `None` behind the local door, which has neither.
    pub state_dir: Option<PathBuf>,
    /// Whether to keep mirrors.
    pub mirror: bool,
    /// What state may take.
    pub room: RoomLimits,
    /// Waiting for and holding a source.
    pub hold: HoldLimits,
    /// Of frames.
    pub compression: Compression,
    /// Whether a database may be put in the place of one that is there, or of none.
    pub allow_restore: bool,
}

impl Settings {
    /// Behind the local door: no state, nothing compressed.
    pub fn local() -> Self {
        Self {
            state_dir: None,
            mirror: false,
            room: RoomLimits::default(),
            hold: HoldLimits::default(),
            compression: Compression::None,
            // Whoever sits at this machine may write the file anyway.
            allow_restore: true,
        }
    }

    /// Where unnamed files go: into the state directory, or, where that cannot be written, to the system's place for such.
    pub fn temp_dir(&self) -> PathBuf {
        let usable =
            |dir: &PathBuf| dir.is_dir() && rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
        self.state_dir.clone().filter(usable).unwrap_or_else(std::env::temp_dir)
    }

    /// What may still be written there.
    pub fn room(&self) -> Room {
        Room::new(&self.temp_dir(), self.room)
    }
}
