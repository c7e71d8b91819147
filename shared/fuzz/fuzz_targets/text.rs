//! Text from elsewhere: made fit for a terminal, read as hex or an id, and as rows of SQLite's checks.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pullback_fuzz::assert_printable;
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::text::{from_hex, printable, to_hex};
use pullback_shared::verdict::{Findings, Verdict};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    text: &'a str,
    limit: u16,
    rows: Vec<Row<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Row<'a> {
    Check(&'a str),
    Known(u8, &'a str),
    ForeignKey(&'a str, &'a str),
    Error(&'a str),
}

/// How rows begin that are told apart.
const KNOWN: [&str; 6] = [
    "ok",
    "CHECK constraint failed in ",
    "NULL value in ",
    "non-",
    "row 1 missing from index ",
    "unsafe use of ",
];

fuzz_target!(|input: Input| {
    let limit = usize::from(input.limit);
    assert_printable(&printable(input.text, limit), limit);
    if let Some(bytes) = from_hex(input.text) {
        assert_eq!(to_hex(&bytes), input.text);
    }
    if let Some(id) = SnapshotId::from_hex(input.text) {
        assert_eq!(id.to_string(), input.text);
    }
    let (mut findings, mut all_ok) = (Findings::default(), true);
    for row in &input.rows {
        match row {
            Row::Check(row) => {
                all_ok &= *row == "ok";
                findings.add_check_row(row);
            }
            Row::Known(which, rest) => {
                let row = format!("{}{rest}", KNOWN[usize::from(*which) % KNOWN.len()]);
                all_ok &= row == "ok";
                findings.add_check_row(&row);
            }
            Row::ForeignKey(table, parent) => {
                all_ok = false;
                findings.add_foreign_key(table, parent);
            }
            Row::Error(error) => {
                all_ok = false;
                findings.add_error(error);
            }
        }
    }
    assert_eq!(findings.verdict() == Verdict::Ok, all_ok, "only `ok` is ok");
    let lines = findings.into_lines();
    assert!(lines.len() <= 20);
    lines.iter().for_each(|line| assert_printable(line, 300));
});
