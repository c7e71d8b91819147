//! Odd but valid databases: each a thing SQLite allows that a backup could get wrong.

use crate::databases::{create, gym};
use crate::dice::Dice;
use rusqlite::FileControl;
use rusqlite::{Connection, params};
use std::path::Path;

/// One kind of database and what proving a copy of it must say.
#[derive(Clone, Copy, Debug)]
pub struct Odd {
    /// Fit for a file, a table of databases and a message.
    pub name: &'static str,
    /// Makes it at a path where nothing is, and leaves it closed.
    pub make: fn(&Path),
    /// The word of the verdict table: `ok`, `uncheckable` or `violations`.
    pub verdict: &'static str,
}

const fn ok(name: &'static str, make: fn(&Path)) -> Odd {
    Odd { name, make, verdict: "ok" }
}

const fn uncheckable(name: &'static str, make: fn(&Path)) -> Odd {
    Odd { name, make, verdict: "uncheckable" }
}

const fn violations(name: &'static str, make: fn(&Path)) -> Odd {
    Odd { name, make, verdict: "violations" }
}

/// All of them.
pub const ALL: [Odd; 48] = [
    ok("page-size-512", |path| gym(path, 200_000, 512)),
    ok("page-size-1024", |path| gym(path, 200_000, 1024)),
    ok("page-size-2048", |path| gym(path, 200_000, 2048)),
    ok("page-size-4096", |path| gym(path, 200_000, 4096)),
    ok("page-size-8192", |path| gym(path, 200_000, 8192)),
    ok("page-size-16384", |path| gym(path, 400_000, 16384)),
    ok("page-size-32768", |path| gym(path, 400_000, 32768)),
    ok("page-size-65536", |path| gym(path, 800_000, 65536)),
    ok("reserved-bytes", |path| reserved_bytes(path, 4096, 64)),
    ok("reserved-bytes-most", |path| reserved_bytes(path, 4096, 255)),
    ok("reserved-bytes-small-page", |path| reserved_bytes(path, 512, 32)),
    ok("auto-vacuum-full", |path| fill_and_thin(path, "PRAGMA auto_vacuum = FULL")),
    ok("auto-vacuum-incremental", |path| fill_and_thin(path, "PRAGMA auto_vacuum = INCREMENTAL")),
    ok("free-list", |path| fill_and_thin(path, "PRAGMA auto_vacuum = NONE")),
    ok("utf-16-le", |path| fill_and_thin(path, "PRAGMA encoding = 'UTF-16le'")),
    ok("utf-16-be", |path| fill_and_thin(path, "PRAGMA encoding = 'UTF-16be'")),
    ok("wal-mode-empty", |path| run(path, "PRAGMA journal_mode = WAL")),
    ok("without-rowid", without_rowid),
    ok("fts4", |path| full_text(path, "fts4(body, tokenize=unicode61)")),
    ok("fts5", |path| full_text(path, "fts5(body, prefix = '2 3')")),
    ok("fts5-contentless", |path| full_text(path, "fts5(body, content = '')")),
    ok("r-tree", r_tree),
    ok("generated-columns", generated_columns),
    ok("strict", strict),
    ok("strange-values", strange_values),
    ok("strange-names", strange_names),
    ok("header-numbers", header_numbers),
    ok("statistics", statistics),
    ok("view-and-trigger-with-app-function", view_and_trigger_with_app_function),
    // A stored column is read, never computed, by a check.
    ok("app-function-in-stored-column", |path| app_function_in_generated_column(path, "STORED")),
    ok("2000-columns", columns_2000),
    ok("3000-tables", tables_3000),
    ok("overflow-chains", overflow_chains),
    ok("no-tables", |path| run(path, "PRAGMA user_version = 7")),
    ok("no-tables-left", |path| run(path, "CREATE TABLE t(a); DROP TABLE t")),
    ok("empty-file", |path| drop(std::fs::File::create_new(path).expect("a file can be made"))),
    uncheckable("app-collation-in-index", app_collation_in_index),
    uncheckable("app-collation-in-unique-column", app_collation_in_unique_column),
    uncheckable("app-function-in-index", app_function_in_index),
    uncheckable("app-function-in-partial-index", app_function_in_partial_index),
    uncheckable("app-function-in-check", app_function_in_check),
    uncheckable("app-function-in-virtual-column", |path| app_function_in_generated_column(path, "VIRTUAL")),
    uncheckable("unknown-virtual-table", unknown_virtual_table),
    violations("check-violated", check_violated),
    violations("not-null-violated", not_null_violated),
    violations("unique-violated", unique_violated),
    violations("strict-violated", strict_violated),
    violations("foreign-key-violated", foreign_key_violated),
];

/// One blob of 64 MiB. Apart from the others for its size.
pub const BLOB_64_MIB: Odd = ok("blob-64-mib", |path| {
    let db = create(path, "CREATE TABLE blobs(id INTEGER PRIMARY KEY, body BLOB)");
    db.execute("INSERT INTO blobs(body) VALUES (?1)", [Dice::new(64).bytes(64 << 20)])
        .expect("a blob can be stored");
});

fn run(path: &Path, sql: &str) {
    create(path, sql);
}

/// A plain table with an index, in SQL for every kind of database here that needs some rows.
fn fill(db: &Connection, rows: i64) {
    let sql = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, born INTEGER, note TEXT);
        CREATE INDEX people_by_name ON people(name, born); BEGIN";
    db.execute_batch(sql).expect("a table can be made");
    let mut dice = Dice::new(rows.cast_unsigned());
    let mut insert =
        db.prepare("INSERT INTO people(name, born, note) VALUES (?1, ?2, ?3)").expect("the SQL is correct");
    for _ in 0..rows {
        let (name, born, note) = (dice.words(2), dice.between(1930, 2020), dice.words(10));
        insert.execute(params![name, born, note]).expect("a row can be written");
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
}

/// Half the rows removed again, so that there are free pages, or moved ones where `settings` vacuum.
fn fill_and_thin(path: &Path, settings: &str) {
    let db = create(path, settings);
    fill(&db, 3_000);
    db.execute_batch("DELETE FROM people WHERE id % 500 < 250").expect("rows can be removed");
}

/// Room at the end of each page for an extension, such as one that encrypts or keeps checksums.
fn reserved_bytes(path: &Path, page_size: u32, reserved: u8) {
    let db = create(path, &format!("PRAGMA page_size = {page_size}"));
    let mut bytes = i32::from(reserved);
    db.file_control(None::<&str>, FileControl::ReserveBytes(&mut bytes)).expect("bytes can be reserved");
    fill(&db, 500);
    drop(db);
    let header = std::fs::read(path).expect("a closed database can be read");
    assert_eq!(header[20], reserved, "the reserved bytes in the header of {}", path.display());
}

fn without_rowid(path: &Path) {
    let db = create(path, "CREATE TABLE t(k TEXT, v BLOB, PRIMARY KEY(k DESC, v)) WITHOUT ROWID");
    let mut dice = Dice::new(5);
    for _ in 0..400 {
        let (words, length) = (dice.words(3), dice.between(0, 3_000));
        let row = params![words, dice.bytes(length as usize)];
        db.execute("INSERT OR IGNORE INTO t VALUES (?1, ?2)", row).expect("a row can be written");
    }
}

fn full_text(path: &Path, module: &str) {
    let db = create(path, &format!("CREATE VIRTUAL TABLE notes USING {module}"));
    let mut dice = Dice::new(6);
    for id in 1..=300 {
        let row = params![id, dice.words(30)];
        db.execute("INSERT INTO notes(rowid, body) VALUES (?1, ?2)", row).expect("a row can be written");
    }
}

fn r_tree(path: &Path) {
    let db = create(path, "CREATE VIRTUAL TABLE places USING rtree(id, x0, x1, y0, y1, +name)");
    let mut dice = Dice::new(7);
    for id in 0..500 {
        let (x, y) = (dice.between(-180, 180), dice.between(-90, 90));
        let row = params![id, x, x + 1, y, y + 1, dice.words(2)];
        db.execute("INSERT INTO places VALUES (?1, ?2, ?3, ?4, ?5, ?6)", row).expect("a row can be written");
    }
}

fn generated_columns(path: &Path) {
    let sql = "CREATE TABLE t(
            a INTEGER, b TEXT, c INTEGER GENERATED ALWAYS AS (a * 2) VIRTUAL, d TEXT AS (b || '!') STORED);
        CREATE INDEX t_by_c ON t(c); CREATE INDEX t_by_both ON t(a + 1, upper(b));
        WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
        INSERT INTO t(a, b) SELECT i, 'row ' || i FROM n";
    run(path, sql);
}

fn strict(path: &Path) {
    let sql = "CREATE TABLE t(a INTEGER NOT NULL, b REAL, c TEXT, d BLOB, e ANY) STRICT;
        INSERT INTO t VALUES (1, 2, 'x', x'00', 'any'), (2, NULL, NULL, NULL, 1.5)";
    run(path, sql);
}

/// Values that conversions lose: infinities, the ends of the integers, text that is no UTF-8, NUL in text.
fn strange_values(path: &Path) {
    let sql = "CREATE TABLE t(v);
        INSERT INTO t VALUES (NULL), (''), (x''), (9e999), (-9e999), (-0.0), (9223372036854775807), (1e-320),
            (-9223372036854775808), (CAST(x'fffe80' AS TEXT)), (CAST(x'410042' AS TEXT)), (char(0x10ffff)), ('é')";
    run(path, sql);
}

fn strange_names(path: &Path) {
    let sql = "CREATE TABLE \"\"\"quoted\"\" and; '--\"(\"a b\", \"\", [select]);
        INSERT INTO \"\"\"quoted\"\" and; '--\" VALUES (1, 2, 3);
        CREATE TABLE \"회원 명부\"(\"이름\"); INSERT INTO \"회원 명부\" VALUES ('ok');
        CREATE TABLE \"line\nbreak\"(a); CREATE VIEW broken AS SELECT * FROM a_table_that_is_not_there";
    run(path, sql);
}

/// Numbers in the header that belong to the application, and the old file format.
fn header_numbers(path: &Path) {
    let sql = "PRAGMA application_id = -559038737; PRAGMA user_version = -2147483648; CREATE TABLE t(a);
        PRAGMA default_cache_size = 1234";
    run(path, sql);
}

fn statistics(path: &Path) {
    let db = create(path, "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, a)");
    fill(&db, 1_000);
    db.execute_batch("INSERT INTO counted(a) VALUES (1), (2); ANALYZE").expect("statistics can be made");
}

/// Nothing of these is run by a check, so there is nothing that cannot be judged.
fn view_and_trigger_with_app_function(path: &Path) {
    let sql = "CREATE TABLE t(a); INSERT INTO t VALUES (1);
        CREATE VIEW seen AS SELECT app_key(a) FROM t;
        CREATE TRIGGER on_insert AFTER INSERT ON t BEGIN SELECT app_key(new.a); END";
    run(path, sql);
}

fn columns_2000(path: &Path) {
    let names: Vec<String> = (1..=2000).map(|column| format!("c{column}")).collect();
    let db = create(path, &format!("CREATE TABLE wide({})", names.join(", ")));
    let values: Vec<String> = (1..=2000).map(|value| value.to_string()).collect();
    for _ in 0..20 {
        db.execute_batch(&format!("INSERT INTO wide VALUES ({})", values.join(", ")))
            .expect("a row can be written");
    }
}

fn tables_3000(path: &Path) {
    let tables = (1..=3000).map(|n| format!("CREATE TABLE t{n}(a, b); INSERT INTO t{n} VALUES ({n}, 'x');"));
    run(path, &format!("BEGIN; {} COMMIT", tables.collect::<String>()));
}

fn overflow_chains(path: &Path) {
    let db = create(path, "PRAGMA page_size = 1024; CREATE TABLE t(id INTEGER PRIMARY KEY, body)");
    let mut dice = Dice::new(8);
    for length in [0, 1, 1023, 1024, 1025, 20_000, 300_000, 5] {
        db.execute("INSERT INTO t(body) VALUES (?1)", [dice.bytes(length)]).expect("a row can be written");
    }
    db.execute_batch("UPDATE t SET body = body || body WHERE id % 2").expect("rows can be rewritten");
}

/// What an application leaves that has registered a collation of its own: `ko_KR` sorts as NOCASE does, and SQLite alone
/// cannot know. Written as NOCASE and renamed, which gives the very file such an application would have made.
fn app_collation_in_index(path: &Path) {
    let db = create(path, "");
    fill(&db, 300);
    db.execute_batch("CREATE INDEX by_collation ON people(name COLLATE NOCASE)")
        .expect("an index can be made");
    rewrite_schema(&db, "by_collation", "NOCASE", "ko_KR");
}

fn app_collation_in_unique_column(path: &Path) {
    let sql = "CREATE TABLE t(name TEXT COLLATE NOCASE UNIQUE); INSERT INTO t VALUES ('b'), ('A'), ('c')";
    rewrite_schema(&create(path, sql), "t", "NOCASE", "ko_KR");
}

/// As with the collation: `app_key` does what `lower` does.
fn app_function_in_index(path: &Path) {
    let db = create(path, "");
    fill(&db, 300);
    db.execute_batch("CREATE INDEX by_key ON people(lower(name))").expect("an index can be made");
    rewrite_schema(&db, "by_key", "lower(", "app_key(");
}

fn app_function_in_partial_index(path: &Path) {
    let db = create(path, "");
    fill(&db, 300);
    db.execute_batch("CREATE INDEX some ON people(born) WHERE length(name) > 9")
        .expect("an index can be made");
    rewrite_schema(&db, "some", "length(", "app_length(");
}

fn app_function_in_check(path: &Path) {
    let sql = "CREATE TABLE t(a TEXT CHECK (length(a) > 0)); INSERT INTO t VALUES ('x'), ('y')";
    rewrite_schema(&create(path, sql), "t", "length(", "app_length(");
}

fn app_function_in_generated_column(path: &Path, kind: &str) {
    let sql = format!(
        "CREATE TABLE t(a TEXT, b TEXT AS (lower(a)) {kind}); CREATE INDEX t_by_b ON t(b);
        INSERT INTO t(a) VALUES ('X'), ('Y')"
    );
    rewrite_schema(&create(path, &sql), "t", "lower(", "app_key(");
}

/// A virtual table whose module only the application has, with its data in an ordinary table as most modules keep it.
fn unknown_virtual_table(path: &Path) {
    let db = create(path, "");
    fill(&db, 100);
    let sql = "PRAGMA writable_schema = ON;
        INSERT INTO sqlite_schema VALUES
            ('table', 'places', 'places', 0, 'CREATE VIRTUAL TABLE places USING app_index(x, y)');
        PRAGMA writable_schema = OFF";
    db.execute_batch(sql).expect("the schema can be written");
}

fn check_violated(path: &Path) {
    let sql = "CREATE TABLE t(a INTEGER CHECK (a > 0)); PRAGMA ignore_check_constraints = ON;
        INSERT INTO t VALUES (1), (-1), (0)";
    run(path, sql);
}

fn not_null_violated(path: &Path) {
    let sql = "CREATE TABLE t(a TEXT, b INTEGER); INSERT INTO t VALUES ('x', 1), (NULL, 2)";
    rewrite_schema(&create(path, sql), "t", "a TEXT", "a TEXT NOT NULL");
}

fn unique_violated(path: &Path) {
    let sql = "CREATE TABLE t(a); INSERT INTO t VALUES (1), (1), (2); CREATE INDEX t_by_a ON t(a)";
    rewrite_schema(&create(path, sql), "t_by_a", "CREATE INDEX", "CREATE UNIQUE INDEX");
}

fn strict_violated(path: &Path) {
    let sql = "CREATE TABLE t(a INTEGER, b TEXT); INSERT INTO t VALUES ('no number', 'x'), (1, 'y')";
    rewrite_schema(&create(path, sql), "t", "b TEXT)", "b TEXT) STRICT");
}

fn foreign_key_violated(path: &Path) {
    let sql = "CREATE TABLE parents(id INTEGER PRIMARY KEY);
        CREATE TABLE children(parent INTEGER REFERENCES parents(id)); INSERT INTO children VALUES (1), (NULL)";
    run(path, sql);
}

/// Changes the text of one schema entry and nothing else, as `PRAGMA writable_schema` lets an application do.
fn rewrite_schema(db: &Connection, name: &str, from: &str, to: &str) {
    db.execute_batch("PRAGMA writable_schema = ON").expect("a setting can be made");
    let sql = "UPDATE sqlite_schema SET sql = replace(sql, ?2, ?3) WHERE name = ?1 AND instr(sql, ?2)";
    let changed = db.execute(sql, [name, from, to]).expect("the schema can be written");
    assert_eq!(changed, 1, "the schema entry `{name}` with `{from}`");
    db.execute_batch("PRAGMA writable_schema = OFF").expect("a setting can be made");
}
