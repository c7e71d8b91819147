//! `puller restore --in-place`, `--undo`, and `--to` a database that is there or another machine.

use super::progress::Bar;
use super::restore::{Restore, proven};
use super::restore_report::{Report, doubt, exit_of, object};
use super::{differences, tell, text};
use crate::cli::Cli;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::restoring::There;
use pullback_shared::text::printable;
use puller::address::Address;
use puller::client::Client;
use puller::config::{Config, Hooks};
use puller::differences::Differences;
use puller::health;
use puller::hooks::{self, Moment};
use puller::judge::Verify;
use puller::manifest::Manifest;
use puller::proof;
use puller::pull::{Options, shape};
use puller::put_back::{self, Begun, Done, Folder, Ready, Safety, What};
use puller::restore_record::Record;
use puller::source_dir::{Lock, SourceDir, StoredCopy};
use puller::ssh::Door;
use puller::stopping::Stopped;
use puller::store::Store;
use puller::target::Target;
use puller::unpacked::Unpacked;
use puller::{clock, history};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Lines of a failed hook's output that are said.
const HOOK_LINES_MAX: usize = 3;

/// Tables of a copy that are named where one is asked for that it does not have.
const TABLES_NAMED_MAX: usize = 20;

/// Characters of the target's path that are shown.
const TARGET_CHARS_MAX: usize = 1024;

/// How long an agent may give no sign of life.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Restores `copy` of `source` at `address`.
pub(crate) fn run(
    cli: &Cli,
    asked: &Restore,
    config: &Config,
    store: &Store,
    source: SourceDir,
    copy: &StoredCopy,
    address: Address,
) -> Result<u8, Fault> {
    let name = config.table_of(&source).map(|(name, _)| name.to_owned());
    let door =
        super::door(&asked.door, config, name.as_deref(), config.timeout.map_or(TIMEOUT, |span| span.0))?;
    let by_hook = std::env::var_os(hooks::MARKER).is_some_and(|value| !value.is_empty());
    let run = PutBack {
        cli,
        asked,
        config,
        store,
        source,
        copy,
        address,
        door,
        is_in_place: asked.to.is_none(),
        hooks: if by_hook { Hooks::default() } else { config.hooks.clone() },
    };
    match asked.dry_run {
        true => run.plan(),
        false => run.restore(),
    }
}

pub(super) struct PutBack<'a> {
    pub(super) cli: &'a Cli,
    pub(super) asked: &'a Restore,
    pub(super) config: &'a Config,
    pub(super) store: &'a Store,
    /// Whose copy it is.
    pub(super) source: SourceDir,
    pub(super) copy: &'a StoredCopy,
    /// Where it goes.
    pub(super) address: Address,
    pub(super) door: Door,
    pub(super) is_in_place: bool,
    /// None where a hook started this program: hooks that restore would call each other for ever.
    pub(super) hooks: Hooks,
}

impl PutBack<'_> {
    /// `--dry-run`: what is there, in rows, and what would be there. Nothing is opened for writing.
    fn plan(&self) -> Result<u8, Fault> {
        let began = Instant::now();
        let file = proven(&self.source, self.copy, false)?;
        self.check_tables(&file)?;
        let mut client = Client::open(&self.address, &self.door)?;
        let database = client.info(true)?.databases.into_iter().next();
        let database =
            database.ok_or_else(|| Fault::new(Kind::Protocol, "the agent said nothing of the database"))?;
        let problem = database.problem.map(Fault::decode);
        let is_missing = problem.as_ref().is_some_and(|fault| fault.kind == Kind::Missing);
        let mut notes: Vec<String> = doubt(self.copy).into_iter().collect();
        if let Some(fault) = problem.filter(|_| !is_missing) {
            match self.asked.force {
                true => notes.push(format!("what is there would be set aside: {fault}")),
                false if put_back::is_of_source(fault.kind) => return Err(fault.hint(put_back::FORCE_HINT)),
                false => return Err(fault),
            }
        }
        if !is_missing && !self.is_in_place {
            self.known(&database.path)?;
        }
        let then = match self.manifest()?.page_count {
            0 => Vec::new(),
            _ => proof::count_rows(file.path())?,
        };
        let now: Vec<(String, i64)> =
            database.tables.into_iter().map(|table| (table.name, table.rows)).collect();
        let rows = differences::counted(&now, &then, &self.asked.tables);
        if self.cli.common.json {
            let mut line = object(&self.source, self.copy, "planned", &database.path);
            line["differences"] = rows.into();
            line["duration_seconds"] = began.elapsed().as_secs_f64().into();
            line["notes"] = notes.into();
            println!("{line}");
        } else if !self.cli.common.quiet {
            let (id, target) = (&self.copy.id, self.shown(&database.path));
            let what = match self.asked.tables.as_slice() {
                [] if is_missing => "would be written to".to_owned(),
                [] => "would replace".to_owned(),
                tables => format!("would give its {} to", printable(&tables.join(", "), 400)),
            };
            println!("{id}, {}, {what} `{target}`", text::bytes(self.manifest()?.bytes));
            print!("{}", differences::shown_counts(&rows));
            notes.iter().for_each(|note| self.note(note));
        }
        Ok(0)
    }

    fn restore(&self) -> Result<u8, Fault> {
        let (now, began) = (clock::now()?, Instant::now());
        let mut into = self.is_in_place.then(|| self.source.clone());
        let mut lock = into.as_mut().map(SourceDir::lock_anew).transpose()?;
        let file = proven(&self.source, self.copy, lock.is_none())?;
        self.check_tables(&file)?;
        let is_local = matches!(self.address, Address::Local(_));
        let client = Client::open(&self.address, &self.door)?;
        client.notes().iter().for_each(|note| self.note(note));
        let begun = Begun::ask(client, is_local)?;
        begun.target().finished.iter().for_each(|finished| self.note(finished));
        if begun.target().there == There::Nothing {
            return self.to_nothing(begun, &file, into.as_ref().zip(lock.as_ref()), now, began);
        }
        if !self.asked.yes && !is_somebody_there() {
            return Err(Fault::new(
                Kind::Usage,
                "a restore replaces what is there, and nobody is there to be asked",
            )
            .hint("look at it first with `--dry-run`; `--yes` goes on without asking"));
        }
        begun.may_begin(&self.what(&file), self.asked.force, self.asked.stop_cmd.is_some())?;
        let mut into = match into.take() {
            Some(into) => into,
            None => self.folder_of(&begun.target().path)?,
        };
        let lock = match lock.take() {
            Some(lock) => lock,
            None => into.lock_anew()?,
        };
        let before = Record::read(&into)?;
        self.note_open(before.as_ref());
        let options = self.options();
        let mut folder = Folder { source: &mut into, lock: &lock, options: &options, now };
        self.replace(begun, &file, &mut folder, before.as_ref(), began)
    }

    /// Where nothing is: what is there afterwards is a new file.
    fn to_nothing(
        &self,
        begun: Begun,
        file: &Unpacked,
        into: Option<(&SourceDir, &Lock)>,
        now: Timestamp,
        began: Instant,
    ) -> Result<u8, Fault> {
        let target = begun.target().path.clone();
        let bar = Bar::new(self.cli, &self.source.shown());
        let what = self.what(file);
        let done = begun.stage(&what, None, false, &bar).and_then(|ready| {
            stopped_for(self.asked, |is_stopped| {
                ready.apply(None, is_stopped, None, &mut |_, _, _| Ok(()), &bar)
            })
        });
        bar.clear();
        let (done, started) = done?;
        let report = Report {
            outcome: "restored",
            target,
            safety: None,
            differences: None,
            done: Some(done),
            notes: doubt(self.copy).into_iter().collect(),
            notes_said: 0,
            took: began.elapsed(),
        };
        if let Some((into, lock)) = into {
            let record = Record { ended_at: Some(clock::now()?), ..put_back::record(&what, None, now)? };
            record.write(into, lock)?;
            self.record_run(&report, into, now, started.as_ref().err());
        }
        self.say(&report, &self.source, started.as_ref().err())?;
        Ok(exit_of(started))
    }

    fn replace(
        &self,
        mut begun: Begun,
        file: &Unpacked,
        folder: &mut Folder<'_>,
        before: Option<&Record>,
        began: Instant,
    ) -> Result<u8, Fault> {
        let target = begun.target().path.clone();
        let bar = Bar::new(self.cli, &folder.source.shown());
        let safety = begun.save(folder, self.asked.force, &bar);
        bar.clear();
        let Safety { copy: safety, mut notes } = safety?;
        notes.extend(doubt(self.copy));
        let differences = match &safety {
            Some(safety) => self.differences(folder.source, safety, file, &mut notes)?,
            None => None,
        };
        let mut report = Report {
            outcome: "unchanged",
            target,
            safety: safety.as_ref().map(|copy| copy.id.clone()),
            differences,
            done: None,
            notes,
            notes_said: 0,
            took: began.elapsed(),
        };
        let is_same = safety.as_ref().map(shape).transpose()? == Some(shape(self.copy)?);
        if is_same {
            self.close(before, folder)?;
            self.say(&report, folder.source, None)?;
            return Ok(0);
        }
        if !self.agreed(&mut report)? {
            report.outcome = "declined";
            self.say(&report, folder.source, None)?;
            return Ok(Kind::Target.exit());
        }
        // The word is not given yet: there is nothing to undo, and `--undo` would be that of the restore before.
        let unchanged = |fault: &Fault| self.record_failed(&report, folder.source, fault);
        let again = self
            .run_hook(Moment::BeforeRestore, &report, folder.source)
            .map_err(|why| Fault::new(Kind::Target, format!("{why}; nothing was changed")))
            .and_then(|()| self.again(file))
            .inspect_err(unchanged)?;
        let what = self.what(again.as_ref().unwrap_or(file));
        let base = safety.as_ref().map(|copy| (&*folder.source, copy));
        let ready = begun.stage(&what, base, safety.is_none(), &bar);
        bar.clear();
        let ready = ready.inspect_err(unchanged)?;
        let done = self.apply(ready, &what, safety, folder, before, &bar);
        bar.clear();
        report.took = began.elapsed();
        let (done, started) = done.map_err(|fault| self.failed(fault, folder.source, &report))?;
        report.outcome = "restored";
        report.safety = done.safety.clone();
        report.notes.extend(done.notes.iter().cloned());
        report.done = Some(done);
        let liked = match started {
            Ok(()) => self.is_liked(&report, folder.source),
            Err(why) => Err(disliked(why.message, folder.source)),
        };
        self.record_run(&report, folder.source, folder.now, liked.as_ref().err());
        self.say(&report, folder.source, liked.as_ref().err())?;
        Ok(exit_of(liked))
    }

    /// The copy once more, if `file` is gone: while a person was asked, another run may have packed it, or removed it.
    fn again(&self, file: &Unpacked) -> Result<Option<Unpacked>, Fault> {
        match file.path().exists() {
            true => Ok(None),
            false => proven(&self.source, self.copy, false).map(Some),
        }
    }

    /// From the record that a restore begins to the one that it ended, with the application stopped in between if that was asked;
    /// and whether that was started again.
    fn apply(
        &self,
        ready: Ready,
        what: &What<'_>,
        safety: Option<StoredCopy>,
        folder: &mut Folder<'_>,
        before: Option<&Record>,
        bar: &Bar,
    ) -> Result<(Done, Result<(), Fault>), Fault> {
        let mut record = put_back::record(what, safety.as_ref().map(|copy| copy.id.as_str()), folder.now)?;
        record.to_start = self.asked.start_cmd.clone();
        record.is_undo = self.asked.undo;
        record.write(folder.source, folder.lock)?;
        let mut done = stopped_for(self.asked, |is_stopped| {
            let mut newer = |source: &SourceDir, lock: &Lock, id: &str| {
                record.safety = Some(id.to_owned());
                record.write(source, lock)
            };
            ready.apply(safety, is_stopped, Some(&mut *folder), &mut newer, bar)
        });
        match &mut done {
            Ok((done, started)) => {
                record.ended_at = Some(clock::now()?);
                if started.is_ok() {
                    record.to_start = None;
                }
                record.safety.clone_from(&done.safety);
                record.quarantine.clone_from(&done.restored.quarantine);
                // Open, it leads back as well, and no copy that it names goes.
                if let Err(fault) = record.write(folder.source, folder.lock) {
                    done.notes.push(format!("that the restore has ended is not written down: {fault}"));
                }
            }
            // Nothing was changed, and the way back is still that of the restore before.
            Err(fault) if has_changed_nothing(fault.kind) => match before {
                Some(before) => before.write(folder.source, folder.lock)?,
                None => Record::remove(folder.source, folder.lock)?,
            },
            Err(_) => {}
        }
        done
    }

    /// What is there is what a restore that was cut was to bring, or to replace: the record of that one ends here.
    fn close(&self, before: Option<&Record>, folder: &Folder<'_>) -> Result<(), Fault> {
        let is_known = |record: &&Record| {
            record.is_open() && (record.copy == self.copy.id || record.safety.as_ref() == Some(&self.copy.id))
        };
        let Some(record) = before.filter(is_known) else { return Ok(()) };
        let record = Record { ended_at: Some(clock::now()?), to_start: None, ..record.clone() };
        record.write(folder.source, folder.lock)
    }

    /// A name that the copy does not have is said before anything is saved or stopped.
    fn check_tables(&self, file: &Unpacked) -> Result<(), Fault> {
        let asked = &self.asked.tables;
        if asked.is_empty() {
            return Ok(());
        }
        let tables = match self.manifest()?.page_count {
            0 => Vec::new(),
            _ => proof::tables(file.path())?,
        };
        let is_there = |name: &String| tables.iter().any(|table| table.eq_ignore_ascii_case(name));
        let Some(missing) = asked.iter().find(|name| !is_there(name)) else { return Ok(()) };
        let (missing, id) = (printable(missing, 100), &self.copy.id);
        let names: Vec<String> = tables.iter().map(|name| format!("`{}`", printable(name, 60))).collect();
        let hint = match names.get(TABLES_NAMED_MAX..).map_or(0, <[String]>::len) {
            0 if names.is_empty() => "it has no tables".to_owned(),
            0 => format!("it has {}", names.join(", ")),
            more => format!("it has {}, and {more} more", names[..TABLES_NAMED_MAX].join(", ")),
        };
        Err(Fault::new(Kind::Unknown, format!("{id} has no table `{missing}`; nothing was changed"))
            .hint(hint))
    }

    fn what<'a>(&'a self, file: &'a Unpacked) -> What<'a> {
        What { source: &self.source, copy: self.copy, tables: &self.asked.tables, file }
    }

    pub(super) fn manifest(&self) -> Result<&Manifest, Fault> {
        self.copy.manifest.as_ref().map_err(|why| puller::unpacked::rotten(&self.source, self.copy, why))
    }

    /// How the safety copy is pulled: nothing goes for it, and nothing is packed while copies are being read.
    fn options(&self) -> Options {
        Options {
            verify: self.config.verify.unwrap_or(Verify::Auto),
            full: false,
            rules: None,
            pack: None,
            expect: std::collections::BTreeMap::new(),
            path: None,
            is_safety: true,
            imported: None,
        }
    }

    /// The folder in the store of a target that is not the source itself.
    fn folder_of(&self, path: &str) -> Result<SourceDir, Fault> {
        let (target, known) = self.known(path)?;
        match known {
            Some(known) => Ok(known),
            None => self.store.create(&target.address, target.name.as_deref()),
        }
    }

    /// The target at `path`, as its agent calls it, and its folder, if it has one: without `--force`, only where the copy is of
    /// that source, as the last one that was restored there, or the target was never pulled.
    fn known(&self, path: &str) -> Result<(Target, Option<SourceDir>), Fault> {
        let address = match &self.address {
            Address::Local(_) => Address::Local(path.into()),
            address => address.clone().at(path),
        };
        let target = Target::of(address, self.config);
        let known = target.folder(self.store)?;
        let is_other = |known: &&SourceDir| {
            // What restores alone have to do with, or was restored there before from the same source, may be so again.
            let was_pulled =
                || known.copies().map_or(true, |copies| copies.iter().any(|copy| !copy.is_safety()));
            let before = || Record::read(known).ok().flatten();
            known.dir() != self.source.dir()
                && was_pulled()
                && before().is_none_or(|record| record.from != self.source.shown())
        };
        if let Some(other) = known.as_ref().filter(|known| is_other(known) && !self.asked.force) {
            return Err(Fault::new(
                Kind::Target,
                format!(
                    "`{}` is the source `{}`, and the copy is of `{}`; nothing was changed",
                    printable(path, TARGET_CHARS_MAX),
                    other.shown(),
                    self.source.shown()
                ),
            )
            .hint("`--force` replaces it all the same"));
        }
        Ok((target, known))
    }

    fn differences(
        &self,
        into: &SourceDir,
        safety: &StoredCopy,
        file: &Unpacked,
        notes: &mut Vec<String>,
    ) -> Result<Option<Differences>, Fault> {
        let is_empty =
            |copy: &StoredCopy| copy.manifest.as_ref().is_ok_and(|manifest| manifest.page_count == 0);
        if is_empty(safety) || is_empty(self.copy) {
            return Ok(None);
        }
        let now = Unpacked::of(into, safety)?;
        match puller::differences::between(now.path(), file.path(), &|_| {}) {
            Ok(mut differences) => {
                differences.only(&self.asked.tables);
                Ok(Some(differences))
            }
            Err(fault) => {
                notes.push(format!("what differs cannot be told: {fault}"));
                Ok(None)
            }
        }
    }

    /// Runs the hook of `moment`; why it came to nothing, if it did.
    fn run_hook(&self, moment: Moment, report: &Report, into: &SourceDir) -> Result<(), String> {
        let address = self.address.to_string();
        let json = self.json(report, into, None);
        let facts = hooks::Facts { address: &address, report: &json, end: None, is_test: false };
        let Some(ran) = hooks::run(&self.hooks, moment, &facts) else { return Ok(()) };
        let said = tell::last_lines(&ran, HOOK_LINES_MAX).join(" | ");
        ran.result.map_err(|why| {
            let said = if said.is_empty() { said } else { format!("; it said: {said}") };
            format!("the hook `{moment}` failed: {why}{said}")
        })
    }

    /// Whether the hook and the URL of after a restore find that all is well.
    fn is_liked(&self, report: &Report, into: &SourceDir) -> Result<(), Fault> {
        let hook = self.run_hook(Moment::AfterRestore, report, into);
        let liked = hook.and_then(|()| match self.hooks.health() {
            Some((url, wait)) => health::healthy(url, wait),
            None => Ok(()),
        });
        liked.map_err(|why| disliked(format!("the copy is in place, and {why}"), into))
    }

    /// A restore that failed, with the way back where something may have been replaced.
    fn failed(&self, fault: Fault, into: &SourceDir, report: &Report) -> Fault {
        self.record_failed(report, into, &fault);
        match (has_changed_nothing(fault.kind), &report.safety) {
            (false, Some(safety)) => {
                let undo = format!(
                    "what was there before is copy {safety}; `puller restore --undo {}` brings it back, if anything was replaced",
                    into.shown()
                );
                let hint = if fault.hint.is_empty() { undo } else { format!("{}; {undo}", fault.hint) };
                fault.hint(hint)
            }
            _ => fault,
        }
    }

    fn record_failed(&self, report: &Report, into: &SourceDir, fault: &Fault) {
        self.record_run(report, into, clock::now().unwrap_or_default(), Some(fault));
    }

    fn record_run(&self, report: &Report, into: &SourceDir, at: Timestamp, fault: Option<&Fault>) {
        let mut line = self.json(report, into, fault);
        line["at"] = clock::rfc3339(at).into();
        line["run"] = "restore".into();
        if let Err(fault) = history::add(into, &line) {
            eprintln!("warning: the restore does not stand in the history: {fault}");
        }
    }
}

/// Does `work` with the application stopped, if that was asked, and starts it again whatever came of it. Where only that fails,
/// the work is done all the same.
pub(crate) fn stopped_for<T>(
    asked: &Restore,
    work: impl FnOnce(bool) -> Result<T, Fault>,
) -> Result<(T, Result<(), Fault>), Fault> {
    let start = asked.start_cmd.as_deref();
    let stopped = asked.stop_cmd.as_deref().map(|stop| Stopped::stop(stop, start)).transpose()?;
    let done = work(stopped.is_some());
    let started = stopped.map_or(Ok(()), Stopped::start);
    let in_place = |fault: Fault| {
        let what = format!("the copy is in place, and {fault}");
        Fault::new(fault.kind, what).hint(fault.hint)
    };
    match (done, started) {
        (Err(fault), Err(also)) => Err(Fault::new(fault.kind, format!("{fault}; {also}")).hint(fault.hint)),
        (done, started) => done.map(|done| (done, started.map_err(in_place))),
    }
}

/// The copy is in place, and what was to come after that failed.
fn disliked(what: String, into: &SourceDir) -> Fault {
    Fault::new(Kind::Target, what)
        .hint(format!("`puller restore --undo {}` brings back what was there before", into.shown()))
}

fn is_somebody_there() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Whether a restore that failed so has replaced nothing. Of all else nobody knows.
fn has_changed_nothing(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Busy | Kind::NoSpace | Kind::Target | Kind::Refused | Kind::Locked | Kind::Usage | Kind::Config
    )
}
