//! Hooks and the ping: who is told of runs, of what, and that nothing they do changes a run.

use pullback_tests::databases;
use pullback_tests::pinged::{Answer, Pinged};
use pullback_tests::privilege::skip;
use pullback_tests::sandbox::{Pulled, Ran, Sandbox, wait_until};
use pullback_tests::served::Served;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A sandbox with a database, and a configuration.
struct Place {
    sandbox: Sandbox,
    source: PathBuf,
}

/// A hook in the configuration that writes its environment to `told`.
const TELLING: &str = r#"["/bin/sh", "-c", "{ echo; env; } >> ../told"]"#;

/// Every moment a hook can have, in the order of `notify test`.
const MOMENTS: [&str; 6] =
    ["before_pull", "after_pull", "on_failure", "on_recovery", "before_restore", "after_restore"];

impl Place {
    fn new(config: &str) -> Self {
        let sandbox = Sandbox::new();
        let source = sandbox.db("gym.db");
        databases::gym(&source, 200_000, 4096);
        let place = Self { sandbox, source };
        place.configure(config);
        place
    }

    /// The same where every moment has a hook that writes down what it is told.
    fn with_all_hooks(config: &str) -> Self {
        let hook = |moment: &str| format!("{moment} = {TELLING}\n");
        let hooks: String = MOMENTS.map(hook).concat();
        Self::new(&format!("{config}\n[hooks]\n{hooks}"))
    }

    fn configure(&self, config: &str) {
        fs::write(self.sandbox.file("puller.toml"), config).expect("a file can be written");
    }

    #[track_caller]
    fn puller(&self, words: &[&str]) -> Ran {
        let config = self.sandbox.file("puller.toml");
        let words = [&["--config", config.to_str().expect("a plain path")], words].concat();
        self.sandbox.puller(&words)
    }

    /// `puller pull --json` of the database.
    #[track_caller]
    fn pull(&self) -> Pulled {
        Pulled::from_run(self.puller(&["pull", "--json", "./gym.db"]))
    }

    fn hide(&self) {
        fs::rename(&self.source, self.sandbox.db("hidden.db")).expect("a file can be renamed");
    }

    fn show(&self) {
        fs::rename(self.sandbox.db("hidden.db"), &self.source).expect("a file can be renamed");
    }

    /// What hooks were told since this was last asked: of each, the variables that begin with `PULLER_`.
    fn told(&self) -> Vec<BTreeMap<String, String>> {
        let file = self.sandbox.file("told");
        let text = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, "").expect("a file can be written");
        let variables = |block: &str| {
            let pairs = block.lines().filter_map(|line| line.split_once('='));
            let pairs = pairs.filter(|(name, _)| name.starts_with("PULLER_"));
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        text.split("\n\n").map(variables).filter(|told: &BTreeMap<_, _>| !told.is_empty()).collect()
    }

    /// Only which hooks they were.
    fn moments(&self) -> Vec<String> {
        self.told().into_iter().map(|mut told| told.remove("PULLER_HOOK").unwrap_or_default()).collect()
    }
}

/// `[ping]` with a URL.
fn ping(url: &str) -> String {
    format!("[ping]\nurl = \"{url}\"\n")
}

/// The lines of stderr that warn.
fn warnings(ran: &Ran) -> Vec<&str> {
    ran.stderr.lines().filter(|line| line.starts_with("warning: ")).collect()
}

#[test]
fn hooks_are_told_of_each_pull_in_their_environment() {
    let place = Place::with_all_hooks("");
    let stored = place.pull().succeeds("stored");
    let [before, after] = place.told().try_into().expect("two hooks");
    let expected = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let address = place.source.display().to_string();
    // `./gym.db` is known by no other name yet.
    let first = [("PULLER_HOOK", "before_pull"), ("PULLER_SOURCE", "./gym.db"), ("PULLER_ADDRESS", &address)];
    assert_eq!(before, expected(&first));
    let number = |field: &str| stored.json[field].to_string();
    let all = [
        ("PULLER_HOOK", "after_pull"),
        ("PULLER_SOURCE", "local/gym"),
        ("PULLER_ADDRESS", &address),
        ("PULLER_OUTCOME", "stored"),
        ("PULLER_TRANSFER", "full"),
        ("PULLER_SNAPSHOT", &stored.snapshot),
        ("PULLER_COPY", &stored.copy),
        ("PULLER_PATH", &stored.path.display().to_string()),
        ("PULLER_VERDICT", "ok"),
        ("PULLER_CHECKED", "full"),
        ("PULLER_PAGE_SIZE", "4096"),
        ("PULLER_PAGE_COUNT", &number("page_count")),
        ("PULLER_CHANGED_PAGES", &number("changed_pages")),
        ("PULLER_BYTES_RECEIVED", &number("bytes_received")),
        ("PULLER_DURATION_SECONDS", &number("duration_seconds")),
        ("PULLER_EXIT", "0"),
    ];
    assert_eq!(after, expected(&all));

    place.hide();
    let failed = place.pull().fails("missing", 7);
    let [before, failure] = place.told().try_into().expect("two hooks");
    assert_eq!((&*before["PULLER_HOOK"], &*before["PULLER_SOURCE"]), ("before_pull", "local/gym"));
    let text = |pointer: &str| failed.json.pointer(pointer).and_then(|text| text.as_str()).expect("a text");
    let all = [
        ("PULLER_HOOK", "on_failure"),
        ("PULLER_SOURCE", "local/gym"),
        ("PULLER_ADDRESS", &address),
        ("PULLER_OUTCOME", "failed"),
        ("PULLER_DURATION_SECONDS", &failed.json["duration_seconds"].to_string()),
        ("PULLER_EXIT", "7"),
        ("PULLER_ERROR_CODE", "P07"),
        ("PULLER_ERROR_WORD", "missing"),
        ("PULLER_ERROR", text("/error/message")),
        ("PULLER_HINT", text("/error/hint")),
    ];
    assert_eq!(failure, expected(&all));
}

#[test]
fn every_failure_is_told_and_the_first_good_pull_after_it() {
    let place = Place::with_all_hooks("");
    place.pull().succeeds("stored");
    place.hide();
    place.pull().fails("missing", 7);
    place.pull().fails("missing", 7);
    assert_eq!(
        place.moments(),
        ["before_pull", "after_pull", "before_pull", "on_failure", "before_pull", "on_failure"]
    );
    place.show();
    place.pull().succeeds("unchanged");
    assert_eq!(place.moments(), ["before_pull", "after_pull", "on_recovery"]);
    place.pull().succeeds("unchanged");
    assert_eq!(place.moments(), ["before_pull", "after_pull"]);
}

#[test]
fn an_emptied_source_is_a_failure_until_it_is_well_again() {
    let server = Pinged::content();
    let place = Place::with_all_hooks(&ping(&server.url("/p")));
    place.pull().succeeds("stored");
    fs::copy(&place.source, place.sandbox.db("whole.db")).expect("a file can be copied");
    let db = rusqlite::Connection::open(&place.source).expect("a database can be opened");
    db.execute_batch("DROP TABLE access_log; DROP TABLE lockers; DROP TABLE members")
        .expect("tables are there");
    drop(db);
    place.told();
    let suspect = place.pull();
    assert_eq!((suspect.verdict.as_str(), suspect.ran.code()), ("suspect", 4), "{}", suspect.ran);
    let [_, failure] = place.told().try_into().expect("two hooks");
    let said = ["PULLER_HOOK", "PULLER_VERDICT", "PULLER_EXIT", "PULLER_ERROR_CODE", "PULLER_COPY"];
    assert_eq!(said.map(|name| failure[name].as_str()), ["on_failure", "suspect", "4", "P17", &suspect.copy]);
    let last = server.requests().pop().expect("a ping");
    assert_eq!(last.path, "/p/fail");
    assert!(last.body.contains(&suspect.copy) && last.body.contains("[P17]"), "{}", last.body);
    fs::copy(place.sandbox.db("whole.db"), &place.source).expect("a file can be copied");
    place.pull().succeeds("stored");
    assert_eq!(place.moments(), ["before_pull", "after_pull", "on_recovery"]);
}

#[test]
fn no_shell_reads_a_hook() {
    let words = [
        "two words",
        "$(touch ../made)",
        "`touch ../made`",
        "회원 명부",
        "*",
        "",
        "a'b\\\"c",
        "; touch ../made",
    ];
    let written: String = words.map(|word| format!(", '''{word}'''")).concat();
    let script = r#"'printf "<%s>" "$@" > ../words'"#;
    let place =
        Place::new(&format!("[hooks]\nafter_pull = [\"/bin/sh\", \"-c\", {script}, \"sh\"{written}]\n"));
    let pulled = place.pull().succeeds("stored");
    assert_eq!(warnings(&pulled.ran), [""; 0], "{}", pulled.ran);
    let found = fs::read_to_string(place.sandbox.file("words")).expect("the hook was run");
    assert_eq!(found, words.map(|word| format!("<{word}>")).concat());
    assert!(!place.sandbox.file("made").exists());
}

#[test]
fn a_hook_that_fails_is_a_warning_and_changes_nothing_else() {
    let hooks =
        |before: &str, after: &str| format!("[hooks]\nbefore_pull = {before}\nafter_pull = {after}\n");
    let place = Place::new("");
    let keys =
        |pulled: &Pulled| pulled.json.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let plain = place.pull().succeeds("stored");
    let cases = [
        (r#"["/nowhere/at/all"]"#, "`/nowhere/at/all` cannot be run: No such file"),
        (r#"["/bin/sh", "-c", "exit 3"]"#, "it ended with exit code 3"),
        (r#"["/bin/sh", "-c", "kill -9 $$"]"#, "it was ended by a signal: 9"),
        (
            r#"["/bin/sh", "-c", "echo one; printf 'a\\033[2Jb\\n' >&2; exit 1"]"#,
            "it said: one | a\\u{1b}[2Jb",
        ),
    ];
    for (hook, why) in cases {
        place.configure(&hooks(hook, hook));
        let pulled = place.pull().succeeds("unchanged");
        assert_eq!(keys(&pulled), keys(&plain));
        assert_eq!(pulled.ran.stderr.lines().count(), 2, "{}", pulled.ran);
        let [before, after] = warnings(&pulled.ran).try_into().expect("two warnings");
        assert!(before.contains("`before_pull` of `local/gym` failed: ") && before.contains(why), "{before}");
        assert!(after.contains("`after_pull` of `local/gym` failed: ") && after.contains(why), "{after}");
    }
    let quiet = place.puller(&["pull", "-q", "./gym.db"]).exits(0);
    assert_eq!((warnings(&quiet).len(), quiet.stdout.as_str()), (2, ""), "{quiet}");
}

/// The children hold a FIFO open: its end is theirs.
#[test]
fn a_hook_that_hangs_is_killed_with_its_children() {
    let script = "exec 9> ../fifo; echo begun; sleep 50 & sleep 50; wait";
    let place =
        Place::new(&format!("[hooks]\ntimeout = \"1s\"\nafter_pull = [\"/bin/sh\", \"-c\", \"{script}\"]\n"));
    let fifo = place.sandbox.file("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600))
        .expect("a FIFO can be made");
    let began = Instant::now();
    let reader = std::thread::spawn(move || fs::read(fifo).expect("a FIFO can be read"));
    let pulled = place.pull().succeeds("stored");
    reader.join().expect("the FIFO has an end");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let [warning] = warnings(&pulled.ran).try_into().expect("one warning");
    assert!(warning.contains("took longer than 1s and was killed; it said: begun"), "{warning}");
}

#[test]
fn what_a_hook_writes_and_leaves_behind_keeps_no_pull() {
    let script = "yes filling | head -c 3000000; echo the end; sleep 20 &";
    let place = Place::new(&format!("[hooks]\nafter_pull = [\"/bin/sh\", \"-c\", \"{script}\"]\n"));
    let began = Instant::now();
    let pulled = place.puller(&["pull", "-v", "--json", "./gym.db"]).exits(0);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!((pulled.json().len(), warnings(&pulled).len()), (1, 0), "{pulled}");
    let said = pulled.stderr.lines().filter(|line| line.contains("after_pull: ")).collect::<Vec<_>>();
    assert!(said.last().is_some_and(|line| line.contains("the end")), "{pulled}");
    assert!((100..=1024).contains(&said.len()), "8 KiB of it are said, not {} lines", said.len());
    let quiet = place.puller(&["pull", "-q", "./gym.db"]).exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn a_puller_that_a_hook_started_tells_nobody() {
    let server = Pinged::content();
    let place = Place::new("");
    let again = format!(
        "echo >> ../told; {} --config ../puller.toml --store ../store pull -q ./gym.db || echo failed >> ../told",
        pullback_tests::programs::puller().display()
    );
    place.configure(&format!(
        "{}[hooks]\nafter_pull = [\"/bin/sh\", \"-c\", \"{again}\"]\n",
        ping(&server.url("/p"))
    ));
    let pulled = place.pull().succeeds("stored");
    assert_eq!(warnings(&pulled.ran), [""; 0]);
    assert_eq!(fs::read_to_string(place.sandbox.file("told")).expect("the hook was run"), "\n");
    assert_eq!(server.paths(), ["/p/start", "/p"]);
    assert_eq!(place.puller(&["history", "--json", "local/gym"]).exits(0).json().len(), 2);
}

#[test]
fn a_run_that_finds_the_source_locked_leaves_the_telling_to_the_other() {
    let server = Pinged::content();
    let place = Place::with_all_hooks(&ping(&server.url("/p")));
    place.pull().succeeds("stored");
    place.told();
    let lock = fs::File::open(place.sandbox.store().join("local/gym/.lock")).expect("the lock is there");
    lock.try_lock().expect("nobody has it");
    place.puller(&["pull", "./gym.db"]).exits(11);
    assert_eq!(place.moments(), ["before_pull"]);
    assert_eq!(server.paths(), ["/p/start", "/p", "/p/start", "/p/fail"]);
    lock.unlock().expect("it is ours");
    place.pull().succeeds("unchanged");
    assert_eq!(place.moments(), ["before_pull", "after_pull"]);
}

/// Nobody listens at its address until an agent is started there, which is how a machine that was off comes back.
#[test]
fn a_machine_that_may_be_off_is_no_failure_and_is_told_of_when_it_is_back() {
    let server = Pinged::content();
    let place = Place::with_all_hooks("");
    let hooks = fs::read_to_string(place.sandbox.file("puller.toml")).expect("the configuration is there");
    let mut served = Served::start(&place.sandbox, &[("gym", &place.source)]);
    let optional = format!("[source.gym]\naddress = \"{}\"\noptional = true\n", served.source("gym"));
    place.configure(&[hooks, ping(&server.url("/p")), optional].concat());
    let pull = || place.puller(&["pull", "--all", "-q", "--retries", "0"]).exits(0);
    pull();
    served.terminate();
    let off = pull();
    assert_eq!(off.stderr, "");
    assert_eq!(place.moments(), ["before_pull", "after_pull", "before_pull"]);
    served.restart();
    pull();
    let told = place.told();
    assert!(told.iter().all(|told| told["PULLER_SOURCE"] == "gym"), "{told:?}");
    assert_eq!(told[2]["PULLER_HOOK"], "on_recovery");
    assert_eq!(server.paths(), ["/p/start", "/p"].repeat(3));
}

#[test]
fn sources_pulled_at_once_are_told_of_at_once() {
    let place = Place::new("");
    // Each hook waits for the other one's: one after the other, they would be killed.
    let hook = "touch ../began-$PULLER_SOURCE; while ! [ -e ../began-gym ] || ! [ -e ../began-till ]; do sleep 0.02; done";
    databases::gym(&place.sandbox.db("till.db"), 100_000, 4096);
    let table = |name: &str| {
        format!("[source.{name}]\naddress = \"{}\"\n", place.sandbox.db(&format!("{name}.db")).display())
    };
    let hooks = format!("[hooks]\ntimeout = \"20s\"\nbefore_pull = [\"/bin/sh\", \"-c\", \"{hook}\"]\n");
    place.configure(&[hooks, table("gym"), table("till")].concat());
    let ran = place.puller(&["pull", "--all", "-q", "--jobs", "2"]).exits(0);
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_run_that_has_nothing_to_pull_is_told_as_a_failure() {
    let server = Pinged::content();
    let place = Place::new(&ping(&server.url("/p")));
    place.puller(&["pull", "--all"]).exits(10);
    let last = server.requests().pop().expect("a ping");
    assert!(last.path == "/p/fail" && last.body.contains("[P13]"), "{last:?}");
}

#[test]
fn a_dry_run_tells_nobody() {
    let server = Pinged::content();
    let place = Place::with_all_hooks(&ping(&server.url("/p")));
    place.puller(&["pull", "--dry-run", "./gym.db"]).exits(0);
    assert_eq!((place.moments(), server.paths()), (vec![], vec![]));
    place.pull().succeeds("stored");
    assert_eq!((place.moments().len(), server.paths().len()), (2, 2));
}

#[test]
fn a_run_of_several_sources_pings_once_at_its_start_and_once_at_its_end() {
    let server = Pinged::content();
    let place = Place::new(&ping(&server.url("/p/x?create=1")));
    databases::gym(&place.sandbox.db("till.db"), 100_000, 4096);
    place.puller(&["pull", "./gym.db", "./till.db"]).exits(0);
    place.puller(&["pull", "./gym.db", "./nowhere.db", "./till.db"]).exits(3);
    let requests = server.requests();
    let seen: Vec<(&str, &str)> =
        requests.iter().map(|request| (request.method.as_str(), request.path.as_str())).collect();
    assert_eq!(seen, [("GET", "/p/x/start"), ("GET", "/p/x"), ("GET", "/p/x/start"), ("POST", "/p/x/fail")]);
    let runs: Vec<&str> = requests
        .iter()
        .map(|request| request.query.strip_prefix("create=1&rid=").expect("the query stays, and has the run"))
        .collect();
    assert!(runs[0] == runs[1] && runs[2] == runs[3] && runs[0] != runs[2], "{runs:?}");
    assert_eq!(runs[0].len(), 36);
    let body = &requests[3].body;
    assert!(body.contains("nowhere.db") && body.contains("[P07]") && body.contains("hint: "), "{body}");
    assert!(!body.contains("till") && !body.contains("gym"), "{body}");
}

#[test]
fn a_server_that_fails_is_asked_again_and_one_that_refuses_is_not() {
    let ending = |answers: [u16; 3]| {
        // One request for the start comes before.
        Pinged::start(move |before, request| match request.path.as_str() {
            "/p/start" => Answer::Status(200),
            _ => Answer::Status(answers[before - 1]),
        })
    };
    let place = Place::new("");
    for (status, asked, why) in [
        ([500, 503, 200], 3, None),
        ([500, 429, 502], 3, Some("it answered 502 (tries: 3)")),
        ([404, 200, 200], 1, Some("it answered 404 (tries: 1)")),
    ] {
        let server = ending(status);
        place.configure(&ping(&server.url("/p")));
        let pulled = place.puller(&["pull", "-q", "./gym.db"]).exits(0);
        assert_eq!(server.paths().len(), 1 + asked, "{pulled}");
        match why {
            None => assert_eq!(pulled.stderr, ""),
            Some(why) => {
                assert_eq!(pulled.stderr.lines().count(), 1, "{pulled}");
                let [warning] = warnings(&pulled).try_into().expect("one warning");
                assert!(
                    warning.contains(why) && warning.contains("the ping (success) to http://"),
                    "{warning}"
                );
                assert!(!warning.contains("/p "), "the path is the secret of it: {warning}");
            }
        }
    }
}

#[test]
fn a_server_that_is_gone_or_closes_is_one_warning() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port can be listened on");
        format!("http://{}/p", listener.local_addr().expect("a listener has an address"))
    };
    let closing = Pinged::start(|_, _| Answer::Close);
    let place = Place::new("");
    for url in [gone, closing.url("/p")] {
        place.configure(&ping(&url));
        let pulled = place.puller(&["pull", "-q", "./gym.db"]).exits(0);
        assert_eq!(pulled.stderr.lines().count(), 1, "{pulled}");
        assert!(pulled.stderr.starts_with("warning: the ping (success) to http://127.0.0.1:"), "{pulled}");
    }
    assert_eq!(closing.paths().iter().filter(|path| *path == "/p").count(), 3);
}

#[test]
fn a_server_that_never_answers_the_start_holds_up_no_pull() {
    let server = Pinged::start(|_, request| match request.path.as_str() {
        "/p/start" => Answer::Hang,
        _ => Answer::Status(200),
    });
    let place = Place::with_all_hooks(&ping(&server.url("/p")));
    let config = place.sandbox.file("puller.toml");
    let mut command = place.sandbox.command(pullback_tests::programs::puller());
    command.arg("--config").arg(config).arg("--store").arg(place.sandbox.store());
    let began = Instant::now();
    let run = place.sandbox.start(command.args(["pull", "-q", "./gym.db"]));
    wait_until("the end of the pull", || {
        fs::read_to_string(place.sandbox.file("told")).is_ok_and(|told| told.contains("after_pull"))
    });
    assert_eq!(server.paths(), ["/p/start"], "the start was still waited for");
    let ran = run.finish().exits(0);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // The server may see the end before it sees that nobody waits for the start any more.
    let mut paths = server.paths();
    paths.sort_unstable();
    assert_eq!(paths, ["/p", "/p/start", "/p/start given up"]);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    assert!(ran.stderr.contains("the ping (start) to ") && ran.stderr.contains("(tries: 1)"), "{ran}");
}

#[test]
fn a_redirection_is_followed() {
    let server = Pinged::start(|_, request| match request.path.strip_prefix("/old") {
        Some(rest) => Answer::See(format!("/new{rest}")),
        None => Answer::Status(200),
    });
    let place = Place::new(&ping(&server.url("/old")));
    let pulled = place.puller(&["pull", "-q", "./gym.db"]).exits(0);
    assert_eq!(pulled.stderr, "");
    assert_eq!(server.paths(), ["/old/start", "/new/start", "/old", "/new"]);
}

#[test]
fn a_long_log_is_sent_as_its_end() {
    let server = Pinged::content();
    let place = Place::new(&ping(&server.url("/p")));
    let names: Vec<String> =
        (0..60).map(|number| format!("./{number:02}-{}.db", "없음".repeat(30))).collect();
    let words: Vec<&str> = ["pull", "-q"].into_iter().chain(names.iter().map(String::as_str)).collect();
    place.puller(&words).exits(3);
    let body = server.requests().pop().expect("a ping").body;
    assert!((9_990..=10_000).contains(&body.len()), "{}", body.len());
    assert!(body.contains("./59-없음") && !body.contains("./00-"), "{body}");
}

#[test]
fn notify_test_runs_each_hook_and_pings_and_says_what_came_of_it() {
    let server = Pinged::content();
    let place = Place::with_all_hooks(&ping(&server.url("/p")));
    let ran = place.puller(&["notify", "test"]).exits(0);
    for part in [
        "before_pull        ok",
        "after_pull         ok",
        "on_failure         ok",
        "on_recovery        ok",
        "before_restore     ok",
        "after_restore      ok",
        "ping start         ok",
        "it answered 200",
    ] {
        assert!(ran.stdout.contains(part), "`{part}` of {ran}");
    }
    assert_eq!(server.paths(), ["/p/start", "/p"]);
    let told = place.told();
    assert!(told.iter().all(|told| told["PULLER_TEST"] == "1"), "{told:?}");
    assert_eq!(told[2]["PULLER_ERROR_CODE"], "P03");
    let hooks: Vec<&str> = told.iter().map(|told| told["PULLER_HOOK"].as_str()).collect();
    assert_eq!(hooks, MOMENTS);
    assert_eq!(place.puller(&["notify", "test", "-q"]).exits(0).stdout, "");
    place.told();
    place.puller(&["notify", "test", "on_failure"]).exits(0);
    assert_eq!(place.moments(), ["on_failure"]);
    assert_eq!(server.paths().len(), 4);
    assert!(!place.sandbox.store().exists(), "nothing was pulled");
}

#[test]
fn notify_test_fails_where_one_cannot_be_told() {
    let server = Pinged::start(|_, _| Answer::Status(404));
    let place = Place::new(&format!(
        "{}[hooks]\nafter_pull = [\"/nowhere/at/all\"]\non_failure = [\"/bin/sh\", \"-c\", \"echo told\"]\n",
        ping(&server.url("/p"))
    ));
    let ran = place.puller(&["notify", "test", "--json"]).exits(1);
    let found: Vec<(String, bool)> = ran
        .json()
        .iter()
        .map(|line| (line["told"].as_str().unwrap_or_default().to_owned(), line["well"] == true))
        .collect();
    let expected =
        [("after_pull", false), ("on_failure", true), ("ping start", false), ("ping success", false)];
    assert_eq!(found, expected.map(|(told, well)| (told.to_owned(), well)));
    assert_eq!(ran.json()[1]["output"], serde_json::json!(["told"]));
    place.puller(&["notify", "test", "on_failure"]).exits(0);
    place.configure("");
    let nothing = place.puller(&["notify", "test"]).exits(2);
    assert!(
        nothing.stderr.contains("neither a hook nor a ping") && nothing.stderr.contains("[hooks]"),
        "{nothing}"
    );
}

#[test]
fn notify_test_tells_the_hooks_around_a_restore_what_they_decide_upon() {
    let place = Place::with_all_hooks("");
    place.puller(&["notify", "test", "-q", "before_restore", "after_restore"]).exits(0);
    let [before, after] = place.told().try_into().expect("two hooks");
    let common =
        ["PULLER_ADDRESS", "PULLER_COPY", "PULLER_HOOK", "PULLER_SNAPSHOT", "PULLER_SOURCE", "PULLER_TARGET"];
    let known = |told: &BTreeMap<String, String>| -> BTreeSet<String> {
        told.keys().filter(|name| *name != "PULLER_TEST").cloned().collect()
    };
    let (common, more) = (common.map(str::to_owned), ["PULLER_OUTCOME", "PULLER_SAFETY"].map(str::to_owned));
    assert_eq!(known(&before), common.clone().into());
    assert_eq!(known(&after), common.into_iter().chain(more).collect());
    assert_eq!((&*after["PULLER_OUTCOME"], &*after["PULLER_TARGET"]), ("restored", "/nowhere/example.db"));
    assert_ne!(after["PULLER_SAFETY"], after["PULLER_COPY"]);
}

#[test]
fn notify_test_asks_what_judges_a_restore_once() {
    let server = Pinged::start(|_, request| match request.path.as_str() {
        "/well" => Answer::Status(204),
        "/there" => Answer::See("/well".to_owned()),
        _ => Answer::Status(503),
    });
    let place = Place::new("");
    let ask = |path: &str| {
        let url = server.url(path).replace("http://", "http://me:secret@");
        place.configure(&format!("[hooks]\nafter_restore_url = \"{url}\"\nafter_restore_wait = \"1h\"\n"));
        place.puller(&["notify", "test"])
    };
    let well = ask("/there").exits(0);
    assert!(well.stdout.contains("after_restore_url  ok") && well.stderr.is_empty(), "{well}");
    assert_eq!(server.paths(), ["/there", "/well"]);
    let ill = ask("/ill").exits(1);
    let url = server.url("/ill");
    assert!(ill.stderr.contains(&format!("failed  0.0 s: `{url}` failed: it answered 503: `OK`")), "{ill}");
    assert_eq!(server.paths().len(), 3, "nothing was just started that would need a moment");
    let shown = place.puller(&["config", "show"]).exits(0);
    assert!(shown.stdout.contains("after_restore_url") && !shown.stdout.contains("secret"), "{shown}");
    place.puller(&["notify", "test", "ping"]).exits(2);
    place.configure("[hooks]\nafter_restore_url = \"gym:8000/health\"\n");
    let wrong = place.puller(&["config", "check"]).exits(2);
    assert!(wrong.stderr.contains("line 1 (`hooks`): after_restore_url: `gym:8000/…` is no URL"), "{wrong}");
}

/// A web server with TLS and a certificate of its own making, as `openssl` comes with one.
#[test]
fn a_certificate_is_checked_against_those_that_the_system_trusts() {
    const WHAT: &str = "a_certificate_is_checked_against_those_that_the_system_trusts";
    if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
        return skip(WHAT, "there is no `openssl`");
    }
    if !cfg!(target_os = "linux") {
        return skip(WHAT, "trusted certificates can be named by a variable on Linux only");
    }
    let place = Place::new("");
    let (key, certificate) = (place.sandbox.file("key.pem"), place.sandbox.file("certificate.pem"));
    let make = |key: &Path, certificate: &Path| {
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        make.args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        make.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        make.arg("-keyout").arg(key).arg("-out").arg(certificate).stderr(Stdio::null());
        assert!(make.status().expect("openssl can be run").success());
    };
    make(&key, &certificate);
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port can be listened on");
        listener.local_addr().expect("a listener has an address").port()
    };
    let mut serve = place.sandbox.command(Path::new("openssl"));
    serve.args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}")]);
    serve.arg("-key").arg(&key).arg("-cert").arg(&certificate);
    let _served = place.sandbox.start(&mut serve);
    wait_until("the server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    place.configure(&ping(&format!("https://localhost:{port}/p")));
    let pull = |trusted: &Path| {
        let mut command = place.sandbox.command(pullback_tests::programs::puller());
        command.env("SSL_CERT_FILE", trusted).env("SSL_CERT_DIR", place.sandbox.file("home"));
        command
            .arg("--config")
            .arg(place.sandbox.file("puller.toml"))
            .arg("--store")
            .arg(place.sandbox.store());
        place.sandbox.run(command.args(["pull", "-q", "./gym.db"])).exits(0)
    };
    assert_eq!(pull(&certificate).stderr, "");
    let other = place.sandbox.file("other.pem");
    make(&place.sandbox.file("other-key.pem"), &other);
    let refused = pull(&other);
    assert!(refused.stderr.contains("certificate") && refused.stderr.lines().count() == 1, "{refused}");
}
