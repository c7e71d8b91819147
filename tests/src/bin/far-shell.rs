//! A remote shell for the bench: it runs a command where the bench listens, over plain TCP, without encryption.
//!
//! ```text
//! far-shell [-e WHAT] HOST COMMAND...
//! ```
//!
//! as `ssh` is called by programs that work over it. What it reads goes to the command, and what the command prints comes
//! back; its exit code does not.

use pullback_tests::far_shell;
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "-e") {
        arguments.drain(..arguments.len().min(2));
    }
    let [host, command @ ..] = arguments.as_slice() else {
        eprintln!("far-shell: no host is named");
        return ExitCode::from(2);
    };
    match far_shell::call(host, &command.join(" ")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("far-shell: {error}");
            ExitCode::FAILURE
        }
    }
}
