//! The command line of `pullback-agent`, as typed.

use clap::builder::BoolishValueParser;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use pullback_shared::text::typed_color;
use std::io::IsTerminal;
use std::path::PathBuf;

const FIRST_STEPS: &str = "\
First steps, as the user that owns the databases:
  pullback-agent info ./app.db              see what is there
  pullback-agent backup ./app.db copy.db    write one proven snapshot, without a puller
  pullback-agent init --database ./app.db   make a configuration with it, and this agent's identity
  pullback-agent serve                      serve it; it tells its address
  pullback-agent pair                       print a code that lets one machine pull";

/// Takes consistent snapshots of live SQLite databases and serves them to `puller`.
#[derive(Parser)]
#[command(name = "pullback-agent", version, about, arg_required_else_help = true, after_help = FIRST_STEPS)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// The configuration file [default: ~/.config/pullback/agent.toml, else /etc/pullback/USER.toml]
    #[arg(long, global = true, env = "PULLBACK_AGENT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long, global = true, env = "PULLBACK_AGENT_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
    /// Print nothing when all is well
    #[arg(short, long, global = true, env = "PULLBACK_AGENT_QUIET", value_parser = BoolishValueParser::new())]
    pub(crate) quiet: bool,
    /// Say more; the more often, the more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, env = "PULLBACK_AGENT_VERBOSE")]
    pub(crate) verbose: u8,
    /// Colours in what is said
    #[arg(long, global = true, env = "PULLBACK_AGENT_COLOR", value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve the configured databases until SIGTERM or Ctrl-C
    Serve,
    /// Serve one puller over stdin and stdout: what `puller pull HOST:PATH` runs through ssh
    Stdio {
        /// Give only this database; may be said more than once [default: whatever this user may read]
        #[arg(long, env = "PULLBACK_AGENT_DATABASE", value_name = "PATH")]
        database: Vec<PathBuf>,
    },
    /// Write one proven snapshot of a database to a new file
    Backup {
        /// The database
        database: PathBuf,
        /// The file to write; it must not exist
        file: PathBuf,
    },
    /// Say what is there: sizes, journal, pages, tables
    Info {
        /// A database [default: those of the configuration]
        database: Option<PathBuf>,
        /// List the tables with their rows, counted in a snapshot
        #[arg(long, env = "PULLBACK_AGENT_TABLES", value_parser = BoolishValueParser::new())]
        tables: bool,
    },
    /// Set up a configuration and this agent's identity, and say what to do next
    Init(crate::commands::init::Init),
    /// Print a one-time code that a machine is paired with by `puller pair CODE`
    Pair(crate::commands::pair::Pair),
    /// List the machines that were paired, or let one in no more
    Peers {
        #[command(subcommand)]
        what: crate::commands::peers::PeersCommand,
    },
    /// Check the configuration, the identity, the databases, the disk, the port and the clock
    Doctor,
    /// Say what the code of an error means, and what to do
    Explain(crate::commands::explain::Explain),
    /// Ask about the configuration
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Print what makes a shell complete commands and options
    Completions { shell: clap_complete::Shell },
    /// Print the manual page
    Man {
        /// Write the page and one for each command into DIR instead
        #[arg(long, value_name = "DIR", env = "PULLBACK_AGENT_DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print where the configuration file and the state are looked for
    Path,
    /// Print a configuration with every key and what it is for
    Example,
    /// Check the configuration file
    Check,
}

impl Cli {
    /// What was typed. Help and errors of the command line itself have colours as `--color` says, too.
    pub(crate) fn read() -> Self {
        let words: Vec<String> =
            std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        let set = std::env::var("PULLBACK_AGENT_COLOR").unwrap_or_default();
        let choice = match Color::from_str(typed_color(&words).unwrap_or(&set), false) {
            Ok(Color::Always) => clap::ColorChoice::Always,
            Ok(Color::Never) => clap::ColorChoice::Never,
            Ok(Color::Auto) | Err(_) => clap::ColorChoice::Auto,
        };
        let matches = Self::command().color(choice).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Logs go to stderr, so that stdout is data.
    pub(crate) fn start_logging(&self) {
        let level = match (self.common.quiet, self.common.verbose) {
            (true, _) => "error",
            // What HTTP/2 makes of a peer that misbehaves is said by it once for each connection: no log can bear that.
            (false, 0) => "warn,h2=error,pullback_agent=info",
            (false, 1) => "info,pullback_agent=debug",
            (false, _) => "debug,pullback_agent=trace",
        };
        let filter = tracing_subscriber::EnvFilter::try_from_env("PULLBACK_AGENT_LOG")
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
        let colored = match self.common.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        };
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(colored)
            .init();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &clap::Command) {
        for argument in command.get_arguments() {
            let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long)) else {
                continue;
            };
            let variable = argument.get_env().unwrap_or_default().to_string_lossy();
            let expected = format!("PULLBACK_AGENT_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(variable, expected, "--{long} of `{}`", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }

    #[test]
    fn every_option_has_an_environment_variable() {
        let mut command = Cli::command();
        command.build();
        check(&command);
    }
}
