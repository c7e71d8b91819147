//! What each code of an error means and what to do, as `doc/errors.md` says it: the programs read the document itself.

use crate::fault::{Fault, KINDS, Kind};
use crate::text::printable;

/// The one place where it is written.
const DOCUMENT: &str = include_str!("../../doc/errors.md");

/// A row of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Which kind it is of.
    pub kind: Kind,
    /// What happened.
    pub means: String,
    /// What to do.
    pub to_do: String,
}

/// What `codes` mean, in their order; without one, all of them.
pub fn these(codes: &[String]) -> Result<Vec<Explanation>, Fault> {
    match codes {
        [] => Ok(all()),
        codes => codes.iter().map(|code| one(code)).collect(),
    }
}

/// Of every kind, in the order of their codes.
pub fn all() -> Vec<Explanation> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [_, word, _, means, to_do] = cells.as_slice() else { return None };
        let kind = Kind::from_word(word.trim_matches('`'))?;
        Some(Explanation { kind, means: without_links(means), to_do: without_links(to_do) })
    };
    DOCUMENT.lines().filter_map(row).collect()
}

/// What is asked for by `P06`, `p6`, `6` or `busy`.
pub fn one(asked: &str) -> Result<Explanation, Fault> {
    let lower = asked.to_lowercase();
    let number = lower.strip_prefix('p').unwrap_or(&lower).parse::<u8>().ok();
    let is_it = |row: &&(Kind, u8, &str, u8)| Some(row.1) == number || row.2 == lower.replace('-', "_");
    let kind = KINDS.iter().find(is_it).map(|row| row.0);
    let found = kind.and_then(|kind| all().into_iter().find(|row| row.kind == kind));
    found.ok_or_else(|| {
        let near = match nearest(&lower) {
            Some(kind) => format!("did you mean {} `{}`? ", kind.code(), kind.word()),
            None => String::new(),
        };
        Fault::new(Kind::Usage, format!("`{}` is no code of an error", printable(asked, 100)))
            .hint(format!("{near}`explain` without a code lists all"))
    })
}

/// The kind whose word is the most like `asked`, if any is at all.
fn nearest(asked: &str) -> Option<Kind> {
    let bits = |word: &str| -> Vec<(char, char)> { word.chars().zip(word.chars().skip(1)).collect() };
    let asked = bits(asked);
    let likeness = |word: &str| {
        let word = bits(word);
        let common = word.iter().filter(|bit| asked.contains(bit)).count();
        2 * common * 100 / (word.len() + asked.len()).max(1)
    };
    let best = KINDS.iter().max_by_key(|row| likeness(row.2))?;
    (likeness(best.2) >= 40).then_some(best.0)
}

/// `[text](target)` becomes `doc/text`: the links of the document lead to its neighbours.
fn without_links(cell: &str) -> String {
    let mut plain = String::new();
    let mut rest = cell;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((text, (_, after))) =
            after.split_once("](").and_then(|(text, after)| Some((text, after.split_once(')')?)))
        else {
            break;
        };
        plain += before;
        plain += "doc/";
        plain += text;
        rest = after;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_explained_by_the_document() {
        let all = all();
        assert_eq!(all.iter().map(|row| row.kind).collect::<Vec<_>>(), KINDS.map(|row| row.0));
        for row in all {
            assert!(row.means.len() > 10 && row.to_do.len() > 10, "{row:?}");
            assert!(!format!("{row:?}").contains("]("), "{row:?}");
        }
    }

    #[test]
    fn a_code_is_read_as_people_write_it() {
        for (kind, number, word, _) in KINDS {
            for asked in [kind.code(), format!("p{number}"), number.to_string(), word.to_uppercase()] {
                assert_eq!(one(&asked).unwrap().kind, kind, "{asked}");
            }
        }
        assert_eq!(one("no-space").unwrap().kind, Kind::NoSpace);
        for (asked, expected) in
            [("bussy", "P06 `busy`"), ("unreachble", "P03 `unreachable`"), ("store", "P14")]
        {
            let fault = one(asked).unwrap_err();
            assert!(fault.kind == Kind::Usage && fault.hint.contains(expected), "{asked}: {}", fault.hint);
        }
        for asked in ["P99", "0", "", "zzz", "p", "🦀"] {
            assert!(one(asked).unwrap_err().hint.starts_with("`explain` without"), "{asked}");
        }
    }
}
