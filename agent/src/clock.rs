//! The one place that asks for the time of day, for what people agree on: since when a peer is one, until when a code holds.

use jiff::Timestamp;
use std::time::Duration;

/// Now, to the second. A device without a clock of its own may be years behind after it starts.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// `time` and `more`; the last time there is, where that is beyond it.
pub fn later(time: Timestamp, more: Duration) -> Timestamp {
    time.checked_add(more).unwrap_or(Timestamp::MAX)
}
