//! The one-time code of a pairing, as a person carries it from one machine to the other.

use crate::fault::{Fault, Kind};
use crate::identity::{Fingerprint, NAME_CHARS_MAX};
use crate::pb;
use crate::text::printable;
use data_encoding::{Encoding, Specification};
use prost::Message;
use std::sync::LazyLock;

/// The first byte of each code: how the rest is to be read.
const VERSION: u8 = 1;

/// Bytes at the end of a code by which a typing error is noticed.
const CHECK_BYTES: usize = 4;

/// Characters of a code, at most.
pub const CODE_CHARS_MAX: usize = 2048;

/// Addresses in a code, at most.
pub const ADDRESSES_MAX: usize = 16;

/// Characters of an address, at most: a name of 253 and a port.
const ADDRESS_CHARS_MAX: usize = 260;

/// Small letters and the digits 2 to 7: nothing that looks like something else, and one word for a double click. It may be
/// typed in capitals, and broken into lines or groups.
static LETTERS: LazyLock<Encoding> = LazyLock::new(|| {
    let mut letters = Specification::new();
    letters.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    letters.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    letters.translate.to.push_str("abcdefghijklmnopqrstuvwxyz");
    letters.ignore.push_str(" \t\r\n-");
    letters.encoding().expect("BUG: no alphabet")
});

/// What only who was given a code can know. It prints as nothing, so that no log has it.
#[derive(Clone, Copy)]
pub struct Secret([u8; Self::LEN]);

impl Secret {
    /// Bytes of one.
    pub const LEN: usize = 16;

    /// Of bytes that nobody can guess.
    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The secret in `bytes`, if they are as many as a secret has.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// To be sent, over a connection whose far end is known.
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// What may be kept of it where it is compared. Two such values are compared in constant time.
    pub fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.0)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The name of a code at its agent: 8 bytes.
pub type CodeId = [u8; 8];

/// What a code says.
#[derive(Clone, Debug)]
pub struct PairingCode {
    /// Of the agent's identity.
    pub fingerprint: Fingerprint,
    /// Which code of the agent's.
    pub id: CodeId,
    /// Proves that its bearer was given it.
    pub secret: Secret,
    /// What the agent's machine is called.
    pub name: String,
    /// `HOST:PORT`, each of which may lead to the agent.
    pub addresses: Vec<String>,
}

impl PairingCode {
    /// As it is printed: one word.
    pub fn encode(&self) -> String {
        let message = pb::PairingCode {
            fingerprint: self.fingerprint.0.to_vec().into(),
            id: self.id.to_vec().into(),
            secret: self.secret.bytes().to_vec().into(),
            name: self.name.clone(),
            addresses: self.addresses.clone(),
        };
        let mut bytes = vec![VERSION];
        message.encode(&mut bytes).expect("BUG: a Vec grows");
        let check = check_of(&bytes);
        bytes.extend_from_slice(&check);
        LETTERS.encode(&bytes)
    }

    /// Reads a code as it was typed. An error does not quote it.
    pub fn decode(typed: &str) -> Result<Self, Fault> {
        let wrong = |why: &str| {
            Fault::new(Kind::Usage, format!("that is no pairing code: {why}")).hint(
                "copy the whole code that `pullback-agent pair` printed; it is letters and the digits 2 to 7",
            )
        };
        if typed.len() > CODE_CHARS_MAX {
            return Err(wrong("it is too long"));
        }
        let bytes =
            LETTERS.decode(typed.trim().as_bytes()).map_err(|_| wrong("a character is wrong or missing"))?;
        let body = bytes.len().checked_sub(CHECK_BYTES).ok_or_else(|| wrong("it is too short"))?;
        let (body, check) = bytes.split_at(body);
        if check != check_of(body) {
            return Err(wrong("a character is wrong or missing"));
        }
        let Some((&VERSION, message)) = body.split_first() else {
            return Err(Fault::new(Kind::Protocol, "that pairing code is of another release of Pullback")
                .hint("bring agent and puller to the same release"));
        };
        let message = pb::PairingCode::decode(message).map_err(|_| wrong("it says nothing"))?;
        let code = Self {
            fingerprint: Fingerprint(
                (*message.fingerprint).try_into().map_err(|_| wrong("it names no agent"))?,
            ),
            id: (*message.id).try_into().map_err(|_| wrong("it has no name"))?,
            secret: Secret::from_bytes(&message.secret).ok_or_else(|| wrong("it has no secret"))?,
            name: printable(&message.name, NAME_CHARS_MAX),
            addresses: message.addresses,
        };
        let fits = |address: &String| !address.is_empty() && address.chars().count() <= ADDRESS_CHARS_MAX;
        if code.addresses.len() > ADDRESSES_MAX || !code.addresses.iter().all(fits) {
            return Err(wrong("its addresses are none"));
        }
        Ok(code)
    }
}

fn check_of(body: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::hash(body);
    *hash.as_bytes().first_chunk().expect("BUG: a hash is longer than a check")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code() -> PairingCode {
        PairingCode {
            fingerprint: Fingerprint([7; 32]),
            id: [1; 8],
            secret: Secret::new([9; 16]),
            name: "raspberry-pi".into(),
            addresses: vec!["192.168.1.7:7420".into(), "raspberry-pi.local:7420".into()],
        }
    }

    #[test]
    fn a_code_is_read_however_it_was_copied() {
        let printed = code().encode();
        assert!(printed.len() < 250 && printed.chars().all(|c| c.is_ascii_alphanumeric()), "{printed}");
        let broken: String = printed
            .to_uppercase()
            .as_bytes()
            .chunks(40)
            .map(|part| format!("  {}-\r\n", str::from_utf8(part).unwrap()))
            .collect();
        for typed in [printed, broken] {
            let read = PairingCode::decode(&typed).unwrap();
            assert_eq!(format!("{:?}{:?}", read, read.secret.bytes()), format!("{:?}{:?}", code(), [9; 16]));
        }
    }

    #[test]
    fn every_wrong_letter_is_noticed_before_a_network_is_asked() {
        let printed = code().encode();
        for at in 0..printed.len() {
            let mut typed = printed.clone().into_bytes();
            typed[at] = if typed[at] == b'a' { b'b' } else { b'a' };
            let typed = String::from_utf8(typed).unwrap();
            assert_eq!(PairingCode::decode(&typed).unwrap_err().kind, Kind::Usage, "{at}");
            assert!(PairingCode::decode(&printed[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_secret_is_in_nothing_that_is_printed() {
        let fault = PairingCode::decode("abcd").unwrap_err();
        assert!(!format!("{fault:?}").contains("abcd"), "{fault:?}");
        assert!(!format!("{:?}", code()).contains("9, 9"), "{:?}", code());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(typed in "\\PC{0,80}", letters in "[a-z2-7]{0,200}") {
            let _ = PairingCode::decode(&typed);
            let _ = PairingCode::decode(&letters);
        }
    }
}
