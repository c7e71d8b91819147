//! A finished database file gets the name of a target where SQLite can open nothing: where nothing is, or something that is set
//! aside whole.
//!
//! ```text
//! DIR/NAME                       the target: its main file, with NAME-wal, NAME-shm and NAME-journal as far as they are there
//!     .NAME.pullback-aside-…     the new database, until it has the name
//!     NAME.pullback-restore      the record: what was begun; locked while somebody works on it
//!     NAME.quarantine-STAMP/     what was at the target, under its old names
//!     NAME.quarantine-STAMP-2/   a database that came there after a run had died between two steps, or while one was at work
//! ```
//!
//! The order is: the new file is written and fsynced, then the record is, then both names are made durable, then the files at
//! the target move, then the new one gets the name, then the record goes. So where there is a record, there is a whole new file or
//! none, unless the disk lost what it had confirmed; the record holds its hash to find that out, and the old files come back then.
//!
//! What is to be done next is told by what lies on the disk and by nothing else (`Begun::next`), and each step is durable
//! before the next one is looked for. So a run that died anywhere is gone on with as if it had not. Files are only renamed, never
//! onto another, whoever comes in between.
//!
//! `-wal`, `-shm` and `-journal` go before the main file: an application that finds no main file makes one, and SQLite then deletes
//! a log that it finds beside an empty database. Back they come after it, for the same reason.

use crate::aside::{self, Aside, dir_of, is_at, is_there, rename_new, with_suffix};
use crate::durable::{remove, sync_dir};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{HEADER_LEN, Journal, set_journal};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What SQLite may put beside a main file.
pub(crate) const SIDES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// All that belongs to a database, in the order in which it goes.
const FILES: [&str; 4] = ["-wal", "-shm", "-journal", ""];

/// Behind the target's name: the record.
const RECORD: &str = ".pullback-restore";

/// The version of the record.
const FORMAT: u32 = 1;

/// A longer record is none of ours.
const RECORD_BYTES_MAX: u64 = 4096;

/// A stamp is not longer.
const STAMP_CHARS_MAX: usize = 64;

/// Directories that one stamp is good for, and files of one name in one of them.
const QUARANTINES_MAX: u32 = 100;

/// An application that makes a new database whenever one was set aside is given up on after so many steps.
const STEPS_MAX: usize = 100;

/// How often the record's lock is tried, and how long is waited in between.
const LOCK_TRIES: u32 = 10;
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// How the database file is to look.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    /// The journal mode in its header.
    pub journal: Journal,
    /// Who may read and write it; the owner always may, and nobody runs it.
    pub mode: u32,
    /// User and group, where they are to be others than this process's.
    pub owner: Option<(u32, u32)>,
}

/// How it ended, what a [`replace`] that died had begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The directory for what was at the target; there is none where all of it came back.
    pub quarantine: PathBuf,
    /// Whether the new database is in place. Otherwise the old files are back; or, where another database had come
    /// meanwhile, that one is left there, and they stay in `quarantine`.
    pub is_replaced: bool,
}

/// Gives `aside` the name `target`, where nothing is, nor anything of an older database beside it. Durable. What a dead run had
/// begun there is finished first, by [`finish_begun`].
pub fn place(aside: Aside, target: &Path, looks: &Looks) -> Result<(), Fault> {
    let shown = target.display();
    let io = |error: io::Error| Fault::io(format!("`{shown}`"), &error);
    refuse_begun(target)?;
    if is_there(target).map_err(io)? {
        return Err(Fault::new(Kind::Target, format!("`{shown}` is there already")));
    }
    for suffix in SIDES {
        let side = with_suffix(target, suffix);
        if is_there(&side).map_err(io)? {
            let why = format!(
                "`{}` of an older database is there: SQLite would replay it into the new one",
                side.display()
            );
            return Err(Fault::new(Kind::Target, why).hint("move it away, or name another target"));
        }
    }
    dress(aside.file(), looks).map_err(io)?;
    match aside.give_name(target) {
        Ok(_) => sync_dir(dir_of(target)).map_err(io),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let why = format!("`{shown}` came into being meanwhile; it is left as it is");
            Err(Fault::new(Kind::Target, why))
        }
        Err(error) => Err(io(error)),
    }
}

/// Sets aside what is at `target`, main file, `-wal`, `-shm` and `-journal` together, in a new directory beside it, named
/// after `stamp`; then gives `aside` the name. Returns the directory. What a dead run had begun is finished first, by
/// [`finish_begun`]. An error leaves, or brings back, what was there; where even that fails, the next [`finish_begun`] does it.
pub fn replace(aside: Aside, target: &Path, looks: &Looks, stamp: &str) -> Result<PathBuf, Fault> {
    begin(&aside, target, looks, stamp)?.carry_out(aside.path())
}

/// Completes what a [`replace`] that died had begun at `target`, or takes it back where the new file is not whole; `None`:
/// nothing was begun. Asides that dead processes left are removed.
pub fn finish_begun(target: &Path) -> Result<Option<Finished>, Fault> {
    let finished = match Begun::find(target)? {
        Some(begun) => {
            let is_replaced = begun.finish()?;
            Some(Finished { quarantine: begun.quarantine(1), is_replaced })
        }
        None => None,
    };
    let record = with_suffix(target, RECORD);
    match aside::sweep(target, || is_there(&record)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, target = %target.display(), "what dead runs left beside it takes room still");
        }
        _ => {}
    }
    Ok(finished)
}

/// Journal mode, owner and mode of the new file; then durable.
fn dress(file: &File, looks: &Looks) -> io::Result<()> {
    if file.metadata()?.len() >= HEADER_LEN as u64 {
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0)?;
        set_journal(&mut header, looks.journal);
        file.write_all_at(&header, 0)?;
    }
    if let Some((user, group)) = looks.owner {
        fchown(file, Some(user), Some(group))?;
    }
    file.set_permissions(Permissions::from_mode(looks.mode & 0o666 | 0o600))?;
    file.sync_all()
}

/// Refuses where something was begun, or is under way.
fn refuse_begun(target: &Path) -> Result<(), Fault> {
    match is_there(&with_suffix(target, RECORD)) {
        Ok(false) => Ok(()),
        Ok(true) => Err(locked(target)),
        Err(error) => Err(Fault::io(format!("`{}`", target.display()), &error)),
    }
}

fn locked(target: &Path) -> Fault {
    Fault::new(Kind::Locked, format!("another restore to `{}` is under way", target.display()))
        .hint("wait until it is done, then try again")
}

/// Up to the record, which stands and is locked then: nothing has moved yet.
fn begin(aside: &Aside, target: &Path, looks: &Looks, stamp: &str) -> Result<Begun, Fault> {
    let shown = target.display();
    let io = |error: io::Error| Fault::io(format!("`{shown}`"), &error);
    if !is_stamp(stamp) {
        return Err(Fault::new(Kind::Target, "a quarantine cannot be named after such a stamp"));
    }
    refuse_begun(target)?;
    let mut found = Vec::new();
    for suffix in FILES {
        let path = with_suffix(target, suffix);
        match path.symlink_metadata() {
            Ok(file) if file.is_file() => found.push(suffix),
            Ok(_) => {
                return Err(Fault::new(Kind::Target, format!("`{}` is no regular file", path.display()))
                    .hint("name the database file itself"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
    }
    if found.is_empty() {
        return Err(Fault::new(Kind::Target, format!("`{shown}` is not there any more")));
    }
    dress(aside.file(), looks).map_err(io)?;
    let blake3 = File::open(aside.path()).and_then(|file| digest(&file)).map_err(io)?;
    let record = Record {
        v: FORMAT,
        aside: aside.letters(),
        blake3,
        stamp: free_stamp(target, stamp).map_err(io)?,
        had_main: found.contains(&""),
    };
    let draft = Aside::beside(target)?;
    let text = serde_json::to_vec(&record).map_err(|error| io(error.into()))?;
    draft.file().write_all(&text).and_then(|()| draft.file().sync_all()).map_err(io)?;
    match draft.give_name(&with_suffix(target, RECORD)) {
        Ok(lock) => Ok(Begun { target: target.to_owned(), record, is_whole: true, _lock: lock }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(locked(target)),
        Err(error) => Err(io(error)),
    }
}

/// `stamp`, or where there is a directory of that name already, with a number behind it.
fn free_stamp(target: &Path, stamp: &str) -> io::Result<String> {
    for number in 1..=QUARANTINES_MAX {
        let stamp = numbered(stamp, number);
        let dir = quarantine(target, &stamp);
        // The longest name there, so that one that is too long is found out now.
        if !is_there(&file_in(&dir, target, SIDES[2]))? && !is_there(&dir)? {
            return Ok(stamp);
        }
    }
    Err(io::Error::other("too many quarantines of the same name"))
}

fn numbered(stamp: &str, number: u32) -> String {
    if number == 1 { stamp.to_owned() } else { format!("{stamp}-{number}") }
}

fn quarantine(target: &Path, stamp: &str) -> PathBuf {
    with_suffix(target, format!(".quarantine-{stamp}"))
}

/// The file of `target` with `suffix`, in `dir`.
fn file_in(dir: &Path, target: &Path, suffix: &str) -> PathBuf {
    with_suffix(&dir.join(target.file_name().unwrap_or_default()), suffix)
}

/// Whether `stamp` can be a part of a file's name, and never leads elsewhere.
fn is_stamp(stamp: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+".contains(&byte);
    (1..=STAMP_CHARS_MAX).contains(&stamp.len()) && stamp.bytes().all(may)
}

/// BLAKE3 of what `file`, from where it stands, holds.
fn digest(file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// What the record says.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    v: u32,
    /// The letters of the new file's name; other names are the target's.
    aside: String,
    /// What the new file holds.
    blake3: String,
    /// In the name of the directory for what was there.
    stamp: String,
    /// Whether a main file was there, or only what is beside one.
    had_main: bool,
}

impl Record {
    fn read(file: &File) -> Result<Self, String> {
        let mut text = String::new();
        file.take(RECORD_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
        let record: Self = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match record.v == FORMAT && is_stamp(&record.stamp) {
            true => Ok(record),
            false => Err("another release wrote it".to_owned()),
        }
    }

    /// Whether the file at `path` is whole. One that the disk cannot read to its end is not.
    fn is_true_of(&self, path: &Path) -> io::Result<bool> {
        match path.symlink_metadata() {
            Ok(found) if !found.is_file() => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        Ok(digest(&File::open(path)?).is_ok_and(|found| found == self.blake3))
    }
}

/// A replacement that has a record.
#[derive(Debug)]
struct Begun {
    target: PathBuf,
    record: Record,
    /// Whether the new file is what the record says; otherwise the old ones come back.
    is_whole: bool,
    _lock: File,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// This directory is made.
    Make(PathBuf),
    /// A file gets another name.
    Move(PathBuf, PathBuf),
    /// The new file gets the target's name.
    Place(PathBuf),
    /// This directory, which is empty, goes.
    Unmake(PathBuf),
    /// Nothing but to remove the record. Whether the new file has the name.
    Done(bool),
}

impl Begun {
    /// What a dead process had begun at `target`, locked.
    fn find(target: &Path) -> Result<Option<Self>, Fault> {
        let path = with_suffix(target, RECORD);
        let io = |error: io::Error| Fault::io(format!("`{}`", path.display()), &error);
        let odd = |why: &str| {
            Fault::new(Kind::Target, format!("`{}` does not tell what was begun: {why}", path.display()))
                .hint("see what lies beside it; files of the old database are in a directory whose name has `.quarantine-`; then move it away")
        };
        match path.symlink_metadata() {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(odd("it is no regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        }
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io)?,
        };
        let mut tries = 1;
        while let Err(error) = file.try_lock() {
            match error {
                TryLockError::Error(error) => return Err(io(error)),
                TryLockError::WouldBlock if tries == LOCK_TRIES => return Err(locked(target)),
                // A program that a dead one was just starting has its files open until it begins.
                TryLockError::WouldBlock => std::thread::sleep(LOCK_RETRY),
            }
            tries += 1;
        }
        // Whoever held it may have come to the end meanwhile.
        if !is_at(&file, &path).map_err(io)? {
            return Ok(None);
        }
        let record = Record::read(&file).map_err(|why| odd(&why))?;
        let aside = aside::path_of(target, &record.aside).ok_or_else(|| odd("another release wrote it"))?;
        let is_whole = record.is_true_of(&aside).map_err(io)?;
        Ok(Some(Self { target: target.to_owned(), record, is_whole, _lock: file }))
    }

    /// To the end, or back. Returns where the old files are.
    fn carry_out(self, aside: &Path) -> Result<PathBuf, Fault> {
        let fault = match self.finish() {
            Ok(_) => return Ok(self.quarantine(1)),
            Err(fault) => fault,
        };
        // Once the new file has the name, what is left to do is for the next run.
        if is_there(aside).unwrap_or(false)
            && let Err(error) = (Self { is_whole: false, ..self }).finish()
        {
            tracing::warn!(why = %error, "what was set aside is not all back; the next restore goes on");
        }
        Err(fault)
    }

    /// Step after step to the end. Whether the new file has the name then.
    fn finish(&self) -> Result<bool, Fault> {
        let io = |error: io::Error| Fault::io(format!("`{}`", self.target.display()), &error);
        // The names of the record and of the new file.
        sync_dir(dir_of(&self.target)).map_err(io)?;
        for _ in 0..STEPS_MAX {
            match self.next().map_err(io)? {
                Step::Done(is_replaced) => {
                    remove(&with_suffix(&self.target, RECORD)).map_err(io)?;
                    sync_dir(dir_of(&self.target)).map_err(io)?;
                    return Ok(is_replaced);
                }
                step => self.take(&step).map_err(io)?,
            }
        }
        let (target, dir) = (self.target.display(), self.quarantine(1));
        let why = format!(
            "an application makes `{target}` anew each time it is set aside; what was there first is in `{}`, unless it could be put back",
            dir.display()
        );
        Err(Fault::new(Kind::Busy, why).hint("stop the application, then try again"))
    }

    /// What lies on the disk says what comes next.
    fn next(&self) -> io::Result<Step> {
        let aside = self.aside();
        let first = self.quarantine(1);
        let has_main = is_there(&self.target)?;
        let main_went = is_there(&self.file_in(&first, ""))?;
        if !is_there(&aside)? && has_main && (main_went || !self.record.had_main) {
            return Ok(Step::Done(true));
        }
        if !self.is_whole {
            return self.next_back(&first, has_main, main_went);
        }
        let mut found = Vec::new();
        for suffix in FILES {
            if is_there(&with_suffix(&self.target, suffix))? {
                found.push(suffix);
            }
        }
        let Some(suffix) = found.first() else { return Ok(Step::Place(aside)) };
        // A main file that came where the old one had gone, or where none was, has a directory of its own.
        let is_old = !has_main || (self.record.had_main && !main_went);
        let dir = if is_old { first } else { self.later()? };
        // What came without one is never called as if it belonged to the old one.
        let to = self.free_in(&dir, suffix, if is_old && main_went { 2 } else { 1 })?;
        match is_there(&dir)? {
            false => Ok(Step::Make(dir)),
            true => Ok(Step::Move(with_suffix(&self.target, suffix), to)),
        }
    }

    /// The same where the old files are to come back. They stay with another database's files as little as those with them.
    fn next_back(&self, first: &Path, has_main: bool, main_went: bool) -> io::Result<Step> {
        let is_foreign = if main_went { self.any_there()? } else { has_main && !self.record.had_main };
        for suffix in FILES.iter().rev().filter(|_| !is_foreign) {
            let (from, to) = (self.file_in(first, suffix), with_suffix(&self.target, suffix));
            if is_there(&from)? && !is_there(&to)? {
                return Ok(Step::Move(from, to));
            }
        }
        match first.is_dir() && fs::read_dir(first)?.next().is_none() {
            true => Ok(Step::Unmake(first.to_owned())),
            false => Ok(Step::Done(false)),
        }
    }

    fn take(&self, step: &Step) -> io::Result<()> {
        let dir = dir_of(&self.target);
        match step {
            Step::Make(path) => {
                if *path != self.quarantine(1) {
                    tracing::warn!(dir = %path.display(), "another database came meanwhile; it is set aside as well");
                }
                DirBuilder::new().mode(0o700).create(path)?;
                sync_dir(dir)
            }
            Step::Move(from, to) => {
                rename_new(from, to)?;
                // First where it is, then where it no longer is: a power cut rather leaves two names than none.
                sync_dir(dir_of(to))?;
                sync_dir(dir_of(from))
            }
            Step::Place(aside) => match rename_new(aside, &self.target) {
                // An application made a database meanwhile: that is set aside as well.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
                Ok(()) => sync_dir(dir),
            },
            Step::Unmake(path) => {
                fs::remove_dir(path)?;
                sync_dir(dir)
            }
            Step::Done(_) => Ok(()),
        }
    }

    /// The first further directory that has no main file yet: what is in there belongs to the one that is at the target.
    fn later(&self) -> io::Result<PathBuf> {
        for number in 2..=QUARANTINES_MAX {
            let dir = self.quarantine(number);
            if !is_there(&self.file_in(&dir, ""))? {
                return Ok(dir);
            }
        }
        Err(io::Error::other("too many quarantines of the same name"))
    }

    /// The first name that nothing has for the file with `suffix` in `dir`; from 2 on it has a number behind it.
    fn free_in(&self, dir: &Path, suffix: &str, from: u32) -> io::Result<PathBuf> {
        for number in from..=QUARANTINES_MAX {
            let path = self.file_in(dir, &numbered(suffix, number));
            if !is_there(&path)? {
                return Ok(path);
            }
        }
        Err(io::Error::other("too many files of the same name"))
    }

    fn any_there(&self) -> io::Result<bool> {
        for suffix in FILES {
            if is_there(&with_suffix(&self.target, suffix))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn aside(&self) -> PathBuf {
        aside::path_of(&self.target, &self.record.aside).expect("BUG: a record that names no aside")
    }

    fn quarantine(&self, number: u32) -> PathBuf {
        quarantine(&self.target, &numbered(&self.record.stamp, number))
    }

    fn file_in(&self, dir: &Path, suffix: &str) -> PathBuf {
        file_in(dir, &self.target, suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rusqlite::Connection;
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt;

    const STAMP: &str = "20261121T101112Z";
    const LOOKS: Looks = Looks { journal: Journal::Rollback, mode: 0o640, owner: None };

    /// A directory with a target, and files of an old database with these suffixes.
    struct Scene {
        _dir: tempfile::TempDir,
        target: PathBuf,
    }

    /// What a test does to the disk after a process died.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Then {
        Nothing,
        /// The new file's content is not what was written.
        AsideRots,
        /// It is shorter.
        AsideIsCut,
        /// It is not there.
        AsideIsGone,
    }

    impl Scene {
        fn new(old: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            // A name that is no UTF-8, where file systems take such.
            let name: &std::ffi::OsStr = if cfg!(target_os = "linux") {
                std::os::unix::ffi::OsStrExt::from_bytes(b"shop \xff.db")
            } else {
                "shop .db".as_ref()
            };
            let target = dir.path().join(name);
            old.iter().for_each(|suffix| put(&target, suffix, "old"));
            Self { _dir: dir, target }
        }

        fn aside(&self) -> Aside {
            let aside = Aside::beside(&self.target).unwrap();
            aside.file().write_all("new".repeat(100).as_bytes()).unwrap();
            aside
        }

        fn record(&self) -> PathBuf {
            with_suffix(&self.target, RECORD)
        }

        fn quarantine(&self, stamp: &str) -> PathBuf {
            quarantine(&self.target, stamp)
        }

        /// A replacement that dies after so many steps past the record; whether there were so many.
        fn die_after(&self, steps: usize) -> bool {
            let aside = self.aside();
            let begun = begin(&aside, &self.target, &LOOKS, STAMP).unwrap();
            for _ in 0..steps {
                match begun.next().unwrap() {
                    Step::Done(_) => return false,
                    step => begun.take(&step).unwrap(),
                }
            }
            die(aside);
            true
        }

        /// Everything below the directory: names from the target's on, and contents.
        fn files(&self) -> BTreeMap<String, String> {
            let mut files = BTreeMap::new();
            let mut dirs = vec![self.target.parent().unwrap().to_owned()];
            while let Some(dir) = dirs.pop() {
                for entry in fs::read_dir(dir).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        dirs.push(path);
                        continue;
                    }
                    let name = path.strip_prefix(self.target.parent().unwrap()).unwrap();
                    let name = name
                        .to_string_lossy()
                        .replace(&*self.target.file_name().unwrap().to_string_lossy(), "X");
                    let text = fs::read_to_string(&path).unwrap();
                    files.insert(name, if text.len() == 300 { "new".to_owned() } else { text });
                }
            }
            files
        }

        /// The same of one directory that is expected: `whose` files with these suffixes.
        fn expect(dir: &str, whose: &str, suffixes: &[&str]) -> BTreeMap<String, String> {
            suffixes.iter().map(|suffix| (format!("{dir}X{suffix}"), format!("{whose}{suffix}"))).collect()
        }

        /// The end of all that goes well: the new file in place, and the old ones together elsewhere.
        fn expect_replaced(old: &[&str]) -> BTreeMap<String, String> {
            let mut files = Self::expect(&format!("X.quarantine-{STAMP}/"), "old", old);
            files.insert("X".to_owned(), "new".to_owned());
            files
        }
    }

    fn put(target: &Path, suffix: &str, whose: &str) {
        fs::write(with_suffix(target, suffix), format!("{whose}{suffix}")).unwrap();
    }

    /// The file stays as a killed process leaves it: there, and no longer locked.
    fn die(aside: Aside) {
        let path = aside.path().to_owned();
        let (elsewhere, is_there) = (with_suffix(&path, "-kept"), path.exists());
        if is_there {
            fs::hard_link(&path, &elsewhere).unwrap();
        }
        drop(aside);
        if is_there {
            fs::rename(&elsewhere, &path).unwrap();
        }
    }

    fn aside_of(scene: &Scene) -> Option<PathBuf> {
        let mut entries = fs::read_dir(scene.target.parent().unwrap()).unwrap();
        entries.find_map(|entry| {
            let path = entry.unwrap().path();
            path.file_name().unwrap().to_string_lossy().contains(".pullback-aside-").then_some(path)
        })
    }

    /// All sets of files that an old database can consist of.
    fn sets() -> impl Iterator<Item = Vec<&'static str>> {
        (1..16).map(|bits| {
            FILES
                .iter()
                .enumerate()
                .filter(|(at, _)| bits >> at & 1 == 1)
                .map(|(_, suffix)| *suffix)
                .collect()
        })
    }

    #[test]
    fn a_new_file_is_placed_where_nothing_is() {
        let scene = Scene::new(&[]);
        let aside = scene.aside();
        let path = aside.path().to_owned();
        assert_eq!(aside.file().metadata().unwrap().mode() & 0o777, 0o600);
        place(aside, &scene.target, &Looks { mode: 0o4755, ..LOOKS }).unwrap();
        assert_eq!(scene.files(), Scene::expect_replaced(&[]));
        assert_eq!(fs::metadata(&scene.target).unwrap().mode() & 0o7777, 0o644);
        assert!(!path.exists());
        assert_eq!(finish_begun(&scene.target).unwrap(), None);
        assert_eq!(scene.files(), Scene::expect_replaced(&[]));
    }

    #[test]
    fn nothing_is_placed_beside_files_of_an_older_database_or_what_was_begun() {
        for suffix in FILES {
            let scene = Scene::new(&[suffix]);
            let fault = place(scene.aside(), &scene.target, &LOOKS).unwrap_err();
            assert_eq!(fault.kind, Kind::Target, "{suffix}: {fault}");
            assert_eq!(scene.files(), Scene::expect("", "old", &[suffix]));
        }
        let scene = Scene::new(&[""]);
        scene.die_after(2);
        assert_eq!(place(scene.aside(), &scene.target, &LOOKS).unwrap_err().kind, Kind::Locked);
        assert_eq!(replace(scene.aside(), &scene.target, &LOOKS, STAMP).unwrap_err().kind, Kind::Locked);
    }

    #[test]
    fn what_came_between_the_look_and_the_rename_is_left() {
        let scene = Scene::new(&[""]);
        let error = scene.aside().give_name(&scene.target).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(scene.files(), Scene::expect("", "old", &[""]));
    }

    #[test]
    fn what_was_there_is_set_aside_whole() {
        for old in sets() {
            let scene = Scene::new(&old);
            let dir = replace(scene.aside(), &scene.target, &LOOKS, STAMP).unwrap();
            assert_eq!(dir, scene.quarantine(STAMP));
            assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
            assert_eq!(fs::metadata(&scene.target).unwrap().mode() & 0o7777, 0o640);
            assert_eq!(scene.files(), Scene::expect_replaced(&old), "{old:?}");
            assert_eq!(finish_begun(&scene.target).unwrap(), None);
        }
    }

    #[test]
    fn the_main_file_goes_last_and_the_new_one_comes_right_after_it() {
        let scene = Scene::new(&FILES);
        let (aside, dir) = (scene.aside(), scene.quarantine(STAMP));
        let begun = begin(&aside, &scene.target, &LOOKS, STAMP).unwrap();
        assert!(scene.record().exists());
        let mut steps = Vec::new();
        loop {
            let step = begun.next().unwrap();
            begun.take(&step).unwrap();
            steps.push(step);
            if steps.last() == Some(&Step::Done(true)) {
                break;
            }
        }
        let moved = |suffix| {
            let to = with_suffix(&dir.join(scene.target.file_name().unwrap()), suffix);
            Step::Move(with_suffix(&scene.target, suffix), to)
        };
        let mut expected = vec![Step::Make(dir.clone())];
        expected.extend(["-wal", "-shm", "-journal", ""].map(moved));
        expected.extend([Step::Place(aside.path().to_owned()), Step::Done(true)]);
        assert_eq!(steps, expected);
    }

    /// Lets a replacement die after so many steps, does something to the new file, and finishes it twice. Whether there are so many.
    #[track_caller]
    fn check_death(old: &[&str], steps: usize, then: Then) -> bool {
        let scene = Scene::new(old);
        if !scene.die_after(steps) {
            return false;
        }
        let aside = aside_of(&scene);
        match (then, &aside) {
            (Then::Nothing, _) | (_, None) => {}
            (Then::AsideRots, Some(path)) => fs::write(path, "now".repeat(100)).unwrap(),
            (Then::AsideIsCut, Some(path)) => fs::write(path, "new").unwrap(),
            (Then::AsideIsGone, Some(path)) => fs::remove_file(path).unwrap(),
        }
        let is_replaced = then == Then::Nothing || aside.is_none();
        let finished = finish_begun(&scene.target).unwrap();
        assert_eq!(finished, Some(Finished { quarantine: scene.quarantine(STAMP), is_replaced }));
        for _ in 0..2 {
            let expected =
                if is_replaced { Scene::expect_replaced(old) } else { Scene::expect("", "old", old) };
            assert_eq!(scene.files(), expected, "{old:?}, died after {steps} steps, {then:?}");
            assert_eq!(scene.quarantine(STAMP).exists(), is_replaced);
            assert_eq!(finish_begun(&scene.target).unwrap(), None);
        }
        // And nothing stands in the way of the next one.
        if is_replaced || old.contains(&"") {
            replace(scene.aside(), &scene.target, &LOOKS, STAMP).unwrap();
        }
        true
    }

    #[test]
    fn a_run_that_died_after_any_step_is_completed_or_taken_back() {
        for then in [Then::Nothing, Then::AsideRots, Then::AsideIsCut, Then::AsideIsGone] {
            for old in sets() {
                let deaths = (0..).take_while(|steps| check_death(&old, *steps, then)).count();
                // Nothing yet; a directory; each file; the new one.
                assert_eq!(deaths, 1 + 1 + old.len() + 1, "{old:?}");
            }
        }
    }

    #[test]
    fn a_run_that_died_before_its_record_has_changed_nothing() {
        let scene = Scene::new(&FILES);
        die(scene.aside());
        let draft = Aside::beside(&scene.target).unwrap();
        draft.file().write_all(b"{\"v\":1").unwrap();
        die(draft);
        assert_eq!(scene.files().len(), FILES.len() + 2);
        assert_eq!(finish_begun(&scene.target).unwrap(), None);
        assert_eq!(scene.files(), Scene::expect("", "old", &FILES));
    }

    #[test]
    fn taking_back_can_die_as_well() {
        for moved in 0..=FILES.len() {
            for back in 0..=moved + 1 {
                let scene = Scene::new(&FILES);
                assert!(scene.die_after(1 + moved));
                fs::write(aside_of(&scene).unwrap(), "now").unwrap();
                let begun = Begun::find(&scene.target).unwrap().unwrap();
                for _ in 0..back {
                    let step = begun.next().unwrap();
                    begun.take(&step).unwrap();
                    assert!(scene.target.exists(), "the main file comes back first");
                }
                drop(begun);
                assert!(!finish_begun(&scene.target).unwrap().unwrap().is_replaced);
                assert_eq!(scene.files(), Scene::expect("", "old", &FILES));
                assert!(!scene.quarantine(STAMP).exists());
            }
        }
    }

    /// Sets or clears what keeps even root from renaming the file at `path`; whether that can be done here.
    #[cfg(target_os = "linux")]
    fn pin(path: &Path, is_pinned: bool) -> bool {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        let file = File::open(path).unwrap();
        let flags = ioctl_getflags(&file).unwrap_or(IFlags::empty());
        let flags = if is_pinned { flags | IFlags::IMMUTABLE } else { flags - IFlags::IMMUTABLE };
        let is_done = ioctl_setflags(&file, flags).is_ok();
        if !is_done {
            eprintln!(
                "SKIPPED: a file that cannot be renamed: it takes root, and a file system with such a flag"
            );
        }
        is_done
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_error_on_the_way_brings_everything_back() {
        // The last of the old files stays where it is, whatever is done.
        for old in sets() {
            let scene = Scene::new(&old);
            let last = with_suffix(&scene.target, old.last().unwrap());
            if !pin(&last, true) {
                return;
            }
            let fault = replace(scene.aside(), &scene.target, &LOOKS, STAMP).unwrap_err();
            pin(&last, false);
            assert_eq!(fault.kind, Kind::Refused, "{fault}");
            assert_eq!(scene.files(), Scene::expect("", "old", &old));
            assert!(!scene.quarantine(STAMP).exists());
            assert_eq!(finish_begun(&scene.target).unwrap(), None);
        }
        // The new file does.
        let scene = Scene::new(&FILES);
        let aside = scene.aside();
        let begun = begin(&aside, &scene.target, &LOOKS, STAMP).unwrap();
        pin(aside.path(), true);
        assert_eq!(begun.carry_out(aside.path()).unwrap_err().kind, Kind::Refused);
        pin(aside.path(), false);
        drop(aside);
        assert_eq!(scene.files(), Scene::expect("", "old", &FILES));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_cannot_be_taken_back_at_once_is_by_the_next_run() {
        let scene = Scene::new(&FILES);
        let aside = scene.aside();
        let begun = begin(&aside, &scene.target, &LOOKS, STAMP).unwrap();
        (0..3).for_each(|_| begun.take(&begun.next().unwrap()).unwrap());
        let moved = begun.file_in(&scene.quarantine(STAMP), "-wal");
        if !pin(&moved, true) {
            return;
        }
        pin(&scene.target, true);
        assert!(begun.carry_out(aside.path()).is_err());
        drop(aside);
        assert!(scene.record().exists() && moved.exists());
        assert!(finish_begun(&scene.target).is_err(), "it cannot yet");
        assert!(scene.record().exists() && moved.exists());
        assert!(pin(&moved, false) && pin(&scene.target, false));
        assert!(!finish_begun(&scene.target).unwrap().unwrap().is_replaced);
        assert_eq!(scene.files(), Scene::expect("", "old", &FILES));
    }

    #[test]
    fn a_running_replacement_and_its_files_are_left_alone() {
        let scene = Scene::new(&FILES);
        let waiting = scene.aside();
        assert_eq!(finish_begun(&scene.target).unwrap(), None);
        assert!(waiting.path().exists(), "somebody works on it");
        let aside = scene.aside();
        let begun = begin(&aside, &scene.target, &LOOKS, STAMP).unwrap();
        begun.take(&begun.next().unwrap()).unwrap();
        let before = scene.files();
        assert_eq!(finish_begun(&scene.target).unwrap_err().kind, Kind::Locked);
        let second = replace(waiting, &scene.target, &LOOKS, STAMP).unwrap_err();
        assert_eq!(second.kind, Kind::Locked);
        assert_eq!(scene.files().len(), before.len() - 1, "only what the second one had made itself went");
        begun.carry_out(aside.path()).unwrap();
        assert_eq!(scene.files(), Scene::expect_replaced(&FILES));
    }

    #[test]
    fn only_asides_of_this_target_are_swept() {
        let scene = Scene::new(&[""]);
        let name = scene.target.file_name().unwrap();
        let others = [
            ".pullback-aside-abcdefg",
            ".pullback-aside-abcdefghi",
            ".pullback-aside-abcdefg-",
            ".pullback-aside-abcdefgh-journal",
            ".pullback-aside-abcdefgh.pullback-aside-abcdefgh",
        ];
        let beside = |suffix: &str| {
            let mut other = std::ffi::OsString::from(".");
            other.push(name);
            other.push(suffix);
            scene.target.with_file_name(other)
        };
        let other_target = scene.target.with_file_name("other.db");
        die(Aside::beside(&other_target).unwrap());
        others.iter().for_each(|suffix| fs::write(beside(suffix), "x").unwrap());
        let dir = beside(".pullback-aside-abcdefgh");
        fs::create_dir(&dir).unwrap();
        let before = scene.files();
        die(scene.aside());
        assert_eq!(finish_begun(&scene.target).unwrap(), None);
        assert_eq!(scene.files(), before);
        assert!(dir.exists());
    }

    #[test]
    fn an_aside_that_a_record_needs_is_not_swept() {
        let scene = Scene::new(&[""]);
        scene.die_after(0);
        aside::sweep(&scene.target, || is_there(&scene.record())).unwrap();
        assert!(aside_of(&scene).is_some());
        aside::sweep(&scene.target, || Ok(false)).unwrap();
        assert!(aside_of(&scene).is_none());
    }

    #[test]
    fn odd_targets_are_refused_and_left_as_they_are() {
        let check = |make: &dyn Fn(&Path), suffix: &str| {
            let scene = Scene::new(&[]);
            put(&scene.target, "-shm", "old");
            make(&with_suffix(&scene.target, suffix));
            let before = fs::symlink_metadata(with_suffix(&scene.target, suffix)).unwrap().ino();
            let fault = replace(scene.aside(), &scene.target, &LOOKS, STAMP).unwrap_err();
            assert_eq!(fault.kind, Kind::Target, "{fault}");
            assert_eq!(fs::symlink_metadata(with_suffix(&scene.target, suffix)).unwrap().ino(), before);
            assert_eq!(fs::read_dir(scene.target.parent().unwrap()).unwrap().count(), 2);
        };
        for suffix in ["", "-wal", "-journal"] {
            check(&|path| fs::create_dir(path).unwrap(), suffix);
            check(&|path| std::os::unix::fs::symlink("nowhere", path).unwrap(), suffix);
            #[cfg(target_os = "linux")]
            check(&|path| rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).unwrap(), suffix);
        }
        let scene = Scene::new(&[]);
        let kind = |outcome: Result<PathBuf, Fault>| outcome.unwrap_err().kind;
        assert_eq!(kind(replace(scene.aside(), &scene.target, &LOOKS, STAMP)), Kind::Target);
        put(&scene.target, "", "old");
        for stamp in ["", "../x", "a/b", "a b", &"x".repeat(STAMP_CHARS_MAX + 1)] {
            assert_eq!(kind(replace(scene.aside(), &scene.target, &LOOKS, stamp)), Kind::Target);
        }
        assert_eq!(scene.files(), Scene::expect("", "old", &[""]));
        let missing = Aside::beside(&scene.target.with_file_name("missing").join("x.db")).unwrap_err();
        assert_eq!(missing.kind, Kind::Target);
        assert_eq!(Aside::beside(Path::new("/")).unwrap_err().kind, Kind::Target);
        assert_eq!(finish_begun(&scene.target.with_file_name("missing").join("x.db")).unwrap(), None);
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_before_anything_moves() {
        let scene = Scene::new(&[]);
        let target = scene.target.with_file_name("x".repeat(230));
        fs::write(&target, "old").unwrap();
        let aside = Aside::beside(&target).unwrap();
        replace(aside, &target, &LOOKS, STAMP).unwrap_err();
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
    }

    #[test]
    fn a_record_that_tells_nothing_is_left_for_a_person() {
        let scene = Scene::new(&[""]);
        scene.die_after(0);
        let good = fs::read_to_string(scene.record()).unwrap();
        let letters = aside_of(&scene).unwrap();
        let letters = letters.to_string_lossy();
        let odd = [
            String::new(),
            good.replace("\"v\":1", "\"v\":2"),
            good.replace(STAMP, "../x"),
            good.replace(&letters[letters.len() - 8..], "../../xy"),
            format!("{}{good}", " ".repeat(RECORD_BYTES_MAX as usize)),
        ];
        for text in odd {
            assert_ne!(text, good);
            fs::write(scene.record(), text).unwrap();
            let before = scene.files();
            assert_eq!(finish_begun(&scene.target).unwrap_err().kind, Kind::Target);
            assert_eq!(scene.files(), before);
        }
        fs::write(scene.record(), &good).unwrap();
        assert!(finish_begun(&scene.target).unwrap().unwrap().is_replaced);
    }

    /// Every file that SQLite makes for a database with `rows` rows in this journal mode while it is open, copied.
    fn database(target: &Path, mode: &str, rows: u32) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made.db");
        let connection = Connection::open(&path).unwrap();
        let script = format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows}) INSERT INTO t SELECT i FROM n;"
        );
        connection.execute_batch(&script).unwrap();
        for suffix in FILES {
            let made = with_suffix(&path, suffix);
            if made.exists() {
                fs::copy(made, with_suffix(target, suffix)).unwrap();
            }
        }
    }

    fn count(path: &Path) -> i64 {
        let connection = Connection::open(path).unwrap();
        let word: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(word, "ok");
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn no_log_of_the_old_database_reaches_the_new_one_and_none_is_lost() {
        for (keep_shm, journal) in [(true, Journal::Rollback), (false, Journal::Wal)] {
            for steps in 0..7 {
                let scene = Scene::new(&[]);
                database(&scene.target, "wal", 500);
                let bytes = fs::metadata(with_suffix(&scene.target, "-wal")).unwrap().len();
                assert!(bytes > 4096, "the rows are in the log");
                if !keep_shm {
                    fs::remove_file(with_suffix(&scene.target, "-shm")).unwrap();
                }
                // Somebody wrote a text over the old main file's beginning.
                let main = fs::read(&scene.target).unwrap();
                fs::write(&scene.target, [&b"no database "[..], &main[12..]].concat()).unwrap();
                let aside = Aside::beside(&scene.target).unwrap();
                database(aside.path(), "delete", 7);
                let begun = begin(&aside, &scene.target, &Looks { journal, ..LOOKS }, STAMP).unwrap();
                for _ in 0..steps {
                    let step = begun.next().unwrap();
                    begun.take(&step).unwrap();
                }
                drop(begun);
                die(aside);
                assert!(finish_begun(&scene.target).unwrap().unwrap().is_replaced);
                let mut head = [0; HEADER_LEN];
                File::open(&scene.target).unwrap().read_exact(&mut head).unwrap();
                assert_eq!(pullback_shared::header::Header::read(&head).unwrap().journal, journal);
                assert_eq!(count(&scene.target), 7);
                // With its beginning mended the old one is all there, with what only its log has.
                let old = file_in(&scene.quarantine(STAMP), &scene.target, "");
                fs::write(&old, &main).unwrap();
                assert_eq!(count(&old), 500);
            }
        }
    }

    #[test]
    fn an_application_that_makes_its_database_anew_is_neither_raced_for_ever_nor_robbed() {
        let scene = Scene::new(&FILES);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let (outcome, made) = std::thread::scope(|scope| {
            let application = scope.spawn(|| {
                let mut made = 0;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    made += usize::from(File::create_new(&scene.target).is_ok());
                }
                made
            });
            let outcome = replace(scene.aside(), &scene.target, &LOOKS, STAMP);
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            (outcome, application.join().unwrap())
        });
        assert_eq!(finish_begun(&scene.target).unwrap(), None);
        let files = scene.files();
        let is_back = files["X"] == "old";
        let dir = if is_back { String::new() } else { format!("X.quarantine-{STAMP}/") };
        for (name, text) in Scene::expect(&dir, "old", &FILES) {
            assert_eq!(files.get(&name), Some(&text));
        }
        assert_eq!(files.values().filter(|text| text.is_empty()).count(), made);
        match outcome {
            Ok(_) => assert_eq!(files["X"], "new"),
            Err(fault) => {
                assert_eq!(fault.kind, Kind::Busy);
                assert!(is_back || files["X"].is_empty());
            }
        }
    }

    #[test]
    fn a_database_made_in_the_last_moment_is_set_aside_as_well() {
        let scene = Scene::new(&FILES);
        let aside = scene.aside();
        let begun = begin(&aside, &scene.target, &LOOKS, STAMP).unwrap();
        while !matches!(begun.next().unwrap(), Step::Place(_)) {
            begun.take(&begun.next().unwrap()).unwrap();
        }
        let place = begun.next().unwrap();
        ["", "-wal"].iter().for_each(|suffix| put(&scene.target, suffix, "came"));
        begun.take(&place).unwrap();
        assert_eq!(scene.files()["X"], "came");
        begun.carry_out(aside.path()).unwrap();
        let mut expected = Scene::expect_replaced(&FILES);
        expected.extend(Scene::expect(&format!("X.quarantine-{STAMP}-2/"), "came", &["", "-wal"]));
        assert_eq!(scene.files(), expected);
    }

    #[test]
    fn who_waited_while_another_one_came_to_the_end_finds_nothing_begun() {
        let scene = Scene::new(&FILES);
        let aside = scene.aside();
        let begun = begin(&aside, &scene.target, &LOOKS, STAMP).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| finish_begun(&scene.target));
            std::thread::sleep(LOCK_RETRY);
            begun.carry_out(aside.path()).unwrap();
            match waiting.join().unwrap() {
                Ok(finished) => assert_eq!(finished, None),
                // The disk was slow.
                Err(fault) => assert_eq!(fault.kind, Kind::Locked),
            }
        });
        assert_eq!(scene.files(), Scene::expect_replaced(&FILES));
    }

    #[test]
    fn an_empty_file_gets_its_name_as_well() {
        let scene = Scene::new(&[""]);
        replace(Aside::beside(&scene.target).unwrap(), &scene.target, &LOOKS, STAMP).unwrap();
        assert_eq!(fs::metadata(&scene.target).unwrap().len(), 0);
    }

    /// What the test's application and people do while nobody works on the target.
    #[derive(Clone, Debug)]
    struct Event {
        /// Steps until the process dies.
        steps: usize,
        /// Which of the four names then get a file, where they are free.
        come: [bool; 4],
        /// Whether the new file rots.
        rots: bool,
    }

    fn event() -> impl Strategy<Value = Event> {
        let rots = prop::bool::weighted(0.1);
        (0..9usize, any::<[bool; 4]>(), rots).prop_map(|(steps, come, rots)| Event { steps, come, rots })
    }

    /// Every main file with a side of it that were at the target together.
    fn pairs(scene: &Scene) -> Vec<(String, String)> {
        let files = scene.files();
        let Some(main) = files.get("X") else { return Vec::new() };
        let sides = SIDES.iter().filter_map(|suffix| files.get(&format!("X{suffix}")));
        sides.map(|side| (main.clone(), side.clone())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_comes_between_deaths_is_neither_lost_nor_mixed(
            old in prop::sample::subsequence(FILES.to_vec(), 1..=4),
            events in prop::collection::vec(event(), 1..4),
        ) {
            let scene = Scene::new(&old);
            let (mut known, mut together) = (scene.files(), pairs(&scene));
            let mut is_rotten = false;
            for (at, event) in events.iter().enumerate() {
                match at {
                    0 => drop(scene.die_after(event.steps)),
                    _ => if let Some(begun) = Begun::find(&scene.target).unwrap() {
                        for _ in 0..event.steps {
                            let step = begun.next().unwrap();
                            begun.take(&step).unwrap();
                        }
                    },
                }
                for (suffix, _) in FILES.iter().zip(event.come).filter(|(_, come)| *come) {
                    if !with_suffix(&scene.target, suffix).exists() {
                        put(&scene.target, suffix, &format!("came {at}"));
                        known.insert(format!("{at}{suffix}"), format!("came {at}{suffix}"));
                    }
                }
                together.extend(pairs(&scene));
                if let (true, Some(aside)) = (event.rots, aside_of(&scene)) {
                    fs::write(aside, "rotten").unwrap();
                    is_rotten = true;
                }
            }
            let finished = finish_begun(&scene.target).unwrap();
            prop_assert_eq!(finish_begun(&scene.target).unwrap(), None);
            let files = scene.files();
            for text in known.values() {
                prop_assert_eq!(files.values().filter(|found| *found == text).count(), 1, "{} in {:?}", text, files);
            }
            let is_new = files.values().any(|text| text == "new");
            prop_assert_eq!((finished.unwrap().is_replaced, is_new), (!is_rotten, !is_rotten));
            prop_assert_eq!(files.len(), known.len() + usize::from(is_new));
            for (name, main) in files.iter().filter(|(name, _)| name.ends_with('X')) {
                for side in SIDES.iter().filter_map(|suffix| files.get(&format!("{name}{suffix}"))) {
                    let pair = (main.clone(), side.clone());
                    prop_assert!(together.contains(&pair), "{:?} were never together: {:?}", pair, files);
                }
            }
            prop_assert_eq!(files.get("X").is_some_and(|text| text == "new"), is_new);
        }
    }
}
