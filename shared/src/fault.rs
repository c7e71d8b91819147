//! Why something failed: the words for it, their numbers, their exit codes. The same on both sides of the wire.

use std::fmt;

/// A kind of failure. `doc/errors.md` lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// The command line makes no sense.
    Usage,
    /// A configuration file is wrong.
    Config,
    /// The agent cannot be reached.
    Unreachable,
    /// The agent was reached and then lost, or went silent.
    Lost,
    /// Permission or identity refused.
    Refused,
    /// The source is locked, or the hold would have been too long.
    Busy,
    /// No such file at the agent.
    Missing,
    /// Not an SQLite database, or an encrypted one.
    NotADatabase,
    /// A database that needs recovery by a writer first.
    HotJournal,
    /// A source SQLite cannot read to its end: cut short, or an unreadable sector.
    Unreadable,
    /// Something that is no file, or cannot be opened.
    Unusable,
    /// No space left where it is needed.
    NoSpace,
    /// No such database, source, copy or store is known.
    Unknown,
    /// The store is not where it was.
    StoreMissing,
    /// Another run holds the lock.
    Locked,
    /// A copy or a source is damaged.
    Damaged,
    /// The source was emptied.
    Suspect,
    /// A stored copy no longer equals its hashes.
    Rotten,
    /// A copy could not be proven.
    Unproven,
    /// The two sides do not understand each other.
    Protocol,
    /// A file could not be read or written.
    Io,
    /// The target of a restore is there already, or otherwise unfit.
    Target,
    /// Stopped by a signal.
    Interrupted,
    /// Some of several sources failed.
    Partly,
    /// Something is stale, or `doctor` found a fault.
    Found,
    /// A fault of the program itself.
    Internal,
    /// No agent program at the far end of a remote shell.
    NoAgent,
}

/// Every kind with its number, its word and the exit code of a program that ends with it.
pub const KINDS: [(Kind, u8, &str, u8); 27] = [
    (Kind::Usage, 1, "usage", 2),
    (Kind::Config, 2, "config", 2),
    (Kind::Unreachable, 3, "unreachable", 5),
    (Kind::Lost, 4, "lost", 5),
    (Kind::Refused, 5, "refused", 6),
    (Kind::Busy, 6, "busy", 7),
    (Kind::Missing, 7, "missing", 7),
    (Kind::NotADatabase, 8, "not_a_database", 7),
    (Kind::HotJournal, 9, "hot_journal", 7),
    (Kind::Unreadable, 10, "unreadable", 7),
    (Kind::Unusable, 11, "unusable", 7),
    (Kind::NoSpace, 12, "no_space", 8),
    (Kind::Unknown, 13, "unknown", 10),
    (Kind::StoreMissing, 14, "store_missing", 10),
    (Kind::Locked, 15, "locked", 11),
    (Kind::Damaged, 16, "damaged", 4),
    (Kind::Suspect, 17, "suspect", 4),
    (Kind::Rotten, 18, "rotten", 4),
    (Kind::Unproven, 19, "unproven", 1),
    (Kind::Protocol, 20, "protocol", 1),
    (Kind::Io, 21, "io", 1),
    (Kind::Target, 22, "target", 1),
    (Kind::Interrupted, 23, "interrupted", 130),
    (Kind::Partly, 24, "partly", 3),
    (Kind::Found, 25, "found", 13),
    (Kind::Internal, 26, "internal", 1),
    (Kind::NoAgent, 27, "no_agent", 7),
];

impl Kind {
    fn row(self) -> &'static (Kind, u8, &'static str, u8) {
        KINDS.iter().find(|row| row.0 == self).expect("BUG: a kind of fault that is not in its table")
    }

    /// The word for scripts, such as `busy`.
    pub fn word(self) -> &'static str {
        self.row().2
    }

    /// The searchable code, such as `P06`.
    pub fn code(self) -> String {
        format!("P{:02}", self.row().1)
    }

    /// The exit code of a program that ends with this.
    pub fn exit(self) -> u8 {
        self.row().3
    }

    /// The kind that `word` names.
    pub fn from_word(word: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.2 == word).map(|row| row.0)
    }

    /// The kind whose searchable code is `code`.
    pub fn from_code(code: &str) -> Option<Self> {
        KINDS.iter().map(|row| row.0).find(|kind| kind.code() == code)
    }

    /// Whether trying again soon, unchanged, may well succeed.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable | Self::Lost | Self::Unproven)
    }
}

/// A failure as a user hears of it: what happened and why, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// For scripts and exit codes.
    pub kind: Kind,
    /// What happened, why, with what. One line.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    pub hint: String,
}

impl Fault {
    /// A fault without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: String::new() }
    }

    /// The same fault with what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// A fault of reading or writing `what`: no space, no permission (a disk mounted read-only too), or plain I/O.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let (kind, hint) = match error.kind() {
            E::StorageFull | E::QuotaExceeded => {
                (Kind::NoSpace, "free some room on that disk, then try again")
            }
            E::PermissionDenied => {
                (Kind::Refused, "`ls -ld` shows its owner and mode; run as its owner, or mend them")
            }
            E::ReadOnlyFilesystem => (Kind::Refused, "that disk may only be read: mount it for writing"),
            _ => (Kind::Io, ""),
        };
        Self::new(kind, format!("{what}: {error}")).hint(hint)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_used_once() {
        for (kind, number, word, _) in KINDS {
            assert_eq!(Kind::from_word(word), Some(kind));
            assert_eq!(kind.code(), format!("P{number:02}"));
            assert_eq!(Kind::from_code(&kind.code()), Some(kind));
            assert_eq!(KINDS.iter().filter(|row| row.1 == number || row.2 == word).count(), 1);
        }
    }

    #[test]
    fn the_document_lists_every_kind() {
        let document = include_str!("../../doc/errors.md");
        let rows = document.lines().filter(|line| line.starts_with("| P"));
        let rows: Vec<String> =
            rows.map(|row| row.split(" | ").take(3).collect::<Vec<_>>().join(" | ")).collect();
        let kinds = KINDS.map(|(kind, _, word, exit)| format!("| {} | `{word}` | {exit}", kind.code()));
        assert_eq!(rows, kinds);
    }
}
