//! HTTP/2 by hand: frames as no well-behaved library would send them.

use std::io::{self, Read, Write};

/// Kinds of frames (RFC 9113, section 6).
pub const DATA: u8 = 0;
/// Begins a stream.
pub const HEADERS: u8 = 1;
/// Ends one early.
pub const RST_STREAM: u8 = 3;
/// What this side allows.
pub const SETTINGS: u8 = 4;
/// More of what a stream begins with.
pub const CONTINUATION: u8 = 9;

/// Flags: the stream ends with this frame; its headers do.
pub const END_STREAM: u8 = 1;
/// Its headers end with this frame.
pub const END_HEADERS: u8 = 4;

/// Bytes of a frame that every server takes.
const FRAME_BYTES: usize = 16_384;

/// The largest window that there is: whoever says so reads all that comes, or says that it will.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// A connection over something that carries bytes.
pub struct Http2<S> {
    /// What carries it.
    pub io: S,
    next: u32,
}

impl<S: Read + Write> Http2<S> {
    /// Begins one, in which everything may be sent to this side at once.
    pub fn start(io: S) -> io::Result<Self> {
        let mut http2 = Self { io, next: 1 };
        http2.io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        // INITIAL_WINDOW_SIZE; and the window of the connection, which has 65,535 to begin with.
        let settings = [&4u16.to_be_bytes()[..], &WINDOW_MAX.to_be_bytes()].concat();
        http2.frame(SETTINGS, 0, 0, &settings)?;
        http2.frame(8, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes())?;
        http2.io.flush()?;
        Ok(http2)
    }

    /// Sends one frame.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let len = u32::try_from(payload.len()).expect("frames of tests are small").to_be_bytes();
        let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.io.write_all(&[&head, payload].concat())
    }

    /// A stream that nobody has used yet.
    pub fn stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// Begins a call of the method at `path`, and gives its stream.
    pub fn call(&mut self, path: &str) -> io::Result<u32> {
        let stream = self.stream();
        self.frame(HEADERS, END_HEADERS, stream, &headers(path))?;
        Ok(stream)
    }

    /// Says `message`, and with `end` no more.
    pub fn say(&mut self, stream: u32, message: &[u8], end: bool) -> io::Result<()> {
        let len = u32::try_from(message.len()).expect("messages of tests are small");
        let bytes = [&[0], &len.to_be_bytes()[..], message].concat();
        let mut chunks = bytes.chunks(FRAME_BYTES).peekable();
        while let Some(chunk) = chunks.next() {
            let flags = if end && chunks.peek().is_none() { END_STREAM } else { 0 };
            self.frame(DATA, flags, stream, chunk)?;
        }
        self.io.flush()
    }
}

/// What a call of `path` begins with, in HPACK without its tables' help.
pub fn headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "pullback.invalid"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(
                u8::try_from(text.len()).ok().filter(|len| *len < 127).expect("names of tests are short"),
            );
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
