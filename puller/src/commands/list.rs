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
        Some(typed) => {
            let codes: Result<Vec<u8>, Fault> = store.all_named(typed)?.iter().map(&mut list).collect();
            codes?.into_iter().max().unwrap_or_default()
        }
        None => super::with_each_source(&store, &mut list)?,
    };
    if count == 0 && code == 0 && !cli.common.json && !cli.common.quiet {
        println!("no copies yet; `puller pull ./app.db` makes the first");
    }
    Ok(code)
}

fn one(cli: &Cli, source: &SourceDir, long: bool) -> Result<(), Fault> {
    let config = super::read_config(cli)?;
    let copies = source.copies()?;
    let facts = Facts::of(source)?;
    let now = puller::clock::now()?;
    let rules = super::rules_of(&crate::cli::Keep::default(), &config, source);
    let decisions = rotation::plan(&facts, &rules, now);
    let short = ["COPY", "TAKEN", "SIZE", "VERDICT"];
    let more = ["GROWTH", "CHANGED", "ON DISK", "CHECKED", "SNAPSHOT", "KEPT BECAUSE", "PATH"];
    let columns = if long { [&short[..], &more].concat() } else { short.to_vec() };
    let mut table = text::table(&columns);
    let stored = source.stored_bytes()?;
    let (mut totals, mut bytes_before) = (Totals::default(), None);
    for (copy, decision) in copies.iter().zip(&decisions) {
        let path = puller::address::absolute(&source.file_of(&copy.id));
        let manifest = copy.manifest.as_ref().ok();
        let stored = stored.get(&copy.id).copied().unwrap_or_default();
        let against = |bytes: u64, before: u64| i64::try_from(i128::from(bytes) - i128::from(before)).ok();
        let growth = manifest.and_then(|manifest| against(manifest.bytes, bytes_before?));
        let changed = manifest.map(|manifest| &manifest.transfer).filter(|transfer| transfer.base.is_some());
        let changed = changed.map(|transfer| transfer.changed_pages);
        bytes_before = manifest.map(|manifest| manifest.bytes).or(bytes_before);
        totals.add(manifest.map_or(0, |manifest| manifest.bytes), stored);
        if cli.common.json {
            let line = json!({
                "v": 1, "source": source.shown(), "copy": copy.id, "path": path,
                "snapshot": manifest.map(|manifest| &manifest.snapshot),
                "taken_at": manifest.map(|manifest| puller::clock::rfc3339(manifest.taken_at)),
                "bytes": manifest.map(|manifest| manifest.bytes), "growth_bytes": growth,
                "page_count": manifest.map(|manifest| manifest.page_count), "changed_pages": changed,
                "stored_bytes": stored,
                "verdict": copy.verdict().word(), "checked": manifest.map(|manifest| manifest.checked().word()),
                "safety": copy.is_safety(), "kept_because": decision.kept_because, "damage": damage(source, copy),
            });
            println!("{line}");
            continue;
        }
        let taken = manifest.map(|manifest| text::when(manifest.taken_at, now)).unwrap_or_default();
        let size = manifest.map(|manifest| text::bytes(manifest.bytes)).unwrap_or_default();
        let before = if copy.is_safety() { ", before a restore" } else { "" };
        let mut row = vec![copy.id.clone(), taken, size, format!("{}{before}", copy.verdict().word())];
        if long {
            let pages = manifest.map_or(0, |manifest| manifest.page_count);
            row.push(growth.map(signed).unwrap_or_default());
            row.push(changed.map(|changed| percent(changed, pages.into())).unwrap_or_default());
            row.push(text::bytes(stored));
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
    if long && !cli.common.json {
        println!("{}\n", totals.said());
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

/// What all copies of a source come to.
#[derive(Default)]
struct Totals {
    copies: u64,
    bytes: u64,
    stored: u64,
}

impl Totals {
    fn add(&mut self, bytes: u64, stored: u64) {
        self.copies += 1;
        self.bytes += bytes;
        self.stored += stored;
    }

    fn said(&self) -> String {
        let Self { copies, bytes, stored } = self;
        let (plain, on_disk) = (text::bytes(*bytes), text::bytes(*stored));
        format!("copies: {copies}, of {plain}; on disk: {on_disk}, {} of that", percent(*stored, *bytes))
    }
}

fn signed(growth: i64) -> String {
    let sign = if growth < 0 { "-" } else { "+" };
    format!("{sign}{}", text::bytes(growth.unsigned_abs()))
}

/// `part` of `whole`, to a tenth where that matters.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    match tenths {
        100.. => format!("{} %", tenths / 10),
        _ => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

/// What is wrong with a copy that has rotted.
fn damage(source: &SourceDir, copy: &StoredCopy) -> Option<String> {
    (copy.verdict() == Verdict::Rotten).then(|| rot::known(source, copy).join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_to_a_tenth_where_that_matters() {
        for (part, whole, expected) in
            [(1, 1000, "0.1 %"), (99, 1000, "9.9 %"), (135, 100, "135 %"), (0, 5, "0.0 %"), (5, 0, "0 %")]
        {
            assert_eq!(percent(part, whole), expected);
        }
        assert_eq!((signed(-1024), signed(0)), ("-1.00 KiB".to_owned(), "+0 B".to_owned()));
    }
}
