//! `pullback-agent stdio`: serves one puller over stdin and stdout, as ssh starts it, and ends with stdin.

use crate::cli::Cli;
use pullback_agent::config::Config;
use pullback_agent::service::Databases;
use pullback_shared::fault::{Fault, Kind};
use std::io::IsTerminal;
use std::path::PathBuf;

pub(crate) fn run(cli: &Cli, only: &[PathBuf]) -> Result<u8, Fault> {
    if std::io::stdin().is_terminal() || std::io::stdout().is_terminal() {
        return Err(Fault::new(Kind::Usage, "`pullback-agent stdio` talks to `puller` through ssh, not to a person")
            .hint("on your own machine type `puller pull HOST:PATH`; here `pullback-agent info PATH` says what there is"));
    }
    let config = config(cli)?;
    let databases = match only {
        [] => Databases::ByPath,
        these => Databases::Only(these.to_vec()),
    };
    let runtime = super::runtime()?;
    let served = runtime.block_on(pullback_agent::serve::serve_stdio(config, databases));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    served.map(|()| 0).map_err(|error| Fault::new(Kind::Io, format!("{error:#}")))
}

/// A file in the usual place need not be there; one that was named must.
fn config(cli: &Cli) -> Result<Config, Fault> {
    let path = super::config_path(cli);
    match cli.common.config.is_none() && path.symlink_metadata().is_err() {
        true => Ok(Config::default_for_stdio()),
        false => Config::read_for_stdio(&path),
    }
}
