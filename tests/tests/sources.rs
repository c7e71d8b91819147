//! `puller sources`: names and addresses change, copies and history stay.

use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use pullback_tests::{databases, programs};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn gym(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.db(name);
    databases::gym(&path, 300_000, 4096);
    path
}

#[test]
fn a_source_behind_another_door_keeps_its_copies_and_builds_on_them() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox, "gym.db");
    let first = sandbox.pull(&["--name", "gym", "./gym.db"]).succeeds("stored");
    let served = Served::start(&sandbox, &[("gym", &path)]);
    let address = served.source("gym");

    let refused = sandbox.puller(&["pull", &address, "--name", "gym"]).exits(2);
    assert!(refused.stderr.contains("puller sources adopt gym"), "{refused}");

    let source_json = || fs::read_to_string(sandbox.store().join("local/gym/source.json")).expect("a source");
    let before = source_json();
    let planned = sandbox.puller(&["sources", "adopt", "gym", &address, "--dry-run"]).exits(0);
    assert!(planned.stdout.contains(&format!("would go from {} to {address}", path.display())), "{planned}");
    assert_eq!(source_json(), before);
    let adopted = sandbox.puller(&["sources", "adopt", "gym", &address]).exits(0);
    assert!(adopted.stdout.contains(&format!("from {} to {address}", path.display())), "{adopted}");
    let again = sandbox.puller(&["sources", "adopt", "gym", &address]).exits(0);
    assert!(again.stdout.contains("already"), "{again}");

    databases::add_noise(&path, 20_000);
    let next = sandbox.pull(&["--name", "gym", &address]).succeeds("stored");
    assert_eq!(next.transfer, "delta", "{}", next.ran);
    let copies = sandbox.puller(&["list", "gym", "--json"]).exits(0).json();
    assert_eq!(copies.iter().map(|copy| &copy["copy"]).collect::<Vec<_>>(), [&*first.copy, &*next.copy]);
    // By its name it is found where it is now; where it was is a source of its own from now on.
    assert_eq!(sandbox.pull(&["gym"]).succeeds("unchanged").copy, next.copy);
    assert_ne!(sandbox.pull(&["./gym.db"]).succeeds("stored").json["source"], "gym");
    let history = sandbox.puller(&["history", "gym", "--json"]).exits(0).json();
    assert!(history.iter().any(|line| line["outcome"] == "adopted" && line["to"] == address.as_str()));
}

#[test]
fn a_source_that_ssh_reaches_now_is_known_by_every_spelling_of_its_place() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("home/gym.db");
    databases::gym(&path, 300_000, 4096);
    let first = sandbox.pull(&["--name", "gym", path.to_str().expect("UTF-8")]).succeeds("stored");
    // Stands in for ssh: the command is run on this machine.
    let ssh = sandbox.file("ssh");
    fs::write(&ssh, "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\ncd; exec sh -c \"$*\"\n")
        .expect("a file");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700)).expect("a mode can be set");
    let puller = |arguments: &[&str]| {
        let mut command = sandbox.command(programs::puller());
        command.arg("--store").arg(sandbox.store()).args(arguments).env("PULLER_SSH", &ssh);
        sandbox.run(command.env("PULLER_REMOTE_AGENT", programs::agent()))
    };
    puller(&["sources", "adopt", "gym", "pi:nowhere.db"]).exits(7);
    let adopted = puller(&["sources", "adopt", "gym", "pi:gym.db"]).exits(0);
    let far = format!("ssh://pi{}", path.display());
    for typed in ["gym", "pi:gym.db", &format!("pi:{}", path.display()), &far] {
        let pulled = puller(&["pull", "--json", typed]).exits(0).only_json();
        assert_eq!(
            (&pulled["source"], &pulled["copy"]),
            (&"gym".into(), &first.copy.as_str().into()),
            "{adopted}"
        );
    }
    puller(&["doctor", "gym"]).exits(0);
    assert!(puller(&["sources", "adopt", "gym", &far]).exits(0).stdout.contains("already"));
}

#[test]
fn a_new_name_leads_to_the_same_copies() {
    let sandbox = Sandbox::new();
    gym(&sandbox, "gym.db");
    let first = sandbox.pull(&["./gym.db"]).succeeds("stored");
    sandbox.puller(&["sources", "rename", "local/gym", "체육관"]).exits(0);
    assert_eq!(sandbox.pull(&["체육관"]).succeeds("unchanged").copy, first.copy);
    assert_eq!(sandbox.pull(&["./gym.db"]).succeeds("unchanged").json["source"], "체육관");
    sandbox.puller(&["verify", "체육관"]).exits(0);
    let listed = sandbox.puller(&["sources", "--json"]).exits(0).only_json();
    assert_eq!((&listed["name"], &listed["copies"]), (&"체육관".into(), &1.into()));

    gym(&sandbox, "till.db");
    sandbox.pull(&["./till.db", "--name", "till"]).succeeds("stored");
    for (new, why) in
        [("체육관", "already"), ("gym", "already"), ("../x", "a name has"), ("pi:/x", "a name has")]
    {
        let refused = sandbox.puller(&["sources", "rename", "till", new]).exits(2);
        assert!(refused.stderr.contains(why), "{new}: {refused}");
    }
    let refused = sandbox.puller(&["sources", "adopt", "till", "./gym.db"]).exits(2);
    assert!(refused.stderr.contains("is the source `체육관` already"), "{refused}");
    sandbox.puller(&["sources", "adopt", "till", "somewhere"]).exits(2);
    // Where there is no database, no source is.
    sandbox.puller(&["sources", "adopt", "till", "./nowhere.db"]).exits(7);
    sandbox.puller(&["sources", "adopt", "till", "."]).exits(7);
    sandbox.puller(&["sources", "adopt", "till", "127.0.0.1:1/till"]).exits(5);
    sandbox.puller(&["sources", "rename", "nobody", "somebody"]).exits(10);
}

#[test]
fn a_table_of_the_old_name_is_mentioned() {
    let sandbox = Sandbox::new();
    let path = gym(&sandbox, "gym.db");
    let dir = sandbox.file("home/xdg_config_home/pullback");
    fs::create_dir_all(&dir).expect("a folder can be made");
    let table = format!("[source.gym]\naddress = \"{}\"\n", path.display());
    fs::write(dir.join("puller.toml"), table).expect("a configuration can be written");
    sandbox.puller(&["pull", "gym"]).exits(0);
    assert_eq!(sandbox.puller(&["sources", "list", "--json"]).exits(0).only_json()["configured"], "gym");
    let renamed = sandbox.puller(&["sources", "rename", "gym", "fitness"]).exits(0);
    assert!(renamed.stderr.contains("write `[source.fitness]`"), "{renamed}");
    let examined = sandbox.puller(&["doctor", "fitness"]).exits(13);
    assert!(examined.stdout.contains("is called `gym` in the configuration"), "{examined}");
}

/// What `puller pair` leaves of an agent that is called `name`, until `ends`; nobody is asked to take its certificate.
fn pair(sandbox: &Sandbox, name: &str, addresses: &[&str], ends: &str) -> PathBuf {
    let dir = sandbox.file("home/xdg_config_home/pullback/agents");
    fs::create_dir_all(&dir).expect("a folder can be made");
    let file = dir.join(format!("{name}.json"));
    let paired = serde_json::json!({
        "v": 1, "name": name, "fingerprint": "a7".repeat(32), "addresses": addresses, "role": "pull",
        "peer_name": "desk", "certificate": "", "key": "", "paired_at": "2026-01-01T00:00:00Z", "expires_at": ends,
    });
    fs::write(&file, paired.to_string()).expect("a file can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    file
}

const LATER: &str = "2999-01-01T00:00:00Z";

#[test]
fn a_source_is_that_of_its_agent_once_the_agent_is_paired() {
    let sandbox = Sandbox::new();
    let (gym, club) = (gym(&sandbox, "gym.db"), gym(&sandbox, "club.db"));
    let served = Served::start(&sandbox, &[("gym", &gym), ("club", &club)]);
    let first = sandbox.pull(&[&served.source("gym")]).succeeds("stored");
    sandbox.puller(&["list", "raspberry-pi/gym"]).exits(10);

    pair(&sandbox, "raspberry-pi", &["pi:1", served.address()], LATER);
    for spelling in ["raspberry-pi/gym", &served.source("gym")] {
        let copies = sandbox.puller(&["list", spelling, "--json"]).exits(0).json();
        assert_eq!(copies.iter().map(|copy| &copy["copy"]).collect::<Vec<_>>(), [&*first.copy], "{spelling}");
    }
    sandbox.puller(&["list", "raspberry-pi/club"]).exits(10);
    sandbox.puller(&["list", &served.source("club")]).exits(10);
    let sources = sandbox.puller(&["sources", "--json"]).exits(0).json();
    assert_eq!(sources.len(), 1, "{sources:?}");
    // Two tables that mean one place by two names are one source.
    sandbox.configure("[source.mine]\naddress = \"raspberry-pi/gym\"");
    let sources = sandbox.puller(&["sources", "--json"]).exits(0).json();
    assert_eq!(sources[0]["configured"], "mine", "{sources:?}");
}

#[test]
fn an_agent_is_all_of_its_sources_where_they_are_only_looked_at() {
    let sandbox = Sandbox::new();
    for name in ["gym", "club"] {
        gym(&sandbox, &format!("{name}.db"));
        sandbox.pull(&["--name", name, &format!("./{name}.db")]).succeeds("stored");
        let file = sandbox.store().join(format!("local/{name}/source.json"));
        let about = fs::read_to_string(&file).expect("a source");
        let mut about: serde_json::Value = serde_json::from_str(&about).expect("JSON");
        about["key"] = format!("agent:pi/{name}").into();
        fs::write(&file, about.to_string()).expect("a source can be written");
        if name == "gym" {
            let only = sandbox.puller(&["show", "pi", "latest", "--json"]).exits(0).only_json();
            assert!(only["copy"].as_str().is_some_and(|copy| copy.starts_with("gym-")), "{only}");
        }
    }
    assert_eq!(sandbox.puller(&["list", "pi", "--json"]).exits(0).json().len(), 2);
    assert_eq!(sandbox.puller(&["list", "pi/gym", "--json"]).exits(0).only_json()["source"], "gym");
    assert_eq!(sandbox.puller(&["status", "pi", "--json"]).exits(0).json().len(), 2);
    let unclear = sandbox.puller(&["show", "pi"]).exits(2);
    assert!(unclear.stderr.contains("`local/club` or `local/gym`"), "{unclear}");
    sandbox.puller(&["list", "other"]).exits(10);
}

#[test]
fn a_text_with_two_readings_is_asked_for_by_one_of_them() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.db("pi")).expect("a folder can be made");
    gym(&sandbox, "pi/gym");
    sandbox.pull(&["pi/gym"]).succeeds("stored");
    pair(&sandbox, "pi", &["192.0.2.1:7420"], LATER);
    for arguments in
        [&["pull", "pi/gym"][..], &["info", "pi/gym"], &["sources", "adopt", "local/gym", "pi/gym"]]
    {
        let unclear = sandbox.puller(arguments).exits(2);
        assert!(unclear.stderr.contains("`./pi/gym` for the file"), "{unclear}");
        assert!(unclear.stderr.contains("`192.0.2.1:7420/gym` for the agent's"), "{unclear}");
    }
    sandbox.pull(&["./pi/gym"]).succeeds("unchanged");
    // A source that is called as an agent.
    sandbox.puller(&["sources", "rename", "local/gym", "pi"]).exits(0);
    let unclear = sandbox.puller(&["pull", "pi"]).exits(2);
    assert!(unclear.stderr.contains("`pi/` for the agent's"), "{unclear}");
    assert!(unclear.stderr.contains("for the source"), "{unclear}");
}

#[test]
fn doctor_tells_whose_key_others_may_read_and_which_certificate_ends() {
    let sandbox = Sandbox::new();
    gym(&sandbox, "gym.db");
    sandbox.pull(&["./gym.db"]).succeeds("stored");
    let file = pair(&sandbox, "pi", &["192.0.2.1:7420"], LATER);
    let of_pi = || {
        let ran = sandbox.puller(&["doctor", "--json"]);
        let of_pi =
            |line: &serde_json::Value| line["about"].as_str().is_some_and(|about| about.contains("agent"));
        let lines: Vec<String> =
            ran.json().iter().filter(|line| of_pi(line)).map(ToString::to_string).collect();
        lines.join("\n")
    };
    let whole = of_pi();
    assert!(whole.contains("agent pi is paired, role pull, until 2999-01-01"), "{whole}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("a mode can be set");
    let open = of_pi();
    assert!(open.contains("mode 640") && open.contains("\"fail\""), "{open}");
    pair(&sandbox, "pi", &[], "2026-02-01T00:00:00Z");
    let ended = of_pi();
    assert!(ended.contains("the certificate ended") && ended.contains("--replace pi"), "{ended}");
    fs::write(&file, "{").expect("a file can be written");
    let damaged = sandbox.puller(&["doctor"]).exits(13);
    assert!(damaged.stdout.contains("pi.json"), "{damaged}");
}
