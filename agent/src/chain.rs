//! The chain: which snapshots a mirror can give. The newest lies in it; each kept delta leads from the next one back to it.

use pullback_shared::page::Geometry;
use pullback_shared::snapshot::SnapshotId;
use serde::{Deserialize, Serialize};

/// The version of the files of a mirror; another one is discarded.
const FORMAT: u32 = 2;

/// Kept deltas, at most. Whoever reads the oldest snapshot has them all open, and several may.
pub const KEPT_MAX: usize = 48;

/// Bytes of all kept deltas together, at most: this, or where that is more the share of the mirror's own.
pub const KEPT_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// All kept deltas together may take one in so many of the mirror's bytes.
pub const KEPT_BYTES_SHARE: u64 = 8;

/// A kept delta older than this is dropped, in seconds: 30 days.
pub const KEPT_SECONDS_MAX: u64 = 30 * 24 * 3600;

/// A kept delta with a greater number is no chain's: nobody refreshes so often.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// A snapshot that a mirror can give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MirrorState {
    /// Its name.
    pub snapshot: SnapshotId,
    /// Its shape.
    pub geometry: Geometry,
}

/// A delta that leads back, to `state`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// Which one; they count on by one, and no number is used again.
    pub number: u64,
    /// What it leads to, from the snapshot after it.
    pub state: MirrorState,
    /// Of its file.
    pub bytes: u64,
    /// When it was made, in seconds since 1970.
    pub made_at: u64,
}

/// What a mirror can give.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Tells this mirror from one that was made anew in its place.
    pub lineage: u64,
    /// What its pages and hashes are.
    pub newest: MirrorState,
    /// The ways back, oldest first.
    pub kept: Vec<Kept>,
    /// The number of the delta that is kept next.
    pub next_number: u64,
}

impl Chain {
    /// That of a new mirror.
    pub fn new(newest: MirrorState) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self {
            lineage: RandomState::new().hash_one(newest.snapshot),
            newest,
            kept: Vec::new(),
            next_number: 1,
        }
    }

    /// What it knows of `snapshot`, and the number of the delta that leads back to it, or would.
    pub fn find(&self, snapshot: SnapshotId) -> Option<(u64, MirrorState)> {
        if self.newest.snapshot == snapshot {
            return Some((self.next_number, self.newest));
        }
        let kept = self.kept.iter().rfind(|kept| kept.state.snapshot == snapshot)?;
        Some((kept.number, kept.state))
    }

    /// The deltas that lead back to the snapshot with `number`, oldest first; `None` when they are not all there any more.
    pub fn since(&self, number: u64) -> Option<&[Kept]> {
        let oldest = self.next_number - self.kept.len() as u64;
        let from = number.checked_sub(oldest)?;
        self.kept.get(usize::try_from(from).ok()?..)
    }

    /// Bytes that all kept deltas may take.
    pub fn kept_bytes_max(&self) -> u64 {
        KEPT_BYTES_MIN.max(self.newest.geometry.bytes() / KEPT_BYTES_SHARE)
    }

    /// The chain after a refresh to `next`, with the delta that leads back from there, of so many bytes, if one was kept. What
    /// goes beyond the bounds is dropped, oldest first.
    pub fn advanced(&self, next: MirrorState, kept_bytes: Option<u64>, now: u64) -> Self {
        let mut chain = Self { newest: next, next_number: self.next_number + 1, ..self.clone() };
        match kept_bytes {
            Some(bytes) => {
                let (number, state) = (self.next_number, self.newest);
                chain.kept.push(Kept { number, state, bytes, made_at: now });
            }
            None => chain.kept.clear(),
        }
        let bytes_max = chain.kept_bytes_max();
        let (mut count, mut bytes) = (0, 0);
        let within = |kept: &&Kept| {
            count += 1;
            bytes += kept.bytes;
            count <= KEPT_MAX && bytes <= bytes_max && now.saturating_sub(kept.made_at) <= KEPT_SECONDS_MAX
        };
        let stay = chain.kept.iter().rev().take_while(within).count();
        chain.kept.drain(..chain.kept.len() - stay);
        chain
    }

    /// As text.
    pub fn to_json(&self) -> String {
        let kept = self.kept.iter().map(|kept| WrittenKept {
            snapshot: kept.state.snapshot.to_string(),
            page_count: kept.state.geometry.page_count,
            bytes: kept.bytes,
            made_at: kept.made_at,
        });
        let written = Written {
            format: FORMAT,
            lineage: self.lineage,
            snapshot: self.newest.snapshot.to_string(),
            page_size: self.newest.geometry.page_size.get(),
            page_count: self.newest.geometry.page_count,
            next_number: self.next_number,
            kept: kept.collect(),
        };
        serde_json::to_string(&written).expect("BUG: a chain that is no JSON")
    }

    /// From text; the error says what is wrong with it.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let state = |snapshot: &str, page_count| {
            let snapshot = SnapshotId::from_hex(snapshot)?;
            Some(MirrorState { snapshot, geometry: Geometry::new(written.page_size, page_count)? })
        };
        let next = Some(written.next_number).filter(|next| *next <= NUMBER_MAX);
        let first =
            next.and_then(|next| next.checked_sub(written.kept.len() as u64)).filter(|first| *first > 0);
        let kept = written.kept.iter().zip(first.unwrap_or(1)..).map(|(kept, number)| {
            let state = state(&kept.snapshot, kept.page_count)?;
            Some(Kept { number, state, bytes: kept.bytes, made_at: kept.made_at })
        });
        let kept: Option<Vec<Kept>> = kept.collect();
        match (written.format, first, state(&written.snapshot, written.page_count), kept) {
            (FORMAT, Some(_), Some(newest), Some(kept)) => {
                Ok(Self { lineage: written.lineage, newest, kept, next_number: written.next_number })
            }
            _ => Err("it is of another format".to_owned()),
        }
    }
}

/// `state.json` and `fold.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    lineage: u64,
    snapshot: String,
    page_size: u32,
    page_count: u32,
    next_number: u64,
    kept: Vec<WrittenKept>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKept {
    snapshot: String,
    page_count: u32,
    bytes: u64,
    made_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(number: u8) -> MirrorState {
        MirrorState { snapshot: SnapshotId([number; 32]), geometry: Geometry::new(4096, 1000).unwrap() }
    }

    fn chain_of(count: u8, bytes: u64) -> Chain {
        (1..=count).fold(Chain::new(state(0)), |chain, number| {
            chain.advanced(state(number), Some(bytes), u64::from(number))
        })
    }

    #[test]
    fn a_chain_goes_there_and_back() {
        for chain in [Chain::new(state(7)), chain_of(9, 100)] {
            assert_eq!(Chain::from_json(chain.to_json().as_bytes()), Ok(chain));
        }
        assert!(Chain::from_json(b"{\"format\":1,\"snapshot\":\"\"}").is_err());
        let far = Chain { next_number: u64::MAX, ..Chain::new(state(7)) };
        assert!(Chain::from_json(far.to_json().as_bytes()).is_err());
    }

    #[test]
    fn each_snapshot_is_found_with_the_deltas_that_lead_back_to_it() {
        let chain = chain_of(5, 100);
        for number in 0..=5 {
            let (at, found) = chain.find(state(number).snapshot).unwrap();
            assert_eq!(found, state(number));
            let back = chain.since(at).unwrap();
            assert_eq!(back.len(), usize::from(5 - number));
            assert!(back.first().is_none_or(|kept| kept.state == state(number)));
        }
        assert_eq!(chain.find(state(9).snapshot), None);
    }

    #[test]
    fn the_oldest_go_first_by_number_bytes_and_age() {
        let by_number = chain_of(100, 100);
        assert_eq!(by_number.kept.len(), KEPT_MAX);
        assert_eq!(by_number.since(1), None);
        assert_eq!(by_number.find(state(99).snapshot).map(|(number, _)| number), Some(100));
        assert_eq!(chain_of(20, KEPT_BYTES_MIN / 4).kept.len(), 4);
        let late = chain_of(5, 100).advanced(state(6), Some(100), 3 + KEPT_SECONDS_MAX);
        assert_eq!(late.kept.iter().map(|kept| kept.made_at).take(3).collect::<Vec<_>>(), [3, 4, 5]);
    }

    #[test]
    fn a_delta_that_was_not_kept_cuts_the_chain() {
        let chain = chain_of(5, 100).advanced(state(6), None, 7);
        assert_eq!((chain.kept.len(), chain.find(state(5).snapshot)), (0, None));
        assert_eq!(chain.since(5), None);
        assert_eq!(chain.since(chain.next_number), Some(&[][..]));
    }
}
