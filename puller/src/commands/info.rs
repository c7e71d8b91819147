//! `puller info`: what is there now and what a pull would move, asked of the agent; without a source, what the store holds.

use super::text;
use crate::cli::{Cli, Door};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::pb;
use pullback_shared::text::printable;
use puller::address::Address;
use puller::client::Client;
use puller::config::Config;
use puller::plan;
use puller::proof;
use puller::pull;
use puller::source_dir::{SourceDir, StoredCopy};
use puller::store::Store;
use puller::target::Target;
use serde_json::{Value, json};
use std::time::Duration;

/// How long an agent may give no sign of life while it is asked.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What there is to say of one source.
struct Look {
    address: Address,
    reply: pb::InfoReply,
    database: pb::DatabaseInfo,
    /// What the rows of its tables were counted in.
    counted_in: Option<String>,
    newest: Option<StoredCopy>,
    /// What a pull would move; `None` where the database cannot be read now.
    moves: Option<Moves>,
    /// Why it cannot.
    problem: Option<Fault>,
}

/// What a pull would move, in the words of `pull --dry-run`.
struct Moves {
    transfer: &'static str,
    full_because: Option<String>,
    pages: u32,
    of_pages: u32,
    bytes: u64,
}

pub(crate) fn run(cli: &Cli, typed: Option<&str>, tables: bool, door: &Door) -> Result<u8, Fault> {
    let Some(typed) = typed else { return of_store(cli) };
    let config = super::read_config(cli)?;
    let store = Store::open(&super::store_path(cli, &config)).ok();
    let target = Target::read(typed, &config, store.as_ref())?;
    if !target.address.is_whole_agent() {
        return of_target(cli, target, &config, store.as_ref(), tables, door);
    }
    let at_agent = super::door(door, &config, None, TIMEOUT)?;
    let mut codes = Vec::new();
    for asked in target.each(&config, &at_agent)? {
        let code = match asked {
            Ok(target) => of_target(cli, target, &config, store.as_ref(), tables, door),
            Err((_, fault)) => Err(fault),
        };
        codes.push(code.unwrap_or_else(|fault| {
            if cli.common.json {
                super::print_fault(&fault);
            }
            super::say_fault(&fault);
            fault.kind.exit()
        }));
    }
    match codes.as_slice() {
        [code] => Ok(*code),
        codes if codes.iter().all(|code| *code == 0) => Ok(0),
        _ => Ok(Kind::Partly.exit()),
    }
}

fn of_target(
    cli: &Cli,
    target: Target,
    config: &Config,
    store: Option<&Store>,
    tables: bool,
    door: &Door,
) -> Result<u8, Fault> {
    let door = super::door(door, config, target.name.as_deref(), TIMEOUT)?;
    let met = target.meet(store, &door)?;
    let client = met.client.map_or_else(|| Client::open(&target.address, &door), Ok)?;
    let look = ask(target.address, client, met.source.as_ref(), tables)?;
    match cli.common.json {
        true => println!("{}", text::json(&look.as_json())),
        false => look.print()?,
    }
    // What is wrong is part of the answer, which has been printed: only people are told once more.
    let Some(problem) = look.problem else { return Ok(0) };
    super::say_fault(&problem);
    Ok(problem.kind.exit())
}

/// Asks the agent, and counts rows in the newest good copy where there is one: that costs the source nothing.
fn ask(
    address: Address,
    mut client: Client,
    source: Option<&SourceDir>,
    tables: bool,
) -> Result<Look, Fault> {
    let newest = source.and_then(|source| source.copies().ok()?.into_iter().rfind(StoredCopy::is_good));
    let counted_in_copy = tables && newest.is_some();
    let reply = client.info(tables && !counted_in_copy)?;
    let database = reply.databases.first().cloned();
    let mut database =
        database.ok_or_else(|| Fault::new(Kind::Protocol, "the agent said nothing of the database"))?;
    let mut counted_in = (tables && !counted_in_copy).then(|| "a snapshot taken for this".to_owned());
    if let (true, Some(copy), Some(source)) = (counted_in_copy, &newest, source) {
        counted_in = Some(format!("copy {}", copy.id));
        let rows = proof::count_rows(puller::unpacked::Unpacked::of(source, copy)?.path())?;
        database.tables = rows.into_iter().map(|(name, rows)| pb::TableInfo { name, rows }).collect();
    }
    let (moves, problem) = match database.problem.clone().map(Fault::decode) {
        Some(problem) => (None, Some(problem)),
        None => match moves(&mut client, source, &database) {
            Ok(moves) => (Some(moves), None),
            Err(fault) => (None, Some(fault)),
        },
    };
    Ok(Look { address, reply, database, counted_in, newest, moves, problem })
}

/// Without a copy to build upon a pull moves everything: that is known without a snapshot, for which an agent would write
/// its first mirror. Else the agent takes one and compares, as for `pull --dry-run`.
fn moves(
    client: &mut Client,
    source: Option<&SourceDir>,
    database: &pb::DatabaseInfo,
) -> Result<Moves, Fault> {
    if source.map_or(Ok(None), pull::newest_base)?.is_none() {
        return Ok(Moves {
            transfer: "full",
            full_because: Some("there is no earlier copy to build upon".to_owned()),
            pages: database.page_count,
            of_pages: database.page_count,
            bytes: u64::from(database.page_count) * u64::from(database.page_size),
        });
    }
    let planned = plan::plan(client, source, false)?;
    Ok(Moves {
        transfer: planned.transfer,
        full_because: planned.full_because,
        pages: planned.pages,
        of_pages: planned.geometry.page_count,
        bytes: planned.bytes,
    })
}

impl std::fmt::Display for Moves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pages, of_pages, bytes) = (self.pages, self.of_pages, text::bytes(self.bytes));
        match (self.transfer, &self.full_because) {
            ("none", _) => f.write_str("nothing: unchanged since the newest copy"),
            (_, Some(why)) => write!(f, "everything, {why}: {pages} pages, at most {bytes}"),
            (_, None) => write!(f, "{pages} of {of_pages} pages, at most {bytes}"),
        }
    }
}

impl Look {
    fn as_json(&self) -> Value {
        let Self { address, reply, database, counted_in, newest, moves, problem } = self;
        let rows = |table: &pb::TableInfo| json!({"name": table.name, "rows": (table.rows >= 0).then_some(table.rows)});
        json!({
            "v": 1, "source": address.to_string(), "path": database.path, "agent_version": reply.agent_version,
            "sqlite_version": reply.sqlite_version, "bytes": database.file_bytes, "wal_bytes": database.wal_bytes,
            "shm_bytes": database.shm_bytes, "journal_bytes": database.journal_bytes, "journal": database.journal,
            "page_size": database.page_size, "page_count": database.page_count, "free_pages": database.free_pages,
            "encoding": database.encoding, "auto_vacuum": database.auto_vacuum, "user_version": database.user_version,
            "application_id": database.application_id, "modified_at": modified_at(database).map(puller::clock::rfc3339),
            "disk_free": database.disk_free, "disk_total": database.disk_total,
            "tables": database.tables.iter().map(rows).collect::<Vec<_>>(), "counted_in": counted_in,
            "newest_copy": newest.as_ref().map(|copy| &copy.id),
            "transfer": moves.as_ref().map(|moves| moves.transfer),
            "full_because": moves.as_ref().and_then(|moves| moves.full_because.as_ref()),
            "changed_pages": moves.as_ref().map(|moves| moves.pages),
            "bytes_expected": moves.as_ref().map(|moves| moves.bytes),
            "error": problem.as_ref().map(super::error_json),
        })
    }

    fn print(&self) -> Result<(), Fault> {
        let Self { address, reply, database, counted_in, newest, moves, problem } = self;
        let now = puller::clock::now()?;
        let mut table = text::table(&[]);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), printable(&value, 400)]);
        };
        row("source", address.to_string());
        row("path", database.path.clone());
        row("agent", format!("{}, SQLite {}", reply.agent_version, reply.sqlite_version));
        if database.problem.is_none() {
            let size = text::bytes(database.file_bytes);
            let (pages, of, free) = (database.page_count, database.page_size, database.free_pages);
            row("size", format!("{size}: {pages} pages of {of}, {free} free"));
            row("journal", database.journal.clone());
            row("-wal", text::bytes(database.wal_bytes));
            row("-shm", text::bytes(database.shm_bytes));
            row("encoding", database.encoding.clone());
            row("auto_vacuum", database.auto_vacuum.clone());
            row("changed", modified_at(database).map(|at| text::when(at, now)).unwrap_or_default());
            let (free, total) = (text::bytes(database.disk_free), text::bytes(database.disk_total));
            row("disk", format!("{free} free of {total}"));
        }
        if let Some(manifest) = newest.as_ref().and_then(|copy| copy.manifest.as_ref().ok()) {
            row("newest good copy", format!("{}, {}", manifest.copy, text::when(manifest.taken_at, now)));
        }
        match (moves, problem) {
            (Some(moves), _) => row("a pull would send", moves.to_string()),
            (None, Some(problem)) => row("a pull would fail", problem.to_string()),
            (None, None) => {}
        }
        if let Some(counted_in) = counted_in {
            row("rows, counted in", counted_in.to_owned());
        }
        for of in &database.tables {
            row(
                &format!("  {}", printable(&of.name, 60)),
                if of.rows < 0 { "cannot be counted".to_owned() } else { of.rows.to_string() },
            );
        }
        println!("{}", table.trim_fmt());
        Ok(())
    }
}

fn modified_at(database: &pb::DatabaseInfo) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(database.modified_at).ok().filter(|_| database.modified_at != 0)
}

fn of_store(cli: &Cli) -> Result<u8, Fault> {
    let store = super::open_store(cli)?;
    let now = puller::clock::now()?;
    let mut table = text::table(&["SOURCE", "COPIES", "NEWEST GOOD", "SIZE", "FROM"]);
    let code = super::with_each_source(&store, |source| {
        let copies = source.copies()?;
        let newest = copies.iter().rfind(|copy| copy.is_good()).and_then(|copy| copy.manifest.as_ref().ok());
        let from = source.address().map(|address| address.to_string()).unwrap_or_default();
        if cli.common.json {
            let line = json!({
                "v": 1, "source": source.shown(), "copies": copies.len(), "from": from, "newest_copy": newest.map(|m| &m.copy),
                "taken_at": newest.map(|m| puller::clock::rfc3339(m.taken_at)), "bytes": newest.map(|m| m.bytes),
            });
            println!("{line}");
        }
        let taken = newest.map_or("none".to_owned(), |manifest| text::when(manifest.taken_at, now));
        let size = newest.map(|manifest| text::bytes(manifest.bytes)).unwrap_or_default();
        table.add_row([source.shown(), copies.len().to_string(), taken, size, from]);
        Ok(0)
    })?;
    if !cli.common.json {
        println!("store {}\n{}", store.root().display(), table.trim_fmt());
    }
    Ok(code)
}
