//! `pullback-agent init`: a configuration, the identity, and what to do next; with `--service` the whole service.

use crate::cli::Cli;
use clap::builder::BoolishValueParser;
use pullback_agent::config::{Config, default_state_dir};
use pullback_agent::discover::Discovery;
use pullback_agent::identity::{Identity, dir_of};
use pullback_agent::init::{Candidate, Configured, Identified, Starter, configure, identify};
use pullback_agent::systemd::{Roots, Service};
use pullback_agent::users;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::shell_word;
use std::path::{Path, PathBuf};

/// What is to be set up.
#[derive(clap::Args)]
pub(crate) struct Init {
    /// A database to serve; may be said more than once
    #[arg(long, value_name = "PATH", env = "PULLBACK_AGENT_DATABASE")]
    database: Vec<PathBuf>,
    /// Serve every SQLite database found below DIR
    #[arg(long, value_name = "DIR", env = "PULLBACK_AGENT_DISCOVER")]
    discover: Option<PathBuf>,
    /// Make it a service of systemd, of the user that owns the databases; needs root
    #[arg(long, env = "PULLBACK_AGENT_SERVICE", value_parser = BoolishValueParser::new())]
    service: bool,
}

/// What is said at the end.
struct Done {
    config: PathBuf,
    configured: Configured,
    identity: Identified,
    databases: Vec<String>,
    service: Option<ServiceDone>,
}

struct ServiceDone {
    unit: String,
    user: String,
    program: bool,
    written: bool,
    started: bool,
}

pub(crate) fn run(cli: &Cli, asked: &Init) -> Result<u8, Fault> {
    let mut candidates =
        asked.database.iter().map(|path| Candidate::at(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(dir) = &asked.discover {
        candidates.extend(discover(cli, asked, dir)?);
    }
    let done = if asked.service { as_service(cli, &candidates)? } else { for_this_user(cli, &candidates)? };
    say(cli, &done);
    Ok(0)
}

fn discover(cli: &Cli, asked: &Init, dir: &Path) -> Result<Vec<Candidate>, Fault> {
    let owner = (!asked.service).then(users::me);
    let discovery = Discovery::below(dir, &default_state_dir(), owner)?;
    let is_loud = !cli.common.quiet;
    for folder in discovery.unreadable.iter().filter(|_| is_loud) {
        eprintln!("note: `{}` cannot be read", folder.display());
    }
    for (path, uid) in discovery.foreign.iter().filter(|_| is_loud) {
        eprintln!(
            "note: `{}` belongs to `{}` and is left to an agent of that user",
            path.display(),
            users::shown(*uid)
        );
    }
    if let Some(limit) = discovery.ended.as_ref().filter(|_| is_loud) {
        eprintln!("note: {limit}; name what is missing with `--database`");
    }
    let mut candidates = Vec::new();
    for path in &discovery.found {
        match Candidate::at(path) {
            Ok(candidate) => candidates.push(candidate),
            Err(fault) if is_loud => eprintln!("note: left out: {fault}"),
            Err(_) => {}
        }
    }
    if candidates.is_empty() {
        let why = format!(
            "no SQLite database of `{}` was found below `{}`",
            users::shown(users::me()),
            dir.display()
        );
        return Err(Fault::new(Kind::Missing, why).hint(
            "hidden folders, links and empty files are left out; name the database with `--database PATH`, or run this as \
             its owner",
        ));
    }
    Ok(candidates)
}

fn for_this_user(cli: &Cli, candidates: &[Candidate]) -> Result<Done, Fault> {
    if let Some(foreign) = candidates.iter().find(|candidate| candidate.owner != users::me()) {
        let (owner, path) = (users::shown(foreign.owner), foreign.path.to_string_lossy());
        let why = format!("`{path}` belongs to `{owner}`, and this runs as `{}`", users::shown(users::me()));
        let (owner, path) = (shell_word(&owner), shell_word(&path));
        return Err(Fault::new(Kind::Refused, why).hint(
            format!("an agent runs as the owner: `sudo -u {owner} pullback-agent init --database {path}`, or as a service: \
                     `sudo pullback-agent init --service --database {path}`"),
        ));
    }
    let path = super::config_path(cli);
    let configured = configure(&path, candidates, Starter::OWN)?;
    let config = Config::read(&path)?;
    super::check_owner(&config)?;
    let state_dir = config.settings.state_dir.unwrap_or_else(default_state_dir);
    let identity = identify(&state_dir)?;
    Ok(Done {
        config: path,
        configured,
        identity,
        databases: config.databases.into_keys().collect(),
        service: None,
    })
}

fn as_service(cli: &Cli, candidates: &[Candidate]) -> Result<Done, Fault> {
    if cli.common.config.is_some() {
        return Err(Fault::new(
            Kind::Usage,
            "the configuration of a service has its place: /etc/pullback/USER.toml",
        )
        .hint("leave `--config` away, and PULLBACK_AGENT_CONFIG"));
    }
    let roots = Roots::default();
    Service::possible(&roots)?;
    let service = Service::of(candidates, roots)?;
    let program = std::env::current_exe().map_err(|error| Fault::io("this program", &error))?;
    let laid = service.lay(candidates, &program)?;
    let config = Config::read(&service.config())?;
    let state_dir = config.settings.state_dir.unwrap_or_else(|| service.state_dir());
    let made = dir_of(&state_dir).symlink_metadata().is_err();
    service.identify()?;
    let identity = Identity::open(&state_dir)?;
    let identity = Identified { dir: dir_of(&state_dir), fingerprint: identity.fingerprint(), made };
    let started = service.run(laid.unit || laid.program)?;
    Ok(Done {
        config: service.config(),
        configured: laid.configured,
        identity,
        databases: config.databases.into_keys().collect(),
        service: Some(ServiceDone {
            unit: service.unit(),
            user: service.user.name.clone(),
            program: laid.program,
            written: laid.unit,
            started,
        }),
    })
}

fn say(cli: &Cli, done: &Done) {
    let Done { config, configured, identity, databases, service } = done;
    if cli.common.json {
        let added: Vec<_> = configured
            .added
            .iter()
            .map(|(name, path)| serde_json::json!({"name": name, "path": path}))
            .collect();
        println!(
            "{}",
            serde_json::json!({
                "v": 1, "config": config, "config_made": configured.made, "identity": identity.dir,
                "identity_made": identity.made, "fingerprint": identity.fingerprint, "added": added, "databases": databases,
                "unit": service.as_ref().map(|service| &service.unit),
                "started": service.as_ref().is_some_and(|service| service.started),
            })
        );
        return;
    }
    if cli.common.quiet {
        return;
    }
    let made = |made: bool| if made { "made" } else { "as it was" };
    println!("configuration  {}  ({})", config.display(), made(configured.made));
    println!("identity       {}  ({})", identity.dir.display(), made(identity.made));
    for (name, path) in &configured.added {
        println!("database       {name}  {}  (added)", path.display());
    }
    if let Some(service) = service {
        println!(
            "service        {}  ({})",
            service.unit,
            if service.started { "started" } else { "runs as it did" }
        );
    }
    eprintln!();
    if let Some(service) = service {
        if service.program {
            eprintln!("This program was copied to /usr/local/bin/pullback-agent, where the service runs it.");
        }
        if service.written {
            eprintln!("The unit is /etc/systemd/system/pullback-agent@.service; it starts with the machine.");
        }
    }
    let is_as_it_was = !configured.made && configured.added.is_empty() && !identity.made;
    if is_as_it_was
        && service.as_ref().is_none_or(|service| !service.started && !service.program && !service.written)
    {
        eprintln!("All of it was there: nothing was changed.");
    }
    if databases.is_empty() {
        eprintln!("No database is served yet: `pullback-agent init --database PATH` adds one.");
    }
    match service {
        None => {
            eprintln!(
                "Next, here:   pullback-agent serve       (or `sudo pullback-agent init --service …`: with the machine)"
            );
            if !configured.added.is_empty() && !configured.made {
                eprintln!(
                    "              An agent that runs already is to be restarted: it reads its configuration when it starts."
                );
            }
            eprintln!("              pullback-agent pair        prints a code for one machine");
        }
        Some(service) => {
            eprintln!(
                "Next, here, as `{}`:   pullback-agent pair        prints a code for one machine",
                service.user
            );
        }
    }
    eprintln!("Then there, where copies are kept:   puller pair CODE");
    eprintln!("`pullback-agent doctor` tries what the configuration says.");
}
