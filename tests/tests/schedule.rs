//! `puller schedule` with the real schedulers: what they are given is theirs to judge, and each runs it.

use pullback_tests::databases;
use pullback_tests::privilege::{self, NOBODY, as_nobody, give_to_nobody, skip};
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::served::Served;
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A name with all that some scheduler takes for something else.
const HOSTILE: &str = "a b%h%%'\"\\ $HOME;#&<]]> 한글";

/// The same without what systemd refuses in the path of a program.
const HOSTILE_PROGRAM: &str = "a b%h%% $HOME;#&<]]> 한글";

/// The crontab of a user that has none: as it was before, when the value goes. The machine has one, so that tests that run
/// in other processes wait as well.
struct NobodysCrontab {
    before: Vec<u8>,
    alone: fs::File,
}

impl NobodysCrontab {
    fn take(what: &str) -> Option<Self> {
        if !privilege::is_root() {
            skip(what, "only root can change a crontab that is nobody's");
            return None;
        }
        if Command::new("crontab").arg("-l").output().is_err() {
            skip(what, "there is no `crontab`");
            return None;
        }
        let alone = std::env::temp_dir().join("pullback-tests-crontab.lock");
        let alone = fs::File::create(alone).expect("a lock file can be made");
        alone.lock().expect("the lock file can be locked");
        Some(Self { before: read_crontab(), alone })
    }
}

impl Drop for NobodysCrontab {
    fn drop(&mut self) {
        match self.before.is_empty() {
            true => drop(crontab("-r").output()),
            false => write_crontab(&self.before),
        }
        // A child that another test starts may hold the same file for a moment.
        let _ = self.alone.unlock();
    }
}

fn crontab(argument: &str) -> Command {
    let mut command = Command::new("crontab");
    command.arg(argument).uid(NOBODY).gid(NOBODY).current_dir("/").env("LC_ALL", "C");
    command
}

fn read_crontab() -> Vec<u8> {
    let output = crontab("-l").output().expect("crontab can be run");
    if output.status.success() { output.stdout } else { Vec::new() }
}

fn write_crontab(text: &[u8]) {
    use std::io::Write;
    let mut child = crontab("-").stdin(Stdio::piped()).spawn().expect("crontab can be run");
    child.stdin.take().expect("a pipe").write_all(text).expect("crontab reads");
    assert!(child.wait().expect("crontab ends").success());
}

/// A database of nobody's, in a folder with a hostile name.
fn nobodys_database(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.file("home").join(HOSTILE);
    fs::create_dir(&folder).expect("a folder can be made");
    let source = folder.join("gym.db");
    databases::gym(&source, 100_000, 4096);
    give_to_nobody(&folder);
    give_to_nobody(&source);
    source
}

fn log(sandbox: &Sandbox, job: &str) -> PathBuf {
    sandbox.file("home").join(format!("xdg_state_home/pullback/log/{job}.log"))
}

fn installed() -> bool {
    !read_crontab().is_empty()
}

/// Runs our line of the crontab as cron does.
fn as_cron(sandbox: &Sandbox) -> Output {
    let text = String::from_utf8_lossy(&read_crontab()).into_owned();
    let line = text.lines().find(|line| line.ends_with("# puller schedule pull")).expect("a line of ours");
    let mut command = line;
    for _ in 0..5 {
        command = command.split_once(' ').expect("five fields").1;
    }
    // Up to the first `%` that has no `\` before it, as crontab(5) has it; none may be left.
    let unescaped = command.replace("\\%", "%");
    assert_eq!(unescaped.len() + command.matches('%').count(), command.len(), "a bare % in {command}");
    let home = sandbox.file("home");
    let mut sh = Command::new("/bin/sh");
    sh.args(["-c", &unescaped]).env_clear().env("HOME", &home).env("SHELL", "/bin/sh");
    sh.env("PATH", "/usr/bin:/bin").env("LOGNAME", "nobody").current_dir(&home).uid(NOBODY).gid(NOBODY);
    sh.stdin(Stdio::null()).output().expect("a shell can be run")
}

#[test]
fn cron_runs_its_line_in_silence_or_gets_one_paragraph_and_other_lines_stay() {
    let Some(_crontab) = NobodysCrontab::take("a line of cron") else { return };
    let sandbox = Sandbox::new();
    let source = nobodys_database(&sandbox);
    let foreign = b"# a comment, with a bare % and \xff\xfe\nMAILTO=me\n\n\t@daily  /bin/true % x  \n0 9 * * * /bin/true # puller schedule pull-up\n".to_vec();
    write_crontab(&foreign);
    let puller = |words: &[&str]| {
        let mut command = as_nobody(&sandbox, programs::puller());
        sandbox.run(command.args(words).env("PULLER_STORE", sandbox.file("home").join("store")))
    };
    let source_word = source.to_str().expect("UTF-8");

    let ran = puller(&["schedule", "install", "--with", "cron", "--yes", "pull", source_word]).exits(0);
    assert!(ran.stdout.contains("the first run: ok"), "{ran}");
    let new = read_crontab();
    let line = new.strip_prefix(&foreign[..]).expect("the other lines stay, and ours is the last");
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    let shown = String::from_utf8_lossy(line).into_owned();
    assert!(ran.stdout.contains(&shown), "the line is shown: {ran}");
    puller(&["schedule", "install", "--with", "cron", "--yes", "pull", source_word]).exits(0);
    assert_eq!(read_crontab(), new, "to install again changes nothing");

    let ran = as_cron(&sandbox);
    assert_eq!((ran.status.code(), ran.stdout, ran.stderr), (Some(0), Vec::new(), Vec::new()));
    assert_eq!(puller(&["--json", "list"]).exits(0).json().len(), 1, "there is a copy");
    let status = puller(&["--json", "schedule", "status"]).exits(0).only_json();
    assert_eq!((&status["scheduler"], &status["last"]["exit"]), (&"cron".into(), &0.into()), "{status}");
    assert_eq!(status["when"], "daily at 09:00");
    assert!(status["next"].is_string(), "{status}");

    fs::rename(&source, source.with_extension("away")).expect("a file can be renamed");
    let ran = as_cron(&sandbox);
    let said = String::from_utf8(ran.stderr).expect("UTF-8");
    assert_eq!((ran.status.code(), ran.stdout), (Some(7), Vec::new()));
    assert!(said.contains("no such file [P07]") && said.contains("\nhint: "), "{said}");
    assert!(!said.trim().contains("\n\n"), "one paragraph: {said}");
    let status = puller(&["schedule", "status"]).exits(13);
    assert!(status.stdout.contains("failed with exit code 7: `"), "{status}");
    let again = puller(&["schedule", "install", "--with", "cron", "--yes", "pull", source_word]).exits(7);
    assert!(again.stderr.contains("the schedule stays"), "{again}");
    assert_eq!(read_crontab(), new);

    puller(&["schedule", "uninstall", "verify"]).exits(0);
    assert_eq!(read_crontab(), new);
    puller(&["schedule", "uninstall", "pull"]).exits(0);
    assert_eq!(read_crontab(), foreign);
    puller(&["schedule", "uninstall", "--all"]).exits(0);
    assert_eq!(read_crontab(), foreign);
    assert!(log(&sandbox, "pull").exists(), "the log stays");
}

#[test]
fn pull_and_verify_are_jobs_side_by_side() {
    let Some(_crontab) = NobodysCrontab::take("two jobs") else { return };
    let sandbox = Sandbox::new();
    let source = nobodys_database(&sandbox);
    write_crontab(b"");
    let puller = |words: &[&str]| sandbox.run(as_nobody(&sandbox, programs::puller()).args(words));
    puller(&["pull", source.to_str().expect("UTF-8"), "--name", "gym"]).exits(0);
    let other = sandbox.file("home/Library/LaunchAgents/com.github.pullback.pull.plist");
    fs::create_dir_all(other.parent().expect("a folder")).expect("a folder can be made");
    fs::write(&other, "of another scheduler").expect("a file can be written");
    for folder in other.ancestors().take(3) {
        give_to_nobody(folder);
    }
    for words in [&["pull", "--hourly", "--keep-days", "9"][..], &["verify", "--at", "21:30"]] {
        puller(&[&["schedule", "install", "--with", "cron", "--yes"], words].concat()).exits(0);
    }
    assert!(!other.exists(), "a job has one scheduler");
    let text = String::from_utf8(read_crontab()).expect("UTF-8");
    assert!(text.contains("'pull' '--keep-days' '9' # puller schedule pull\n"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("30 21 * * * ") && line.ends_with("schedule verify")));
    let jobs = puller(&["--json", "schedule", "status"]).exits(0).json();
    let whens: Vec<&Value> = jobs.iter().map(|job| &job["when"]).collect();
    assert_eq!(whens, ["hourly", "daily at 21:30"]);
    puller(&["schedule", "uninstall", "pull"]).exits(0);
    let rest = String::from_utf8(read_crontab()).expect("UTF-8");
    assert!(rest.ends_with("# puller schedule verify\n") && rest.lines().count() == 1, "{rest}");
}

#[test]
fn a_sample_is_proven_each_day_and_a_drill_made_each_sunday() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 50_000, 4096);
    for _ in 0..3 {
        sandbox.pull(&[&source]).succeeds("stored");
        databases::visits_in_the_wal(&source, 5);
    }
    for (job, calendar) in
        [("verify", "OnCalendar=*-*-* 10:00:00"), ("drill", "OnCalendar=Sun *-*-* 11:00:00")]
    {
        let units = printed(&sandbox, programs::puller(), &["--with", "systemd", job]);
        let (name, timer) = units.iter().find(|(name, _)| name.ends_with(".timer")).expect("a timer");
        assert!(name.contains(job) && timer.lines().any(|line| line == calendar), "{units:?}");
    }
    let later = "2096-01-01T00:00:00Z";
    for job in ["verify", "drill"] {
        let mut command = sandbox.command(programs::puller());
        command.arg("--store").arg(sandbox.store()).args(["schedule", "run", job]).env("PULLER_NOW", later);
        let ran = sandbox.run(&mut command).exits(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{ran}");
    }
    let copies = sandbox.puller(&["list", "gym", "--json"]).exits(0).json();
    let proven = |copy: &&Value| {
        let id = copy["copy"].as_str().expect("an id");
        sandbox.puller(&["show", "gym", id, "--json"]).exits(0).only_json()["proven_at"] == later
    };
    assert_eq!(copies.iter().filter(proven).count(), 1, "one of three, at 4%");
    let history = sandbox.puller(&["history", "gym", "--json"]).exits(0).json();
    assert_eq!(
        history.last().map(|line| (&line["run"], &line["outcome"])),
        Some((&"drill".into(), &"passed".into()))
    );
}

/// What `schedule install --print` shows, by file name.
fn printed(sandbox: &Sandbox, program: &Path, words: &[&str]) -> Vec<(String, String)> {
    let mut command = sandbox.command(program);
    let ran = sandbox.run(command.args(["--json", "schedule", "install", "--print"]).args(words)).exits(0);
    let json = ran.only_json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let name = |place: String| Path::new(&place).file_name().expect("a name").to_string_lossy().into_owned();
    let texts = json["texts"].as_array().expect("a list");
    texts.iter().map(|each| (name(text(&each["place"])), text(&each["content"]))).collect()
}

/// The program in a folder of that name.
fn puller_in(sandbox: &Sandbox, folder: &str) -> PathBuf {
    let folder = sandbox.file(folder);
    fs::create_dir_all(&folder).expect("a folder can be made");
    let program = folder.join("puller");
    // By another process, as in `as_nobody`.
    let done = Command::new("cp").arg(programs::puller()).arg(&program).status();
    assert!(done.is_ok_and(|status| status.success()), "a program can be copied");
    program
}

#[test]
fn the_units_pass_systemds_own_verification() {
    let sandbox = Sandbox::new();
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("the units", "there is no `systemd-analyze`");
    }
    let source = sandbox.db(HOSTILE);
    databases::gym(&source, 10_000, 4096);
    let program = puller_in(&sandbox, HOSTILE_PROGRAM);
    for when in [&["--hourly"][..], &["--at", "23:59"], &["--on-calendar", "Mon..Fri 09:30"], &[]] {
        let words = [&["--with", "systemd", "pull", source.to_str().expect("UTF-8")], when].concat();
        let units = printed(&sandbox, &program, &words);
        let paths: Vec<PathBuf> = units.iter().map(|(name, _)| sandbox.file(name)).collect();
        for (path, (_, text)) in paths.iter().zip(&units) {
            fs::write(path, text).expect("a file can be written");
        }
        let mut command = sandbox.command(Path::new("systemd-analyze"));
        let runtime = sandbox.file("home/xdg_runtime_dir");
        fs::create_dir_all(&runtime).expect("a folder can be made");
        command.args(["--user", "verify", "--man=no"]).args(&paths).env("SYSTEMD_LOG_LEVEL", "warning");
        let ran = sandbox.run(&mut command).exits(0);
        let about_ours: Vec<&str> =
            ran.stderr.lines().filter(|line| line.contains("pullback-pull")).collect();
        assert_eq!(about_ours, Vec::<&str>::new(), "{units:?}");
    }
}

#[test]
fn an_independent_parser_reads_the_property_list() {
    let sandbox = Sandbox::new();
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip("the property list", "there is no `python3`");
    }
    let source = sandbox.db(HOSTILE);
    databases::gym(&source, 10_000, 4096);
    let program = puller_in(&sandbox, HOSTILE);
    let words =
        ["--with", "launchd", "--at", "09:05", "--keep-days", "7", "pull", source.to_str().expect("UTF-8")];
    let lists = printed(&sandbox, &program, &words);
    let [(name, text)] = &lists[..] else { panic!("{lists:?}") };
    assert_eq!(name, "com.github.pullback.pull.plist");
    let path = sandbox.file(name);
    fs::write(&path, text).expect("a file can be written");
    let script = "import json, plistlib, sys; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let output =
        Command::new("python3").args(["-c", script]).arg(&path).output().expect("python3 can be run");
    let read: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let expected: Vec<&str> = vec![
        program.to_str().expect("UTF-8"),
        "schedule",
        "run",
        "pull",
        "--keep-days",
        "7",
        "--",
        source.to_str().expect("UTF-8"),
    ];
    assert_eq!(read["ProgramArguments"], serde_json::json!(expected));
    assert_eq!(read["StartCalendarInterval"], serde_json::json!({"Hour": 9, "Minute": 5}));
    assert_eq!(read["Label"], "com.github.pullback.pull");
    assert!(read["EnvironmentVariables"]["PATH"].as_str().is_some_and(|path| path.contains("/usr/bin")));
}

/// A systemd of the user's own, in namespaces of their own: mounts, processes and control groups.
const WITH_A_SYSTEMD: &str = r#"
set -e
mount --make-rprivate / && mount -t tmpfs none /run || exit 77
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup || exit 77
for systemd in /lib/systemd/systemd /usr/lib/systemd/systemd; do [ -x $systemd ] && break; done
SYSTEMD_LOG_TARGET=console $systemd --user >"$HOME/systemd.log" 2>&1 &
for _ in $(seq 100); do systemctl --user is-system-running >/dev/null 2>&1 && break; sleep 0.1; done
systemctl --user is-system-running >/dev/null || { echo no systemd; exit 77; }
. "$1"
"#;

/// Enters a control group of its own, and the namespaces.
const IN_NAMESPACES: &str = r#"
set -e
mount --make-rprivate /
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup || exit 77
mkdir "/sys/fs/cgroup/$3" || exit 77
code=0
( sh -c 'echo $PPID' >/sys/fs/cgroup/$3/cgroup.procs
  exec unshare -m -C -p -f --mount-proc --kill-child sh -c "$1" sh "$2" ) || code=$?
for _ in $(seq 50); do
  find "/sys/fs/cgroup/$3" -depth -type d -exec rmdir {} + 2>/dev/null || true
  [ -d "/sys/fs/cgroup/$3" ] || break
  sleep 0.1
done
exit $code
"#;

#[test]
fn a_real_systemd_runs_the_job_by_its_timer_and_lets_go_of_it() {
    let what = "the job of a real systemd";
    if !privilege::is_root() || !cfg!(target_os = "linux") {
        return skip(what, "only root on Linux can start a systemd aside");
    }
    let namespaces = Command::new("unshare").args(["-m", "-C", "-p", "-f", "--mount-proc", "true"]).output();
    if !namespaces.is_ok_and(|output| output.status.success()) {
        return skip(what, "namespaces cannot be made here");
    }
    let sandbox = Sandbox::new();
    let source = sandbox.db(HOSTILE);
    databases::gym(&source, 100_000, 4096);
    let program = puller_in(&sandbox, HOSTILE_PROGRAM);
    let script = sandbox.file("script");
    fs::write(
        &script,
        r#"
        units="$XDG_CONFIG_HOME/systemd/user"
        "$PULLER" schedule install --yes --hourly pull "$SOURCE" >"$HOME/installed"
        "$PULLER" --json schedule status >"$HOME/status"
        systemctl --user is-enabled pullback-pull.timer >"$HOME/enabled"
        mv "$SOURCE" "$SOURCE.away"
        "$PULLER" schedule install --yes --at 09:30 pull "$SOURCE" 2>"$HOME/failed" && exit 1 || [ $? = 7 ]
        "$PULLER" schedule status >/dev/null && exit 1 || [ $? = 13 ]
        systemctl --user stop pullback-pull.timer
        mv "$SOURCE.away" "$SOURCE"
        systemctl --user start pullback-pull.service
        "$PULLER" schedule status >"$HOME/asleep" && exit 1 || [ $? = 13 ]
        "$PULLER" schedule uninstall pull
        "$PULLER" schedule uninstall pull
        find "$units" -name '*pullback*' >"$HOME/left"
        systemctl --user list-timers --all --output=json >"$HOME/timers"
        "#,
    )
    .expect("a file can be written");
    let mut command = sandbox.command(Path::new("unshare"));
    let group = sandbox.file("").file_name().expect("a name").to_string_lossy().into_owned();
    command.args(["-m", "sh", "-c", IN_NAMESPACES, "sh", WITH_A_SYSTEMD]).arg(&script).arg(&group);
    command.env("PULLER", &program).env("SOURCE", &source).env("PULLER_STORE", sandbox.store());
    let ran = sandbox.run(&mut command);
    if ran.status.code() == Some(77) {
        return skip(what, ran.stderr.lines().last().unwrap_or("no systemd can be started here"));
    }
    let ran = ran.exits(0);
    let said = |name: &str| fs::read_to_string(sandbox.file("home").join(name)).expect("a file can be read");
    assert!(said("installed").contains("the first run: ok"), "{ran}");
    assert!(ran.stderr.contains("lingering is off"), "{ran}");
    let status: Value = serde_json::from_str(&said("status")).expect("JSON");
    assert_eq!((&status["scheduler"], &status["when"]), (&"systemd".into(), &"hourly".into()));
    assert!(status["next"].is_string() && status["last"]["exit"] == 0, "{status}");
    assert_eq!(said("enabled"), "enabled\n");
    assert!(said("failed").contains("no such file [P07]; the schedule stays"), "{}", said("failed"));
    assert!(said("asleep").contains(": ok") && said("asleep").contains("not planned"), "{}", said("asleep"));
    assert_eq!(said("left"), "");
    assert!(!said("timers").contains("pullback"), "{}", said("timers"));
    assert_eq!(sandbox.puller(&["--json", "list"]).exits(0).json().len(), 1);
}

#[track_caller]
fn refused(ran: Ran, words: &[&str]) {
    let ran = ran.exits(2);
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is not said by {ran}");
    }
}

#[test]
fn what_cannot_be_installed_is_refused_with_what_to_do_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    let empty = sandbox.file("empty");
    fs::create_dir(&empty).expect("a folder can be made");
    databases::gym(&sandbox.db("a\nb.db"), 10_000, 4096);
    let install = |words: &[&str]| {
        let mut command = sandbox.command(programs::puller());
        command.args(["schedule", "install"]).args(words).env("PATH", &empty);
        sandbox.run(&mut command)
    };
    refused(install(&["--yes"]), &["there is no `crontab` here", "--with systemd"]);
    refused(install(&["--yes", "--with", "cron"]), &["there is no `crontab` here"]);
    refused(install(&["--yes", "--with", "systemd"]), &["systemd", "`--with cron`"]);
    refused(install(&["--print", "--with", "cron", "pull", "./a\nb.db"]), &["a line break"]);
    refused(install(&["--print", "--at", "25:00"]), &["HH:MM"]);
    refused(install(&["--print", "--at", "09:00", "--hourly"]), &["cannot be used with"]);
    refused(install(&["--print", "--with", "cron", "--on-calendar", "Mon 09:30"]), &["five fields"]);
    refused(install(&["--print", "--with", "launchd", "--on-calendar", "@daily"]), &["`--at HH:MM`"]);
    refused(install(&["--print", "verify", "gym"]), &["verify"]);
    refused(install(&["--print", "drill", "gym"]), &["drill"]);
    refused(install(&["polish"]), &["pull, verify, drill"]);
    let program = puller_in(&sandbox, HOSTILE);
    let mut command = sandbox.command(&program);
    command.args(["schedule", "install", "--print", "--with", "systemd"]);
    refused(sandbox.run(&mut command), &["a quote or a backslash", "--with cron"]);
    let home = sandbox.file("home");
    assert_eq!(fs::read_dir(home).expect("a folder can be read").count(), 0, "nothing was written");
    let status = sandbox.puller(&["schedule", "status"]).exits(0);
    assert!(status.stdout.contains("no job is installed"), "{status}");
}

#[test]
fn nothing_is_written_without_a_yes() {
    let Some(_crontab) = NobodysCrontab::take("a schedule without a yes") else { return };
    let sandbox = Sandbox::new();
    write_crontab(b"");
    let puller = |words: &[&str]| sandbox.run(as_nobody(&sandbox, programs::puller()).args(words));
    refused(puller(&["schedule", "install", "--with", "cron"]), &["nobody sits at a terminal", "--yes"]);
    let printed = puller(&["schedule", "install", "--with", "cron", "--print"]).exits(0);
    assert!(printed.stdout.contains("0 9 * * * PATH="), "{printed}");
    assert!(printed.stderr.contains("none is ever removed"), "{printed}");
    assert!(!installed());
}

#[test]
fn an_agent_that_comes_up_late_is_waited_for() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let mut served = Served::start(&sandbox, &[("gym", &source)]);
    let address = served.source("gym");
    served.kill9();
    let mut command = sandbox.command(programs::puller());
    command.arg("--store").arg(sandbox.store()).args(["schedule", "run", "pull", "--", &address]);
    let run = sandbox.start(&mut command);
    // The first try has failed by then, and the second comes later.
    std::thread::sleep(Duration::from_secs(1));
    served.restart();
    let ran = run.finish().exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}

#[test]
fn one_run_of_a_job_is_at_a_time_and_the_second_is_told() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let run = || sandbox.puller(&["schedule", "run", "pull", "--", "./gym.db"]);
    let mut command = sandbox.command(programs::puller());
    command.args(["schedule", "run", "pull", "--", "./gym.db"]).env("PULLER_JSON", "1");
    let ran = sandbox.run(command.env("PULLER_STORE", sandbox.store())).exits(0);
    assert_eq!((&ran.only_json()["problem"], ran.stderr.as_str()), (&Value::Null, ""), "all is well");
    let lock = fs::File::open(log(&sandbox, "pull").with_file_name(".pull.lock")).expect("a lock file");
    lock.lock().expect("it can be locked");
    let ran = run().exits(11);
    assert!(ran.stderr.contains("the job `pull` runs already"), "{ran}");
    // Not by dropping it alone: a child that another test starts may hold the same file for a moment.
    lock.unlock().expect("it can be unlocked");
    run().exits(0);
}

#[test]
fn a_log_stays_under_its_limit_and_is_cut_between_lines() {
    const LIMIT: u64 = 1 << 20;
    let sandbox = Sandbox::new();
    let log = log(&sandbox, "pull");
    fs::create_dir_all(log.parent().expect("a folder")).expect("a folder can be made");
    let old = "  what an older run said\n".repeat(41_900);
    assert!(old.len() as u64 + 2000 > LIMIT && (old.len() as u64) < LIMIT);
    fs::write(&log, &old).expect("a log can be written");
    let name = format!("./{}.db", "nowhere".repeat(25));
    for _ in 0..6 {
        sandbox.puller(&["schedule", "run", "pull", "--", &name]).exits(7);
    }
    let older = fs::read_to_string(log.with_extension("log.1")).expect("the older log");
    let newer = fs::read_to_string(&log).expect("the log");
    assert!(older.len() as u64 <= LIMIT && older.len() as u64 > LIMIT - 2000, "{}", older.len());
    assert!(older.starts_with(&old), "the older lines are all there");
    let both = older[old.len()..].to_owned() + &newer;
    let runs: Vec<Value> = both.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(runs.iter().filter(|run| run["exit"] == 7).count(), 6);
    assert_eq!(runs.iter().filter(|run| run["exit"].is_null()).count(), 6);
    for line in both.lines() {
        assert!(line.starts_with("  ") || serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn a_log_that_cannot_be_written_stands_in_no_pulls_way() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let folder = sandbox.file("home/xdg_state_home/pullback");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("log"), "a file where the folder should be").expect("a file can be written");
    let ran = sandbox.puller(&["schedule", "run", "pull", "--", "./gym.db"]).exits(0);
    assert!(ran.stderr.contains("warning: "), "{ran}");
    assert_eq!(sandbox.puller(&["--json", "list"]).exits(0).json().len(), 1);
}
