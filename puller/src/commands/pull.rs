//! `puller pull`: every source asked for, several at once if need be, and one report at the end.

use super::places::{Place, Places};
use super::progress::Bars;
use super::pull_report::{Ran, Reporter};
use super::tell::Tell;
use crate::cli::{Cli, Pull};
use pullback_shared::fault::{Fault, Kind};
use puller::client::Client;
use puller::clock;
use puller::config::Config;
use puller::history;
use puller::judge::Verify;
use puller::pull::{Options, Pulled, Run};
use puller::source_dir::{SourceDir, StoredCopy};
use puller::ssh::Door;
use puller::store::Store;
use puller::target::{Asked, Target};
use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Between the first two tries; each later wait is twice the one before.
const RETRY_WAIT: Duration = Duration::from_secs(2);

/// Between two tries at most.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Tries after the first, where nobody said how many: for `--all`, which nobody watches, and for what a person typed.
const RETRIES_ALL: u32 = 3;
const RETRIES_ONE: u32 = 0;

/// Sources pulled at once, where nobody said how many.
const JOBS: u16 = 4;

/// How long an agent may give no sign of life, where nobody said.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) fn run(cli: &Cli, asked: &Pull) -> Result<u8, Fault> {
    let config = super::read_config(cli)?;
    if asked.name.is_some() && asked.sources.len() != 1 {
        return Err(Fault::new(Kind::Usage, "`--name` is for one source"));
    }
    clock::now()?;
    let tell = if asked.dry_run { Tell::default() } else { Tell::run_began(&config) };
    let result = every_one(cli, asked, &config, &tell);
    tell.run_ended(&result);
    result
}

fn every_one(cli: &Cli, asked: &Pull, config: &Config, tell: &Tell) -> Result<u8, Fault> {
    let pull = Pulls { cli, asked, config, tell, opening: Mutex::new(()), places: Places::default() };
    let targets = pull.each_of_agents(targets(cli, asked, config)?)?;
    let mut reporter = Reporter::new(cli, config, asked, targets.len());
    match asked.dry_run {
        true => targets.into_iter().for_each(|target| reporter.planned(&pull.plan(target))),
        false => pull.all(targets, &mut reporter),
    }
    Ok(reporter.end())
}

fn targets(cli: &Cli, asked: &Pull, config: &Config) -> Result<Vec<Asked>, Fault> {
    let store = Store::open(&super::store_path(cli, config)).ok();
    if asked.all {
        let targets = Target::all(config, store.as_ref())?;
        if targets.is_empty() {
            return Err(Fault::new(Kind::Unknown, "there is no source to pull yet").hint(
                "pull one by its address first, or put `[source.NAME]` with its `address` into the configuration",
            ));
        }
        return Ok(targets);
    }
    let read = |typed: &String| {
        let target = Target::read(typed, config, store.as_ref()).map_err(|fault| (typed.clone(), fault))?;
        Ok(match &asked.name {
            Some(name) => Target { name: Some(name.clone()), is_apart: true, ..target },
            None => target,
        })
    };
    Ok(asked.sources.iter().map(read).collect())
}

/// What is the same for all sources of one command.
struct Pulls<'a> {
    cli: &'a Cli,
    asked: &'a Pull,
    config: &'a Config,
    tell: &'a Tell,
    /// Held by the run that opens the store, and makes it if there is none.
    opening: Mutex<()>,
    places: Places,
}

impl Pulls<'_> {
    /// `targets`, with each database of an agent that was asked for as a whole. Whoever types a source twice, or in two spellings,
    /// means one pull.
    fn each_of_agents(&self, targets: Vec<Asked>) -> Result<Vec<Asked>, Fault> {
        let mut each = Vec::new();
        for target in targets {
            match target {
                Ok(target) if target.address.is_whole_agent() && self.asked.name.is_some() => {
                    let why = format!("`{}` is an agent, and `--name` is for one source", target.typed);
                    return Err(Fault::new(Kind::Usage, why).hint("name one of its databases, as AGENT/NAME"));
                }
                Ok(target) if target.address.is_whole_agent() => {
                    let asked =
                        self.door(&target).and_then(|door| self.again(|| target.each(self.config, &door)));
                    each.extend(asked.unwrap_or_else(|fault| vec![Err((target.typed, fault))]));
                }
                target => each.push(target),
            }
        }
        let mut addresses = HashSet::new();
        let is_new = |asked: &Asked| match asked {
            Ok(target) => self.asked.all || addresses.insert(target.address.key()),
            Err(_) => true,
        };
        each.retain(is_new);
        Ok(each)
    }

    /// Pulls all of them, some at a time, and tells the reporter of each as it ends. One that fails stops no other.
    fn all(&self, targets: Vec<Asked>, reporter: &mut Reporter<'_>) {
        let jobs = self.asked.jobs.or(self.config.jobs).map_or(JOBS, u16::from);
        let jobs = usize::from(jobs).min(targets.len());
        let bars = Bars::new(self.cli);
        let waiting = Mutex::new(VecDeque::from(targets));
        let (ended, endings) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                let (ended, waiting, bars) = (ended.clone(), &waiting, &bars);
                scope.spawn(move || {
                    loop {
                        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some(target) = next else { break };
                        if ended.send(self.whatever_happens(target, bars)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(ended);
            for ran in endings {
                bars.aside(|| reporter.ran(ran));
            }
        });
    }

    /// As [`Self::one`], which has no reason to panic; if it does, it is that source's failure and no other's.
    fn whatever_happens(&self, target: Asked, bars: &Bars) -> Ran {
        let shown = target.as_ref().map_or_else(|(typed, _)| typed.clone(), |target| target.typed.clone());
        let ran = catch_unwind(AssertUnwindSafe(|| self.one(target, bars)));
        ran.unwrap_or_else(|_| Ran {
            shown,
            source: None,
            result: Err(Fault::new(Kind::Internal, "the run panicked; what it said stands above")),
            optional: false,
            at: clock::now().unwrap_or_default(),
            duration: Duration::ZERO,
            unrecorded: None,
            warnings: Vec::new(),
        })
    }

    /// Pulls one source, enters it into its history, and tells of it.
    fn one(&self, target: Asked, bars: &Bars) -> Ran {
        let mut began = Instant::now();
        let mut source = None;
        let (mut address, mut warnings) = (String::new(), Vec::new());
        let (shown, optional, result) = match target {
            Ok(target) => {
                address = target.address.to_string();
                warnings.extend(self.tell.before(&address, || self.known_as(&target)));
                began = Instant::now();
                let optional = target.settings.as_ref().is_some_and(|settings| settings.optional);
                let result = self.attempt(&target, bars, &mut source);
                (source.as_ref().map_or(target.typed, SourceDir::shown), optional, result)
            }
            Err((typed, fault)) => (typed, false, Err(fault)),
        };
        let result = result.map_err(|fault| with_newest_good(fault, source.as_ref()));
        let mut ran = Ran {
            shown,
            source,
            result,
            optional,
            at: clock::now().unwrap_or_default(),
            duration: began.elapsed(),
            unrecorded: None,
            warnings,
        };
        let failed_before = self.tell.failed_before(ran.source.as_ref());
        let was_locked = matches!(&ran.result, Err(fault) if fault.kind == Kind::Locked);
        if let Some(source) = ran.source.as_ref().filter(|_| !was_locked) {
            ran.unrecorded = history::add(source, &ran.line()).err();
        }
        ran.warnings.extend(self.tell.after(&address, &ran.line(), ran.exit(), failed_before));
        ran
    }

    /// What the store calls it; as it was asked for, where the store does not know it yet.
    fn known_as(&self, target: &Target) -> String {
        let store = Store::open(&super::store_path(self.cli, self.config)).ok();
        let known = store.and_then(|store| target.folder(&store).ok()?);
        known.map_or_else(|| target.typed.clone(), |source| source.shown())
    }

    fn attempt(&self, target: &Target, bars: &Bars, found: &mut Option<SourceDir>) -> Result<Pulled, Fault> {
        let now = clock::now()?;
        let door = self.door(target)?;
        let mut place = self.places.take(&target.address);
        let store = Store::open(&super::store_path(self.cli, self.config)).ok();
        let mut met = self.again(|| target.meet(store.as_ref(), &door))?;
        *found = met.source.take();
        if found.as_ref().is_none_or(SourceDir::has_no_address) {
            // Nothing is made in the store for a source that was never there: first see that there is one to pull.
            let problem = match &met.client {
                Some(_) => met.problem.take(),
                None => self.again(|| {
                    let mut client = Client::open(&met.address, &door)?;
                    let (_, problem) = client.resolve(&met.address)?;
                    met.client = Some(client);
                    Ok(problem)
                })?,
            };
            problem.map_or(Ok(()), Err)?;
        }
        let store = {
            let _alone = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            super::open_or_create_store(self.cli, self.config)?
        };
        let mut source = match found.take() {
            Some(source) => source,
            None => store.create(&met.address, target.name.as_deref())?,
        };
        *found = Some(source.clone());
        let key = source.about.key.clone();
        let lock = source.lock_anew()?;
        if source.about.key != key {
            let why = format!("`{}` got another address while this run began", source.shown());
            return Err(Fault::new(Kind::Locked, why).hint("try again"));
        }
        source.found_at(&met.address, &lock)?;
        source.note(&target.address, target.name.as_deref(), &lock)?;
        let options = Options { path: source.path_to_be(&target.address), ..self.options(target) };
        let bar = bars.bar(&source.shown());
        let pulled = loop {
            let pulled = self.again(|| {
                let client = met.client.take().map_or_else(|| Client::open(&target.address, &door), Ok)?;
                Run { source: &mut source, lock: &lock, options: &options, now, watch: &bar }.pull(client)
            });
            let is_busy = matches!(&pulled, Err(fault) if fault.kind == Kind::Busy);
            if !is_busy || !place.as_mut().is_some_and(Place::wait_for_another) {
                break pulled;
            }
        };
        bar.clear();
        *found = Some(source);
        pulled
    }

    /// Does `work`, and again after a growing wait while what went wrong may pass by itself.
    fn again<T>(&self, mut work: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
        let default = if self.asked.all { RETRIES_ALL } else { RETRIES_ONE };
        let retries = self.asked.retries.or(self.config.retries).unwrap_or(default);
        let mut wait = RETRY_WAIT;
        for tried in 1..=retries {
            match work() {
                Err(fault) if fault.kind.is_transient() => tracing::warn!("try {tried} failed: {fault}"),
                done => return done,
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
        work()
    }

    fn door(&self, target: &Target) -> Result<Door, Fault> {
        let timeout = self.asked.timeout.or(self.config.timeout.map(|span| span.0)).unwrap_or(TIMEOUT);
        super::door(&self.asked.door, self.config, target.name.as_deref(), timeout)
    }

    fn options(&self, target: &Target) -> Options {
        let (asked, config, settings) = (self.asked, self.config, target.settings.as_ref());
        let written = settings.and_then(|settings| settings.verify).or(config.verify);
        Options {
            verify: asked.verify.or(written).unwrap_or(Verify::Auto),
            full: asked.full,
            rules: (!asked.no_rotate).then(|| super::rules(&asked.keep, config, settings)),
            pack: Some(super::pack(config, settings)),
            expect: settings.map(|settings| settings.expect.clone()).unwrap_or_default(),
            path: None,
            is_safety: false,
            imported: None,
        }
    }

    /// `--dry-run`: what a pull would move. Nothing is made or changed in the store.
    fn plan(&self, target: Asked) -> (String, Result<puller::plan::Planned, Fault>) {
        let target = match target {
            Ok(target) => target,
            Err((typed, fault)) => return (typed, Err(fault)),
        };
        let store = Store::open(&super::store_path(self.cli, self.config)).ok();
        let planned = self.door(&target).and_then(|door| {
            let met = target.meet(store.as_ref(), &door)?;
            let mut client = met.client.map_or_else(|| Client::open(&target.address, &door), Ok)?;
            puller::plan::plan(&mut client, met.source.as_ref(), self.asked.full)
        });
        (target.typed, planned)
    }
}

fn with_newest_good(fault: Fault, source: Option<&SourceDir>) -> Fault {
    let newest = source.and_then(|source| source.copies().ok()?.into_iter().rfind(StoredCopy::is_good));
    match (fault.kind, newest) {
        (Kind::Unreadable | Kind::NotADatabase | Kind::Missing, Some(copy)) => {
            let hint = format!("the newest good copy is {}; {}", copy.id, fault.hint);
            fault.hint(hint.trim_end_matches("; ").to_owned())
        }
        _ => fault,
    }
}
