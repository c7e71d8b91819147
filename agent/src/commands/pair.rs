//! `pullback-agent pair`: opens a one-time code, prints it, and says how it is used.

use crate::cli::Cli;
use clap::ValueEnum;
use pullback_agent::answer::Answer;
use pullback_agent::config::{self, Config};
use pullback_agent::invitation::invite;
use pullback_shared::fault::Fault;
use pullback_shared::identity::{Fingerprint, Role};
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
    super::check_owner(&config)?;
    let role = match asked.role {
        RoleWord::Pull => Role::Pull,
        RoleWord::Restore => Role::Restore,
    };
    let (code, expires_at) = invite(&config, role, asked.ttl)?;
    match cli.common.json {
        true => println!(
            "{}",
            serde_json::json!({
                "v": 1, "code": code.encode(), "role": role.word(), "expires_at": expires_at, "name": code.name,
                "addresses": code.addresses, "fingerprint": code.fingerprint,
            })
        ),
        false => println!("{}", code.encode()),
    }
    if !cli.common.quiet {
        let may = match role {
            Role::Pull => "pull databases from here",
            Role::Restore => "pull databases from here, and restore them here",
        };
        eprintln!("\nThis code lets one machine {may}. It can be used once, until {expires_at}.");
        eprintln!(
            "There type `puller pair CODE`, or `puller pair`, which asks for it. Whoever has it may use it: keep it to yourself."
        );
        eprintln!("It leads to {}.", code.addresses.join(", "));
    }
    warn(&config, code.fingerprint);
    Ok(0)
}

/// A code is of no use while nobody answers.
fn warn(config: &Config, identity: Fingerprint) {
    let listen = config.listen;
    match Answer::at(listen, Some(identity)) {
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
