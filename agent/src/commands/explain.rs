//! `pullback-agent explain CODE`: what an error means and what to do.

use crate::cli::Cli;
use pullback_shared::explain::{self, Explanation};
use pullback_shared::fault::Fault;

/// What is to be explained.
#[derive(clap::Args)]
pub(crate) struct Explain {
    /// Codes or words of errors, such as P06, 6 or busy; none: list all
    #[arg(value_name = "CODE")]
    codes: Vec<String>,
}

pub(crate) fn run(cli: &Cli, asked: &Explain) -> Result<u8, Fault> {
    let found = explain::these(&asked.codes)?;
    if cli.common.json {
        for Explanation { kind, means, to_do } in &found {
            let (code, word, exit) = (kind.code(), kind.word(), kind.exit());
            let line = serde_json::json!({"v": 1, "code": code, "word": word, "exit": exit, "means": means, "to_do": to_do});
            println!("{line}");
        }
    } else {
        for Explanation { kind, means, to_do } in &found {
            println!("{} `{}`, exit code {}", kind.code(), kind.word(), kind.exit());
            println!("  {means}");
            println!("  What to do: {to_do}");
        }
    }
    Ok(0)
}
