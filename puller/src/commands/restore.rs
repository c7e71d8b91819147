//! `puller restore`: a copy becomes a database again, in a new file here.
//!
//! What goes over a database that is there, or to another machine, is in `put_back.rs` beside this.

use super::{put_back, restore_report, text};
use crate::cli::{Cli, Door};
use clap::ArgGroup;
use clap::builder::BoolishValueParser;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::restoring;
use pullback_shared::text::printable;
use puller::address::{Address, absolute};
use puller::clock;
use puller::config::Config;
use puller::paired::meant;
use puller::restore::{self, Restored};
use puller::restore_record::Record;
use puller::source_dir::{SourceDir, StoredCopy};
use puller::store::{self, Store};
use puller::target;
use puller::verify;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What `restore` was asked.
#[derive(clap::Args)]
#[command(group(ArgGroup::new("place").required(true).args(["to", "in_place", "undo"])))]
pub(crate) struct Restore {
    /// The source
    pub(crate) source: String,
    /// A copy: `latest`, `latest~2`, an id as `list` shows it, or the beginning of one
    #[arg(default_value = "latest")]
    pub(crate) copy: String,
    /// The newest good copy that was taken at this time or before, such as "2026-11-20" or "2026-11-20 18:00"
    #[arg(long, value_name = "TIME", env = "PULLER_AT", conflicts_with_all = ["copy", "undo"])]
    pub(crate) at: Option<String>,
    /// Write it there: a file, new or a database, or HOST:PATH behind ssh
    #[arg(long, value_name = "TARGET", env = "PULLER_TO", conflicts_with_all = ["in_place", "undo"])]
    pub(crate) to: Option<String>,
    /// Put it where it came from, in the place of what is there
    #[arg(long, env = "PULLER_IN_PLACE", value_parser = BoolishValueParser::new())]
    pub(crate) in_place: bool,
    /// Bring back what was there before the last restore
    #[arg(long, env = "PULLER_UNDO", conflicts_with_all = ["in_place", "copy", "tables"], value_parser = BoolishValueParser::new())]
    pub(crate) undo: bool,
    /// Restore only this table, with its indexes and triggers; may be said more than once
    #[arg(long = "table", id = "tables", value_name = "NAME", env = "PULLER_TABLE")]
    pub(crate) tables: Vec<String>,
    /// Also over another source's database, and set aside whole what SQLite cannot open
    #[arg(long, env = "PULLER_FORCE", value_parser = BoolishValueParser::new())]
    pub(crate) force: bool,
    /// Say what would be replaced, and change nothing
    #[arg(short = 'n', long, env = "PULLER_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long, env = "PULLER_YES", value_parser = BoolishValueParser::new())]
    pub(crate) yes: bool,
    /// Stop the application by this command, run here, right before it is replaced
    #[arg(long, value_name = "COMMAND", env = "PULLER_STOP_CMD")]
    pub(crate) stop_cmd: Option<String>,
    /// Start it again by this command, whatever came of it
    #[arg(long, value_name = "COMMAND", env = "PULLER_START_CMD", requires = "stop_cmd")]
    pub(crate) start_cmd: Option<String>,
    #[command(flatten)]
    pub(crate) door: Door,
}

pub(crate) fn run(cli: &Cli, asked: &Restore) -> Result<u8, Fault> {
    if asked.to.is_none() && !asked.in_place && !asked.undo {
        // A variable of the environment that says no counts as given.
        return Err(Fault::new(Kind::Usage, "it is not said where the copy is to go")
            .hint("say `--to TARGET`, `--in-place` or `--undo`"));
    }
    let config = super::read_config(cli)?;
    let store = super::open_store(cli)?;
    let source = store.named(&asked.source)?;
    let copy = copy_of(asked, &config, &source)?;
    let address = match &asked.to {
        Some(to) => place_of(to, &store)?,
        None => meant(source.address()?),
    };
    if let Address::Local(path) = &address {
        if let Some(store) = store::around(path) {
            return Err(restoring::within_store(path, &store));
        }
        if asked.to.is_some() && is_new(path, asked.force) {
            return to_new_file(cli, asked, &source, &copy, path);
        }
    }
    put_back::run(cli, asked, &config, &store, source, &copy, address)
}

/// The copy that is meant.
fn copy_of(asked: &Restore, config: &Config, source: &SourceDir) -> Result<StoredCopy, Fault> {
    if asked.undo {
        let nothing = |why: String| {
            Fault::new(Kind::Unknown, why).hint(format!("`puller list {}` shows all copies", source.shown()))
        };
        let record = Record::read(source)?;
        let record =
            record.ok_or_else(|| nothing(format!("nothing was restored into `{}`", source.shown())))?;
        return match (record.way_back(), &record.quarantine) {
            (Some(safety), _) => source.copy(safety),
            (None, Some(quarantine)) => Err(nothing(format!(
                "what was there before the last restore could not be copied, and lies in `{}`",
                printable(quarantine, 1024)
            ))),
            (None, None) if record.is_open() => Err(nothing(
                "the last restore was cut; what was there before may lie beside the target, in a directory whose name has `.quarantine-`".to_owned(),
            )),
            (None, None) => Err(nothing("there was nothing before the last restore".to_owned())),
        };
    }
    let Some(at) = &asked.at else { return source.copy_to_restore(&asked.copy) };
    let table = config.table_of(source).map(|(_, table)| table);
    let until = time_of(at, &super::zone(None, config, table))?;
    // Times are shown in whole seconds: what is shown of a copy means that copy.
    let until = until.as_second();
    let is_before = |copy: &StoredCopy| {
        copy.is_good() && copy.manifest.as_ref().is_ok_and(|manifest| manifest.taken_at.as_second() <= until)
    };
    source.copies()?.into_iter().rfind(is_before).ok_or_else(|| {
        Fault::new(
            Kind::Unknown,
            format!("`{}` has no good copy of {} or before", source.shown(), printable(at, 100)),
        )
        .hint(format!("`puller list {}` shows the copies with their times", source.shown()))
    })
}

/// A time as people write it, in `zone` unless it says another one; a day or a minute alone means its
/// end.
fn time_of(typed: &str, zone: &TimeZone) -> Result<Timestamp, Fault> {
    if let Ok(at) = typed.parse::<Timestamp>() {
        return Ok(at);
    }
    let local = match typed.parse::<Date>() {
        Ok(day) if !typed.contains([':', 'T']) => {
            day.tomorrow().map(|next| next.to_datetime(Time::midnight()).saturating_sub(1.second()))
        }
        // As `list` shows them: a copy of some second within that minute.
        _ if typed.matches(':').count() == 1 => {
            typed.parse::<DateTime>().map(|minute| minute.saturating_add(59.seconds()))
        }
        _ => typed.parse::<DateTime>(),
    };
    local.and_then(|local| zone.to_timestamp(local)).map_err(|error| {
        Fault::new(Kind::Usage, format!("`{}` is no time: {error}", printable(typed, 100)))
            .hint("write it as \"2026-11-20\", \"2026-11-20 18:00\" or \"2026-11-20T18:00:00Z\"")
    })
}

/// Where `to` is: any spelling of an address, else a file here, but not one that is called as a source of another place.
fn place_of(to: &str, store: &Store) -> Result<Address, Fault> {
    let is_name = Address::parse(to)?.is_none();
    let address = target::address_of(to)?.filter(|address| !address.is_whole_agent());
    let address = address.unwrap_or_else(|| Address::Local(PathBuf::from(to)));
    let Address::Local(path) = &address else { return Ok(address) };
    if path.symlink_metadata().is_ok() {
        return Ok(address);
    }
    if is_name && store.named(to).is_ok_and(|source| !source.is_at(&address)) {
        let to = printable(to, 200);
        return Err(Fault::new(Kind::Usage, format!("`{to}` is the name of a source")).hint(format!(
            "write `./{to}` for a file; `puller sources` shows where the source's database is"
        )));
    }
    if to.ends_with('/') {
        return Err(Fault::new(Kind::Usage, format!("`{}` names a folder, not a file", printable(to, 1024)))
            .hint("name the file that is to be written"));
    }
    Ok(address)
}

/// Whether nothing is there that a restore would have to save, or, with `force`, to set aside.
fn is_new(path: &Path, force: bool) -> bool {
    let is_there = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        Path::new(&name).symlink_metadata().is_ok()
    };
    let has_left_overs = || ["-wal", "-shm", "-journal"].into_iter().any(is_there);
    let has_something = is_there("") || is_there(".pullback-restore") || (force && has_left_overs());
    !has_something
}

fn to_new_file(
    cli: &Cli,
    asked: &Restore,
    source: &SourceDir,
    copy: &StoredCopy,
    to: &Path,
) -> Result<u8, Fault> {
    if !asked.tables.is_empty() {
        return Err(Fault::new(
            Kind::Target,
            format!("there is no database at `{}` that single tables could be restored into", to.display()),
        )
        .hint("restore the whole copy, without `--table`"));
    }
    let began = Instant::now();
    let write = || {
        mending(source, copy, !asked.dry_run, |copy| restore::to_new_file(source, copy, to, asked.dry_run))
    };
    let (restored, started) =
        if asked.dry_run { (write()?, Ok(())) } else { put_back::stopped_for(asked, |_| write())? };
    say(cli, source, copy, &restored, asked.dry_run, began.elapsed(), started.as_ref().err());
    Ok(restore_report::exit_of(started))
}

/// Does `work` with `copy`. One that proves to be rotten is set aside, and where only its list of page hashes had rotted, it can be
/// restored after all. Another run that works on the source, or a dry run, leaves that to `verify`.
fn mending<T>(
    source: &SourceDir,
    copy: &StoredCopy,
    may_mend: bool,
    work: impl Fn(&StoredCopy) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let fault = match work(copy) {
        Err(fault) if fault.kind == Kind::Rotten && may_mend => fault,
        done => return done,
    };
    let Ok(lock) = source.lock() else { return Err(fault) };
    let now = clock::now()?;
    // It may have been removed, or written to, before the lock was there.
    let Ok(copy) = source.copy(&copy.id) else { return Err(fault) };
    match verify::copy(source, &copy, false, now, &lock, &|_| {})?.is_mended {
        true => work(&copy),
        false => Err(fault),
    }
}

/// A plain file of `copy`, proven.
pub(crate) fn proven(
    source: &SourceDir,
    copy: &StoredCopy,
    may_mend: bool,
) -> Result<puller::unpacked::Unpacked, Fault> {
    mending(source, copy, may_mend, |copy| puller::unpacked::Unpacked::proven(source, copy))
}

fn say(
    cli: &Cli,
    source: &SourceDir,
    copy: &StoredCopy,
    restored: &Restored,
    dry_run: bool,
    took: Duration,
    fault: Option<&Fault>,
) {
    if cli.common.json {
        let outcome = if dry_run { "planned" } else { "restored" };
        let target = absolute(&restored.target);
        let mut line = restore_report::object(source, copy, outcome, &target.to_string_lossy());
        line["journal"] = restored.journal.into();
        line["notes"] = restore_report::doubt(copy).into_iter().collect();
        line["duration_seconds"] = took.as_secs_f64().into();
        restore_report::with_failure(&mut line, fault);
        println!("{line}");
    } else if !cli.common.quiet {
        let done = if dry_run { "would be restored" } else { "restored and proven" };
        let target = printable(&restored.target.to_string_lossy(), 1024);
        let size = text::bytes(restored.bytes);
        println!("{} {done}: `{target}`, {size}, journal {}", restored.copy, restored.journal);
        if let Some(doubt) = restore_report::doubt(copy) {
            eprintln!("note: {doubt}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let read = |typed: &str| time_of(typed, &zone).map(|at| at.to_string()).map_err(|fault| fault.kind);
        assert_eq!(read("2026-11-20").unwrap(), "2026-11-20T22:59:59Z");
        assert_eq!(read("2026-11-20 18:00").unwrap(), "2026-11-20T17:00:59Z");
        assert_eq!(read("2026-11-20T18:00:30").unwrap(), "2026-11-20T17:00:30Z");
        assert_eq!(read("2026-11-20T18:00:00Z").unwrap(), "2026-11-20T18:00:00Z");
        assert_eq!(read("2026-11-20T18:00:00+09:00").unwrap(), "2026-11-20T09:00:00Z");
        for wrong in ["", "yesterday", "2026-13-01", "18:00", "2026-11-20 25:00"] {
            assert_eq!(read(wrong), Err(Kind::Usage), "{wrong}");
        }
    }
}
