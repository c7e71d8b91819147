//! Whether the copies of a source are as fresh as they should be: facts in, one word and its reasons out. No clock, no file.
//!
//! A source is fresh while its last good run, one that stored a copy or found nothing new, is younger than `max_age`. The
//! age of the newest copy says nothing of that: a source in which nothing changes has an old copy and is fresh.

use jiff::{SignedDuration, Timestamp};
use pullback_shared::verdict::Verdict;
use serde_json::Value;
use std::time::Duration;

/// Runs that the success rate is counted over.
pub const RUNS_COUNTED: usize = 30;

/// So far ahead another machine's clock, or a corrected one, may be: a run that is later than this is in the future.
pub const CLOCK_SLACK: SignedDuration = SignedDuration::from_mins(5);

/// What history and copies say of a source.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// When the last run ended that stored a copy or found nothing new.
    pub last_good_at: Option<Timestamp>,
    /// When a copy was last stored.
    pub unchanged_since: Option<Timestamp>,
    /// Pulls that are counted, at most [`RUNS_COUNTED`], the newest ones.
    pub runs: usize,
    /// Of these, good ones.
    pub runs_good: usize,
    /// Why the newest pull failed; `None`: it did not.
    pub last_error: Option<Value>,
    /// What is thought of the newest copy.
    pub verdict: Option<Verdict>,
    /// Copies that have rotted.
    pub rotten: usize,
    /// When the good copy was proven that was not for longest; `None`: one never was, or a clock was wrong then.
    pub proven_at: Option<Timestamp>,
    /// When the last drill was, and whether it passed.
    pub last_drill: Option<(Timestamp, bool)>,
}

/// What is expected of a source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// A last good run that is longer ago makes it stale.
    pub max_age: Option<Duration>,
    /// No new copy for longer makes it stale too: does its application still write?
    pub max_unchanged: Option<Duration>,
    /// Its machine is often off: that a pull failed says nothing.
    pub optional: bool,
}

/// How a source is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// What the store has of it cannot be read.
    Unreadable,
    /// There is no good run and no copy.
    Never,
    /// A copy is rotten.
    Rotten,
    /// The newest copy shows that the source is damaged.
    Damaged,
    /// The newest copy shows that the source was emptied.
    Suspect,
    /// The last good run is longer ago than `max_age`, or a clock is wrong and nobody can tell.
    Stale,
    /// No new copy was stored for longer than `max_unchanged`.
    Unchanged,
    /// The newest pull failed.
    Failing,
    /// As it should be.
    Fresh,
}

impl State {
    /// The word in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Never => "never",
            Self::Rotten => "rotten",
            Self::Damaged => "damaged",
            Self::Suspect => "suspect",
            Self::Stale => "stale",
            Self::Unchanged => "unchanged",
            Self::Failing => "failing",
            Self::Fresh => "fresh",
        }
    }
}

/// What is to be said of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The worst of what is so.
    pub state: State,
    /// What makes it so, in sentences; none of a fresh source.
    pub because: Vec<String>,
    /// Whether somebody has to look.
    pub is_alarm: bool,
}

impl Facts {
    /// From the lines of a history and the newest copy: its verdict, and when it was taken.
    pub fn of(history: &[Value], newest: Option<(Verdict, Option<Timestamp>)>) -> Self {
        let pulls: Vec<&Value> = history.iter().filter(|line| line["run"] == "pull").collect();
        let at = |line: &Value| line["at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        let is_good = |line: &Value| line["outcome"] == "stored" || line["outcome"] == "unchanged";
        let last_at = |wanted: &dyn Fn(&Value) -> bool| {
            pulls.iter().rev().filter(|line| wanted(line)).find_map(|line| at(line))
        };
        // A history may be lost while the copies are there.
        let taken_at = newest.and_then(|(_, taken_at)| taken_at);
        let counted = &pulls[pulls.len().saturating_sub(RUNS_COUNTED)..];
        Self {
            last_good_at: last_at(&is_good).or(taken_at),
            unchanged_since: last_at(&|line| line["outcome"] == "stored").or(taken_at),
            runs: counted.len(),
            runs_good: counted.iter().filter(|line| is_good(line)).count(),
            last_error: pulls.last().filter(|line| !is_good(line)).map(|line| line["error"].clone()),
            verdict: newest.map(|(verdict, _)| verdict),
            rotten: usize::from(newest.is_some_and(|(verdict, _)| verdict == Verdict::Rotten)),
            proven_at: None,
            last_drill: history
                .iter()
                .rfind(|line| line["run"] == "drill")
                .and_then(|line| Some((at(line)?, line["outcome"] == "passed"))),
        }
    }

    /// The same with what all copies tell, each by its verdict and when it was proven last. A proof from a time that is yet to
    /// come says nothing.
    pub fn and_copies(
        mut self,
        copies: impl IntoIterator<Item = (Verdict, Option<Timestamp>)>,
        now: Timestamp,
    ) -> Self {
        let copies: Vec<_> = copies.into_iter().collect();
        self.rotten = copies.iter().filter(|(verdict, _)| *verdict == Verdict::Rotten).count();
        let past = |at: &Timestamp| at.duration_since(now) <= CLOCK_SLACK;
        let proofs = copies.iter().filter(|(verdict, _)| verdict.is_good()).map(|(_, at)| at.filter(past));
        // No proof is the oldest of all.
        self.proven_at = proofs.min().flatten();
        self
    }

    /// How the source is at `now`.
    pub fn judge(&self, now: Timestamp, expected: Expected) -> Judged {
        let mut found: Vec<(State, String)> = Vec::new();
        let mut add = |state, why: String| found.push((state, why));
        match self.last_good_at {
            None => add(State::Never, "it was never pulled".to_owned()),
            Some(at) if at.duration_since(now) > CLOCK_SLACK => add(
                State::Stale,
                format!("the last good run is in the future, {at:.0}: is the clock of this machine right?"),
            ),
            Some(at) => {
                let over = |since: Timestamp, max: Option<Duration>| {
                    let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
                    max.filter(|max| age > *max).map(|max| (length(age), length(max)))
                };
                if let Some((age, max)) = over(at, expected.max_age) {
                    add(State::Stale, format!("the last good run was {age} ago, `max_age` is {max}"));
                }
                // A copy from the future tells nothing of how long nothing changed: the run that found it unchanged does.
                let since = self.unchanged_since.filter(|since| *since <= at).unwrap_or(at);
                if let Some((age, max)) = over(since, expected.max_unchanged) {
                    add(State::Unchanged, format!("nothing new for {age}, `max_unchanged` is {max}"));
                }
            }
        }
        match self.verdict {
            Some(Verdict::Rotten) => add(State::Rotten, "the newest copy is rotten".to_owned()),
            _ if self.rotten == 1 => {
                add(State::Rotten, "a copy is rotten: `puller list` names it".to_owned())
            }
            _ if self.rotten > 1 => {
                add(State::Rotten, format!("{} copies are rotten: `puller list` names them", self.rotten))
            }
            _ => {}
        }
        match self.verdict {
            Some(Verdict::Damaged) => add(State::Damaged, "the source is damaged".to_owned()),
            Some(Verdict::Suspect) => add(State::Suspect, "the source looks emptied".to_owned()),
            _ => {}
        }
        if let Some(error) = &self.last_error {
            let message = error["message"].as_str().unwrap_or("nobody wrote down why");
            add(State::Failing, format!("the last pull failed: {message}"));
        }
        found.sort_by_key(|(state, _)| *state);
        let state = found.first().map_or(State::Fresh, |(state, _)| *state);
        let is_alarm = match state {
            State::Fresh => false,
            // Until `max_age` has passed it may still come right; where there is none, nothing else would ever tell.
            State::Failing => expected.max_age.is_none() && !expected.optional,
            _ => true,
        };
        Judged { state, because: found.into_iter().map(|(_, why)| why).collect(), is_alarm }
    }
}

/// A length of time as people say it: one or two units.
pub fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    // Up to two days people say 26 h, as in `max_age`.
    let days = if seconds < 2 * 86_400 { 0 } else { seconds / 86_400 };
    let (hours, minutes) = (seconds / 3600 - days * 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, 0) => format!("{hours} h"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, 0, _) => format!("{days} d"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-11-21T09:00:00Z";

    fn pull(outcome: &str, at: &str) -> Value {
        json!({"v": 1, "run": "pull", "outcome": outcome, "at": at, "error": {"message": "no route"}})
    }

    /// `runs`: outcomes with their times. `max`: max_age and max_unchanged in hours.
    #[track_caller]
    fn check(runs: &[(&str, &str)], verdict: Option<Verdict>, max: (u64, u64), expected: (&str, bool, &str)) {
        let history: Vec<Value> = runs.iter().map(|(outcome, at)| pull(outcome, at)).collect();
        let hours = |hours: u64| (hours > 0).then(|| Duration::from_secs(hours * 3600));
        let wanted = Expected { max_age: hours(max.0), max_unchanged: hours(max.1), optional: false };
        let facts = Facts::of(&history, verdict.map(|verdict| (verdict, None)));
        let judged = facts.judge(NOW.parse().unwrap(), wanted);
        let found = (judged.state.word(), judged.is_alarm, judged.because.join("; "));
        assert_eq!((found.0, found.1), (expected.0, expected.1), "{runs:?}: {judged:?}");
        assert!(found.2.contains(expected.2), "{runs:?}: {judged:?}");
        assert_eq!(judged.because.is_empty(), judged.state == State::Fresh);
    }

    #[test]
    fn a_run_that_found_nothing_new_is_as_fresh_as_one_that_stored() {
        let good = Some(Verdict::Ok);
        check(&[("stored", "2026-11-21T08:00:00Z")], good, (26, 0), ("fresh", false, ""));
        check(
            &[("stored", "2026-10-01T08:00:00Z"), ("unchanged", "2026-11-21T08:00:00Z")],
            good,
            (26, 0),
            ("fresh", false, ""),
        );
        check(&[("stored", "2026-10-01T08:00:00Z")], good, (0, 0), ("fresh", false, ""));
        check(&[("stored", "2026-11-20T06:59:59Z")], good, (26, 0), ("stale", true, "26 h"));
        check(&[("stored", "2026-11-20T07:00:00Z")], good, (26, 0), ("fresh", false, ""));
    }

    #[test]
    fn what_was_never_pulled_and_what_stopped_changing_are_told() {
        check(&[], None, (0, 0), ("never", true, "never pulled"));
        check(&[("failed", "2026-11-21T08:00:00Z")], None, (26, 0), ("never", true, "no route"));
        let runs = [("stored", "2026-11-01T08:00:00Z"), ("unchanged", "2026-11-21T08:00:00Z")];
        check(&runs, Some(Verdict::Ok), (26, 7 * 24), ("unchanged", true, "nothing new for 20 d 1 h"));
        check(&runs, Some(Verdict::Ok), (26, 30 * 24), ("fresh", false, ""));
    }

    #[test]
    fn a_failure_is_tolerated_until_max_age_has_passed_and_an_alarm_where_there_is_none() {
        let runs = [("stored", "2026-11-21T07:00:00Z"), ("failed", "2026-11-21T08:00:00Z")];
        check(&runs, Some(Verdict::Ok), (26, 0), ("failing", false, "no route"));
        check(&runs, Some(Verdict::Ok), (0, 0), ("failing", true, "no route"));
        check(&runs, Some(Verdict::Ok), (1, 0), ("stale", true, "no route"));
        let facts = Facts::of(&runs.map(|(outcome, at)| pull(outcome, at)), None);
        let often_off = Expected { optional: true, ..Expected::default() };
        assert!(!facts.judge(NOW.parse().unwrap(), often_off).is_alarm);
        let back = [runs[0], runs[1], ("unchanged", "2026-11-21T08:30:00Z")];
        check(&back, Some(Verdict::Ok), (26, 0), ("fresh", false, ""));
    }

    #[test]
    fn a_bad_newest_copy_is_an_alarm_however_fresh_it_is() {
        let runs = [("stored", "2026-11-21T08:00:00Z")];
        check(&runs, Some(Verdict::Damaged), (26, 0), ("damaged", true, "the source is damaged"));
        check(&runs, Some(Verdict::Suspect), (26, 0), ("suspect", true, "emptied"));
        check(&runs, Some(Verdict::Rotten), (26, 0), ("rotten", true, "rotten"));
        check(&runs, Some(Verdict::Violations), (26, 0), ("fresh", false, ""));
        check(&runs, Some(Verdict::Unchecked), (26, 0), ("fresh", false, ""));
    }

    #[test]
    fn a_clock_that_stands_in_the_past_hides_nothing() {
        let runs = [("stored", "2026-11-22T08:00:00Z")];
        check(&runs, Some(Verdict::Ok), (26, 0), ("stale", true, "in the future, 2026-11-22T08:00:00Z"));
        check(&runs, Some(Verdict::Ok), (0, 0), ("stale", true, "in the future"));
        check(&[("stored", "2026-11-21T09:04:00Z")], Some(Verdict::Ok), (26, 0), ("fresh", false, ""));
        // The clock was wrong once; the order of the lines is that of the runs, whatever they say.
        let mended = [("stored", "2036-01-01T00:00:00Z"), ("unchanged", "2026-11-21T08:00:00Z")];
        check(&mended, Some(Verdict::Ok), (26, 0), ("fresh", false, ""));
        let mended = [("stored", "2036-01-01T00:00:00Z"), ("unchanged", "2026-11-01T08:00:00Z")];
        check(&mended, Some(Verdict::Ok), (26, 0), ("stale", true, "20 d 1 h"));
    }

    #[test]
    fn what_was_not_proven_for_longest_counts_and_the_future_does_not() {
        let now: Timestamp = NOW.parse().unwrap();
        let proven = |copies: &[(Verdict, Option<&str>)]| {
            let copies = copies.iter().map(|(verdict, at)| (*verdict, at.map(|at| at.parse().unwrap())));
            let at = Facts::default().and_copies(copies, now).proven_at;
            at.map(|at| at.to_string())
        };
        let (old, new) = ("2026-11-01T00:00:00Z", "2026-11-20T00:00:00Z");
        assert_eq!(proven(&[]), None);
        assert_eq!(proven(&[(Verdict::Ok, Some(new)), (Verdict::Ok, Some(old))]).as_deref(), Some(old));
        assert_eq!(proven(&[(Verdict::Ok, Some(new)), (Verdict::Ok, None)]), None);
        assert_eq!(proven(&[(Verdict::Ok, Some(new)), (Verdict::Ok, Some("2036-01-01T00:00:00Z"))]), None);
        assert_eq!(proven(&[(Verdict::Ok, Some(new)), (Verdict::Rotten, None)]).as_deref(), Some(new));
    }

    #[test]
    fn a_rotten_copy_is_an_alarm_though_a_newer_one_is_good() {
        let facts = Facts::of(&[pull("stored", "2026-11-21T08:00:00Z")], Some((Verdict::Ok, None)));
        let copies = [(Verdict::Rotten, None), (Verdict::Ok, None)];
        let judged =
            facts.and_copies(copies, NOW.parse().unwrap()).judge(NOW.parse().unwrap(), Expected::default());
        assert_eq!((judged.state, judged.is_alarm), (State::Rotten, true), "{judged:?}");
    }

    #[test]
    fn the_last_drill_is_that_of_the_last_line() {
        let drill = |outcome: &str, at: &str| json!({"run": "drill", "outcome": outcome, "at": at});
        let history = [
            drill("passed", "2026-11-01T00:00:00Z"),
            drill("failed", "2026-11-08T00:00:00Z"),
            pull("stored", NOW),
        ];
        let facts = Facts::of(&history, None);
        assert_eq!(facts.last_drill, Some(("2026-11-08T00:00:00Z".parse().unwrap(), false)));
        assert_eq!(facts.runs, 1);
    }

    #[test]
    fn only_pulls_are_counted_and_only_the_newest() {
        let mut history = vec![pull("failed", "2026-11-01T00:00:00Z"); 50];
        history.extend(vec![pull("stored", "2026-11-02T00:00:00Z"); 29]);
        history.push(json!({"run": "rotate", "outcome": "removed", "at": "2026-11-03T00:00:00Z"}));
        let facts = Facts::of(&history, None);
        assert_eq!((facts.runs, facts.runs_good), (30, 29));
        assert_eq!(facts.last_good_at, Some("2026-11-02T00:00:00Z".parse().unwrap()));
        assert_eq!(facts.last_error, None);
        let lost = Facts::of(&[], Some((Verdict::Ok, Some("2026-11-02T00:00:00Z".parse().unwrap()))));
        assert_eq!(lost.last_good_at, facts.last_good_at);
    }
}
