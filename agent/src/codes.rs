//! `Codes`: the one-time codes that pullers may be paired with, each in a file of its own.

use crate::clock;
use crate::durable::remove;
use crate::peers::{lock, write_private};
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::Role;
use pullback_shared::pairing::{CodeId, Secret};
use pullback_shared::text::to_hex;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Guesses at one code, after which it is locked.
pub const TRIES_MAX: u32 = 5;

/// The longest that a code may hold.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Codes that are open or were until lately, at most.
const CODES_MAX: usize = 32;

/// How long a code is remembered after its end, for a sentence about it.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// A code as it lies on disk: what could be guessed is there as its hash.
#[derive(Serialize, Deserialize)]
struct Kept {
    v: u32,
    secret: String,
    role: Role,
    expires_at: Timestamp,
    tries_left: u32,
    used_at: Option<Timestamp>,
}

/// The codes of one agent.
#[derive(Debug)]
pub struct Codes {
    identity_dir: PathBuf,
}

/// A code that was opened.
pub struct Opened {
    /// Its name.
    pub id: CodeId,
    /// What its bearer proves it with.
    pub secret: Secret,
    /// Until when.
    pub expires_at: Timestamp,
}

impl Codes {
    /// Those in the directory of an identity.
    pub fn of(identity_dir: &Path) -> Self {
        Self { identity_dir: identity_dir.to_owned() }
    }

    fn dir(&self) -> PathBuf {
        self.identity_dir.join("codes")
    }

    /// Opens a code for `role` that holds for `ttl`.
    pub fn open(&self, role: Role, ttl: Duration) -> Result<Opened, Fault> {
        use std::os::unix::fs::DirBuilderExt;
        if ttl > TTL_MAX || ttl.is_zero() {
            return Err(Fault::new(Kind::Usage, "a pairing code holds for a second to 24 hours"));
        }
        let _lock = lock(&self.identity_dir)?;
        let dir = self.dir();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| Fault::io(format!("`{}`", dir.display()), &error))?;
        self.clear(CODES_MAX - 1)?;
        let (mut id, mut secret) = ([0; 8], [0; Secret::LEN]);
        let random = rustls::crypto::ring::default_provider().secure_random;
        let drawn = random.fill(&mut id).and_then(|()| random.fill(&mut secret));
        drawn.map_err(|_| Fault::new(Kind::Internal, "the system gives no random numbers"))?;
        let secret = Secret::new(secret);
        let expires_at = clock::later(clock::now(), ttl);
        let hash = secret.hash().to_hex().to_string();
        let kept = Kept { v: 1, secret: hash, role, expires_at, tries_left: TRIES_MAX, used_at: None };
        self.write(&id, &kept)?;
        Ok(Opened { id, secret, expires_at })
    }

    /// Whether any code is there, or was lately: else there is nothing to say to whoever wants to be paired.
    pub fn any(&self) -> bool {
        let now = clock::now();
        let files = std::fs::read_dir(self.dir()).into_iter().flatten().flatten();
        files.filter_map(|file| remembered(&file.path(), now)).next().is_some()
    }

    /// Uses the code `id` up, if `secret` is its own. A wrong guess costs the code one of its tries, and nothing else.
    pub fn redeem(&self, id: &CodeId, secret: &Secret) -> Result<Role, Fault> {
        let new_one = "`pullback-agent pair` there gives a new one";
        let refused = |why: &str| Err(Fault::new(Kind::Refused, why).hint(new_one));
        let _lock = lock(&self.identity_dir)?;
        let Some(mut kept) = self.read(id)? else {
            return refused("this agent knows no such pairing code");
        };
        if kept.used_at.is_some() {
            return refused("this pairing code was used already");
        }
        // One that ends later than any may was made while the clock was ahead.
        if kept.expires_at <= clock::now() || kept.expires_at > clock::later(clock::now(), TTL_MAX) {
            return refused("this pairing code has expired");
        }
        if kept.tries_left == 0 {
            return refused("this pairing code is locked: it was tried with a wrong secret too often");
        }
        // The try is counted, for good, before it can succeed: an agent that is killed gives no further guesses.
        kept.tries_left -= 1;
        self.write(id, &kept)?;
        let hash = blake3::Hash::from_hex(&kept.secret);
        let hash = hash.map_err(|_| Fault::new(Kind::Internal, "a pairing code that cannot be read"))?;
        // Hashes of this type are compared in constant time.
        if secret.hash() != hash {
            return refused("that is not the secret of this pairing code");
        }
        kept.used_at = Some(clock::now());
        self.write(id, &kept)?;
        Ok(kept.role)
    }

    fn read(&self, id: &CodeId) -> Result<Option<Kept>, Fault> {
        let path = self.dir().join(file_name(id));
        match std::fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::io(format!("`{}`", path.display()), &error)),
        }
    }

    fn write(&self, id: &CodeId, kept: &Kept) -> Result<(), Fault> {
        let text = serde_json::to_vec(kept).map_err(|error| Fault::new(Kind::Internal, error.to_string()))?;
        write_private(&self.dir(), &file_name(id), &text)
    }

    /// Takes away what ended long ago, and then the oldest until no more than `most` are left.
    fn clear(&self, most: usize) -> Result<(), Fault> {
        let dir = self.dir();
        let io = |error: std::io::Error| Fault::io(format!("`{}`", dir.display()), &error);
        let now = clock::now();
        let mut left = Vec::new();
        for file in std::fs::read_dir(&dir).map_err(io)? {
            let path = file.map_err(io)?.path();
            match remembered(&path, now) {
                Some(kept) => left.push((kept.expires_at, path)),
                None => remove(&path).map_err(io)?,
            }
        }
        left.sort();
        let too_many = left.len().saturating_sub(most);
        left.iter().take(too_many).try_for_each(|(_, path)| remove(path)).map_err(io)
    }
}

/// The code in the file at `path`, if it did not end too long ago.
fn remembered(path: &Path, now: Timestamp) -> Option<Kept> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let is_of_now = kept.expires_at <= clock::later(now, TTL_MAX);
    (is_of_now && clock::later(kept.expires_at, REMEMBERED) > now).then_some(kept)
}

fn file_name(id: &CodeId) -> String {
    format!("{}.json", to_hex(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    fn codes() -> (tempfile::TempDir, Codes) {
        let dir = tempfile::tempdir().unwrap();
        let codes = Codes::of(dir.path());
        (dir, codes)
    }

    #[track_caller]
    fn refused(codes: &Codes, id: &CodeId, secret: Secret, why: &str) {
        let fault = codes.redeem(id, &secret).unwrap_err();
        assert!(fault.kind == Kind::Refused && fault.message.contains(why), "{fault:?}");
    }

    #[test]
    fn a_code_is_used_once() {
        let (_dir, codes) = codes();
        assert!(!codes.any());
        let code = codes.open(Role::Restore, TTL).unwrap();
        assert!(codes.any());
        assert_eq!(codes.redeem(&code.id, &code.secret).unwrap(), Role::Restore);
        refused(&codes, &code.id, code.secret, "used already");
        refused(&codes, &[0; 8], code.secret, "no such");
    }

    #[test]
    fn guesses_lock_the_code_and_no_other() {
        let (_dir, codes) = codes();
        let [guessed, other] = [0, 1].map(|_| codes.open(Role::Pull, TTL).unwrap());
        for _ in 0..TRIES_MAX {
            refused(&codes, &guessed.id, Secret::new([0; 16]), "not the secret");
        }
        refused(&codes, &guessed.id, guessed.secret, "locked");
        assert_eq!(codes.redeem(&other.id, &other.secret).unwrap(), Role::Pull);
    }

    #[test]
    fn a_code_ends() {
        let (_dir, codes) = codes();
        let code = codes.open(Role::Pull, TTL).unwrap();
        let mut kept = codes.read(&code.id).unwrap().unwrap();
        kept.expires_at = clock::now();
        codes.write(&code.id, &kept).unwrap();
        refused(&codes, &code.id, code.secret, "expired");
        kept.expires_at = clock::later(clock::now(), TTL_MAX + TTL);
        codes.write(&code.id, &kept).unwrap();
        refused(&codes, &code.id, code.secret, "expired");
        kept.expires_at = clock::now();
        codes.write(&code.id, &kept).unwrap();
        assert!(codes.any(), "who comes a little late hears why");
        kept.expires_at = Timestamp::UNIX_EPOCH;
        codes.write(&code.id, &kept).unwrap();
        std::fs::write(codes.dir().join(".tmpabc"), "what a killed agent left").unwrap();
        assert!(!codes.any(), "who comes when all codes ended long ago is no longer answered");
        codes.open(Role::Pull, TTL).unwrap();
        refused(&codes, &code.id, code.secret, "no such");
        assert!(codes.open(Role::Pull, TTL_MAX + TTL).is_err());
    }

    #[test]
    fn codes_take_little_room_and_do_not_hold_their_secret() {
        let (_dir, codes) = codes();
        let opened: Vec<Opened> = (0..CODES_MAX + 9).map(|_| codes.open(Role::Pull, TTL).unwrap()).collect();
        assert_eq!(std::fs::read_dir(codes.dir()).unwrap().count(), CODES_MAX);
        for code in &opened {
            let Ok(text) = std::fs::read_to_string(codes.dir().join(file_name(&code.id))) else { continue };
            assert!(!text.contains(&to_hex(code.secret.bytes())), "{text}");
        }
    }
}
