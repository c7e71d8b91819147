//! Rotation: which copies stay, and why. A plan is made first; it can be shown, tested, and then carried out.
//!
//! Nothing evicts a good copy but newer good copies under the stated policy, and the newest good copy always stays.

use crate::history;
use crate::manifest::Manifest;
use crate::packing;
use crate::policy::{Count, Length, Policy, Rules, Size};
use crate::restore_record::Record;
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use crate::timeline::{self, Dated, JUMP_MIN, Line, Period};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::verdict::Verdict;
use std::collections::BTreeSet;
use std::ops::Range;

/// Of damaged and of suspect copies, no more than this many are kept.
const FINDINGS_KEPT_MAX: usize = 3;

/// Where a clock jumped, what is one day may look like two, and weeks may begin on other days: a rule that counts may count
/// two more for each jump.
const COUNTED_MORE: usize = 2;

/// What the oldest copy is kept as, where it is not the newest of its day.
const OLDEST: &str = "oldest";

/// What rotation needs to know of a copy.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its id.
    pub id: String,
    /// Its number.
    pub sequence: u64,
    /// When it was taken, by the clock of that time.
    pub taken_at: Option<Timestamp>,
    /// What is thought of it.
    pub verdict: Verdict,
    /// Whether it passed SQLite's full check.
    pub passed_full: bool,
    /// Whether a person said that it stays.
    pub pinned: bool,
    /// Why it may be what leads back from the last restore, if it may.
    pub safety: Option<String>,
    /// What its files take on the disk; what copies share counts for each.
    pub stored_bytes: u64,
}

impl Facts {
    /// Of every copy of `source`, oldest first.
    pub fn of(source: &SourceDir) -> Result<Vec<Self>, Fault> {
        let stored = source.stored_bytes()?;
        let record = Record::read(source);
        if let Err(fault) = &record {
            tracing::warn!(%fault, "no copy is removed");
        }
        let safety = |id: &str| match &record {
            Ok(record) => record.as_ref().filter(|record| record.needs(id)).map(|record| {
                format!("safety copy of the restore of {}", record.begun_at.strftime("%Y-%m-%d"))
            }),
            Err(_) => Some("`restore.json` cannot be read, so it may be a safety copy".to_owned()),
        };
        let of = |copy: StoredCopy| Self {
            safety: safety(&copy.id),
            sequence: copy.sequence,
            taken_at: copy.manifest.as_ref().ok().map(|manifest| manifest.taken_at),
            verdict: copy.verdict(),
            passed_full: copy.manifest.as_ref().is_ok_and(Manifest::passed_full),
            pinned: copy.manifest.as_ref().is_ok_and(|manifest| manifest.pinned),
            stored_bytes: stored.get(&copy.id).copied().unwrap_or_default(),
            id: copy.id,
        };
        Ok(source.copies()?.into_iter().map(of).collect())
    }
}

/// What becomes of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The copy.
    pub id: String,
    /// Why it stays; empty: no reason keeps it, and it goes.
    pub kept_because: Vec<String>,
    /// Why it goes; empty where it stays.
    pub goes_because: String,
}

impl Decision {
    /// Whether the copy stays.
    pub fn stays(&self) -> bool {
        !self.kept_because.is_empty()
    }
}

/// Nothing decided yet for any of `copies`.
fn undecided(copies: &[Facts]) -> Vec<Decision> {
    let of = |copy: &Facts| Decision {
        id: copy.id.clone(),
        kept_because: Vec::new(),
        goes_because: "no rule keeps it".to_owned(),
    };
    copies.iter().map(of).collect()
}

/// Nothing goes of which it was said why it stays.
fn decided(mut decisions: Vec<Decision>) -> Vec<Decision> {
    decisions
        .iter_mut()
        .filter(|decision| decision.stays())
        .for_each(|decision| decision.goes_because.clear());
    decisions
}

/// Decides for `copies`, which are in the order of their sequence, oldest first.
pub fn plan(copies: &[Facts], rules: &Rules, now: Timestamp) -> Vec<Decision> {
    let mut decisions = undecided(copies);
    let mut keep = |index: usize, why: &str| decisions[index].kept_because.push(why.to_owned());
    let good: Vec<usize> = (0..copies.len()).filter(|index| copies[*index].verdict.is_good()).collect();
    let Some(newest_good) = good.last().copied() else {
        (0..copies.len()).for_each(|index| keep(index, "there is no good copy yet"));
        keep_safety(copies, &mut decisions);
        return decided(decisions);
    };
    keep(newest_good, "newest good copy");
    if rules.policy.is_empty() {
        (0..copies.len()).for_each(|index| keep(index, "no policy"));
        keep_safety(copies, &mut decisions);
        return decided(decisions);
    }
    for (index, why) in kept_by_rules(copies, &good, rules, now) {
        keep(index, &why);
    }
    let oldest_kept = good.iter().copied().find(|index| decisions[*index].stays()).unwrap_or(newest_good);
    for (index, copy) in copies.iter().enumerate() {
        let why = match copy.verdict {
            Verdict::Rotten => "rotten copies are never removed",
            Verdict::Unchecked if index > oldest_kept => "not yet checked",
            _ => continue,
        };
        decisions[index].kept_because.push(why.to_owned());
    }
    // What only a full check sees may be in every copy since the last one that passed it.
    let passed = good.iter().copied().rfind(|index| copies[*index].passed_full);
    if let Some(index) = passed.filter(|index| *index != newest_good) {
        decisions[index].kept_because.push("newest good copy that passed a full check".to_owned());
    }
    keep_findings(copies, &mut decisions);
    keep_pinned(copies, &mut decisions);
    keep_safety(copies, &mut decisions);
    if let Some(size) = rules.policy.max_total_size {
        let is_held = |copy: &Facts| copy.pinned || copy.safety.is_some();
        let may_go =
            |index: &usize| *index != newest_good && Some(*index) != passed && !is_held(&copies[*index]);
        let may_go: Vec<usize> = good.iter().copied().filter(may_go).collect();
        fit(copies, &may_go, size, &mut decisions);
    }
    decided(decisions)
}

/// One rule of a policy.
enum Rule {
    Last(Count),
    Each(Period, Count),
    Within(Length),
    EachWithin(Period, Length),
    Days(u32),
}

/// The rules of `policy` that are not off, with what they are called. The size is none of them.
fn rules_of(policy: &Policy) -> Vec<(String, Rule)> {
    let counted = [
        ("keep-hourly", Period::Hour, policy.keep_hourly),
        ("keep-daily", Period::Day, policy.keep_daily),
        ("keep-weekly", Period::Week, policy.keep_weekly),
        ("keep-monthly", Period::Month, policy.keep_monthly),
        ("keep-yearly", Period::Year, policy.keep_yearly),
    ];
    let within = [
        ("keep-within-hourly", Period::Hour, policy.keep_within_hourly),
        ("keep-within-daily", Period::Day, policy.keep_within_daily),
        ("keep-within-weekly", Period::Week, policy.keep_within_weekly),
        ("keep-within-monthly", Period::Month, policy.keep_within_monthly),
        ("keep-within-yearly", Period::Year, policy.keep_within_yearly),
    ];
    let on = |count: &Count| *count != Count::Of(0);
    let lasts = |length: &Length| *length != Length::default();
    let mut rules = Vec::new();
    rules.extend(policy.keep_last.filter(on).map(|count| ("keep-last".to_owned(), Rule::Last(count))));
    for (name, period, count) in counted {
        rules.extend(count.filter(on).map(|count| (name.to_owned(), Rule::Each(period, count))));
    }
    rules.extend(
        policy
            .keep_within
            .filter(lasts)
            .map(|length| (format!("keep-within {length}"), Rule::Within(length))),
    );
    for (name, period, length) in within {
        let rule = |length: Length| (format!("{name} {length}"), Rule::EachWithin(period, length));
        rules.extend(length.filter(lasts).map(rule));
    }
    rules.extend(policy.keep_days.map(|days| ("keep-days".to_owned(), Rule::Days(days))));
    rules
}

/// A good copy that is not on the line, though there is a newer one that is.
#[derive(Clone, Copy)]
struct Misdated {
    /// The place of that newer one.
    newer: usize,
    /// What its own clock said, if that may be.
    at: Option<Timestamp>,
    /// Whether that is later than now.
    is_future: bool,
}

/// What a rule says of the copies on the line.
#[derive(Default)]
struct Reach {
    /// Those that it keeps, by their places on the line, and what of, such as a day.
    kept: Vec<(usize, String)>,
    /// How far back it reaches: the oldest place on the line whose day, or whatever it counts, it reaches.
    oldest: Option<usize>,
}

impl Rule {
    fn reach(&self, line: &Line, zone: &TimeZone) -> Reach {
        match *self {
            Self::Last(count) => {
                let first = match count {
                    Count::Of(number) => line.marks.len().saturating_sub(number as usize),
                    Count::Unlimited => 0,
                };
                Reach {
                    kept: (first..line.marks.len()).map(|at| (at, String::new())).collect(),
                    oldest: Some(first),
                }
            }
            Self::Each(period, count) => each(line, period, count, zone),
            Self::Within(_) | Self::Days(_) => {
                let places = self.places_within(line, zone);
                Reach { oldest: Some(places.start), kept: places.map(|at| (at, String::new())).collect() }
            }
            Self::EachWithin(period, _) => each_within(line, self.places_within(line, zone), period, zone),
        }
    }

    /// Where the window of the rule begins, if it has one. Ages count from the newest copy on the line.
    fn window(&self, line: &Line, zone: &TimeZone) -> Option<Timestamp> {
        let anchor = line.marks.last()?.at;
        match *self {
            Self::Within(length) | Self::EachWithin(_, length) => {
                Some(timeline::before(anchor, length, zone))
            }
            Self::Days(days) => {
                let window = SignedDuration::from_hours(i64::from(days) * 24);
                Some(anchor.checked_sub(window).unwrap_or(Timestamp::MIN))
            }
            Self::Last(_) | Self::Each(..) => None,
        }
    }

    /// Whether `at` is in a window that begins at `start`. Of what is exactly as old, restic says no, and the days say yes.
    fn is_in(&self, start: Timestamp, at: Timestamp) -> bool {
        at > start || at == start && matches!(self, Self::Days(_))
    }

    /// The places on the line that are within the window.
    fn places_within(&self, line: &Line, zone: &TimeZone) -> Range<usize> {
        let all = line.marks.len();
        let (Some(start), Some(anchor)) = (self.window(line, zone), line.marks.last()) else {
            return all..all;
        };
        let times = line.without_jumps(&line.jumps(anchor.at.duration_since(start).min(JUMP_MIN)));
        times.partition_point(|at| !self.is_in(start, *at))..all
    }

    /// Whether the rule could keep a copy that is not on the line.
    fn could_keep(&self, line: &Line, reach: &Reach, copy: Misdated, zone: &TimeZone) -> bool {
        let Misdated { newer, at, is_future } = copy;
        let reaches = reach.oldest.is_some_and(|oldest| newer >= oldest);
        // Where both neighbours are of one day, so is what lies between them, and it is not the newest of that day. But what comes
        // from the future may be right, and they and the clock that is asked now wrong.
        let is_between = |period: Period| {
            let number = |at: usize| period.number(line.marks[at].at, zone);
            is_future || newer.checked_sub(1).is_none_or(|older| number(older) < number(newer))
        };
        let counted_at = |period: Period| {
            let number = |at: Timestamp| period.number(at, zone);
            let oldest = reach.oldest.and_then(|oldest| line.marks.get(oldest));
            at.zip(oldest).is_some_and(|(at, oldest)| number(at) >= number(oldest.at))
        };
        let is_within = || at.zip(self.window(line, zone)).is_some_and(|(at, start)| self.is_in(start, at));
        match *self {
            Self::Last(Count::Unlimited) => true,
            Self::Last(Count::Of(number)) => line.marks.len() - newer < number as usize,
            Self::Each(period, _) => reaches && is_between(period) || counted_at(period),
            Self::Within(_) | Self::Days(_) => reaches || is_within(),
            Self::EachWithin(period, _) => reaches && is_between(period) || is_within(),
        }
    }
}

/// Tells for one copy on the line after the other, newest first, whether it is the newest of its period.
struct Newest<'a> {
    line: &'a Line,
    period: Period,
    zone: &'a TimeZone,
    last: Option<i64>,
}

impl<'a> Newest<'a> {
    fn of(line: &'a Line, period: Period, zone: &'a TimeZone) -> Self {
        Self { line, period, zone, last: None }
    }

    fn is(&mut self, at: usize) -> bool {
        let number = self.period.number(self.line.marks[at].at, self.zone);
        // Not `!=`: where clocks are set back just after midnight, a day comes twice.
        let is_newest = self.last.is_none_or(|last| number < last);
        self.last = if is_newest { Some(number) } else { self.last };
        is_newest
    }

    /// What the copy at the place `at` is kept of.
    fn shown(&self, at: usize) -> String {
        self.period.shown(self.line.marks[at].at, self.zone)
    }
}

/// The newest copy of each of the newest `count` periods that have one. While not all are counted, the oldest copy stays too.
fn each(line: &Line, period: Period, count: Count, zone: &TimeZone) -> Reach {
    let mut most = match count {
        Count::Of(number) => number as usize,
        Count::Unlimited => usize::MAX,
    };
    let jumps = line.jumps(JUMP_MIN);
    let (mut counted, mut newest, mut reach) = (0, Newest::of(line, period, zone), Reach::default());
    for at in (0..line.marks.len()).rev() {
        let is_newest = newest.is(at);
        counted += usize::from(is_newest);
        if is_newest && counted <= most {
            reach.kept.push((at, newest.shown(at)));
        } else if at == 0 && counted < most {
            reach.kept.push((at, OLDEST.to_owned()));
        }
        if counted <= most {
            reach.oldest = Some(at);
        }
        if jumps[at] {
            // A rule that has enough on this side looks no further.
            if counted > most {
                break;
            }
            most = most.saturating_add(COUNTED_MORE);
        }
    }
    reach
}

/// The newest copy of each period, of those at `places`; and the oldest copy, if it is one of them.
fn each_within(line: &Line, places: Range<usize>, period: Period, zone: &TimeZone) -> Reach {
    let mut reach = Reach { oldest: Some(places.start), ..Reach::default() };
    let mut newest = Newest::of(line, period, zone);
    for at in places.rev() {
        if newest.is(at) {
            reach.kept.push((at, newest.shown(at)));
        } else if at == 0 {
            reach.kept.push((at, OLDEST.to_owned()));
        }
    }
    reach
}

/// The good copies that the rules keep, with the reasons.
fn kept_by_rules(copies: &[Facts], good: &[usize], rules: &Rules, now: Timestamp) -> Vec<(usize, String)> {
    if rules.policy.is_only_a_size() {
        return good.iter().map(|index| (*index, "max-total-size".to_owned())).collect();
    }
    let dated = |index: &usize| {
        let Facts { sequence, taken_at, .. } = copies[*index];
        Dated { index: *index, sequence, at: taken_at }
    };
    let dated: Vec<Dated> = good.iter().map(dated).collect();
    let line = Line::of(&dated, now);
    let mut kept = Vec::new();
    let stated = rules_of(&rules.policy);
    let reaches: Vec<Reach> = stated.iter().map(|(_, rule)| rule.reach(&line, &rules.zone)).collect();
    for ((name, _), reach) in stated.iter().zip(&reaches) {
        for (at, what) in &reach.kept {
            kept.push((line.marks[*at].index, format!("{name} {what}").trim_end().to_owned()));
        }
    }
    for copy in &dated {
        let newer = line.marks.partition_point(|mark| mark.index < copy.index);
        match line.marks.get(newer) {
            Some(mark) if mark.index == copy.index => continue,
            None => kept.push((copy.index, "misdated, and no newer copy has a time that fits".to_owned())),
            Some(_) => {
                let at = copy.at.filter(|at| timeline::may_be(*at, now));
                let is_future = at.is_none() && copy.at.is_some_and(|at| at > now);
                let misdated = Misdated { newer, at, is_future };
                let holds = stated
                    .iter()
                    .zip(&reaches)
                    .find(|((_, rule), reach)| rule.could_keep(&line, reach, misdated, &rules.zone));
                if let Some(((name, _), _)) = holds {
                    kept.push((copy.index, format!("misdated, and {name} may keep it")));
                }
            }
        }
    }
    kept
}

/// Takes away the oldest of `may_go` until what stays fits into `size`.
fn fit(copies: &[Facts], may_go: &[usize], size: Size, decisions: &mut [Decision]) {
    let staying = copies.iter().zip(decisions.iter()).filter(|(_, decision)| decision.stays());
    let mut total: u64 = staying.map(|(copy, _)| copy.stored_bytes).sum();
    for index in may_go {
        if total <= size.0 {
            break;
        }
        if decisions[*index].stays() {
            total -= copies[*index].stored_bytes;
            decisions[*index].kept_because.clear();
            decisions[*index].goes_because = format!("max-total-size {size}");
        }
    }
}

/// Of damaged and suspect copies, the first and the newest of each run stay, and at most three of each kind.
fn keep_findings(copies: &[Facts], decisions: &mut [Decision]) {
    for verdict in [Verdict::Damaged, Verdict::Suspect] {
        let is_it = |index: usize| copies.get(index).is_some_and(|copy| copy.verdict == verdict);
        let edges = (0..copies.len())
            .filter(|index| is_it(*index) && (*index == 0 || !is_it(*index - 1) || !is_it(*index + 1)));
        let edges: Vec<usize> = edges.collect();
        for index in edges.iter().rev().take(FINDINGS_KEPT_MAX) {
            decisions[*index].kept_because.push(format!("first or newest {verdict} of its run"));
        }
    }
}

/// What a person pinned stays, whatever it is.
fn keep_pinned(copies: &[Facts], decisions: &mut [Decision]) {
    for (_, decision) in copies.iter().zip(decisions).filter(|(copy, _)| copy.pinned) {
        decision.kept_because.push("pinned".to_owned());
    }
}

/// What leads back from the last restore stays, whatever it is: often it is damaged, which is why there was a restore.
fn keep_safety(copies: &[Facts], decisions: &mut [Decision]) {
    for (copy, decision) in copies.iter().zip(decisions) {
        decision.kept_because.extend(copy.safety.clone());
    }
}

/// Which damaged and suspect copies go so that a sick source cannot fill the disk; good ones are not looked at.
pub fn plan_findings(copies: &[Facts]) -> Vec<Decision> {
    let mut decisions = undecided(copies);
    keep_findings(copies, &mut decisions);
    keep_pinned(copies, &mut decisions);
    keep_safety(copies, &mut decisions);
    for (copy, decision) in copies.iter().zip(&mut decisions) {
        if !matches!(copy.verdict, Verdict::Damaged | Verdict::Suspect) {
            decision.kept_because.push("neither damaged nor suspect".to_owned());
        }
    }
    decided(decisions)
}

/// Carries `decisions` out: removes the copies that no reason keeps, oldest first. Returns their ids, and why others that were
/// to go are still there.
///
/// What is packed upon a copy that goes gets another form before. History says that it goes before it does: a run that dies in
/// between leaves either a whole copy, which [`SourceDir::clear_drafts`] enters into history again, or files without a
/// manifest, which it clears away. The other way round they would be missed for ever; which is risked where the disk is too
/// full for a line of history, and only the copy's going makes room for it.
pub fn carry_out(
    source: &SourceDir,
    decisions: &[Decision],
    now: Timestamp,
    lock: &Lock,
) -> Result<Removed, Fault> {
    let mut removed = Removed { kept: packing::settle(source, lock)?, ..Removed::default() };
    let goes = |decision: &&Decision| !decision.stays();
    let mut leaving: BTreeSet<String> = BTreeSet::new();
    // What has no room to be packed anew may have it once others are gone.
    let mut in_the_way: Vec<(String, Fault)> = Vec::new();
    for round in 0..2 {
        let turn: Vec<String> = match round {
            0 => decisions.iter().filter(goes).map(|decision| decision.id.clone()).collect(),
            _ => std::mem::take(&mut in_the_way).into_iter().map(|(id, _)| id).collect(),
        };
        leaving.extend(turn.iter().cloned());
        for id in turn {
            if let Err(fault) = packing::release(source, &id, &leaving, lock) {
                // It stays: what it leads from is not to go from under it.
                leaving.remove(&id);
                in_the_way.push((id, fault));
                continue;
            }
            let line = serde_json::json!({
                "v": 1, "at": crate::clock::rfc3339(now), "run": "rotate", "outcome": "removed", "copy": id,
            });
            let said = history::add(source, &line);
            if said.as_ref().is_err_and(|fault| fault.kind != Kind::NoSpace) {
                said?;
            } else {
                source.remove(&id, lock)?;
                said.or_else(|_| history::add(source, &line))?;
            }
            leaving.remove(&id);
            removed.ids.push(id);
        }
    }
    let why = |(id, fault): (String, Fault)| format!("copy {id} is kept a while longer: {fault}");
    removed.kept.extend(in_the_way.into_iter().map(why));
    Ok(removed)
}

/// What was carried out.
#[derive(Debug, Default)]
pub struct Removed {
    /// The copies that are gone.
    pub ids: Vec<String>,
    /// Of those that were to go and are still there, why: a sentence each.
    pub kept: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400;

    /// `o` ok, `q` ok as far as a quick check goes, `d` damaged, `s` suspect, `u` unchecked, `r` rotten; one copy a day.
    fn copies(verdicts: &str) -> Vec<Facts> {
        let of = |(day, letter): (usize, char)| Facts {
            id: format!("{day}"),
            sequence: day as u64 + 1,
            pinned: false,
            safety: None,
            stored_bytes: 1,
            taken_at: Some(Timestamp::from_second(1_700_000_000 + day as i64 * DAY).unwrap()),
            verdict: match letter {
                'o' | 'q' => Verdict::Ok,
                'd' => Verdict::Damaged,
                's' => Verdict::Suspect,
                'u' => Verdict::Unchecked,
                _ => Verdict::Rotten,
            },
            passed_full: letter == 'o',
        };
        verdicts.chars().enumerate().map(of).collect()
    }

    fn kept(copies: &[Facts], keep_last: Option<u32>, keep_days: Option<u32>) -> String {
        decisions(copies, keep_last, keep_days)
            .iter()
            .map(|decision| if decision.stays() { '+' } else { '-' })
            .collect()
    }

    fn decisions(copies: &[Facts], keep_last: Option<u32>, keep_days: Option<u32>) -> Vec<Decision> {
        let policy = Policy { keep_last: keep_last.map(Count::Of), keep_days, ..Policy::default() };
        plan(copies, &Rules { policy, zone: TimeZone::UTC }, Timestamp::from_second(1_900_000_000).unwrap())
    }

    #[track_caller]
    fn check(verdicts: &str, keep_last: Option<u32>, keep_days: Option<u32>, expected: &str) {
        assert_eq!(kept(&copies(verdicts), keep_last, keep_days), expected);
    }

    #[test]
    fn rules_keep_the_newest_good_copies() {
        check("oooooo", Some(2), None, "----++");
        check("oooooo", None, Some(2), "---+++");
        check("oooooo", Some(1), Some(3), "--++++");
        check("oooooo", None, None, "++++++");
    }

    #[test]
    fn the_newest_good_copy_stays_whatever_the_policy() {
        check("ooo", Some(0), Some(0), "--+");
        check("oodd", Some(0), None, "-+++");
        check("ddd", Some(0), None, "+++");
    }

    #[test]
    fn copies_that_are_not_good_evict_nothing() {
        check("ooddu", Some(2), None, "+++++");
        check("oous", Some(1), None, "-+++");
        check("uooo", Some(1), None, "---+");
        check("rooo", Some(1), None, "+--+");
    }

    #[test]
    fn copies_that_passed_only_a_quick_check_do_not_evict_the_last_that_passed_a_full_one() {
        check("ooqqq", Some(2), None, "-+-++");
        check("ooqqo", Some(2), None, "---++");
        check("oq", Some(0), None, "++");
        check("qqqq", Some(1), None, "---+");
        check("oqqd", Some(1), None, "+-++");
        check("oqqqq", None, Some(1), "+--++");
    }

    #[test]
    fn a_sick_source_cannot_fill_the_disk() {
        check("oddddddd", Some(9), None, "++-----+");
        check("oddoddod", Some(9), None, "+--+++++");
    }

    #[test]
    fn the_safety_copy_of_a_restore_stays_and_says_so_in_every_plan() {
        let why = "safety copy of the restore of 2026-11-21";
        let of = |verdicts: &str, at: usize| {
            let mut copies = copies(verdicts);
            copies[at].safety = Some(why.into());
            copies
        };
        #[track_caller]
        fn check(decisions: &[Decision], at: usize, expected: &str) {
            let stays = |decision: &Decision| if decision.stays() { '+' } else { '-' };
            assert_eq!(decisions.iter().map(stays).collect::<String>(), expected);
            let why = "safety copy of the restore of 2026-11-21";
            assert!(decisions[at].kept_because.contains(&why.to_owned()), "{decisions:?}");
            assert!(decisions[at].goes_because.is_empty());
        }
        check(&decisions(&of("oooo", 1), Some(1), None), 1, "-+-+");
        check(&decisions(&of("oddddddd", 4), Some(9), None), 4, "++--+--+");
        check(&decisions(&of("ossss", 2), Some(9), None), 2, "+++-+");
        check(&decisions(&of("ddd", 1), Some(1), None), 1, "+++");
        check(&decisions(&of("ooo", 0), None, None), 0, "+++");
        check(&plan_findings(&of("oddddddd", 4)), 4, "++--+--+");
        let size = Policy { max_total_size: Some(Size(2)), ..Policy::default() };
        let rules = Rules { policy: size, zone: TimeZone::UTC };
        check(&plan(&of("ooooo", 1), &rules, Timestamp::from_second(1_900_000_000).unwrap()), 1, "-+--+");
    }

    #[test]
    fn facts_name_the_safety_copy_of_the_record_and_hold_all_where_it_cannot_be_read() {
        use crate::manifest::tests::manifest;
        use crate::restore_record::VERSION;
        use crate::store::{KnownStores, Store};
        let dir = tempfile::tempdir().unwrap();
        let known = KnownStores::in_file(dir.path().join("known"));
        let store = Store::open_or_create(&dir.path().join("store"), &known, false).unwrap();
        let address = crate::address::Address::parse("/srv/gym.db").unwrap().unwrap();
        let source = store.create(&address, Some("gym")).unwrap();
        let lock = source.lock().unwrap();
        let ids = [1, 2].map(|sequence| {
            source.write_manifest(&manifest(sequence), &lock).unwrap();
            manifest(sequence).copy
        });
        let safety = || -> Vec<Option<String>> {
            Facts::of(&source).unwrap().into_iter().map(|facts| facts.safety).collect()
        };
        assert_eq!(safety(), [None, None]);
        let record = Record {
            v: VERSION,
            begun_at: "2026-11-21T23:59:00Z".parse().unwrap(),
            ended_at: Some("2026-11-22T00:01:00Z".parse().unwrap()),
            from: "gym".into(),
            copy: ids[1].clone(),
            snapshot: "0".repeat(64),
            safety: Some(ids[0].clone()),
            quarantine: None,
            tables: Vec::new(),
            to_start: None,
            is_undo: false,
        };
        record.write(&source, &lock).unwrap();
        assert_eq!(safety(), [Some("safety copy of the restore of 2026-11-21".into()), None]);
        std::fs::write(source.dir().join("restore.json"), "{").unwrap();
        assert!(safety().iter().all(Option::is_some));
    }

    #[test]
    fn a_clock_that_jumps_removes_nothing() {
        let mut jumped = copies("oooo");
        jumped[3].taken_at = Some(Timestamp::from_second(1_700_000_000 + 400 * DAY).unwrap());
        assert_eq!(kept(&jumped, None, Some(2)), "++++");
        let mut back = copies("oooo");
        back[3].taken_at = Some(Timestamp::from_second(0).unwrap());
        assert_eq!(kept(&back, None, Some(2)), "++++");
    }

    proptest! {
        #[test]
        fn no_policy_and_no_clock_removes_the_newest_good_copy(
            verdicts in "[oqdsur]{1,30}",
            times in prop::collection::vec(-1_000_000_000i64..4_000_000_000, 30),
            keep_last in prop::option::of(0u32..5),
            keep_days in prop::option::of(0u32..5),
        ) {
            let mut copies = copies(&verdicts);
            for (copy, time) in copies.iter_mut().zip(times) {
                copy.taken_at = Some(Timestamp::from_second(time).unwrap());
            }
            let decisions = decisions(&copies, keep_last, keep_days);
            let good = copies.iter().filter(|copy| copy.verdict.is_good()).count();
            let stay = copies.iter().zip(&decisions).filter(|(copy, d)| copy.verdict.is_good() && d.stays()).count();
            prop_assert!(stay >= good.min(keep_last.unwrap_or(1).max(1) as usize));
            if let Some(newest) = copies.iter().rposition(|copy| copy.verdict.is_good()) {
                prop_assert!(decisions[newest].stays());
            }
            if let Some(newest) = copies.iter().rposition(|copy| copy.verdict.is_good() && copy.passed_full) {
                prop_assert!(decisions[newest].stays());
            }
        }
    }
}
