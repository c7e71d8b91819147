//! Rotation against a naive model, over 1,000 simulated days for each seed: pulls, failures, damage, emptied sources, checks
//! that come later, rot, pins, restores, other policies, other time zones, and clocks that jump.
//!
//! The model is written from "What is kept" in doc/operations.md. It asks of each copy by itself whether a sentence of that
//! page keeps it, counts by names of days and weeks, and shares no code with rotation.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pullback_shared::verdict::Verdict;
use puller::policy::{Count, Length, Policy, Rules, Size};
use puller::rotation::{Decision, Facts, plan, plan_findings};
use std::collections::BTreeSet;

const DAY: i64 = 86_400;
const DAYS: i64 = 1_000;

/// Seeds of one run of the tests; `RETENTION_SEEDS` says another number.
const SEEDS: u64 = 200;

fn seeds() -> std::ops::Range<u64> {
    let said = std::env::var("RETENTION_SEEDS").ok().and_then(|text| text.parse().ok());
    0..said.unwrap_or(SEEDS)
}

/// SplitMix64: numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, number: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % number as u64) as i64
    }

    fn one_in(&mut self, number: i64) -> bool {
        self.below(number) == 0
    }
}

fn second(at: i64) -> Timestamp {
    Timestamp::from_second(at).expect("a time")
}

/// Zones with their rules written out (POSIX), so that no machine needs to know them: with summer time in the north and in the
/// south, far east, far west.
fn zone(number: i64) -> TimeZone {
    let rules = [
        "UTC0",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "KST-9",
        "NZST-12NZDT,M9.5.0,M4.1.0/3",
        "PST8PDT,M3.2.0,M11.1.0",
    ];
    TimeZone::posix(rules[number as usize % rules.len()]).expect("a zone")
}

fn length(days: i64, dice: &mut Dice) -> Length {
    let none = Length::default();
    match dice.below(4) {
        0 => Length { hours: days as u32 * 24, ..none },
        1 => Length { months: days as u32 / 30, days: days as u32 % 30 + 1, ..none },
        2 => Length { years: 1, hours: 5, ..none },
        _ => Length { days: days as u32, ..none },
    }
}

fn some_policy(dice: &mut Dice) -> Policy {
    let mut policy = Policy::default();
    for _ in 0..=dice.below(3) {
        let count = Some(if dice.one_in(12) { Count::Unlimited } else { Count::Of(dice.below(8) as u32) });
        let (short, long) = (1 + dice.below(10), 20 + dice.below(100));
        match dice.below(14) {
            0 => policy.keep_last = Some(Count::Of(dice.below(12) as u32)),
            1 => policy.keep_hourly = Some(Count::Of(dice.below(20) as u32)),
            2 => policy.keep_daily = Some(Count::Of(dice.below(12) as u32)),
            3 => policy.keep_weekly = count,
            4 => policy.keep_monthly = count,
            5 => policy.keep_yearly = count,
            6 => policy.keep_within = Some(length(short, dice)),
            7 => policy.keep_within_hourly = Some(length(short, dice)),
            8 => policy.keep_within_daily = Some(length(long / 3, dice)),
            9 => policy.keep_within_weekly = Some(length(long, dice)),
            10 => policy.keep_within_monthly = Some(length(long * 3, dice)),
            11 => policy.keep_within_yearly = Some(length(long * 8, dice)),
            12 => policy.keep_days = Some(dice.below(15) as u32),
            _ => policy.max_total_size = Some(Size(10 + dice.below(300) as u64)),
        }
    }
    policy
}

mod model {
    use super::*;

    /// A copy whose time is believed.
    #[derive(Clone, Copy)]
    struct Fits {
        index: usize,
        number: i128,
        at: Timestamp,
    }

    pub(crate) fn stays(copies: &[Facts], rules: &Rules, now: Timestamp) -> Vec<bool> {
        let good: Vec<usize> = (0..copies.len()).filter(|i| copies[*i].verdict.is_good()).collect();
        let Some(&newest_good) = good.last() else { return vec![true; copies.len()] };
        if rules.policy.is_empty() {
            return vec![true; copies.len()];
        }
        let by_rule = by_rules(copies, &good, rules, now);
        let oldest_good =
            good.iter().copied().find(|i| by_rule[*i] || *i == newest_good).expect("one is kept");
        let full = good.iter().copied().filter(|i| copies[*i].passed_full).max();
        let mut stays: Vec<bool> = (0..copies.len())
            .map(|i| {
                by_rule[i]
                    || i == newest_good
                    || Some(i) == full
                    || copies[i].pinned
                    || copies[i].safety.is_some()
                    || copies[i].verdict == Verdict::Rotten
                    || (copies[i].verdict == Verdict::Unchecked && i > oldest_good)
                    || of_findings(copies).contains(&i)
            })
            .collect();
        if let Some(Size(most)) = rules.policy.max_total_size {
            for i in good {
                let total: u64 =
                    (0..copies.len()).filter(|i| stays[*i]).map(|i| copies[i].stored_bytes).sum();
                let is_held = copies[i].pinned || copies[i].safety.is_some();
                if total > most && i != newest_good && Some(i) != full && !is_held {
                    stays[i] = false;
                }
            }
        }
        stays
    }

    /// "of each, the first and the newest of a run stay, and no more than three"
    pub(crate) fn of_findings(copies: &[Facts]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        for verdict in [Verdict::Damaged, Verdict::Suspect] {
            let mut ends = BTreeSet::new();
            let mut begin = None;
            for i in 0..=copies.len() {
                match (i < copies.len() && copies[i].verdict == verdict, begin) {
                    (true, None) => begin = Some(i),
                    (false, Some(first)) => {
                        ends.extend([first, i - 1]);
                        begin = None;
                    }
                    _ => {}
                }
            }
            found.extend(ends.into_iter().rev().take(3));
        }
        found
    }

    /// "Of the others as few as possible are taken for misdated so that the rest rise; … the newer ones are believed."
    fn that_fit(copies: &[Facts], good: &[usize], now: Timestamp) -> Vec<Fits> {
        let minutes = SignedDuration::from_mins(5);
        let year_2000 = Date::constant(2000, 1, 1).to_zoned(TimeZone::UTC).expect("a day").timestamp();
        let mut all: Vec<Fits> = Vec::new();
        for index in good {
            let Some(mut at) = copies[*index].taken_at else { continue };
            if at < year_2000 || at > now.saturating_add(minutes).expect("a sum") {
                continue;
            }
            if let Some(last) = all.last()
                && at < last.at
                && at >= last.at.saturating_sub(minutes).expect("a difference")
            {
                at = last.at;
            }
            all.push(Fits { index: *index, number: copies[*index].sequence.into(), at });
        }
        // best[i]: the most that rise and begin with none before i, the i-th among them.
        let mut upwards = vec![1usize; all.len()];
        for i in 0..all.len() {
            upwards[i] =
                1 + (0..i).filter(|j| all[*j].at <= all[i].at).map(|j| upwards[j]).max().unwrap_or(0);
        }
        let mut line: Vec<Fits> = Vec::new();
        let mut left = upwards.iter().copied().max().unwrap_or(0);
        while left > 0 {
            let before = line
                .last()
                .map_or(all.len(), |next| all.iter().position(|c| c.index == next.index).expect("it"));
            let at_most = line.last().map(|next| next.at);
            let next =
                (0..before).rev().find(|i| upwards[*i] == left && at_most.is_none_or(|at| all[*i].at <= at));
            line.push(all[next.expect("a way down")]);
            left -= 1;
        }
        line.reverse();
        line
    }

    /// Whether the gap below `line[i]` is one that a clock made.
    fn is_jump(line: &[Fits], i: usize, longest: SignedDuration) -> bool {
        if i == 0 {
            return false;
        }
        let each = |i: usize| {
            let seconds = i128::from(line[i].at.duration_since(line[i - 1].at).as_secs());
            seconds / (line[i].number - line[i - 1].number)
        };
        let mut others: Vec<i128> = (1..line.len()).filter(|other| *other != i).map(each).collect();
        others.sort();
        let usual = if others.is_empty() { 0 } else { others[(others.len() - 1) / 2] };
        line[i].at.duration_since(line[i - 1].at) > longest && each(i) > 3 * usual
    }

    /// The name of the hour, day, … that `at` is in; later ones are greater.
    fn name(period: &str, at: Timestamp, zone: &TimeZone) -> String {
        let local = at.to_zoned(zone.clone());
        let date = local.date();
        match period {
            // The offset falls when an hour comes twice: the first of the two sorts lower.
            "hour" => {
                format!("{date} {:02} {:06}", local.hour(), 200_000 - i64::from(zone.to_offset(at).seconds()))
            }
            "day" => date.to_string(),
            "week" => {
                let monday = date.checked_sub(jiff::Span::new().days(date.weekday().to_monday_zero_offset()));
                monday.expect("a Monday").to_string()
            }
            "month" => format!("{:04}-{:02}", date.year(), date.month()),
            _ => format!("{:04}", date.year()),
        }
    }

    /// "It goes back by the calendar; a day that the month does not have is its last one."
    fn back(anchor: Timestamp, length: Length, zone: &TimeZone) -> Timestamp {
        let local = anchor.to_zoned(zone.clone());
        let months = i64::from(local.year()) * 12 + i64::from(local.month())
            - 1
            - i64::from(length.years) * 12
            - i64::from(length.months);
        let first =
            Date::new(months.div_euclid(12) as i16, months.rem_euclid(12) as i8 + 1, 1).expect("a month");
        let date = first.with().day(local.day().min(first.days_in_month())).build().expect("a day");
        let date = date.checked_sub(jiff::Span::new().days(length.days)).expect("a day");
        let at = date.to_datetime(local.time()).to_zoned(zone.clone()).expect("a time").timestamp();
        at - SignedDuration::from_hours(length.hours.into())
    }

    fn by_rules(copies: &[Facts], good: &[usize], rules: &Rules, now: Timestamp) -> Vec<bool> {
        let Rules { policy, zone } = rules;
        let line = that_fit(copies, good, now);
        let mut kept = vec![false; copies.len()];
        let only_size = Policy { max_total_size: None, ..*policy } == Policy::default();
        if only_size {
            good.iter().for_each(|i| kept[*i] = true);
            return kept;
        }
        let month = SignedDuration::from_hours(720);
        let counts = [
            ("hour", policy.keep_hourly),
            ("day", policy.keep_daily),
            ("week", policy.keep_weekly),
            ("month", policy.keep_monthly),
            ("year", policy.keep_yearly),
        ];
        let withins = [
            ("", policy.keep_within),
            ("hour", policy.keep_within_hourly),
            ("day", policy.keep_within_daily),
            ("week", policy.keep_within_weekly),
            ("month", policy.keep_within_monthly),
            ("year", policy.keep_within_yearly),
        ];
        let number = |count: Count| match count {
            Count::Of(number) => number as usize,
            Count::Unlimited => usize::MAX / 4,
        };
        // For each good copy: its place on the line, and that of the next newer one on it.
        let places: Vec<(usize, Option<usize>, Option<usize>)> = good
            .iter()
            .map(|&index| {
                let place = line.iter().position(|copy| copy.index == index);
                (index, place, line.iter().position(|copy| copy.index > index))
            })
            .collect();
        let Some(newest) = line.last().map(|newest| newest.at) else {
            good.iter().for_each(|index| kept[*index] = true);
            return kept;
        };
        for (index, _, _) in places.iter().filter(|(_, place, above)| place.is_none() && above.is_none()) {
            kept[*index] = true;
        }
        let own = |index: usize| {
            copies[index].taken_at.filter(|at| {
                at.duration_since(now) <= SignedDuration::from_mins(5) && *at >= second(946_684_800)
            })
        };
        let is_future = |index: usize| {
            copies[index].taken_at.is_some_and(|at| at.duration_since(now) > SignedDuration::from_mins(5))
        };
        if let Some(count) = policy.keep_last {
            for index in good {
                kept[*index] |= line.iter().filter(|copy| copy.index > *index).count() < number(count);
            }
        }
        for (period, count) in counts {
            let Some(count) = count.map(number).filter(|count| *count > 0) else { continue };
            let names: Vec<String> = line.iter().map(|copy| name(period, copy.at, zone)).collect();
            let distinct = |from: usize| names[from..].iter().collect::<BTreeSet<_>>().len();
            let jumps: Vec<usize> = (1..line.len()).filter(|i| is_jump(&line, *i, month)).rev().collect();
            // How many may be counted at a place; none where the rule stopped before.
            let most = |at: usize| {
                let mut most = count;
                for jump in jumps.iter().filter(|jump| **jump > at) {
                    if distinct(*jump) > most {
                        return 0;
                    }
                    most += 2;
                }
                most
            };
            let is_counted: Vec<bool> = (0..line.len()).map(|at| distinct(at) <= most(at)).collect();
            let oldest = is_counted.iter().position(|counted| *counted).expect("the newest is counted");
            for &(index, place, above) in &places {
                kept[index] |= match (place, above) {
                    (Some(at), _) => {
                        let is_newest = !names[at + 1..].contains(&names[at]);
                        (is_newest && is_counted[at]) || (at == 0 && !is_newest && distinct(0) < most(0))
                    }
                    (None, Some(above)) => {
                        let of_one = !is_future(index) && above > 0 && names[above - 1] == names[above];
                        let own = own(index).map(|at| name(period, at, zone));
                        (is_counted[above] && !of_one) || own.is_some_and(|own| own >= names[oldest])
                    }
                    (None, None) => true,
                };
            }
        }
        let days = policy.keep_days.map(|days| ("days", SignedDuration::from_hours(i64::from(days) * 24)));
        let windows = withins.into_iter().filter_map(|(period, length)| {
            let length = length.filter(|length| *length != Length::default())?;
            Some((period, newest.duration_since(back(newest, length, zone))))
        });
        for (period, window) in windows.chain(days) {
            let longest = window.min(month);
            let jumps: Vec<bool> = (0..line.len()).map(|i| is_jump(&line, i, longest)).collect();
            let age = |at: usize| {
                let mut age = SignedDuration::ZERO;
                for i in at + 1..line.len() {
                    if !jumps[i] {
                        age += line[i].at.duration_since(line[i - 1].at);
                    }
                }
                age
            };
            let fits = |age: SignedDuration| age < window || (age == window && period == "days");
            let names: Vec<String> = line.iter().map(|copy| name(period, copy.at, zone)).collect();
            let is_whole = period.is_empty() || period == "days";
            for &(index, place, above) in &places {
                kept[index] |= match (place, above) {
                    (Some(at), _) => {
                        fits(age(at)) && (is_whole || at == 0 || !names[at + 1..].contains(&names[at]))
                    }
                    (None, Some(above)) => {
                        let of_one =
                            !is_future(index) && !is_whole && above > 0 && names[above - 1] == names[above];
                        let own = own(index).map(|at| newest.duration_since(at));
                        (fits(age(above)) && !of_one) || own.is_some_and(fits)
                    }
                    (None, None) => true,
                };
            }
        }
        kept
    }
}

/// A store without files: what would be in it.
struct Store {
    copies: Vec<Facts>,
    next: u64,
}

impl Store {
    fn add(&mut self, verdict: Verdict, passed_full: bool, at: Timestamp, stored_bytes: u64) {
        let facts = Facts {
            id: self.next.to_string(),
            sequence: self.next,
            taken_at: Some(at),
            verdict,
            passed_full,
            pinned: false,
            safety: None,
            stored_bytes,
        };
        self.next += 1;
        self.copies.push(facts);
    }

    fn carry_out(&mut self, decisions: &[Decision]) {
        self.keep(&decisions.iter().map(Decision::stays).collect::<Vec<bool>>());
    }

    fn keep(&mut self, stays: &[bool]) {
        let mut stays = stays.iter();
        self.copies.retain(|_| *stays.next().expect("one decision for each"));
    }

    fn numbers(&self) -> BTreeSet<u64> {
        self.copies.iter().map(|copy| copy.sequence).collect()
    }
}

/// What is promised of every plan, whatever the times.
fn promises(copies: &[Facts], decisions: &[Decision], policy: &Policy) {
    let is_good = |i: &usize| copies[*i].verdict.is_good();
    let good: Vec<usize> = (0..copies.len()).filter(is_good).collect();
    let Some(newest) = good.last() else {
        return assert!(decisions.iter().all(Decision::stays));
    };
    assert!(decisions[*newest].stays(), "the newest good copy");
    let full = good.iter().rfind(|i| copies[**i].passed_full);
    assert!(full.is_none_or(|i| decisions[*i].stays()), "the newest that passed a full check");
    for (copy, decision) in copies.iter().zip(decisions) {
        let is_held = copy.pinned || copy.safety.is_some();
        assert!(decision.stays() || !is_held && copy.verdict != Verdict::Rotten);
        assert_eq!(decision.stays(), decision.goes_because.is_empty());
    }
    let kept = good.iter().filter(|i| decisions[**i].stays()).count();
    if policy.max_total_size.is_none()
        && let Some(Count::Of(last)) = policy.keep_last
    {
        assert!(kept >= good.len().min(last as usize), "fewer good copies than the policy promises");
    }
}

/// The clock of a workstation: most of the time right.
fn skew(dice: &mut Dice, now: i64, before: i64) -> i64 {
    match dice.below(60) {
        // At 1970, and running on.
        0 => -now,
        // Back to when the battery was new.
        1 => 1_420_070_400 - now,
        2 => 365 * DAY,
        3 => dice.below(800) * DAY + dice.below(DAY),
        4 => -dice.below(300) * DAY,
        5 => dice.below(7_200) - 3_600,
        6..=25 => 0,
        _ => before,
    }
}

fn simulate(seed: u64) {
    let mut dice = Dice(seed);
    let begin = 1_700_000_000 + dice.below(400 * DAY);
    let mut store = Store { copies: Vec::new(), next: 1 };
    let mut rules = Rules { policy: some_policy(&mut dice), zone: zone(dice.below(5)) };
    let (mut offset, mut is_sick) = (0, None);
    let rhythm = 1 + dice.below(5);
    for day in 0..DAYS {
        if dice.one_in(90) {
            rules.policy = some_policy(&mut dice);
        }
        if dice.one_in(400) {
            rules.zone = zone(dice.below(5));
        }
        if dice.one_in(40) {
            is_sick = [None, Some(Verdict::Damaged), Some(Verdict::Suspect), None][dice.below(4) as usize];
        }
        let pulls = if rhythm == 1 { dice.below(3) } else { i64::from(dice.one_in(rhythm - 1)) };
        for pull in 0..pulls {
            let now = begin + day * DAY + pull * DAY / pulls + dice.below(20_000);
            offset = skew(&mut dice, now, offset);
            let now = second(now + offset);
            // Failed, or unchanged: nothing new.
            if dice.one_in(8) {
                continue;
            }
            let verdict = match (is_sick, dice.below(10)) {
                (Some(verdict), 0..8) => verdict,
                (_, 0) => Verdict::Unchecked,
                (_, 1) => Verdict::Violations,
                _ => Verdict::Ok,
            };
            store.add(verdict, verdict.is_good() && dice.one_in(3), now, 1 + dice.below(9) as u64);
            // A restore: what was newest before it is its safety copy, and that of the one before is one no longer.
            if dice.one_in(60) {
                store.copies.iter_mut().for_each(|copy| copy.safety = None);
                store.copies.last_mut().expect("a copy").safety = Some("safety copy".to_owned());
            }
            let any = dice.below(store.copies.len() as i64) as usize;
            let copy = &mut store.copies[any];
            match dice.below(40) {
                0 => copy.verdict = Verdict::Rotten,
                1 => copy.pinned = true,
                2..5 => copy.pinned = false,
                5..12 if matches!(copy.verdict, Verdict::Unchecked | Verdict::Suspect) => {
                    copy.verdict = Verdict::Ok
                }
                _ => {}
            }
            let (copies, what) = (&store.copies, format!("seed {seed}, day {day}, {rules:?}"));
            if matches!(verdict, Verdict::Damaged | Verdict::Suspect) {
                let decisions = plan_findings(copies);
                let found = model::of_findings(copies);
                for (i, decision) in decisions.iter().enumerate() {
                    let is_finding = matches!(copies[i].verdict, Verdict::Damaged | Verdict::Suspect);
                    let is_held = copies[i].pinned || copies[i].safety.is_some();
                    let expected = !is_finding || found.contains(&i) || is_held;
                    assert_eq!(decision.stays(), expected, "copy {i}, {what}");
                }
                store.carry_out(&decisions);
                continue;
            }
            let decisions = plan(copies, &rules, now);
            let expected = model::stays(copies, &rules, now);
            for (i, decision) in decisions.iter().enumerate() {
                assert_eq!(
                    decision.stays(),
                    expected[i],
                    "{:?}\n{decision:?}\n{what}\nnow {now}\n{}",
                    copies[i],
                    shown(copies)
                );
            }
            promises(copies, &decisions, &rules.policy);
            store.carry_out(&decisions);
        }
    }
}

fn shown(copies: &[Facts]) -> String {
    let line = |copy: &Facts| format!("{} {:?} {:?}\n", copy.sequence, copy.taken_at, copy.verdict);
    copies.iter().map(line).collect()
}

/// Runs `each` with every seed, on as many threads as there are processors.
fn with_seeds(each: fn(u64)) {
    let threads = std::thread::available_parallelism().map_or(1, |number| number.get() as u64);
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || seeds().filter(|seed| seed % threads == first).for_each(each));
        }
    });
}

#[test]
fn rotation_does_for_a_thousand_days_what_the_document_says() {
    with_seeds(simulate);
}

/// A policy that counts or measures time, without a size.
fn timely_policy(dice: &mut Dice) -> Policy {
    let mut policy = Policy { max_total_size: None, ..some_policy(dice) };
    if policy.is_empty() {
        policy.keep_daily = Some(Count::Of(7));
    }
    policy
}

/// What restic's page on removing snapshots says of `copies`, all of them good and with times that are right: each rule goes
/// through them from the newest to the oldest and takes the first of each hour, day, week, month or year, as often as it
/// may; the newest stays, and `--keep-days` is ours. `oldest`: with what it keeps additionally while a rule may take more.
fn restic(copies: &[Facts], rules: &Rules, oldest: bool) -> Vec<bool> {
    let policy = &rules.policy;
    let at = |i: usize| copies[i].taken_at.expect("a time").to_zoned(rules.zone.clone());
    let newest = at(copies.len() - 1);
    let period = |i: usize, kind: &str| {
        let local = at(i);
        match kind {
            "copy" => i.to_string(),
            "hour" => local.strftime("%F %H %z").to_string(),
            "day" => local.strftime("%F").to_string(),
            "week" => local.strftime("%G %V").to_string(),
            "month" => local.strftime("%Y %m").to_string(),
            _ => local.strftime("%Y").to_string(),
        }
    };
    let mut stays = vec![false; copies.len()];
    stays[copies.len() - 1] = true;
    let mut apply = |kind: &str, mut left: usize, within: Option<Length>| {
        let since = within.map(|Length { years, months, days, hours }| {
            let span = jiff::Span::new().years(years).months(months).days(days).hours(hours);
            newest.checked_sub(span).expect("a time")
        });
        let mut last = String::new();
        for i in (0..copies.len()).rev() {
            let this = period(i, kind);
            if left == 0 || since.as_ref().is_some_and(|since| at(i) <= *since) {
                break;
            }
            if this != last || (oldest && i == 0) {
                (stays[i], left, last) = (true, left - 1, this);
            }
        }
    };
    let counts = [
        ("copy", policy.keep_last),
        ("hour", policy.keep_hourly),
        ("day", policy.keep_daily),
        ("week", policy.keep_weekly),
        ("month", policy.keep_monthly),
        ("year", policy.keep_yearly),
    ];
    for (kind, count) in counts {
        match count {
            Some(Count::Of(number)) => apply(kind, number as usize, None),
            Some(Count::Unlimited) => apply(kind, usize::MAX, None),
            None => {}
        }
    }
    let withins = [
        ("copy", policy.keep_within),
        ("hour", policy.keep_within_hourly),
        ("day", policy.keep_within_daily),
        ("week", policy.keep_within_weekly),
        ("month", policy.keep_within_monthly),
        ("year", policy.keep_within_yearly),
    ];
    for (kind, length) in withins {
        if let Some(length) = length.filter(|length| *length != Length::default()) {
            apply(kind, usize::MAX, Some(length));
        }
    }
    if let Some(days) = policy.keep_days {
        let window = SignedDuration::from_hours(i64::from(days) * 24);
        for (i, stays) in stays.iter_mut().enumerate() {
            *stays |= newest.timestamp().duration_since(at(i).timestamp()) <= window;
        }
    }
    stays
}

/// Copies taken at `times`, in UTC.
fn taken(times: impl IntoIterator<Item = i64>) -> Vec<Facts> {
    let mut store = Store { copies: Vec::new(), next: 1 };
    times.into_iter().for_each(|at| store.add(Verdict::Ok, true, second(at), 1));
    store.copies
}

/// Which of `copies` stay under `words`, as they are typed, seen an hour after the last one.
fn kept_by(copies: &[Facts], words: &str) -> Vec<usize> {
    let policy = words.split(" --").map(|rule| {
        let (name, value) =
            rule.trim_start_matches("--keep-").trim_start_matches("keep-").split_once(' ').expect("a value");
        format!("{} = \"{value}\"\n", name.replace('-', "_"))
    });
    let policy = toml::from_str(&policy.collect::<String>()).expect("a policy");
    let rules = Rules { policy, zone: TimeZone::UTC };
    let now = copies.last().and_then(|copy| copy.taken_at).expect("a copy") + SignedDuration::from_hours(1);
    let stays: Vec<bool> = plan(copies, &rules, now).iter().map(Decision::stays).collect();
    let places = |stays: &[bool]| -> Vec<usize> { (0..copies.len()).filter(|i| stays[*i]).collect() };
    assert_eq!(places(&stays), places(&restic(copies, &rules, true)), "{words}");
    places(&stays)
}

/// restic's documentation, "Removing backup snapshots", "Removing snapshots according to a policy".
#[test]
fn the_examples_of_restics_page_are_so() {
    // "Suppose you have only made one backup every Sunday for 12 weeks": 2019-09-01 to 2019-11-17, 11:00.
    let sundays = taken((0..12).map(|week| 1_567_335_600 + week * 7 * DAY));
    assert_eq!(kept_by(&sundays, "--keep-daily 4"), [8, 9, 10, 11]);
    // "suppose you make one backup every day for 100 years": here for 90, up to 2090-12-31, a Sunday, at 11:00.
    let end = 3_818_401_200;
    let century = taken((0..32_872).rev().map(|day| end - day * DAY));
    let kept = kept_by(&century, "--keep-daily 7 --keep-weekly 5 --keep-monthly 12 --keep-yearly 75");
    // 7 days; 4 more ends of weeks; 11 more ends of months; 74 more ends of years.
    assert_eq!(kept.len(), 7 + 4 + 11 + 74);
    // "daily snapshots for the last week, weekly for the last month, monthly for the last year and yearly for the last 75 years"
    let within =
        "--keep-within-daily 7d --keep-within-weekly 1m --keep-within-monthly 1y --keep-within-yearly 75y";
    assert_eq!(kept_by(&century, within).len(), 7 + 4 + 11 + 74);
    // "all snapshots made in the two years, five months, seven days and three hours before the latest (most recent) snapshot":
    // since 2088-07-24 08:00, of which day the copy of 11:00 is the first.
    let kept = kept_by(&century, "--keep-within 2y5m7d3h");
    assert_eq!(century[kept[0]].taken_at, Some("2088-07-24T11:00:00Z".parse().expect("a time")));
    // "If there are not enough snapshots to keep one for each …, the oldest snapshot is kept additionally."
    assert_eq!(kept_by(&century[32_600..32_620], "--keep-yearly 5"), [0, 19]);
    assert_eq!(kept_by(&sundays, "--keep-monthly unlimited"), [0, 4, 8, 11]);
    // "For the last n days which have one or more": twice a day, with days left out.
    let days = taken([0, 1, 5, 6, 9].into_iter().flat_map(|day| [end + day * DAY, end + day * DAY + 3_600]));
    assert_eq!(kept_by(&days, "--keep-daily 3"), [5, 7, 9]);
}

/// Two workstations pull the same source at the same moments. The clock of one is right; that of the other is years ahead
/// once, and now and then back at 1970, or where its battery was new. Of what the first one keeps, the second one has all that was taken
/// while its clock was right, and as many copies at least.
fn two_clocks(seed: u64) {
    let mut dice = Dice(seed ^ 0x5eed);
    let begin = 1_700_000_000 / DAY * DAY + dice.below(400) * DAY;
    let [mut right, mut wrong] = [0, 1].map(|_| Store { copies: Vec::new(), next: 1 });
    let rules = Rules { policy: timely_policy(&mut dice), zone: zone(0) };
    let (mut offset, rhythm) = (0, 1 + dice.below(3));
    let (mut dated_right, mut was_ahead) = (BTreeSet::new(), false);
    // The clock is wrong by whole days. So a day is a day to it, but its weeks, months and years begin elsewhere, and the newest
    // copy of such a one may be another.
    let Policy { keep_weekly, keep_monthly, keep_yearly, .. } = rules.policy;
    let Policy { keep_within_weekly, keep_within_monthly, keep_within_yearly, .. } = rules.policy;
    let longer_rules = [keep_weekly, keep_monthly, keep_yearly].iter().flatten().count()
        + [keep_within_weekly, keep_within_monthly, keep_within_yearly].iter().flatten().count();
    for day in (0..DAYS).filter(|day| day % rhythm == 0) {
        let now = begin + day * DAY + 10 * 3_600 + dice.below(3_600);
        offset = match (offset, dice.below(1_200)) {
            (_, 0) => -now / DAY * DAY,
            (_, 1) => (1_420_070_400 - now) / DAY * DAY,
            (0, 2..4) if !was_ahead => (365 + dice.below(5) * 120) * DAY,
            (0, _) | (_, 4..100) => 0,
            _ => offset,
        };
        was_ahead |= offset > 0;
        right.add(Verdict::Ok, true, second(now), 1);
        let kept = restic(&right.copies, &rules, false);
        right.keep(&kept);
        wrong.add(Verdict::Ok, true, second(now + offset), 1);
        let decisions = plan(&wrong.copies, &rules, second(now + offset));
        let stays = wrong.copies.iter().zip(&decisions).filter(|(_, decision)| decision.stays());
        let stays: BTreeSet<u64> = stays.map(|(copy, _)| copy.sequence).collect();
        if offset == 0 {
            dated_right.insert(right.next - 1);
        }
        let mut missing = &right.numbers() - &stays;
        missing.retain(|number| longer_rules == 0 || dated_right.contains(number));
        let what = || format!("seed {seed}, day {day}, {:?}\n{}", rules.policy.words(), shown(&wrong.copies));
        assert!(missing.is_empty(), "{missing:?} would go: {}", what());
        let would_be = right.copies.len();
        assert!(stays.len() + longer_rules >= would_be, "{} instead of {would_be}: {}", stays.len(), what());
        wrong.carry_out(&decisions);
    }
}

#[test]
fn what_a_right_clock_would_have_kept_a_wrong_one_does_not_remove() {
    with_seeds(two_clocks);
}
