//! JSON in a file that carries its own check value, so that a bit that flipped in it is noticed.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// `value` as the bytes of its file: an object, with the check value of the rest before its fields.
pub fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_string_pretty(value).expect("BUG: a value that is no JSON");
    let rest = json.strip_prefix("{\n").expect("BUG: a value that is no object");
    let check = blake3::hash(rest.as_bytes()).to_hex();
    format!("{{\n  \"blake3\": \"{check}\",\n{rest}").into_bytes()
}

/// The value in the bytes of a file; the error says what is wrong with `what`.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{what} is no text"))?;
    let after = text
        .strip_prefix("{\n  \"blake3\": \"")
        .ok_or_else(|| format!("{what} does not begin with its check value"))?;
    let (check, rest) =
        after.split_once("\",\n").ok_or_else(|| format!("{what}'s check value has no end"))?;
    if check != blake3::hash(rest.as_bytes()).to_hex().as_str() {
        return Err(format!("{what} fails its check value"));
    }
    serde_json::from_str(&format!("{{\n{rest}")).map_err(|error| format!("{what}: {error}"))
}
