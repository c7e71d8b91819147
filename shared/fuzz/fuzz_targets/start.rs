//! The first message of a pull, as bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use pullback_fuzz::assert_printable;
use pullback_shared::pb;
use pullback_shared::wire::Start;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = pb::PullRequest::decode(bytes) else { return };
    match Start::decode(message) {
        Ok(start) => assert_eq!(Start::decode(start.encode()).expect("what was made can be decoded"), start),
        Err(fault) => assert_printable(&fault.message, 1000),
    }
});
