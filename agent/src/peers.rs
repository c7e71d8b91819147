//! `Peers`: the machines that were paired with this agent, in a file that is looked at again whenever it has changed.

use crate::clock;
use crate::durable;
use crate::identity::Certified;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{Fingerprint, Role, folded, name_of};
use pullback_shared::text::printable;
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Peers in the file, at most, those that were revoked among them.
const PEERS_MAX: usize = 1000;

/// Bytes of the file, at most.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

const FILE: &str = "peers.json";

/// Of how the file is written.
const VERSION: u32 = 1;

/// A machine that was paired.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Unique among those that are not revoked.
    pub name: String,
    /// Of its client certificate.
    pub fingerprint: Fingerprint,
    /// What it may do.
    pub role: Role,
    /// Since when.
    pub paired_at: Timestamp,
    /// When its certificate ends.
    pub expires_at: Timestamp,
    /// Since when no longer.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct Listed {
    v: u32,
    peers: Vec<Peer>,
}

/// The peers of one agent, whoever changes them.
#[derive(Debug)]
pub struct Peers {
    dir: PathBuf,
    read: Mutex<Option<(Stamp, Arc<Vec<Peer>>)>>,
}

/// What tells one version of the file from the next: each is a new file.
#[derive(PartialEq, Eq, Clone, Copy, Debug)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self { inode: file.ino(), bytes: file.size(), changed: (file.ctime(), file.ctime_nsec()) }
    }
}

impl Peers {
    /// Those in the directory of an identity.
    pub fn of(identity_dir: &Path) -> Self {
        Self { dir: identity_dir.to_owned(), read: Mutex::new(None) }
    }

    /// All of them, revoked ones too, as the file says now.
    pub fn all(&self) -> Result<Arc<Vec<Peer>>, Fault> {
        let path = self.dir.join(FILE);
        let wrong = |why: String| {
            Fault::new(Kind::Config, format!("the list of peers `{}`: {why}", path.display()))
                .hint("bring the file back, or remove it: then every puller has to be paired again")
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(Fault::io(format!("`{}`", path.display()), &error)),
        };
        let stamp = file.metadata().map(|file| Stamp::of(&file)).map_err(|error| wrong(error.to_string()))?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, peers)) = read.as_ref().filter(|(known, _)| *known == stamp) {
            return Ok(Arc::clone(peers));
        }
        if stamp.bytes > FILE_BYTES_MAX {
            return Err(wrong(format!("it has {} bytes", stamp.bytes)));
        }
        let text = std::io::read_to_string(&mut file).map_err(|error| wrong(error.to_string()))?;
        let listed: Listed = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if listed.v != VERSION {
            // To write it anew would take away what that release had said of a peer.
            return Err(wrong(format!("it is of another release of Pullback (version {})", listed.v)));
        }
        let peers = Arc::new(listed.peers);
        *read = Some((stamp, Arc::clone(&peers)));
        Ok(peers)
    }

    /// The peer with this certificate; a fault of the kind `Refused` if it is none, or none any more.
    pub fn with(&self, fingerprint: &Fingerprint) -> Result<Peer, Fault> {
        let peers = self.all()?;
        let refused = |why: String| {
            Err(Fault::new(Kind::Refused, why)
                .hint("`pullback-agent pair` there gives a new code, for `puller pair CODE`"))
        };
        match peers.iter().find(|peer| peer.fingerprint == *fingerprint) {
            Some(peer) if peer.revoked_at.is_none() => Ok(peer.clone()),
            Some(peer) => refused(format!("the peer `{}` was revoked", peer.name)),
            None => refused(format!("no peer here has the certificate {fingerprint}")),
        }
    }

    /// Adds a machine that calls itself `wanted`; it gets a name that no other peer has, and `certify` makes its certificate.
    pub fn add_with(
        &self,
        wanted: &str,
        role: Role,
        certify: impl FnOnce(&str) -> Result<Certified, Fault>,
    ) -> Result<(Peer, Certified), Fault> {
        self.change(|peers| {
            let wanted = name_of(wanted, "puller");
            let taken =
                |name: &String| peers.iter().any(|peer| peer.name == *name && peer.revoked_at.is_none());
            let numbered = (2..).map(|number| format!("{wanted}-{number}"));
            let mut names = std::iter::once(wanted.clone()).chain(numbered).take(PEERS_MAX + 1);
            let name = names.find(|name| !taken(name)).expect("BUG: more names than peers");
            if peers.len() >= PEERS_MAX {
                match peers.iter().position(|peer| peer.revoked_at.is_some()) {
                    // Its certificate is refused as unknown from now on.
                    Some(oldest) => drop(peers.remove(oldest)),
                    None => {
                        return Err(Fault::new(Kind::Refused, format!("this agent has {PEERS_MAX} peers"))
                            .hint(
                                "`pullback-agent peers revoke NAME` there takes those away that are gone",
                            ));
                    }
                }
            }
            let certified = certify(&name)?;
            let (fingerprint, expires_at) = (certified.fingerprint, certified.expires_at);
            let peer =
                Peer { name, fingerprint, role, paired_at: clock::now(), expires_at, revoked_at: None };
            peers.push(peer.clone());
            Ok((peer, certified))
        })
    }

    /// The peer called `name`, or whose fingerprint begins with it, is one no longer.
    pub fn revoke(&self, name: &str) -> Result<Peer, Fault> {
        self.change(|peers| {
            let folded = folded(name);
            let is_it = |peer: &&mut Peer| {
                peer.name == folded || (name.len() >= 8 && peer.fingerprint.to_string().starts_with(name))
            };
            let mut found: Vec<&mut Peer> = peers.iter_mut().filter(is_it).collect();
            // A name may have been used before, and was given again after that peer had been revoked.
            if found.len() > 1 {
                found.retain(|peer| peer.revoked_at.is_none());
            }
            match found.as_mut_slice() {
                [peer] => {
                    peer.revoked_at.get_or_insert_with(clock::now);
                    Ok(peer.clone())
                }
                [] => Err(Fault::new(Kind::Unknown, format!("there is no peer `{}`", printable(name, 80)))
                    .hint("`pullback-agent peers list` shows them")),
                _ => Err(Fault::new(Kind::Usage, format!("`{}` are several peers", printable(name, 80)))
                    .hint(
                        "`pullback-agent peers list` shows their fingerprints: name one by more of its own",
                    )),
            }
        })
    }

    /// Changes the list under a lock, whatever other process does so too; written aside, then given its name.
    fn change<T>(&self, how: impl FnOnce(&mut Vec<Peer>) -> Result<T, Fault>) -> Result<T, Fault> {
        let _lock = lock(&self.dir)?;
        let mut peers = self.all()?.to_vec();
        let changed = how(&mut peers)?;
        let text = serde_json::to_vec_pretty(&Listed { v: VERSION, peers })
            .map_err(|error| Fault::new(Kind::Internal, error.to_string()))?;
        write_private(&self.dir, FILE, &text)?;
        Ok(changed)
    }
}

/// Whoever holds this may change what lies in the directory of an identity.
pub(crate) fn lock(dir: &Path) -> Result<File, Fault> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("lock");
    let mut options = File::options();
    let opened = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = opened.and_then(|file| file.lock().map(|()| file));
    lock.map_err(|error| Fault::io(format!("`{}`", path.display()), &error))
}

/// A file in the directory of an identity, for its owner alone.
pub(crate) fn write_private(dir: &Path, name: &str, text: &[u8]) -> Result<(), Fault> {
    let path = dir.join(name);
    durable::replace(&path, text, 0o600).map_err(|error| Fault::io(format!("`{}`", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_to_add(peers: &Peers, name: &str, number: u8) -> Result<Peer, Fault> {
        let certificate = rustls::pki_types::CertificateDer::from(vec![number]);
        let certified =
            Certified { certificate, fingerprint: Fingerprint([number; 32]), expires_at: Timestamp::MAX };
        peers.add_with(name, Role::Pull, |_| Ok(certified)).map(|(peer, _)| peer)
    }

    fn add(peers: &Peers, name: &str, number: u8) -> Peer {
        try_to_add(peers, name, number).unwrap()
    }

    #[test]
    fn what_another_process_writes_holds_at_the_next_question() {
        let dir = tempfile::tempdir().unwrap();
        let (serving, typed) = (Peers::of(dir.path()), Peers::of(dir.path()));
        let fingerprint = Fingerprint([1; 32]);
        assert_eq!(serving.with(&fingerprint).unwrap_err().kind, Kind::Refused);
        assert_eq!(add(&typed, "Mac", 1).name, "mac");
        assert_eq!(serving.with(&fingerprint).unwrap().name, "mac");
        typed.revoke("mac").unwrap();
        let fault = serving.with(&fingerprint).unwrap_err();
        assert!(fault.kind == Kind::Refused && fault.message.contains("revoked"), "{fault:?}");
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(serving.with(&fingerprint).unwrap_err().kind, Kind::Config);
    }

    #[test]
    fn a_list_of_another_release_lets_nobody_in_and_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers::of(dir.path());
        let mac = add(&peers, "mac", 1);
        let newer = std::fs::read_to_string(dir.path().join(FILE)).unwrap().replace("\"v\": 1", "\"v\": 2");
        std::fs::write(dir.path().join(FILE), &newer).unwrap();
        assert_eq!(peers.with(&mac.fingerprint).unwrap_err().kind, Kind::Config);
        assert_eq!(try_to_add(&peers, "other", 2).unwrap_err().kind, Kind::Config);
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), newer);
    }

    #[test]
    fn names_are_unique_and_free_again_after_a_revocation() {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers::of(dir.path());
        assert_eq!([add(&peers, "mac", 1).name, add(&peers, "mac", 2).name], ["mac", "mac-2"]);
        peers.revoke("mac").unwrap();
        assert_eq!(add(&peers, "mac", 3).name, "mac");
        assert_eq!(peers.revoke("MAC").unwrap().fingerprint, Fingerprint([3; 32]));
        assert_eq!(peers.revoke("02020202").unwrap().name, "mac-2");
        assert_eq!(peers.revoke("nobody").unwrap_err().kind, Kind::Unknown);
    }

    #[test]
    fn the_list_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers::of(dir.path());
        let old = |number: usize| Peer {
            name: format!("p{number}"),
            fingerprint: Fingerprint([number as u8; 32]),
            role: Role::Pull,
            paired_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::MAX,
            revoked_at: (number == 7).then_some(Timestamp::UNIX_EPOCH),
        };
        let listed = Listed { v: 1, peers: (0..PEERS_MAX).map(old).collect() };
        write_private(dir.path(), FILE, &serde_json::to_vec(&listed).unwrap()).unwrap();
        add(&peers, "new", 1);
        assert!(!peers.all().unwrap().iter().any(|peer| peer.name == "p7"));
        let fault = try_to_add(&peers, "one more", 2).unwrap_err();
        assert_eq!(fault.kind, Kind::Refused, "{fault:?}");
    }
}
