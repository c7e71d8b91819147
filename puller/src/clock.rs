//! The clock: read here, passed on as a value. Nothing that is kept or removed depends on it alone.

use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};

/// The time for this run: `PULLER_NOW` (RFC 3339) if it is set, for trying out what a policy does at another time.
pub fn now() -> Result<Timestamp, Fault> {
    match std::env::var("PULLER_NOW") {
        Ok(text) if !text.is_empty() => text.parse().map_err(|error| {
            Fault::new(Kind::Usage, format!("`PULLER_NOW={text}` is no time: {error}"))
                .hint("write it as 2026-11-21T09:00:00Z")
        }),
        _ => Ok(Timestamp::now()),
    }
}

/// `at` as it stands in the names of copies: `20261121T090000Z`.
pub fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// `at` in RFC 3339, UTC, to the second.
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
