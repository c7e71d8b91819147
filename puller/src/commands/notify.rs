//! `puller notify`: whether those who are to be told of runs can be told, and those who judge a restore be asked.

use super::tell;
use crate::cli::Cli;
use clap::{Subcommand, ValueEnum};
use pullback_shared::fault::{Fault, Kind};
use puller::clock;
use puller::config::Config;
use puller::health;
use puller::hooks::{self, Facts, Moment};
use puller::ping::{Event, Ping};
use serde_json::json;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const EXAMPLE: &str = "\
put one of these into the configuration:

  [hooks]
  on_failure = [\"/usr/local/bin/tell\", \"me\"]

  [ping]
  url = \"https://hc-ping.com/UUID\"";

#[derive(Subcommand)]
pub(crate) enum NotifyCommand {
    /// Run each hook once with example values, ask `after_restore_url` once, and ping once as of a run that began and ended well
    Test {
        /// Only these; none: all that are configured
        #[arg(value_name = "WHAT")]
        only: Vec<What>,
    },
}

/// What can be configured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum What {
    BeforePull,
    AfterPull,
    OnFailure,
    OnRecovery,
    BeforeRestore,
    AfterRestore,
    AfterRestoreUrl,
    Ping,
}

/// One that was told.
struct Told {
    what: String,
    duration: Duration,
    /// What came of it.
    result: Result<String, String>,
    /// The end of what a hook wrote.
    output: Vec<String>,
}

pub(crate) fn run(cli: &Cli, what: &NotifyCommand) -> Result<u8, Fault> {
    let NotifyCommand::Test { only } = what;
    let config = super::read_config(cli)?;
    let asked = |what: What| only.is_empty() || only.contains(&what);
    let mut told = 0;
    let mut failed = 0;
    let mut say_and_count = |one: Told| {
        told += 1;
        failed += u32::from(one.result.is_err());
        say(cli, &one);
    };
    for moment in Moment::ALL.into_iter().filter(|moment| asked(What::of(*moment))) {
        if let Some(one) = run_hook(&config, moment)? {
            say_and_count(one);
        }
    }
    if let Some((url, _)) = config.hooks.health().filter(|_| asked(What::AfterRestoreUrl)) {
        say_and_count(ask(url));
    }
    if let Some(ping) = config.ping.as_ref().filter(|_| asked(What::Ping)) {
        let ping = Ping::new(&ping.url).map_err(|why| Fault::new(Kind::Config, why))?;
        say_and_count(send(&ping, Event::Start));
        say_and_count(send(&ping, Event::Success));
    }
    match (told, failed) {
        (0, _) => {
            let which = if only.is_empty() { "neither a hook nor a ping" } else { "nothing of that kind" };
            Err(Fault::new(Kind::Usage, format!("{which} is configured: nobody is told of a run"))
                .hint(EXAMPLE))
        }
        (_, 0) => Ok(0),
        _ => Ok(1),
    }
}

impl What {
    fn of(moment: Moment) -> Self {
        match moment {
            Moment::BeforePull => Self::BeforePull,
            Moment::AfterPull => Self::AfterPull,
            Moment::OnFailure => Self::OnFailure,
            Moment::OnRecovery => Self::OnRecovery,
            Moment::BeforeRestore => Self::BeforeRestore,
            Moment::AfterRestore => Self::AfterRestore,
        }
    }
}

fn run_hook(config: &Config, moment: Moment) -> Result<Option<Told>, Fault> {
    let report = tell::example(moment, clock::now()?);
    let end = match moment {
        Moment::BeforePull | Moment::BeforeRestore | Moment::AfterRestore => None,
        Moment::AfterPull | Moment::OnRecovery => Some((0, None)),
        Moment::OnFailure => Some((Kind::Unreachable.exit(), Some(Kind::Unreachable))),
    };
    let facts = Facts { address: "127.0.0.1:7420/example", report: &report, end, is_test: true };
    Ok(hooks::run(&config.hooks, moment, &facts).map(|ran| Told {
        what: moment.word().to_owned(),
        duration: ran.duration,
        output: tell::last_lines(&ran, usize::MAX),
        result: ran.result.map(|()| "it ended with exit code 0".to_owned()),
    }))
}

/// Once: nothing was just started that would need a moment.
fn ask(url: &str) -> Told {
    let began = Instant::now();
    let result = health::healthy(url, Duration::ZERO).map(|()| "it answered that all is well".to_owned());
    Told { what: "after_restore_url".to_owned(), duration: began.elapsed(), result, output: Vec::new() }
}

fn send(ping: &Ping, event: Event<'_>) -> Told {
    let (result, duration) = ping.tell(event, &AtomicBool::new(false));
    let result = result.map(|answer| format!("it answered {} (tries: {})", answer.status, answer.tries));
    Told { what: format!("ping {}", event.word()), duration, result, output: Vec::new() }
}

fn say(cli: &Cli, told: &Told) {
    let Told { what, duration, result, output } = told;
    let seconds = duration.as_secs_f64();
    let (Ok(detail) | Err(detail)) = result;
    if cli.common.json {
        let line = json!({
            "v": 1, "told": what, "well": result.is_ok(), "detail": detail, "duration_seconds": seconds,
            "output": output,
        });
        println!("{line}");
        return;
    }
    match result {
        Ok(_) if cli.common.quiet => {}
        Ok(_) => {
            println!("{what:<17}  ok      {seconds:.1} s: {detail}");
            output.iter().for_each(|line| println!("  {line}"));
        }
        Err(_) => {
            eprintln!("{what:<17}  failed  {seconds:.1} s: {detail}");
            output.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}
