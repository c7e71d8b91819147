//! Whatever an agent says during a pull, as bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use pullback_fuzz::assert_printable;
use pullback_shared::frame::{Compression, Encoding, Frame};
use pullback_shared::pb;
use pullback_shared::wire::{Event, Offer, TEXT_CHARS_MAX};

/// Text this short is the same however often it is made fit to print.
const SHORT: usize = 64;

fn texts(offer: &Offer) -> [&str; 6] {
    let source = &offer.source;
    [
        offer.full_because.as_deref().unwrap_or_default(),
        offer.no_mirror_because.as_deref().unwrap_or_default(),
        &source.path,
        &source.journal,
        &source.agent_version,
        &source.sqlite_version,
    ]
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = pb::PullReply::decode(bytes) else { return };
    let event = match Event::decode(message) {
        Ok(event) => event,
        Err(fault) => return assert_printable(&fault.message, TEXT_CHARS_MAX),
    };
    if let Event::Offer(offer) = &event {
        texts(offer).into_iter().for_each(|text| assert_printable(text, TEXT_CHARS_MAX));
    }
    let again = Event::decode(event.clone().encode()).expect("what was made of an event can be decoded");
    match (event, again) {
        // Moved pages travel without their content, and hashes not at all.
        (Event::Frame(frame), Event::Frame(again)) => {
            let bare = matches!(frame.encoding, Encoding::Moved(_));
            let expected = match bare {
                true => Frame {
                    payload: Default::default(),
                    compression: Compression::None,
                    hashes: Vec::new(),
                    ..frame
                },
                false => Frame { hashes: Vec::new(), ..frame },
            };
            assert_eq!(again, expected);
        }
        (Event::Offer(offer), Event::Offer(again)) => {
            if texts(&offer).iter().all(|text| text.chars().count() <= SHORT) {
                assert_eq!(again, offer);
            }
        }
        (event, again) => assert_eq!(again, event),
    }
});
