//! What both programs say to SQLite in the same words.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What names the key of an ordinary table, unless a column has that name (SQLite, "ROWIDs and the INTEGER PRIMARY KEY").
pub const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// `name` as an identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name under which SQLite opens, or attaches, the file at `path`, which nobody writes, for reading and without a trace
/// beside it.
pub fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(*byte as char),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1&mode=ro");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_its_quotes_and_no_path_becomes_a_parameter() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(
            immutable_uri(Path::new("/x?y#%/é.db")),
            "file:/x%3fy%23%25/%c3%a9.db?immutable=1&mode=ro"
        );
    }
}
