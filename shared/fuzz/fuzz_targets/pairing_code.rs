//! What a person types for a pairing code, and what a code with a right check value holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pullback_shared::pairing::PairingCode;

fuzz_target!(|data: &[u8]| {
    if let Ok(typed) = str::from_utf8(data) {
        let _ = PairingCode::decode(typed);
    }
    // As somebody would write it who knows how: only what is within is wrong.
    let mut body = vec![1];
    body.extend_from_slice(data);
    let check = blake3::hash(&body);
    body.extend_from_slice(&check.as_bytes()[..4]);
    if let Ok(code) = PairingCode::decode(&base32(&body)) {
        let again = PairingCode::decode(&code.encode()).expect("what was read can be written");
        assert_eq!(again.encode(), code.encode());
    }
});

fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::new();
    for part in bytes.chunks(5) {
        let mut five = [0; 8];
        five[3..3 + part.len()].copy_from_slice(part);
        let bits = u64::from_be_bytes(five);
        let letters = (part.len() * 8).div_ceil(5);
        text.extend((0..letters).map(|at| char::from(LETTERS[(bits >> (35 - 5 * at)) as usize & 31])));
    }
    text
}
