//! A spool: the frames of changed pages, written while the source is held and read after.
//!
//! In a file where there is room for one, else in memory of a named size. It takes frames until it is full and says
//! so; what did not fit is fetched in a further pull. The file is a sequence of length-delimited `Frame` messages.

use crate::room::Room;
use prost::Message;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Encoding, Frame};
use pullback_shared::{pb, wire};
use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read, Seek, Write};

/// Bytes of a spool in memory.
pub const MEMORY_SPOOL_MAX: u64 = 8 * 1024 * 1024;

/// After so many bytes written, the room on the disk is looked at again.
pub const ROOM_CHECK_EVERY: u64 = 8 * 1024 * 1024;

enum Place {
    /// Made when the first frame comes: a source that did not change costs the device not a single write.
    File {
        make: Option<MakeFile>,
        file: Option<BufWriter<File>>,
        room: Room,
        until_check: u64,
    },
    Memory(Vec<u8>),
}

type MakeFile = Box<dyn FnOnce() -> std::io::Result<File> + Send>;

/// Takes frames until it is full.
pub struct Spool {
    place: Place,
    bytes: u64,
    wire_bytes: u64,
    bytes_max: u64,
    pages: u32,
    plain_pages: u32,
    full: bool,
}

impl Spool {
    /// A spool in the empty file that `make` makes, as far as there is `room`.
    pub fn in_file(room: Room, make: impl FnOnce() -> std::io::Result<File> + Send + 'static) -> Self {
        let bytes_max = room.left();
        let place =
            Place::File { make: Some(Box::new(make)), file: None, room, until_check: ROOM_CHECK_EVERY };
        Self { place, bytes: 0, wire_bytes: 0, bytes_max, pages: 0, plain_pages: 0, full: false }
    }

    /// A spool of [`MEMORY_SPOOL_MAX`] bytes.
    pub fn in_memory() -> Self {
        Self {
            place: Place::Memory(Vec::new()),
            bytes: 0,
            wire_bytes: 0,
            bytes_max: MEMORY_SPOOL_MAX,
            pages: 0,
            plain_pages: 0,
            full: false,
        }
    }

    /// Whether a frame was turned away; then all further ones are.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Pages in the frames taken.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Adds `frame`, unless it does not fit.
    pub fn push(&mut self, frame: Frame) -> Result<(), Fault> {
        let pages = frame.page_count() as u32;
        let bare = matches!(frame.encoding, Encoding::Moved(_));
        let plain_pages = if frame.encoding == Encoding::Plain { pages } else { 0 };
        let payload = frame.payload.len() as u64;
        let message = stored(frame);
        let len = message.len() as u64;
        if let Place::File { room, until_check, .. } = &mut self.place {
            match until_check.checked_sub(len) {
                Some(left) => *until_check = left,
                None => {
                    *until_check = ROOM_CHECK_EVERY;
                    self.bytes_max = self.bytes_max.min(self.bytes + room.left());
                }
            }
        }
        if self.full || self.bytes + len > self.bytes_max {
            self.full = true;
            return Ok(());
        }
        let written = match &mut self.place {
            Place::File { make, file, .. } => made(make, file).and_then(|file| file.write_all(&message)),
            Place::Memory(bytes) => bytes.write_all(&message),
        };
        match written {
            Ok(()) => {
                self.bytes += len;
                self.wire_bytes += if bare { len - payload } else { len };
                self.pages += pages;
                self.plain_pages += plain_pages;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                self.full = true;
                Ok(())
            }
            Err(error) => Err(Fault::io("the spool of changed pages", &error)),
        }
    }

    /// Hands to the system what was taken. If the disk is full now, all of it counts as turned away.
    pub fn flush(&mut self) -> Result<(), Fault> {
        let flushed = match &mut self.place {
            Place::File { file: Some(file), .. } => file.flush(),
            _ => Ok(()),
        };
        match flushed {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                *self = Self { full: true, ..Self::in_memory() };
                Ok(())
            }
            flushed => flushed.map_err(|error| Fault::io("the spool of changed pages", &error)),
        }
    }

    /// The frames, from the first; after [`Spool::flush`].
    pub fn finish(self) -> Result<Spooled, Fault> {
        let place = match self.place {
            Place::File { file: Some(file), .. } => {
                SpooledPlace::File(file.into_inner().map_err(|error| io(&error.into_error()))?)
            }
            Place::File { file: None, .. } => SpooledPlace::Memory(Vec::new()),
            Place::Memory(bytes) => SpooledPlace::Memory(bytes),
        };
        Ok(Spooled { place, bytes: self.wire_bytes, pages: self.pages, plain_pages: self.plain_pages })
    }
}

fn made<'a>(
    make: &mut Option<MakeFile>,
    file: &'a mut Option<BufWriter<File>>,
) -> std::io::Result<&'a mut BufWriter<File>> {
    if let Some(make) = make.take() {
        *file = Some(BufWriter::with_capacity(256 * 1024, make()?));
    }
    file.as_mut().ok_or_else(|| std::io::Error::other("the spool's file could not be made"))
}

enum SpooledPlace {
    File(File),
    Memory(Vec<u8>),
}

/// A finished spool.
pub struct Spooled {
    place: SpooledPlace,
    /// Bytes of its frames on the wire, about.
    pub bytes: u64,
    /// Pages in its frames.
    pub pages: u32,
    /// Those of them that are plain.
    pub plain_pages: u32,
}

impl Spooled {
    /// The frames, from the first. One reader at a time: in a file they share a place in it.
    pub fn frames(&mut self) -> Result<FrameReader, Fault> {
        match &mut self.place {
            SpooledPlace::File(file) => {
                let file = file.rewind().and_then(|()| file.try_clone());
                Ok(FrameReader::of_file(file.map_err(|error| io(&error))?))
            }
            SpooledPlace::Memory(bytes) => Ok(FrameReader::of_bytes(bytes.clone())),
        }
    }
}

fn io(error: &std::io::Error) -> Fault {
    Fault::io("the spool of changed pages", error)
}

/// `frame` as it lies in a file, with its length before it.
pub fn stored(frame: Frame) -> Vec<u8> {
    wire::encode_stored_frame(frame).encode_length_delimited_to_vec()
}

/// Reads the frames of a spool, one after the other.
pub struct FrameReader {
    from: Box<dyn Read + Send>,
    position: u64,
}

impl FrameReader {
    /// The frames in `file`, from where it stands.
    pub fn of_file(file: File) -> Self {
        Self { from: Box::new(BufReader::with_capacity(256 * 1024, file)), position: 0 }
    }

    /// The frames in `bytes`.
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        Self { from: Box::new(Cursor::new(bytes)), position: 0 }
    }

    /// Bytes of the frames read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next frame, checked but for its pages; `None` at the end.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Fault> {
        let rot =
            || Fault::new(Kind::Lost, "the agent's spool of changed pages is damaged").hint("try again");
        let io = |error: std::io::Error| Fault::io("the spool of changed pages", &error);
        let mut len = 0u64;
        for shift in 0.. {
            let mut byte = [0];
            match self.from.read(&mut byte).map_err(io)? {
                0 if shift == 0 => return Ok(None),
                0 => return Err(rot()),
                _ => len |= u64::from(byte[0] & 0x7f) << (7 * shift),
            }
            self.position += 1;
            match byte[0] & 0x80 {
                0 => break,
                _ if shift == 3 => return Err(rot()),
                _ => {}
            }
        }
        if len > wire::MESSAGE_BYTES_MAX as u64 {
            return Err(rot());
        }
        let mut message = vec![0; len as usize];
        self.from.read_exact(&mut message).map_err(|_| rot())?;
        self.position += len;
        let frame = pb::Frame::decode(message.as_slice()).map_err(|_| rot())?;
        wire::decode_frame(frame).map(Some).map_err(|_| rot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::RoomLimits;
    use pullback_shared::frame::{Compression, FrameBuilder, Kind};
    use pullback_shared::page::{PageHash, PageNo, PageSize};

    fn frame(number: u32) -> Frame {
        let mut builder =
            FrameBuilder::new(PageSize::new(4096).unwrap(), Kind::Plain, Compression::None).unwrap();
        let page = [number as u8; 4096];
        builder.push(PageNo::new(number).unwrap(), &page, PageHash::of(&page)).unwrap();
        builder.finish().unwrap().unwrap()
    }

    #[test]
    fn frames_come_back_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), RoomLimits { reserve: Some(0), max_state: None });
        let path = dir.path().to_owned();
        for mut spool in [Spool::in_memory(), Spool::in_file(room, move || tempfile::tempfile_in(path))] {
            (1..100).for_each(|n| spool.push(frame(n)).unwrap());
            assert!(!spool.is_full());
            spool.flush().unwrap();
            let mut frames = spool.finish().unwrap().frames().unwrap();
            (1..100).for_each(|n| assert_eq!(frames.next_frame().unwrap(), Some(frame(n))));
            assert_eq!(frames.next_frame().unwrap(), None);
        }
    }

    #[test]
    fn a_full_spool_says_so_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), RoomLimits { reserve: Some(0), max_state: Some(10_000) });
        let path = dir.path().to_owned();
        let mut spool = Spool::in_file(room, move || tempfile::tempfile_in(path));
        (1..100).for_each(|n| spool.push(frame(n)).unwrap());
        assert!(spool.is_full());
        assert_eq!(spool.pages(), 2);
        assert_eq!(spool.finish().unwrap().frames().unwrap().next_frame().unwrap(), Some(frame(1)));
    }
}
