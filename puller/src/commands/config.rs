//! `puller config`: where things are, what holds and why, and whether the file is right.

use crate::cli::{Cli, ConfigCommand};
use clap::CommandFactory;
use pullback_shared::fault::Fault;
use puller::config::{Config, default_path, known_stores};
use serde_json::json;

/// The configuration with every key.
const EXAMPLE: &str = include_str!("../../../deploy/puller.toml");

/// What holds where nobody says anything, of the keys that have such a value. `store` has one for each user.
const DEFAULTS: [(&str, &str); 4] = [("jobs", "4"), ("ssh", "ssh"), ("timeout", "20s"), ("verify", "auto")];

pub(crate) fn run(cli: &Cli, what: &ConfigCommand) -> Result<u8, Fault> {
    let file = cli.common.config.clone().unwrap_or_else(default_path);
    match what {
        ConfigCommand::Path => {
            let store = super::store_path(cli, &super::read_config(cli).unwrap_or_default());
            match cli.common.json {
                true => println!(
                    "{}",
                    json!({"v": 1, "config": file, "store": store, "known_stores": known_stores()})
                ),
                false => {
                    println!("configuration  {}", file.display());
                    println!("store          {}", store.display());
                    println!("known stores   {}", known_stores().display());
                }
            }
        }
        ConfigCommand::Check => {
            super::read_config(cli)?;
            let there = file.exists();
            match cli.common.json {
                true => println!("{}", json!({"v": 1, "config": file, "exists": there, "right": true})),
                false if cli.common.quiet => {}
                false if there => println!("`{}` is right", file.display()),
                false => println!("`{}` is not there; the defaults hold", file.display()),
            }
        }
        ConfigCommand::Example => println!("{}", EXAMPLE.trim_end()),
        ConfigCommand::Show { origin } => {
            for Setting { key, value, from } in settings(cli)? {
                match (cli.common.json, origin) {
                    (true, _) => println!("{}", json!({"v": 1, "key": key, "value": value, "origin": from})),
                    (false, true) => println!("{key} = {value}  # {from}"),
                    (false, false) => println!("{key} = {value}"),
                }
            }
        }
    }
    Ok(0)
}

/// One thing that holds.
struct Setting {
    /// As it may stand in the file, such as `source.gym.max_age`.
    key: String,
    value: toml::Value,
    /// Who says so.
    from: String,
}

/// What holds now, in the order of the keys: a flag beats the environment, which beats the file, which beats the default.
fn settings(cli: &Cli) -> Result<Vec<Setting>, Fault> {
    let mut settings = Vec::new();
    flatten("", toml::Value::Table(Config::as_written(cli.common.config.as_deref())?), &mut settings);
    let mut set = |key: &str, value: toml::Value, from: String| {
        settings.retain(|setting| setting.key != key);
        settings.push(Setting { key: key.to_owned(), value, from });
    };
    for (key, variable) in variables() {
        if let Some(value) = std::env::var(&variable).ok().filter(|value| !value.is_empty()) {
            let from = format!("environment, {variable}");
            set(&key, value.parse().map_or(toml::Value::String(value), toml::Value::Integer), from);
        }
    }
    // What is typed reaches here together with the environment.
    let from_environment = std::env::var_os("PULLER_STORE");
    if let Some(store) = cli.common.store.as_ref().filter(|store| from_environment != Some(store.into())) {
        set("store", store.display().to_string().into(), "flag, --store".to_owned());
    }
    let store = super::store_path(cli, &Config::default()).display().to_string();
    let defaults = DEFAULTS.map(|(key, value)| (key, value.to_owned())).into_iter().chain([("store", store)]);
    for (key, value) in defaults {
        if !settings.iter().any(|setting| setting.key == key) {
            let value = value.parse().map_or(toml::Value::String(value), toml::Value::Integer);
            settings.push(Setting { key: key.to_owned(), value, from: "default".to_owned() });
        }
    }
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(settings)
}

/// The keys that options stand for, with the environment variables of these.
fn variables() -> Vec<(String, String)> {
    let root = Cli::command();
    let mut options: Vec<&clap::Arg> = root.get_arguments().collect();
    options.extend(root.get_subcommands().flat_map(clap::Command::get_arguments));
    let of_option = |option: &clap::Arg| {
        let variable = option.get_env()?.to_str()?.to_owned();
        let long = option.get_long()?;
        let is_key =
            ["store", "verify", "max-age", "jobs", "retries", "timeout", "ssh", "timezone"].contains(&long);
        let rule = long.strip_prefix("keep-").or((long == "max-total-size").then_some(long));
        match rule {
            Some(rule) => Some((format!("keep.{}", rule.replace('-', "_")), variable)),
            None => is_key.then(|| (long.replace('-', "_"), variable)),
        }
    };
    let mut found: Vec<(String, String)> = options.into_iter().filter_map(of_option).collect();
    found.sort();
    found.dedup();
    found
}

/// Every value below `value` with the dotted key that leads to it.
fn flatten(key: &str, value: toml::Value, found: &mut Vec<Setting>) {
    let toml::Value::Table(table) = value else {
        let is_url = ["ping.url", "hooks.after_restore_url"].contains(&key);
        let value = if is_url { without_secret(value) } else { value };
        return found.push(Setting { key: key.to_owned(), value, from: "file".to_owned() });
    };
    for (part, value) in table {
        let is_bare = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let part = if is_bare { part } else { toml::Value::String(part).to_string() };
        flatten(&if key.is_empty() { part } else { format!("{key}.{part}") }, value, found);
    }
}

/// Whoever knows the path of a ping URL can say that all is well, and any URL may hold a password: only its host is shown.
fn without_secret(url: toml::Value) -> toml::Value {
    let text = url.as_str().unwrap_or_default();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    toml::Value::String(format!("{scheme}://{host}/…"))
}
