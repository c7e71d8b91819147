//! The verdict on a copy: what proving it said, and how the rows of SQLite's checks are read.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What proving a copy said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Content proven, SQLite's check passed.
    Ok,
    /// Exact, but SQLite alone cannot judge it here: an application's own collation, function or virtual table.
    Uncheckable,
    /// Exact; rows break constraints of the schema, nothing else is wrong.
    Violations,
    /// Exact; SQLite was not asked.
    Unchecked,
    /// Exact; SQLite reports structural damage: the source is sick.
    Damaged,
    /// Valid, but emptied against the newest good copy.
    Suspect,
    /// A stored copy that no longer equals its hashes.
    Rotten,
}

impl Verdict {
    /// Whether a copy with it is a good one: it may be `latest`, and rotation counts it.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Ok | Self::Uncheckable | Self::Violations)
    }

    /// Whether a copy with it holds exactly the snapshot it names, and so can be built upon.
    pub fn is_exact(self) -> bool {
        self != Self::Rotten
    }

    /// The exit code of a pull that ended with it.
    pub fn exit(self) -> u8 {
        match self {
            Self::Ok | Self::Uncheckable | Self::Violations | Self::Unchecked => 0,
            Self::Damaged | Self::Suspect | Self::Rotten => 4,
        }
    }

    /// The word in tables, manifests and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Uncheckable => "uncheckable",
            Self::Violations => "violations",
            Self::Unchecked => "unchecked",
            Self::Damaged => "damaged",
            Self::Suspect => "suspect",
            Self::Rotten => "rotten",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Findings kept of one check, at most; the others are counted.
const LINES_MAX: usize = 20;

/// What SQLite's checks said, row by row.
#[derive(Default, Debug)]
pub struct Findings {
    damage: usize,
    violations: usize,
    uncheckable: usize,
    lines: Vec<String>,
}

impl Findings {
    /// A row of `quick_check` or `integrity_check`.
    pub fn add_check_row(&mut self, row: &str) {
        if row == "ok" {
            return;
        }
        match () {
            () if is_missing_code(row) => self.uncheckable += 1,
            () if is_violation(row) => self.violations += 1,
            () => self.damage += 1,
        }
        self.keep(row);
    }

    /// A row of `foreign_key_check`.
    pub fn add_foreign_key(&mut self, table: &str, parent: &str) {
        self.violations += 1;
        self.keep(&format!("a row of `{table}` refers to none of `{parent}`"));
    }

    /// An error that ended a check.
    pub fn add_error(&mut self, error: &str) {
        match is_missing_code(error) {
            true => self.uncheckable += 1,
            false => self.damage += 1,
        }
        self.keep(error);
    }

    fn keep(&mut self, line: &str) {
        if self.lines.len() < LINES_MAX {
            // SQLite puts several findings into one row, a line each.
            self.lines.push(crate::text::printable(&line.trim().replace('\n', "; "), 300));
        }
    }

    /// Whether a check ended because SQLite lacks what only the application has.
    pub fn lacks_code(&self) -> bool {
        self.uncheckable > 0
    }

    /// The verdict, as far as SQLite's checks go. Damage outweighs what cannot be checked, which outweighs violations.
    pub fn verdict(&self) -> Verdict {
        match () {
            () if self.damage > 0 => Verdict::Damaged,
            () if self.uncheckable > 0 => Verdict::Uncheckable,
            () if self.violations > 0 => Verdict::Violations,
            () => Verdict::Ok,
        }
    }

    /// The first findings, as SQLite put them.
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}

/// SQLite lacks a collation, function or module that the schema names (`sqlite3.c`: these messages).
fn is_missing_code(message: &str) -> bool {
    ["no such collation sequence", "no such module", "unknown function", "no such function", "unsafe use of"]
        .iter()
        .any(|start| message.contains(start))
}

/// Rows that break the schema's own rules (`sqlite3.c`, `PragTyp_INTEGRITY_CHECK`: these messages).
fn is_violation(row: &str) -> bool {
    row.starts_with("CHECK constraint failed in ")
        || row.starts_with("NULL value in ")
        || row.starts_with("non-unique entry in index ")
        || row.starts_with("NUMERIC value in ")
        || row.starts_with("TEXT value in ")
        || (row.starts_with("non-") && row.contains(" value in "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_verdict() {
        use Verdict::*;
        let document = include_str!("../../doc/errors.md").split("\n## Verdicts\n").nth(1).unwrap();
        let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
        let verdicts = [Ok, Uncheckable, Violations, Unchecked, Damaged, Suspect, Rotten];
        assert_eq!(rows.len(), verdicts.len());
        for (row, verdict) in rows.into_iter().zip(verdicts) {
            let exit = row.split(" | ").nth(2).unwrap();
            assert!(row.starts_with(&format!("| `{verdict}` |")), "{row}");
            assert!(exit.starts_with(&verdict.exit().to_string()), "{row}");
        }
    }

    #[track_caller]
    fn check(rows: &[&str], expected: Verdict) {
        let mut findings = Findings::default();
        rows.iter().for_each(|row| findings.add_check_row(row));
        assert_eq!(findings.verdict(), expected);
    }

    #[test]
    fn rows_of_a_check_are_damage_unless_they_are_known_to_be_less() {
        check(&["ok"], Verdict::Ok);
        check(&["CHECK constraint failed in t"], Verdict::Violations);
        check(&["non-INTEGER value in t.a", "NULL value in t.b"], Verdict::Violations);
        check(&["non-unique entry in index i", "row 3 missing from index i"], Verdict::Damaged);
        check(&["wrong # of entries in index i"], Verdict::Damaged);
        check(
            &["*** in database main ***\nTree 2 page 2: btreeInitPage() returns error code 11"],
            Verdict::Damaged,
        );
        check(&["something SQLite says in ten years"], Verdict::Damaged);
        check(&["no such collation sequence: KOREAN"], Verdict::Uncheckable);
    }
}
