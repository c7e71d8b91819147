//! `puller rotate`: which copies go, and why the others stay.

use super::text;
use crate::cli::{Cli, Keep};
use pullback_shared::fault::{Fault, Kind};
use puller::packing::{self, Pack};
use puller::rotation::{self, Facts};
use puller::source_dir::SourceDir;
use serde_json::json;

pub(crate) fn run(cli: &Cli, source: Option<&str>, keep: Keep, dry_run: bool) -> Result<u8, Fault> {
    let config = super::read_config(cli)?;
    let store = super::open_store(cli)?;
    let named = source.map(|source| store.named(source)).transpose()?;
    let sources = match &named {
        Some(source) => vec![source.clone()],
        None => store.sources()?.known,
    };
    let policy = |source: &SourceDir| super::policy(keep, &config, source.about.name.as_deref());
    if sources.iter().all(|source| policy(source).is_empty()) && super::policy(keep, &config, None).is_empty()
    {
        return Err(Fault::new(Kind::Usage, "no policy is stated, and without one nothing is removed").hint(
            "say what to keep, such as `--keep-last 30` or `--keep-days 7`, or put it into the configuration",
        ));
    }
    let rotate = |source: &SourceDir| {
        let pack = super::pack(&config, config.table_of(source).map(|(_, settings)| settings));
        one(cli, source, policy(source), pack, dry_run).map(|()| 0)
    };
    match &named {
        Some(source) => rotate(source),
        None => super::with_each_source(&store, rotate),
    }
}

fn one(
    cli: &Cli,
    source: &SourceDir,
    policy: rotation::Policy,
    pack: Pack,
    dry_run: bool,
) -> Result<(), Fault> {
    let lock = source.lock()?;
    let facts: Vec<Facts> = source.copies()?.iter().map(Facts::of).collect();
    let decisions = rotation::plan(&facts, policy);
    let mut kept: Vec<String> = Vec::new();
    if !dry_run {
        source.clear_drafts(true, &lock)?;
        let removed = rotation::carry_out(source, &decisions, puller::clock::now()?, &lock)?;
        kept = packing::pack(source, pack, None, usize::MAX, &lock)?;
        kept.splice(0..0, removed.kept);
    }
    let mut table = text::table(&["COPY", "VERDICT", "", "BECAUSE"]);
    for (fact, decision) in facts.iter().zip(&decisions) {
        let word = match (decision.stays(), dry_run) {
            (true, _) => "stays",
            (false, true) => "goes",
            (false, false) => "gone",
        };
        let because =
            if decision.stays() { decision.kept_because.join(", ") } else { "no rule keeps it".to_owned() };
        if cli.common.json {
            let line = json!({
                "v": 1, "source": source.shown(), "copy": decision.id, "kept": decision.stays(), "dry_run": dry_run,
                "kept_because": decision.kept_because, "verdict": fact.verdict.word(),
            });
            println!("{line}");
        }
        table.add_row([decision.id.as_str(), fact.verdict.word(), word, because.as_str()]);
    }
    if !cli.common.json && !cli.common.quiet {
        println!("{}\n{}\n", source.shown(), table.trim_fmt());
    }
    kept.iter().for_each(|why| eprintln!("warning: {why}"));
    Ok(())
}
