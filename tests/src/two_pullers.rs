//! Two pullers of one agent at once: one makes its first copy over a slow line, the other pulls every second while an
//! application writes.

use crate::databases;
use crate::dice::Dice;
use crate::relay::Relay;
use crate::room;
use crate::sandbox::{Pulled, Sandbox, wait_until};
use crate::served::Served;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is pulled, and how slow the slow line is.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Of the gym.
    pub bytes: u64,
    /// Of what lies beside it in the database and does not compress: several megabytes may lie between an agent and a
    /// line, and only what is more than that shows what a slow line does to an agent.
    pub noise_bytes: u64,
    /// Of the slow line.
    pub bytes_per_second: u64,
    /// What the agent's state may take.
    pub max_state: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The first copy over the slow line.
    pub slow: Pulled,
    /// How long that took.
    pub slow_seconds: f64,
    /// The other puller's pulls meanwhile, its own first copy first, and one more after the application had stopped.
    pub fast: Vec<Pulled>,
    /// The most the agent's state took, files without a name included.
    pub state_bytes_max: u64,
}

/// From the beginning of one pull of the fast puller to the next.
const PULL_EVERY: Duration = Duration::from_secs(1);

/// Between two commits.
const COMMIT_EVERY: Duration = Duration::from_millis(20);

/// Of a row of noise.
const NOISE_BYTES: u64 = 100_000;

/// Pulls so, in `sandbox`. Every second copy of the fast puller is taken while no commit happens, and panics unless it is
/// what the local door gives then; so does the slow puller's, of the state in which it began.
#[track_caller]
pub fn run(sandbox: &Sandbox, setting: Setting) -> Outcome {
    let db = sandbox.db("gym.db");
    databases::gym(&db, setting.bytes, 4096);
    if setting.noise_bytes > 0 {
        make_noise(&db, setting.noise_bytes);
    }
    let lines = format!("max_state = {}", setting.max_state);
    let served = Served::start_with(sandbox, &[("gym", &db)], &lines);
    let state = || room::used(&sandbox.state()) + room::unnamed(served.pid());
    let ((slow, slow_seconds, fast), state_bytes_max) =
        room::largest(state, || both(sandbox, &db, &served, setting.bytes_per_second));
    Outcome { slow, slow_seconds, fast, state_bytes_max }
}

fn make_noise(db: &Path, bytes: u64) {
    let db = Connection::open(db).expect("a gym can be opened");
    let sql = "CREATE TABLE noise(body BLOB); BEGIN";
    db.execute_batch(sql).expect("a table can be made");
    let mut dice = Dice::new(5);
    for _ in 0..bytes / NOISE_BYTES {
        let body = dice.bytes(NOISE_BYTES as usize);
        db.execute("INSERT INTO noise VALUES (?1)", [body]).expect("a row can be written");
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
}

fn both(
    sandbox: &Sandbox,
    db: &Path,
    served: &Served<'_>,
    bytes_per_second: u64,
) -> (Pulled, f64, Vec<Pulled>) {
    let relay = Relay::to(served.address());
    relay.pace(Some(bytes_per_second));
    let through = format!("{}/gym", relay.address());
    let at_first = local(sandbox, db);
    let (application, fast) = (Application::new(db), Mutex::new(Vec::new()));
    let (slow, slow_seconds) = std::thread::scope(|scope| {
        // Whatever panics here, the application stops.
        let _stops = Stops(&application);
        let began = Instant::now();
        let slow = scope.spawn(|| sandbox.pull(&[through.as_str(), "--name", "slow"]));
        wait_until("the first byte over the slow line", || relay.from_agent() > 20_000 || slow.is_finished());
        scope.spawn(|| application.run());
        while !slow.is_finished() {
            let due = Instant::now() + PULL_EVERY;
            let mut fast = fast.lock().expect("nobody panics with the lock");
            let rests = fast.len() % 2 == 1;
            fast.push(pull(sandbox, db, served, rests.then_some(&application)));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let slow = slow.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (slow.succeeds("stored"), began.elapsed().as_secs_f64())
    });
    assert_eq!(slow.snapshot, at_first.snapshot, "the slow puller has what was there when it began");
    let mut fast = fast.into_inner().expect("nobody panicked with the lock");
    fast.push(pull(sandbox, db, served, Some(&application)));
    (slow, slow_seconds, fast)
}

/// A pull of the fast puller; with an `application` that rests meanwhile, its copy is known to be the source.
fn pull(sandbox: &Sandbox, db: &Path, served: &Served<'_>, application: Option<&Application<'_>>) -> Pulled {
    let rest = application.map(|application| application.commits.lock().expect("no commit panics"));
    let pulled = sandbox.pull(&[&served.source("gym"), "--name", "fast", "--keep-last", "2"]);
    assert_eq!(pulled.ran.code(), 0, "{}", pulled.ran);
    if rest.is_some() {
        assert_eq!(pulled.snapshot, local(sandbox, db).snapshot, "{}", pulled.ran);
    }
    pulled
}

fn local(sandbox: &Sandbox, db: &Path) -> Pulled {
    let path = db.to_str().expect("paths of tests are UTF-8");
    let pulled = sandbox.pull(&[path, "--name", "local", "--keep-last", "1"]);
    assert_eq!(pulled.ran.code(), 0, "{}", pulled.ran);
    pulled
}

/// Updates a visit in each commit, until it is to stop.
struct Application<'a> {
    db: &'a Path,
    /// Held while it commits, and by who wants it to rest.
    commits: Mutex<()>,
    stop: AtomicBool,
}

impl<'a> Application<'a> {
    fn new(db: &'a Path) -> Self {
        Self { db, commits: Mutex::new(()), stop: AtomicBool::new(false) }
    }

    fn run(&self) {
        let db = Connection::open(self.db).expect("the application opens its database");
        db.execute_batch("PRAGMA synchronous = NORMAL").expect("settings can be made");
        let sql = "UPDATE access_log SET at = at || 'x' WHERE id = (SELECT 1 + ?1 * 7919 % max(id) FROM access_log)";
        for number in 0_i64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let committing = self.commits.lock().expect("nobody panics with the lock");
            db.execute(sql, [number]).expect("a visit can be updated");
            drop(committing);
            std::thread::sleep(COMMIT_EVERY);
        }
    }
}

struct Stops<'a>(&'a Application<'a>);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
