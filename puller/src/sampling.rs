//! A sample of the copies, for a proof that costs little each day: facts in, a list of copies out. No clock, no file.
//!
//! The copies that were not looked at for longest come first, by the numbers of their proofs: clocks that jump change nothing.
//! A run of N % reads at least N % of the bytes and at most one copy more, so that ceil(100 / N) runs look at everything.

use std::str::FromStr;

/// What is planned with, of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its id.
    pub id: String,
    /// What reading it costs.
    pub bytes: u64,
    /// The number of its newest proof; 0: there was none.
    pub proof: u64,
}

/// How much of all bytes is to be read, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

/// All of it.
const WHOLE: u32 = 1_000_000;

impl FromStr for Share {
    type Err = String;

    /// `4%`, `0.5%`; the sign may be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write it as 4% or 0.5%; more than 0% and at most 100%".to_owned();
        let percent: f64 = text.strip_suffix('%').unwrap_or(text).trim().parse().map_err(|_| wrong())?;
        let millionths = (percent * f64::from(WHOLE) / 100.0).round();
        match millionths >= 1.0 && millionths <= f64::from(WHOLE) {
            true => Ok(Self(millionths as u32)),
            false => Err(wrong()),
        }
    }
}

/// The ids of the copies to read now, those first that were not looked at for longest. `copies` are in the order of their
/// sequence, which decides between two that were never looked at.
pub fn plan(copies: &[Facts], share: Share) -> Vec<String> {
    // That of an empty database is looked at too, so it must count.
    let cost = |copy: &Facts| u128::from(copy.bytes.max(1));
    let all: u128 = copies.iter().map(cost).sum();
    let budget = (all * u128::from(share.0)).div_ceil(u128::from(WHOLE));
    let mut order: Vec<&Facts> = copies.iter().collect();
    order.sort_by_key(|copy| copy.proof);
    let mut read = 0;
    let is_due = |copy: &&Facts| {
        let is_due = read < budget;
        read += cost(copy);
        is_due
    };
    order.into_iter().take_while(is_due).map(|copy| copy.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn copies(facts: &[(u64, u64)]) -> Vec<Facts> {
        let of = |(number, (bytes, proof)): (usize, &(u64, u64))| Facts {
            id: number.to_string(),
            bytes: *bytes,
            proof: *proof,
        };
        facts.iter().enumerate().map(of).collect()
    }

    #[track_caller]
    fn check(facts: &[(u64, u64)], share: &str, expected: &[&str]) {
        assert_eq!(plan(&copies(facts), share.parse().unwrap()), expected, "{share} of {facts:?}");
    }

    #[test]
    fn the_longest_unproven_come_first_until_the_share_is_read() {
        check(&[], "4%", &[]);
        check(&[(100, 5)], "4%", &["0"]);
        check(&[(100, 3), (100, 1), (100, 2), (100, 0)], "50%", &["3", "1"]);
        check(&[(100, 0), (100, 0), (100, 9)], "1%", &["0"]);
        check(&[(100, 0), (100, 0), (100, 9)], "34%", &["0", "1"]);
        check(&[(0, 0), (1 << 40, 1)], "1%", &["0", "1"]);
        check(&[(u64::MAX, 1), (u64::MAX, 2)], "100%", &["0", "1"]);
    }

    #[test]
    fn a_share_is_more_than_nothing_and_at_most_all() {
        assert_eq!("4".parse(), Ok(Share(40_000)));
        assert_eq!("0.5%".parse(), Ok(Share(5_000)));
        assert_eq!("100%".parse(), Ok(Share(WHOLE)));
        for wrong in ["", "%", "0", "0%", "-4%", "101%", "4 percent", "NaN", "inf", "0.00001%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_copy_is_read_within_a_hundred_over_the_share_and_each_run_costs_little(
            bytes in prop::collection::vec(prop_oneof![Just(0u64), 1u64..1000, 1u64..1_000_000_000_000], 1..60),
            proofs in prop::collection::vec(0u64..50, 60),
            percent in 1u32..=100,
        ) {
            let facts: Vec<(u64, u64)> = bytes.into_iter().zip(proofs).collect();
            let mut copies = copies(&facts);
            let share: Share = format!("{percent}%").parse().unwrap();
            let all: u128 = copies.iter().map(|copy| u128::from(copy.bytes.max(1))).sum();
            let largest = copies.iter().map(|copy| u128::from(copy.bytes.max(1))).max().unwrap_or(0);
            let mut unread: Vec<String> = copies.iter().map(|copy| copy.id.clone()).collect();
            let mut proof = 50;
            for _ in 0..100u32.div_ceil(percent) {
                let planned = plan(&copies, share);
                prop_assert!(!planned.is_empty());
                let mut read: u128 = 0;
                for id in &planned {
                    let oldest = copies.iter().map(|copy| copy.proof).min();
                    let copy = copies.iter_mut().find(|copy| copy.id == *id).unwrap();
                    prop_assert_eq!(Some(copy.proof), oldest, "not the one that waited longest");
                    proof += 1;
                    copy.proof = proof;
                    read += u128::from(copy.bytes.max(1));
                }
                prop_assert!(read * 100 < all * u128::from(percent) + largest * 100 + 100);
                unread.retain(|id| !planned.contains(id));
            }
            prop_assert!(unread.is_empty(), "{:?} were not read", unread);
        }
    }
}
