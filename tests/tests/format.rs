//! doc/format.md is enough to check a store with: everything here is computed from that description, not with our code.

use pullback_tests::sandbox::{Pulled, Sandbox};
use pullback_tests::served::Served;
use pullback_tests::{contents, databases};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const DOCUMENT: &str = include_str!("../../doc/format.md");

fn beside(copy: &Path, suffix: &str) -> Vec<u8> {
    fs::read(copy.with_extension(suffix)).expect("a file of a copy can be read")
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("a file is there").permissions().mode() & 0o777
}

/// Everything the document says of the three files of a copy.
#[track_caller]
fn check(pulled: &Pulled) {
    let (db, pages, manifest) =
        (beside(&pulled.path, "db"), beside(&pulled.path, "pages"), beside(&pulled.path, "json"));
    let text = String::from_utf8(manifest).expect("a manifest is text");
    let json: Value = serde_json::from_str(&text).expect("a manifest is JSON");
    let number =
        |field: &str| json[field].as_u64().unwrap_or_else(|| panic!("`{field}` is no number")) as usize;
    let (page_size, page_count) = (number("page_size"), number("page_count"));
    assert_eq!((db.len(), number("bytes")), (page_size * page_count, page_size * page_count));

    let hashes: Vec<u8> =
        db.chunks(page_size).flat_map(|page| blake3::hash(page).as_bytes()[..16].to_vec()).collect();
    assert_eq!(pages, hashes, "the page hashes");
    let mut name = blake3::Hasher::new();
    name.update(b"pullback snapshot v1\n");
    name.update(&(page_size as u32).to_le_bytes()).update(&(page_count as u32).to_le_bytes()).update(&hashes);
    let name = name.finalize().to_hex();
    assert_eq!((json["snapshot"].as_str(), pulled.snapshot.as_str()), (Some(&*name), &*name));

    let lines: Vec<&str> = text.splitn(3, '\n').collect();
    assert_eq!(lines[0], "{");
    assert_eq!(lines[1], format!("  \"blake3\": \"{}\",", blake3::hash(lines[2].as_bytes()).to_hex()));

    if page_count > 0 {
        let word = |at: usize| u32::from_be_bytes(db[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(&db[18..20], [1, 1]);
        let fixed = [24, 28, 40, 92, 96].map(word);
        assert_eq!(fixed, [1, page_count as u32, 1, 1, 0]);
    }
    for suffix in ["db", "pages", "json"] {
        assert_eq!(mode(&pulled.path.with_extension(suffix)), 0o400, "{suffix}");
    }
    let id = pulled.path.file_stem().and_then(|stem| stem.to_str()).expect("a copy has a name");
    assert_eq!(json["copy"], id);
    assert!(id.contains(&format!("-{:06}-", number("sequence"))), "{id}");
}

#[test]
fn a_copy_can_be_checked_from_the_description_alone() {
    let sandbox = Sandbox::new();
    let (source, empty) = (sandbox.db("gym.db"), sandbox.db("empty.db"));
    databases::gym(&source, 500_000, 1024);
    fs::write(&empty, b"").unwrap();
    let served = Served::start(&sandbox, &[("gym", &source)]);
    check(&sandbox.pull(&[served.source("gym")]).succeeds("stored"));
    let _application = databases::visits_in_the_wal(&source, 50);
    let newest = sandbox.pull(&[served.source("gym")]).succeeds("stored");
    check(&newest);
    check(&sandbox.pull(&[&empty]).succeeds("stored"));

    let folder = newest.path.ancestors().nth(2).expect("a copy lies in a source's folder");
    for folder in [&sandbox.store(), folder, &folder.join("copies")] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    let link = fs::read_link(folder.join("latest.db")).unwrap();
    assert_eq!(link, Path::new("copies").join(newest.path.file_name().unwrap()));
    let about: Value = serde_json::from_slice(&fs::read(folder.join("source.json")).unwrap()).unwrap();
    assert_eq!(
        (&about["next_sequence"], about["key"].as_str()),
        (&3.into(), Some(&*format!("agent:{}", served.source("gym"))))
    );
    let marker: Value =
        serde_json::from_slice(&fs::read(sandbox.store().join("pullback-store.json")).unwrap()).unwrap();
    assert_eq!((&marker["v"], marker["store"].as_str().map(str::len)), (&1.into(), Some(16)));
    let history = fs::read_to_string(folder.join("history.jsonl")).unwrap();
    assert_eq!(history.lines().last().map(serde_json::from_str::<Value>).unwrap().unwrap(), newest.json);
}

/// The names of all fields of `value`, as the document writes them: `source.path`, `checks[].at`.
fn fields(value: &Value, before: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) if !(before.is_empty() && object.is_empty()) => {
            for (name, value) in object {
                let name = if before.is_empty() { name.clone() } else { format!("{before}.{name}") };
                fields(value, &name, found);
            }
        }
        Value::Array(values) if values.first().is_some_and(Value::is_object) => {
            values.iter().for_each(|value| fields(value, &format!("{before}[]"), found));
        }
        _ => {
            found.insert(before.to_owned());
        }
    }
}

/// The fields in the first column of the table below the heading `title`.
fn documented(title: &str) -> BTreeSet<String> {
    let after = DOCUMENT.split_once(&format!("\n## {title}\n")).expect("the heading is there").1;
    let section = after.split("\n## ").next().unwrap_or_default();
    let rows =
        section.lines().filter(|line| line.starts_with("| `")).filter_map(|row| row.split(" | ").next());
    rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_manifest_has_the_fields_of_the_document() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 100_000, 4096);
    let pulled = sandbox.pull(&[&source]).succeeds("stored");
    let json = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let found = |value: &Value| {
        let mut found = BTreeSet::new();
        fields(value, "", &mut found);
        found
    };
    assert_eq!(found(&json(&pulled.path.with_extension("json"))), documented("The manifest"));
    let about = pulled.path.ancestors().nth(2).unwrap().join("source.json");
    assert_eq!(found(&json(&about)), documented("`source.json`"));
}

/// The commands of the store's README.txt, with folder and target put in, run by a shell; its `sqlite3` line is asked of
/// SQLite itself, since nobody has to have that program to run the tests.
#[test]
fn the_store_s_readme_is_true_as_typed() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 300_000, 4096);
    let _application = databases::visits_in_the_wal(&source, 50);
    sandbox.pull(&[&source]).succeeds("stored");
    let readme = fs::read_to_string(sandbox.store().join("README.txt")).unwrap();
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert_eq!(commands.len(), 4, "{readme}");
    let target = sandbox.file("back");
    fs::create_dir(&target).unwrap();
    let typed = |command: &str| {
        command.replace("HOST/NAME", "local/gym").replace("/where/you/want/it", target.to_str().unwrap())
    };
    for command in &commands[..2] {
        let mut shell = sandbox.command(Path::new("/bin/sh"));
        sandbox
            .run(Command::arg(&mut shell, "-ec").arg(typed(command)).current_dir(sandbox.store()))
            .exits(0);
    }
    let restored = target.join("app.db");
    contents::assert_equal(&source, &restored);
    let db = Connection::open(&restored).unwrap();
    db.execute_batch("CREATE TABLE after(a)").expect("a restored database can be written to");

    let asked = typed(commands[2]);
    let words: Vec<&str> = asked.split('"').collect();
    assert_eq!((words[0], words[2], words.len()), ("sqlite3 ", " ", 5), "{asked}");
    let uri = words[1].replacen("file:", &format!("file:{}/", sandbox.store().display()), 1);
    let db = Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)
        .unwrap();
    assert_eq!(db.query_row(words[3], [], |row| row.get::<_, String>(0)).unwrap(), "ok");
}

/// Each form in which a copy is kept, with growing and shrinking in between, read as the document says and by `unpack.py`.
#[test]
fn a_packed_copy_comes_out_without_our_programs() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 300_000, 4096);
    let change = |sql: &str| Connection::open(&source).and_then(|db| db.execute_batch(sql)).unwrap();
    let (mut copies, mut held) = (Vec::new(), Vec::new());
    for (pack, sql) in [
        ("delta", "CREATE TABLE first(a)"),
        // The first copy is packed when the second is there.
        ("gzip", "UPDATE members SET name = name || 'x' WHERE id < 20"),
        ("delta", "CREATE TABLE more(a); INSERT INTO more SELECT zeroblob(3000) FROM members LIMIT 40"),
        ("delta", "DROP TABLE more; VACUUM"),
        ("delta", "UPDATE members SET name = name || 'y' WHERE id < 20"),
        ("delta", "INSERT INTO first VALUES (1)"),
    ] {
        sandbox.configure(&format!("pack = '{pack}'"));
        change(sql);
        let pulled = sandbox.pull(&[&source]).succeeds("stored");
        held.push(fs::read(&pulled.path).unwrap());
        copies.push(pulled);
    }
    let forms: Vec<&str> = copies
        .iter()
        .map(|copy| {
            ["db", "db.gz", "delta.gz"]
                .into_iter()
                .find(|end| copy.path.with_extension(end).exists())
                .unwrap()
        })
        .collect();
    assert_eq!((forms[0], forms[5]), ("db.gz", "db"), "{forms:?}");
    assert!(forms[1..5].contains(&"delta.gz"), "{forms:?}");
    for (number, form) in forms.iter().enumerate() {
        let file = copies[number].path.with_extension(form);
        match *form {
            "db.gz" => assert!(unsealed(&file) == held[number], "{}", copies[number].copy),
            "delta.gz" => check_delta(&file, &copies, &held, number),
            _ => check(&copies[number]),
        }
    }
    let python = |file: &Path, target: &Path| {
        Command::new("python3").arg(sandbox.store().join("unpack.py")).arg(file).arg(target).output()
    };
    for (number, (copy, held)) in copies.iter().zip(&held).enumerate() {
        let target = sandbox.file(&format!("out-{number}.db"));
        let file = copy.path.with_extension(forms[number]);
        let Ok(ran) = python(&file, &target) else {
            eprintln!("SKIPPED: there is no python3 on this machine");
            return;
        };
        assert!(ran.status.success(), "{ran:?}");
        assert!(fs::read(&target).unwrap() == *held, "{}", copy.copy);
        assert!(!python(&file, &target).unwrap().status.success(), "nothing is overwritten");
    }
    let packed = copies[4].path.with_extension("delta.gz");
    let mut cut = fs::read(&packed).unwrap();
    cut.truncate(cut.len() / 2);
    fs::remove_file(&packed).unwrap();
    fs::write(&packed, cut).unwrap();
    let cut = python(&packed, &sandbox.file("cut.db")).unwrap();
    assert!(!cut.status.success() && !sandbox.file("cut.db").exists(), "half a delta is none: {cut:?}");
    let said = String::from_utf8_lossy(&cut.stderr);
    assert!(said.starts_with("unpack.py: ") && said.lines().count() == 1, "{said}");
    let script = include_str!("../../doc/unpack.py");
    assert_eq!(fs::read_to_string(sandbox.store().join("unpack.py")).unwrap(), script);
}

/// What is within the gzip members of `file`, whose seal must be as the document says.
fn unsealed(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).expect("a pack can be read");
    let (sealed, seal) = bytes.split_at(bytes.len() - 58);
    assert_eq!(&seal[..4], [0x1f, 0x8b, 8, 4], "a gzip member with an extra field");
    assert_eq!(&seal[10..16], [36, 0, b'P', b'B', 32, 0]);
    assert_eq!(&seal[16..48], blake3::hash(sealed).as_bytes());
    let mut content = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut content).expect("a pack is gzip");
    content
}

/// Builds copy `number` from its delta and the newer copy, as the document says.
#[track_caller]
fn check_delta(file: &Path, copies: &[Pulled], held: &[Vec<u8>], number: usize) {
    let content = unsealed(file);
    let end = content.iter().position(|byte| *byte == b'\n').expect("a head is a line");
    let head: Value = serde_json::from_slice(&content[..end]).expect("a head is JSON");
    assert_eq!((&head["pullback"], &head["v"]), (&"delta".into(), &1.into()));
    assert_eq!(head["copy"], copies[number].copy);
    assert_eq!(head["snapshot"], copies[number].snapshot);
    let base = copies.iter().position(|copy| head["base"] == copy.copy).expect("a base is a copy");
    assert!(base > number);
    assert_eq!(head["base_snapshot"], copies[base].snapshot);
    let field = |name: &str| head[name].as_u64().expect("a number in the head") as usize;
    let (size, count) = (field("page_size"), field("page_count"));
    let mut built = held[base].clone();
    built.resize(size * count, 0);
    let changes = content[end + 1..].chunks_exact(21 + size);
    assert!(changes.remainder().is_empty() && Some(changes.len() as u64) == head["pages"].as_u64());
    for change in changes {
        let page = u32::from_le_bytes(change[..4].try_into().expect("four bytes")) as usize;
        let place = &mut built[(page - 1) * size..page * size];
        match change[4] {
            0 => place.copy_from_slice(&change[21..]),
            _ => place.iter_mut().zip(&change[21..]).for_each(|(byte, xor)| *byte ^= xor),
        }
        assert_eq!(&blake3::hash(place).as_bytes()[..16], &change[5..21], "page {page}");
    }
    assert!(built == held[number], "{}", copies[number].copy);
}
