//! `puller demo`: a live database, a plain `cp` and a proven copy of the same moment, side by side on one screen.
//!
//! Real processes throughout: a writer that commits without pause, an agent on loopback, and this program as its puller. What
//! `cp` lost is counted in what it made, not known beforehand.

use super::progress::Bar;
use super::text;
use crate::cli::Cli;
use pullback_agent::serve::Ready;
use pullback_shared::fault::{Fault, Kind};
use puller::address::Address;
use puller::client::Client;
use puller::demo_database::{self, newest_commit};
use puller::judge::Verify;
use puller::pull::{Options, Pulled, Run};
use puller::source_dir::SourceDir;
use puller::ssh::Door;
use puller::store::{KnownStores, Store};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The database's name at the agent.
const NAME: &str = "gym";

/// Commits the writer makes before anything is copied.
const COMMITS_FIRST: i64 = 3000;

/// How long the writer and the agent may take to be there.
const START_WAIT: Duration = Duration::from_secs(30);

/// How long the agent may give no sign of life.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A process that ends with the demo, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for, so that nothing is left running.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(cli: &Cli, dir: Option<&Path>) -> Result<u8, Fault> {
    let dir = place(dir)?;
    let database = dir.join("gym.db");
    let writer = start(&["demo-writer"], &database, Stdio::null())?;
    let before = wait_for_commits(&database, COMMITS_FIRST)?;
    let (agent, address) = start_agent(&dir, &database)?;
    let store =
        Store::open_or_create(&dir.join("store"), &KnownStores::in_file(dir.join("state/stores")), true)?;
    let mut source = store.create(&address, Some(NAME))?;
    let first = pull(cli, &mut source, &address)?;
    // The same moment, two ways: what `cp` takes, and, begun after it, a pull.
    let committed = newest_commit(&database)?.max(before);
    let plain = dir.join("plain-cp.db");
    fs::copy(&database, &plain).map_err(|error| Fault::io(format!("`{}`", plain.display()), &error))?;
    let second = pull(cli, &mut source, &address)?;
    drop(agent);
    drop(writer);
    let in_plain = newest_commit(&plain);
    let path = source.file(&second.manifest.copy, "db");
    let in_copy = newest_commit(&path)?;
    let pulls = [("first", &first), ("second", &second)];
    match cli.common.json {
        true => println!("{}", as_json(committed, in_plain.as_ref().ok().copied(), in_copy, &pulls, &path)),
        false => show(committed, &in_plain, in_copy, &pulls, &path, &dir),
    }
    match in_copy >= committed {
        true => Ok(0),
        false => Err(Fault::new(Kind::Internal, format!("the copy has {in_copy} commits of {committed}"))),
    }
}

fn place(dir: Option<&Path>) -> Result<PathBuf, Fault> {
    let made = match dir {
        Some(dir) => puller::durable::make_dir(dir).map(|()| dir.to_owned()),
        None => tempfile::Builder::new().prefix("pullback-demo-").tempdir().map(tempfile::TempDir::keep),
    };
    let dir = made.map_err(|error| Fault::io("a place for the demo", &error))?;
    let empty = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
    match empty {
        true => dir.canonicalize().map_err(|error| Fault::io(format!("`{}`", dir.display()), &error)),
        false => {
            Err(Fault::new(Kind::Usage, format!("`{}` is not empty", dir.display()))
                .hint("name a new directory"))
        }
    }
}

/// Starts this program once more, as another process.
fn start(words: &[&str], argument: &Path, stdout: Stdio) -> Result<Running, Fault> {
    let failed = |error: std::io::Error| {
        Fault::new(Kind::Internal, format!("`{}` cannot be started: {error}", words.join(" ")))
    };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(words).arg(argument).stdin(Stdio::piped()).stdout(stdout);
    command.spawn().map(Running).map_err(failed)
}

fn wait_for_commits(database: &Path, count: i64) -> Result<i64, Fault> {
    let began = Instant::now();
    while began.elapsed() < START_WAIT {
        if let Ok(newest) = newest_commit(database)
            && newest >= count
        {
            return Ok(newest);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Fault::new(Kind::Internal, "the demo's writer does not write"))
}

fn start_agent(dir: &Path, database: &Path) -> Result<(Running, Address), Fault> {
    let config = dir.join("agent.toml");
    let quoted = |path: &Path| toml::Value::from(path.to_string_lossy().as_ref()).to_string();
    let text = format!(
        "listen = \"127.0.0.1:0\"\ntls = \"off\"\nstate_dir = {}\n\n[database.{NAME}]\npath = {}\n",
        quoted(&dir.join("agent-state")),
        quoted(database),
    );
    fs::write(&config, text).map_err(|error| Fault::io(format!("`{}`", config.display()), &error))?;
    let mut agent = start(&["demo-agent"], &config, Stdio::piped())?;
    let mut line = String::new();
    let stdout = agent.0.stdout.take().expect("BUG: the agent's output is not piped");
    let read = BufReader::new(stdout).read_line(&mut line);
    let typed = line.trim().strip_prefix("listening on ").map(|address| format!("{address}/{NAME}"));
    match (read, typed) {
        (Ok(_), Some(typed)) => {
            let address = Address::parse(&typed)?
                .ok_or_else(|| Fault::new(Kind::Internal, "the demo's agent has no address"))?;
            Ok((agent, address))
        }
        _ => Err(Fault::new(Kind::Internal, "the demo's agent did not start")),
    }
}

fn pull(cli: &Cli, source: &mut SourceDir, address: &Address) -> Result<Pulled, Fault> {
    let lock = source.lock()?;
    let bar = Bar::new(cli, NAME);
    let options = Options {
        verify: Verify::Full,
        full: false,
        rules: None,
        pack: None,
        expect: BTreeMap::new(),
        path: None,
        is_safety: false,
        imported: None,
    };
    let now = puller::clock::now()?;
    let client = Client::open(address, &Door::new(TIMEOUT))?;
    let pulled = Run { source, lock: &lock, options: &options, now, watch: &bar }.pull(client);
    bar.clear();
    pulled
}

fn as_json(
    committed: i64,
    in_plain: Option<i64>,
    in_copy: i64,
    pulls: &[(&str, &Pulled)],
    path: &Path,
) -> serde_json::Value {
    let pulls: Vec<_> = pulls
        .iter()
        .map(|(_, pulled)| {
            serde_json::json!({
                "transfer": pulled.transfer, "bytes_received": pulled.bytes_received,
                "changed_pages": pulled.changed_pages, "held_seconds": pulled.held.as_secs_f64(),
                "verdict": pulled.manifest.verdict.word(), "copy": pulled.manifest.copy,
            })
        })
        .collect();
    serde_json::json!({"v": 1, "committed": committed, "in_plain_cp": in_plain, "in_copy": in_copy, "pulls": pulls, "path": path})
}

fn show(
    committed: i64,
    in_plain: &Result<i64, Fault>,
    in_copy: i64,
    pulls: &[(&str, &Pulled)],
    path: &Path,
    dir: &Path,
) {
    println!("A database in WAL mode, and another process that commits to it without pause.");
    println!("When the copying began, {committed} commits were done.\n");
    match in_plain {
        Ok(found) if *found < committed => {
            println!(
                "  cp gym.db            has {found}: the newest {} commits are lost, and nothing says so",
                committed - found
            );
        }
        Ok(found) => {
            println!("  cp gym.db            has {found}: this time it was right; nothing promises that")
        }
        Err(fault) => println!("  cp gym.db            cannot be read: {fault}"),
    }
    println!(
        "  puller pull          has {in_copy}: every one of them, and the {} done while it began\n",
        in_copy - committed
    );
    for (which, pulled) in pulls {
        let (manifest, received) = (&pulled.manifest, text::bytes(pulled.bytes_received));
        println!(
            "  {which:<6} pull  {:<5} transfer of {}, {received} received, {} pages; source held {:.1} ms; {}",
            pulled.transfer,
            text::bytes(manifest.bytes),
            pulled.changed_pages,
            pulled.held.as_secs_f64() * 1000.0,
            manifest.verdict,
        );
    }
    println!(
        "\nThe copy is one plain SQLite file, read back, equal to snapshot {:.12}, checked by SQLite:",
        pulls[1].1.manifest.snapshot
    );
    println!("  {}", path.display());
    println!("\nNothing is left running. `rm -rf {}` removes all of it.", dir.display());
    println!("Your own database: `puller pull ./app.db`");
}

/// The writer: another process that commits until it is killed, or until the demo that started it is gone.
pub(crate) fn write_for_ever(database: &Path) -> Result<u8, Fault> {
    end_with_parent();
    demo_database::write_for_ever(database)
}

/// The agent: another process, the same code as `pullback-agent serve`.
pub(crate) fn serve(config: &Path) -> Result<u8, Fault> {
    end_with_parent();
    let internal = |error: std::io::Error| Fault::new(Kind::Internal, error.to_string());
    let config = pullback_agent::config::Config::read(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(internal)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(internal)?;
        println!("listening on {}", listener.local_addr().map_err(internal)?);
        Ready::new(config)?.serve(listener, std::future::pending()).await
    })?;
    Ok(0)
}

/// Our standard input is a pipe that the demo holds: its end is the demo's end, even if that was killed.
fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}
