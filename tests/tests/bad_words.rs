//! A command line or a configuration that makes no sense: exit code 2, the words that are wrong, and nothing done.

use pullback_tests::folder::Folder;
use pullback_tests::sandbox::{Ran, Sandbox};
use std::fs;
use std::path::Path;
use std::time::Duration;

fn sandbox() -> Sandbox {
    Sandbox::new().with_limit(Duration::from_secs(5))
}

/// Runs `puller pull --json WORDS`, which is refused with `code` in an object, or by the command line's grammar.
#[track_caller]
fn check(words: &[&str], code: Option<&str>, exit: i32, says: &str) {
    let sandbox = sandbox();
    let ran = sandbox.puller(&[&["pull", "--json"], words].concat()).exits(exit);
    assert!(ran.stderr.contains(says), "`{says}` on stderr of {ran}");
    match code {
        Some(code) => assert_eq!(ran.only_json()["error"]["code"], code, "{ran}"),
        None => assert_eq!(ran.stdout, "", "{ran}"),
    }
    nothing_came_of_it(&sandbox, &ran);
}

#[track_caller]
fn nothing_came_of_it(sandbox: &Sandbox, ran: &Ran) {
    assert!(Folder::of(&sandbox.store()).is_absent(), "a store was made by {ran}");
    assert_eq!(
        fs::read_dir(sandbox.db("")).expect("a folder can be read").count(),
        0,
        "a file was made by {ran}"
    );
}

#[test]
fn a_source_that_reads_as_nothing_is_refused() {
    check(&[""], Some("usage"), 2, "an empty source");
    check(&["nowhere"], Some("missing"), 7, "`nowhere` is no file here and no source that is known");
    check(&["--", "-x"], Some("missing"), 7, "`-x` is no file here");
    check(&["./-x"], Some("missing"), 7, "there is no such file");
    check(&["~/nowhere.db"], Some("missing"), 7, "home/nowhere.db`: there is no such file");
    check(&["raspberry-pi/gym"], Some("missing"), 7, "no source that is known");
    check(&["/no/such/folder/gym.db"], Some("missing"), 7, "there is no such file");
}

#[test]
fn an_option_that_is_none_is_refused() {
    check(&["-x"], None, 2, "unexpected argument '-x'");
    check(&[], None, 2, "<SOURCE>");
    check(&["--everything", "gym.db"], None, 2, "--everything");
}

#[test]
fn an_address_that_is_none_is_refused() {
    check(&["host:99999/x"], Some("usage"), 2, "`host:99999/x`: that is no port");
    check(&["host:0/x"], Some("usage"), 2, "that is no port");
    check(&[":7420/x"], Some("usage"), 2, "the host is missing");
    check(&["host:7420/"], Some("usage"), 2, "the database's name is missing");
    check(&["a b:7420/x"], Some("usage"), 2, "that is no host");
    check(&["--", "-oProxyCommand=x:7420/x"], Some("usage"), 2, "a host does not begin with `-`");
}

#[test]
fn an_ssh_address_that_is_none_is_refused() {
    for source in ["ssh://", "ssh:///gym.db", ":gym.db", "me@:gym.db"] {
        check(&[source], Some("usage"), 2, "the host is missing");
    }
    for source in ["ssh://pi", "ssh://pi/", "pi:", "pi:/home/pi/", "ssh://pi/~/"] {
        check(&[source], Some("usage"), 2, "the path of the database is missing");
    }
    check(&["ssh://pi:gym/gym.db"], Some("usage"), 2, "that is no port");
    check(&["pi pi:gym.db"], Some("usage"), 2, "that is no host");
    check(&["pi:~me/gym.db"], Some("usage"), 2, "its absolute path");
    check(&["@pi:gym.db"], Some("usage"), 2, "that is no user");
    check(&["--remote-agent", "$(touch x)", "pi:gym.db"], None, 2, "--remote-agent <PATH>");
    check(&["--sudo-user", "me;x", "pi:gym.db"], None, 2, "--sudo-user <USER>");
}

#[test]
fn a_value_that_is_none_is_refused() {
    for timeout in ["banana", "", "0", "1ms", "99ms", "-5s", "1e9y"] {
        check(&[&format!("--timeout={timeout}"), "gym.db"], None, 2, "--timeout <DUR>");
    }
    check(&["--verify", "sometimes", "gym.db"], None, 2, "--verify <HOW>");
    check(&["--keep-last=-2", "gym.db"], None, 2, "--keep-last <N>");
    check(&["--keep-within", "1w", "gym.db"], None, 2, "--keep-within <DUR>");
    check(&["--max-total-size", "all", "gym.db"], None, 2, "--max-total-size <SIZE>");
    check(&["--timezone", "Mars", "gym.db"], None, 2, "--timezone <ZONE>");
    check(&["--keep-days", "forever", "gym.db"], None, 2, "--keep-days <N>");
    check(&["--retries", "4294967296", "gym.db"], None, 2, "--retries <N>");
}

#[test]
fn one_name_is_not_for_two_sources() {
    check(&["--name", "gym", "a.db", "b.db"], Some("usage"), 2, "`--name` is for one source");
}

#[test]
fn a_variable_that_makes_no_sense_is_refused_as_the_option_is() {
    let sandbox = sandbox();
    for (variable, value, says) in [
        ("PULLER_TIMEOUT", "banana", "--timeout <DUR>"),
        ("PULLER_KEEP_LAST", "few", "--keep-last <N>"),
        ("PULLER_NOW", "yesterday", "`PULLER_NOW=yesterday` is no time"),
    ] {
        let mut command = sandbox.command(pullback_tests::programs::puller());
        command.args(["pull", "--json", "gym.db", "--store"]).arg(sandbox.store()).env(variable, value);
        let ran = sandbox.run(&mut command).exits(2);
        assert!(ran.stderr.contains(says), "`{says}` on stderr of {ran}");
        nothing_came_of_it(&sandbox, &ran);
    }
}

/// The programs and commands that read a configuration, each with a file of its own.
#[derive(Clone, Copy, PartialEq)]
enum Reads {
    Puller,
    Agent,
}

/// Lets every reader of the configuration `text` say that it is wrong, with the file, the place in it (`line 3`, or
/// nothing where something is missing from the whole) and the key.
#[track_caller]
fn check_config(reads: Reads, text: &str, place: &str, key: &str) {
    let sandbox = sandbox();
    let file = sandbox.file("wrong.toml");
    fs::write(&file, text).expect("a file can be written");
    check_config_file(&sandbox, reads, &file, &[place, key]);
}

#[track_caller]
fn check_config_file(sandbox: &Sandbox, reads: Reads, file: &Path, says: &[&str]) {
    let name = file.to_str().expect("paths of tests are UTF-8");
    let commands: [&[&str]; 2] = match reads {
        Reads::Puller => [&["pull", "gym.db"], &["config", "check"]],
        Reads::Agent => [&["serve"], &["config", "check"]],
    };
    for command in commands {
        let words = [&["--json", "--config", name], command].concat();
        let ran = if reads == Reads::Puller { sandbox.puller(&words) } else { sandbox.agent(&words) };
        let ran = ran.exits(2);
        let error = &ran.only_json()["error"];
        assert_eq!((&error["code"], &error["exit"]), (&"config".into(), &2.into()), "{ran}");
        for part in says.iter().chain(&[name]) {
            assert!(error["message"].as_str().is_some_and(|said| said.contains(part)), "`{part}`: {ran}");
            assert!(ran.stderr.contains(part), "`{part}` on stderr of {ran}");
        }
        assert!(ran.stderr.contains("hint: "), "{ran}");
        nothing_came_of_it(sandbox, &ran);
    }
}

#[test]
fn a_wrong_configuration_of_the_puller_is_named_with_its_line_and_key() {
    let check = |text, place, key| check_config(Reads::Puller, text, place, key);
    check("jobs = 3\n\njbos = 4\n", "line 3 ", "jbos");
    check("keep = { last = \"three\" }\n", "line 1 ", "keep");
    check("# few\nkeep = { last = -2 }\n", "line 2 ", "keep");
    check("keep = { lats = 1 }\n", "line 1 ", "lats");
    check("verify = \"sometimes\"\n", "line 1 ", "verify");
    check("store = 7\n", "line 1 ", "store");
    check("jobs = 3\njobs = 4\n", "line 2 ", "jobs");
    check("keep = \n", "line 1 ", "keep");
    check("max_age = \"soon\"\n", "line 1 ", "max_age");
    check("jobs = 1\n\n[rules]\n", "line 3 ", "rules");
    check("[source.gym]\naddress = \"gym\"\n", "line 1 ", "source.gym");
    check("[source.gym]\nadress = \"./gym.db\"\n", "line 2 ", "adress");
}

#[test]
fn a_wrong_configuration_of_the_agent_is_named_with_its_line_and_key() {
    let check = |text, place, key| check_config(Reads::Agent, text, place, key);
    check("tls = \"off\"\n\nlissten = \"127.0.0.1:0\"\n", "line 3 ", "lissten");
    check("tls = \"off\"\nlisten = \"nowhere\"\n", "line 2 ", "listen");
    check("tls = \"off\"\nreserve = \"lots\"\n", "line 2 ", "reserve");
    check("tls = \"off\"\nmirror = \"maybe\"\n", "line 2 ", "mirror");
    check("tls = \"off\"\npulls_max = -1\n", "line 2 ", "pulls_max");
    check("tls = \"off\"\nlock_wait = \"soon\"\n", "line 2 ", "lock_wait");
    check("tls = \"off\"\ncompression = \"lz4\"\n", "line 2 ", "compression");
    check("tls = \"off\"\ncompression_level = \"best\"\n", "line 2 ", "compression_level");
    check("tls = \"off\"\ncompression_level = 3.5\n", "line 2 ", "compression_level");
    check("tls = \"of\"\n", "line 1 ", "tls");
    check("tls = \"off\"\ntls = \"off\"\n", "line 2 ", "tls");
    check("tls = \"off\"\n[database.gym]\npath = 7\n", "line 3 ", "path");
    check("tls = \"off\"\n[database.gym]\npath = \"/gym.db\"\npth = \"/x\"\n", "line 4 ", "pth");
    check("tls = \"off\"\n\n[database.gym]\n", "line 3 ", "path");
    check("tls = \"off", "line 1 ", "tls");
}

/// Each of these is well formed, and still cannot be meant.
#[test]
fn a_configuration_of_the_agent_that_cannot_be_meant_is_named_with_its_line_and_key() {
    let check = |text: &str, place, key| check_config(Reads::Agent, text, place, key);
    check("tls = \"off\"\nlisten = \"0.0.0.0:7420\"\n", "line 2 ", "listen");
    check("tls = \"off\"\n\n[database.gym]\npath = \"gym.db\"\n", "line 4 ", "path");
    check("tls = \"off\"\n[database.\"../gym\"]\npath = \"/gym.db\"\n", "line 2 ", "../gym");
    check("tls = \"off\"\n[database.\"\"]\npath = \"/gym.db\"\n", "line 2 ", "database");
    check("tls = \"off\"\ncompression_level = 20\n", "line 2 ", "`compression_level` is 1 to 19");
    check("compression = \"gzip\"\ntls = \"off\"\ncompression_level = 0\n", "line 3 ", "compression_level");
    check("tls = \"off\"\ncompression_level = 1\ncompression = \"none\"\n", "line 2 ", "compression_level");
    for pulls in ["0", "1001", "9223372036854775807"] {
        check(&format!("tls = \"off\"\npulls_max = {pulls}\n"), "line 2 ", "`pulls_max` is 1 to 1000");
    }
    for time in ["9223372036854775807", "1e300", "\"9999999h\""] {
        check(&format!("tls = \"off\"\nmax_hold = {time}\n"), "line 2 ", "max_hold");
        check(&format!("tls = \"off\"\nlock_wait = {time}\n"), "line 2 ", "lock_wait");
    }
}

#[test]
fn an_agent_without_an_identity_says_so_before_it_says_that_it_listens() {
    let sandbox = sandbox();
    let config = sandbox.file("agent.toml");
    fs::write(&config, "listen = \"127.0.0.1:0\"\n").unwrap();
    let ran = sandbox.agent(&["--json", "--config", config.to_str().unwrap(), "serve"]).exits(2);
    let message = ran.only_json()["error"]["message"].to_string();
    assert!(message.contains("this agent has no identity"), "{ran}");
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    for reads in [Reads::Puller, Reads::Agent] {
        let sandbox = sandbox();
        check_config_file(&sandbox, reads, &sandbox.file("nowhere.toml"), &["No such file"]);
        check_config_file(&sandbox, reads, &sandbox.file("home"), &["Is a directory"]);
        let binary = sandbox.file("binary.toml");
        fs::write(&binary, b"tls = \"\xff\xfe\"").unwrap();
        check_config_file(&sandbox, reads, &binary, &["UTF-8"]);
    }
}

#[test]
fn a_file_whose_name_commands_a_terminal_is_told_of_without_doing_so() {
    let sandbox = Sandbox::new();
    let hook = "[hooks]\nbefore_pull = [\"/bin/false\"]\n";
    let config = sandbox.file("hook.toml");
    std::fs::write(&config, hook).unwrap();
    let typed = format!("{}/\u{1b}[2Jgone.db", sandbox.file("").display());
    for more in [&[][..], &["--dry-run"], &["./x.db"]] {
        let arguments = [&["--config", config.to_str().unwrap(), "pull", &typed], more].concat();
        let ran = sandbox.puller(&arguments);
        assert!(ran.code() != 0 && ran.stderr.contains("\\u{1b}[2Jgone.db"), "{ran:?}");
        assert!(!ran.stderr.contains('\u{1b}') && !ran.stdout.contains('\u{1b}'), "{ran:?}");
    }
}

#[test]
fn an_agent_at_an_ipv6_address_is_named_in_brackets() {
    let ran = sandbox().puller(&["pull", "[::1]:1/gym"]).exits(5);
    assert!(ran.stderr.contains("the agent at [::1]:1 cannot be reached"), "{ran}");
}
