//! Text that crosses a border: hex, and foreign text made fit for a terminal or a shell.

use unicode_normalization::UnicodeNormalization;

/// Lower-case hex of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("BUG: writing to a String failed");
        hex
    })
}

/// The bytes that `hex` spells; `None` unless it is an even number of lower-case digits.
pub fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    hex.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// The other ways to spell `path`: letters with marks, and Korean ones, can be one character (NFC) or several (NFD) and look
/// the same, and file systems differ in which they keep.
pub fn other_spellings(path: &str) -> Vec<String> {
    let spellings: [String; 2] = [path.nfc().collect(), path.nfd().collect()];
    spellings.into_iter().filter(|spelling| spelling != path).collect()
}

/// `text` on one line, without anything a terminal could obey: control characters and the invisible characters that
/// turn the direction of text are written as `\u{…}`. At most `limit` characters are kept.
pub fn printable(text: &str, limit: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(limit * 4));
    for (count, c) in text.chars().enumerate() {
        if count == limit {
            shown.push('…');
            break;
        }
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        match c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}') {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    shown
}

/// `word` as a shell reads it back: as it is where nothing in it means anything to one, else in single quotes.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@,=".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The value of the last `--color` among the words of a command line: what a program needs to know before it reads them, for
/// its own errors and help.
pub fn typed_color(words: &[String]) -> Option<&str> {
    let words = words.split(|word| word == "--").next().unwrap_or_default();
    words.iter().enumerate().rev().find_map(|(at, word)| match word.strip_prefix("--color")? {
        "" => words.get(at + 1).map(String::as_str),
        joined => joined.strip_prefix('='),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_a_shell_is_quoted_where_it_has_to_be() {
        for plain in ["/home/ada/gym.db", "회원.db", "pi-2:7420"] {
            assert_eq!(shell_word(plain), plain);
        }
        assert_eq!(shell_word("my gym.db"), "'my gym.db'");
        assert_eq!(shell_word("it's; $(rm -r ~)"), "'it'\\''s; $(rm -r ~)'");
        assert_eq!([shell_word(""), shell_word("~"), shell_word("a\nb")], ["''", "'~'", "'a\nb'"]);
    }

    #[test]
    fn the_last_color_that_was_typed_counts() {
        for (typed, expected) in [
            ("pull x", None),
            ("--color never pull", Some("never")),
            ("pull --color=always --color never", Some("never")),
            ("pull --color=always --colors never", Some("always")),
            ("pull -- --color never", None),
            ("pull --color", None),
        ] {
            let words: Vec<String> = typed.split(' ').map(str::to_owned).collect();
            assert_eq!(typed_color(&words), expected, "{typed}");
        }
    }

    #[test]
    fn hex_goes_there_and_back() {
        assert_eq!(to_hex(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(from_hex("00abff"), Some(vec![0, 0xab, 0xff]));
        for wrong in ["0", "0g", "AB", "é"] {
            assert_eq!(from_hex(wrong), None);
        }
    }

    #[test]
    fn a_path_has_the_other_of_two_spellings() {
        let (composed, apart) = ("/회원 é.db", "/\u{1112}\u{116c}\u{110b}\u{116f}\u{11ab} e\u{301}.db");
        assert_eq!(other_spellings(composed), [apart]);
        assert_eq!(other_spellings(apart), [composed]);
        assert!(other_spellings("/home/pi/gym.db").is_empty());
    }

    #[test]
    fn foreign_text_cannot_command_a_terminal() {
        assert_eq!(printable("\x1b[2Jgone\nnext", 99), "\\u{1b}[2Jgone\\u{a}next");
        assert_eq!(printable("회원 명부", 99), "회원 명부");
        assert_eq!(printable("\u{202e}exe", 99), "\\u{202e}exe");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
