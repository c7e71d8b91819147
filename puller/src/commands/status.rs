//! `puller status`: one line a source, whether its copies are as fresh as they should be, and below them what is not.

use super::text;
use crate::cli::Cli;
use comfy_table::Table;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use puller::config::{self, Config};
use puller::freshness::{Expected, Facts, Judged, State};
use puller::history;
use puller::source_dir::{SourceDir, StoredCopy};
use puller::store::{Sources, Store};
use serde_json::{Value, json};
use std::time::Duration;

/// What `status` was asked.
#[derive(clap::Args)]
pub(crate) struct Status {
    /// Only these sources; none: all of the store and of the configuration
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// Call a source stale whose last good run is longer ago, such as 26h [default: `max_age` of the configuration]
    #[arg(long, env = "PULLER_MAX_AGE", value_name = "DUR", value_parser = config::span)]
    max_age: Option<Duration>,
}

/// A source of which something is to be said.
struct Row {
    name: String,
    facts: Facts,
    expected: Expected,
    judged: Judged,
    newest: Option<StoredCopy>,
}

/// Columns that a narrow terminal does without, the first ones first.
const DISPENSABLE: [&str; 5] = ["NEW COPY", "SIZE", "RUNS", "DRILLED", "PROVEN"];

/// As narrow as names get before a column goes.
const NAME_WIDTH_MIN: usize = 16;

pub(crate) fn run(cli: &Cli, asked: &Status) -> Result<u8, Fault> {
    let (config, now) = (super::read_config(cli)?, puller::clock::now()?);
    let store = super::open_store(cli)?;
    let mut rows = rows(&store, &config, asked, now)?;
    let has_alarm = rows.iter().any(|row| row.judged.is_alarm);
    if cli.common.quiet {
        rows.retain(|row| row.judged.is_alarm);
    }
    match (cli.common.json, rows.is_empty()) {
        (true, _) => rows.iter().for_each(|row| println!("{}", row.as_json(now))),
        (false, true) if cli.common.quiet => {}
        (false, true) => println!("no source yet; `puller pull ./app.db` makes the first"),
        (false, false) => print(cli, &rows, now),
    }
    Ok(if has_alarm { Kind::Found.exit() } else { 0 })
}

fn rows(store: &Store, config: &Config, asked: &Status, now: Timestamp) -> Result<Vec<Row>, Fault> {
    let Sources { known, damaged } = store.sources()?;
    let never = config.never_pulled(&known);
    let of_source = |source: &SourceDir| {
        Row::of(source, config, asked, now).unwrap_or_else(|fault| Row::unreadable(source.shown(), &fault))
    };
    let of_table = |name: &str| Row::never_pulled(name, config, asked, now);
    if asked.sources.is_empty() {
        let damaged = damaged.into_iter().map(|damaged| Row::unreadable(damaged.label, &damaged.fault));
        let of_each = known.iter().map(of_source).chain(damaged);
        return Ok(of_each.chain(never.into_iter().map(of_table)).collect());
    }
    let named = |typed: &String| match never.contains(&typed.as_str()) {
        true => Ok(vec![of_table(typed)]),
        false => Ok(store.all_named(typed)?.iter().map(of_source).collect()),
    };
    let rows: Result<Vec<Vec<Row>>, Fault> = asked.sources.iter().map(named).collect();
    Ok(rows?.into_iter().flatten().collect())
}

impl Row {
    fn of(source: &SourceDir, config: &Config, asked: &Status, now: Timestamp) -> Result<Self, Fault> {
        let copies = source.copies()?;
        let proofs = copies
            .iter()
            .map(|copy| (copy.verdict(), copy.manifest.as_ref().ok().and_then(|it| it.proven_at)));
        let proofs: Vec<_> = proofs.collect();
        let newest = copies.into_iter().next_back();
        let taken_at = |copy: &StoredCopy| copy.manifest.as_ref().ok().map(|manifest| manifest.taken_at);
        let verdict = newest.as_ref().map(|copy| (copy.verdict(), taken_at(copy)));
        let facts = Facts::of(&history::lines(source)?, verdict).and_copies(proofs, now);
        let expected = expected(config, config.table_of(source).map(|(_, table)| table), asked);
        let judged = facts.judge(now, expected);
        Ok(Self { name: source.shown(), facts, expected, judged, newest })
    }

    fn unreadable(name: String, fault: &Fault) -> Self {
        let because = vec![format!("{fault}; {}", fault.hint).trim_end_matches("; ").to_owned()];
        let judged = Judged { state: State::Unreadable, because, is_alarm: true };
        Self { name, facts: Facts::default(), expected: Expected::default(), judged, newest: None }
    }

    fn never_pulled(name: &str, config: &Config, asked: &Status, now: Timestamp) -> Self {
        let facts = Facts::default();
        let expected = expected(config, config.about(Some(name)), asked);
        let judged = facts.judge(now, expected);
        Self { name: name.to_owned(), facts, expected, judged, newest: None }
    }

    fn bytes(&self) -> Option<u64> {
        self.newest.as_ref()?.manifest.as_ref().ok().map(|manifest| manifest.bytes)
    }

    fn as_json(&self, now: Timestamp) -> Value {
        let Self { name, facts, expected, judged, newest } = self;
        let because = (!judged.because.is_empty()).then(|| judged.because.join("; "));
        json!({
            "v": 1, "source": name, "state": judged.state.word(), "alarm": judged.is_alarm, "stale_because": because,
            "last_good_at": facts.last_good_at.map(puller::clock::rfc3339),
            "age_seconds": facts.last_good_at.map(|at| now.duration_since(at).as_secs_f64()),
            "max_age_seconds": expected.max_age.map(|max| max.as_secs_f64()),
            "unchanged_since": facts.unchanged_since.map(puller::clock::rfc3339),
            "max_unchanged_seconds": expected.max_unchanged.map(|max| max.as_secs_f64()),
            "verdict": facts.verdict.map(|verdict| verdict.word()), "copy": newest.as_ref().map(|copy| &copy.id),
            "bytes": self.bytes(), "rotten": facts.rotten, "proven_at": facts.proven_at.map(puller::clock::rfc3339),
            "drilled_at": facts.last_drill.map(|(at, _)| puller::clock::rfc3339(at)),
            "drill_passed": facts.last_drill.map(|(_, passed)| passed), "runs": facts.runs, "runs_good": facts.runs_good, "last_error": facts.last_error,
        })
    }
}

fn expected(config: &Config, table: Option<&config::Source>, asked: &Status) -> Expected {
    let written = |of_source: Option<config::Span>, of_all: Option<config::Span>| {
        of_source.or(of_all).map(|config::Span(length)| length)
    };
    Expected {
        max_age: asked.max_age.or(written(table.and_then(|table| table.max_age), config.max_age)),
        max_unchanged: written(table.and_then(|table| table.max_unchanged), config.max_unchanged),
        optional: table.is_some_and(|table| table.optional),
    }
}

fn print(cli: &Cli, rows: &[Row], now: Timestamp) {
    for (at, line) in fitted(rows, now, text::width()).lines().enumerate() {
        // The first line is the head.
        let state = at.checked_sub(1).and_then(|at| rows.get(at)).map(|row| row.judged.state);
        match state.filter(|_| cli.colors(&std::io::stdout())) {
            Some(state) => {
                println!("{}", line.replacen(state.word(), &text::colored(state.word(), color(state)), 1));
            }
            None => println!("{line}"),
        }
    }
    let told: Vec<&Row> = rows.iter().filter(|row| !row.judged.because.is_empty()).collect();
    if !told.is_empty() {
        println!("");
    }
    for row in told {
        println!("{}: {}", row.name, printable(&row.judged.because.join("; "), 1000));
    }
}

/// Green, yellow, red.
fn color(state: State) -> u8 {
    match state {
        State::Fresh => 32,
        State::Failing | State::Unchanged => 33,
        State::Unreadable | State::Never | State::Rotten | State::Damaged | State::Suspect | State::Stale => {
            31
        }
    }
}

/// The table in `width` columns, if that can be: columns that tell least go first, then names are cut.
fn fitted(rows: &[Row], now: Timestamp, width: Option<usize>) -> String {
    for dispensed in 0..=DISPENSABLE.len() {
        let left_for_names = width.map(|width| width.saturating_sub(needed(&table(rows, now, dispensed, 0))));
        if dispensed == DISPENSABLE.len() || left_for_names.is_none_or(|left| left >= NAME_WIDTH_MIN) {
            return table(rows, now, dispensed, left_for_names.unwrap_or(usize::MAX)).trim_fmt();
        }
    }
    String::new()
}

/// Columns that `table` takes beside its names.
fn needed(table: &Table) -> usize {
    let widths = table.column_max_content_widths();
    let names = widths.get(1).copied().unwrap_or_default();
    let padding = 2 * widths.len();
    widths.into_iter().map(usize::from).sum::<usize>() + padding - usize::from(names)
}

fn table(rows: &[Row], now: Timestamp, dispensed: usize, names: usize) -> Table {
    let is_there = |title: &str| !DISPENSABLE[..dispensed].contains(&title);
    let titles = ["STATE", "SOURCE", "LAST GOOD", "NEW COPY", "SIZE", "RUNS", "PROVEN", "DRILLED", "VERDICT"];
    let titles: Vec<&str> = titles.into_iter().filter(|title| is_there(title)).collect();
    let mut table = text::table(&titles);
    for row in rows {
        let ago = |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| text::ago(at, now));
        let cell = |title: &&str| match *title {
            "STATE" => row.judged.state.word().to_owned(),
            "SOURCE" => text::fit(&row.name, names.max("SOURCE".len())),
            "LAST GOOD" => ago(row.facts.last_good_at),
            "NEW COPY" => ago(row.facts.unchanged_since),
            "SIZE" => row.bytes().map_or("-".to_owned(), text::bytes),
            "RUNS" => format!("{}/{}", row.facts.runs_good, row.facts.runs),
            "PROVEN" => ago(row.facts.proven_at),
            "DRILLED" => match row.facts.last_drill {
                Some((at, false)) => format!("failed {}", text::ago(at, now)),
                passed => ago(passed.map(|(at, _)| at)),
            },
            _ => row.facts.verdict.map_or("-", |verdict| verdict.word()).to_owned(),
        };
        table.add_row(titles.iter().map(cell).collect::<Vec<String>>());
    }
    table
}
