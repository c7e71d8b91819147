//! `pullback-agent doctor`: configuration, databases and disk, each ok, warn or fail, with what mends it.

use crate::cli::Cli;
use pullback_agent::room::{Room, disk};
use pullback_agent::source::Source;
use pullback_shared::fault::{Fault, Kind};

struct Finding {
    state: &'static str,
    about: String,
    hint: String,
}

pub(crate) fn run(cli: &Cli) -> Result<u8, Fault> {
    let findings = examine(cli);
    for finding in &findings {
        if cli.common.json {
            let line = serde_json::json!({"v": 1, "state": finding.state, "about": finding.about, "hint": finding.hint});
            println!("{line}");
        } else if !(cli.common.quiet && finding.state == "ok") {
            println!("{:<5} {}", finding.state, finding.about);
            if !finding.hint.is_empty() {
                println!("      {}", finding.hint);
            }
        }
    }
    Ok(if findings.iter().any(|finding| finding.state == "fail") { Kind::Found.exit() } else { 0 })
}

fn examine(cli: &Cli) -> Vec<Finding> {
    let finding = |state, about: String, hint: &str| Finding { state, about, hint: hint.to_owned() };
    let config = match super::config(cli) {
        Ok(config) => config,
        Err(fault) => return vec![finding("fail", fault.message, &fault.hint)],
    };
    let mut findings =
        vec![finding("ok", format!("configuration `{}`", super::config_path(cli).display()), "")];
    if config.databases.is_empty() {
        findings.push(finding(
            "fail",
            "no database is configured".to_owned(),
            "add `[database.NAME]` with its `path`",
        ));
    }
    for (name, path) in &config.databases {
        let held = Source::find(path)
            .and_then(|source| source.hold(config.settings.hold).map(|hold| hold.facts().clone()));
        findings.push(match held {
            Ok(facts) if facts.journal == "wal" => {
                finding("ok", format!("`{name}`: journal wal, writers go on during a hold"), "")
            }
            Ok(facts) => finding(
                "warn",
                format!(
                    "`{name}`: rollback journal: commits wait while its {} bytes are read",
                    facts.file_bytes
                ),
                "`PRAGMA journal_mode=WAL` lets writers go on",
            ),
            Err(fault) => finding("fail", format!("`{name}`: {fault}"), &fault.hint),
        });
    }
    let state_dir = config.settings.state_dir.unwrap_or_default();
    match (disk(&state_dir), Room::new(&state_dir, config.settings.room).left()) {
        (Ok((free, _)), 0) => findings.push(finding(
            "warn",
            format!(
                "`{}`: {free} bytes free, none of which may be used: pulls work without a mirror",
                state_dir.display()
            ),
            "free some room, or lower `reserve`",
        )),
        (Ok((free, _)), left) => {
            findings.push(finding(
                "ok",
                format!("`{}`: {free} bytes free, {left} may be used", state_dir.display()),
                "",
            ));
        }
        (Err(error), _) => findings.push(finding(
            "warn",
            format!("`{}`: {error}", state_dir.display()),
            "the directory is made when the agent is served for the first time",
        )),
    }
    findings
}
