//! `puller import`: the copies of an older script become copies of a source, of the times when they were made.

use super::progress::Bar;
use super::text;
use crate::cli::Cli;
use clap::builder::BoolishValueParser;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use puller::config::Config;
use puller::import::{self, Checked, Desk, Place};
use puller::manifest::Manifest;
use puller::named_time::{self, TimeFrom};
use puller::source_dir::{SourceDir, StoredCopy};
use puller::store::Store;
use puller::{clock, history};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What lies beside a database and belongs to it.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What `puller import` is asked.
#[derive(clap::Args)]
pub(crate) struct Import {
    /// Database files, or such files packed by gzip; they are read and stay as they are
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Call the source N; `puller pull ADDRESS --name N` goes on with it
    #[arg(long, value_name = "N", env = "PULLER_NAME")]
    name: String,
    /// The times in the names are in UTC, not in local time
    #[arg(long, env = "PULLER_UTC", value_parser = BoolishValueParser::new())]
    utc: bool,
    /// Only check the files, and say what would be stored
    #[arg(short = 'n', long, env = "PULLER_DRY_RUN", value_parser = BoolishValueParser::new())]
    dry_run: bool,
}

/// A file, and what came of it.
struct Tried {
    file: PathBuf,
    taken_at: Option<(Timestamp, TimeFrom)>,
    result: Result<Came, Fault>,
}

/// What a file came to.
enum Came {
    Planned(Checked),
    /// The copy with this id has been there.
    There(String, Checked),
    Stored {
        manifest: Box<Manifest>,
        is_new: bool,
        findings: Vec<String>,
        checked: Checked,
    },
}

pub(crate) fn run(cli: &Cli, asked: &Import) -> Result<u8, Fault> {
    if !puller::address::is_name(&asked.name) {
        let shown = printable(&asked.name, 200);
        return Err(Fault::new(Kind::Usage, format!("`{shown}`: {}", puller::address::NAME_RULE)));
    }
    let now = clock::now()?;
    let config = super::read_config(cli)?;
    let report = Report { cli, name: asked.name.clone(), now, notes: BTreeMap::new() };
    match asked.dry_run {
        true => plan(cli, asked, &config, report),
        false => take_over(cli, asked, &config, report),
    }
}

/// Where private copies are made in `store`.
fn private(store: &Store) -> PathBuf {
    store.root().join(".import")
}

/// `--dry-run`: no store is made, and no source.
fn plan(cli: &Cli, asked: &Import, config: &Config, mut report: Report<'_>) -> Result<u8, Fault> {
    let store = Store::open(&super::store_path(cli, config)).ok();
    let dir = tempfile::tempdir().map_err(|error| Fault::io("a directory for temporary files", &error))?;
    // The store's disk has room for databases; that for temporary files may not.
    let desk = Desk::open(&store.as_ref().map_or(dir.path().to_owned(), private))?;
    let source = store.map(|store| known(&store, &asked.name)).transpose()?.flatten();
    let copies = source.as_ref().map_or(Ok(Vec::new()), SourceDir::copies)?;
    let (sound, mut tried) = check_all(asked, config, &desk, report.now);
    for (checked, place) in placed(sound, &copies, &asked.name)? {
        let came = match place {
            Place::There(id) => Came::There(id, checked.clone()),
            _ => Came::Planned(checked.clone()),
        };
        tried.push(Tried::of(&checked, Ok(came)));
    }
    tried.iter().for_each(|tried| report.say(tried, source.as_ref()));
    report.say_notes();
    Ok(exit(&tried))
}

fn take_over(cli: &Cli, asked: &Import, config: &Config, mut report: Report<'_>) -> Result<u8, Fault> {
    let store = super::open_or_create_store(cli, config)?;
    let desk = Desk::open(&private(&store))?;
    let source = known(&store, &asked.name)?;
    let (sound, mut tried) = check_all(asked, config, &desk, report.now);
    if sound.is_empty() {
        tried.iter().for_each(|tried| report.say(tried, source.as_ref()));
        return Ok(exit(&tried));
    }
    let mut source = source.map_or_else(|| store.create_imported(&asked.name), Ok)?;
    // From here on no pull puts a newer copy before them.
    let lock = source.lock_anew()?;
    let placed = placed(sound, &source.copies()?, &source.shown())?;
    tried.iter().for_each(|tried| report.say(tried, Some(&source)));
    let pack = super::pack(config, config.table_of(&source).map(|(_, settings)| settings));
    let bar = Bar::new(cli, &source.shown());
    for (checked, place) in placed {
        let result = match place {
            Place::There(id) => Ok(Came::There(id, checked.clone())),
            _ => {
                desk.store(&mut source, &lock, &checked, pack, report.now, &bar).map(|pulled| Came::Stored {
                    manifest: Box::new(pulled.manifest),
                    is_new: pulled.stored,
                    findings: pulled.findings,
                    checked: with_notes(checked.clone(), pulled.notes),
                })
            }
        };
        bar.clear();
        let one = Tried::of(&checked, result);
        report.say(&one, Some(&source));
        tried.push(one);
    }
    report.end(&source, &tried);
    report.say_notes();
    Ok(exit(&tried))
}

/// Where each of `sound` belongs among `copies`; one that has no place there is an error, before anything is stored.
fn placed(sound: Vec<Checked>, copies: &[StoredCopy], name: &str) -> Result<Vec<(Checked, Place)>, Fault> {
    let place = |checked: Checked| match import::place(copies, checked.taken_at, checked.snapshot) {
        Place::Before(newer) => Err(no_place(name, &checked, &newer)),
        place => Ok((checked, place)),
    };
    sound.into_iter().map(place).collect()
}

fn with_notes(mut checked: Checked, notes: Vec<String>) -> Checked {
    checked.notes.extend(notes);
    checked
}

/// The source that is called `name`, if there is one.
fn known(store: &Store, name: &str) -> Result<Option<SourceDir>, Fault> {
    match store.named(name) {
        Ok(source) => Ok(Some(source)),
        Err(fault) if fault.kind == Kind::Unknown => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Checks all files; gives the sound ones in the order of their times, and what is wrong with the others.
fn check_all(asked: &Import, config: &Config, desk: &Desk, now: Timestamp) -> (Vec<Checked>, Vec<Tried>) {
    let local = || super::zone(None, config, config.about(Some(&asked.name)));
    let zone = if asked.utc { TimeZone::UTC } else { local() };
    let (mut sound, mut wrong) = (Vec::new(), Vec::new());
    for file in asked.files.iter().filter(|file| !is_companion(file)) {
        let taken_at = import::modified(file).map(|modified| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            named_time::taken_at(&name, modified, &zone)
        });
        let checked = taken_at.clone().and_then(|(at, from)| match at > now {
            true => Err(Fault::new(
                Kind::Usage,
                format!("`{}` would be of {}, which is yet to come", shown(file), clock::rfc3339(at)),
            )
            .hint("give it a name with the right time")),
            false => desk.check(file, at, from),
        });
        match checked {
            Ok(checked) => sound.push(checked),
            Err(fault) => {
                wrong.push(Tried { file: file.clone(), taken_at: taken_at.ok(), result: Err(fault) });
            }
        }
    }
    sound.sort_by(|a, b| (a.taken_at, &a.file).cmp(&(b.taken_at, &b.file)));
    (sound, wrong)
}

/// Whether `file` is the `-wal` or such of a database beside it: `puller import backups/*` means the databases.
fn is_companion(file: &Path) -> bool {
    let name = file.to_string_lossy();
    COMPANIONS.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|main| Path::new(main).is_file()))
}

fn no_place(name: &str, checked: &Checked, newer: &str) -> Fault {
    let (file, at) = (shown(&checked.file), clock::rfc3339(checked.taken_at));
    Fault::new(
        Kind::Usage,
        format!("`{file}` is of {at}, and `{name}` has a newer copy, {newer}: copies are in the order in which they were stored"),
    )
    .hint(format!("nothing was stored; `--name {name}-old` makes the older ones a source of their own"))
}

fn shown(file: &Path) -> String {
    printable(&file.to_string_lossy(), 1024)
}

/// Its own code where there is one file; 3 where some of several failed; else the worst verdict.
fn exit(tried: &[Tried]) -> u8 {
    let failed: Vec<&Fault> = tried.iter().filter_map(|tried| tried.result.as_ref().err()).collect();
    match (failed.as_slice(), tried.len()) {
        ([], _) => tried.iter().map(Tried::verdict_exit).max().unwrap_or(0),
        ([only], 1) => only.kind.exit(),
        _ => Kind::Partly.exit(),
    }
}

impl Tried {
    fn of(checked: &Checked, result: Result<Came, Fault>) -> Self {
        let Checked { file, taken_at, time_from, .. } = checked;
        Self { file: file.clone(), taken_at: Some((*taken_at, *time_from)), result }
    }

    fn verdict_exit(&self) -> u8 {
        match &self.result {
            Ok(Came::Stored { manifest, .. }) => manifest.verdict.exit(),
            _ => 0,
        }
    }
}

/// Tells of the files, one after the other.
struct Report<'a> {
    cli: &'a Cli,
    name: String,
    now: Timestamp,
    /// What there is to say besides, and of which files.
    notes: BTreeMap<String, Vec<String>>,
}

impl Report<'_> {
    /// Says what came of one file; what was stored is entered into the history of `source`.
    fn say(&mut self, tried: &Tried, source: Option<&SourceDir>) {
        let line = self.line(tried, source);
        if let (Some(source), "stored") = (source, line["outcome"].as_str().unwrap_or_default())
            && let Err(fault) = history::add(source, &line)
        {
            eprintln!("warning: {fault}");
        }
        if self.cli.common.json {
            println!("{line}");
        }
        let file = shown(&tried.file);
        let notes = match &tried.result {
            Err(fault) => return super::say_fault(fault),
            Ok(Came::Planned(checked) | Came::There(_, checked)) => checked.notes.clone(),
            Ok(Came::Stored { checked, findings, .. }) => [checked.notes.clone(), findings.clone()].concat(),
        };
        if !self.cli.common.json && !self.cli.common.quiet {
            let at = tried.taken_at.map_or(String::new(), |(at, from)| {
                let from = match from {
                    TimeFrom::Name => "",
                    TimeFrom::DayInName => ", the hour not from its name",
                    TimeFrom::File => ", when it was last written",
                };
                format!("of {}{from}", text::when(at, self.now))
            });
            let came = match &tried.result {
                Ok(Came::Stored { manifest, is_new: true, .. }) => {
                    format!("stored as {}, {}", manifest.copy, manifest.verdict)
                }
                Ok(Came::Stored { manifest, .. }) => format!("the same as {}", manifest.copy),
                Ok(Came::There(id, _)) => format!("is there already, as {id}"),
                _ => "would be stored".to_owned(),
            };
            println!("{file}: {at}: {came}");
        }
        for note in notes {
            self.notes.entry(note).or_default().push(file.clone());
        }
    }

    /// What there is to say of some of the files, once for all of them.
    fn say_notes(&self) {
        for (note, files) in self.notes.iter().filter(|_| !self.cli.common.quiet) {
            match files.as_slice() {
                [file] => eprintln!("note: `{file}`: {note}"),
                [first, others @ ..] => eprintln!("note: `{first}` and {} more: {note}", others.len()),
                [] => {}
            }
        }
    }

    fn line(&self, tried: &Tried, source: Option<&SourceDir>) -> Value {
        let (outcome, copy, checked, manifest) = match &tried.result {
            Err(_) => ("failed", None, None, None),
            Ok(Came::Planned(checked)) => ("planned", None, Some(checked), None),
            Ok(Came::There(id, checked)) => ("unchanged", Some(id), Some(checked), None),
            Ok(Came::Stored { manifest, is_new, checked, .. }) => {
                let outcome = if *is_new { "stored" } else { "unchanged" };
                (outcome, Some(&manifest.copy), Some(checked), Some(manifest))
            }
        };
        let findings = match &tried.result {
            Ok(Came::Stored { findings, .. }) => findings.as_slice(),
            _ => &[],
        };
        json!({
            "v": 1, "at": clock::rfc3339(self.now), "run": "import",
            "source": source.map_or(self.name.clone(), SourceDir::shown), "outcome": outcome,
            "file": puller::address::absolute(&tried.file).to_string_lossy(),
            "taken_at": tried.taken_at.map(|(at, _)| clock::rfc3339(at)),
            "time_from": tried.taken_at.map(|(_, from)| from.word()),
            "snapshot": checked.map(|checked| checked.snapshot.to_string()), "copy": copy,
            "verdict": manifest.map(|manifest| manifest.verdict.word()),
            "checked": manifest.map(|manifest| manifest.checked().word()),
            "transfer": manifest.map(|manifest| &manifest.transfer.kind),
            "changed_pages": manifest.map(|manifest| manifest.transfer.changed_pages),
            "notes": checked.map(|checked| checked.notes.clone()).unwrap_or_default(),
            "findings": findings, "error": tried.result.as_ref().err().map(super::error_json),
        })
    }

    fn end(&self, source: &SourceDir, tried: &[Tried]) {
        if self.cli.common.json || self.cli.common.quiet {
            return;
        }
        let is_new = |tried: &&Tried| matches!(tried.result, Ok(Came::Stored { is_new: true, .. }));
        let (stored, of, name) = (tried.iter().filter(is_new).count(), tried.len(), source.shown());
        let good = source
            .copies()
            .map_or(0, |copies| copies.iter().filter(|copy| StoredCopy::is_good(copy)).count());
        println!("{name}: {stored} of {of} files stored, {good} good copies now");
        if source.has_no_address() {
            println!("`puller pull ADDRESS --name {name}` goes on with it, where its database is");
        }
    }
}
