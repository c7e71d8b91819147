//! `puller list`: the copies, and why each is kept.

use super::text;
use crate::cli::Cli;
use pullback_shared::fault::Fault;
use pullback_shared::verdict::Verdict;
use puller::rot;
use puller::rotation::{self, Facts};
use puller::source_dir::{SourceDir, StoredCopy};
use serde_json::json;

pub(crate) fn run(cli: &Cli, source: Option<&str>, long: bool) -> Result<u8, Fault> {
    let store = super::open_store(cli)?;
    let mut count = 0;
    let mut list = |source: &SourceDir| {
        count += 1;
        one(cli, source, long).map(|()| 0)
    };
    let code = match source {
        Some(source) => list(&store.named(source)?)?,
        None => super::with_each_source(&store, &mut list)?,
    };
    if count == 0 && code == 0 && !cli.common.json && !cli.common.quiet {
        println!("no copies yet; `puller pull ./app.db` makes the first");
    }
    Ok(code)
}

fn one(cli: &Cli, source: &SourceDir, long: bool) -> Result<(), Fault> {
    let config = super::read_config(cli)?;
    let none = crate::cli::Keep { keep_last: None, keep_days: None };
    let copies = source.copies()?;
    let facts: Vec<Facts> = copies.iter().map(Facts::of).collect();
    let decisions = rotation::plan(&facts, super::policy(none, &config, source.about.name.as_deref()));
    let now = puller::clock::now()?;
    let short = ["COPY", "TAKEN", "SIZE", "VERDICT"];
    let mut table = text::table(if long {
        &["COPY", "TAKEN", "SIZE", "VERDICT", "CHECKED", "SNAPSHOT", "KEPT BECAUSE", "PATH"]
    } else {
        &short
    });
    for (copy, decision) in copies.iter().zip(&decisions) {
        let path = puller::address::absolute(&source.file_of(&copy.id));
        let manifest = copy.manifest.as_ref().ok();
        let stored = std::fs::metadata(&path)
            .map_or(0, |metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
        if cli.common.json {
            let line = json!({
                "v": 1, "source": source.shown(), "copy": copy.id, "path": path,
                "snapshot": manifest.map(|manifest| &manifest.snapshot),
                "taken_at": manifest.map(|manifest| puller::clock::rfc3339(manifest.taken_at)),
                "bytes": manifest.map(|manifest| manifest.bytes), "stored_bytes": stored,
                "verdict": copy.verdict().word(), "checked": manifest.map(|manifest| manifest.checked().word()),
                "kept_because": decision.kept_because, "damage": damage(source, copy),
            });
            println!("{line}");
            continue;
        }
        let taken = manifest.map(|manifest| text::when(manifest.taken_at, now)).unwrap_or_default();
        let size = manifest.map(|manifest| text::bytes(manifest.bytes)).unwrap_or_default();
        let mut row = vec![copy.id.clone(), taken, size, copy.verdict().word().to_owned()];
        if long {
            row.push(manifest.map_or("", |manifest| manifest.checked().word()).to_owned());
            row.push(
                manifest.map(|manifest| manifest.snapshot.chars().take(12).collect()).unwrap_or_default(),
            );
            row.push(decision.kept_because.join(", "));
            row.push(path.display().to_string());
        }
        table.add_row(row);
    }
    if !cli.common.json {
        println!("{}", source.shown());
        println!("{}\n", table.trim_fmt());
    }
    if !cli.common.json {
        for copy in &copies {
            damage(source, copy)
                .iter()
                .for_each(|why| eprintln!("warning: copy {} is rotten: {why}", copy.id));
        }
    }
    for missing in source.missing_copies()? {
        eprintln!("warning: copy {missing} of `{}` was stored, and its manifest is gone", source.shown());
    }
    Ok(())
}

/// What is wrong with a copy that has rotted.
fn damage(source: &SourceDir, copy: &StoredCopy) -> Option<String> {
    (copy.verdict() == Verdict::Rotten).then(|| rot::known(source, copy).join("; "))
}
