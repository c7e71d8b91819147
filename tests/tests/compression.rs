//! However an agent compresses its frames, the copy is the source; what differs is how much travels.

use pullback_tests::contents;
use pullback_tests::databases;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use rusqlite::Connection;

/// Bytes received by a first pull and by one after a change, of a source whose agent has `lines` in its configuration.
fn received(lines: &str) -> [u64; 2] {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 2_000_000, 4096);
    let served = Served::start_with(&sandbox, &[("gym", &source)], lines);
    ["full", "delta"].map(|transfer| {
        let pulled = sandbox.pull(&[served.source("gym")]).succeeds("stored");
        assert_eq!(pulled.transfer, transfer, "{}", pulled.ran);
        contents::assert_equal(&source, &pulled.path);
        let connection = Connection::open(&source).expect("the source opens");
        connection
            .execute("UPDATE access_log SET at = at || 'x' WHERE id % 40 = 0", [])
            .expect("rows can be changed");
        pulled.json["bytes_received"].as_u64().expect("a number of bytes")
    })
}

#[test]
fn every_compression_brings_the_source_and_a_higher_level_less_of_it() {
    let [fast, strong] = [1, 19].map(|level| received(&format!("compression_level = {level}")));
    let [gzip_fast, gzip_strong] =
        [1, 9].map(|level| received(&format!("compression = \"gzip\"\ncompression_level = {level}")));
    let none = received("compression = \"none\"");
    assert!(strong[0] < fast[0] && fast[0] < none[0], "zstd 19 {strong:?}, zstd 1 {fast:?}, none {none:?}");
    assert!(
        gzip_strong[0] < gzip_fast[0] && gzip_fast[0] < none[0],
        "{gzip_strong:?}, {gzip_fast:?}, {none:?}"
    );
    assert!([fast, strong, gzip_fast, gzip_strong].iter().all(|some| some[1] < none[1]), "{none:?}");
}
