//! `puller config`: where things are, and whether the file is right.

use crate::cli::{Cli, ConfigCommand};
use pullback_shared::fault::Fault;
use puller::config::{default_path, known_stores};

pub(crate) fn run(cli: &Cli, what: &ConfigCommand) -> Result<u8, Fault> {
    let file = cli.common.config.clone().unwrap_or_else(default_path);
    match what {
        ConfigCommand::Path => {
            let store = super::store_path(cli, &super::read_config(cli).unwrap_or_default());
            match cli.common.json {
                true => println!(
                    "{}",
                    serde_json::json!({"v": 1, "config": file, "store": store, "known_stores": known_stores()})
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
                true => println!(
                    "{}",
                    serde_json::json!({"v": 1, "config": file, "exists": there, "right": true})
                ),
                false if cli.common.quiet => {}
                false if there => println!("`{}` is right", file.display()),
                false => println!("`{}` is not there; the defaults hold", file.display()),
            }
        }
    }
    Ok(0)
}
