//! The ping: one URL that hears of the start and the end of each run, as healthchecks.io and its kin have it. That it cannot be
//! reached changes no run.

use pullback_shared::text::{printable, to_hex};
use rustls::crypto::CryptoProvider;
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};

/// One try, from looking up the name to the end of the answer.
const TRY_TIME_MAX: Duration = Duration::from_secs(10);

/// Waiting before the second and the third try. With them a ping takes at most 34 seconds.
const RETRY_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Redirections that are followed.
const REDIRECTS_MAX: u32 = 3;

/// The body of a failure: its last bytes. healthchecks.io keeps 100 kB, others less.
pub const BODY_BYTES_MAX: usize = 10_000;

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A run began: `URL/start`.
    Start,
    /// It ended well: `URL`.
    Success,
    /// It did not: `URL/fail`, with the end of this text as the body.
    Fail(&'a str),
}

impl Event<'_> {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Success => "success",
            Self::Fail(_) => "fail",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Start => "/start",
            Self::Success => "",
            Self::Fail(_) => "/fail",
        }
    }
}

/// What the other side said to a ping.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The status of HTTP, such as 200.
    pub status: u16,
    /// How many tries it took.
    pub tries: usize,
}

/// One run's pings.
#[derive(Clone, Debug)]
pub struct Ping {
    url: Url,
    agent: ureq::Agent,
    /// Tells the pings of this run from those of another that overlaps with it (`rid` of healthchecks.io).
    run: String,
}

impl Ping {
    /// Of a run that begins. `url` is one that [`check`] has passed.
    pub fn new(url: &str) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self { url: Url::parse(url)?, run: run_id(&provider), agent: client(provider) })
    }

    /// Tells of `event`; tries again where that may help, but not once `is_over`. Gives also how long that took.
    pub fn tell(&self, event: Event<'_>, is_over: &AtomicBool) -> (Result<Answer, String>, Duration) {
        let began = Instant::now();
        (self.tries(event, is_over), began.elapsed())
    }

    fn tries(&self, event: Event<'_>, is_over: &AtomicBool) -> Result<Answer, String> {
        let mut tries = 0;
        loop {
            let outcome = self.once(event);
            tries += 1;
            let (why, may_help) = match outcome {
                Ok(status @ 200..300) => return Ok(Answer { status, tries }),
                Ok(status) => (format!("it answered {status}"), matches!(status, 408 | 429 | 500..)),
                Err(error) => (error, true),
            };
            let wait = RETRY_WAITS.get(tries - 1).filter(|_| may_help && !is_over.load(Ordering::Relaxed));
            let Some(wait) = wait else {
                return Err(format!(
                    "the ping ({}) to {} failed: {why} (tries: {tries})",
                    event.word(),
                    self.url
                ));
            };
            tracing::info!("the ping ({}) to {}: {why}; trying again", event.word(), self.url);
            std::thread::sleep(*wait);
        }
    }

    fn once(&self, event: Event<'_>) -> Result<u16, String> {
        let url = self.url.with(event.path(), &self.run);
        let answered = match event {
            Event::Start | Event::Success => self.agent.get(url).call(),
            Event::Fail(log) => {
                self.agent.post(url).header("Content-Type", "text/plain; charset=utf-8").send(tail(log))
            }
        };
        let answer = answered.map_err(|error| printable(&error.to_string(), 200))?;
        Ok(answer.status().as_u16())
    }
}

/// What speaks HTTP here, with its limits: to whom is pinged, and to an application after a restore.
fn client(provider: Arc<CryptoProvider>) -> ureq::Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider);
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TRY_TIME_MAX))
        .max_redirects(REDIRECTS_MAX)
        .http_status_as_error(false)
        .user_agent(concat!("puller/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls.build());
    config.build().into()
}

/// What a URL is asked with more than once.
#[derive(Debug)]
pub(crate) struct Asker {
    url: String,
    /// As it may be told: without a user, a password or a query.
    pub(crate) shown: String,
    agent: ureq::Agent,
}

impl Asker {
    /// Of `url`, if it is one.
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let parts = Url::parse(url)?;
        let agent = client(Arc::new(rustls::crypto::ring::default_provider()));
        Ok(Self { url: url.to_owned(), shown: format!("{parts}{}", parts.path), agent })
    }

    /// Asks once, for `time` at most and never longer than a ping: the status, and the first bytes of what came with it.
    pub(crate) fn get(&self, time: Duration, bytes_max: u64) -> Result<(u16, Vec<u8>), String> {
        let request = self.agent.get(&self.url).config().timeout_global(Some(time.min(TRY_TIME_MAX))).build();
        let mut answer = request.call().map_err(|error| printable(&error.to_string(), 200))?;
        let mut body = Vec::new();
        if let Err(error) = answer.body_mut().as_reader().take(bytes_max).read_to_end(&mut body) {
            tracing::debug!(%error, "an answer was cut");
        }
        Ok((answer.status().as_u16(), body))
    }
}

/// Why `url` is none that can be pinged, or asked.
pub fn check(url: &str) -> Result<(), String> {
    Url::parse(url).map(drop)
}

/// `url`, right or wrong, without what may be a secret in it.
fn without_path(url: &str) -> String {
    let (scheme, rest) =
        url.split_once("://").map_or(("", url), |(_, rest)| url.split_at(url.len() - rest.len()));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}{host}{}", if end < rest.len() { "/…" } else { "" })
}

/// The last part of `log` that is no longer than a body may be.
fn tail(log: &str) -> &str {
    let from = log.len().saturating_sub(BODY_BYTES_MAX);
    let from = (from..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
    &log[from..]
}

/// A random UUID (RFC 9562, version 4), or nothing where there is no randomness.
fn run_id(provider: &CryptoProvider) -> String {
    let mut bytes = [0; 16];
    if provider.secure_random.fill(&mut bytes).is_err() {
        return String::new();
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = to_hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A URL in its parts. Shown without its path, which is often all that keeps others from pinging it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Url {
    origin: String,
    shown: String,
    path: String,
    query: Option<String>,
}

impl Url {
    fn parse(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{}` is no URL: {why}", printable(&without_path(url), 200));
        if url.contains('#') {
            return Err(wrong("a `#` never reaches a server"));
        }
        let uri: Uri = url.parse().map_err(|error: ureq::http::uri::InvalidUri| wrong(&error.to_string()))?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("it begins with https:// or http:// and a host"));
        };
        if authority.host().is_empty() {
            return Err(wrong("it names no host"));
        }
        let port = authority.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Self {
            origin: format!("{scheme}://{authority}"),
            shown: format!("{scheme}://{}{port}", authority.host()),
            path: uri.path().trim_end_matches('/').to_owned(),
            query: uri.query().map(str::to_owned),
        })
    }

    fn with(&self, end: &str, run: &str) -> String {
        let run = (!run.is_empty()).then(|| format!("rid={run}"));
        let query: Vec<&str> = [self.query.as_deref(), run.as_deref()].into_iter().flatten().collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{}{end}{mark}{}", self.origin, self.path, query.join("&"))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: &str) {
        let found = match Url::parse(url) {
            Ok(url) => format!("{} {}", url.with("/fail", "R"), url),
            Err(why) => why,
        };
        assert!(found.contains(expected), "{url}\n{found}");
    }

    #[test]
    fn the_ends_go_before_the_query() {
        check("https://hc.example/ab-cd", "https://hc.example/ab-cd/fail?rid=R https://hc.example");
        check("https://hc.example/ab-cd/", "https://hc.example/ab-cd/fail?rid=R");
        check("http://10.0.0.7:8000/p/x?create=1&y", "http://10.0.0.7:8000/p/x/fail?create=1&y&rid=R");
        check("http://[::1]:80/x", "http://[::1]:80/x/fail?rid=R http://[::1]:80");
        check("https://me:secret@hc.example/x", "/x/fail?rid=R https://hc.example");
        check("https://hc.example", "https://hc.example/fail?rid=R");
    }

    #[test]
    fn what_is_no_url_is_said() {
        check("hc.example/ab", "is no URL");
        check("hc.example", "begins with https://");
        check("ftp://hc.example/ab", "begins with https://");
        check("/ab", "begins with https://");
        check("", "is no URL");
        check("https://", "is no URL");
        check("https://hc example/", "is no URL");
        check("https://hc.example/a\nb", "is no URL");
        check("https://hc.example/a#b", "a `#` never");
    }

    #[test]
    fn a_body_is_the_end_of_a_log_and_whole_characters() {
        assert_eq!(tail("short"), "short");
        let long = "가".repeat(BODY_BYTES_MAX);
        assert!(tail(&long).len() <= BODY_BYTES_MAX && tail(&long).len() > BODY_BYTES_MAX - 3);
    }

    #[test]
    fn runs_have_ids_of_their_own() {
        let provider = rustls::crypto::ring::default_provider();
        let (one, other) = (run_id(&provider), run_id(&provider));
        assert_ne!(one, other);
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!((parts, &one[14..15]), (vec![8, 4, 4, 4, 12], "4"));
    }
}
