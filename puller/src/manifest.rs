//! The manifest: what is known of one copy, in a JSON file beside it that carries its own check value.
//!
//! The first line after `{` holds the BLAKE3 of everything that follows that line, so that a manifest that rotted is
//! known for it. `doc/format.md` lists the fields.

use crate::sealed;
use jiff::Timestamp;
use pullback_shared::page::Geometry;
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::verdict::Verdict;
use pullback_shared::wire::SourceFacts;
use serde::{Deserialize, Serialize};

/// The version of the manifest's fields.
const VERSION: u32 = 1;

/// What is known of a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of these fields: 1.
    pub v: u32,
    /// The copy's id, which its files are named by.
    pub copy: String,
    /// Its place in the order of copies; never used twice for a source.
    pub sequence: u64,
    /// The snapshot's name, 64 hex digits.
    pub snapshot: String,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages.
    pub page_count: u32,
    /// Bytes of the database file.
    pub bytes: u64,
    /// MD5 of the database file in hex, once it was read for it.
    pub md5: Option<String>,
    /// When the run that brought it began, by the puller's clock.
    pub taken_at: Timestamp,
    /// When it was last read whole and found to be what it is to be, by the puller's clock.
    #[serde(default)]
    pub proven_at: Option<Timestamp>,
    /// The number of its newest proof, passed or not, counted over all copies of the source: the smallest is the one that was
    /// not looked at for longest, whatever clocks said. 0: there was none.
    #[serde(default)]
    pub proof: u64,
    /// About the source, as the agent told.
    pub source: SourceFacts,
    /// How it came.
    pub transfer: Transfer,
    /// What is in it, for telling an emptied source.
    pub contents: Contents,
    /// The newest check of each kind.
    pub checks: Vec<Check>,
    /// What the checks say together.
    pub verdict: Verdict,
    /// A suspect copy that a person called good.
    #[serde(default)]
    pub accepted: bool,
    /// A copy of which a person said that it stays.
    #[serde(default)]
    pub pinned: bool,
    /// A copy that was taken of what a restore was about to replace, and that no pull has found again since: `latest` of a restore
    /// does not mean it.
    #[serde(default)]
    pub safety: bool,
    /// What `expect` in the configuration asked for when the copy was pulled, and was not there.
    #[serde(default)]
    pub unmet: Option<String>,
}

/// How a copy came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// `full` or `delta`.
    pub kind: String,
    /// The snapshot of the copy it was built upon.
    pub base: Option<String>,
    /// Why every page was sent.
    pub full_because: Option<String>,
    /// Pages received.
    pub changed_pages: u64,
    /// Bytes received over the connection.
    pub bytes_received: u64,
    /// Bytes sent over it.
    pub bytes_sent: u64,
    /// How long the source was held.
    pub held_seconds: f64,
}

/// What is in a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Tables that are not SQLite's own; absent where SQLite cannot read the schema or was not asked.
    pub tables: Option<u64>,
    /// Pages less those on the free list.
    pub used_pages: u32,
}

/// How closely a copy was looked at, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Read back and compared with the snapshot's hashes.
    Hash,
    /// And `PRAGMA quick_check`.
    Quick,
    /// And `PRAGMA integrity_check` and `PRAGMA foreign_key_check`.
    Full,
}

impl Level {
    /// The word in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// One look at a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// How closely.
    pub level: Level,
    /// When, by the puller's clock.
    pub at: Timestamp,
    /// What it said.
    pub result: Verdict,
    /// What SQLite found, its first rows.
    pub findings: Vec<String>,
}

impl Manifest {
    /// The version that this release writes.
    pub const VERSION: u32 = VERSION;

    /// The snapshot's name, as a value.
    pub fn snapshot_id(&self) -> Option<SnapshotId> {
        SnapshotId::from_hex(&self.snapshot)
    }

    /// The copy's shape.
    pub fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.page_size, self.page_count).filter(|geometry| geometry.bytes() == self.bytes)
    }

    /// The closest look so far.
    pub fn checked(&self) -> Level {
        self.checks.iter().map(|check| check.level).max().unwrap_or(Level::Hash)
    }

    /// The newest check of `level`.
    pub fn check(&self, level: Level) -> Option<&Check> {
        self.checks.iter().find(|check| check.level == level)
    }

    /// Why it is rotten, as it was found last.
    pub fn rot(&self) -> &[String] {
        let found = self.check(Level::Hash).filter(|check| check.result == Verdict::Rotten);
        found.map_or(&[], |check| &check.findings)
    }

    /// Records that it was read whole at `at` and is what it is to be; `proof` is the number of this proof.
    pub fn proven(&mut self, at: Timestamp, proof: u64) {
        (self.proven_at, self.proof) = (Some(at), proof);
        self.checks.retain(|check| check.result != Verdict::Rotten);
    }

    /// Records that it has rotted, and what is wrong with it.
    pub fn rotted(&mut self, at: Timestamp, proof: u64, why: &str) {
        (self.verdict, self.proof) = (Verdict::Rotten, proof);
        self.record(Check {
            level: Level::Hash,
            at,
            result: Verdict::Rotten,
            findings: vec![why.to_owned()],
        });
    }

    /// Whether SQLite looked at it as closely as `level`, or closer, and found nothing.
    pub fn passed(&self, level: Level) -> bool {
        let fine = |result| matches!(result, Verdict::Ok | Verdict::Uncheckable);
        self.checks.iter().any(|check| check.level >= level && fine(check.result))
    }

    /// Whether SQLite's full check found no damage in it.
    pub fn passed_full(&self) -> bool {
        self.check(Level::Full).is_some_and(|check| check.result != Verdict::Damaged)
    }

    /// Records a check in place of an older one of its level.
    pub fn record(&mut self, check: Check) {
        self.checks.retain(|older| older.level != check.level);
        self.checks.push(check);
    }

    /// As the bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        sealed::to_bytes(self)
    }

    /// From the bytes of its file; the error says what is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = sealed::from_bytes(bytes, "the manifest")?;
        match manifest.v {
            VERSION => Ok(manifest),
            newer => Err(format!("the manifest is of version {newer}; this release knows version {VERSION}")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn manifest(sequence: u64) -> Manifest {
        Manifest {
            v: VERSION,
            copy: format!("gym-{sequence:06}-20261121T090000Z"),
            sequence,
            snapshot: "0".repeat(64),
            page_size: 4096,
            page_count: 1,
            bytes: 4096,
            md5: None,
            taken_at: "2026-11-21T09:00:00Z".parse().unwrap(),
            proven_at: None,
            proof: 0,
            source: SourceFacts::default(),
            transfer: Transfer {
                kind: "full".into(),
                base: None,
                full_because: None,
                changed_pages: 1,
                bytes_received: 1,
                bytes_sent: 1,
                held_seconds: 0.1,
            },
            contents: Contents::default(),
            checks: Vec::new(),
            verdict: Verdict::Ok,
            accepted: false,
            pinned: false,
            safety: false,
            unmet: None,
        }
    }

    #[test]
    fn every_flipped_bit_of_a_manifest_is_noticed() {
        let bytes = manifest(1).to_bytes();
        assert_eq!(Manifest::from_bytes(&bytes).unwrap(), manifest(1));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut rotten = bytes.clone();
                rotten[at] ^= 1u8 << bit;
                assert!(Manifest::from_bytes(&rotten).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    /// A manifest's file whose fields are `rest`, with the check value they should have.
    fn sealed(rest: &str) -> Vec<u8> {
        let check = blake3::hash(rest.as_bytes()).to_hex();
        format!("{{\n  \"blake3\": \"{check}\",\n{rest}").into_bytes()
    }

    /// Values that a field might have in a release that is not this one.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::json;
        prop_oneof![
            any::<i64>().prop_map(|n| json!(n)),
            any::<u64>().prop_map(|n| json!(n)),
            any::<f64>().prop_map(|n| json!(n)),
            ".{0,70}".prop_map(|s| json!(s)),
            "[0-9a-f]{64}".prop_map(|s| json!(s)),
            Just(json!(null)),
            Just(json!(["ok"])),
            Just(json!({"level": "full", "at": "2026-11-21T09:00:00Z", "result": "damaged", "findings": []})),
        ]
    }

    proptest! {
        #[test]
        fn whatever_lies_in_a_manifests_place_is_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in "\\PC{0,200}",
        ) {
            for rest in [text.clone(), format!("{}\n}}", text)] {
                prop_assert!(Manifest::from_bytes(&sealed(&rest)).is_err());
                prop_assert!(Manifest::from_bytes(rest.as_bytes()).is_err());
            }
            prop_assert!(Manifest::from_bytes(&bytes).is_err());
        }

        #[test]
        fn a_manifest_with_another_field_is_read_or_refused(
            field in any::<prop::sample::Index>(),
            inner in any::<prop::sample::Index>(),
            value in value(),
        ) {
            let mut json = serde_json::to_value(manifest(1)).unwrap();
            let fields = json.as_object_mut().unwrap();
            let name = fields.keys().nth(field.index(fields.len())).unwrap().clone();
            match fields[&name].as_object_mut().filter(|inner| !inner.is_empty()) {
                Some(object) => {
                    let name = object.keys().nth(inner.index(object.len())).unwrap().clone();
                    object[&name] = value;
                }
                None => fields[&name] = value,
            }
            let text = serde_json::to_string_pretty(&json).unwrap();
            if let Ok(mut read) = Manifest::from_bytes(&sealed(text.strip_prefix("{\n").unwrap())) {
                // What is asked of a manifest is answered, whatever stands in it.
                if let Some(geometry) = read.geometry() {
                    prop_assert_eq!(geometry.bytes(), read.bytes);
                }
                let _ = (read.snapshot_id(), read.checked(), read.passed_full(), read.rot().len());
                // The last digit of a number that no hold takes may differ.
                read.transfer.held_seconds = 0.5;
                prop_assert_eq!(Manifest::from_bytes(&read.to_bytes()), Ok(read));
            }
        }

        #[test]
        fn a_manifest_goes_there_and_back(
            sequence in any::<u64>(),
            texts in prop::collection::vec(".{0,50}", 6),
            numbers in any::<[u32; 4]>(),
            millis in 0u32..10_000_000,
            accepted in any::<bool>(),
        ) {
            let mut written = manifest(sequence);
            written.copy = texts[0].clone();
            written.source.path = texts[1].clone();
            written.md5 = Some(texts[2].clone());
            written.transfer.full_because = Some(texts[3].clone());
            written.transfer.held_seconds = f64::from(millis) / 1024.0;
            written.source.uid = numbers[0];
            written.page_count = numbers[1];
            written.contents = Contents { tables: Some(numbers[2].into()), used_pages: numbers[3] };
            written.accepted = accepted;
            for level in [Level::Hash, Level::Full] {
                let findings = texts[4..].to_vec();
                written.record(Check { level, at: written.taken_at, result: Verdict::Damaged, findings });
            }
            prop_assert_eq!(Manifest::from_bytes(&written.to_bytes()), Ok(written));
        }
    }
}
