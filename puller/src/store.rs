//! The store: the directory of copies of all sources. Whoever reads it sees proven copies only.
//!
//! ```text
//! STORE/pullback-store.json, README.txt, unpack.py
//! STORE/HOST/STEM/source.json      which source this is
//! STORE/HOST/STEM/.lock            a kernel lock: one run at a time
//! STORE/HOST/STEM/latest.db        link to the newest good copy
//! STORE/HOST/STEM/history.jsonl    one line a run
//! STORE/HOST/STEM/copies/ID.db     the copy; .pages its page hashes; .json its manifest; older ones .db.gz or .delta.gz
//! STORE/HOST/STEM/copies/draft-…   what is being received
//! STORE/.import/                   a private copy of the file that is being imported
//! ```

use crate::address::{Address, NAME_RULE, is_name};
use crate::durable;
use crate::paired::meant;
use crate::source_dir::{About, IMPORTED, SourceDir, label};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The version of the store's layout.
const VERSION: u32 = 1;

const MARKER: &str = pullback_shared::restoring::STORE_MARKER;

/// How long a run waits for another one that is making a folder for a source.
const CREATING_WAIT: Duration = Duration::from_secs(10);

/// Between two looks whether it has.
const CREATING_RETRY: Duration = Duration::from_millis(5);

const README: &str = include_str!("store_readme.txt");

/// Takes packed copies out of the store without us.
const UNPACK: &str = include_str!("../../doc/unpack.py");

/// A store that is there.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// Every source in a store, in the order of their folders.
#[derive(Debug, Default)]
pub struct Sources {
    /// Those whose folder says which source it is.
    pub known: Vec<SourceDir>,
    /// The others.
    pub damaged: Vec<Damaged>,
}

/// A folder that does not say any more which source it is. It stops no work on the others.
#[derive(Debug)]
pub struct Damaged {
    /// `HOST/STEM`.
    pub label: String,
    /// Why it cannot be read, and what to do.
    pub fault: Fault,
}

/// `pullback-store.json`.
#[derive(Serialize, Deserialize)]
struct Marker {
    v: u32,
    store: String,
}

impl Store {
    /// The store at `root`.
    pub fn open(root: &Path) -> Result<Self, Fault> {
        let marker = root.join(MARKER);
        let bytes = fs::read(&marker).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Fault::new(Kind::StoreMissing, format!("there is no store at `{}`", root.display()))
                    .hint("name it with `--store DIR`; the first `puller pull` makes it")
            }
            _ => Fault::io(format!("`{}`", marker.display()), &error),
        })?;
        let read: Marker = serde_json::from_slice(&bytes).map_err(|error| {
            Fault::new(Kind::Io, format!("`{}` is damaged: {error}", marker.display()))
                .hint("write `{\"v\":1,\"store\":\"mended\"}` into it; nothing else depends on it")
        })?;
        match read.v {
            VERSION => Ok(Self { root: root.to_owned() }),
            newer => Err(Fault::new(
                Kind::Io,
                format!(
                    "the store at `{}` has format version {newer}, this release knows {VERSION}",
                    root.display()
                ),
            )
            .hint("update `puller`")),
        }
    }

    /// The store at `root`, made if there is none. Where one was known before and is gone, its disk is probably not
    /// mounted: without a person at a terminal, no new one is made there.
    pub fn open_or_create(root: &Path, known: &KnownStores, at_terminal: bool) -> Result<Self, Fault> {
        match Self::open(root) {
            Err(fault) if fault.kind == Kind::StoreMissing => {}
            opened => {
                if opened.is_ok() {
                    known.add(root);
                }
                return opened;
            }
        }
        if known.has(root) && !at_terminal {
            return Err(Fault::new(Kind::StoreMissing, format!("the store at `{}` is gone", root.display()))
                .hint("is its disk mounted? To begin a new store there, run this once from a terminal"));
        }
        let io = |error: io::Error| {
            let fault = Fault::io(format!("the store `{}` cannot be made", root.display()), &error);
            if fault.kind == Kind::Io { fault.hint("name an empty or a new directory") } else { fault }
        };
        durable::make_dir(root).map_err(io)?;
        let _alone = match lock(File::open(root).map_err(io)?, root) {
            Err(fault) if fault.kind == Kind::Locked => return Err(fault),
            // Some network file systems lock no folder: then two first runs at once may fail, and the next one makes it whole.
            locked => locked.ok(),
        };
        // Another run may have made it since this one looked.
        match Self::open(root) {
            Err(fault) if fault.kind == Kind::StoreMissing => {}
            opened => {
                known.add(root);
                return opened;
            }
        }
        let foreign = fs::read_dir(root).map_err(io)?.flatten().any(|entry| !is_begun_store(&entry.path()));
        if foreign {
            return Err(Fault::new(Kind::Usage, format!("`{}` is no store, and not empty", root.display()))
                .hint("name an empty or a new directory"));
        }
        let id = RandomState::new().hash_one(root);
        let marker = Marker { v: VERSION, store: format!("{id:016x}") };
        let marker = serde_json::to_vec(&marker).expect("BUG: a marker that is no JSON");
        durable::replace(&root.join("README.txt"), README.as_bytes(), 0o600).map_err(io)?;
        durable::replace(&root.join("unpack.py"), UNPACK.as_bytes(), 0o600).map_err(io)?;
        durable::replace(&root.join(MARKER), &marker, 0o600).map_err(io)?;
        known.add(root);
        Ok(Self { root: root.to_owned() })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every source in it.
    pub fn sources(&self) -> Result<Sources, Fault> {
        let mut sources = Sources::default();
        for host in self.folders(&self.root)? {
            self.add_sources_in(&host, &mut sources)?;
        }
        Ok(sources)
    }

    fn add_sources_in(&self, host: &Path, sources: &mut Sources) -> Result<(), Fault> {
        for dir in self.folders(host)?.into_iter().filter(|dir| dir.join("source.json").exists()) {
            let label = label(&dir);
            match SourceDir::open(dir) {
                Ok(source) => sources.known.push(source),
                Err(fault) => sources.damaged.push(Damaged { label, fault }),
            }
        }
        Ok(())
    }

    fn folders(&self, dir: &Path) -> Result<Vec<PathBuf>, Fault> {
        let io = |error: io::Error| Fault::io(format!("`{}`", dir.display()), &error);
        let entries = fs::read_dir(dir).map_err(io)?.flatten().map(|entry| entry.path());
        let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir() && !path.is_symlink()).collect();
        folders.sort();
        Ok(folders)
    }

    /// What lies in the first folder that the source at `address`, or `name`, would be given.
    pub fn place(&self, address: &Address, name: Option<&str>) -> Result<Option<SourceDir>, Fault> {
        let (host, stem) = address.folder();
        let dir = self.root.join(host).join(name.map_or(stem, crate::address::folder_name));
        dir.join("source.json").exists().then(|| SourceDir::open(dir)).transpose()
    }

    /// The name of `source` is `new` from now on. Its folder and the ids of its copies stay as they are.
    pub fn rename(&self, source: &SourceDir, new: &str) -> Result<SourceDir, Fault> {
        self.change(source, |sources, about| {
            if !is_name(new) {
                return Err(Fault::new(Kind::Usage, format!("`{}`: {NAME_RULE}", printable(new, 200))));
            }
            let means = |other: &&SourceDir| {
                other.about.name.as_deref() == Some(new) || other.label() == new || other.stem() == new
            };
            if let Some(other) = sources.iter().find(means) {
                return Err(Fault::new(Kind::Usage, format!("`{new}` means `{}` already", other.label()))
                    .hint("`puller sources` lists the names in use"));
            }
            about.name = Some(new.to_owned());
            Ok(())
        })
    }

    /// `source` is at `address` from now on, and keeps its copies and its history.
    pub fn adopt(&self, source: &SourceDir, address: &Address) -> Result<SourceDir, Fault> {
        self.change(source, |sources, about| {
            if let Some(other) = sources.iter().find(|other| other.is_at(address)) {
                return Err(taken(address, other));
            }
            about.key = address.key();
            about.address = matches!(address, Address::Ssh { .. }).then(|| address.spelling());
            Ok(())
        })
    }

    /// Whether `address` may become that of `source`: `Ok(false)` where it is already.
    pub fn may_adopt(&self, source: &SourceDir, address: &Address) -> Result<bool, Fault> {
        match self.sources()?.known.into_iter().find(|source| source.is_at(address)) {
            None => Ok(true),
            Some(other) if other.dir() == source.dir() => Ok(false),
            Some(other) => Err(taken(address, &other)),
        }
    }

    /// Changes what `source` is, while nobody pulls it or makes another one. `to` is given the other sources, to look for
    /// what would be there twice.
    fn change(
        &self,
        source: &SourceDir,
        to: impl FnOnce(&[SourceDir], &mut About) -> Result<(), Fault>,
    ) -> Result<SourceDir, Fault> {
        let _no_new_one = self.lock_for_creating()?;
        let _lock = source.lock()?;
        let (same, others): (Vec<SourceDir>, Vec<SourceDir>) =
            self.sources()?.known.into_iter().partition(|other| other.dir() == source.dir());
        let gone = || Fault::new(Kind::Unknown, format!("`{}` is gone", source.dir().display()));
        let mut changed = same.into_iter().next().ok_or_else(gone)?;
        to(&others, &mut changed.about)?;
        changed.write_about()?;
        Ok(changed)
    }

    /// The source that a person means by `typed`: a name, a folder (`HOST/STEM`), a folder's STEM, or an address; or a paired agent
    /// of which there is one source.
    pub fn named(&self, typed: &str) -> Result<SourceDir, Fault> {
        let mut found = self.all_named(typed)?;
        match (found.pop(), found.as_slice()) {
            (Some(source), []) => Ok(source),
            (last, _) => {
                found.extend(last);
                Err(could_be(typed, &found.iter().collect::<Vec<_>>()))
            }
        }
    }

    /// The same, and all sources of a paired agent where its name is all that was typed. There is one at least.
    pub fn all_named(&self, typed: &str) -> Result<Vec<SourceDir>, Fault> {
        let unknown = match self.called(typed) {
            Err(fault) if fault.kind == Kind::Unknown => fault,
            found => return found.map(|source| vec![source]),
        };
        let below = self.behind(typed)?;
        if below.is_empty() { Err(unknown) } else { Ok(below) }
    }

    /// The sources behind the paired agent that `typed` names.
    fn behind(&self, typed: &str) -> Result<Vec<SourceDir>, Fault> {
        let Some(Address::Agent { agent: wanted, .. }) = Address::whole_agent(typed) else {
            return Ok(Vec::new());
        };
        let is_behind = |source: &SourceDir| matches!(Address::from_key(&source.about.key), Some(Address::Agent { agent, .. }) if agent == wanted);
        Ok(self.sources()?.known.into_iter().filter(is_behind).collect())
    }

    /// As [`Self::named`], without those that are meant by their agent's name alone.
    pub fn called(&self, typed: &str) -> Result<SourceDir, Fault> {
        let Sources { known: sources, damaged } = self.sources()?;
        let address = Address::parse(typed).ok().flatten().map(meant);
        let agent = Address::agent(typed);
        let is_agents = |source: &SourceDir| agent.as_ref().is_some_and(|agent| source.is_at(agent));
        let address = address.unwrap_or_else(|| Address::Local(typed.into()));
        let (key, spelling) = (address.key(), address.spelling());
        let is_addressed = |source: &SourceDir| {
            let is_paired = matches!(address, Address::Agent { .. }) && source.is_at(&address);
            source.about.key == key || is_paired || is_agents(source)
        };
        // A folder may be called as the database of an agent that another folder has.
        let is_labelled = |source: &SourceDir| source.label() == typed || is_agents(source);
        let ways: [&dyn Fn(&SourceDir) -> bool; 5] = [
            &|source| source.about.name.as_deref() == Some(typed),
            &is_labelled,
            &is_addressed,
            &|source| source.about.address.as_ref() == Some(&spelling),
            &|source| source.stem() == typed,
        ];
        for way in ways {
            let found: Vec<&SourceDir> = sources.iter().filter(|source| way(source)).collect();
            match found.as_slice() {
                [] => {}
                [one] => return Ok((*one).clone()),
                many => return Err(could_be(typed, many)),
            }
        }
        damaged
            .into_iter()
            .find(|damaged| damaged.is_meant_by(typed))
            .map_or(Ok(()), |damaged| Err(damaged.fault))?;
        let known: Vec<String> = sources.iter().map(SourceDir::label).collect();
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        Err(Fault::new(Kind::Unknown, format!("the store knows no source `{}`", printable(typed, 200)))
            .hint(format!("sources in `{}`: {known}", self.root.display())))
    }

    /// A folder for a source that the store does not have yet.
    pub fn create(&self, address: &Address, name: Option<&str>) -> Result<SourceDir, Fault> {
        let (host, stem) = address.folder();
        let stem = name.map_or(stem, crate::address::folder_name);
        self.create_in(&host, stem, address.key(), name)
    }

    /// A folder for copies that are imported: the source is called `name`, and where its database is shows its first pull.
    pub fn create_imported(&self, name: &str) -> Result<SourceDir, Fault> {
        if !is_name(name) {
            return Err(Fault::new(Kind::Usage, format!("`{}`: {NAME_RULE}", printable(name, 200))));
        }
        self.create_in("imported", name.to_owned(), format!("{IMPORTED}{name}"), Some(name))
    }

    fn create_in(
        &self,
        host: &str,
        stem: String,
        key: String,
        name: Option<&str>,
    ) -> Result<SourceDir, Fault> {
        let _alone = self.lock_for_creating()?;
        let host_dir = self.root.join(host);
        // Another run may have made it since this one looked: in this place, since a new source goes nowhere else.
        let is_it = |source: &SourceDir| {
            source.about.key == key && (name.is_none() || source.about.name.as_deref() == name)
        };
        let mut made = Sources::default();
        if host_dir.is_dir() {
            self.add_sources_in(&host_dir, &mut made)?;
        }
        if let Some(source) = made.known.into_iter().find(is_it) {
            return Ok(source);
        }
        let mut number = 1;
        let dir = loop {
            let dir = host_dir.join(if number == 1 { stem.clone() } else { format!("{stem}-{number}") });
            // Names that differ only in case are one folder on some file systems, so the folder itself is asked.
            if dir.symlink_metadata().is_err() || is_begun_source(&dir) {
                break dir;
            }
            number += 1;
        };
        let what = format!("`{}` cannot be made", dir.display());
        durable::make_dir(&dir.join("copies")).map_err(|error| Fault::io(&what, &error))?;
        let source = SourceDir::create(dir, key, name.map(str::to_owned), stem)?;
        durable::sync_dir(&host_dir)
            .and_then(|()| durable::sync_dir(&self.root))
            .map_err(|error| Fault::io(&what, &error))?;
        Ok(source)
    }

    /// A kernel lock on the store's marker: two runs that make folders for two sources of one name take turns.
    fn lock_for_creating(&self) -> Result<File, Fault> {
        let path = self.root.join(MARKER);
        let io = |error: io::Error| Fault::io(format!("`{}`", path.display()), &error);
        lock(OpenOptions::new().read(true).write(true).open(&path).map_err(io)?, &self.root)
    }
}

/// Takes the kernel lock on `file` for who makes something in the store at `root`.
fn lock(file: File, root: &Path) -> Result<File, Fault> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(error)) => {
                return Err(Fault::io(format!("the lock of `{}`", root.display()), &error));
            }
            Err(fs::TryLockError::WouldBlock) if began.elapsed() > CREATING_WAIT => {
                return Err(Fault::new(
                    Kind::Locked,
                    format!("another run makes a folder in `{}`", root.display()),
                )
                .hint("wait until it ends; the lock goes with its process, there is nothing to remove"));
            }
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(CREATING_RETRY),
        }
    }
}

impl Damaged {
    fn is_meant_by(&self, typed: &str) -> bool {
        self.label == typed || self.label.split_once('/').is_some_and(|(_, stem)| stem == typed)
    }
}

/// The store that the file at `path` lies in, or would lie in, whatever links lead there.
pub fn around(path: &Path) -> Option<PathBuf> {
    let dir = |path: &Path| Some(path.canonicalize().ok()?.parent()?.to_owned());
    let dir = dir(path).or_else(|| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.canonicalize().ok(),
        _ => Path::new(".").canonicalize().ok(),
    })?;
    dir.ancestors().find(|dir| dir.join(MARKER).exists()).map(Path::to_owned)
}

/// A label that is `typed` itself would be as unclear the next time: then the address is shown.
fn could_be(typed: &str, sources: &[&SourceDir]) -> Fault {
    let spelling = |source: &&SourceDir| match (source.label(), source.address()) {
        (label, Ok(address)) if label == typed && !matches!(address, Address::Agent { .. }) => {
            address.to_string()
        }
        (label, _) => label,
    };
    let spellings: Vec<String> = sources.iter().map(|source| format!("`{}`", spelling(source))).collect();
    Fault::new(Kind::Usage, format!("`{}` could be {}", printable(typed, 200), spellings.join(" or ")))
        .hint("name one of them")
}

fn taken(address: &Address, by: &SourceDir) -> Fault {
    Fault::new(Kind::Usage, format!("`{address}` is the source `{}` already", by.shown()))
        .hint("one address is one source; `puller sources` lists them")
}

/// Whether `path` is what a run that died while it made a store leaves in its folder, or lies in an empty one anyway.
fn is_begun_store(path: &Path) -> bool {
    match path.file_name().and_then(|name| name.to_str()) {
        Some("lost+found" | ".README.txt.new" | ".unpack.py.new") => true,
        Some("README.txt") => fs::read(path).is_ok_and(|text| text == README.as_bytes()),
        Some("unpack.py") => fs::read(path).is_ok_and(|text| text == UNPACK.as_bytes()),
        Some(name) => name.strip_prefix('.').and_then(|name| name.strip_suffix(".new")) == Some(MARKER),
        None => false,
    }
}

/// Whether the folder `dir` is what a run leaves that died before the folder said which source it is.
fn is_begun_source(dir: &Path) -> bool {
    let only = |dir: &Path, names: &[&str]| {
        fs::read_dir(dir).is_ok_and(|entries| {
            entries.flatten().all(|entry| names.iter().any(|name| entry.file_name() == *name))
        })
    };
    let copies = dir.join("copies");
    only(dir, &["copies", ".source.json.new"]) && (!copies.exists() || only(&copies, &[]))
}

/// The stores that this user's runs have seen, so that a store on a disk that is not mounted is missed.
pub struct KnownStores {
    file: PathBuf,
}

impl KnownStores {
    /// Remembered in `file`.
    pub fn in_file(file: PathBuf) -> Self {
        Self { file }
    }

    /// Where they are, or were.
    pub fn all(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(PathBuf::from).collect()
    }

    fn has(&self, root: &Path) -> bool {
        let root = crate::address::absolute(root);
        self.all().contains(&root)
    }

    /// Best effort: a run must not fail for this.
    fn add(&self, root: &Path) {
        let added = match self.has(root) {
            true => Ok(()),
            false => {
                let dir = self.file.parent().expect("BUG: a file without a directory");
                let line = crate::address::absolute(root).to_string_lossy().into_owned();
                durable::make_dir(dir).and_then(|()| durable::append_line(&self.file, &line))
            }
        };
        if let Err(error) = added {
            tracing::debug!(%error, "the store could not be remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_gone_is_not_made_anew_without_a_person() {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownStores::in_file(dir.path().join("state/stores"));
        let root = dir.path().join("disk/store");
        Store::open_or_create(&root, &known, false).unwrap();
        Store::open_or_create(&root, &known, false).unwrap();
        fs::remove_dir_all(dir.path().join("disk")).unwrap();
        let fault = Store::open_or_create(&root, &known, false).unwrap_err();
        assert_eq!(fault.kind, Kind::StoreMissing);
        assert!(!root.exists());
        Store::open_or_create(&root, &known, true).unwrap();
    }

    #[test]
    fn runs_that_make_a_store_at_once_make_one() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let ids = std::thread::scope(|scope| {
                let made = [(); 6].map(|()| scope.spawn(|| new_store(dir.path())));
                made.map(|made| fs::read(made.join().unwrap().root().join(MARKER)).unwrap())
            });
            assert!(ids.iter().all(|id| *id == ids[0]));
        }
    }

    #[test]
    fn a_folder_with_other_files_is_not_taken_for_a_store() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter.txt"), "dear").unwrap();
        let known = KnownStores::in_file(dir.path().join("state/stores"));
        assert_eq!(Store::open_or_create(dir.path(), &known, true).unwrap_err().kind, Kind::Usage);
    }

    fn new_store(dir: &Path) -> Store {
        Store::open_or_create(&dir.join("store"), &KnownStores::in_file(dir.join("stores")), true).unwrap()
    }

    #[test]
    fn a_store_that_was_begun_is_made_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("README.txt"), README).unwrap();
        fs::write(root.join("unpack.py"), UNPACK).unwrap();
        fs::write(root.join(".pullback-store.json.new"), "{").unwrap();
        assert_eq!(new_store(dir.path()).root(), root);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 3);
    }

    #[test]
    fn a_folder_that_was_begun_is_taken_and_one_that_lost_its_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = new_store(dir.path());
        let host = store.root().join("local");
        fs::create_dir_all(host.join("gym/copies")).unwrap();
        fs::write(host.join("gym/.source.json.new"), "{").unwrap();
        assert_eq!(store.create(&Address::Local("/a/gym.db".into()), None).unwrap().label(), "local/gym");
        fs::create_dir_all(host.join("app/copies")).unwrap();
        fs::write(host.join("app/copies/app-000001-20261121T090000Z.db"), "rows").unwrap();
        assert_eq!(store.create(&Address::Local("/a/app.db".into()), None).unwrap().label(), "local/app-2");
    }

    #[test]
    fn two_sources_of_one_name_get_two_folders() {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownStores::in_file(dir.path().join("stores"));
        let store = Store::open_or_create(&dir.path().join("store"), &known, true).unwrap();
        let a = Address::Local("/a/gym.db".into());
        let b = Address::Local("/b/gym.db".into());
        assert_eq!(store.create(&a, None).unwrap().label(), "local/gym");
        assert_eq!(store.create(&b, None).unwrap().label(), "local/gym-2");
        assert_eq!(store.named("/b/gym.db").unwrap().label(), "local/gym-2");
        assert_eq!(store.named("/a/gym.db").unwrap().label(), "local/gym");
        assert_eq!(store.named("nobody").unwrap_err().kind, Kind::Unknown);
    }

    #[test]
    fn a_name_and_an_address_belong_to_one_source() {
        let dir = tempfile::tempdir().unwrap();
        let store = new_store(dir.path());
        let [a, b, c] = ["/a/gym.db", "/b/gym.db", "/c/gym.db"].map(|path| Address::Local(path.into()));
        let gym = store.create(&a, Some("gym")).unwrap();
        let other = store.create(&b, None).unwrap();
        let at = |address: &Address| store.named(&address.spelling());

        for taken in ["gym", "local/gym", "../up", "/a", "", "pi:1/x"] {
            assert_eq!(store.rename(&other, taken).unwrap_err().kind, Kind::Usage, "{taken}");
        }
        store.rename(&gym, "fitness").unwrap();
        assert_eq!(store.named("fitness").unwrap().label(), "local/gym");
        assert_eq!(store.rename(&other, "fitness").unwrap_err().kind, Kind::Usage);

        assert_eq!(store.adopt(&gym, &b).unwrap_err().kind, Kind::Usage);
        store.adopt(&gym, &c).unwrap();
        assert_eq!(at(&c).unwrap().shown(), "fitness");
        assert!(at(&a).is_err());
        let lock = gym.lock().unwrap();
        assert_eq!(store.adopt(&gym, &a).unwrap_err().kind, Kind::Locked);
        drop(lock);
        store.adopt(&gym, &a).unwrap();
    }

    #[test]
    fn what_changed_between_finding_a_source_and_its_lock_is_not_undone() {
        let dir = tempfile::tempdir().unwrap();
        let store = new_store(dir.path());
        let address = Address::Local("/a/gym.db".into());
        let mut found = store.create(&address, None).unwrap();
        // Meanwhile another run stores a copy, which is removed again, and a person gives a name.
        let mut other = found.clone();
        let stored = other.next_copy(jiff::Timestamp::UNIX_EPOCH).unwrap().1;
        store.rename(&other, "club").unwrap();
        let lock = found.lock_anew().unwrap();
        found.note(&address, Some("gym"), &lock).unwrap();
        let next = found.next_copy(jiff::Timestamp::UNIX_EPOCH).unwrap().1;
        assert_eq!(store.named("/a/gym.db").unwrap().shown(), "club");
        assert!(next > stored, "{next}");
    }

    #[test]
    fn a_folder_that_says_what_none_can_say_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let store = new_store(dir.path());
        let gym = store.create(&Address::Local("/a/gym.db".into()), Some("club")).unwrap();
        let file = gym.dir().join("source.json");
        let whole = fs::read_to_string(&file).unwrap();
        for (word, wrong) in [
            ("\"club\"", "\"\\u001b[2J\""),
            ("\"club\"", "\"\""),
            ("\"stem\": \"club\"", "\"stem\": \"../../up\""),
            ("\"v\": 1", "\"v\": 2"),
        ] {
            let changed = whole.replace(word, wrong);
            assert_ne!(changed, whole, "{word}");
            fs::write(&file, changed).unwrap();
            let sources = store.sources().unwrap();
            assert!(sources.known.is_empty() && sources.damaged[0].label == "local/club", "{wrong}");
        }
        fs::write(&file, whole).unwrap();
        assert_eq!(store.sources().unwrap().known[0].shown(), "club");
    }
}
