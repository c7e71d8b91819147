//! `pullback-agent doctor`: configuration, identity, databases, disk, port, clock, each ok, warn or fail, with what mends it.

use crate::cli::Cli;
use pullback_agent::doctor::{Finding, State, examine};
use pullback_shared::fault::{Fault, Kind};

pub(crate) fn run(cli: &Cli) -> Result<u8, Fault> {
    let findings = match super::config(cli) {
        Ok(config) => examine(&super::config_path(cli), &config),
        Err(fault) => vec![Finding::fault(fault)],
    };
    for Finding { state, about, hint } in &findings {
        if cli.common.json {
            println!("{}", serde_json::json!({"v": 1, "state": state.word(), "about": about, "hint": hint}));
        } else if !(cli.common.quiet && *state == State::Ok) {
            println!("{:<5} {about}", state.word());
            if !hint.is_empty() {
                println!("      {hint}");
            }
        }
    }
    Ok(if findings.iter().any(|finding| finding.state == State::Fail) { Kind::Found.exit() } else { 0 })
}
