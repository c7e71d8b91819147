//! The times of copies, and how far they are believed. Numbers order copies; clocks only say when.
//!
//! A clock may have been at 1970 for a day, or a year ahead for a month. So of the good copies only those are on the line
//! whose times rise with their numbers, and a gap that is much too long for the line is taken for a jump of the clock.

use crate::policy::Length;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

/// What a clock may be set back, or another machine's be ahead, without a word about it.
const SLACK: SignedDuration = SignedDuration::from_mins(5);

/// No copy is older than SQLite: 2000-01-01. A clock that lost its time says 1970.
const EARLIEST: Timestamp = Timestamp::constant(946_684_800, 0);

/// A gap is a jump if it is longer than this, or than the window of a rule that has a shorter one …
pub const JUMP_MIN: SignedDuration = SignedDuration::from_hours(30 * 24);

/// … and, for each number in between, so many times as long as the median of the others.
const JUMP_FACTOR: u64 = 3;

/// A good copy, as the line needs it.
#[derive(Clone, Copy, Debug)]
pub struct Dated {
    /// Its place among all copies.
    pub index: usize,
    /// Its number.
    pub sequence: u64,
    /// When it was taken, by the clock of that time; nobody knows of a copy without.
    pub at: Option<Timestamp>,
}

/// A copy on the line.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Its place among all copies.
    pub index: usize,
    sequence: u64,
    /// When it was taken, as far as that is believed.
    pub at: Timestamp,
}

/// The good copies whose times agree with their order, oldest first.
pub struct Line {
    /// The copies.
    pub marks: Vec<Mark>,
}

impl Line {
    /// Of `copies`, in the order of their numbers, as seen at `now`. From the future or from before `EARLIEST` none is on it;
    /// of the others as many as can be, and where that can be done in two ways, the newer ones.
    pub fn of(copies: &[Dated], now: Timestamp) -> Self {
        let mut marks: Vec<Mark> = Vec::new();
        for copy in copies {
            let Some(at) = copy.at.filter(|at| may_be(*at, now)) else { continue };
            let before = marks.last().map_or(at, |mark| mark.at);
            let at = if before > at && before.duration_since(at) <= SLACK { before } else { at };
            marks.push(Mark { index: copy.index, sequence: copy.sequence, at });
        }
        // How many there are at most on a line that ends with each of them.
        let mut earliest_end: Vec<Timestamp> = Vec::new();
        let lengths: Vec<usize> = marks
            .iter()
            .map(|mark| {
                let length = earliest_end.partition_point(|end| *end <= mark.at);
                match earliest_end.get_mut(length) {
                    Some(end) => *end = mark.at,
                    None => earliest_end.push(mark.at),
                }
                length + 1
            })
            .collect();
        let (mut wanted, mut next) = (earliest_end.len(), None);
        let mut line: Vec<Mark> = Vec::new();
        for (mark, length) in marks.iter().zip(&lengths).rev() {
            if *length == wanted && next.is_none_or(|next| mark.at <= next) {
                (wanted, next) = (wanted - 1, Some(mark.at));
                line.push(*mark);
            }
        }
        line.reverse();
        Self { marks: line }
    }

    /// For each copy, whether the gap before it (to the next older one) is a jump: longer than `min`, and out of all proportion.
    pub fn jumps(&self, min: SignedDuration) -> Vec<bool> {
        let pairs = || self.marks.iter().zip(self.marks.iter().skip(1));
        let gap = |(older, newer): (&Mark, &Mark)| newer.at.duration_since(older.at);
        // Copies that went between these two took their numbers along.
        let seconds_each = |pair: (&Mark, &Mark)| {
            let numbers = pair.1.sequence.saturating_sub(pair.0.sequence).max(1);
            gap(pair).as_secs().unsigned_abs() / numbers
        };
        if pairs().all(|pair| gap(pair) <= min) {
            return vec![false; self.marks.len()];
        }
        let mut sorted: Vec<u64> = pairs().map(seconds_each).collect();
        sorted.sort_unstable();
        let is_odd = |seconds: u64| {
            let Some(median) = sorted.len().checked_sub(2).map(|others| others / 2) else { return true };
            let own = sorted.partition_point(|other| *other < seconds);
            let usual = sorted[median + usize::from(own <= median)];
            seconds > usual.saturating_mul(JUMP_FACTOR)
        };
        let is_jump = |pair: (&Mark, &Mark)| gap(pair) > min && is_odd(seconds_each(pair));
        std::iter::once(false).chain(pairs().map(is_jump)).take(self.marks.len()).collect()
    }

    /// The time of each copy, as late as it may have been: a jump takes no time.
    pub fn without_jumps(&self, jumps: &[bool]) -> Vec<Timestamp> {
        let mut skipped = SignedDuration::ZERO;
        let mut times: Vec<Timestamp> = Vec::with_capacity(self.marks.len());
        for at in (0..self.marks.len()).rev() {
            let mark = self.marks[at].at;
            times.push(mark.checked_add(skipped).unwrap_or(Timestamp::MAX));
            if jumps[at] {
                skipped += mark.duration_since(self.marks[at - 1].at);
            }
        }
        times.reverse();
        times
    }
}

/// Whether a copy may have been taken at `at`, as seen at `now`.
pub fn may_be(at: Timestamp, now: Timestamp) -> bool {
    at >= EARLIEST && at.duration_since(now) <= SLACK
}

/// The time `length` before `anchor`, by the calendar of `zone`. A day that the month does not have is its last one.
pub fn before(anchor: Timestamp, length: Length, zone: &TimeZone) -> Timestamp {
    let span = || -> Result<Timestamp, jiff::Error> {
        let span = Span::new().try_years(length.years)?.try_months(length.months)?;
        let span = span.try_days(length.days)?.try_hours(length.hours)?;
        Ok(anchor.to_zoned(zone.clone()).checked_sub(span)?.timestamp())
    };
    // Longer ago than there is time.
    span().unwrap_or(Timestamp::MIN)
}

/// The periods of which the newest copy is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// From one full hour to the next; the hour that a change of the clocks repeats is two.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday.
    Week,
    /// A month of the calendar.
    Month,
    /// A year of the calendar.
    Year,
}

impl Period {
    /// The number of the period that `at` is in: the later, the higher.
    pub fn number(self, at: Timestamp, zone: &TimeZone) -> i64 {
        let date = at.to_zoned(zone.clone()).date();
        let days =
            |date: Date| i64::from(date.since(Date::constant(1970, 1, 1)).map_or(0, |span| span.get_days()));
        match self {
            Self::Hour => {
                let offset = i64::from(zone.to_offset(at).seconds());
                at.as_second() - (at.as_second() + offset).rem_euclid(3600)
            }
            Self::Day => days(date),
            Self::Week => (days(date) + 3).div_euclid(7),
            Self::Month => i64::from(date.year()) * 12 + i64::from(date.month()),
            Self::Year => i64::from(date.year()),
        }
    }

    /// The period that `at` is in, such as `2026-11-20` or `2026-W47`.
    pub fn shown(self, at: Timestamp, zone: &TimeZone) -> String {
        let at = at.to_zoned(zone.clone());
        match self {
            Self::Hour => at.strftime("%Y-%m-%d %H:00").to_string(),
            Self::Day => at.strftime("%Y-%m-%d").to_string(),
            Self::Week => at.strftime("%G-W%V").to_string(),
            Self::Month => at.strftime("%Y-%m").to_string(),
            Self::Year => at.strftime("%Y").to_string(),
        }
    }
}
