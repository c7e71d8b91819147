//! The check after a restore: a URL of the application, which is to say that all is well. One that was just started needs a
//! moment, so it is asked again for a while.

use crate::ping::Asker;
use pullback_shared::text::printable;
use std::time::{Duration, Instant};

/// How long it is asked, unless the configuration says otherwise.
pub const WAIT: Duration = Duration::from_secs(30);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// What the last try is given however little of the time is left; so much later than asked for, an answer may come.
const TRY_TIME_MIN: Duration = Duration::from_secs(1);

/// What is read of an answer.
const BODY_BYTES_MAX: u64 = 4 * 1024;

/// Characters of it that are quoted.
const BODY_CHARS_MAX: usize = 300;

/// Asks for `url` until it answers with 2xx, for `wait` at most, and at least once; else, what came of the last try.
pub fn healthy(url: &str, wait: Duration) -> Result<(), String> {
    let asker = Asker::new(url)?;
    let began = Instant::now();
    let mut tries = 0;
    loop {
        let left = wait.saturating_sub(began.elapsed());
        tries += 1;
        let why = match asker.get(left.max(TRY_TIME_MIN), BODY_BYTES_MAX) {
            Ok((200..300, _)) => return Ok(()),
            Ok((status, body)) => format!("it answered {status}{}", quoted(&body)),
            Err(error) => error,
        };
        if began.elapsed() + PAUSE > wait {
            let seconds = began.elapsed().as_secs_f64();
            return Err(format!("`{}` failed: {why} (tries: {tries}, in {seconds:.1} s)", asker.shown));
        }
        tracing::info!("`{}`: {why}; trying again", asker.shown);
        std::thread::sleep(PAUSE);
    }
}

/// The beginning of `body` on one line, if there is anything in it.
fn quoted(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(": `{}`", printable(&words.join(" "), BODY_CHARS_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A web server on loopback: each answer in turn, then the last one for ever. Also, how often it was asked.
    fn server(answers: &[&str]) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let mut lines = BufReader::new(&caller).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let turn = count.fetch_add(1, Ordering::SeqCst);
                let answer = &answers[turn.min(answers.len() - 1)];
                if answer == "hang" {
                    // Until the other side has had enough.
                    lines.next();
                    continue;
                }
                let (head, body) = answer.split_once('|').unwrap_or((answer, ""));
                let length = body.len();
                let reply =
                    format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
                let _ = (&caller).write_all(reply.as_bytes());
            }
        });
        (url, asked)
    }

    #[test]
    fn any_2xx_at_once_is_well() {
        for answer in ["200 OK|fine", "204 Nothing"] {
            let (url, asked) = server(&[answer]);
            healthy(&url, Duration::ZERO).unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn an_application_that_is_just_starting_is_waited_for() {
        let (url, asked) = server(&["503 Starting", "404 Not yet", "200 OK"]);
        healthy(&format!("{url}/health"), Duration::from_secs(20)).unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn an_application_that_listens_only_later_is_waited_for() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let later = std::thread::spawn(move || {
            std::thread::sleep(PAUSE * 2);
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            let (caller, _) = listener.accept().unwrap();
            BufReader::new(&caller).lines().map_while(Result::ok).find(String::is_empty).unwrap();
            (&caller).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        healthy(&format!("http://127.0.0.1:{port}/"), Duration::from_secs(20)).unwrap();
        later.join().unwrap();
    }

    #[test]
    fn what_was_answered_last_is_told_when_the_time_is_over() {
        let body = format!("500 Broken|no such\n\ttable:   \u{1b}[31mmembers\u{202e} {}", "x".repeat(10_000));
        let (url, asked) = server(&["503 Starting", &body]);
        let secret = url.replace("http://", "http://me:secret@") + "/health?key=secret";
        let why = healthy(&secret, PAUSE * 3).unwrap_err();
        assert!(
            why.starts_with(&format!("`{url}/health` failed: it answered 500: `no such table:")),
            "{why}"
        );
        assert!(why.contains("\\u{1b}[31mmembers\\u{202e}") && why.contains("…`"), "{why}");
        assert!(!why.contains("secret") && why.chars().count() < BODY_CHARS_MAX + 200, "{why}");
        let tries = asked.load(Ordering::SeqCst);
        assert!(tries >= 2 && why.contains(&format!("(tries: {tries}, in ")), "{tries}: {why}");
    }

    #[test]
    fn one_that_never_answers_is_not_waited_for_longer_than_the_last_try() {
        let (url, _) = server(&["hang"]);
        let began = Instant::now();
        let why = healthy(&url, Duration::ZERO).unwrap_err();
        assert!(began.elapsed() < TRY_TIME_MIN * 5 && why.contains("timeout"), "{why}");
    }

    #[test]
    fn redirections_are_followed_but_not_for_ever() {
        let (there, _) = server(&["200 OK"]);
        let (url, _) = server(&[&format!("302 Found\r\nLocation: {there}")]);
        healthy(&url, Duration::ZERO).unwrap();
        let (round, asked) = server(&["302 Found\r\nLocation: /again"]);
        let why = healthy(&round, Duration::ZERO).unwrap_err();
        assert!(why.contains("redirect") && asked.load(Ordering::SeqCst) == 4, "{why}");
    }

    #[test]
    fn what_is_no_url_is_not_asked() {
        let why = healthy("gym/health", Duration::ZERO).unwrap_err();
        assert!(why.contains("`gym/…` is no URL"), "{why}");
    }
}
