//! Where the bench works: a folder with databases, and places with an agent process and a store each.

use crate::disk::Disk;
use crate::meter::{self, Counters, Run};
use crate::source;
use pullback_tests::programs;
use pullback_tests::relay::Relay;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use serde_json::Value;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How long an agent may give no sign of life: longer than any line of the bench stands still.
const TIMEOUT: &str = "3m";

/// A folder of the bench's own, gone with the value.
pub(crate) struct Workshop {
    dir: PathBuf,
    databases: PathBuf,
    updates: Cell<u64>,
    _folder: TempDir,
}

impl Workshop {
    /// Opens one in `dir`, or where temporary files go. Databases that are to be kept lie in `dir` itself.
    pub(crate) fn open(dir: Option<&Path>, keep_databases: bool) -> Self {
        let dir = dir.map_or_else(std::env::temp_dir, Path::to_owned);
        std::fs::create_dir_all(&dir).expect("the folder to work in can be made");
        let dir = dir.canonicalize().expect("the folder to work in has a path");
        let folder = tempfile::Builder::new().prefix("pullback-bench-").tempdir_in(&dir);
        let folder = folder.expect("a folder to work in can be made");
        let databases = if keep_databases { dir } else { folder.path().to_owned() };
        Self { dir: folder.path().to_owned(), databases, updates: Cell::new(0), _folder: folder }
    }

    /// A file of the bench's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The database called `name`, made by `make` unless an earlier run left it.
    pub(crate) fn database(&self, name: &str, make: impl FnOnce(&Path)) -> PathBuf {
        let path = self.databases.join(format!("bench-{name}.db"));
        if !path.exists() {
            eprintln!("making the database `{name}` …");
            let unfinished = self.file("unfinished.db");
            make(&unfinished);
            std::fs::rename(&unfinished, &path).expect("a database can be renamed");
        }
        path
    }

    /// Removes `database`, unless it is to be kept.
    pub(crate) fn done_with(&self, database: &Path) {
        if self.databases == self.dir {
            std::fs::remove_file(database).expect("a database can be removed");
        }
    }

    /// Updates random members of `database`, other ones each time.
    pub(crate) fn update_members(&self, database: &Path) {
        self.updates.set(self.updates.get() + 1);
        source::update_members(database, self.updates.get());
    }

    /// A place with an empty store and an agent without state.
    pub(crate) fn place(&self) -> Place {
        Place { disk: None, sandbox: Sandbox::new_in(&self.dir) }
    }

    /// The same with a disk of its own for the agent's state, with room for that of a database of `bytes`.
    pub(crate) fn place_with_disk(&self, bytes: u64) -> Option<Place> {
        let sandbox = Sandbox::new_in(&self.dir);
        let disk = Disk::mount(&sandbox.state(), &sandbox.file("state.img"), 3 * bytes + 256 * source::MB)?;
        Some(Place { disk: Some(disk), sandbox })
    }
}

/// A store, and the state of an agent.
pub(crate) struct Place {
    /// Of the state, if that has one of its own. Unmounted before the sandbox is cleared away.
    disk: Option<Disk>,
    sandbox: Sandbox,
}

/// A pull, and what both programs took for it.
pub(crate) struct Pull {
    /// The puller.
    pub(crate) puller: Run,
    /// The agent, which served nothing else, without its start.
    pub(crate) agent: Counters,
    /// Bytes written to the disk of the agent's state, if that has one of its own.
    pub(crate) state_disk_bytes: Option<f64>,
    json: Value,
}

impl Pull {
    /// A figure in the puller's report.
    pub(crate) fn figure(&self, field: &str) -> Option<f64> {
        self.json[field].as_f64()
    }

    /// The file of the copy.
    pub(crate) fn copy(&self) -> PathBuf {
        PathBuf::from(self.json["path"].as_str().unwrap_or_default())
    }
}

impl Place {
    /// Pulls `database` from an agent process that is started for it, with what there is in the place. It must end as
    /// `outcome`. An application has the database open meanwhile, as it has a live one: what lies beside it is the
    /// application's, and not made and removed by the agent.
    pub(crate) fn pull(&self, database: &Path, verify: &str, outcome: &str) -> Pull {
        let _application = source::application(database);
        let agent = Served::start(&self.sandbox, &[("gym", database)]);
        self.watch(&agent, agent.address(), verify, outcome)
    }

    /// The same through a relay, and the bytes that came from the agent and went to it. The agent logs nothing, so that
    /// what it writes is its state alone; the relay makes a pull a little slower, and never faster.
    pub(crate) fn pull_by_relay(&self, database: &Path, verify: &str, outcome: &str) -> (Pull, [f64; 2]) {
        let _application = source::application(database);
        let mut silent = self.sandbox.command(programs::agent());
        silent.env("PULLBACK_AGENT_LOG", "off");
        let agent = Served::start_by(&self.sandbox, &[("gym", database)], "reserve = \"0\"", silent);
        let relay = Relay::to(agent.address());
        let pull = self.watch(&agent, &relay.address(), verify, outcome);
        (pull, [relay.from_agent() as f64, relay.to_agent() as f64])
    }

    /// Removes what agents have kept here.
    pub(crate) fn forget(&self) {
        let state = self.sandbox.state();
        std::fs::remove_dir_all(&state).expect("an agent's state can be removed");
        std::fs::create_dir(&state).expect("a folder can be made");
    }

    /// Pulls from `agent` at `address`, and sees what both programs take for it.
    fn watch(&self, agent: &Served<'_>, address: &str, verify: &str, outcome: &str) -> Pull {
        let started = meter::at_rest(agent.pid());
        let written = || self.disk.as_ref().and_then(Disk::written);
        let written_before = written();
        let puller = self.pull_at(&format!("{address}/gym"), verify);
        let json: Value = serde_json::from_str(puller.stdout.trim()).unwrap_or_default();
        assert_eq!(json["outcome"], outcome, "how a pull ended: {}", puller.stdout);
        let agent = meter::at_rest(agent.pid()).since(started);
        let state_disk_bytes = written().zip(written_before).map(|(now, before)| now - before);
        Pull { puller, agent, state_disk_bytes, json }
    }

    /// Starts an agent that serves `database`, for several pulls.
    pub(crate) fn serve(&self, database: &Path) -> Served<'_> {
        Served::start(&self.sandbox, &[("gym", database)])
    }

    /// The same with more lines of configuration.
    pub(crate) fn serve_with(&self, database: &Path, lines: &str) -> Served<'_> {
        Served::start_with(&self.sandbox, &[("gym", database)], lines)
    }

    /// Removes the state of the agent, which is not to run.
    pub(crate) fn forget_state(&self) {
        std::fs::remove_dir_all(self.sandbox.state()).expect("state can be removed");
    }

    /// Pulls from `agent`.
    pub(crate) fn pull_from(&self, agent: &Served<'_>, verify: &str) -> Run {
        self.pull_at(&agent.source("gym"), verify)
    }

    /// Pulls from `source`, `HOST:PORT/NAME`.
    pub(crate) fn pull_at(&self, source: &str, verify: &str) -> Run {
        let run = self.try_pull_at(source, verify);
        assert!(run.status.success(), "a pull failed: {}", run.stdout);
        run
    }

    /// The same, for a pull that may fail.
    pub(crate) fn try_pull_at(&self, source: &str, verify: &str) -> Run {
        let mut command = self.sandbox.command(programs::puller());
        command.arg("--store").arg(self.sandbox.store()).arg("--json").arg("pull").arg(source);
        // Each agent process listens on a port of its own: the name says that they are one source.
        command.args(["--name", "gym", "--verify", verify, "--keep-last", "2", "--timeout", TIMEOUT]);
        // What earlier runs left to be written is written, so that nobody's fsync pays for it.
        rustix::fs::sync();
        meter::run(&mut command).expect("puller can be started")
    }
}
