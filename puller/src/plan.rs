//! What a pull would move: asked of the agent, and nothing is changed here.

use crate::client::Client;
use crate::pull::{READINGS_MAX, hashes_of, is_snapshot, newest_base, open_base, shape};
use crate::source_dir::SourceDir;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::page::Geometry;
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::wire::{Base, Event, Offer, Start};
use std::time::Duration;

/// What a pull would move.
#[derive(Debug)]
pub struct Planned {
    /// `full`, `delta`, or `none` for a source that is as the newest copy.
    pub transfer: &'static str,
    /// Why every page would be sent.
    pub full_because: Option<String>,
    /// Pages that would be sent.
    pub pages: u32,
    /// Their bytes on the wire, where the agent knows them; else at most that of the pages themselves.
    pub bytes: u64,
    /// Of the snapshot.
    pub geometry: Geometry,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How long the source was held to find out.
    pub held: Duration,
}

/// Asks the agent that `client` leads to what a pull would move, building upon the newest copy in `source`. Nothing is
/// changed here.
pub fn plan(client: &mut Client, source: Option<&SourceDir>, full: bool) -> Result<Planned, Fault> {
    let newest = source.filter(|_| !full).map_or(Ok(None), newest_base)?;
    let (base, hashes) = match (source, &newest) {
        (Some(source), Some(copy)) => {
            let (geometry, snapshot) = shape(copy)?;
            let content = open_base(source, copy).map_err(|fault| match fault.kind {
                Kind::Unproven => Fault::new(Kind::Rotten, format!("copy {} is rotten: {fault}", copy.id))
                    .hint("`puller verify` says more; a pull builds upon another copy, or upon none"),
                _ => fault,
            })?;
            let hashes = hashes_of(copy, &content)?;
            (Some(Base { geometry, snapshot: Some(snapshot) }), Some(hashes))
        }
        _ => (None, None),
    };
    let start = Start { database: client.database().to_owned(), base, dry_run: true };
    let mut events = client.pull(&start, hashes)?;
    let (mut offer, mut readings) = (None, 0);
    loop {
        match events.next_event()? {
            Event::Offer(_) if offer.is_some() => {
                return Err(Fault::new(Kind::Protocol, "the agent made two offers"));
            }
            Event::Offer(offered) => offer = Some(*offered),
            Event::Frame(_) => {
                return Err(Fault::new(Kind::Protocol, "the agent sent pages though it was only asked"));
            }
            Event::Reading { .. } if readings == READINGS_MAX => {
                return Err(Fault::new(Kind::Protocol, "the agent reads and reads"));
            }
            Event::Reading { .. } => readings += 1,
            Event::NeedHashes => {}
            Event::Done(done) => {
                let offer: Offer =
                    offer.ok_or_else(|| Fault::new(Kind::Protocol, "an end before an offer"))?;
                let unchanged = newest.as_ref().is_some_and(|copy| is_snapshot(copy, done.snapshot));
                let transfer = match (unchanged, &offer.full_because) {
                    (true, _) => "none",
                    (false, None) => "delta",
                    (false, Some(_)) => "full",
                };
                let pages_bytes = u64::from(offer.pages) * u64::from(offer.geometry.page_size.get());
                return Ok(Planned {
                    transfer,
                    full_because: offer.full_because,
                    pages: offer.pages,
                    bytes: if offer.bytes > 0 { offer.bytes } else { pages_bytes },
                    geometry: offer.geometry,
                    snapshot: done.snapshot,
                    held: Duration::from_micros(done.held_micros),
                });
            }
        }
    }
}
