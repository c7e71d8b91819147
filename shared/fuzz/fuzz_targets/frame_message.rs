//! A frame as bytes on the wire: decoded, opened over a base, and back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use pullback_fuzz::{Pages, open};
use pullback_shared::frame::{Compression, FRAME_BYTES_MAX, Frame};
use pullback_shared::page::Geometry;
use pullback_shared::pb;
use pullback_shared::wire::{decode_frame, encode_stored_frame};

fuzz_target!(|input: &[u8]| {
    let [shift, page_count, base_count, bytes @ ..] = input else { return };
    let geometry =
        |count: u8| Geometry::new(512 << (shift % 8), count.into()).expect("a geometry of SQLite's");
    let Ok(message) = pb::Frame::decode(bytes) else { return };
    let Ok(frame) = decode_frame(message) else { return };
    assert!(frame.payload.len() <= FRAME_BYTES_MAX);
    let again =
        decode_frame(encode_stored_frame(frame.clone())).expect("what was made of a frame can be decoded");
    assert_eq!(again, frame);
    let base = geometry(*base_count % 16);
    let mut base = Pages { geometry: base, bytes: vec![7; base.bytes() as usize] };
    // A fuzzer makes few payloads that decompress: they are taken as they are as well.
    let stored = Frame { compression: Compression::None, ..frame.clone() };
    for frame in [frame, stored] {
        // What it says when it does not open is of no matter here.
        let _ = open(&frame, geometry(*page_count), &mut base);
    }
});
