//! `pullback-agent pair`: opens a one-time code, prints it, and says how it is used.

use crate::cli::Cli;
use clap::ValueEnum;
use pullback_agent::addresses;
use pullback_agent::answer::Answer;
use pullback_agent::codes::Codes;
use pullback_agent::config::{self, Config};
use pullback_agent::identity::Identity;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::Role;
use pullback_shared::pairing::PairingCode;
use std::time::Duration;

/// What the code is for.
#[derive(clap::Args)]
pub(crate) struct Pair {
    /// What the paired machine may do
    #[arg(long, value_enum, default_value = "pull", env = "PULLBACK_AGENT_ROLE")]
    role: RoleWord,
    /// How long the code holds
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = config::time, env = "PULLBACK_AGENT_TTL")]
    ttl: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleWord {
    /// Ask and pull
    Pull,
    /// That, and put copies in the place of databases
    Restore,
}

pub(crate) fn run(cli: &Cli, asked: &Pair) -> Result<u8, Fault> {
    let config = super::config(cli)?;
    if !config.tls {
        return Err(Fault::new(
            Kind::Config,
            format!("`{}` says `tls = \"off\"`: nobody is paired with an agent that knows no peers", super::config_path(cli).display()),
        )
        .hint("take that line out and restart the agent; without TLS, pull through ssh: `puller pull HOST:PATH`"));
    }
    let identity = super::identity(&config)?;
    let addresses = addresses::of(&config)?;
    let role = match asked.role {
        RoleWord::Pull => Role::Pull,
        RoleWord::Restore => Role::Restore,
    };
    let opened = Codes::of(identity.dir()).open(role, asked.ttl)?;
    let code = PairingCode {
        fingerprint: identity.fingerprint(),
        id: opened.id,
        secret: opened.secret,
        name: config.name.clone(),
        addresses: addresses.clone(),
    };
    match cli.common.json {
        true => println!(
            "{}",
            serde_json::json!({
                "v": 1, "code": code.encode(), "role": role.word(), "expires_at": opened.expires_at, "name": config.name,
                "addresses": addresses, "fingerprint": identity.fingerprint(),
            })
        ),
        false => println!("{}", code.encode()),
    }
    if !cli.common.quiet {
        let may = match role {
            Role::Pull => "pull databases from here",
            Role::Restore => "pull databases from here, and restore them here",
        };
        eprintln!("\nThis code lets one machine {may}. It can be used once, until {}.", opened.expires_at);
        eprintln!(
            "There type `puller pair CODE`, or `puller pair`, which asks for it. Whoever has it may use it: keep it to yourself."
        );
        eprintln!("It leads to {}.", addresses.join(", "));
    }
    warn(&config, &identity);
    Ok(0)
}

/// A code is of no use while nobody answers.
fn warn(config: &Config, identity: &Identity) {
    let listen = config.listen;
    match Answer::at(listen, Some(identity.fingerprint())) {
        Answer::Agent => {}
        Answer::Nobody => eprintln!(
            "warning: no agent answers at {listen} yet: start it with `pullback-agent serve`, or as a service with `sudo \
             pullback-agent init --service --database PATH`"
        ),
        Answer::Other(_) | Answer::Stranger => {
            eprintln!(
                "warning: what answers at {listen} is not this agent: `pullback-agent doctor` tells more"
            );
        }
        Answer::Unusable(why) => eprintln!("warning: this agent cannot listen at {listen}: {why}"),
    }
}
