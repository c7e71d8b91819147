//! Why a call failed: any gRPC status with any details, and as a response's headers.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pullback_fuzz::assert_printable;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::pb;
use pullback_shared::wire::TEXT_CHARS_MAX;
use tonic::{Code, Status};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    code: i32,
    message: &'a str,
    details: Details<'a>,
}

#[derive(Arbitrary, Debug)]
enum Details<'a> {
    Bytes(&'a [u8]),
    Fault { code: &'a str, kind: u8, message: &'a str, hint: &'a str },
}

/// Text this short, and escaped already, is the same however often it is made fit to print.
const SHORT: usize = 4000;

fuzz_target!(|input: Input| {
    use prost::Message;
    let details = match input.details {
        Details::Bytes(bytes) => bytes.to_vec(),
        Details::Fault { code, kind, message, hint } => {
            let words = pullback_shared::fault::KINDS.map(|(kind, ..)| kind.word());
            let code = words.get(usize::from(kind)).copied().unwrap_or(code).to_owned();
            pb::Fault { code, message: message.to_owned(), hint: hint.to_owned() }.encode_to_vec()
        }
    };
    let status = Status::with_details(Code::from_i32(input.code), input.message, details.into());
    let fault = Fault::from_status(&status);
    assert_printable(&fault.message, TEXT_CHARS_MAX);
    assert_printable(&fault.hint, TEXT_CHARS_MAX);
    assert_eq!(Kind::from_word(fault.kind.word()), Some(fault.kind));
    assert!(fault.kind.exit() > 0, "a fault that counts as success");

    // As it goes over HTTP/2: in the headers of a response.
    let response = fault.to_status().into_http::<()>();
    let arrived = Status::from_header_map(response.headers()).expect("a status is in its headers");
    let again = Fault::from_status(&arrived);
    assert_eq!(again.kind, fault.kind);
    if fault.message.chars().count() < SHORT && fault.hint.chars().count() < SHORT {
        assert_eq!(again, fault);
    }
});
