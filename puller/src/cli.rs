//! The command line of `puller`, as typed.

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use puller::judge::Verify;
use puller::policy::{Policy, Zone};
use puller::sampling::Share;
use puller::ssh::{RemoteAgent, SudoUser};
use std::io::IsTerminal;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

/// Tries after the first, at most: with the growing waits between them, about a quarter of an hour.
const RETRIES_MAX: i64 = 20;

const FIRST_STEPS: &str = "\
First steps:
  puller demo                          see what it does, in a temporary directory
  puller pull ./app.db                 pull a database on this machine
  puller pull pi:/home/pi/app.db       pull from another machine through ssh
  puller pull 127.0.0.1:7420/gym       pull from an agent that serves
  puller list                          see the copies
  puller restore gym --to ./back.db    write the newest good copy to a new file
  puller schedule install              pull all of them each day

Exit codes: 0 done, 1 failed, 2 usage, 3 some of several failed, 4 damage,
5 agent unreachable or lost, 6 refused, 7 source unusable, 8 no space, 10 unknown,
11 locked by another run, 13 stale or a fault found; `puller explain` tells more";

/// Pulls verified copies of live SQLite databases, keeps them, and puts them back.
#[derive(Parser)]
#[command(name = "puller", version, about, arg_required_else_help = true, after_help = FIRST_STEPS)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// The configuration file [default: ~/.config/pullback/puller.toml]
    #[arg(long, global = true, env = "PULLER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where copies are kept [default: ~/.local/share/pullback]
    #[arg(long, global = true, env = "PULLER_STORE", value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long, global = true, env = "PULLER_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
    /// Print nothing when all is well
    #[arg(short, long, global = true, env = "PULLER_QUIET", value_parser = BoolishValueParser::new())]
    pub(crate) quiet: bool,
    /// Say more; the more often, the more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, env = "PULLER_VERBOSE")]
    pub(crate) verbose: u8,
    /// Colours in what is said
    #[arg(long, global = true, env = "PULLER_COLOR", value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Args, Clone, Default)]
#[command(next_help_heading = "What is kept")]
pub(crate) struct Keep {
    #[command(flatten)]
    pub(crate) policy: Policy,
    /// The time zone whose hours, days and weeks the rules mean, such as Asia/Seoul [default: this machine's]
    #[arg(long, env = "PULLER_TIMEZONE", value_name = "ZONE")]
    pub(crate) timezone: Option<Zone>,
}

/// How agents are reached; nearly all of it matters to ssh only.
#[derive(Args, Clone)]
#[command(next_help_heading = "The ssh door")]
pub(crate) struct Door {
    /// The program that is `ssh` [default: ssh]
    #[arg(long, env = "PULLER_SSH", value_name = "PROGRAM")]
    pub(crate) ssh: Option<PathBuf>,
    /// Where `pullback-agent` is at the far end [default: it is looked for]
    #[arg(long, env = "PULLER_REMOTE_AGENT", value_name = "PATH")]
    pub(crate) remote_agent: Option<RemoteAgent>,
    /// Run the agent as the owner of the database, by `sudo -n`
    #[arg(long, env = "PULLER_SUDO", value_parser = BoolishValueParser::new())]
    pub(crate) sudo: bool,
    /// Run the agent as this user, by `sudo -n`
    #[arg(long, env = "PULLER_SUDO_USER", value_name = "USER")]
    pub(crate) sudo_user: Option<SudoUser>,
}

#[derive(Args)]
pub(crate) struct Pull {
    /// A database file, HOST:PATH behind ssh, AGENT/NAME behind a paired agent (AGENT: all of its databases), HOST:PORT/NAME, or a name that the configuration or the store knows
    #[arg(required_unless_present = "all", value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Every source of the configuration; where it names none, every source of the store
    #[arg(long, conflicts_with = "sources", env = "PULLER_ALL", value_parser = BoolishValueParser::new())]
    pub(crate) all: bool,
    /// Pull so many sources at once [default: 4]
    #[arg(long, env = "PULLER_JOBS", value_name = "N")]
    pub(crate) jobs: Option<NonZeroU16>,
    /// Call the source N in the store
    #[arg(long, value_name = "N", env = "PULLER_NAME")]
    pub(crate) name: Option<String>,
    /// How closely to look at the copy [default: auto]
    #[arg(long, env = "PULLER_VERIFY", value_name = "HOW")]
    pub(crate) verify: Option<Verify>,
    /// Transfer every page, building on nothing
    #[arg(long, env = "PULLER_FULL", value_parser = BoolishValueParser::new())]
    pub(crate) full: bool,
    #[command(flatten)]
    pub(crate) keep: Keep,
    /// Remove nothing afterwards
    #[arg(long, env = "PULLER_NO_ROTATE", value_parser = BoolishValueParser::new())]
    pub(crate) no_rotate: bool,
    /// Say what would be moved, and pull nothing
    #[arg(short = 'n', long, env = "PULLER_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(crate) dry_run: bool,
    /// How long an agent may give no sign of life, such as 20s or 2m [default: 20s]
    #[arg(long, env = "PULLER_TIMEOUT", value_name = "DUR", value_parser = puller::config::span)]
    pub(crate) timeout: Option<Duration>,
    /// Try again so many times when the agent cannot be reached or is lost [default: 3 with --all, else 0]
    #[arg(long, env = "PULLER_RETRIES", value_name = "N", value_parser = clap::value_parser!(u32).range(..=RETRIES_MAX))]
    pub(crate) retries: Option<u32>,
    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Pull a proven copy of each source into the store
    Pull(Pull),
    /// Say what is there now: sizes, journal, pages, tables, disk, and what a pull would move
    Info {
        /// A source; none: what the store holds
        source: Option<String>,
        /// List the tables with their rows, counted in the newest copy or in a snapshot
        #[arg(long, env = "PULLER_TABLES", value_parser = BoolishValueParser::new())]
        tables: bool,
        #[command(flatten)]
        door: Door,
    },
    /// List the copies
    #[command(alias = "snapshots")]
    List {
        /// A source; none: all
        source: Option<String>,
        /// With growth, change and space on the disk, checks, reasons and path
        #[arg(long, env = "PULLER_LONG", value_parser = BoolishValueParser::new())]
        long: bool,
    },
    /// Show all that is known of a copy
    Show {
        /// The source
        source: String,
        /// A copy: `latest`, `latest~2`, an id as `list` shows it, or the beginning of one
        #[arg(default_value = "latest")]
        copy: String,
        /// Print MD5, SHA-256 and BLAKE3 of the file, as `md5sum` and its like do
        #[arg(long, env = "PULLER_CHECKSUMS", value_parser = BoolishValueParser::new())]
        checksums: bool,
    },
    /// Say of each source whether its copies are as fresh as they should be
    Status(crate::commands::status::Status),
    /// List the sources, give one another name, or say that one is elsewhere now
    Sources {
        #[command(subcommand)]
        what: Option<crate::commands::sources::Sources>,
    },
    /// Check the configuration, the store, and each source with its agent
    Doctor(crate::commands::doctor::Doctor),
    /// Say what the code of an error means, and what to do
    Explain(crate::commands::explain::Explain),
    /// Show the runs of a source
    History {
        /// The source
        source: String,
        /// Only those that failed
        #[arg(long, env = "PULLER_FAILED", value_parser = BoolishValueParser::new())]
        failed: bool,
    },
    /// Prove that stored copies, or any database file, are what they should be
    #[command(alias = "check")]
    Verify {
        /// A source, or a database file
        #[arg(required_unless_present = "all")]
        source: Option<String>,
        /// A copy, as for `show`; none: every copy of the source
        copy: Option<String>,
        /// Every copy of every source
        #[arg(long, conflicts_with = "source", env = "PULLER_ALL", value_parser = BoolishValueParser::new())]
        all: bool,
        /// With SQLite's full check and a foreign-key check, also of what passed them before
        #[arg(long, env = "PULLER_FULL", value_parser = BoolishValueParser::new())]
        full: bool,
        /// Only the copies that were not proven for longest, until N% of the bytes of each source were read
        #[arg(long, value_name = "N%", conflicts_with = "copy", env = "PULLER_SAMPLE")]
        sample: Option<Share>,
    },
    /// Restore the newest good copy into a scratch place, check it in full, and remove it: does it work, and how long does it take?
    Drill(crate::commands::drill::Drill),
    /// Make a database of a copy again: in a new file, in the place of one that is there, or where it came from
    Restore(crate::commands::restore::Restore),
    /// Write the database file of a copy to stdout, proven first
    Cat(crate::commands::cat::Cat),
    /// Ask a copy something in SQL, for reading only
    Sql(crate::commands::sql::Sql),
    /// Open a copy in the `sqlite3` shell, for reading only
    Open(crate::commands::open::Open),
    /// Take over copies that older scripts made, each with the time in its name
    Import(crate::commands::import::Import),
    /// Remove copies that no rule keeps
    #[command(alias = "forget")]
    Rotate {
        /// A source
        #[arg(required_unless_present = "all")]
        source: Option<String>,
        /// All sources
        #[arg(long, conflicts_with = "source", env = "PULLER_ALL", value_parser = BoolishValueParser::new())]
        all: bool,
        #[command(flatten)]
        keep: Keep,
        /// Show each copy with the reason it stays or goes, and remove nothing
        #[arg(short = 'n', long, env = "PULLER_DRY_RUN", value_parser = BoolishValueParser::new())]
        dry_run: bool,
    },
    /// Call a suspect copy good
    Accept {
        /// The source
        source: String,
        /// The copy, as `list` shows it
        copy: String,
    },
    /// Keep a copy whatever the rules say
    Pin(crate::commands::pin::Pin),
    /// Leave a pinned copy to the rules again
    Unpin(crate::commands::pin::Pin),
    /// Become a peer of an agent, with the one-time code that `pullback-agent pair` prints there
    Pair(crate::commands::pair::Pair),
    /// Be a peer of an agent no longer; what was pulled from it stays
    Unpair(crate::commands::pair::Unpair),
    /// Pull, verify or drill by the clock: give the job to systemd, launchd or cron
    Schedule(crate::commands::schedule::Schedule),
    /// Ask about the configuration
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Find out whether hooks and the ping work
    Notify {
        #[command(subcommand)]
        what: crate::commands::notify::NotifyCommand,
    },
    /// Print what makes a shell complete commands and options
    Completions { shell: clap_complete::Shell },
    /// Print the manual page
    Man {
        /// Write the page and one for each command into DIR instead
        #[arg(long, value_name = "DIR", env = "PULLER_DIR")]
        dir: Option<PathBuf>,
    },
    /// Show what this is for: a live database, a plain `cp`, and a proven copy side by side
    Demo {
        /// Where to work and leave the copies [default: a new directory in the system's one for temporary files]
        #[arg(long, value_name = "DIR", env = "PULLER_DIR")]
        dir: Option<PathBuf>,
    },
    #[command(hide = true, name = "demo-writer")]
    DemoWriter { database: PathBuf },
    #[command(hide = true, name = "demo-agent")]
    DemoAgent { agent_config: PathBuf },
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print where the configuration, the store and the list of known stores are
    Path,
    /// Print the settings that hold, as they may stand in the file; of a ping URL only the host
    Show {
        /// And where each comes from: a flag, the environment, the file, or a default
        #[arg(long, env = "PULLER_ORIGIN", value_parser = BoolishValueParser::new())]
        origin: bool,
    },
    /// Print a configuration with every key and what it is for
    Example,
    /// Check the configuration file
    Check,
}

impl Cli {
    /// Logs go to stderr, so that stdout is data.
    pub(crate) fn start_logging(&self) {
        let level = match self.common.verbose {
            // Whatever it finds wrong with a certificate is told by whoever asked it.
            0 => "error,rustls_platform_verifier=off",
            1 => "warn,puller=info,pullback_agent=info",
            2 => "info,puller=debug,pullback_agent=debug",
            _ => "debug",
        };
        let filter = tracing_subscriber::EnvFilter::try_from_env("PULLER_LOG")
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(self.colors(&std::io::stderr()))
            .init();
    }

    /// Whether what goes to `stream` may have colours.
    pub(crate) fn colors(&self, stream: &impl IsTerminal) -> bool {
        match self.common.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn check(command: &clap::Command) {
        for argument in command.get_arguments() {
            let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long)) else {
                continue;
            };
            let variable = argument.get_env().unwrap_or_default().to_string_lossy();
            let expected = match long {
                // `PULLER_ADDRESS` is what hooks are told of the source.
                "address" => "PULLER_PAIR_ADDRESS".to_owned(),
                long => format!("PULLER_{}", long.to_uppercase().replace('-', "_")),
            };
            assert_eq!(variable, expected, "--{long} of `{}`", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }

    /// A hook that calls `puller` would else have what it is told taken for options.
    #[test]
    fn what_hooks_are_told_is_no_option_s_variable() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let variable = argument.get_env().unwrap_or_default();
                let is_told = puller::hooks::variables().any(|name| name == variable);
                assert!(!is_told, "{argument} of `{}`", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
        assert!(puller::hooks::variables().all(|name| !["PULLER_LOG", "PULLER_NOW"].contains(&name)));
    }

    #[test]
    fn every_option_has_an_environment_variable() {
        let mut command = Cli::command();
        command.build();
        check(&command);
    }
}
