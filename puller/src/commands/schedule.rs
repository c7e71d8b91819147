//! `puller schedule`: jobs given to the scheduler of this machine, shown, and taken away again.

use super::text;
use crate::cli::{Cli, Keep};
use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use pullback_shared::fault::{Fault, Kind};
use puller::address::{Address, absolute};
use puller::clock;
use puller::config::{Config, job_logs};
use puller::job_log::{JobLog, RunLine};
use puller::paired::behind;
use puller::policy::{Count, Policy, Rules};
use puller::rotation::{self, Facts};
use puller::schedule::{self, Job, JobName, When};
use puller::scheduler::{Scheduler, Text};
use puller::store::Store;
use serde_json::json;
use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

/// When nothing is said of the time.
const PULL_AT: Time = Time::constant(9, 0, 0, 0);
const VERIFY_AT: Time = Time::constant(10, 0, 0, 0);
const DRILL_AT: Time = Time::constant(11, 0, 0, 0);

/// What is proposed where nothing says how long copies are kept: the newest copies of so many days, weeks and months.
const PROPOSED: [u32; 3] = [7, 5, 12];

/// How long the end of the first run is waited for where the scheduler does not wait itself, and how often it is looked for.
const FIRST_RUN_WAIT: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(crate) struct Schedule {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Give a job to the scheduler of this machine, and have it run once
    Install(Install),
    /// Say of each job when it last ran, how that ended, and when it runs next
    Status,
    /// Do what the scheduler calls for: the job itself, with its log
    Run(RunJob),
    /// Take a job away again; its log stays
    Uninstall {
        /// The job
        #[arg(required_unless_present = "all")]
        job: Option<JobName>,
        /// Every job
        #[arg(long, conflicts_with = "job", env = "PULLER_ALL", value_parser = BoolishValueParser::new())]
        all: bool,
    },
}

#[derive(Args)]
struct Install {
    /// The job
    #[arg(default_value = "pull")]
    job: JobName,
    /// What to pull, as for `pull`; none: all sources
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// Each day at this time [default: 09:00 for pull, 10:00 for verify, Sundays at 11:00 for drill]
    #[arg(long, env = "PULLER_AT", value_name = "HH:MM", value_parser = When::at, group = "when")]
    at: Option<Time>,
    /// At each full hour
    #[arg(long, env = "PULLER_HOURLY", value_parser = BoolishValueParser::new(), group = "when")]
    hourly: bool,
    /// In the scheduler's own language: `Mon..Fri 09:30` for systemd, `30 9 * * 1-5` for cron
    #[arg(long, env = "PULLER_ON_CALENDAR", value_name = "E", group = "when")]
    on_calendar: Option<String>,
    #[command(flatten)]
    keep: Keep,
    /// The scheduler [default: launchd on macOS, systemd where it answers, else cron]
    #[arg(long, env = "PULLER_WITH", value_name = "SCHEDULER")]
    with: Option<Scheduler>,
    /// Only print what would be written
    #[arg(long, env = "PULLER_PRINT", value_parser = BoolishValueParser::new())]
    print: bool,
    /// Ask nothing
    #[arg(short, long, env = "PULLER_YES", value_parser = BoolishValueParser::new())]
    yes: bool,
}

#[derive(Args)]
pub(crate) struct RunJob {
    /// The job
    pub(crate) job: JobName,
    /// What to pull; none: all sources
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    #[command(flatten)]
    pub(crate) keep: Keep,
}

pub(crate) fn run(cli: &Cli, asked: &Schedule) -> Result<u8, Fault> {
    match &asked.what {
        What::Install(asked) => install(cli, asked),
        What::Status => status(cli),
        What::Run(asked) => super::schedule_run::run(cli, asked),
        What::Uninstall { job, all: _ } => uninstall(cli, *job),
    }
}

/// What was typed of the policy, as words.
pub(crate) fn keep_words(keep: &Keep) -> Vec<String> {
    let Keep { policy, timezone } = keep;
    let zone = timezone.as_ref().and_then(|zone| zone.0.iana_name());
    let zone = zone.map(|zone| ["--timezone".to_owned(), zone.to_owned()]);
    policy.words().into_iter().chain(zone.into_iter().flatten()).collect()
}

fn install(cli: &Cli, asked: &Install) -> Result<u8, Fault> {
    let config = super::read_config(cli)?;
    if asked.job != JobName::Pull && (!asked.sources.is_empty() || !keep_words(&asked.keep).is_empty()) {
        let what = format!("the job `{}` is for every source, and removes no copy", asked.job.word());
        return Err(Fault::new(Kind::Usage, what).hint("leave sources and `--keep-…` out"));
    }
    let scheduler = asked.with.unwrap_or_else(Scheduler::of_this_machine);
    if !asked.print {
        scheduler.answers()?;
        if !asked.yes && !at_terminal() {
            return Err(Fault::new(Kind::Usage, "nobody sits at a terminal to say yes")
                .hint("say it with `--yes`; `--print` shows what would be written"));
        }
    }
    let keep = match asked.job {
        JobName::Pull => ask_what_to_keep(cli, asked, &config)?,
        JobName::Verify | JobName::Drill => asked.keep.clone(),
    };
    let job = job(cli, asked, keep, &config)?.checked()?;
    let texts = scheduler.texts(&job)?;
    scheduler.check(&job.when)?;
    let log = JobLog::in_dir(&job_logs(), job.name);
    if asked.print {
        match cli.common.json {
            true => println!("{}", installed_json(scheduler, &job, &texts, &log, None)),
            false => show(cli, &texts),
        }
        return Ok(0);
    }
    let elsewhere = Scheduler::ALL.into_iter().filter(|other| *other != scheduler);
    let elsewhere: Vec<Scheduler> =
        elsewhere.filter(|other| other.installed(job.name).is_ok_and(|found| found.is_some())).collect();
    // What is asked for is shown, even where little is to be said.
    if !asked.yes || !(cli.common.quiet || cli.common.json) {
        show(cli, &texts);
        elsewhere
            .iter()
            .for_each(|other| eprintln!("and the job `{}` of {} goes", job.name.word(), other.word()));
    }
    if !asked.yes && !agreed("Write this? [y/N] ", |answer| answer.eq_ignore_ascii_case("y"))? {
        eprintln!("nothing was written");
        return Ok(0);
    }
    scheduler.install(job.name, &texts)?;
    for other in elsewhere {
        other.uninstall(job.name)?;
    }
    if let Some(warning) = scheduler.warning() {
        eprintln!("note: {warning}");
    }
    let ran = first_run(cli, scheduler, &log)?;
    if cli.common.json {
        println!("{}", installed_json(scheduler, &job, &texts, &log, ran.as_ref()));
    }
    Ok(ran.and_then(|ran| ran.exit).unwrap_or(0))
}

/// The job as the scheduler is to have it.
fn job(cli: &Cli, asked: &Install, keep: Keep, config: &Config) -> Result<Job, Fault> {
    let program = std::env::current_exe().map_err(|error| Fault::io("the path of this program", &error))?;
    let mut command = vec![schedule::text_of(&program)?];
    for (flag, path) in [("--config", &cli.common.config), ("--store", &cli.common.store)] {
        if let Some(path) = path {
            command.extend([flag.to_owned(), schedule::text_of(&absolute(path))?]);
        }
    }
    command.extend(["schedule", "run", asked.job.word()].map(str::to_owned));
    command.extend(keep_words(&keep));
    if !asked.sources.is_empty() {
        command.push("--".to_owned());
    }
    for source in &asked.sources {
        command.push(from_anywhere(source, config)?);
    }
    let when = match (&asked.on_calendar, asked.at, asked.job) {
        (Some(expression), ..) => When::On(expression.clone()),
        _ if asked.hourly => When::Hourly,
        (_, Some(time), _) => When::Daily(time),
        (_, None, JobName::Pull) => When::Daily(PULL_AT),
        (_, None, JobName::Verify) => When::Daily(VERIFY_AT),
        (_, None, JobName::Drill) => When::Weekly(DRILL_AT),
    };
    Ok(Job { name: asked.job, when, command, environment: schedule::environment()? })
}

/// A source as it can be typed in any folder: schedulers start programs in the user's home.
fn from_anywhere(typed: &str, config: &Config) -> Result<String, Fault> {
    match Address::parse(typed)? {
        Some(Address::Local(path)) => schedule::text_of(&absolute(&path)),
        Some(_) => Ok(typed.to_owned()),
        None if !config.sources.contains_key(typed)
            && behind(typed)?.is_none()
            && Path::new(typed).is_file() =>
        {
            schedule::text_of(&absolute(Path::new(typed)))
        }
        None => Ok(typed.to_owned()),
    }
}

/// Without any policy the copies fill the disk one day; with one that nobody asked for, copies would go that somebody
/// wants. So it is asked for where somebody can answer, and else nothing is removed, which is said.
fn ask_what_to_keep(cli: &Cli, asked: &Install, config: &Config) -> Result<Keep, Fault> {
    let configured = config.keep.is_some() || config.sources.values().any(|source| source.keep.is_some());
    if configured || !keep_words(&asked.keep).is_empty() {
        return Ok(asked.keep.clone());
    }
    let [days, weeks, months] = PROPOSED;
    if asked.yes || asked.print || !at_terminal() {
        if !cli.common.quiet {
            eprintln!(
                "note: nothing says how long copies are kept, so none is ever removed; `--keep-daily {days} --keep-weekly {weeks} \
                 --keep-monthly {months}` here, or `keep = {{ daily = {days}, weekly = {weeks}, monthly = {months} }}` in \
                 puller.toml, sets a limit"
            );
        }
        return Ok(asked.keep.clone());
    }
    let [daily, weekly, monthly] = PROPOSED.map(|number| Some(Count::Of(number)));
    let policy =
        Policy { keep_daily: daily, keep_weekly: weekly, keep_monthly: monthly, ..Policy::default() };
    let going = match would_go(cli, config, policy) {
        0 => String::new(),
        count => format!("; with these, {count} of the copies that are there go"),
    };
    let question = format!(
        "Keep the newest good copies of {days} days, {weeks} weeks and {months} months? Enter for yes, `all` to keep all, or a \
         number of days; the newest one always stays{going} [yes] "
    );
    let mut kept = Policy::default();
    let understood = agreed(&question, |answer| match (answer, answer.parse()) {
        ("" | "y" | "yes", _) => {
            kept = policy;
            true
        }
        (_, Ok(number)) => {
            kept.keep_days = Some(number);
            true
        }
        _ => answer == "all",
    })?;
    match understood {
        true => Ok(Keep { policy: kept, ..asked.keep.clone() }),
        false => Err(Fault::new(Kind::Usage, "that is neither yes, nor a number of days, nor `all`")),
    }
}

/// How many of the copies in the store the policy would remove.
fn would_go(cli: &Cli, config: &Config, policy: Policy) -> usize {
    let rules = Rules { policy, ..super::rules(&Keep::default(), config, None) };
    let Ok(now) = clock::now() else { return 0 };
    let sources = Store::open(&super::store_path(cli, config)).and_then(|store| store.sources());
    let gone = sources.unwrap_or_default().known.into_iter().map(|source| {
        let facts = Facts::of(&source).unwrap_or_default();
        rotation::plan(&facts, &rules, now).iter().filter(|decision| !decision.stays()).count()
    });
    gone.sum()
}

fn at_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks at the terminal, and gives what `judge` says of the answer.
fn agreed(question: &str, judge: impl FnOnce(&str) -> bool) -> Result<bool, Fault> {
    eprint!("{question}");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Fault::io("the terminal", &error))?;
    Ok(judge(answer.trim()))
}

/// Shows what will be written; as talk where stdout is for JSON.
fn show(cli: &Cli, texts: &[Text]) {
    for Text { place, content } in texts {
        let shown = format!("# {}\n{content}", place.shown());
        match cli.common.json {
            true => eprintln!("{shown}"),
            false => println!("{shown}"),
        }
    }
}

fn installed_json(
    scheduler: Scheduler,
    job: &Job,
    texts: &[Text],
    log: &JobLog,
    ran: Option<&RunLine>,
) -> serde_json::Value {
    let texts: Vec<_> =
        texts.iter().map(|text| json!({"place": text.place.shown(), "content": text.content})).collect();
    json!({
        "v": 1, "job": job.name.word(), "scheduler": scheduler.word(), "command": job.command, "texts": texts,
        "log": log.path(), "run": ran,
    })
}

/// Has the scheduler run the job, and tells how that ended.
fn first_run(cli: &Cli, scheduler: Scheduler, log: &JobLog) -> Result<Option<RunLine>, Fault> {
    let before = log.last();
    let quiet = cli.common.quiet;
    if !quiet {
        match scheduler {
            Scheduler::Cron => {
                eprintln!("cron cannot be asked to start a job: its line is run once, as cron would")
            }
            _ => eprintln!("{} runs it once …", scheduler.word()),
        }
    }
    let said = scheduler.start(log.job())?;
    let began = Instant::now();
    let ran = loop {
        let ran = log.last().filter(|ran| Some(ran) != before.as_ref());
        let waits = scheduler == Scheduler::Launchd && began.elapsed() < FIRST_RUN_WAIT;
        match ran {
            Some(ran) if ran.exit.is_some() || !waits => break Some(ran),
            None if !waits => break None,
            _ => std::thread::sleep(LOOK_EVERY),
        }
    };
    let path = log.path();
    match &ran {
        Some(ran) if ran.exit == Some(0) => {
            if !quiet && !cli.common.json {
                println!("the first run: {}; the log is `{}`", ran.outcome(false), path.display());
            }
        }
        Some(ran) => {
            let outcome = ran.outcome(log.is_running());
            eprintln!("error: the first run {outcome}; the schedule stays; the log is `{}`", path.display());
        }
        None => {
            return Err(Fault::new(
                Kind::Found,
                format!("{} did not get to run the job, though the schedule stays: {said}", scheduler.word()),
            )
            .hint(
                "`puller schedule status` shows what is installed; `puller schedule uninstall` takes it away",
            ));
        }
    }
    Ok(ran)
}

fn status(cli: &Cli) -> Result<u8, Fault> {
    let now = clock::now()?;
    let (mut jobs, mut code) = (0, 0);
    for name in JobName::ALL {
        for scheduler in Scheduler::ALL {
            let Some(job) = scheduler.installed(name)? else { continue };
            jobs += 1;
            let log = JobLog::in_dir(&job_logs(), name);
            let (last, running) = (log.last(), log.is_running());
            let next = scheduler.next(name).or_else(|| next_by_calendar(&job.when, now));
            let asleep = scheduler == Scheduler::Systemd && next.is_none() && !running;
            let failed = last.as_ref().is_some_and(|last| !running && last.exit != Some(0));
            if asleep || failed {
                code = Kind::Found.exit();
            }
            if cli.common.json {
                let line = json!({
                    "v": 1, "job": name.word(), "scheduler": scheduler.word(), "place": job.place,
                    "command": job.command, "when": words(&job.when), "log": log.path(), "running": running,
                    "last": last, "next": next.map(clock::rfc3339),
                });
                println!("{line}");
                continue;
            }
            if cli.common.quiet && !asleep && !failed {
                continue;
            }
            let last = last.map_or_else(
                || "never".to_owned(),
                |last| format!("{}: {}", text::when(last.began, now), last.outcome(running)),
            );
            let next = match (next, asleep) {
                (Some(next), _) => text::when(next, now),
                (None, true) => "not planned: systemd does not have the timer running".to_owned(),
                (None, false) => format!("by `{}`", words(&job.when)),
            };
            println!("{}: {} ({}), {}", name.word(), words(&job.when), scheduler.word(), job.place);
            println!("  last     {last}");
            println!("  next     {next}");
            println!("  log      {}", log.path().display());
            println!("  command  {}", job.command);
        }
    }
    if jobs == 0 && !cli.common.json && !cli.common.quiet {
        println!("no job is installed; `puller schedule install` installs one");
    }
    Ok(code)
}

fn next_by_calendar(when: &When, now: Timestamp) -> Option<Timestamp> {
    when.next(&now.to_zoned(TimeZone::system())).map(|next| next.timestamp())
}

fn words(when: &When) -> String {
    match when {
        When::Hourly => "hourly".to_owned(),
        When::Daily(time) => format!("daily at {}", time.strftime("%H:%M")),
        When::Weekly(time) => format!("Sundays at {}", time.strftime("%H:%M")),
        When::On(expression) => expression.clone(),
    }
}

fn uninstall(cli: &Cli, job: Option<JobName>) -> Result<u8, Fault> {
    for name in JobName::ALL.into_iter().filter(|name| job.is_none_or(|job| job == *name)) {
        let mut removed = Vec::new();
        for scheduler in Scheduler::ALL {
            if scheduler.uninstall(name)? {
                removed.push(scheduler.word());
            }
        }
        let log = JobLog::in_dir(&job_logs(), name).path();
        let word = name.word();
        if cli.common.json {
            println!("{}", json!({"v": 1, "job": word, "removed_from": removed, "log": log}));
        } else if !cli.common.quiet {
            match removed.is_empty() {
                true => println!("{word}: was not installed"),
                false => println!("{word}: removed from {}", removed.join(", ")),
            }
            if log.exists() {
                println!("  its log stays: {}", log.display());
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn every_rule_of_a_policy_is_handed_on() {
        #[derive(Parser)]
        struct Typed {
            #[command(flatten)]
            keep: Keep,
        }
        let command = <Typed as clap::CommandFactory>::command();
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        let value = |flag: &str| match flag {
            "timezone" => "UTC",
            flag if flag.starts_with("keep-within") => "3d",
            _ => "3",
        };
        let words: Vec<String> =
            flags.flat_map(|flag| [format!("--{flag}"), value(flag).to_owned()]).collect();
        let typed = Typed::parse_from(std::iter::once("x".to_owned()).chain(words.clone()));
        assert_eq!(words.len(), 30);
        assert_eq!(keep_words(&typed.keep), words);
    }
}
