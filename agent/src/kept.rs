//! A kept delta: what leads from one snapshot of a mirror back to the one before it.
//!
//! A patch leads both ways, so the patches of the delta that led there are kept as they are; of every other page the old
//! content is. Each page carries its old hash: that tells a page which is still, or already, as it was from one to change.

use crate::chain::{Kept, MirrorState};
use crate::mirror_dir::{MirrorDir, open};
use crate::mirror_pages::MirrorPages;
use crate::spool::{FrameReader, stored};
use pullback_shared::fault::{Fault, Kind as FaultKind};
use pullback_shared::frame::{Compression, Encoding, Frame, FrameBuilder, FrameError, Kind, check_of, xor};
use pullback_shared::page::{Geometry, PageHash, PageNo};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Writes to `path` what leads back from the end of `delta`, a snapshot of `next`, to `old`. Gives its bytes, or `None` when
/// it would be more than `bytes_max`, or a page of `old` is not as its hash says; the caller removes the file then. Nothing is
/// fsynced: a kept delta that a power cut spoils costs only speed.
pub fn keep(
    path: &Path,
    delta: FrameReader,
    old: &mut MirrorPages,
    next: Geometry,
    bytes_max: u64,
) -> Result<Option<u64>, Fault> {
    let io = |error: std::io::Error| Fault::io("a kept delta", &error);
    let file = open(path, true).map_err(io)?;
    file.set_len(0).map_err(io)?;
    let plain = FrameBuilder::new(next.page_size, Kind::Plain, Compression::Zstd(1)).map_err(rotten)?;
    let mut writer = Writer { file: BufWriter::new(file), plain, bytes: 0, bytes_max };
    let kept = write(&mut writer, delta, old, next)?;
    writer.file.flush().map_err(io)?;
    Ok(kept.then_some(writer.bytes))
}

fn write(
    writer: &mut Writer,
    mut delta: FrameReader,
    old: &mut MirrorPages,
    next: Geometry,
) -> Result<bool, Fault> {
    while let Some(frame) = delta.next_frame()? {
        let numbers = frame.numbers(next).map_err(rotten)?;
        let fits = match frame.encoding {
            Encoding::Patch => {
                let hashes = numbers.into_iter().map(|no| old.hash(no)).collect::<Result<Vec<_>, _>>()?;
                writer.frame(Frame { check: check_of(&hashes), hashes, ..frame })?
            }
            Encoding::Plain | Encoding::Moved(_) | Encoding::Rebuilt(_) => {
                writer.pages(old, numbers.into_iter())?
            }
        };
        if !fits {
            return Ok(false);
        }
    }
    let cut_off = next.page_count.saturating_add(1)..=old.geometry().page_count;
    Ok(writer.pages(old, cut_off.filter_map(PageNo::new))? && writer.finish()?)
}

struct Writer {
    file: BufWriter<File>,
    plain: FrameBuilder,
    bytes: u64,
    bytes_max: u64,
}

impl Writer {
    /// Adds those of `numbers` that `old` has. Says, as all of these do, whether there was room.
    fn pages(&mut self, old: &mut MirrorPages, numbers: impl Iterator<Item = PageNo>) -> Result<bool, Fault> {
        let geometry = old.geometry();
        let mut page = vec![0; geometry.page_size.as_usize()];
        for no in numbers.filter(|no| geometry.holds(*no)) {
            if !old.read_if_whole(no, &mut page)? {
                return Ok(false);
            }
            let full = self.plain.push(no, &page, old.hash(no)?).map_err(rotten)?;
            if let Some(frame) = full
                && !self.frame(frame)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<bool, Fault> {
        let last = self.plain.finish().map_err(rotten)?;
        last.map_or(Ok(true), |frame| self.frame(frame))
    }

    fn frame(&mut self, frame: Frame) -> Result<bool, Fault> {
        let message = stored(frame);
        self.bytes += message.len() as u64;
        if self.bytes > self.bytes_max {
            return Ok(false);
        }
        let written = self.file.write_all(&message);
        written.map(|()| true).map_err(|error| Fault::io("a kept delta", &error))
    }
}

/// A kept delta, open for reading; it stays readable when it is dropped from the chain.
pub struct KeptDelta {
    /// Which one.
    pub number: u64,
    /// Of the snapshot it leads back to.
    geometry: Geometry,
    file: File,
    frames: Vec<Place>,
}

/// Where a frame lies, its least page, and the one after its greatest.
struct Place {
    first: u32,
    end: u32,
    offset: u64,
    len: usize,
}

impl KeptDelta {
    /// Opens the one that `kept` tells of.
    pub fn open(dir: &MirrorDir, kept: &Kept) -> Result<Self, Fault> {
        let MirrorState { geometry, .. } = kept.state;
        let io = |error: std::io::Error| Fault::io("a kept delta", &error);
        let file = File::open(dir.kept(kept.number)).map_err(io)?;
        let mut reader = FrameReader::of_file(file.try_clone().map_err(io)?);
        let mut frames = Vec::new();
        let mut offset = 0;
        while let Some(frame) = reader.next_frame()? {
            let len = (reader.position() - offset) as usize;
            let (first, end) = frame.runs.iter().fold((u32::MAX, 0), |(least, greatest), (first, count)| {
                (least.min(first.get()), greatest.max(first.get().saturating_add(*count)))
            });
            frames.push(Place { first, end, offset, len });
            offset = reader.position();
        }
        Ok(Self { number: kept.number, geometry, file, frames })
    }

    /// Leads `hashes`, those of the pages from `first` on in the snapshot after, back to the snapshot before; and `pages`, if
    /// given. A page that is as it was already stays so.
    pub fn lead_back(
        &self,
        first: PageNo,
        hashes: &mut [PageHash],
        mut pages: Option<&mut [u8]>,
    ) -> Result<(), Fault> {
        let size = self.geometry.page_size.as_usize();
        let range = first.get()..first.get().saturating_add(hashes.len() as u32);
        for place in self.frames.iter().filter(|place| place.first < range.end && range.start < place.end) {
            let frame = self.frame(place)?;
            let numbers = frame.numbers(self.geometry).map_err(rotten)?;
            if numbers.len() != frame.hashes.len() || check_of(&frame.hashes) != frame.check {
                return Err(rotten(FrameError::Check));
            }
            let mut content = Vec::new();
            for (index, (no, hash)) in numbers.iter().zip(&frame.hashes).enumerate() {
                if !range.contains(&no.get()) {
                    continue;
                }
                let at = (no.get() - range.start) as usize;
                hashes[at] = *hash;
                let Some(page) = pages.as_deref_mut().map(|pages| &mut pages[at * size..][..size]) else {
                    continue;
                };
                if PageHash::of(page) == *hash {
                    continue;
                }
                if content.is_empty() {
                    frame.decompress(numbers.len() * size, &mut content).map_err(rotten)?;
                }
                let told = &content[index * size..][..size];
                match frame.encoding {
                    Encoding::Patch => xor(page, told),
                    Encoding::Plain | Encoding::Moved(_) => page.copy_from_slice(told),
                    Encoding::Rebuilt(_) => return Err(rotten(FrameError::Check)),
                }
            }
        }
        Ok(())
    }

    fn frame(&self, place: &Place) -> Result<Frame, Fault> {
        let mut bytes = vec![0; place.len];
        let read = self.file.read_exact_at(&mut bytes, place.offset);
        read.map_err(|error| Fault::io("a kept delta", &error))?;
        FrameReader::of_bytes(bytes).next_frame()?.ok_or_else(|| rotten(FrameError::Check))
    }
}

fn rotten(error: FrameError) -> Fault {
    Fault::new(FaultKind::Unproven, format!("a kept delta of the agent is damaged: {error}"))
}
