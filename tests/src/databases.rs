//! Databases to pull, made with SQLite itself and the same for the same seed.

use crate::dice::Dice;
use rusqlite::{Connection, params};
use std::path::Path;

/// A gym controller's database of about `bytes` bytes, as years of use leave it: rows of all ages rewritten and removed,
/// so that its pages are fragmented. In WAL mode, closed.
pub fn gym(path: &Path, bytes: u64, page_size: u32) {
    gym_with_seed(path, bytes, page_size, 1);
}

/// The same with other rows for another `seed`.
pub fn gym_with_seed(path: &Path, bytes: u64, page_size: u32, seed: u64) {
    let settings = "PRAGMA journal_mode = WAL; PRAGMA cache_size = -64000";
    let db = create(path, &format!("PRAGMA page_size = {page_size}; {settings}"));
    db.execute_batch(GYM).expect("a gym's tables can be made");
    let mut dice = Dice::new(seed);
    let visits = (bytes / VISIT_BYTES).max(100).cast_signed();
    let members = visits / 50 + 1;
    let mut visit = 0;
    while visit < visits {
        db.execute_batch("BEGIN").expect("a transaction can begin");
        let until = (visit + VISITS_A_MONTH).min(visits);
        // Members join over time, as visits happen.
        for id in visit * members / visits..until * members / visits {
            join(&db, &mut dice, id + 1, visit);
        }
        for id in visit..until {
            enter(&db, &mut dice, id + 1, members);
        }
        age(&db, &mut dice, members, until);
        visit = until;
        db.execute_batch("COMMIT").expect("a transaction can be committed");
    }
}

/// Adds `visits` visits to a gym and keeps it open, so that they are in its `-wal` only, where a plain copy of the file
/// misses them.
pub fn visits_in_the_wal(path: &Path, visits: i64) -> Connection {
    let db = Connection::open(path).expect("a gym can be opened");
    db.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = OFF; BEGIN")
        .expect("a gym can be used");
    let count = |sql| db.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("rows can be counted");
    let (newest, members) = (count("SELECT max(id) FROM access_log"), count("SELECT count(*) FROM members"));
    let mut dice = Dice::new(newest.cast_unsigned());
    for id in newest + 1..=newest + visits {
        enter(&db, &mut dice, id, members);
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
    db
}

/// Adds a table of `bytes` bytes that do not compress.
pub fn add_noise(path: &Path, bytes: u64) {
    let db = Connection::open(path).expect("a database can be opened");
    db.execute_batch("CREATE TABLE noise(body BLOB); BEGIN").expect("a table can be made");
    let mut dice = Dice::new(5);
    for _ in 0..bytes / NOISE_BYTES {
        let body = dice.bytes(NOISE_BYTES as usize);
        db.execute("INSERT INTO noise VALUES (?1)", [body]).expect("a row can be written");
    }
    db.execute_batch("COMMIT").expect("a transaction can be committed");
}

/// A database a little above 1 GiB, with rows on both sides of the lock-byte page, which SQLite never uses. In 64 KiB
/// pages, nearly all of them zero, so that it is quick to make and to send.
pub fn above_one_gib(path: &Path) {
    let db = create(path, "PRAGMA page_size = 65536; PRAGMA journal_mode = OFF; PRAGMA cache_size = 16;");
    db.execute_batch("CREATE TABLE blobs(id INTEGER PRIMARY KEY, body BLOB)").expect("a table can be made");
    let mut dice = Dice::new(3);
    let zeros = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 64)
        INSERT INTO blobs(body) SELECT zeroblob(16773120) FROM n";
    db.execute_batch(zeros).expect("rows can be written");
    for _ in 0..40 {
        db.execute("INSERT INTO blobs(body) VALUES (?1)", [dice.bytes(100_000)])
            .expect("a row can be written");
    }
    let lock_byte_page = (1 << 30) / 65536 + 1;
    let pages: i64 =
        db.pragma_query_value(None, "page_count", |row| row.get(0)).expect("pages can be counted");
    assert!(pages > lock_byte_page, "{pages} pages do not reach the lock-byte page");
}

/// A new database at `path` with `settings` in force, quick to fill: what a power cut would do to it is no matter.
pub fn create(path: &Path, settings: &str) -> Connection {
    let db = Connection::open(path).expect("a database can be made");
    db.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;").expect("settings can be made");
    db.execute_batch(settings).expect("settings can be made");
    db
}

/// What one visit takes up in all, with its part of the indexes and of the members.
const VISIT_BYTES: u64 = 104;
/// Of a row of noise.
const NOISE_BYTES: u64 = 100_000;

const VISITS_A_MONTH: i64 = 5_000;

const GYM: &str = "
    CREATE TABLE members(
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, phone TEXT, joined_at TEXT NOT NULL, note TEXT);
    CREATE TABLE lockers(
        number INTEGER PRIMARY KEY, member_id INTEGER REFERENCES members(id), expires_at TEXT);
    CREATE TABLE access_log(
        id INTEGER PRIMARY KEY, member_id INTEGER NOT NULL REFERENCES members(id), at TEXT NOT NULL,
        door TEXT NOT NULL, granted INTEGER NOT NULL);
    CREATE INDEX access_log_by_member ON access_log(member_id, at);
    CREATE INDEX access_log_by_time ON access_log(at);";

/// The first second of the gym's life, 2025-01-01 00:00:00 UTC; a visit comes each minute.
const OPENED_AT: i64 = 1_735_689_600;

fn join(db: &Connection, dice: &mut Dice, id: i64, visit: i64) {
    let phone = format!("010-{:04}-{:04}", dice.between(0, 10_000), dice.between(0, 10_000));
    let at = OPENED_AT + visit * 60;
    let (name, note) = (dice.words(2), dice.words(4));
    let sql = "INSERT INTO members VALUES (?1, ?2, ?3, datetime(?4, 'unixepoch'), ?5)";
    run(db, sql, params![id, name, phone, at, note]);
    if id % 3 == 0 {
        let sql = "INSERT INTO lockers VALUES (?1, ?1, datetime(?2, 'unixepoch', '+1 year'))";
        run(db, sql, params![id, at]);
    }
}

fn enter(db: &Connection, dice: &mut Dice, id: i64, members: i64) {
    let door = ["front", "sauna", "pool"][dice.between(0, 3) as usize];
    let member = dice.between(0, members) + 1;
    let sql = "INSERT INTO access_log VALUES (?1, ?2, datetime(?3, 'unixepoch'), ?4, ?5)";
    run(db, sql, params![id, member, OPENED_AT + id * 60, door, dice.between(0, 20) > 0]);
}

/// Rewrites members all over the table and forgets a stretch of old visits, as months of use do.
fn age(db: &Connection, dice: &mut Dice, members: i64, visits: i64) {
    for _ in 0..20 {
        let note = dice.words(12);
        run(db, "UPDATE members SET note = ?2 WHERE id = ?1", params![dice.between(0, members) + 1, note]);
    }
    let first = dice.between(0, visits);
    run(db, "DELETE FROM access_log WHERE id BETWEEN ?1 AND ?1 + ?2", params![first, VISITS_A_MONTH / 20]);
}

fn run(db: &Connection, sql: &str, values: &[&dyn rusqlite::ToSql]) {
    let mut statement = db.prepare_cached(sql).expect("SQL of the tests is correct");
    statement.execute(values).expect("a row can be written");
}
