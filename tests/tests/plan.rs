//! `pull --dry-run` says what a pull would move, and changes nothing.

use pullback_tests::databases;
use pullback_tests::sandbox::Sandbox;
use pullback_tests::served::Served;
use rusqlite::Connection;

#[test]
fn what_was_planned_is_what_is_moved() {
    let sandbox = Sandbox::new();
    let source = sandbox.db("gym.db");
    databases::gym(&source, 1_000_000, 4096);
    let served = Served::start(&sandbox, &[("gym", &source)]);
    for (day, name) in [source.to_str().unwrap().to_owned(), served.source("gym")].into_iter().enumerate() {
        let plan = || sandbox.puller(&["pull", "-n", "--json", &name]).exits(0).only_json();
        let first = plan();
        assert_eq!(
            (first["transfer"].as_str(), &first["changed_pages"]),
            (Some("full"), &first["page_count"]),
            "{first}"
        );
        sandbox.puller(&["list", &name]).exits(10);
        sandbox.pull(&[&name]).succeeds("stored");
        assert_eq!(plan()["transfer"], "none");
        let connection = Connection::open(&source).unwrap();
        connection.execute("UPDATE access_log SET at = ?1 WHERE id % 500 = 0", [day as i64]).unwrap();
        drop(connection);
        let (planned, again) = (plan(), plan());
        assert_eq!(planned["changed_pages"], again["changed_pages"], "asking changes nothing");
        let pulled = sandbox.pull(&[&name]).succeeds("stored");
        assert_eq!(planned["snapshot"], pulled.snapshot.as_str());
        assert_eq!(planned["transfer"], "delta");
        assert_eq!(planned["changed_pages"], pulled.json["changed_pages"], "{planned}\n{}", pulled.ran);
    }
}
