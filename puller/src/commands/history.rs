//! `puller history`: the runs of a source.

use super::text;
use crate::cli::Cli;
use pullback_shared::fault::Fault;
use pullback_shared::text::printable;
use puller::history;

pub(crate) fn run(cli: &Cli, source: &str, failed: bool) -> Result<u8, Fault> {
    let source = super::open_store(cli)?.named(source)?;
    let now = puller::clock::now()?;
    let mut table = text::table(&["WHEN", "RUN", "OUTCOME", "COPY", "VERDICT", "RECEIVED", "NOTE"]);
    for line in history::lines(&source)? {
        if failed && line["outcome"] != "failed" {
            continue;
        }
        if cli.common.json {
            println!("{line}");
            continue;
        }
        let word = |name: &str| printable(line[name].as_str().unwrap_or_default(), 100);
        let when = line["at"]
            .as_str()
            .and_then(|at| at.parse().ok())
            .map(|at| text::when(at, now))
            .unwrap_or_default();
        let received = line["bytes_received"].as_u64().map(text::bytes).unwrap_or_default();
        let note = printable(line["error"]["message"].as_str().unwrap_or_default(), 80);
        table.add_row([when, word("run"), word("outcome"), word("copy"), word("verdict"), received, note]);
    }
    if !cli.common.json {
        println!("{}", table.trim_fmt());
    }
    Ok(0)
}
