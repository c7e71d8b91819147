//! Rotation: which copies stay, and why. A plan is made first; it can be shown, tested, and then carried out.
//!
//! Nothing evicts a good copy but newer good copies under the stated policy, and the newest good copy always stays.

use crate::history;
use crate::manifest::Manifest;
use crate::packing;
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use jiff::{SignedDuration, Timestamp};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::verdict::Verdict;
use std::collections::BTreeSet;

/// Of damaged and of suspect copies, no more than this many are kept.
const FINDINGS_KEPT_MAX: usize = 3;

/// What to keep. Rules are OR-ed: a copy stays if any of them keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The newest so many good copies.
    #[serde(rename = "last")]
    pub keep_last: Option<u32>,
    /// Good copies up to so many days older than the newest good one.
    #[serde(rename = "days")]
    pub keep_days: Option<u32>,
}

impl Policy {
    /// Whether nothing is stated: then nothing is ever removed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What rotation needs to know of a copy.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its id.
    pub id: String,
    /// When it was taken, by the clock of that time.
    pub taken_at: Option<Timestamp>,
    /// What is thought of it.
    pub verdict: Verdict,
    /// Whether it passed SQLite's full check.
    pub passed_full: bool,
}

impl Facts {
    /// Of `copy`.
    pub fn of(copy: &StoredCopy) -> Self {
        let taken_at = copy.manifest.as_ref().ok().map(|manifest| manifest.taken_at);
        let passed_full = copy.manifest.as_ref().is_ok_and(Manifest::passed_full);
        Self { id: copy.id.clone(), taken_at, verdict: copy.verdict(), passed_full }
    }
}

/// What becomes of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The copy.
    pub id: String,
    /// Why it stays; empty: no reason keeps it, and it goes.
    pub kept_because: Vec<String>,
}

impl Decision {
    /// Whether the copy stays.
    pub fn stays(&self) -> bool {
        !self.kept_because.is_empty()
    }
}

/// Decides for `copies`, which are in the order of their sequence, oldest first.
pub fn plan(copies: &[Facts], policy: Policy) -> Vec<Decision> {
    let newest_good = copies.iter().rposition(|copy| copy.verdict.is_good());
    let mut decisions: Vec<Decision> =
        copies.iter().map(|copy| Decision { id: copy.id.clone(), kept_because: Vec::new() }).collect();
    let mut keep = |index: usize, why: &str| decisions[index].kept_because.push(why.to_owned());
    let Some(newest_good) = newest_good else {
        (0..copies.len()).for_each(|index| keep(index, "there is no good copy yet"));
        return decisions;
    };
    keep(newest_good, "newest good copy");
    if policy.is_empty() {
        (0..copies.len()).for_each(|index| keep(index, "no policy"));
        return decisions;
    }
    let good: Vec<usize> = (0..copies.len()).filter(|index| copies[*index].verdict.is_good()).collect();
    for index in good.iter().rev().take(policy.keep_last.unwrap_or(0) as usize) {
        keep(*index, "keep-last");
    }
    if let Some(days) = policy.keep_days {
        within_days(copies, &good, days).into_iter().for_each(|(index, why)| keep(index, why));
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
    let passed = good.iter().rfind(|index| copies[**index].passed_full);
    if let Some(index) = passed.filter(|index| **index != newest_good) {
        decisions[*index].kept_because.push("newest good copy that passed a full check".to_owned());
    }
    keep_findings(copies, &mut decisions);
    decisions
}

/// The good copies that `keep-days` keeps. Ages count from the newest good copy, so backups that stopped do not age away.
/// A clock that jumped must not remove anything either: a copy from a later time than the newest stays, and where the newest
/// good copy is alone in its window, the gap before it may be the clock's, so all stay until it has company.
fn within_days(copies: &[Facts], good: &[usize], days: u32) -> Vec<(usize, &'static str)> {
    let newest = good.last().and_then(|index| copies[*index].taken_at);
    let window = SignedDuration::from_hours(i64::from(days) * 24);
    let age = |index: usize| Some(newest?.duration_since(copies[index].taken_at?));
    let inside: Vec<usize> =
        good.iter().copied().filter(|index| age(*index).is_none_or(|age| age <= window)).collect();
    let recent =
        inside.iter().filter(|index| age(**index).is_some_and(|age| age >= SignedDuration::ZERO)).count();
    let alone = recent <= 1 && good.len() > 1 && days > 0;
    if alone {
        return good
            .iter()
            .map(|index| (*index, "keep-days (the newest good copy is alone in its days)"))
            .collect();
    }
    inside.into_iter().map(|index| (index, "keep-days")).collect()
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

/// Which damaged and suspect copies go so that a sick source cannot fill the disk; good ones are not looked at.
pub fn plan_findings(copies: &[Facts]) -> Vec<Decision> {
    let mut decisions: Vec<Decision> =
        copies.iter().map(|copy| Decision { id: copy.id.clone(), kept_because: Vec::new() }).collect();
    keep_findings(copies, &mut decisions);
    for (copy, decision) in copies.iter().zip(&mut decisions) {
        if !matches!(copy.verdict, Verdict::Damaged | Verdict::Suspect) {
            decision.kept_because.push("neither damaged nor suspect".to_owned());
        }
    }
    decisions
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
    let mut removed = Removed::default();
    source.link_latest(lock)?;
    let goes = |decision: &&Decision| !decision.stays();
    let mut leaving: BTreeSet<String> =
        decisions.iter().filter(goes).map(|decision| decision.id.clone()).collect();
    // What has no room to be packed anew may have it once others are gone.
    let mut in_the_way: Vec<(String, Fault)> = Vec::new();
    for round in 0..2 {
        let turn: Vec<String> = match round {
            0 => decisions.iter().filter(goes).map(|decision| decision.id.clone()).collect(),
            _ => std::mem::take(&mut in_the_way).into_iter().map(|(id, _)| id).collect(),
        };
        for id in turn {
            match packing::release(source, &id, &leaving, lock) {
                Ok(()) => {}
                Err(fault) => {
                    in_the_way.push((id, fault));
                    continue;
                }
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
    removed.kept = in_the_way.into_iter().map(why).collect();
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
        let decisions = plan(copies, Policy { keep_last, keep_days });
        decisions.iter().map(|decision| if decision.stays() { '+' } else { '-' }).collect()
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
            let decisions = plan(&copies, Policy { keep_last, keep_days });
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
