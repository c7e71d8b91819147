//! `puller pair` and `puller unpair`: this machine becomes a peer of an agent, and stops being one.

use crate::cli::{Cli, Door};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{Role, folded, name_of};
use pullback_shared::pairing::{CODE_CHARS_MAX, PairingCode};
use pullback_shared::text::printable;
use puller::address::Address;
use puller::client::Client;
use puller::paired::{Paired, forget};
use puller::pairing;
use serde_json::json;
use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

/// How long an agent may give no sign of life.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// How long a code holds that is asked for through ssh and used at once.
const SSH_CODE_TTL: Duration = Duration::from_secs(120);

/// No agent is called so: `local/app` would be two things.
const RESERVED: [&str; 2] = ["local", "imported"];

/// What `puller pair` is asked.
#[derive(clap::Args)]
pub(crate) struct Pair {
    /// The code that `pullback-agent pair` printed there; or ssh://HOST, to have one made there [default: asked for, or read from stdin]
    #[arg(value_name = "CODE|ssh://HOST")]
    code: Option<String>,
    /// Call the agent N here [default: the name of its machine]
    #[arg(long, value_name = "N", env = "PULLER_NAME", conflicts_with = "replace")]
    name: Option<String>,
    /// Where the agent is [default: the addresses in the code]
    #[arg(long, value_name = "HOST:PORT", env = "PULLER_PAIR_ADDRESS")]
    address: Option<String>,
    /// The agent called NAME was installed anew: this is its new identity, and its sources go on
    #[arg(long, value_name = "NAME", env = "PULLER_REPLACE")]
    replace: Option<String>,
    /// With ssh://HOST, what this machine is to be allowed there: pull, or restore
    #[arg(long, value_name = "ROLE", env = "PULLER_ROLE", default_value = "pull", value_parser = role)]
    role: Role,
    #[command(flatten)]
    door: Door,
}

/// What `puller unpair` is asked.
#[derive(clap::Args)]
pub(crate) struct Unpair {
    /// The agent, as it is called here
    agent: String,
}

fn role(typed: &str) -> Result<Role, String> {
    Role::from_word(typed).ok_or_else(|| "pull or restore".to_owned())
}

pub(crate) fn run(cli: &Cli, asked: &Pair) -> Result<u8, Fault> {
    let (code, far_host) = code(cli, asked)?;
    let name = name(asked, &code)?;
    let mut addresses: Vec<String> = match &asked.address {
        Some(address) => vec![address_of(address)?],
        None => code.addresses.clone(),
    };
    if asked.address.is_none()
        && let (Some(host), Some(port)) =
            (far_host, code.addresses.first().and_then(|first| first.rsplit_once(':')))
    {
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        addresses.push(format!("{host}:{}", port.1));
    }
    // A code is used up by one try: what can fail here is to fail before.
    puller::paired::see_room(&name)?;
    let own_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let made = pairing::pair(&code, &addresses, &name, &own_name)?;
    // A damaged file is of no use to say goodbye with.
    let before = Paired::read(&name).ok().flatten();
    if let Err(fault) = made.paired.write() {
        // Nobody has the key any more: if the agent cannot be told, its list of peers has one that never comes.
        let _ = pairing::unpair(&made.paired);
        return Err(fault);
    }
    // Only what was tried is said to work.
    let address = Address::Agent { agent: name.clone(), database: String::new() };
    let door = puller::ssh::Door::new(ANSWER_WAIT);
    let tried = Client::open(&address, &door).and_then(|mut client| client.info(false));
    let tried = tried.map_err(|fault| {
        let but = match fault.kind {
            Kind::Refused => "did not take this machine's certificate",
            _ => "does not answer to it yet",
        };
        Fault::new(fault.kind, format!("`{name}` is paired, but {but}: {}", fault.message)).hint(fault.hint)
    })?;
    if let Some(before) = before.filter(|before| before.fingerprint == made.paired.fingerprint)
        && let Err(fault) = pairing::unpair(&before)
    {
        eprintln!("warning: the agent still lists what this machine was there before: {fault}");
        eprintln!("on it: pullback-agent peers revoke {}", before.peer_name);
    }
    say(
        cli,
        &made,
        &tried.databases.iter().map(|database| printable(&database.name, 80)).collect::<Vec<_>>(),
    );
    Ok(0)
}

fn say(cli: &Cli, made: &pairing::Made, databases: &[String]) {
    let paired = &made.paired;
    if cli.common.json {
        let line = json!({
            "v": 1, "agent": paired.name, "fingerprint": paired.fingerprint, "role": paired.role.word(),
            "addresses": paired.addresses, "peer_name": paired.peer_name, "databases": databases,
            "expires_at": paired.expires_at,
        });
        println!("{line}");
        return;
    }
    if cli.common.quiet {
        return;
    }
    let (name, role, own) = (&paired.name, paired.role.word(), &paired.peer_name);
    println!("paired with {name}, as {own}, to {role}");
    match databases {
        [] => eprintln!("it serves no database yet: `pullback-agent init --database PATH` there adds one"),
        databases => databases.iter().for_each(|database| eprintln!("try: puller pull {name}/{database}")),
    }
}

/// The code that was typed, asked for, piped in or had made; and the host, where ssh led there.
fn code(cli: &Cli, asked: &Pair) -> Result<(PairingCode, Option<String>), Fault> {
    let typed = match asked.code.as_deref() {
        Some(place) if place.starts_with("ssh://") => return invited(cli, asked, place),
        Some("-") | None => read_code()?,
        Some(typed) => typed.to_owned(),
    };
    Ok((PairingCode::decode(&typed)?, None))
}

fn read_code() -> Result<String, Fault> {
    let stdin = std::io::stdin();
    let mut typed = String::new();
    let failed = |error: std::io::Error| Fault::io("the pairing code from stdin", &error);
    if stdin.is_terminal() {
        eprint!("the code that `pullback-agent pair` printed there: ");
        std::io::stderr().flush().map_err(failed)?;
        stdin.read_line(&mut typed).map_err(failed)?;
    } else {
        stdin.take(CODE_CHARS_MAX as u64 + 1).read_to_string(&mut typed).map_err(failed)?;
    }
    match typed.trim().is_empty() {
        true => Err(Fault::new(Kind::Usage, "there is no pairing code")
            .hint("`pullback-agent pair` at the agent prints one; type `puller pair CODE`, or `puller pair ssh://HOST`")),
        false => Ok(typed),
    }
}

/// Has a code made through ssh.
fn invited(cli: &Cli, asked: &Pair, place: &str) -> Result<(PairingCode, Option<String>), Fault> {
    // A place needs a path; this one is never looked at.
    let address = Address::parse(&format!("{}/pair", place.trim_end_matches('/')))?;
    let Some(Address::Ssh { host, .. }) = &address else {
        return Err(Fault::new(Kind::Usage, format!("`{}` is no ssh://HOST", printable(place, 200))));
    };
    let host = host.clone();
    let door = super::door(&asked.door, &super::read_config(cli)?, None, ANSWER_WAIT)?;
    let address = address.expect("BUG: it was there");
    let code = Client::open(&address, &door)?.invite(asked.role, SSH_CODE_TTL)?;
    Ok((PairingCode::decode(&code)?, Some(host)))
}

/// What the agent is to be called here; that name is free, or its own, or to be replaced.
fn name(asked: &Pair, code: &PairingCode) -> Result<String, Fault> {
    if let Some(name) = &asked.replace {
        return match Paired::read(name) {
            Ok(None) => Err(unknown(name)),
            // What cannot be read is what is to be replaced.
            Ok(Some(_)) | Err(_) => Ok(folded(name)),
        };
    }
    let name = asked.name.as_deref().map_or_else(|| name_of(&code.name, "agent"), folded);
    if RESERVED.contains(&name.as_str()) {
        let why = format!("`{name}` is what sources of this machine are filed under");
        return Err(Fault::new(Kind::Usage, why).hint("give the agent another name here with `--name N`"));
    }
    if !puller::address::is_name(&name) {
        return Err(Fault::new(
            Kind::Usage,
            format!("`{}`: {}", printable(&name, 80), puller::address::NAME_RULE),
        )
        .hint("give the agent a name here with `--name N`"));
    }
    match Paired::read(&name)? {
        Some(known) if known.fingerprint != code.fingerprint => Err(Fault::new(
            Kind::Refused,
            format!(
                "`{name}` is paired already, with the identity {}; this code is of the identity {}",
                known.fingerprint, code.fingerprint
            ),
        )
        .hint(format!(
            "if it was installed anew: `puller pair CODE --replace {name}`; if this is another machine: `--name ANOTHER`"
        ))),
        _ => Ok(name),
    }
}

fn address_of(typed: &str) -> Result<String, Fault> {
    let wrong = || {
        Fault::new(Kind::Usage, format!("`{}` is no HOST:PORT", printable(typed, 200)))
            .hint("such as `--address 192.168.1.7:7420`")
    };
    match Address::parse(&format!("{typed}/x")) {
        Ok(Some(address @ Address::Service { .. })) if !typed.contains('/') => {
            address.door().ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

fn unknown(name: &str) -> Fault {
    let known: Vec<String> = Paired::all().into_iter().flatten().map(|paired| paired.name).collect();
    let hint = match known.as_slice() {
        [] => {
            "none is: `pullback-agent pair` at the agent gives a code, for `puller pair CODE` here".to_owned()
        }
        known => format!("paired with this machine: {}", known.join(", ")),
    };
    Fault::new(Kind::Unknown, format!("no agent `{}` is paired with this machine", printable(name, 80)))
        .hint(hint)
}

pub(crate) fn unpair(cli: &Cli, asked: &Unpair) -> Result<u8, Fault> {
    let name = &folded(&asked.agent);
    let (told, peer_name) = match Paired::read(name) {
        Ok(None) => return Err(unknown(name)),
        Ok(Some(paired)) => (pairing::unpair(&paired), paired.peer_name),
        // What is damaged names nobody who could be told, and is to go all the same.
        Err(fault) if fault.kind == Kind::Config => (Err(fault), "NAME".to_owned()),
        Err(fault) => return Err(fault),
    };
    forget(name)?;
    let revoked = match told {
        Ok(()) => true,
        Err(fault) => {
            eprintln!("warning: the agent was not told: {}", fault.message);
            eprintln!("on it: pullback-agent peers revoke {peer_name}");
            false
        }
    };
    match (cli.common.json, cli.common.quiet) {
        (true, _) => {
            println!("{}", json!({"v": 1, "agent": name, "outcome": "unpaired", "revoked": revoked}))
        }
        (false, true) => {}
        (false, false) => println!("unpaired from {name}; the copies that were pulled from it stay"),
    }
    Ok(0)
}
