//! `pullback-agent peers list` and `peers revoke`: the machines that were paired.

use crate::cli::Cli;
use comfy_table::{Table, presets};
use pullback_agent::clock;
use pullback_agent::identity::dir_of;
use pullback_agent::peers::{Peer, Peers};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;

/// Digits of a fingerprint in the table: enough to tell peers apart, and to name one.
const FINGERPRINT_DIGITS: usize = 16;

/// Characters of a name in the table.
const NAME_CHARS_MAX: usize = 64;

#[derive(clap::Subcommand)]
pub(crate) enum PeersCommand {
    /// List the machines that were paired
    List,
    /// Let a machine in no more, from its next call on
    Revoke {
        /// Its name, or the beginning of its fingerprint
        name: String,
    },
}

pub(crate) fn run(cli: &Cli, asked: &PeersCommand) -> Result<u8, Fault> {
    let config = super::config(cli)?;
    super::check_owner(&config)?;
    let dir = dir_of(&config.settings.state_dir.unwrap_or_default());
    if !dir.is_dir() {
        let why = format!("this agent has no identity: there is no `{}`", dir.display());
        return Err(Fault::new(Kind::Config, why).hint("`pullback-agent init` makes one"));
    }
    let peers = Peers::of(&dir);
    match asked {
        PeersCommand::List => list(cli, &peers.all()?),
        PeersCommand::Revoke { name } => {
            let peer = peers.revoke(name)?;
            match (cli.common.json, cli.common.quiet) {
                (true, _) => println!("{}", json(&peer)),
                (false, true) => {}
                (false, false) => println!("`{}` gets in no more", printable(&peer.name, NAME_CHARS_MAX)),
            }
        }
    }
    Ok(0)
}

fn list(cli: &Cli, peers: &[Peer]) {
    if cli.common.json {
        peers.iter().for_each(|peer| println!("{}", json(peer)));
        return;
    }
    if peers.is_empty() {
        if !cli.common.quiet {
            eprintln!("No machine was paired yet: `pullback-agent pair` prints a code for one.");
        }
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["name", "state", "role", "paired", "expires", "fingerprint"]);
    for peer in peers {
        let fingerprint: String = peer.fingerprint.to_string().chars().take(FINGERPRINT_DIGITS).collect();
        table.add_row([
            printable(&peer.name, NAME_CHARS_MAX),
            state(peer).to_owned(),
            peer.role.word().to_owned(),
            peer.paired_at.to_string(),
            peer.expires_at.to_string(),
            fingerprint,
        ]);
    }
    println!("{table}");
}

fn state(peer: &Peer) -> &'static str {
    match peer.revoked_at {
        Some(_) => "revoked",
        None if peer.expires_at <= clock::now() => "expired",
        None => "paired",
    }
}

fn json(peer: &Peer) -> serde_json::Value {
    serde_json::json!({
        "v": 1, "name": peer.name, "state": state(peer), "role": peer.role.word(), "fingerprint": peer.fingerprint,
        "paired_at": peer.paired_at, "expires_at": peer.expires_at, "revoked_at": peer.revoked_at,
    })
}
