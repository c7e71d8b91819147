//! `Refusals`: what the log says of those who are not let in, of whom there may be any number.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines about refusals within [`WINDOW`], at most; what goes beyond is counted.
const LINES_MAX: u32 = 30;

/// The time that lines are counted over.
const WINDOW: Duration = Duration::from_secs(60);

/// Says who was refused, but no more often than a log can bear.
#[derive(Default, Debug)]
pub struct Refusals {
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    said: u32,
    left_out: u64,
}

impl Refusals {
    /// Says that a connection, the one whose span this is said in, was refused, and why.
    pub fn say(&self, why: &str) {
        let (says, left_out) = self.count(Instant::now());
        if left_out > 0 {
            tracing::warn!("{left_out} more connections were refused that this log does not list");
        }
        if says {
            tracing::warn!("refused: {why}");
        }
    }

    /// Whether one more line is to be said now, and how many were left out of a time that is over.
    fn count(&self, now: Instant) -> (bool, u64) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = 0;
        if let Some(over) = window.take_if(|window| now.duration_since(window.began) >= WINDOW) {
            left_out = over.left_out;
        }
        let window = window.get_or_insert(Window { began: now, said: 0, left_out: 0 });
        let says = window.said < LINES_MAX;
        match says {
            true => window.said += 1,
            false => window.left_out += 1,
        }
        (says, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_refusals_is_a_few_lines_and_a_number() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let said = (0..10_000).filter(|_| refusals.count(now).0).count();
        assert_eq!(said, LINES_MAX as usize);
        assert_eq!(refusals.count(now + WINDOW), (true, 10_000 - u64::from(LINES_MAX)));
        assert_eq!(refusals.count(now + WINDOW), (true, 0));
    }
}
