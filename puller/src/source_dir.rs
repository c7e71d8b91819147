//! The folder of one source in the store: its copies, its lock, its history's place.
//!
//! A copy exists from the moment its manifest has its name; everything before that is a draft, and a run that holds the
//! lock clears drafts away. A copy whose manifest rotted is still a copy: it is listed as rotten and never cleared.

use crate::address::Address;
use crate::content::{self, Form};
use crate::durable;
use crate::manifest::Manifest;
use crate::paired::is_same;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use pullback_shared::verdict::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// What the files of a copy end in, its manifest aside.
const SUFFIXES: [&str; 4] = ["db", "pages", "db.gz", "delta.gz"];

/// The version of `source.json`.
const VERSION: u32 = 1;

/// What a file system counts a file's room in (POSIX, `st_blocks`).
const BLOCK_BYTES: u64 = 512;

/// What the key of a source begins with that has imported copies and no address yet; its name follows.
pub(crate) const IMPORTED: &str = "import:";

/// What a file that has rotted ends in besides, once it was set aside.
const ROTTEN: &str = "rotten";

/// What the folder that a drill restores into begins with.
pub const DRILL: &str = ".drill-";

/// `source.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    v: u32,
    /// What makes it this source: door and place.
    pub key: String,
    /// How it was typed last, but for a file here: the key has no user of ssh, and the near end of a tunnel is any port.
    #[serde(default)]
    pub address: Option<String>,
    /// A name given by a person.
    pub name: Option<String>,
    /// What its copies' ids begin with.
    pub stem: String,
    next_sequence: u64,
    /// Whether it was said that nothing is removed without a policy.
    #[serde(default)]
    pub told_about_rotation: bool,
}

/// The folder of one source.
#[derive(Clone, Debug)]
pub struct SourceDir {
    dir: PathBuf,
    /// Which source it is.
    pub about: About,
}

/// One copy, as the store finds it.
#[derive(Clone, Debug)]
pub struct StoredCopy {
    /// The id, from the name of the manifest.
    pub id: String,
    /// The order, from the same name.
    pub sequence: u64,
    /// What is known of it, or why it cannot be read.
    pub manifest: Result<Manifest, String>,
}

impl StoredCopy {
    /// The verdict; a copy whose manifest cannot be read is rotten.
    pub fn verdict(&self) -> Verdict {
        self.manifest.as_ref().map_or(Verdict::Rotten, |manifest| manifest.verdict)
    }

    /// Whether it is a good copy.
    pub fn is_good(&self) -> bool {
        self.verdict().is_good()
    }

    /// Whether it was taken of what a restore was about to replace, and no pull has found it again since.
    pub fn is_safety(&self) -> bool {
        self.manifest.as_ref().is_ok_and(|manifest| manifest.safety)
    }
}

/// `HOST/STEM` of the folder `dir`.
pub(crate) fn label(dir: &Path) -> String {
    let name = |dir: &Path| dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("{}/{}", dir.parent().map(name).unwrap_or_default(), name(dir))
}

impl SourceDir {
    /// Makes `source.json` in the new folder `dir`.
    pub(crate) fn create(
        dir: PathBuf,
        key: String,
        name: Option<String>,
        stem: String,
    ) -> Result<Self, Fault> {
        let about = About {
            v: VERSION,
            key,
            address: None,
            name,
            stem,
            next_sequence: 1,
            told_about_rotation: false,
        };
        let source = Self { dir, about };
        source.write_about()?;
        Ok(source)
    }

    /// The source whose folder is `dir`.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Fault> {
        let file = dir.join("source.json");
        let bytes = fs::read(&file).map_err(|error| Fault::io(format!("`{}`", file.display()), &error))?;
        let damaged = |why: String| {
            Fault::new(Kind::Io, format!("`{}` is damaged: {why}", file.display()))
                .hint("doc/format.md shows what it holds; the copies beside it are not touched")
        };
        let about: About = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if about.v != VERSION {
            let what =
                format!("`{}` has format version {}, this release knows {VERSION}", file.display(), about.v);
            return Err(Fault::new(Kind::Io, what).hint("update `puller`"));
        }
        let is_word =
            |text: &String| !text.is_empty() && !text.contains('/') && printable(text, text.len()) == *text;
        if ![Some(&about.stem), about.name.as_ref()].into_iter().flatten().all(is_word) {
            return Err(damaged("neither a name nor a stem is like that".to_owned()));
        }
        Ok(Self { dir, about })
    }

    /// `HOST/STEM`: how the source is called where it has no name.
    pub fn label(&self) -> String {
        label(&self.dir)
    }

    /// The name given, or the label.
    pub fn shown(&self) -> String {
        self.about.name.clone().unwrap_or_else(|| self.label())
    }

    /// The folder's own name.
    pub(crate) fn stem(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where it is reached: as it was typed last, or else from its key.
    pub fn address(&self) -> Result<Address, Fault> {
        if self.has_no_address() {
            let name = self.shown();
            let why = format!("`{name}` has imported copies, and it was not yet said where its database is");
            return Err(
                Fault::new(Kind::Usage, why).hint(format!("`puller pull ADDRESS --name {name}` says it"))
            );
        }
        let typed = self.about.address.as_ref().and_then(|typed| Address::written(typed).ok().flatten());
        typed.or_else(|| Address::from_key(&self.about.key)).ok_or_else(|| {
            Fault::new(
                Kind::Io,
                format!("`{}` names no door that this release knows", printable(&self.about.key, 200)),
            )
        })
    }

    /// Whether it was made for imported copies, and was not pulled yet.
    pub fn has_no_address(&self) -> bool {
        self.about.key.starts_with(IMPORTED)
    }

    /// Whether `address` is its own: by its key, or, behind ssh, as it was typed last, or because a paired agent is at the
    /// `HOST:PORT` of one of the two. What was typed may lead elsewhere by now: that shows [`Self::path_to_be`]. The near end of a
    /// tunnel says nothing of where it leads.
    pub fn is_at(&self, address: &Address) -> bool {
        let by_agent = || Address::from_key(&self.about.key).is_some_and(|own| is_same(&own, address));
        self.about.key == address.key()
            || match address {
                Address::Ssh { .. } => self.about.address == Some(address.spelling()),
                Address::Agent { .. } | Address::Service { .. } => by_agent(),
                Address::Local(_) => false,
            }
    }

    /// The path that the agent must tell where `address` is this source only by how it was typed: a link may have changed.
    pub fn path_to_be(&self, address: &Address) -> Option<String> {
        match Address::from_key(&self.about.key) {
            Some(Address::Ssh { path, .. }) if self.about.key != address.key() => Some(path),
            _ => None,
        }
    }

    /// Notes that it was reached as `address` says, and, where it had no name yet, that it is called `name`.
    pub fn note(&mut self, address: &Address, name: Option<&str>, _lock: &Lock) -> Result<(), Fault> {
        let spelling = match address {
            Address::Ssh { .. } | Address::Service { .. } => Some(address.spelling()),
            Address::Local(_) | Address::Agent { .. } => None,
        };
        let name = self.about.name.clone().or_else(|| name.map(str::to_owned));
        if self.about.address == spelling && self.about.name == name {
            return Ok(());
        }
        (self.about.address, self.about.name) = (spelling, name);
        self.write_about()
    }

    /// A source that has imported copies only is the one at `address` from now on; and one whose agent was paired since is that
    /// agent's, wherever the agent may be next.
    pub fn found_at(&mut self, address: &Address, _lock: &Lock) -> Result<(), Fault> {
        let is_paired_now = || {
            let is_other = self.about.key != address.key();
            is_other && matches!(address, Address::Agent { .. }) && self.is_at(address)
        };
        if !self.has_no_address() && !is_paired_now() {
            return Ok(());
        }
        self.about.key = address.key();
        self.write_about()
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its copies are.
    pub fn copies_dir(&self) -> PathBuf {
        self.dir.join("copies")
    }

    /// The file of copy `id` that ends in `suffix`: `db`, `pages` or `json`.
    pub fn file(&self, id: &str, suffix: &str) -> PathBuf {
        self.copies_dir().join(format!("{id}.{suffix}"))
    }

    /// The files of each copy, whatever form they have, by its id.
    pub fn files(&self) -> Result<BTreeMap<String, Vec<PathBuf>>, Fault> {
        let dir = self.copies_dir();
        let io = |error: io::Error| Fault::io(format!("`{}`", dir.display()), &error);
        let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            entries => entries.map_err(io)?,
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A stem may have dots as well.
            let mut beginnings = name.match_indices('.').map(|(at, _)| &name[..at]);
            if let Some(id) = beginnings.find(|id| sequence_of(id).is_some()) {
                files.entry(id.to_owned()).or_default().push(entry.path());
            }
        }
        Ok(files)
    }

    /// The file that has the content of copy `id`, in whatever form, also one that was set aside; the plain one where there is
    /// none.
    pub fn file_of(&self, id: &str) -> PathBuf {
        crate::content::find(self, id).map_or_else(|| self.file(id, Form::Plain.suffix()), |(_, path)| path)
    }

    /// The history's file.
    pub fn history_file(&self) -> PathBuf {
        self.dir.join("history.jsonl")
    }

    /// Takes the lock, which goes with the process.
    pub fn lock(&self) -> Result<Lock, Fault> {
        let path = self.dir.join(".lock");
        let io = |error: io::Error| Fault::io(format!("`{}`", path.display()), &error);
        durable::lock(&path).map_err(io)?.map(|file| Lock { _file: file }).ok_or_else(|| {
            Fault::new(Kind::Locked, format!("another run works on `{}`", self.shown()))
                .hint("wait until it ends; the lock goes with its process, there is nothing to remove")
        })
    }

    /// Takes the lock, and reads again what the source is: another run may have changed that since it was found.
    pub fn lock_anew(&mut self) -> Result<Lock, Fault> {
        let lock = self.lock()?;
        self.about = Self::open(self.dir.clone())?.about;
        Ok(lock)
    }

    /// Its copies, oldest first.
    pub fn copies(&self) -> Result<Vec<StoredCopy>, Fault> {
        let dir = self.copies_dir();
        let io = |error: io::Error| Fault::io(format!("`{}`", dir.display()), &error);
        let mut copies = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".json") else { continue };
            let Some(sequence) = sequence_of(id) else { continue };
            let manifest = match fs::read(entry.path()) {
                // It was removed a moment ago.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if !content::is_rot(&error) => {
                    return Err(Fault::io(format!("`{}`", entry.path().display()), &error));
                }
                read => read.map_err(|error| format!("the manifest cannot be read: {error}")),
            };
            let manifest = manifest.and_then(|bytes| Manifest::from_bytes(&bytes)).and_then(|manifest| {
                match manifest.copy == id {
                    true => Ok(manifest),
                    false => Err("the manifest is that of another copy".to_owned()),
                }
            });
            copies.push(StoredCopy { id: id.to_owned(), sequence, manifest });
        }
        copies.sort_by_key(|copy| copy.sequence);
        Ok(copies)
    }

    /// The copy that `wanted` means: `latest`, `latest~N` (good copies), an id or the unique beginning of one, or the
    /// beginning of a snapshot's name.
    pub fn copy(&self, wanted: &str) -> Result<StoredCopy, Fault> {
        self.find(wanted, StoredCopy::is_good, "good copies")
    }

    /// The copy `wanted` for a restore, or for a look at what one would bring, where `latest` passes over safety copies: a restore that is typed again means the same copy
    /// as before, and not what it has just replaced.
    pub fn copy_to_restore(&self, wanted: &str) -> Result<StoredCopy, Fault> {
        self.find(
            wanted,
            |copy| copy.is_good() && !copy.is_safety(),
            "good copies that are not a restore's safety copies",
        )
    }

    fn find(
        &self,
        wanted: &str,
        counts: impl Fn(&StoredCopy) -> bool,
        of_these: &str,
    ) -> Result<StoredCopy, Fault> {
        let copies = self.copies()?;
        let unknown = |why: String| {
            Fault::new(Kind::Unknown, why).hint(format!("`puller list {}` shows the copies", self.shown()))
        };
        if let Some(back) = wanted.strip_prefix("latest") {
            let back = match back.strip_prefix('~').map(str::parse::<usize>) {
                None if back.is_empty() => 0,
                Some(Ok(back)) => back,
                _ => return Err(unknown(format!("`{wanted}` is no copy"))),
            };
            let good: Vec<StoredCopy> = copies.into_iter().filter(|copy| counts(copy)).collect();
            let count = good.len();
            return good.into_iter().rev().nth(back).ok_or_else(|| {
                unknown(format!("`{}` has {count} {of_these}, so there is no `{wanted}`", self.shown()))
            });
        }
        let is_it = |copy: &StoredCopy| {
            let by_snapshot =
                copy.manifest.as_ref().is_ok_and(|manifest| manifest.snapshot.starts_with(wanted));
            copy.id.starts_with(wanted) || (wanted.len() >= 4 && by_snapshot)
        };
        if let Some(exact) = copies.iter().find(|copy| copy.id == wanted) {
            return Ok(exact.clone());
        }
        let found: Vec<StoredCopy> = copies.into_iter().filter(is_it).collect();
        match found.len() {
            0 => Err(unknown(format!("`{}` has no copy `{}`", self.shown(), printable(wanted, 100)))),
            1 => Ok(found.into_iter().next().expect("BUG: one copy that is none")),
            count => Err(unknown(format!("`{wanted}` is the beginning of {count} copies"))),
        }
    }

    /// A new id and its sequence number, which is not used again whatever happens.
    pub fn next_copy(&mut self, taken_at: Timestamp) -> Result<(String, u64), Fault> {
        let newest = self.copies()?.last().map_or(0, |copy| copy.sequence);
        let sequence = self.about.next_sequence.max(newest + 1);
        self.about.next_sequence = sequence + 1;
        self.write_about()?;
        let stem: String = self.about.stem.chars().take(40).collect();
        Ok((format!("{stem}-{sequence:06}-{}", crate::clock::stamp(taken_at)), sequence))
    }

    /// Writes `source.json`.
    pub fn write_about(&self) -> Result<(), Fault> {
        let file = self.dir.join("source.json");
        let json = serde_json::to_vec_pretty(&self.about).expect("BUG: a source that is no JSON");
        durable::replace(&file, &json, 0o600)
            .map_err(|error| Fault::io(format!("`{}`", file.display()), &error))
    }

    /// Puts in order what a run that died left behind: removes drafts, but for one that is gone on from (`keep_draft`), and
    /// files of a copy that never got its manifest or lost it to a rotation, and enters copies into history that it does not
    /// know. Where a copy has two forms because it was being packed, the one that does not count goes.
    pub fn clear_drafts(&self, keep_draft: bool, lock: &Lock) -> Result<(), Fault> {
        let stored = crate::history::stored_copies(self)?;
        let is_left_over = |name: &str| {
            let id = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)?.strip_suffix('.'));
            let orphan = id.is_some_and(|id| {
                // A manifest that went missing later is damage, not a draft: history knows the copy.
                sequence_of(id).is_some() && !self.file(id, "json").exists() && !stored.contains(id)
            });
            (name.starts_with("draft-") && !keep_draft) || orphan
        };
        for dir in [self.copies_dir(), self.dir.clone()] {
            let io = |error: io::Error| Fault::io(format!("`{}`", dir.display()), &error);
            for entry in fs::read_dir(&dir).map_err(io)?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let aside = name.starts_with('.') && name.ends_with(".new");
                if aside || (dir == self.copies_dir() && is_left_over(&name)) {
                    tracing::debug!(name, "left by a run that died; removed");
                    durable::remove(&entry.path()).map_err(io)?;
                }
            }
        }
        self.clear_drills(lock)?;
        crate::unpacked::clear(&self.copies_dir())
            .map_err(|error| Fault::io(format!("`{}`", self.copies_dir().display()), &error))?;
        let copies = self.copies()?;
        for copy in copies.iter().filter(|copy| copy.verdict().is_exact()) {
            if let Some((form, _)) = content::find(self, &copy.id) {
                self.remove_other_forms(&copy.id, form, lock)?;
            }
        }
        // Last: on a full disk, what was removed makes room for the lines.
        for manifest in copies.into_iter().filter_map(|copy| copy.manifest.ok()) {
            if !stored.contains(&manifest.copy) {
                crate::history::add(self, &crate::history::late_line(&manifest))?;
            }
        }
        Ok(())
    }

    /// Copies that history says were stored, whose manifest is gone though nobody removed them.
    pub fn missing_copies(&self) -> Result<Vec<String>, Fault> {
        let here: Vec<String> = self.copies()?.into_iter().map(|copy| copy.id).collect();
        Ok(crate::history::stored_copies(self)?.into_iter().filter(|id| !here.contains(id)).collect())
    }

    /// What the files of each copy take on the disk, by the ids; what a file shares with another counts for both.
    pub fn stored_bytes(&self) -> Result<BTreeMap<String, u64>, Fault> {
        let blocks = |file: &PathBuf| file.symlink_metadata().map_or(0, |metadata| metadata.blocks());
        let of_each =
            |(id, files): (String, Vec<PathBuf>)| (id, files.iter().map(blocks).sum::<u64>() * BLOCK_BYTES);
        Ok(self.files()?.into_iter().map(of_each).collect())
    }

    /// The number of the next proof of a copy, counted over all of them.
    pub fn next_proof(&self) -> Result<u64, Fault> {
        let proofs = self.copies()?.into_iter().filter_map(|copy| Some(copy.manifest.ok()?.proof));
        Ok(proofs.max().unwrap_or(0).saturating_add(1))
    }

    /// Whether any file is left that has the name of copy `id`.
    pub fn has_files_of(&self, id: &str) -> Result<bool, Fault> {
        let dir = self.copies_dir();
        let entries =
            fs::read_dir(&dir).map_err(|error| Fault::io(format!("`{}`", dir.display()), &error))?;
        let prefix = format!("{id}.");
        Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)))
    }

    /// The files of copy `id` that were set aside, by what they end in without `.rotten`.
    pub fn set_aside_of(&self, id: &str) -> Vec<&'static str> {
        let is_aside =
            |suffix: &&str| self.file(id, &format!("{suffix}.{ROTTEN}")).symlink_metadata().is_ok();
        SUFFIXES.into_iter().filter(is_aside).collect()
    }

    /// Sets the file of copy `id` that ends in `suffix` aside: it has rotted, and nobody is to take it for what it was. `None`:
    /// there is no such file, or one was set aside before, which is not replaced.
    pub fn set_aside(&self, id: &str, suffix: &str, _lock: &Lock) -> Result<Option<PathBuf>, Fault> {
        let aside = self.file(id, &format!("{suffix}.{ROTTEN}"));
        Ok(self.give_name(&self.file(id, suffix), &aside)?.then_some(aside))
    }

    /// Gives a file that was set aside its name back, unless there is another one of that name by now.
    pub fn take_back(&self, id: &str, suffix: &str, _lock: &Lock) -> Result<bool, Fault> {
        self.give_name(&self.file(id, &format!("{suffix}.{ROTTEN}")), &self.file(id, suffix))
    }

    fn give_name(&self, from: &Path, to: &Path) -> Result<bool, Fault> {
        match durable::rename_new(from, to).and_then(|()| durable::sync_dir(&self.copies_dir())) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {
                Ok(false)
            }
            Err(error) => Err(Fault::io(format!("`{}`", from.display()), &error)),
        }
    }

    /// Removes what drills that died left behind.
    pub fn clear_drills(&self, _lock: &Lock) -> Result<(), Fault> {
        let io = |error: io::Error| Fault::io(format!("`{}`", self.dir.display()), &error);
        for entry in fs::read_dir(&self.dir).map_err(io)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(DRILL) {
                fs::remove_dir_all(entry.path()).map_err(io)?;
            }
        }
        Ok(())
    }

    /// Writes the manifest of a copy: the commit of a new one, or a change of what is known of an old one.
    pub fn write_manifest(&self, manifest: &Manifest, _lock: &Lock) -> Result<(), Fault> {
        let file = self.file(&manifest.copy, "json");
        durable::replace(&file, &manifest.to_bytes(), 0o400)
            .map_err(|error| Fault::io(format!("`{}`", file.display()), &error))
    }

    /// Points `latest.db` at the newest good copy, if there is one and it is plain; a link that would lead nowhere, or to what is
    /// not the newest good copy, goes.
    pub(crate) fn link_latest(&self, _lock: &Lock) -> Result<(), Fault> {
        let link = self.dir.join("latest.db");
        let newest = self.copies()?.into_iter().rfind(StoredCopy::is_good);
        let is_packed = newest.is_some();
        let newest = newest.filter(|newest| self.file(&newest.id, Form::Plain.suffix()).exists());
        let Some(newest) = newest else {
            let misleads = fs::read_link(&link).is_ok() && (is_packed || !link.exists());
            let removed = if misleads { durable::remove(&link) } else { Ok(()) };
            return removed.map_err(|error| Fault::io(format!("`{}`", link.display()), &error));
        };
        let target = Path::new("copies").join(format!("{}.db", newest.id));
        if fs::read_link(&link).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let aside = self.dir.join(".latest.new");
        let linked = durable::remove(&aside)
            .and_then(|()| symlink(&target, &aside))
            .and_then(|()| fs::rename(&aside, &link));
        linked
            .and_then(|()| durable::sync_dir(&self.dir))
            .map_err(|error| Fault::io(format!("`{}`", link.display()), &error))
    }

    /// Removes a copy: its manifest first, so that no half copy is ever listed.
    pub fn remove(&self, id: &str, _lock: &Lock) -> Result<(), Fault> {
        let removed = durable::remove(&self.file(id, "json"))
            .and_then(|()| durable::sync_dir(&self.copies_dir()))
            .and_then(|()| SUFFIXES.iter().try_for_each(|suffix| durable::remove(&self.file(id, suffix))));
        removed.map_err(|error| Fault::io(format!("copy `{id}` cannot be removed"), &error))
    }

    /// Removes the forms of a copy other than `form`, which is in place for good; a delta needs no list of page hashes.
    pub fn remove_other_forms(&self, id: &str, form: Form, _lock: &Lock) -> Result<(), Fault> {
        let others = Form::ALL.into_iter().filter(|other| *other != form).map(Form::suffix);
        let list = (form == Form::Delta).then_some("pages");
        let others = others.chain(list).map(|suffix| self.file(id, suffix)).filter(|file| file.exists());
        let others: Vec<PathBuf> = others.collect();
        if others.is_empty() {
            return Ok(());
        }
        let removed = others.iter().try_for_each(|file| durable::remove(file));
        let removed = removed.and_then(|()| durable::sync_dir(&self.copies_dir()));
        removed.map_err(|error| Fault::io(format!("copy `{id}` is kept twice"), &error))
    }
}

/// The right to change a source's folder.
pub struct Lock {
    _file: File,
}

/// The sequence in an id such as `gym-000123-20261121T090000Z`; what leads out of a folder is no id.
pub(crate) fn sequence_of(id: &str) -> Option<u64> {
    let mut parts = id.rsplitn(3, '-');
    let (stamp, sequence, stem) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = sequence.len() >= 6 && sequence.bytes().all(|b| b.is_ascii_digit());
    (digits && stamp.len() == 16 && !stem.is_empty() && stem != "draft" && !id.contains('/'))
        .then(|| sequence.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_have_a_sequence() {
        assert_eq!(sequence_of("gym-000123-20261121T090000Z"), Some(123));
        assert_eq!(sequence_of("my-gym-2-1000000-20261121T090000Z"), Some(1_000_000));
        for other in [
            "draft-000123",
            "gym",
            "gym-12-20261121T090000Z",
            "../gym-000123-20261121T090000Z",
            "-000123-20261121T090000Z",
            "gym-000123-x",
        ] {
            assert_eq!(sequence_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_copy_takes_is_the_sum_of_its_files_whatever_their_endings() {
        let dir = tempfile::tempdir().unwrap();
        let source = SourceDir::create(dir.path().into(), "local:/a".into(), None, "a.b-c".into()).unwrap();
        assert!(source.stored_bytes().unwrap().is_empty());
        fs::create_dir(source.copies_dir()).unwrap();
        let id = "a.b-c-000001-20261121T090000Z";
        for suffix in ["db.gz", "pages", "json"] {
            fs::write(source.file(id, suffix), [7; 5000]).unwrap();
            File::open(source.file(id, suffix)).unwrap().sync_all().unwrap();
        }
        fs::write(source.copies_dir().join("draft"), [7; 5000]).unwrap();
        let stored = source.stored_bytes().unwrap();
        assert_eq!(stored.keys().collect::<Vec<_>>(), [id]);
        let blocks = |suffix| fs::metadata(source.file(id, suffix)).unwrap().blocks();
        assert_eq!(stored[id], ["db.gz", "pages", "json"].map(blocks).iter().sum::<u64>() * 512);
    }

    #[test]
    fn runs_that_died_between_two_steps_are_put_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let source =
            SourceDir::create(dir.path().into(), "local:/a/gym.db".into(), None, "gym".into()).unwrap();
        fs::create_dir(source.copies_dir()).unwrap();
        let lock = source.lock().unwrap();
        let ids: Vec<String> = (1..=3).map(|number| crate::manifest::tests::manifest(number).copy).collect();
        for id in &ids {
            fs::write(source.file(id, "db"), "rows").unwrap();
            fs::write(source.file(id, "pages"), "hashes").unwrap();
        }
        let say = |outcome: &str, id: &String| {
            crate::history::add(&source, &serde_json::json!({"outcome": outcome, "copy": id})).unwrap();
        };
        // The first died in its rotation, the second after its commit, the third lost its manifest long after.
        say("stored", &ids[0]);
        say("removed", &ids[0]);
        source.write_manifest(&crate::manifest::tests::manifest(2), &lock).unwrap();
        say("stored", &ids[2]);
        for aside in [source.dir().join(".latest.new"), source.copies_dir().join(".x.json.new")] {
            fs::write(aside, "").unwrap();
        }
        source.clear_drafts(false, &lock).unwrap();
        let kept = |id: &String| source.file(id, "db").exists();
        assert_eq!(ids.iter().map(kept).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(source.missing_copies().unwrap(), [ids[2].clone()]);
        let known = crate::history::stored_copies(&source).unwrap();
        assert!(known.contains(&ids[1]), "{known:?}");
        let left = |dir: &Path| fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name());
        let asides = left(source.dir()).chain(left(&source.copies_dir()));
        assert_eq!(asides.filter(|name| name.to_string_lossy().ends_with(".new")).count(), 0);
    }
}
