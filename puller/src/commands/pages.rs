//! `puller completions` and `puller man`: what shells and `man` want to know of the command line, from the command line itself.

use crate::cli::Cli;
use clap::CommandFactory;
use pullback_shared::fault::Fault;
use std::path::Path;

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<u8, Fault> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(), "puller", &mut script);
    println!("{}", String::from_utf8_lossy(&script).trim_end());
    Ok(0)
}

/// Prints the page of the program, or writes it and one of each command into `dir`.
pub(crate) fn man(dir: Option<&Path>) -> Result<u8, Fault> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command().disable_help_subcommand(true))
            .render(&mut page)
            .map_err(|error| Fault::io("the page", &error))?;
        println!("{}", String::from_utf8_lossy(&page).trim_end());
        return Ok(0);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| Fault::io(format!("`{}`", dir.display()), &error))?;
    Ok(0)
}

/// The command line without what no person types.
fn visible() -> clap::Command {
    let whole = Cli::command();
    let commands = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("puller").args(whole.get_arguments().cloned()).subcommands(commands)
}
