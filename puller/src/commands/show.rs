//! `puller show`: all that is known of a copy; `--checksums` in the form that `md5sum -c` and its like read.

use super::text;
use crate::cli::Cli;
use md5::{Digest, Md5};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::to_hex;
use puller::content::{self, Form};
use puller::unpacked::Unpacked;
use sha2::Sha256;
use std::io::Read;
use std::path::Path;

pub(crate) fn run(cli: &Cli, source: &str, copy: &str, checksums: bool) -> Result<u8, Fault> {
    let source = super::open_store(cli)?.named(source)?;
    let copy = source.copy(copy)?;
    let is_plain = content::find(&source, &copy.id).is_none_or(|(form, _)| form == Form::Plain);
    let path = puller::address::absolute(&source.file_of(&copy.id));
    let manifest =
        copy.manifest.clone().map_err(|why| Fault::new(Kind::Rotten, format!("copy {}: {why}", copy.id)))?;
    if checksums {
        let unpacked = Unpacked::of(&source, &copy)?;
        // Of a packed copy, told of the name that `cat` would be written to.
        let named = if is_plain { path } else { format!("{}.db", copy.id).into() };
        return sums(cli, unpacked.path(), &named);
    }
    if cli.common.json {
        let mut line = serde_json::to_value(&manifest).expect("BUG: a manifest that is no JSON");
        line["path"] = serde_json::json!(path);
        line["source_name"] = serde_json::json!(source.shown());
        println!("{line}");
        return Ok(0);
    }
    let now = puller::clock::now()?;
    let mut table = text::table(&[]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("copy", manifest.copy.clone());
    row("of", manifest.source.path.clone());
    row("taken", text::when(manifest.taken_at, now));
    row("verdict", manifest.verdict.word().to_owned());
    row("proven", manifest.proven_at.map_or_else(|| "never".to_owned(), |at| text::when(at, now)));
    for check in &manifest.checks {
        row("checked", format!("{}, {}: {}", check.level.word(), text::when(check.at, now), check.result));
        check.findings.iter().for_each(|finding| row("", finding.clone()));
    }
    row("snapshot", manifest.snapshot.clone());
    row("size", format!("{} bytes, {} pages of {}", manifest.bytes, manifest.page_count, manifest.page_size));
    row("md5", manifest.md5.clone().unwrap_or_else(|| "not yet computed; `--checksums` does".to_owned()));
    let because = manifest.transfer.full_because.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let transfer = &manifest.transfer;
    row(
        "transfer",
        format!(
            "{}{because}, {} pages, {} received",
            transfer.kind,
            transfer.changed_pages,
            text::bytes(transfer.bytes_received)
        ),
    );
    row("source held", format!("{:.3} s", transfer.held_seconds));
    row("source's journal", manifest.source.journal.clone());
    row("agent", format!("{}, SQLite {}", manifest.source.agent_version, manifest.source.sqlite_version));
    row("path", path.display().to_string());
    println!("{}", table.trim_fmt());
    Ok(0)
}

/// Of what is at `content`; told of `path`, which it is the content of.
fn sums(cli: &Cli, content: &Path, path: &Path) -> Result<u8, Fault> {
    let io = |error: std::io::Error| Fault::io(format!("`{}`", content.display()), &error);
    let mut file = std::fs::File::open(content).map_err(io)?;
    let (mut md5, mut sha256, mut blake3) = (Md5::new(), Sha256::new(), blake3::Hasher::new());
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let read = file.read(&mut buffer).map_err(io)?;
        if read == 0 {
            break;
        }
        md5.update(&buffer[..read]);
        sha256.update(&buffer[..read]);
        blake3.update(&buffer[..read]);
    }
    let (md5, sha256, blake3) =
        (to_hex(&md5.finalize()), to_hex(&sha256.finalize()), blake3.finalize().to_hex().to_string());
    let shown = path.display();
    match cli.common.json {
        true => println!(
            "{}",
            serde_json::json!({"v": 1, "path": path, "md5": md5, "sha256": sha256, "blake3": blake3})
        ),
        false => {
            println!("{md5}  {shown}");
            println!("{sha256}  {shown}");
            println!("{blake3}  {shown}");
        }
    }
    Ok(0)
}
