//! What each command does, and how it is said; nothing imports this but `main`, and `cli` what may be asked.

/// As the standard one, but a reader that left (`… | head -1`) is no fault of ours: what was asked is done all the same.
macro_rules! println {
    ($($said:tt)*) => { $crate::commands::print_line(format_args!($($said)*)) };
}

mod accept;
pub(crate) mod cat;
mod config;
mod demo;
mod differences;
pub(crate) mod drill;
pub(crate) mod doctor;
mod doctor_source;
pub(crate) mod explain;
mod findings;
mod history;
pub(crate) mod import;
mod info;
mod list;
pub(crate) mod notify;
pub(crate) mod open;
mod pages;
pub(crate) mod pair;
pub(crate) mod pin;
mod places;
mod progress;
mod pull;
mod pull_report;
mod put_back;
pub(crate) mod restore;
mod restore_report;
mod rotate;
pub(crate) mod schedule;
mod schedule_run;
mod show;
pub(crate) mod sources;
pub(crate) mod spelling;
pub(crate) mod sql;
pub(crate) mod status;
mod tell;
mod text;
mod verify;

use crate::cli::{Cli, Command};
use pullback_shared::fault::{Fault, Kind};
use puller::config::{Config, default_store, known_stores};
use puller::source_dir::SourceDir;
use puller::ssh::{Door, RunAs};
use puller::store::{KnownStores, Store};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// Runs what was asked; gives the exit code.
pub(crate) fn run(cli: &Cli) -> Result<u8, Fault> {
    match &cli.command {
        Command::Pull(asked) => pull::run(cli, asked),
        Command::Info { source, tables, door } => info::run(cli, source.as_deref(), *tables, door),
        Command::List { source, long } => list::run(cli, source.as_deref(), *long),
        Command::Show { source, copy, checksums } => show::run(cli, source, copy, *checksums),
        Command::Status(asked) => status::run(cli, asked),
        Command::Sources { what } => sources::run(cli, what.as_ref()),
        Command::Doctor(asked) => doctor::run(cli, asked),
        Command::Explain(asked) => explain::run(cli, asked),
        Command::History { source, failed } => history::run(cli, source, *failed),
        Command::Verify { source, copy, all: _, full, sample } => {
            verify::run(cli, source.as_deref(), copy.as_deref(), *full, *sample)
        }
        Command::Drill(asked) => drill::run(cli, asked),
        Command::Restore(asked) => restore::run(cli, asked),
        Command::Rotate { source, all: _, keep, dry_run } => {
            rotate::run(cli, source.as_deref(), keep, *dry_run)
        }
        Command::Cat(asked) => cat::run(cli, asked),
        Command::Sql(asked) => sql::run(cli, asked),
        Command::Open(asked) => open::run(cli, asked),
        Command::Import(asked) => import::run(cli, asked),
        Command::Accept { source, copy } => accept::run(cli, source, copy),
        Command::Pin(asked) => pin::run(cli, asked, true),
        Command::Unpin(asked) => pin::run(cli, asked, false),
        Command::Pair(asked) => pair::run(cli, asked),
        Command::Unpair(asked) => pair::unpair(cli, asked),
        Command::Schedule(asked) => schedule::run(cli, asked),
        Command::Config { what } => config::run(cli, what),
        Command::Notify { what } => notify::run(cli, what),
        Command::Completions { shell } => pages::completions(*shell),
        Command::Man { dir } => pages::man(dir.as_deref()),
        Command::Demo { dir } => demo::run(cli, dir.as_deref()),
        Command::DemoWriter { database } => demo::write_for_ever(database),
        Command::DemoAgent { agent_config } => demo::serve(agent_config),
    }
}

/// Says on stderr what went wrong and what to do.
pub(crate) fn say_fault(fault: &Fault) {
    eprintln!("error: {fault} [{}]", fault.kind.code());
    if !fault.hint.is_empty() {
        eprintln!("\nhint: {}", fault.hint);
    }
}

/// Prints a fault for scripts: the one object of a command that came to nothing.
pub(crate) fn print_fault(fault: &Fault) {
    println!("{}", serde_json::json!({"v": 1, "error": error_json(fault)}));
}

/// `error` in every object that tells of a fault.
fn error_json(fault: &Fault) -> serde_json::Value {
    let Fault { kind, message, hint } = fault;
    serde_json::json!({"code": kind.word(), "message": message, "hint": hint, "exit": kind.exit()})
}

fn read_config(cli: &Cli) -> Result<Config, Fault> {
    Config::read(cli.common.config.as_deref())
}

fn store_path(cli: &Cli, config: &Config) -> PathBuf {
    cli.common.store.clone().or_else(|| config.store.clone()).unwrap_or_else(default_store)
}

fn open_store(cli: &Cli) -> Result<Store, Fault> {
    Store::open(&store_path(cli, &read_config(cli)?))
}

fn open_or_create_store(cli: &Cli, config: &Config) -> Result<Store, Fault> {
    let at_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    Store::open_or_create(&store_path(cli, config), &KnownStores::in_file(known_stores()), at_terminal)
}

/// Does `work` with every source of `store`; one that fails is told of and stops no other. Gives the worst exit code of what
/// was found in them; where there is none and one failed, that of a part.
fn with_each_source(
    store: &Store,
    mut work: impl FnMut(&SourceDir) -> Result<u8, Fault>,
) -> Result<u8, Fault> {
    let sources = store.sources()?;
    let is_only_one = sources.known.len() + sources.damaged.len() == 1;
    let mut worst = 0;
    let mut failed: Vec<Fault> = Vec::new();
    for source in &sources.known {
        match work(source) {
            Ok(code) => worst = worst.max(code),
            Err(fault) => failed.push(fault),
        }
    }
    failed.extend(sources.damaged.into_iter().map(|damaged| damaged.fault));
    if is_only_one && let Some(fault) = failed.pop() {
        return Err(fault);
    }
    failed.iter().for_each(say_fault);
    Ok(match failed.as_slice() {
        [] => worst,
        _ if worst != 0 => worst,
        _ => Kind::Partly.exit(),
    })
}

/// How the agent of the source that is called `name` is reached: what was typed, else what is configured.
fn door(
    typed: &crate::cli::Door,
    config: &Config,
    name: Option<&str>,
    timeout: Duration,
) -> Result<Door, Fault> {
    let written = config.about(name);
    let remote_agent = match (&typed.remote_agent, written.and_then(|source| source.remote_agent.as_ref())) {
        (Some(typed), _) => Some(typed.clone()),
        (None, Some(written)) => Some(written.parse().map_err(|why| {
            Fault::new(Kind::Config, format!("`remote_agent` of a source is to be {why}"))
                .hint("mend it in the configuration; doc/operations.md lists the keys")
        })?),
        (None, None) => None,
    };
    Ok(Door {
        timeout,
        ssh: typed.ssh.clone().or_else(|| config.ssh.clone()).unwrap_or_else(|| "ssh".into()),
        remote_agent,
        run_as: match (&typed.sudo_user, typed.sudo || written.is_some_and(|source| source.sudo)) {
            (Some(user), _) => RunAs::User(user.clone()),
            (None, true) => RunAs::Owner,
            (None, false) => RunAs::Login,
        },
        at_terminal: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
    })
}

/// What is to be kept of a source whose table is `table`: each rule as it was typed, else as it stands there, else, if the table
/// states none, at the top.
fn rules(
    keep: &crate::cli::Keep,
    config: &Config,
    table: Option<&puller::config::Source>,
) -> puller::policy::Rules {
    let written = table.and_then(|source| source.keep).or(config.keep).unwrap_or_default();
    puller::policy::Rules {
        policy: keep.policy.or(written),
        zone: zone(keep.timezone.as_ref(), config, table),
    }
}

/// The time zone of a source whose table is `table`: as it was typed, else as it stands there, else at the top, else this machine's.
fn zone(
    typed: Option<&puller::policy::Zone>,
    config: &Config,
    table: Option<&puller::config::Source>,
) -> jiff::tz::TimeZone {
    let written = table.and_then(|source| source.timezone.as_ref()).or(config.timezone.as_ref());
    typed.or(written).map_or_else(jiff::tz::TimeZone::system, |zone| zone.0.clone())
}

/// After another copy may have become the newest good one: it is made plain, and `latest.db` leads to it.
fn settle(source: &SourceDir, lock: &puller::source_dir::Lock) -> Result<(), Fault> {
    puller::packing::settle(source, lock)?.iter().for_each(|why| eprintln!("warning: {why}"));
    Ok(())
}

/// How older copies of a source are kept: as its table says, else the top.
fn pack(config: &Config, settings: Option<&puller::config::Source>) -> puller::packing::Pack {
    settings.and_then(|settings| settings.pack).or(config.pack).unwrap_or_default()
}

/// The same of a source that the store has.
fn rules_of(keep: &crate::cli::Keep, config: &Config, source: &SourceDir) -> puller::policy::Rules {
    rules(keep, config, config.table_of(source).map(|(_, table)| table))
}

fn print_line(said: std::fmt::Arguments<'_>) {
    use std::io::{ErrorKind, Write};
    if let Err(error) = writeln!(std::io::stdout(), "{said}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        let fault = Fault::io("standard output", &error);
        eprintln!("error: {fault} [{}]", fault.kind.code());
        std::process::exit(fault.kind.exit().into());
    }
}
