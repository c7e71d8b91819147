//! `puller rotate`: which copies go, and why the others stay.

use super::text;
use crate::cli::{Cli, Keep};
use pullback_shared::fault::{Fault, Kind};
use puller::packing::{self, Pack};
use puller::policy::Rules;
use puller::rotation::{self, Facts, Removed};
use puller::source_dir::SourceDir;
use serde_json::json;

pub(crate) fn run(cli: &Cli, source: Option<&str>, keep: &Keep, dry_run: bool) -> Result<u8, Fault> {
    let config = super::read_config(cli)?;
    let store = super::open_store(cli)?;
    let named = source.map(|source| store.named(source)).transpose()?;
    let sources = match &named {
        Some(source) => vec![source.clone()],
        None => store.sources()?.known,
    };
    let rules = |source: &SourceDir| super::rules_of(keep, &config, source);
    let states_none = |rules: &Rules| rules.policy.is_empty();
    if sources.iter().all(|source| states_none(&rules(source)))
        && states_none(&super::rules(keep, &config, None))
    {
        return Err(Fault::new(Kind::Usage, "no policy is stated, and without one nothing is removed").hint(
            "say what to keep, such as `--keep-daily 7 --keep-weekly 5` or `--keep-last 30`, or put it into the configuration",
        ));
    }
    let rotate = |source: &SourceDir| {
        let pack = super::pack(&config, config.table_of(source).map(|(_, settings)| settings));
        one(cli, source, &rules(source), pack, dry_run).map(|()| 0)
    };
    match &named {
        Some(source) => rotate(source),
        None => super::with_each_source(&store, rotate),
    }
}

fn one(cli: &Cli, source: &SourceDir, rules: &Rules, pack: Pack, dry_run: bool) -> Result<(), Fault> {
    let lock = source.lock()?;
    let now = puller::clock::now()?;
    if !dry_run {
        source.clear_drafts(true, &lock)?;
    }
    let mut notes = Vec::new();
    // A size counts copies as they are kept, not as they came.
    let packs_first = rules.policy.max_total_size.is_some();
    if !dry_run && packs_first {
        notes = packing::pack(source, pack, None, usize::MAX, &lock)?;
    }
    let facts = Facts::of(source)?;
    let decisions = rotation::plan(&facts, rules, now);
    let mut removed = Removed::default();
    if !dry_run {
        removed = rotation::carry_out(source, &decisions, now, &lock)?;
        notes.extend(std::mem::take(&mut removed.kept));
        if !packs_first {
            notes.extend(packing::pack(source, pack, None, usize::MAX, &lock)?);
        }
    }
    let mut table = text::table(&["COPY", "VERDICT", "ON DISK", "", "BECAUSE"]);
    for (fact, decision) in facts.iter().zip(&decisions) {
        let word = match (decision.stays(), dry_run) {
            (true, _) => "stays",
            (false, true) => "goes",
            (false, false) if removed.ids.contains(&decision.id) => "gone",
            (false, false) => "still there",
        };
        let because = match decision.stays() {
            true => decision.kept_because.join(", "),
            false => decision.goes_because.clone(),
        };
        if cli.common.json {
            let goes_because = (!decision.stays()).then_some(&decision.goes_because);
            let line = json!({
                "v": 1, "source": source.shown(), "copy": decision.id, "kept": decision.stays(), "dry_run": dry_run,
                "kept_because": decision.kept_because, "goes_because": goes_because, "verdict": fact.verdict.word(),
                "stored_bytes": fact.stored_bytes,
            });
            println!("{line}");
        }
        let stored = text::bytes(fact.stored_bytes);
        table.add_row([decision.id.as_str(), fact.verdict.word(), stored.as_str(), word, because.as_str()]);
    }
    if !cli.common.json && !cli.common.quiet {
        println!("{}\n{}", source.shown(), table.trim_fmt());
        let goes = |id: &String| match dry_run {
            true => decisions.iter().any(|decision| decision.id == *id && !decision.stays()),
            false => removed.ids.contains(id),
        };
        let going: Vec<u64> =
            facts.iter().filter(|fact| goes(&fact.id)).map(|fact| fact.stored_bytes).collect();
        let word = if dry_run { "go" } else { "gone" };
        // What is packed upon a copy that goes may take a little more afterwards.
        println!("{} {word}, about {} on disk\n", going.len(), text::bytes(going.iter().sum()));
    }
    notes.iter().for_each(|why| eprintln!("warning: {why}"));
    Ok(())
}
