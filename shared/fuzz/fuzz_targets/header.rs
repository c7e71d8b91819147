//! Page 1 of anything: its header read, and brought into canonical form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pullback_shared::header::{HEADER_LEN, Header, Journal, MAGIC, make_canonical, set_journal};

/// The fields that canonical form has fixed, as doc/format.md lists them.
const FIXED: [std::ops::Range<usize>; 4] = [18..20, 24..32, 40..44, 92..100];

fuzz_target!(|input: &[u8]| {
    let Some((page_count, bytes)) = input.split_first_chunk::<4>() else { return };
    let page_count = u32::from_le_bytes(*page_count);
    assert_eq!(Header::read(bytes).is_some(), bytes.len() >= HEADER_LEN && bytes.starts_with(MAGIC));
    let mut before = bytes.to_vec();
    before.resize(bytes.len().max(512), 0);
    before[..MAGIC.len()].copy_from_slice(MAGIC);
    let source = Header::read(&before).expect("a header of SQLite's");
    assert!(Journal::from_word(source.journal.word()) == Some(source.journal));
    assert!(["none", "full", "incremental"].contains(&source.auto_vacuum_word()));
    assert!(source.encoding_word().starts_with("UTF-"));

    let mut page = before.clone();
    make_canonical(&mut page, page_count);
    for (at, (old, new)) in before.iter().zip(&page).enumerate() {
        assert!(old == new || FIXED.iter().any(|field| field.contains(&at)), "byte {at} changed");
    }
    let canonical = Header::read(&page).expect("a header of SQLite's");
    let expected = Header {
        journal: Journal::Rollback,
        change_counter: 1,
        schema_cookie: 1,
        version_valid_for: 1,
        library_version: 0,
        ..source
    };
    assert_eq!(canonical, expected);
    assert_eq!(page[28..32], page_count.to_be_bytes());
    let once = page.clone();
    make_canonical(&mut page, page_count);
    assert_eq!(page, once, "canonical form is stable");

    // A restored file has its source's journal mode, and is the same snapshot when it is taken again.
    for journal in [Journal::Wal, Journal::Rollback] {
        set_journal(&mut page, journal);
        assert_eq!(Header::read(&page), Some(Header { journal, ..canonical }));
        make_canonical(&mut page, page_count);
        assert_eq!(page, once);
    }
});
