//! `pullback-agent`: what was asked, and the exit code.

mod cli;
mod commands;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli.start_logging();
    match commands::run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            eprintln!("error: {fault} [{}]", fault.kind.code());
            if !fault.hint.is_empty() {
                eprintln!("\nhint: {}", fault.hint);
            }
            ExitCode::from(fault.kind.exit())
        }
    }
}
