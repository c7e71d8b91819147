//! An agent that lies cannot hurt the puller: nothing outside the store is written, the disk is not filled, memory and time
//! stay bounded, nothing wrong is listed as good, and no text of its reaches a terminal as it is.

use prost::Message;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{FRAME_BYTES_MAX, check_of};
use pullback_shared::page::PageHash;
use pullback_shared::pb;
use pullback_shared::pb::pull_reply::Is;
use pullback_tests::databases;
use pullback_tests::folder::Folder;
use pullback_tests::liar::{Content, Liar, Replies, Reply, say, true_info};
use pullback_tests::sandbox::{Pulled, Ran, Sandbox};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tonic::{Code, Status};

/// How long a pull may take to end, whatever it is told.
const LIMIT: Duration = Duration::from_secs(60);

/// What the puller may hold in memory at its peak, whatever it is told.
const MEMORY_MAX: u64 = 256 << 20;

/// The same where a schema has SQLite compute values as large as it likes: what SQLite may have for a check, and a little more.
const CHECK_MEMORY_MAX: u64 = 640 << 20;

/// What the store may hold on the disk at any time beside what was there before, where lies are about a small database: the
/// draft, and what SQLite lays beside it.
const DISK_MAX: u64 = 64 << 20;

/// What a terminal would obey, in every way that it can be said.
const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{85}\u{202e}\r\n\u{0}../../../../tmp/x\u{7f}\u{2028}";

/// A puller that has one good copy of what an agent served honestly, until that agent began to lie.
struct Ground {
    outer: TempDir,
    sandbox: Sandbox,
    liar: Liar,
    honest: Content,
    memory_max: u64,
}

impl Ground {
    #[track_caller]
    fn new() -> Self {
        let ground = Self::without_a_copy();
        ground.liar.says(ground.honest.told());
        ground.sandbox.pull(&[ground.liar.source()]).succeeds("stored");
        ground
    }

    #[track_caller]
    fn without_a_copy() -> Self {
        let outer = tempfile::tempdir().expect("a test can do that");
        let sandbox = Sandbox::new_in(outer.path()).with_limit(LIMIT);
        let source = sandbox.db("gym.db");
        databases::gym(&source, 200_000, 4096);
        let honest = canonical(&source);
        let ground = Self { outer, sandbox, liar: Liar::new(), honest, memory_max: MEMORY_MAX };
        // Another source of the same agent's: the store is there, and what puller notes of it.
        ground.liar.says(ground.honest.told());
        ground.sandbox.pull(&[ground.liar.source().replace("gym", "other")]).succeeds("stored");
        ground
    }

    /// All that is not the store.
    fn outside(&self) -> (BTreeSet<String>, Vec<Folder>) {
        let names = |dir: &Path| -> BTreeSet<String> {
            let entries = fs::read_dir(dir).expect("a test can do that");
            entries.map(|entry| entry.expect("a test can do that").path().display().to_string()).collect()
        };
        let mut all = names(self.outer.path());
        all.extend(names(&self.sandbox.file("")));
        all.remove(&self.sandbox.store().display().to_string());
        let folders = ["home", "db", "state"].map(|name| Folder::of(&self.sandbox.file(name)));
        (all, folders.into())
    }

    /// Every copy that is listed, with its verdict.
    #[track_caller]
    fn listed(&self) -> Vec<(Value, Value)> {
        if !self.sandbox.store().exists() {
            return Vec::new();
        }
        let list = self.sandbox.puller(&["list", "--json"]);
        is_fit_for_a_terminal(&list);
        list.json().into_iter().map(|copy| (copy["copy"].clone(), copy["verdict"].clone())).collect()
    }

    /// Runs puller with `arguments` and holds it against all that no lie may bring about.
    #[track_caller]
    fn run<S: AsRef<OsStr>>(&self, lie: &str, arguments: &[S]) -> Ran {
        let (names, folders) = self.outside();
        let before = disk_used(&self.sandbox.store());
        let mut command = self.sandbox.command(pullback_tests::programs::puller());
        command.arg("--store").arg(self.sandbox.store()).args(arguments);
        let running = self.sandbox.start(&mut command);
        let watch = Watch::start(running.pid(), &self.sandbox.store());
        let ran = running.finish();
        let (memory, disk) = watch.end();
        is_fit_for_a_terminal(&ran);
        assert!(memory <= self.memory_max, "{lie}: {memory} bytes of memory, of {ran}");
        assert!(disk <= before + DISK_MAX, "{lie}: {disk} bytes on the disk after {before}, of {ran}");
        let (names_now, folders_now) = self.outside();
        assert_eq!(names, names_now, "{lie}");
        for (then, now) in folders.iter().zip(&folders_now) {
            then.assert_unchanged(now, lie);
        }
        ran
    }

    /// Pulls, in words and then as JSON, while the agent tells `lie`; both fail with one of `words` and change no copy.
    #[track_caller]
    fn fails(&self, lie: &str, words: &[&str]) {
        let listed = self.listed();
        let ran = self.run(lie, &["pull", &self.liar.source()]);
        assert!(ran.stderr.contains("was not pulled: "), "{lie}: a sentence, of {ran}");
        let pulled = Pulled::from_run(self.run(lie, &["pull", "--json", &self.liar.source()]));
        assert_eq!(pulled.outcome, "failed", "{lie}: {}", pulled.ran);
        assert!(words.contains(&pulled.error.as_str()), "{lie}: not one of {words:?}, of {}", pulled.ran);
        assert_eq!(ran.code(), pulled.ran.code(), "{lie}: in words and as JSON");
        assert_eq!(self.listed(), listed, "{lie}: what is listed");
    }

    /// The same of each lie; at the end the copy that was there is whole, and an honest agent is pulled from as ever.
    #[track_caller]
    fn all_fail(&self, lies: Vec<(&str, &[&str], Vec<Reply>)>) {
        for (lie, words, replies) in lies {
            self.liar.says(replies);
            self.fails(lie, words);
        }
        self.is_as_ever();
    }

    /// As [`Self::fails`], and so does asking what a pull would move.
    #[track_caller]
    fn goes_on_for_ever(&self, lie: &str) {
        self.fails(lie, BROKEN);
        self.run(lie, &["pull", "--dry-run", &self.liar.source()]).exits(1);
    }

    #[track_caller]
    fn is_as_ever(&self) {
        self.liar.says(self.honest.told());
        let pulled = self.sandbox.pull(&[self.liar.source()]);
        assert_eq!(pulled.snapshot, self.honest.snapshot().to_string(), "{}", pulled.ran);
        assert_eq!((pulled.verdict.as_str(), pulled.ran.code()), ("ok", 0), "{}", pulled.ran);
        self.sandbox.puller(&["verify", "--all"]).exits(0);
    }

    fn offer(&self, change: impl FnOnce(&mut pb::Offer)) -> Reply {
        let mut offer = self.honest.offer();
        change(&mut offer);
        say(Is::Offer(offer))
    }

    /// A first frame that was changed.
    fn frame(&self, change: impl FnOnce(&mut pb::Frame)) -> Reply {
        let mut frame = self.honest.frame(1, 3);
        change(&mut frame);
        say(Is::Frame(frame))
    }

    fn done(&self, change: impl FnOnce(&mut pb::Done)) -> Reply {
        let mut done = self.honest.done();
        change(&mut done);
        say(Is::Done(done))
    }

    /// A true offer, then `replies`, then a true end.
    fn between(&self, replies: Vec<Reply>) -> Vec<Reply> {
        let mut all = vec![self.offer(|_| ())];
        all.extend(replies);
        all.push(self.done(|_| ()));
        all
    }

    /// The offer of a delta that leads elsewhere, `frame`, and its end.
    fn delta(&self, change: impl FnOnce(&mut pb::Frame)) -> Vec<Reply> {
        let other = vec![7; 32];
        let offer = self.offer(|offer| {
            offer.delta = true;
            offer.snapshot_id = other.clone().into();
            offer.pages = 3;
        });
        vec![offer, self.frame(change), self.done(|done| done.snapshot_id = other.into())]
    }
}

/// The content of the database at `path` in one file, as the canonical form has it.
fn canonical(path: &Path) -> Content {
    Connection::open(path)
        .expect("a test can do that")
        .query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
        .expect("a test can do that");
    Content::of(path)
}

/// Nothing in what `ran` printed can be obeyed by a terminal.
#[track_caller]
fn is_fit_for_a_terminal(ran: &Ran) {
    for (name, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        let obeyed = |c: char| {
            c.is_control() && c != '\n' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        let found = text.chars().find(|c| obeyed(*c));
        assert!(found.is_none(), "{found:?} on {name} of {}", ran.command);
    }
}

/// Bytes of `dir` that are on the disk.
fn disk_used(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_used(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(of).sum()
}

/// Looks at a process, and at what a folder takes of the disk, until the process ends.
struct Watch {
    over: Arc<AtomicBool>,
    disk: Arc<AtomicU64>,
    watching: std::thread::JoinHandle<u64>,
}

impl Watch {
    fn start(pid: u32, dir: &Path) -> Self {
        let (over, disk, dir) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), dir.to_owned());
        let (is_over, most) = (Arc::clone(&over), Arc::clone(&disk));
        let watching = std::thread::spawn(move || {
            let mut memory = 0;
            while !is_over.load(Ordering::Relaxed) {
                // Without a /proc there is nothing to see, and the limit on memory is not looked at.
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
                memory = memory.max(peak.unwrap_or(0) * 1024);
                most.fetch_max(disk_used(&dir), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            memory
        });
        Self { over, disk, watching }
    }

    /// The most memory and the most bytes on the disk that were seen.
    fn end(self) -> (u64, u64) {
        self.over.store(true, Ordering::Relaxed);
        let memory = self.watching.join().expect("a test can do that");
        if memory == 0 && !cfg!(target_os = "linux") {
            eprintln!("SKIPPED: the memory of a process is not looked at on this system");
        }
        (memory, self.disk.load(Ordering::Relaxed))
    }
}

const BROKEN: &[&str] = &["protocol"];
const UNPROVEN: &[&str] = &["unproven"];
/// After two proofs that failed the puller builds upon nothing, and then a delta leads from nowhere.
const ASTRAY: &[&str] = &["unproven", "protocol"];

#[test]
fn shapes_and_sizes_that_cannot_be_are_refused_before_anything_is_made() {
    let ground = Ground::new();
    let shape = |page_size: u32, page_count: u32| {
        vec![ground.offer(|offer| (offer.page_size, offer.page_count) = (page_size, page_count))]
    };
    ground.all_fail(vec![
        ("pages of 0 bytes", BROKEN, shape(0, 10)),
        ("pages of 1 byte", BROKEN, shape(1, 10)),
        ("pages of 65537 bytes", BROKEN, shape(65537, 10)),
        ("pages of 2^31 bytes", BROKEN, shape(1 << 31, 10)),
        ("2^32-1 pages", BROKEN, shape(512, u32::MAX)),
        ("2^32-2 pages of 64 KiB", &["no_space"], shape(65536, u32::MAX - 1)),
        ("a snapshot id of 31 bytes", BROKEN, vec![ground.offer(|o| o.snapshot_id = vec![1; 31].into())]),
        ("no facts", BROKEN, vec![ground.offer(|offer| offer.source = None)]),
        ("an empty message", BROKEN, vec![Ok(pb::PullReply { is: None })]),
        (
            "a delta of another page size",
            BROKEN,
            vec![ground.offer(|offer| {
                (offer.delta, offer.page_size) = (true, 512);
            })],
        ),
        ("no more than an offer", &["lost"], vec![ground.offer(|_| ())]),
        ("nothing at all", &["lost", "unreachable"], Vec::new()),
    ]);
    // What is only said of the source, and never reckoned with, may be any number.
    let mut told = ground.honest.told();
    told[0] = ground.offer(|offer| {
        (offer.pages, offer.bytes) = (u32::MAX, 1 << 63);
        let source = offer.source.as_mut().expect("a test can do that");
        (source.file_bytes, source.wal_bytes, source.mode) = (1 << 63, u64::MAX, u32::MAX);
        (source.uid, source.gid, source.change_counter) = (u32::MAX, u32::MAX, u32::MAX);
    });
    *told.last_mut().expect("a test can do that") = ground.done(|done| done.held_micros = u64::MAX);
    ground.liar.says(told);
    for arguments in [["pull", "--json"], ["pull", "--full"]] {
        ground.run("sizes of 2^63", &[&arguments[..], &[&ground.liar.source()]].concat()).exits(0);
    }
    ground.is_as_ever();
}

/// A zstd frame that says nothing of its length and unpacks to `megabytes` MiB of zeros.
fn bomb(megabytes: u64) -> Vec<u8> {
    zstd::stream::encode_all(std::io::repeat(0).take(megabytes << 20), 19).expect("a test can do that")
}

fn gzip_bomb(megabytes: u64) -> Vec<u8> {
    let mut gzip =
        flate2::read::GzEncoder::new(std::io::repeat(0).take(megabytes << 20), flate2::Compression::best());
    let mut bytes = Vec::new();
    gzip.read_to_end(&mut bytes).expect("a test can do that");
    bytes
}

#[test]
fn frames_that_are_not_what_they_say_come_to_nothing() {
    let ground = Ground::without_a_copy();
    let count = ground.honest.geometry.page_count;
    let with = |change: &dyn Fn(&mut pb::Frame)| ground.between(vec![ground.frame(change)]);
    let bombs = [bomb(1024), gzip_bomb(200)];
    let whole = ground.honest.frame(1, count);
    ground.all_fail(vec![
        ("an empty frame", BROKEN, ground.between(vec![say(Is::Frame(pb::Frame::default()))])),
        ("a frame of no pages", UNPROVEN, with(&|frame| frame.runs.clear())),
        ("runs of no pages", UNPROVEN, with(&|frame| frame.runs = [1, 0].repeat(100_000))),
        ("half a run", BROKEN, with(&|frame| frame.runs = vec![1])),
        ("a page 0", BROKEN, with(&|frame| frame.runs = vec![0, 3])),
        ("pages beyond the end", UNPROVEN, with(&|frame| frame.runs = vec![count, 3])),
        ("more pages than there are", BROKEN, with(&|frame| frame.runs = vec![1, u32::MAX])),
        (
            "runs that add up beyond all numbers",
            BROKEN,
            with(&|frame| frame.runs = [1, u32::MAX].repeat(50_000)),
        ),
        ("a run over the last number", UNPROVEN, with(&|frame| frame.runs = vec![u32::MAX, 3])),
        ("one page more than its payload", UNPROVEN, with(&|frame| frame.runs = vec![1, 4])),
        ("one page less than its payload", UNPROVEN, with(&|frame| frame.runs = vec![1, 2])),
        ("a zstd bomb", UNPROVEN, with(&|frame| frame.payload = bombs[0].clone().into())),
        (
            "a gzip bomb",
            UNPROVEN,
            with(&|frame| {
                frame.payload = bombs[1].clone().into();
                frame.compression = pb::Compression::Gzip.into();
            }),
        ),
        ("a payload that is none", UNPROVEN, with(&|frame| frame.payload = vec![0xff; 5000].into())),
        (
            "a payload of more than 1 MiB",
            BROKEN,
            with(&|frame| {
                frame.payload = vec![0; FRAME_BYTES_MAX + 1].into();
                frame.compression = pb::Compression::None.into();
            }),
        ),
        ("a message of 3 MiB", BROKEN, with(&|frame| frame.payload = vec![0; 3 << 20].into())),
        ("an unknown compression", BROKEN, with(&|frame| frame.compression = 99)),
        ("no compression", BROKEN, with(&|frame| frame.compression = 0)),
        ("an unknown encoding", BROKEN, with(&|frame| frame.encoding = 99)),
        ("a wrong check value", UNPROVEN, with(&|frame| frame.check ^= 1)),
        ("a patch of nothing", UNPROVEN, with(&|frame| frame.encoding = pb::Encoding::Patch.into())),
        (
            "pages moved from nothing",
            UNPROVEN,
            with(&|frame| {
                frame.encoding = pb::Encoding::Moved.into();
                frame.moved_from = vec![1, 2, 3];
                frame.payload = Vec::new().into();
            }),
        ),
        (
            "pages rebuilt from nothing",
            UNPROVEN,
            with(&|frame| {
                frame.encoding = pb::Encoding::Rebuilt.into();
                frame.rebuilt_from = vec![1];
            }),
        ),
        ("a frame before the offer", BROKEN, vec![ground.frame(|_| ())]),
        ("two offers", BROKEN, vec![ground.offer(|_| ()), ground.offer(|_| ())]),
        ("a delta to nothing", BROKEN, vec![ground.offer(|offer| offer.delta = true)]),
        (
            "some pages once more",
            BROKEN,
            ground.between(vec![say(Is::Frame(whole.clone())), ground.frame(|_| ())]),
        ),
        ("half of the pages", UNPROVEN, ground.between(vec![ground.frame(|_| ())])),
        (
            "one page twice and another never",
            UNPROVEN,
            ground.between(vec![
                ground.frame(|_| ()),
                ground.frame(|_| ()),
                say(Is::Frame(ground.honest.frame(4, count - 6))),
            ]),
        ),
        (
            "pages of another snapshot",
            UNPROVEN,
            ground.between(vec![say(Is::Frame(pb::Frame {
                payload: vec![7; 4096].into(),
                runs: vec![2, 1],
                compression: pb::Compression::None.into(),
                check: check_of(&[PageHash::of(&[7; 4096])]),
                ..whole.clone()
            }))]),
        ),
    ]);
    // An honest agent may send pages in any order.
    let frames = (1..=count).rev().map(|no| say(Is::Frame(ground.honest.frame(no, 1)))).collect();
    ground.liar.says(ground.between(frames));
    ground.run("pages in reverse", &["pull", "--full", &ground.liar.source()]).exits(0);
}

#[test]
fn deltas_that_lead_nowhere_come_to_nothing() {
    let ground = Ground::new();
    let count = ground.honest.geometry.page_count;
    let encoded = |encoding: pb::Encoding, from: Vec<u32>| {
        ground.delta(|frame| {
            frame.encoding = encoding.into();
            match encoding {
                pb::Encoding::Moved => (frame.moved_from, frame.payload) = (from, Vec::new().into()),
                _ => frame.rebuilt_from = from,
            }
        })
    };
    use pb::Encoding::{Moved, Patch, Rebuilt};
    let inflating = bomb(1024);
    ground.all_fail(vec![
        ("a patch that is none", ASTRAY, encoded(Patch, Vec::new())),
        ("moved from another number of pages", ASTRAY, encoded(Moved, vec![1; 100_000])),
        ("moved from beyond the base", ASTRAY, encoded(Moved, vec![count + 1; 3])),
        ("moved from page 0", BROKEN, encoded(Moved, vec![0, 1, 2])),
        ("moved, with a check value that is wrong", ASTRAY, encoded(Moved, vec![4, 5, 6])),
        ("rebuilt from nothing", ASTRAY, encoded(Rebuilt, Vec::new())),
        ("rebuilt from beyond the base", ASTRAY, encoded(Rebuilt, vec![count + 1])),
        ("rebuilt from 100,000 pages", BROKEN, encoded(Rebuilt, vec![1; 100_000])),
        ("rebuilt from 4,096 pages of 4 KiB", ASTRAY, encoded(Rebuilt, vec![1; 4096])),
        (
            "a rebuilt bomb",
            ASTRAY,
            ground.delta(|frame| {
                frame.encoding = Rebuilt.into();
                frame.rebuilt_from = vec![1, 2];
                frame.payload = inflating.into();
            }),
        ),
        ("plain pages and another name", ASTRAY, ground.delta(|_| ())),
        (
            "unchanged, and shorter",
            ASTRAY,
            vec![
                ground.offer(|offer| (offer.delta, offer.page_count) = (true, count - 1)),
                ground.done(|_| ()),
            ],
        ),
        (
            "unchanged, and another name at the end",
            BROKEN,
            vec![
                ground.offer(|offer| offer.delta = true),
                ground.done(|done| done.snapshot_id = vec![7; 32].into()),
            ],
        ),
        (
            "no name, no page, and another name at the end",
            ASTRAY,
            vec![
                ground.offer(|offer| (offer.delta, offer.snapshot_id) = (true, Vec::new().into())),
                ground.done(|done| done.snapshot_id = vec![7; 32].into()),
            ],
        ),
        (
            "the name of the base, and pages that are not",
            ASTRAY,
            vec![
                ground.offer(|offer| offer.delta = true),
                say(Is::Frame(pb::Frame {
                    payload: vec![7; 4096].into(),
                    compression: pb::Compression::None.into(),
                    check: check_of(&[PageHash::of(&[7; 4096])]),
                    ..ground.honest.frame(2, 1)
                })),
                ground.done(|_| ()),
            ],
        ),
    ]);
}

#[test]
fn an_end_that_is_none_comes_to_nothing() {
    let ground = Ground::new();
    let ending = |done: Reply| {
        let mut told = ground.honest.told();
        *told.last_mut().expect("a test can do that") = done;
        told
    };
    let fault = |code: &str, text: &str| {
        let fault = pb::Fault { code: code.into(), message: text.into(), hint: text.into() };
        Err(Status::with_details(Code::Internal, "x", fault.encode_to_vec().into()))
    };
    let long = HOSTILE.repeat(20_000);
    let said = Fault::new(Kind::Usage, HOSTILE.repeat(20)).hint(HOSTILE.repeat(20)).to_status();
    ground.all_fail(vec![
        (
            "another name at the end",
            BROKEN,
            ending(ground.done(|done| done.snapshot_id = vec![1; 32].into())),
        ),
        ("an end without a name", BROKEN, ending(ground.done(|done| done.snapshot_id = Vec::new().into()))),
        ("a wrong MD5", UNPROVEN, ending(ground.done(|done| done.md5 = vec![1; 16].into()))),
        ("an MD5 of 17 bytes", BROKEN, ending(ground.done(|done| done.md5 = vec![1; 17].into()))),
        ("an end before the offer", BROKEN, vec![ground.done(|_| ())]),
        ("a fault that nobody knows", &["internal"], ending(fault("HACKED", HOSTILE))),
        ("a fault without a word", &["lost", "protocol"], ending(fault("", HOSTILE))),
        ("a fault of 500 kB", &["lost", "internal", "protocol"], ending(fault("busy", &long))),
        (
            "a fault of 500 kB at first",
            &["unreachable", "lost", "internal", "protocol"],
            vec![fault("busy", &long)],
        ),
        ("a fault of hostile words", &["usage"], vec![Err(said)]),
        (
            "details that are none",
            &["lost", "protocol"],
            ending(Err(Status::with_details(Code::Unknown, HOSTILE, vec![0xff; 1000].into()))),
        ),
        (
            "a code of every kind of its own",
            &["lost", "protocol"],
            ending(Err(Status::new(Code::Cancelled, HOSTILE))),
        ),
    ]);
    // What comes after the end was never part of the pull.
    let mut more = ground.honest.told();
    more.extend([ground.frame(|_| ()), ground.done(|done| done.snapshot_id = vec![1; 32].into())]);
    ground.liar.says(more);
    ground.run("frames after the end", &["pull", "--full", &ground.liar.source()]).exits(0);
    ground.is_as_ever();
}

#[test]
fn what_never_ends_is_given_up() {
    let ground = Ground::new();
    let endless = |before: Vec<Reply>, again: Reply| {
        ground.liar.pulls(move |_| -> Replies {
            Box::new(before.clone().into_iter().chain(std::iter::repeat(again.clone())))
        });
    };
    let offer = ground.offer(|_| ());
    endless(Vec::new(), say(Is::Reading(pb::Reading { pages_read: 1, page_count: 2 })));
    ground.goes_on_for_ever("it reads and reads");
    endless(vec![offer.clone()], say(Is::Reading(pb::Reading { pages_read: u32::MAX, page_count: 0 })));
    ground.goes_on_for_ever("it reads and reads after its offer");
    endless(Vec::new(), say(Is::NeedHashes(pb::NeedHashes {})));
    ground.goes_on_for_ever("it asks for hashes again and again");
    endless(Vec::new(), offer.clone());
    ground.goes_on_for_ever("it offers and offers");
    endless(vec![offer.clone()], ground.frame(|_| ()));
    ground.goes_on_for_ever("it sends frames for ever");
    // Each round of this is well-formed, and a little nearer to its end.
    let (offer, frame, rounds) = (ground.honest.offer(), ground.frame(|_| ()), AtomicU64::new(0));
    let done = ground.honest.done();
    ground.liar.pulls(move |_| {
        let round = rounds.fetch_add(1, Ordering::Relaxed) as u32;
        let mut offer = offer.clone();
        offer.no_mirror_because = format!("{round} {}", HOSTILE.repeat(500));
        let done = pb::Done { pages_missing: u32::MAX - round, ..done.clone() };
        Box::new([say(Is::Offer(offer)), frame.clone(), say(Is::Done(done))].into_iter())
    });
    ground.fails("rounds without end", &["protocol", "no_space"]);
    ground.is_as_ever();
}

/// Every text of an offer, as long as a message holds.
fn hostile_offer(offer: &mut pb::Offer, times: usize) {
    let text = HOSTILE.repeat(times);
    offer.full_because.clone_from(&text);
    offer.no_mirror_because.clone_from(&text);
    let source = offer.source.as_mut().expect("a test can do that");
    source.path.clone_from(&text);
    source.agent_version.clone_from(&text);
    source.sqlite_version = text;
}

#[test]
fn words_of_the_agent_reach_no_terminal_as_they_are_and_name_no_file() {
    let ground = Ground::new();
    let mut told = ground.honest.told();
    told[0] = ground.offer(|offer| hostile_offer(offer, 3000));
    ground.liar.says(told);
    for json in [&["--json"][..], &[]] {
        ground.run("hostile words", &[&["pull", "--full"], json, &[&ground.liar.source()]].concat()).exits(0);
        for command in ["list", "history", "status", "sources", "show", "info"] {
            ground.run("hostile words, later", &[&[command], json].concat());
        }
        ground.run("hostile words, shown", &[&["show", "127.0.0.1/gym", "latest"], json].concat());
    }
    // An unknown journal mode is a word of the protocol's.
    ground.liar.says(vec![
        ground.offer(|offer| offer.source.as_mut().expect("a test can do that").journal = HOSTILE.to_owned()),
    ]);
    ground.fails("a journal mode of its own", BROKEN);
    ground.is_as_ever();
}

#[test]
fn what_an_agent_says_is_there_harms_nobody() {
    let ground = Ground::new();
    ground.liar.says(ground.honest.told());
    let text = || HOSTILE.to_owned();
    let database = |size: u64, times: usize| pb::DatabaseInfo {
        name: HOSTILE.repeat(times),
        path: HOSTILE.repeat(times),
        problem: None,
        file_bytes: size,
        wal_bytes: size,
        shm_bytes: size,
        journal_bytes: size,
        modified_at: size.cast_signed(),
        journal: text(),
        page_size: size as u32,
        page_count: size as u32,
        free_pages: size as u32,
        encoding: text(),
        auto_vacuum: text(),
        user_version: size.cast_signed(),
        application_id: size.cast_signed(),
        tables: (0..times as i64).map(|rows| pb::TableInfo { name: text(), rows: i64::MIN + rows }).collect(),
        disk_free: size,
        disk_total: 0,
        owner: Some(size as u32),
    };
    let reply = |databases: Vec<pb::DatabaseInfo>| pb::InfoReply {
        protocol: u32::MAX,
        agent_version: text(),
        sqlite_version: text(),
        databases,
        state_free: u64::MAX,
        state_total: 0,
        agent_path: "/bin/sh -c reboot".to_owned(),
        user: 0,
        now: i64::MAX,
    };
    let problem =
        pb::Fault { code: HOSTILE.into(), message: HOSTILE.repeat(2000), hint: HOSTILE.repeat(2000) };
    let sick = pb::DatabaseInfo { problem: Some(problem), ..database(0, 1) };
    for (lie, reply) in [
        ("nothing is there", reply(Vec::new())),
        ("numbers of 2^63", reply(vec![database(1 << 63, 1)])),
        ("numbers of 2^64-1", reply(vec![database(u64::MAX, 1)])),
        ("long words and many tables", reply(vec![database(7, 3000)])),
        ("10,000 databases", reply(vec![database(7, 1); 4000])),
        ("a sick database", reply(vec![sick])),
        ("3 MiB", reply(vec![database(1, 30_000)])),
    ] {
        ground.liar.informs(Ok(reply));
        for arguments in [&["info"][..], &["info", "--json"], &["info", "--tables"], &["pull", "--dry-run"]] {
            let ran = ground.run(lie, &[arguments, &[&ground.liar.source()]].concat());
            assert!(matches!(ran.code(), 0 | 1 | 5), "{lie}: {ran}");
            assert!(ran.code() == 0 || !ran.stderr.is_empty(), "{lie}: {ran}");
        }
    }
    ground.liar.informs(Ok(true_info()));
    ground.is_as_ever();
}

/// A database made by `sql`, with its schema written over where `sql` does that.
fn made(ground: &Ground, sql: &str) -> Content {
    let path = ground.sandbox.db("hostile.db");
    let _ = fs::remove_file(&path);
    let db = Connection::open(&path).expect("a test can do that");
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)
        .expect("a test can do that");
    db.execute_batch("PRAGMA page_size = 512; PRAGMA writable_schema = ON; PRAGMA foreign_keys = OFF")
        .expect("a test can do that");
    db.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    drop(db);
    Content::of(&path)
}

/// A table `t` of `rows` rows whose schema is `hostile` afterwards.
fn written_over(rows: u32, hostile: &str) -> String {
    format!(
        "CREATE TABLE t(a); WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT {rows})
         INSERT INTO t SELECT n FROM r; UPDATE sqlite_schema SET sql = '{}' WHERE name = 't'",
        hostile.replace('\'', "''")
    )
}

/// Views and triggers that never end, and one of each thing that runs when somebody writes.
const ENDLESS: &str = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r";

#[track_caller]
fn check_sql(ground: &Ground, lie: &str, sql: &str, verdicts: &[&str]) {
    let content = made(ground, sql);
    ground.liar.says(content.told());
    let source = ground.liar.source();
    ground.run(lie, &["pull", &source]);
    let pulled = Pulled::from_run(ground.run(lie, &["pull", "--json", &source]));
    assert!(matches!(pulled.outcome.as_str(), "stored" | "unchanged"), "{lie}: {}", pulled.ran);
    assert!(verdicts.contains(&pulled.verdict.as_str()), "{lie}: {}", pulled.ran);
    assert_eq!(pulled.snapshot, content.snapshot().to_string(), "{lie}: {}", pulled.ran);
    let name = "127.0.0.1/gym";
    for arguments in [
        &["show", name, &pulled.copy][..],
        &["sql", name, "SELECT count(*) FROM sqlite_schema"],
        &["list"],
        &["status"],
        &["verify", name],
        &["info", "--tables", &source],
        &["drill", name],
    ] {
        ground.run(lie, arguments);
    }
}

#[test]
fn a_hostile_database_does_nothing_but_lie_there() {
    let ground = Ground::without_a_copy();
    let good = &["ok"][..];
    check_sql(
        &ground,
        "triggers and views",
        &format!(
            "CREATE TABLE t(a); CREATE VIEW v AS {ENDLESS}; INSERT INTO t VALUES (1);
             CREATE TRIGGER i AFTER INSERT ON t BEGIN DELETE FROM t; INSERT INTO t SELECT n FROM v; END;
             CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO t SELECT load_extension('/tmp/x.so'); END;
             CREATE TRIGGER u INSTEAD OF INSERT ON v BEGIN SELECT writefile('/tmp/x', 'x'); END;
             CREATE VIEW w AS SELECT * FROM w2; CREATE VIEW w2 AS SELECT * FROM w"
        ),
        good,
    );
    // Made by hand for the most part: SQLite reads the whole schema again for each table that it makes.
    let tables = (0..1000).map(|n| format!("CREATE TABLE t{n}(a PRIMARY KEY, b UNIQUE) WITHOUT ROWID;"));
    let tables = format!(
        "BEGIN; {} COMMIT; WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT 20000)
         INSERT INTO sqlite_schema SELECT 'view', 'v' || n, 'v' || n, 0, 'CREATE VIEW v' || n || ' AS SELECT * FROM t1, v' || (n - 1) FROM r",
        tables.collect::<String>()
    );
    check_sql(&ground, "a huge schema", &tables, good);
    let anything = &["ok", "violations", "damaged", "uncheckable", "suspect"][..];
    for (lie, sql) in [
        ("a view that says it is a table", format!(
            "CREATE TABLE t(a); CREATE VIEW v AS {ENDLESS}; UPDATE sqlite_schema SET type = 'table' WHERE name = 'v'"
        )),
        ("names that a terminal would obey",
            "CREATE TABLE t(a NOT NULL); CREATE TABLE u(a UNIQUE);
             UPDATE sqlite_schema SET name = char(27,91,50,74,155,8238,10) || '../../x', rootpage = 1 WHERE name = 'u'".to_owned()),
        ("two tables in one page", "CREATE TABLE t(a); CREATE TABLE u(a); INSERT INTO t VALUES (1);
             UPDATE sqlite_schema SET rootpage = 1".to_owned()),
        ("a table in no page", "CREATE TABLE t(a); UPDATE sqlite_schema SET rootpage = 4294967294".to_owned()),
        ("a schema that is no SQL", "CREATE TABLE t(a); UPDATE sqlite_schema SET sql = 'CREATE DROP'".to_owned()),
        ("statistics that lie", "CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1); ANALYZE;
             UPDATE sqlite_stat1 SET stat = '9223372036854775807 -1 x'".to_owned()),
        ("code that only the application has", written_over(
            9, "CREATE TABLE t(a CHECK(load_extension('/tmp/x.so')), b AS (edit(a)), c COLLATE evil)",
        )),
    ] {
        check_sql(&ground, lie, &sql, anything);
    }
}

#[test]
fn a_database_whose_check_is_a_trap_is_no_trap() {
    let ground = Ground { memory_max: CHECK_MEMORY_MAX, ..Ground::without_a_copy() };
    let anything = &["violations", "damaged", "uncheckable"][..];
    for (lie, rows, sql) in [
        (
            "a CHECK that takes 1 GB of memory",
            3,
            "CREATE TABLE t(a CHECK(length(randomblob(1000000000)) < 0))",
        ),
        (
            "a CHECK that takes gigabytes",
            3,
            "CREATE TABLE t(a CHECK(length(hex(zeroblob(450000000)) || a) < 0))",
        ),
        ("a column that is made of 900 MB", 3, "CREATE TABLE t(a, b AS (hex(zeroblob(450000000))) NOT NULL)"),
    ] {
        check_sql(&ground, lie, &written_over(rows, sql), anything);
    }
}
