//! One restore at the agent, from the puller's request to what was read back: what is there, what is to be there, and the swap.

use crate::aside::{Aside, with_suffix};
use crate::call::{Inbound, Outbound};
use crate::collector::{Collector, Outlet};
use crate::live::{Copied, Live, Written};
use crate::relay;
use crate::room::disk;
use crate::settings::Settings;
use crate::source::{self, Hold};
use crate::stage::{self, Staged};
use crate::swap::{self, Looks, SIDES};
use crate::tables;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::{Header, Journal};
use pullback_shared::pb;
use pullback_shared::restoring::{
    self, Apply, Content, Facts, MOVED_MAX, Reply, Request, Restored, STORE_MARKER, Table, Target, There,
};
use pullback_shared::snapshot::SnapshotId;
use pullback_shared::text::printable;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a puller may take for what lies between two of its messages: another pull, a person's answer.
const PERSON_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The same while writers are kept out for it.
const FROZEN_WAIT: Duration = Duration::from_secs(120);

/// What the puller says and hears.
pub struct Call<'a> {
    /// From it.
    pub inbound: &'a mut Inbound<pb::RestoreRequest>,
    /// To it.
    pub outbound: &'a Outbound<pb::RestoreReply>,
    /// It sits in this very process, and may name files.
    pub is_local: bool,
}

/// Serves one restore of the database at `path`.
pub fn restore(settings: &Settings, path: &Path, call: &mut Call<'_>) -> Result<(), Fault> {
    let path = place_of(path)?;
    if let Some(store) = path.ancestors().skip(1).find(|dir| dir.join(STORE_MARKER).exists()) {
        return Err(restoring::within_store(&path, store));
    }
    let finished = swap::finish_begun(&path)?;
    if settings.state_dir.is_some() {
        stage::sweep(&settings.temp_dir())?;
    }
    let finished = finished.map(|finished| {
        let quarantine = printable(&finished.quarantine.to_string_lossy(), 1024);
        match finished.is_replaced {
            true => format!(
                "an earlier restore that was cut was completed; what was there before is in `{quarantine}`"
            ),
            false => "an earlier restore that was cut was taken back".to_owned(),
        }
    });
    let (there, live) = look(settings, &path)?;
    let is_database = live.is_some();
    let dir = path.parent().unwrap_or(Path::new("/"));
    let (disk_free, _) = disk(dir).map_err(|error| Fault::io(format!("`{}`", dir.display()), &error))?;
    let shown = path.to_string_lossy().into_owned();
    call.outbound.say(Reply::Target(Box::new(Target { path: shown, there, disk_free, finished })))?;
    let Request::Content(content) = call.inbound.next_request(PERSON_WAIT)? else {
        return Err(broken("something else where the content was due"));
    };
    let restore = Restore { settings, path, content };
    match live {
        Some(live) => restore.over_database(live, call),
        None => restore.in_new_file(is_database, call),
    }
}

/// The path that is meant: canonical, but for a last part that is not there.
fn place_of(path: &Path) -> Result<PathBuf, Fault> {
    if path.symlink_metadata().is_ok() {
        return source::resolved(path).map_err(|error| source::not_found(path, &error));
    }
    if let Ok(found) = source::resolved(path) {
        return Ok(found);
    }
    let no_name =
        || Fault::new(Kind::Target, format!("`{}` names no file", printable(&path.to_string_lossy(), 1024)));
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(no_name)?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let parent = source::resolved(parent).map_err(|error| {
        Fault::io(format!("the folder `{}`", printable(&parent.to_string_lossy(), 1024)), &error)
            .hint("make the folder first, as the user the application runs as")
    })?;
    Ok(parent.join(name))
}

/// What is at `path`.
fn look(settings: &Settings, path: &Path) -> Result<(There, Option<Live>), Fault> {
    if path.symlink_metadata().is_err() {
        return Ok(match left_over(path) {
            None => (There::Nothing, None),
            Some(left) => {
                let left = printable(&left.to_string_lossy(), 1024);
                (
                    There::Unreadable(Fault::new(
                        Kind::Target,
                        format!(
                            "`{left}` of an older database is there: SQLite would replay it into the copy"
                        ),
                    )),
                    None,
                )
            }
        });
    }
    match Live::open(path, settings.hold) {
        Ok(live) => Ok((There::Database(live.facts().clone()), Some(live))),
        Err(fault) if matches!(fault.kind, Kind::NotADatabase | Kind::Unreadable) => {
            Ok((There::Unreadable(fault), None))
        }
        Err(fault) => Err(fault),
    }
}

struct Restore<'a> {
    settings: &'a Settings,
    path: PathBuf,
    content: Content,
}

impl Restore<'_> {
    /// Where there is no database that SQLite can open.
    fn in_new_file(&self, is_database: bool, call: &mut Call<'_>) -> Result<(), Fault> {
        let aside = Aside::beside(&self.path)?;
        match &self.content.local_path {
            Some(from) if call.is_local => stage::copy_local(Path::new(from), aside.file(), &self.content)?,
            Some(_) => return Err(broken("a path of the puller's machine")),
            None => {
                self.check_disk(self.content.geometry.bytes())?;
                call.outbound.say(Reply::Want { delta: false })?;
                stage::fill(aside.file(), &self.content, None, call.inbound)?;
            }
        }
        call.outbound.say(Reply::Staged)?;
        let apply = self.apply(call, PERSON_WAIT)?;
        self.swap(aside, &apply, is_database, call)
    }

    /// Where there is one.
    fn over_database(&self, mut live: Live, call: &mut Call<'_>) -> Result<(), Fault> {
        self.check_room(live.facts())?;
        let staged = self.stage(live.path(), call)?;
        call.outbound.say(Reply::Staged)?;
        let mut apply = self.apply(call, PERSON_WAIT)?;
        if apply.safety.is_none() {
            drop(live);
            let aside = Aside::beside(&self.path)?;
            stage::copy_local(staged.path(), aside.file(), &self.content)?;
            return self.swap(aside, &apply, true, call);
        }
        let encoding = encoding_of(staged.path())?;
        let must_be_stopped = live.facts().must_be_stopped(self.content.geometry, encoding);
        let mut is_due = false;
        if let Some(why) = must_be_stopped.filter(|_| apply.tables.is_empty()) {
            if !apply.stopped {
                return Err(why);
            }
            live.become_sole()?;
            is_due = true;
        }
        for tried in 0..=MOVED_MAX {
            if is_due {
                // The first time much may have to be copied: writers wait only for what comes after it.
                let wait = if tried == 1 { PERSON_WAIT } else { FROZEN_WAIT };
                if tried == 1 { live.look() } else { live.freeze() }?;
                call.outbound.say(Reply::Moved)?;
                apply = self.apply(call, wait)?;
            }
            let done = match apply.tables.is_empty() {
                true => self.whole(&mut live, &staged, call)?,
                false => self.tables(&mut live, &staged, &apply.tables)?,
            };
            if let Some((tables, copied)) = done {
                return self.prove(live, copied, tables, call);
            }
            is_due = true;
        }
        Err(Fault::new(
            Kind::Busy,
            format!(
                "somebody committed each of the {MOVED_MAX} times that the database was about to be replaced"
            ),
        )
        .hint("stop the application for the time of the restore: `--stop-cmd`, `--start-cmd`"))
    }

    fn stage(&self, target: &Path, call: &mut Call<'_>) -> Result<Staged, Fault> {
        if let Some(path) = &self.content.local_path {
            return match call.is_local {
                true => Ok(Staged::Local(path.into())),
                false => Err(broken("a path of the puller's machine")),
            };
        }
        let dir = self.settings.temp_dir();
        let base = stage::base_view(self.settings, target, &self.content)?;
        let file = stage::file_in(&dir)?;
        self.settings.room().check(self.content.geometry.bytes())?;
        call.outbound.say(Reply::Want { delta: base.is_some() })?;
        stage::fill(file.as_file(), &self.content, base, call.inbound)?;
        Ok(Staged::InState(file))
    }

    fn apply(&self, call: &mut Call<'_>, wait: Duration) -> Result<Apply, Fault> {
        match call.inbound.next_request(wait)? {
            Request::Apply(apply) => Ok(apply),
            _ => Err(broken("something else where the word to put it in place was due")),
        }
    }

    /// The stage comes first. The `-wal` or the journal grows to the whole database before anything else may go, and the database
    /// itself may grow.
    fn check_room(&self, facts: &Facts) -> Result<(), Fault> {
        let (new, old) = (self.content.geometry.bytes(), facts.geometry.bytes());
        let log = match facts.journal {
            Journal::Wal => new,
            Journal::Rollback => old,
        };
        let is_staged_here =
            self.content.local_path.is_none() && self.is_on_disk_of(&self.settings.temp_dir());
        let stage = if is_staged_here { new } else { 0 };
        self.check_disk(stage + log + new.saturating_sub(old))
    }

    /// Whether `dir` is on the same file system as the target.
    fn is_on_disk_of(&self, dir: &Path) -> bool {
        let of = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
        of(dir) == of(self.dir())
    }

    /// The folder of the target.
    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn check_disk(&self, needed: u64) -> Result<(), Fault> {
        let dir = self.dir();
        let (free, _) = disk(dir).map_err(|error| Fault::io(format!("`{}`", dir.display()), &error))?;
        match needed <= free {
            true => Ok(()),
            false => Err(Fault::new(
                Kind::NoSpace,
                format!("the restore needs {needed} bytes in `{}`, and {free} are free; nothing was changed", dir.display()),
            )
            .hint("free some room there; SQLite keeps the old pages or the new ones beside the database until all is written")),
        }
    }

    /// The whole database; `None` where somebody committed since the safety copy.
    fn whole(
        &self,
        live: &mut Live,
        staged: &Staged,
        call: &Call<'_>,
    ) -> Result<Option<(Vec<Table>, Copied)>, Fault> {
        if self.content.geometry.page_count == 0 {
            return Err(Fault::new(
                Kind::Target,
                "the copy is of an empty file, which no database can become again; nothing was changed",
            )
            .hint("restore it to a new file, or choose another copy"));
        }
        let progress =
            |pages_written, page_count| call.outbound.mention(Reply::Writing { pages_written, page_count });
        Ok(match live.replace(staged.path(), progress)? {
            Written::Copied(copied) => Some((Vec::new(), *copied)),
            Written::Moved => None,
        })
    }

    /// Only `names`; `None` where somebody committed since the safety copy.
    fn tables(
        &self,
        live: &mut Live,
        staged: &Staged,
        names: &[String],
    ) -> Result<Option<(Vec<Table>, Copied)>, Fault> {
        let mut moved = false;
        let replaced = live.with_writer(|writer, has_moved| {
            tables::replace(writer, staged.path(), names, &mut || {
                moved = has_moved()?;
                match moved {
                    true => Err(Fault::new(Kind::Busy, "somebody committed since the safety copy")),
                    false => Ok(()),
                }
            })
        });
        match replaced {
            Err(_) if moved => Ok(None),
            Err(fault) => Err(fault),
            Ok((replaced, copied)) => {
                let table = |table: tables::Replaced| Table {
                    name: table.table,
                    rows_before: table.rows_before,
                    rows: table.rows,
                };
                Ok(Some((replaced.into_iter().map(table).collect(), copied)))
            }
        }
    }

    /// Reads back what is there now.
    fn prove(&self, live: Live, copied: Copied, tables: Vec<Table>, call: &Call<'_>) -> Result<(), Fault> {
        let pinned = copied.pinned(|hold| name_of(hold, &self.settings.temp_dir()));
        let (snapshot, moved_on) = pinned.map_err(not_read_back)?;
        let held_micros = u64::try_from(copied.held.as_micros()).unwrap_or(u64::MAX);
        let journal = copied.settle();
        drop(live);
        let restored = Restored { snapshot, moved_on, journal, quarantine: None, tables, held_micros };
        call.outbound.say(Reply::Restored(restored))
    }

    /// Gives the proven file `aside` the target's name; what is there and cannot be opened is set aside.
    fn swap(&self, aside: Aside, apply: &Apply, is_database: bool, call: &Call<'_>) -> Result<(), Fault> {
        if !apply.tables.is_empty() {
            return Err(Fault::new(
                Kind::Target,
                "there is no database that single tables could be restored into",
            )
            .hint("restore the whole copy, without `--table`"));
        }
        let dir = self.dir();
        let parent = dir.metadata().map_err(|error| Fault::io(format!("`{}`", dir.display()), &error))?;
        let owner = rustix::process::geteuid()
            .is_root()
            .then(|| self.path.metadata().map_or((parent.uid(), parent.gid()), |old| (old.uid(), old.gid())));
        let journal = self.content.journal;
        let looks = Looks { journal, mode: self.content.mode, owner };
        let is_there = is_database || self.path.symlink_metadata().is_ok() || left_over(&self.path).is_some();
        let quarantine = match (is_there, apply.set_aside) {
            (false, _) => {
                swap::place(aside, &self.path, &looks)?;
                None
            }
            (true, true) => Some(swap::replace(aside, &self.path, &looks, &self.stamp())?),
            (true, false) => {
                return Err(Fault::new(
                    Kind::Target,
                    format!(
                        "`{}` is there and cannot be saved first; nothing was changed",
                        self.path.display()
                    ),
                )
                .hint(
                    "`--force` sets it aside, with all that belongs to it, and puts the copy in its place",
                ));
            }
        };
        // It was read back before it got the name: to open it once more would leave a `-wal` beside it.
        let snapshot = self.content.snapshot;
        let quarantine = quarantine.map(|dir| dir.to_string_lossy().into_owned());
        let restored =
            Restored { snapshot, moved_on: false, journal, quarantine, tables: Vec::new(), held_micros: 0 };
        call.outbound.say(Reply::Restored(restored))
    }

    /// A name for what is set aside that no other restore gives: of the content that came in its place.
    fn stamp(&self) -> String {
        self.content.snapshot.short()
    }
}

/// What would be replayed into a new file at `path`.
fn left_over(path: &Path) -> Option<PathBuf> {
    let mut beside = SIDES.into_iter().map(|suffix| with_suffix(path, suffix));
    beside.find(|path| path.symlink_metadata().is_ok())
}

/// The name of the state that `hold` holds.
fn name_of(hold: Hold<'_>, temp_dir: &Path) -> Result<SnapshotId, Fault> {
    let collector = Collector::new(hold.geometry(), None, Outlet::Nowhere, None, temp_dir);
    let (sink, collecting) = relay::start(collector, hold.geometry())?;
    hold.read_into(sink)?;
    let mut collector = collecting.finish()?;
    collector.finish()?;
    collector.snapshot_id()
}

/// The text encoding of the private database file at `path`; `None` for one without pages.
fn encoding_of(path: &Path) -> Result<Option<&'static str>, Fault> {
    let header = File::open(path).and_then(|mut file| Header::read_from(&mut file));
    let header = header.map_err(|error| Fault::io(format!("`{}`", path.display()), &error))?;
    Ok(header.map(|header| header.encoding_word()))
}

/// Whatever it was, it came after something had been replaced: nobody may take it for a restore that changed nothing.
fn not_read_back(fault: Fault) -> Fault {
    Fault::new(Kind::Unproven, format!("the copy was put in place, and could not be read back: {fault}"))
        .hint(fault.hint)
}

fn broken(what: &str) -> Fault {
    Fault::new(Kind::Protocol, format!("the puller broke the protocol: {what}"))
        .hint("update both programs to the same release")
}
