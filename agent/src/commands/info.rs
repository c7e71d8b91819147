//! `pullback-agent info [DB] [--tables]`: what the guides call statistics.

use crate::cli::Cli;
use comfy_table::{Table, presets};
use pullback_agent::settings::Settings;
use pullback_agent::statistics;
use pullback_shared::fault::Fault;
use pullback_shared::pb::DatabaseInfo;
use pullback_shared::text::printable;
use std::path::Path;

pub(crate) fn run(cli: &Cli, database: Option<&Path>, tables: bool) -> Result<u8, Fault> {
    let infos: Vec<DatabaseInfo> = match database {
        Some(path) => {
            vec![statistics::of_database(&Settings::local(), &path.to_string_lossy(), path, tables)]
        }
        None => {
            let config = super::config(cli)?;
            let of = |(name, path): (&String, &std::path::PathBuf)| {
                statistics::of_database(&config.settings, name, path, tables)
            };
            config.databases.iter().map(of).collect()
        }
    };
    let mut exit = 0;
    for info in &infos {
        match cli.common.json {
            true => println!("{}", json(info)),
            false => print(info),
        }
        if let Some(problem) = info.problem.clone().map(Fault::decode) {
            exit = problem.kind.exit();
        }
    }
    Ok(exit)
}

fn json(info: &DatabaseInfo) -> serde_json::Value {
    let problem = info.problem.clone().map(Fault::decode);
    serde_json::json!({
        "v": 1, "database": info.name, "path": info.path, "bytes": info.file_bytes, "wal_bytes": info.wal_bytes,
        "shm_bytes": info.shm_bytes, "journal_bytes": info.journal_bytes, "journal": info.journal,
        "page_size": info.page_size, "page_count": info.page_count, "free_pages": info.free_pages,
        "encoding": info.encoding, "auto_vacuum": info.auto_vacuum, "user_version": info.user_version,
        "application_id": info.application_id, "disk_free": info.disk_free, "disk_total": info.disk_total,
        "tables": info.tables.iter().map(|t| serde_json::json!({"name": t.name, "rows": (t.rows >= 0).then_some(t.rows)})).collect::<Vec<_>>(),
        "error": problem.as_ref().map(super::error_json),
    })
}

fn print(info: &DatabaseInfo) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), printable(&value, 300)]);
    };
    row("database", info.name.clone());
    row("path", info.path.clone());
    row(
        "file",
        format!(
            "{} bytes, -wal {}, -shm {}, -journal {}",
            info.file_bytes, info.wal_bytes, info.shm_bytes, info.journal_bytes
        ),
    );
    match info.problem.clone().map(Fault::decode) {
        Some(problem) => row("problem", problem.message),
        None => {
            row("journal", info.journal.clone());
            row(
                "pages",
                format!("{} of {} bytes, {} free", info.page_count, info.page_size, info.free_pages),
            );
            row("encoding", info.encoding.clone());
            row("auto_vacuum", info.auto_vacuum.clone());
            row("disk", format!("{} bytes free of {}", info.disk_free, info.disk_total));
        }
    }
    for of in &info.tables {
        let rows = if of.rows < 0 { "cannot be counted".to_owned() } else { format!("{} rows", of.rows) };
        row(&format!("  {}", printable(&of.name, 60)), rows);
    }
    println!("{table}\n");
}
