//! `puller sources`: which sources the store has, what they are called, and where they are from now on.

use super::text;
use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use puller::address::Address;
use puller::client::Client;
use puller::history;
use puller::source_dir::{SourceDir, StoredCopy};
use puller::store::Store;
use puller::target;
use serde_json::{Value, json};
use std::time::Duration;

/// How long an agent may give no sign of life while it is asked.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// What is asked of the sources; nothing: to list them.
#[derive(clap::Subcommand)]
pub(crate) enum Sources {
    /// List the sources: names, addresses, folders (also without a word)
    List,
    /// Give a source another name; its folder and its copies stay
    Rename {
        /// The source
        source: String,
        /// Its new name
        new: String,
    },
    /// Say that a source is at another address now: a new machine, another door, another path; its copies and its history stay
    Adopt {
        /// The source
        source: String,
        /// Where it is from now on
        address: String,
        /// Only say what would be changed
        #[arg(short = 'n', long, env = "PULLER_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
        dry_run: bool,
        #[command(flatten)]
        door: crate::cli::Door,
    },
}

pub(crate) fn run(cli: &Cli, asked: Option<&Sources>) -> Result<u8, Fault> {
    let store = super::open_store(cli)?;
    match asked {
        None | Some(Sources::List) => return list(cli, &store),
        Some(Sources::Rename { source, new }) => {
            let old = store.named(source)?;
            let renamed = store.rename(&old, new)?;
            tell(cli, &renamed, "renamed", &old.shown(), new);
            about_the_configuration(cli, &old, new)?;
        }
        Some(Sources::Adopt { source, address, dry_run, door }) => {
            let old = store.named(source)?;
            let new = resolved(cli, address_of(address)?, &old, door)?;
            let from = place(&old);
            let (source, outcome) = match (store.may_adopt(&old, &new)?, dry_run) {
                (false, _) => (old, "unchanged"),
                (true, true) => (old, "planned"),
                (true, false) => (store.adopt(&old, &new)?, "adopted"),
            };
            tell(cli, &source, outcome, &from, &new.to_string());
        }
    }
    Ok(0)
}

/// Writes down that `source` was changed, and says so.
fn tell(cli: &Cli, source: &SourceDir, outcome: &str, from: &str, to: &str) {
    let line = json!({"v": 1, "source": source.shown(), "outcome": outcome, "from": from, "to": to, "dir": source.dir()});
    match (cli.common.json, cli.common.quiet) {
        (true, _) => println!("{line}"),
        (false, true) => {}
        (false, false) if outcome == "planned" => {
            println!("{}: would go from {from} to {to}", source.shown())
        }
        (false, false) if outcome == "unchanged" => println!("{}: is at {to} already", source.shown()),
        (false, false) => println!("{}: {outcome}, from {from} to {to}", source.shown()),
    }
    if ["adopted", "renamed"].contains(&outcome) {
        note_in_history(source, outcome, from, to);
    }
}

fn note_in_history(source: &SourceDir, outcome: &str, from: &str, to: &str) {
    let noted = puller::clock::now().and_then(|now| {
        let at = puller::clock::rfc3339(now);
        history::add(
            source,
            &json!({"v": 1, "at": at, "run": "sources", "outcome": outcome, "from": from, "to": to}),
        )
    });
    if let Err(fault) = noted {
        eprintln!("warning: {fault}");
    }
}

/// A table of the old name would make the next `pull --all` begin a second source.
fn about_the_configuration(cli: &Cli, old: &SourceDir, new: &str) -> Result<(), Fault> {
    let config = super::read_config(cli)?;
    if let Some((table, _)) = config.table_of(old).filter(|(table, _)| *table != new) {
        eprintln!("note: the configuration has it as `[source.{table}]`: write `[source.{new}]` there");
    }
    Ok(())
}

/// What is typed as an address; a file that is there needs no `./`.
fn address_of(typed: &str) -> Result<Address, Fault> {
    match target::address_of(typed)? {
        Some(address) if address.is_whole_agent() => {
            Err(Fault::new(Kind::Usage, format!("`{}` is an agent, not a database", printable(typed, 200)))
                .hint("name the database too, as AGENT/NAME"))
        }
        Some(address) => Ok(address),
        None => {
            Err(Fault::new(Kind::Usage, format!("`{}` is a name, not an address", printable(typed, 200)))
                .hint("write a path as /…, ./… or ~/…, or a database behind an agent as AGENT/NAME of a paired one or HOST:PORT/NAME, or behind ssh as HOST:PATH"))
        }
    }
}

/// Only its agent knows whether there is a database at `address`; and behind ssh, where a place has many spellings, which
/// path they come to.
fn resolved(
    cli: &Cli,
    address: Address,
    source: &SourceDir,
    door: &crate::cli::Door,
) -> Result<Address, Fault> {
    let config = super::read_config(cli)?;
    let table = config.table_of(source).map(|(name, _)| name);
    let door = super::door(door, &config, table, ANSWER_WAIT)?;
    let asked = Client::open(&address, &door).and_then(|mut client| client.resolve(&address));
    match asked? {
        (resolved, None) => Ok(resolved),
        (_, Some(problem)) => Err(problem),
    }
}

/// Where `source` is reached, as it is typed.
fn place(source: &SourceDir) -> String {
    source.address().map_or_else(|_| source.about.key.clone(), |address| address.to_string())
}

fn list(cli: &Cli, store: &Store) -> Result<u8, Fault> {
    let (config, now) = (super::read_config(cli)?, puller::clock::now()?);
    let mut table = text::table(&["SOURCE", "COPIES", "NEWEST GOOD", "ADDRESS", "CONFIGURED", "FOLDER"]);
    let code = super::with_each_source(store, |source| {
        let copies = source.copies()?;
        let newest = copies.iter().rfind(|copy| copy.is_good());
        let table_of = config.table_of(source).map(|(name, _)| name.to_owned());
        if cli.common.json {
            println!("{}", as_json(source, &copies, newest, table_of.as_deref()));
        }
        let taken_at = newest.and_then(|copy| copy.manifest.as_ref().ok()).map(|manifest| manifest.taken_at);
        table.add_row([
            source.shown(),
            copies.len().to_string(),
            taken_at.map_or("none".to_owned(), |at| text::ago(at, now)),
            place(source),
            table_of.map_or("no".to_owned(), |_| "yes".to_owned()),
            source.label(),
        ]);
        Ok(0)
    })?;
    match (cli.common.json, table.is_empty() && code == 0) {
        (true, _) => {}
        (false, true) if cli.common.quiet => {}
        (false, true) => println!("no source yet; `puller pull ./app.db` makes the first"),
        (false, false) => println!("{}", table.trim_fmt()),
    }
    Ok(code)
}

fn as_json(
    source: &SourceDir,
    copies: &[StoredCopy],
    newest: Option<&StoredCopy>,
    table: Option<&str>,
) -> Value {
    json!({
        "v": 1, "source": source.shown(), "name": source.about.name, "address": place(source),
        "dir": puller::address::absolute(source.dir()), "copies": copies.len(),
        "newest_copy": newest.map(|copy| &copy.id), "configured": table,
    })
}
