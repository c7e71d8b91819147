//! A delta: a copy as what is other in it than in a newer copy, page by page, within gzip. `doc/format.md` has the bytes.
//!
//! head > changes in page order. The head is one line of JSON. A change is a page number, what kind it is, the page's hash, and
//! as many bytes as a page has: the page itself, or its XOR with the newer copy's page, which is nearly all zeros where a row
//! changed, and gzip makes next to nothing of that.

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use pullback_shared::page::{Geometry, PageHash, PageNo};
use pullback_shared::snapshot::SnapshotId;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

/// The version of the head and of what follows it.
const VERSION: u32 = 1;

/// Bytes of the head's line, at most.
const HEAD_LEN_MAX: u64 = 4096;

/// A gzip member ends after so many bytes of what is packed: damage is found before much of it was believed.
const MEMBER_LEN: usize = 1024 * 1024;

/// Where more than one byte in so many of the XOR is not zero, the page itself packs better.
const XOR_BYTES_PER_CHANGE: usize = 4;

/// How the seal's field begins: two letters, and the length of a hash, as RFC 1952 (2.3.1.1) has it.
const SEAL_FIELD: [u8; 4] = [b'P', b'B', 32, 0];

/// Bytes of a seal: gzip's head, the field with its length, an empty block, gzip's sums.
const SEAL_LEN: u64 = 10 + 2 + 36 + 2 + 8;

const WHOLE: u8 = 0;
const XOR: u8 = 1;

/// What a delta says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// What this is: `delta`.
    pullback: String,
    v: u32,
    /// The copy that is in it.
    pub copy: String,
    /// The copy's snapshot, in hex.
    pub snapshot: String,
    /// The newer copy that the pages refer to.
    pub base: String,
    /// That copy's snapshot, in hex.
    pub base_snapshot: String,
    page_size: u32,
    page_count: u32,
    /// Changes that follow.
    pub pages: u32,
}

impl Head {
    /// The head of `copy` against `base`, each with the name of its snapshot.
    pub fn new(copy: (&str, SnapshotId), base: (&str, SnapshotId), geometry: Geometry, pages: u32) -> Self {
        Self {
            pullback: "delta".to_owned(),
            v: VERSION,
            copy: copy.0.to_owned(),
            snapshot: copy.1.to_string(),
            base: base.0.to_owned(),
            base_snapshot: base.1.to_string(),
            page_size: geometry.page_size.get(),
            page_count: geometry.page_count,
            pages,
        }
    }

    /// The copy's shape.
    pub fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.page_size, self.page_count)
    }
}

/// Bytes that become gzip members of about `MEMBER_LEN` each, and a seal: any program that knows gzip reads them as one stream.
pub struct Members {
    encoder: GzEncoder<Hashed>,
    in_member: usize,
}

/// A file, and the hash of what was written to it.
struct Hashed {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Members {
    /// Into `file`.
    pub fn new(file: File) -> Self {
        let hashed = Hashed { file: BufWriter::new(file), hasher: blake3::Hasher::new() };
        Self { encoder: GzEncoder::new(hashed, Compression::default()), in_member: 0 }
    }

    /// Adds `bytes`; a member never ends within them.
    pub fn append(mut self, bytes: &[u8]) -> io::Result<Self> {
        if self.in_member > 0 && self.in_member + bytes.len() > MEMBER_LEN {
            self.encoder = GzEncoder::new(self.encoder.finish()?, Compression::default());
            self.in_member = 0;
        }
        self.in_member += bytes.len();
        self.encoder.write_all(bytes)?;
        Ok(self)
    }

    /// The file, with everything written to it, and sealed.
    pub fn finish(self) -> io::Result<File> {
        let mut hashed = self.encoder.finish()?;
        let seal = seal(&hashed.hasher.finalize())?;
        hashed.file.write_all(&seal)?;
        hashed.file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// A gzip member with nothing in it, whose head has `hash`, that of all before it: gzip's own sums do not cover every byte.
fn seal(hash: &blake3::Hash) -> io::Result<Vec<u8>> {
    let mut extra = SEAL_FIELD.to_vec();
    extra.extend_from_slice(hash.as_bytes());
    GzBuilder::new().extra(extra).write(Vec::new(), Compression::default()).finish()
}

/// Reads `file` whole against its seal, and leaves it at its beginning. An error of the kind `InvalidData` means that it is not what was
/// written.
pub fn check_seal(file: &mut File) -> io::Result<()> {
    let sealed = file.metadata()?.len().checked_sub(SEAL_LEN);
    let sealed = sealed.ok_or_else(|| bad("it is cut short"))?;
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader((&mut *file).take(sealed))?;
    let mut found = Vec::new();
    file.take(SEAL_LEN).read_to_end(&mut found)?;
    file.seek(SeekFrom::Start(0))?;
    match found == seal(&hasher.finalize())? {
        true => Ok(()),
        false => Err(bad("its bytes are not those that were sealed")),
    }
}

/// What is within the gzip members of `file`, as one stream.
pub fn unzipped(file: File) -> impl Read {
    MultiGzDecoder::new(BufReader::new(file))
}

/// Writes a delta.
pub struct Writer {
    members: Members,
    change: Vec<u8>,
}

impl Writer {
    /// Begins with `head`.
    pub fn begin(file: File, head: &Head) -> io::Result<Self> {
        let mut line = serde_json::to_vec(head).expect("BUG: a head that is no JSON");
        line.push(b'\n');
        Ok(Self { members: Members::new(file).append(&line)?, change: Vec::new() })
    }

    /// Adds page `no`, which is `page`, where the base has `base`.
    pub fn add(mut self, no: PageNo, hash: PageHash, page: &[u8], base: Option<&[u8]>) -> io::Result<Self> {
        self.change.clear();
        self.change.extend_from_slice(&no.get().to_le_bytes());
        self.change.push(WHOLE);
        self.change.extend_from_slice(&hash.0);
        let body = self.change.len();
        self.change.extend_from_slice(page);
        if let Some(base) = base {
            let differing = page.iter().zip(base).filter(|(here, there)| here != there).count();
            if differing * XOR_BYTES_PER_CHANGE <= page.len() {
                self.change[4] = XOR;
                self.change[body..].iter_mut().zip(base).for_each(|(byte, there)| *byte ^= there);
            }
        }
        self.members = self.members.append(&self.change)?;
        Ok(self)
    }

    /// The file, with everything written to it.
    pub fn finish(self) -> io::Result<File> {
        self.members.finish()
    }
}

/// A change, as it was read; its bytes are in the buffer that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The page.
    pub no: PageNo,
    /// What it must hash to.
    pub hash: PageHash,
    /// Whether the bytes are the XOR with the base's page.
    pub is_xor: bool,
}

/// Reads a delta.
pub struct Reader {
    input: BufReader<Box<dyn Read>>,
    /// What it says of itself.
    pub head: Head,
    geometry: Geometry,
    /// The page of the last change.
    last: u32,
    left: u32,
}

impl Reader {
    /// The delta in `file`, whose seal is not looked at. Errors of the kinds `InvalidData`, `InvalidInput` and `UnexpectedEof` mean that it is not what was written.
    pub fn open(file: File) -> io::Result<Self> {
        let input: Box<dyn Read> = Box::new(unzipped(file));
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        (&mut input).take(HEAD_LEN_MAX).read_until(b'\n', &mut line)?;
        let head: Head =
            serde_json::from_slice(&line).map_err(|_| bad("it does not begin as a delta does"))?;
        if head.pullback != "delta" || head.v != VERSION {
            return Err(bad(format!("it is of version {}, this release knows {VERSION}", head.v)));
        }
        let geometry = head.geometry().ok_or_else(|| bad("its sizes make no sense"))?;
        let left = head.pages;
        Ok(Self { input, head, geometry, last: 0, left })
    }

    /// The next change, its bytes in `body`; `None` at the end.
    pub fn next_change(&mut self, body: &mut Vec<u8>) -> io::Result<Option<Change>> {
        if self.left == 0 {
            let end = self.input.fill_buf()?.is_empty();
            return if end { Ok(None) } else { Err(bad("something follows its last change")) };
        }
        let mut start = [0; 21];
        self.input.read_exact(&mut start)?;
        let (number, rest) = start.split_first_chunk().expect("BUG: 21 bytes");
        let number = u32::from_le_bytes(*number);
        let mut hash = [0; PageHash::LEN];
        hash.copy_from_slice(&rest[1..]);
        body.resize(self.geometry.page_size.as_usize(), 0);
        self.input.read_exact(body)?;
        let no = PageNo::new(number).filter(|no| number > self.last && self.geometry.holds(*no));
        let no = no.ok_or_else(|| bad(format!("page {number} stands where it cannot")))?;
        let is_xor = match rest[0] {
            WHOLE => false,
            XOR => true,
            other => return Err(bad(format!("page {number} is of a kind {other} that there is none of"))),
        };
        (self.last, self.left) = (number, self.left - 1);
        Ok(Some(Change { no, hash: PageHash(hash), is_xor }))
    }
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(byte: u8) -> SnapshotId {
        SnapshotId([byte; 32])
    }

    /// A page's number, the page, and the base's page.
    type Changed = (u32, Vec<u8>, Option<Vec<u8>>);

    /// A delta of `pages`, as its bytes.
    fn written(pages: &[Changed]) -> Vec<u8> {
        let geometry = Geometry::new(512, 100).unwrap();
        let head = Head::new(("gym-000001-x", id(1)), ("gym-000002-x", id(2)), geometry, pages.len() as u32);
        let mut writer = Writer::begin(tempfile::tempfile().unwrap(), &head).unwrap();
        for (number, page, base) in pages {
            let no = PageNo::new(*number).unwrap();
            writer = writer.add(no, PageHash::of(page), page, base.as_deref()).unwrap();
        }
        let mut file = writer.finish().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_seal_has_the_length_that_is_looked_for() {
        let mut file =
            Members::new(tempfile::tempfile().unwrap()).append(b"pages").unwrap().finish().unwrap();
        assert_eq!(seal(&blake3::hash(b"")).unwrap().len() as u64, SEAL_LEN);
        check_seal(&mut file).unwrap();
        let mut back = String::new();
        unzipped(file).read_to_string(&mut back).unwrap();
        assert_eq!(back, "pages");
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<(Change, Vec<u8>)>> {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        file.seek(SeekFrom::Start(0))?;
        let mut reader = Reader::open(file)?;
        let (mut body, mut changes) = (Vec::new(), Vec::new());
        while let Some(change) = reader.next_change(&mut body)? {
            changes.push((change, body.clone()));
        }
        Ok(changes)
    }

    fn page(seed: u8) -> Vec<u8> {
        (0..512u32).map(|at| (at as u8).wrapping_mul(seed)).collect()
    }

    #[test]
    fn a_page_that_is_nearly_the_base_s_becomes_zeros_and_another_stays_itself() {
        let mut near = page(3);
        near[7] ^= 255;
        let changes = read(&written(&[
            (1, near.clone(), Some(page(3))),
            (2, page(5), Some(page(9))),
            (9, page(7), None),
        ]))
        .unwrap();
        let kinds: Vec<bool> = changes.iter().map(|(change, _)| change.is_xor).collect();
        assert_eq!(kinds, [true, false, false]);
        assert_eq!(changes[0].1.iter().filter(|byte| **byte != 0).count(), 1);
        assert_eq!((&changes[1].1, &changes[2].1), (&page(5), &page(7)));
        assert_eq!(changes[0].0.hash, PageHash::of(&near));
    }

    #[test]
    fn many_changes_are_many_members_and_one_stream() {
        let pages: Vec<_> = (1..=100).map(|number| (number, page(number as u8), None)).collect();
        let mut members = Members::new(tempfile::tempfile().unwrap());
        let mut plain = Vec::new();
        for (_, page, _) in pages.iter().cycle().take(6000) {
            members = members.append(page).unwrap();
            plain.extend_from_slice(page);
        }
        let mut file = members.finish().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut zipped = Vec::new();
        file.read_to_end(&mut zipped).unwrap();
        let begin = [0x1f, 0x8b, 8];
        let count = zipped.windows(3).filter(|bytes| **bytes == begin).count();
        assert!(count >= plain.len() / MEMBER_LEN, "{count} members");
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut back = Vec::new();
        unzipped(file).read_to_end(&mut back).unwrap();
        assert!(back == plain);
        assert_eq!(read(&written(&pages)).unwrap().len(), 100);
    }

    proptest! {
        #[test]
        fn a_delta_that_is_cut_changed_or_longer_is_no_delta(
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
            cut in any::<bool>(),
        ) {
            let mut bytes = written(&[(3, page(3), None), (4, page(4), Some(page(4)))]);
            let whole = read(&bytes).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            // A few bits of gzip's own head say nothing of what is within: the seal finds them as well.
            prop_assert!(read(&bytes).map_or(true, |changes| changes == whole));
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            prop_assert!(check_seal(&mut file).is_err());
        }

        #[test]
        fn any_bytes_within_gzip_are_read_without_panic(
            head in prop_oneof![
                Just(serde_json::to_vec(&Head::new(("a", id(1)), ("b", id(2)), Geometry::new(512, 9).unwrap(), 2)).unwrap()),
                prop::collection::vec(any::<u8>(), 0..200),
            ],
            rest in prop::collection::vec(any::<u8>(), 0..1200),
        ) {
            let mut members = Members::new(tempfile::tempfile().unwrap());
            for part in [&head, &b"\n".to_vec(), &rest] {
                members = members.append(part).unwrap();
            }
            let mut file = members.finish().unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            let _ = read(&bytes);
        }
    }
}
