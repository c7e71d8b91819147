//! What happens to a gym between two pulls, from nothing to everything.

use pullback_tests::databases;
use pullback_tests::dice::Dice;
use rusqlite::{Connection, params_from_iter};
use std::path::Path;

/// Rows that `members` updates and that `append` adds.
const ROWS: i64 = 1_000;

/// One kind of change to a [`crate::source::counting_gym`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mutation {
    /// 1,000 random members are seen again: a timestamp and a counter
    Members,
    /// 1,000 visits are added to the log, in one transaction
    Append,
    /// As many random rows of the log are updated in place as there are pages in 100
    Pct1,
    /// Nothing
    None,
    /// VACUUM
    Vacuum,
}

impl Mutation {
    /// All, in the order in which they can follow each other: after a VACUUM, a gym is not what years of use leave.
    pub(crate) const ALL: [Self; 5] = [Self::Members, Self::Append, Self::Pct1, Self::None, Self::Vacuum];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::Append => "append",
            Self::Pct1 => "pct1",
            Self::None => "none",
            Self::Vacuum => "vacuum",
        }
    }

    /// Does it to the gym at `path`, which nobody else has open: nothing is left in its `-wal`. Another `seed` means other
    /// rows.
    pub(crate) fn apply(self, path: &Path, seed: u64) {
        let mut dice = Dice::new(seed);
        match self {
            Self::Members => see_members(path, &mut dice),
            Self::Append => drop(databases::visits_in_the_wal(path, ROWS)),
            Self::Pct1 => correct_visits(path, &mut dice),
            Self::None => {}
            Self::Vacuum => open(path).execute_batch("VACUUM").expect("a gym can be vacuumed"),
        }
    }
}

fn see_members(path: &Path, dice: &mut Dice) {
    let db = open(path);
    db.execute_batch("BEGIN").expect("a transaction can begin");
    let members = number(&db, "SELECT max(id) FROM members");
    let sql = "UPDATE members SET seen_at = datetime(?2, 'unixepoch'), visits = visits + 1 WHERE id = ?1";
    for _ in 0..ROWS {
        let (id, at) = (dice.between(0, members) + 1, dice.between(1_735_689_600, 2_000_000_000));
        update(&db, sql, &[id, at]);
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
}

/// Another door of the same length, and whether it opened: columns without an index, so that no other page changes. Old
/// visits were forgotten: the next one after a random id is taken.
fn correct_visits(path: &Path, dice: &mut Dice) {
    let db = open(path);
    db.execute_batch("BEGIN").expect("a transaction can begin");
    let visits = number(&db, "SELECT max(id) FROM access_log");
    let sql = "UPDATE access_log SET granted = 1 - granted,
            door = CASE door WHEN 'front' THEN 'sauna' WHEN 'sauna' THEN 'front' ELSE 'pier' END
        WHERE id = (SELECT min(id) FROM access_log WHERE id >= ?1)";
    for _ in 0..number(&db, "PRAGMA page_count") / 100 {
        update(&db, sql, &[dice.between(0, visits) + 1]);
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
}

fn open(path: &Path) -> Connection {
    Connection::open(path).expect("a gym can be opened")
}

fn number(db: &Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |row| row.get(0)).expect("a gym can be asked")
}

fn update(db: &Connection, sql: &str, values: &[i64]) {
    let mut update = db.prepare_cached(sql).expect("SQL of the bench is correct");
    let rows = update.execute(params_from_iter(values)).expect("a row can be updated");
    assert_eq!(rows, 1, "the rows that one update changed");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor;
    use crate::source;

    /// The pages of a small gym that `mutation` changes, of how many, and what `sql` counts before and after.
    fn mutate(mutation: Mutation, sql: &str) -> (u64, u64, i64, i64) {
        let folder = tempfile::tempdir().unwrap();
        let (gym, before) = (folder.path().join("gym.db"), folder.path().join("before.db"));
        source::counting_gym(&gym, 4_000_000);
        let was = number(&open(&gym), sql);
        std::fs::copy(&gym, &before).unwrap();
        mutation.apply(&gym, 7);
        let floor = floor::between(&before, &gym).unwrap();
        (floor.changed_pages, floor.pages, was, number(&open(&gym), sql))
    }

    #[test]
    fn members_are_seen_again() {
        let (changed, pages, before, after) = mutate(Mutation::Members, "SELECT sum(visits) FROM members");
        assert_eq!(after - before, ROWS);
        assert!((10..pages / 10).contains(&changed), "{changed} of {pages}");
    }

    #[test]
    fn visits_are_added() {
        let (changed, pages, before, after) = mutate(Mutation::Append, "SELECT count(*) FROM access_log");
        assert_eq!(after - before, ROWS);
        assert!((100..pages).contains(&changed), "{changed} of {pages}");
    }

    #[test]
    fn one_page_in_a_hundred_is_corrected_and_nothing_moves() {
        let (changed, pages, before, after) = mutate(Mutation::Pct1, "SELECT count(*) FROM access_log");
        assert_eq!(after, before);
        // Page 1 counts changes; two rows may share a page.
        assert!((pages / 125..=pages / 100 + 1).contains(&changed), "{changed} of {pages}");
    }

    #[test]
    fn nothing_changes_nothing() {
        assert_eq!(mutate(Mutation::None, "SELECT 1").0, 0);
    }

    #[test]
    fn a_vacuum_moves_most_pages_and_leaves_none_free() {
        let (changed, pages, _, after) = mutate(Mutation::Vacuum, "PRAGMA freelist_count");
        assert_eq!(after, 0);
        assert!(changed > pages / 2, "{changed} of {pages}");
    }
}
