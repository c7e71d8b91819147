//! What each command does; nothing imports this but `main`, and `cli` what may be asked.

/// As the standard one, but a reader that left (`… | head -1`) is no fault of ours: what was asked is done all the same.
macro_rules! println {
    ($($said:tt)*) => { $crate::commands::print_line(format_args!($($said)*)) };
}

mod backup;
mod doctor;
pub(crate) mod explain;
mod info;
pub(crate) mod init;
mod pages;
pub(crate) mod pair;
pub(crate) mod peers;
mod serve;
mod stdio;

use crate::cli::{Cli, Command, ConfigCommand};
use pullback_agent::config::{Config, default_config_path, default_state_dir};
use pullback_agent::users;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::shell_word;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The configuration with every key.
const EXAMPLE: &str = include_str!("../../../deploy/agent.toml");

/// Runs what was asked; gives the exit code.
pub(crate) fn run(cli: &Cli) -> Result<u8, Fault> {
    match &cli.command {
        Command::Serve => serve::run(cli),
        Command::Stdio { database } => stdio::run(cli, database),
        Command::Backup { database, file } => backup::run(cli, database, file),
        Command::Info { database, tables } => info::run(cli, database.as_deref(), *tables),
        Command::Init(asked) => init::run(cli, asked),
        Command::Pair(asked) => pair::run(cli, asked),
        Command::Peers { what } => peers::run(cli, what),
        Command::Doctor => doctor::run(cli),
        Command::Explain(asked) => explain::run(cli, asked),
        Command::Config { what: ConfigCommand::Path } => {
            let (path, state_dir) = (config_path(cli), default_state_dir());
            match cli.common.json {
                true => println!("{}", serde_json::json!({"v": 1, "config": path, "state_dir": state_dir})),
                false => {
                    println!("configuration  {}", path.display());
                    println!("state          {}, unless `state_dir` names another", state_dir.display());
                }
            }
            Ok(0)
        }
        Command::Completions { shell } => pages::completions(*shell),
        Command::Man { dir } => pages::man(dir.as_deref()),
        Command::Config { what: ConfigCommand::Example } => {
            println!("{}", EXAMPLE.trim_end());
            Ok(0)
        }
        Command::Config { what: ConfigCommand::Check } => {
            let (path, databases) = (config_path(cli), config(cli)?.databases);
            let names: Vec<&String> = databases.keys().collect();
            match cli.common.json {
                true => println!(
                    "{}",
                    serde_json::json!({"v": 1, "config": path, "right": true, "databases": names})
                ),
                false if cli.common.quiet => {}
                false => println!("`{}` is right; databases: {}", path.display(), names.len()),
            }
            Ok(0)
        }
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

/// What carries the connections; the work itself is done by threads of its own.
fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| Fault::new(Kind::Internal, format!("no runtime: {error}")))
}

fn config_path(cli: &Cli) -> PathBuf {
    cli.common.config.clone().unwrap_or_else(default_config_path)
}

fn config(cli: &Cli) -> Result<Config, Fault> {
    Config::read(&config_path(cli))
}

/// What is written into a state directory by another user than its own could not be read by the agent.
fn check_owner(config: &Config) -> Result<(), Fault> {
    let Some(state_dir) = &config.settings.state_dir else { return Ok(()) };
    let Ok(there) = state_dir.metadata() else { return Ok(()) };
    if there.uid() == users::me() {
        return Ok(());
    }
    let (owner, me) = (users::shown(there.uid()), users::shown(users::me()));
    Err(Fault::new(
        Kind::Refused,
        format!("`{}` is the agent's of `{owner}`, and this runs as `{me}`", state_dir.display()),
    )
    .hint(format!("run it as that user: `sudo -u {} pullback-agent …`", shell_word(&owner))))
}

fn print_line(said: std::fmt::Arguments<'_>) {
    use std::io::{ErrorKind, Write};
    if let Err(error) = writeln!(std::io::stdout(), "{said}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        let fault = Fault::io("standard output", &error);
        say_fault(&fault);
        std::process::exit(fault.kind.exit().into());
    }
}
