//! `puller open`: a copy in the `sqlite3` shell, or in another program, to look around in.

use crate::cli::Cli;
use pullback_shared::fault::{Fault, Kind};
use puller::unpacked::Unpacked;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// What `puller open` is asked.
#[derive(clap::Args)]
pub(crate) struct Open {
    /// The source
    source: String,
    /// A copy: `latest`, `latest~2`, an id as `list` shows it, or the beginning of one
    #[arg(default_value = "latest")]
    copy: String,
    /// Another program, which is given the file [default: sqlite3 -readonly]
    #[arg(long, env = "PULLER_PROGRAM", value_name = "PROGRAM")]
    program: Option<PathBuf>,
}

pub(crate) fn run(cli: &Cli, asked: &Open) -> Result<u8, Fault> {
    let source = super::open_store(cli)?.named(&asked.source)?;
    let copy = source.copy_to_restore(&asked.copy)?;
    let unpacked = Unpacked::proven(&source, &copy)?;
    let path = puller::address::absolute(unpacked.path());
    if !cli.common.quiet {
        eprintln!("{}: {}, for reading", source.shown(), copy.id);
    }
    let program = asked.program.as_deref().unwrap_or(Path::new("sqlite3"));
    let mut command = Command::new(program);
    if asked.program.is_none() {
        command.arg("-readonly");
    }
    // Ctrl-C is for the program, which may have more to do: this one waits, and takes away what was unpacked.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fault::new(Kind::Internal, format!("no runtime: {error}")))?;
    let _within = runtime.enter();
    let _heard =
        signal(SignalKind::interrupt()).map_err(|error| Fault::io("the signal of Ctrl-C", &error))?;
    command.arg(&path).status().map_err(|error| cannot_start(program, &asked.source, &error))?;
    Ok(0)
}

fn cannot_start(program: &Path, source: &str, error: &std::io::Error) -> Fault {
    let shown = program.display();
    let (kind, why) = match error.kind() {
        std::io::ErrorKind::NotFound => (Kind::Io, format!("there is no program `{shown}` here")),
        _ => (Kind::Io, format!("`{shown}` cannot be started: {error}")),
    };
    Fault::new(kind, why).hint(format!(
        "`puller sql {source} 'SELECT …'` needs no other program; `--program` names another one"
    ))
}
