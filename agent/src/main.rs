//! `pullback-agent`: what was asked, and the exit code.

mod cli;
mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::read();
    cli.start_logging();
    match commands::run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            if cli.common.json {
                commands::print_fault(&fault);
            }
            commands::say_fault(&fault);
            ExitCode::from(fault.kind.exit())
        }
    }
}
