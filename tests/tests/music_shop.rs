//! A music shop's database, eleven tables that refer to each other: dropped, emptied, altered, and brought back, one by one and
//! as a whole.

use pullback_tests::contents::{self, Contents};
use pullback_tests::databases;
use pullback_tests::dice::Dice;
use pullback_tests::rows::quoted;
use pullback_tests::sandbox::{Ran, Sandbox};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Whoever is referred to comes first.
const TABLES: [&str; 11] = [
    "artists",
    "genres",
    "media_types",
    "playlists",
    "employees",
    "albums",
    "customers",
    "tracks",
    "invoices",
    "playlist_track",
    "Invoice Items",
];

const SCHEMA: &str = "
    CREATE TABLE artists(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE genres(id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE media_types(id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE playlists(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
    CREATE TABLE employees(
        id INTEGER PRIMARY KEY, name TEXT, reports_to INTEGER REFERENCES employees(id), photo BLOB);
    CREATE TABLE albums(
        id INTEGER PRIMARY KEY, title TEXT, artist_id INTEGER NOT NULL REFERENCES artists(id) ON DELETE CASCADE);
    CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT NOT NULL, support_id REFERENCES employees(id));
    CREATE TABLE tracks(
        id INTEGER PRIMARY KEY, name TEXT, album_id INTEGER REFERENCES albums(id), media_type_id REFERENCES media_types(id),
        genre_id INTEGER REFERENCES genres(id), milliseconds INTEGER, price REAL CHECK (price >= 0),
        minutes REAL AS (milliseconds / 60000.0) VIRTUAL);
    CREATE TABLE invoices(
        id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers(id), at TEXT, total REAL DEFAULT 0);
    CREATE TABLE playlist_track(
        playlist_id INTEGER REFERENCES playlists(id), track_id INTEGER REFERENCES tracks(id),
        PRIMARY KEY (playlist_id, track_id)) WITHOUT ROWID;
    CREATE TABLE \"Invoice Items\"(
        id INTEGER PRIMARY KEY, invoice_id INTEGER NOT NULL REFERENCES invoices(id) ON DELETE CASCADE,
        track_id INTEGER NOT NULL REFERENCES tracks(id), price REAL, quantity INTEGER);
    CREATE INDEX albums_by_artist ON albums(artist_id);
    CREATE INDEX tracks_by_album ON tracks(album_id, name COLLATE NOCASE);
    CREATE INDEX cheap_tracks ON tracks(price) WHERE price < 1;
    CREATE UNIQUE INDEX customers_by_email ON customers(lower(email));
    CREATE INDEX items_by_invoice ON \"Invoice Items\"(invoice_id);
    CREATE VIEW sales AS SELECT c.email, sum(i.total) AS total FROM customers c JOIN invoices i ON i.customer_id = c.id GROUP BY 1;
    CREATE TRIGGER item_added AFTER INSERT ON \"Invoice Items\" BEGIN
        UPDATE invoices SET total = total + new.price * new.quantity WHERE id = new.invoice_id; END;
    CREATE TRIGGER track_renamed AFTER UPDATE OF name ON tracks WHEN new.name = '' BEGIN
        SELECT RAISE(ABORT, 'a track has a name'); END;";

/// Makes the shop at `path`, in WAL mode.
fn shop(path: &Path) {
    let db = databases::create(path, "PRAGMA journal_mode = WAL");
    db.execute_batch(SCHEMA).expect("the SQL is correct");
    let mut dice = Dice::new(11);
    db.execute_batch("BEGIN").expect("the SQL is correct");
    let add = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        db.prepare_cached(sql).expect("the SQL is correct").execute(values).expect("the SQL is correct");
    };
    for id in 1..=60 {
        add("INSERT INTO artists VALUES (?1, ?2)", params![id, dice.words(2)]);
    }
    for id in 1..=12 {
        add("INSERT INTO genres VALUES (?1, ?2)", params![id, format!("{} {id}", dice.words(1))]);
        add("INSERT INTO playlists(name) VALUES (?1)", params![dice.words(2)]);
    }
    for id in 1..=4 {
        add("INSERT INTO media_types VALUES (?1, ?2)", params![id, dice.words(1)]);
    }
    for id in 1..=8 {
        let boss = (id > 1).then_some(id / 2);
        add(
            "INSERT INTO employees VALUES (?1, ?2, ?3, ?4)",
            params![id, dice.words(2), boss, dice.bytes(9_000)],
        );
    }
    for id in 1..=90 {
        let artist = dice.between(1, 61);
        add("INSERT INTO albums VALUES (?1, ?2, ?3)", params![id, dice.words(3), artist]);
    }
    for id in 1..=40 {
        let support = dice.between(1, 9);
        add("INSERT INTO customers VALUES (?1, ?2, ?3)", params![id, format!("{id}@example.org"), support]);
    }
    for id in 1..=900_i64 {
        let (album, media, genre) = (dice.between(1, 91), dice.between(1, 5), dice.between(1, 13));
        let (length, price) = (
            dice.between(60_000, 400_000),
            [0.99, 1.29, 1.99][usize::try_from(id % 3).expect("one of three")],
        );
        let sql = "INSERT INTO tracks(id, name, album_id, media_type_id, genre_id, milliseconds, price)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        add(sql, params![id, dice.words(3), album, media, genre, length, price]);
    }
    for id in 1..=200 {
        add(
            "INSERT INTO invoices(id, customer_id, at) VALUES (?1, ?2, ?3)",
            params![id, dice.between(1, 41), "2026-11-20"],
        );
    }
    for _ in 0..1500 {
        let (list, track) = (dice.between(1, 13), dice.between(1, 901));
        add("INSERT OR IGNORE INTO playlist_track VALUES (?1, ?2)", params![list, track]);
    }
    for id in 1..=1200 {
        let (invoice, track, quantity) = (dice.between(1, 201), dice.between(1, 901), dice.between(1, 4));
        add(
            "INSERT INTO \"Invoice Items\" VALUES (?1, ?2, ?3, 0.99, ?4)",
            params![id, invoice, track, quantity],
        );
    }
    db.execute_batch("COMMIT; PRAGMA user_version = 3").expect("the SQL is correct");
}

struct Shop {
    sandbox: Sandbox,
    path: PathBuf,
    /// As it was when it was pulled.
    then: Contents,
    copy: String,
}

impl Shop {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let path = sandbox.db("shop.db");
        shop(&path);
        let copy = sandbox.pull(&[&path]).succeeds("stored").copy;
        Self { then: contents::of(&path), sandbox, path, copy }
    }

    /// As somebody does who has not switched foreign keys on.
    fn execute(&self, sql: &str) {
        Connection::open(&self.path)
            .expect("the SQL is correct")
            .execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}"))
            .expect("the SQL is correct");
    }

    fn restore(&self, tables: &[&str]) -> Ran {
        let mut words = vec!["restore", "shop", &self.copy, "--in-place", "--yes", "--json"];
        tables.iter().for_each(|table| words.extend(["--table", table]));
        self.sandbox.puller(&words)
    }

    /// Panics unless all is as it was when it was pulled, wherever in the file it lies now.
    #[track_caller]
    fn is_as_it_was(&self, after: &str) {
        let now = contents::of(&self.path);
        let schema = |contents: &Contents| -> BTreeSet<_> {
            let rows = contents.schema.iter();
            rows.map(|(kind, name, table, _, sql)| (kind.clone(), name.clone(), table.clone(), sql.clone()))
                .collect()
        };
        assert_eq!(schema(&now), schema(&self.then), "the schema after {after}");
        assert_eq!(now.tables, self.then.tables, "rows after {after}");
        assert_eq!(now.settings, self.then.settings, "settings after {after}");
        let db = Connection::open(&self.path).expect("a database can be opened");
        let check: String =
            db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("SQLite answers");
        assert_eq!(check, "ok", "after {after}");
        let broken: i64 = db
            .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))
            .expect("SQLite answers");
        assert_eq!(broken, 0, "rows that refer to none, after {after}");
        db.query_row("SELECT count(*) FROM sales", [], |row| row.get::<_, i64>(0)).expect("SQLite answers");
    }
}

#[test]
fn each_table_that_was_dropped_is_brought_back_by_itself() {
    let shop = Shop::new();
    for table in TABLES {
        shop.execute(&format!("DROP TABLE {}", quoted(table)));
        let line = shop.restore(&[table]).exits(0).only_json();
        assert_eq!(line["tables"][0]["table"], table, "{line}");
        assert!(
            line["tables"][0]["rows_before"].is_null() && line["tables"].as_array().unwrap().len() == 1,
            "{line}"
        );
        shop.is_as_it_was(&format!("`{table}` was dropped"));
    }
}

#[test]
fn each_table_that_was_emptied_altered_or_written_to_is_brought_back_by_itself() {
    let shop = Shop::new();
    for (number, table) in TABLES.iter().enumerate() {
        let name = quoted(table);
        // A trigger of the shop's may write to other tables: it is no part of the accident.
        shop.execute(
            match number % 4 {
                0 => format!("DELETE FROM {name}"),
                1 => format!("ALTER TABLE {name} ADD COLUMN mood TEXT; UPDATE {name} SET mood = 'sad'"),
                2 => format!(
                    "DROP TABLE {name}; CREATE TABLE {name}(other, columns); INSERT INTO {name} VALUES (1, 2)"
                ),
                _ => format!(
                    "CREATE INDEX \"accident {number}\" ON {name}(1); DELETE FROM {name} WHERE rowid % 2"
                ),
            }
            .replace("WHERE rowid % 2", if *table == "playlist_track" { "" } else { "WHERE rowid % 2" })
            .as_str(),
        );
        shop.restore(&[&table.to_uppercase()]).exits(0);
        shop.is_as_it_was(&format!("the accident to `{table}`"));
    }
}

#[test]
fn a_shop_in_ruins_is_rebuilt_table_by_table() {
    let shop = Shop::new();
    let tables: String = TABLES.iter().rev().map(|table| format!("DROP TABLE {};", quoted(table))).collect();
    shop.execute(&format!("DROP VIEW sales; {tables}"));
    for (number, table) in TABLES.iter().enumerate() {
        shop.restore(&[table]).exits(0);
        let now = contents::of(&shop.path);
        for (place, other) in TABLES.iter().enumerate() {
            let found = now.tables.get(*other);
            assert_eq!(
                found,
                (place <= number).then(|| &shop.then.tables[*other]),
                "`{other}` after `{table}`"
            );
        }
    }
    shop.execute("CREATE VIEW sales AS SELECT c.email, sum(i.total) AS total FROM customers c JOIN invoices i ON i.customer_id = c.id GROUP BY 1");
    shop.is_as_it_was("it was rebuilt");
    // Back to before the last one, and on again.
    shop.sandbox.puller(&["restore", "shop", "--undo", "--yes"]).exits(0);
    assert!(!contents::of(&shop.path).tables.contains_key("Invoice Items"));
    shop.sandbox.puller(&["restore", "shop", "--undo", "--yes"]).exits(0);
    assert!(contents::of(&shop.path).tables.contains_key("Invoice Items"));
}

#[test]
fn a_table_whose_rows_would_refer_to_none_is_refused_by_itself_and_comes_with_the_others() {
    let shop = Shop::new();
    shop.execute("DELETE FROM \"Invoice Items\"; DELETE FROM invoices; DELETE FROM customers WHERE id > 5");
    let before = contents::of(&shop.path);
    let line = shop.restore(&["Invoice Items"]).exits(1).only_json();
    assert!(line["error"]["message"].as_str().unwrap().contains("Invoice Items"), "{line}");
    assert!(before == contents::of(&shop.path), "what was refused changed something");
    let line = shop.restore(&["Invoice Items", "customers", "invoices"]).exits(0).only_json();
    assert_eq!(line["tables"].as_array().unwrap().len(), 3, "{line}");
    shop.is_as_it_was("three tables came together");
}

#[test]
fn a_shop_in_ruins_comes_back_as_a_whole() {
    let shop = Shop::new();
    let pulled = shop.sandbox.pull(&[&shop.path]).succeeds("unchanged").snapshot;
    shop.execute("DROP VIEW sales; DROP TABLE playlist_track; DELETE FROM tracks; ALTER TABLE artists RENAME TO bands; CREATE TABLE more(a)");
    let line = shop.restore(&[]).exits(0).only_json();
    let changed: BTreeSet<&str> = line["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| table["table"].as_str().unwrap())
        .collect();
    let expected = ["artists", "bands", "more", "playlist_track", "tracks"];
    assert!(expected.iter().all(|table| changed.contains(table)), "{changed:?}");
    contents::assert_equal(
        Path::new(
            &shop.sandbox.puller(&["list", "shop", "--json"]).exits(0).json()[0]["path"].as_str().unwrap(),
        ),
        &shop.path,
    );
    assert_eq!(shop.sandbox.pull(&[&shop.path]).snapshot, pulled);
    shop.is_as_it_was("it came back as a whole");
}
