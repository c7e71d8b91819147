//! Who is who: the fingerprint of a certificate, the role of a peer, the words that are said while TLS begins.

use crate::text::to_hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use unicode_normalization::UnicodeNormalization;

/// The name in every agent's server certificate. Which agent it is says the CA that signed it, not this name.
pub const SERVER_NAME: &str = "agent.pullback.invalid";

/// ALPN of a connection for gRPC, whose puller shows a certificate.
pub const ALPN_SERVICE: &[u8] = b"h2";

/// ALPN of a connection for pairing, whose puller has no certificate yet.
pub const ALPN_PAIRING: &[u8] = b"pullback-pair/1";

/// When this was written, in seconds since 1970: a clock that shows less is wrong.
pub const WRITTEN_AT: i64 = 1_795_219_200;

/// Characters of an agent's or a peer's name, at most.
pub const NAME_CHARS_MAX: usize = 64;

/// SHA-256 of a certificate in DER: of an agent's CA, it names the agent; of a client certificate, the peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; Self::LEN]);

impl Fingerprint {
    /// Bytes of one.
    pub const LEN: usize = 32;

    /// Of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(hex: String) -> Result<Self, String> {
        let bytes = crate::text::from_hex(&hex).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| "a fingerprint has 64 digits of hex".to_owned())
    }
}

/// What a peer may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Ask and pull.
    Pull,
    /// That, and put copies in the place of databases.
    Restore,
}

impl Role {
    /// As it is written and typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Restore => "restore",
        }
    }

    /// The role that `word` names.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Pull, Self::Restore].into_iter().find(|role| role.word() == word)
    }
}

/// `name` as names of machines are kept and compared: in lower case, each accent in one character with its letter. What looks the
/// same is the same, and is so on file systems that tell neither apart, too.
pub fn folded(name: &str) -> String {
    name.nfc().collect::<String>().to_lowercase()
}

/// A name that people can type and no terminal, table or folder trips over, made of `foreign`, such as the name of a machine:
/// letters, digits, `-`, `_` and `.`, in lower case. `otherwise` where nothing is left of it.
pub fn name_of(foreign: &str, otherwise: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let name = folded(foreign);
    let name: String = name.chars().map(|c| if fits(c) { c } else { '-' }).take(NAME_CHARS_MAX).collect();
    let name = name.trim_matches(['-', '.', '_']);
    if name.is_empty() { otherwise.to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_becomes_one_that_can_be_typed() {
        assert_eq!(name_of("Raspberry Pi.local", "x"), "raspberry-pi.local");
        assert_eq!(name_of("../../etc\0\n\x1b[2J", "x"), "etc----2j");
        assert_eq!(name_of("///", "agent"), "agent");
        assert_eq!(name_of("체육관", "x"), "체육관");
        assert_eq!(name_of(&"a".repeat(1000), "x").len(), NAME_CHARS_MAX);
        // Its lower case is two characters, one of which is no letter.
        assert_eq!(name_of("\u{130}stanbul", "x"), "i-stanbul");
    }

    #[test]
    fn names_that_look_the_same_are_the_same() {
        assert_eq!(folded("Cafe\u{301}-PI"), folded("caf\u{e9}-pi"));
        assert_eq!(name_of("Cafe\u{301}", "x"), "caf\u{e9}");
        for name in ["Raspberry Pi.local", "\u{130}", "Cafe\u{301}", "\u{1e9e}\u{3a3}"] {
            let once = name_of(name, "x");
            assert_eq!(folded(&once), once, "{name}");
        }
    }

    #[test]
    fn a_fingerprint_goes_there_and_back() {
        let fingerprint = Fingerprint([0xa7; 32]);
        assert_eq!(Fingerprint::try_from(fingerprint.to_string()), Ok(fingerprint));
        assert!(Fingerprint::try_from("a7".repeat(31)).is_err());
    }
}
