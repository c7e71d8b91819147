//! Who is refused by an agent with mutual TLS, and what both sides say of it: strangers, impostors, those who were paired
//! once, and those who speak something else. Nothing of what they ask for is begun, and who is paired is served afterwards.

use pullback_shared::pb::InfoRequest;
use pullback_tests::guarded::{Guarded, NAME, refused};
use pullback_tests::sandbox::{Ran, Sandbox};
use pullback_tests::tls::{
    self, Authority, Code, Greeting, HTTP2_BEGINS, Line, Refused, Shown, begin, client, greet, self_signed,
    server,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const INFO: &str = "/pullback.v1.Pullback/Info";
const PULL: &str = "/pullback.v1.Pullback/Pull";
const RESTORE: &str = "/pullback.v1.Pullback/Restore";
const PAIR: &str = "/pullback.v1.Pairing/Pair";
const INVITE: &str = "/pullback.v1.Pairing/Invite";
const UNPAIR: &str = "/pullback.v1.Pairing/Unpair";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// How the puller's own certificate is shown by a client that is not the puller.
fn own(guarded: &Guarded<'_>) -> Greeting {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    let pairing = guarded.pairing();
    let text = |key: &str| pairing[key].as_str().unwrap_or_default().to_owned();
    let key = PrivateKeyDer::from_pem_slice(text("key").as_bytes()).expect("that is a key");
    Greeting { shows: Some((vec![tls::from_pem(&text("certificate"))], key)), ..Greeting::without() }
}

#[track_caller]
fn call(line: &Line, path: &'static str, database: &str) -> Result<(), Refused> {
    match path {
        PULL | RESTORE => line.call(path, begin(database)),
        HEALTH | REFLECTION => line.call(path, ()),
        _ => line.call(path, InfoRequest { protocol: 1, database: database.to_owned(), tables: false }),
    }
}

/// A certificate that is not a peer's: what a client of TLS hears, what the agent logs, and what the puller says that has it.
struct Impostor {
    shown: Shown,
    alert: &'static str,
    log: &'static str,
    puller: &'static str,
}

#[test]
fn a_certificate_that_is_not_a_peers_is_refused_in_the_handshake() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    let (authority, pairing) = (guarded.authority(), fs::read(guarded.pairing_file()).unwrap());
    // A certificate is no secret: who shows a peer's own has to have its key.
    let (copied, foreign_key) = (own(&guarded).shows.unwrap().0, self_signed(&client("mac")).parts().1);
    let copied = Greeting { shows: Some((copied, foreign_key)), ..Greeting::without() };
    let log = ["refused: ", "without its key"];
    let heard = guarded.refuses(&log, || greet(guarded.served.address(), &copied));
    assert_eq!(heard.err().as_deref(), Some("DecryptError"));
    let stranger = Authority::foreign();
    let mut expired = client("mac");
    expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let mut early = client("mac");
    early.not_before = rcgen::date_time_ymd(2080, 1, 1);
    let named = |params: &rcgen::CertificateParams| authority.certify(params).alone();
    let impostors = [
        Impostor {
            // Another agent's, with the same name as this one's.
            shown: stranger.certify(&client("mac")).alone(),
            alert: "DecryptError",
            log: "this agent did not sign it",
            puller: "the agent `pi` does not know the certificate ",
        },
        Impostor {
            shown: self_signed(&client("mac")),
            alert: "UnknownCA",
            log: "this agent did not sign it",
            puller: "the agent `pi` does not know the certificate ",
        },
        Impostor {
            shown: named(&expired),
            alert: "CertificateExpired",
            log: "it has expired; or is the clock here wrong?",
            puller: "the agent `pi` does not take this machine's certificate",
        },
        Impostor {
            shown: named(&early),
            alert: "CertificateExpired",
            log: "it is not valid yet; is the clock here wrong?",
            puller: "the agent `pi` does not take this machine's certificate",
        },
        Impostor {
            shown: named(&server()),
            alert: "UnsupportedCertificate",
            log: "it is none for a client",
            puller: "the agent `pi` does not know the certificate ",
        },
        Impostor {
            // What somebody makes who has the CA's key; or a peer whom the list has forgotten.
            shown: named(&client("mac")),
            alert: "CertificateRevoked",
            log: "no peer here has the certificate ",
            puller: "the agent `pi` has revoked this machine, or has forgotten it",
        },
    ];
    for Impostor { shown, alert, log, puller } in impostors {
        let greeting = Greeting::with(&shown);
        let heard = guarded.refuses(&["refused: ", log], || greet(guarded.served.address(), &greeting));
        assert_eq!(heard.err().as_deref(), Some(alert), "the alert where the log says `{log}`");
        guarded.wear(&shown);
        let hint = "`pullback-agent pair` there, then `puller pair CODE --replace pi`";
        let ran = guarded.refuses(&["refused: ", log], || guarded.pull().fails("refused", 6).ran);
        refused(ran, &[puller], hint);
        refused(sandbox.puller(&["info", "pi"]), &[puller], hint);
    }
    let nothing = Greeting::without();
    let heard =
        guarded.refuses(&["refused: it showed no certificate"], || greet(guarded.served.address(), &nothing));
    assert_eq!(heard.err().as_deref(), Some("CertificateRequired"));
    fs::write(guarded.pairing_file(), pairing).unwrap();
    guarded.pull().succeeds("unchanged");
}

#[test]
fn who_does_not_speak_mutual_tls_1_3_hears_an_alert() {
    const ALERT: u8 = 21;
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let address = guarded.served.address();
    let http = b"GET / HTTP/1.1\r\nHost: pi\r\n\r\n";
    for (what, bytes) in [("HTTP/2", HTTP2_BEGINS), ("HTTP/1.1", http), ("noise", &[0xa5; 4096])] {
        let heard = guarded.refuses(&["refused: it speaks no TLS"], || tls::say(address, bytes));
        assert!(heard.len() == 7 && heard[0] == ALERT, "{heard:?} to plain {what}");
    }
    // Nobody is paired, and there is no code: whoever has the right words is still nobody.
    let with_alpn = |alpn: &[&'static str]| Greeting { alpn: alpn.to_vec(), ..Greeting::without() };
    let alpn = "refused: it speaks another protocol (ALPN)";
    let no_alpn = "refused: it did not say which protocol it speaks (ALPN)";
    for (greeting, log, alert) in [
        (with_alpn(&["http/1.1"]), alpn, "NoApplicationProtocol"),
        (with_alpn(&["pullback-pair/2", "h2c"]), alpn, "NoApplicationProtocol"),
        (with_alpn(&[]), no_alpn, "NoApplicationProtocol"),
        (with_alpn(&["h2"]), "refused: it showed no certificate; is it paired?", "CertificateRequired"),
        (
            Greeting { is_old: true, ..Greeting::without() },
            "refused: it cannot speak TLS 1.3 as this agent does",
            "ProtocolVersion",
        ),
        (Greeting::to_pair(), "refused: it wants to be paired, and there is no pairing code", "AccessDenied"),
        (
            with_alpn(&["h2", "pullback-pair/1"]),
            "refused: it wants to be paired, and there is no pairing code",
            "AccessDenied",
        ),
    ] {
        let heard = guarded.refuses(&[log], || greet(address, &greeting));
        assert_eq!(heard.err().as_deref(), Some(alert), "{:?}", greeting.alpn);
    }
    guarded.pair(&guarded.code(&[])).exits(0);
    // A peer with the wrong words is refused as well.
    for (alpn, log) in [(vec!["http/1.1"], alpn), (vec![], no_alpn)] {
        let greeting = Greeting { alpn, ..own(&guarded) };
        let heard = guarded.refuses(&[log], || greet(address, &greeting));
        assert_eq!(heard.err().as_deref(), Some("NoApplicationProtocol"));
    }
    guarded.pull().succeeds("stored");
}

/// A ticket would let a certificate in that was looked at once, and early data before it is looked at.
#[test]
fn no_handshake_is_shortened() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    let let_in = greet(guarded.served.address(), &own(&guarded)).expect("a peer is let in");
    assert!(let_in.tickets == 0 && !let_in.early_data, "{} tickets, {}", let_in.tickets, let_in.early_data);
}

#[test]
fn a_peer_that_was_revoked_is_refused_on_a_new_connection_and_at_the_next_call_on_an_open_one() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    let line = Line::open(guarded.served.address(), &own(&guarded));
    for path in [INFO, HEALTH] {
        call(&line, path, "").expect("a peer is served");
    }
    let peer = guarded.pairing()["peer_name"].as_str().unwrap().to_owned();
    guarded.agent(&["peers", "revoke", &peer]).exits(0);
    for path in [INFO, PULL, RESTORE, UNPAIR, HEALTH, REFLECTION] {
        let log = [path, "was revoked", "call{"];
        let why = guarded.refuses(&log, || call(&line, path, "gym")).unwrap_err();
        assert!(why.code == "refused" && why.message.contains(&format!("`{peer}` was revoked")), "{why:?}");
        assert!(why.hint.contains("pullback-agent pair"), "{why:?}");
    }
    let log = ["refused: ", &peer, "was revoked"];
    let heard = guarded.refuses(&log, || greet(guarded.served.address(), &own(&guarded)));
    assert_eq!(heard.err().as_deref(), Some("CertificateRevoked"));
    let ran = guarded.refuses(&log, || guarded.pull().fails("refused", 6).ran);
    refused(ran, &["the agent `pi` has revoked this machine"], "puller pair CODE --replace pi");
    // Paired anew under its name, it goes on where it was.
    sandbox.puller(&["pair", &guarded.code(&[]), "--replace", NAME]).exits(0);
    guarded.pull().succeeds("unchanged");
}

#[test]
fn who_was_paired_to_pull_restores_nothing() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    let before = fs::read(sandbox.db("gym.db")).unwrap();
    let name = format!("peer={}", guarded.pairing()["peer_name"]);
    let log = ["refused: ", RESTORE, "paired to pull, not to restore", &name];
    let line = Line::open(guarded.served.address(), &own(&guarded));
    let why = guarded.refuses(&log, || call(&line, RESTORE, "gym")).unwrap_err();
    assert!(why.code == "refused" && why.message.contains("to pull, not to restore"), "{why:?}");
    let restore = || sandbox.puller(&["restore", "pi/gym", "--in-place", "--yes"]);
    let ran = guarded.logs(&log, restore);
    refused(ran, &["this puller was paired to pull, not to restore"], "pullback-agent pair --role restore");
    assert!(fs::read(sandbox.db("gym.db")).unwrap() == before, "the database was written to");
    // The role is the peer's, not the machine's: what it was before gets it nothing.
    let code = guarded.code(&["--role", "restore"]);
    sandbox.puller(&["pair", &code, "--replace", NAME]).exits(0);
    restore().exits(0);
    let log = ["refused: ", RESTORE, "was revoked"];
    let why = guarded.refuses(&log, || call(&line, RESTORE, "gym")).unwrap_err();
    assert_eq!(why.code, "refused", "{why:?}");
}

/// `../`, NUL, a line of its own, an escape, and far too much.
fn hostile_names() -> Vec<String> {
    let names =
        ["../gym", "../../etc/passwd", "gym\0", "gym\nWARN forged: line", "\u{1b}[2Jgym", "\u{202e}myg"];
    names.into_iter().map(str::to_owned).chain(["g".repeat(10_000)]).collect()
}

#[test]
fn a_database_that_is_not_served_is_unknown_however_it_is_called() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    let line = Line::open(guarded.served.address(), &own(&guarded));
    let names = hostile_names();
    for name in names.iter().map(String::as_str).chain(["yoga", "GYM", "gym/"]) {
        for path in [INFO, PULL] {
            let why = call(&line, path, name).unwrap_err();
            let shown = why.message.chars().all(|c| !c.is_control()) && why.message.len() < 1000;
            assert!(why.code == "unknown" && shown && why.hint == "the agent serves: gym", "{why:?}");
        }
    }
    let words = ["yoga", "../gym", "../../etc/passwd", "gym\nWARN forged: line", "\u{1b}[2Jgym"];
    for name in words.into_iter().chain([&*"g".repeat(10_000)]) {
        let failed = sandbox.pull(&[format!("{NAME}/{name}")]);
        assert!(matches!(failed.ran.code(), 2 | 7 | 10), "{}", failed.ran);
        assert!(!failed.ran.stderr.contains(['\u{1b}', '\0']), "{}", failed.ran);
        assert!(failed.ran.stderr.contains("hint: "), "{}", failed.ran);
    }
    let log = guarded.served.log();
    assert!(log.contains("the pull failed: the agent knows no database `yoga`"), "{log}");
    let forged = log.lines().any(|line| line.starts_with("WARN forged") || line.len() > 1000);
    assert!(!forged && !log.contains(['\u{1b}', '\0', '\u{202e}']), "{log}");
    guarded.pull().succeeds("stored");
}

#[test]
fn who_wants_to_be_paired_may_call_nothing_else_and_a_peer_pairs_nobody() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    let code = guarded.code(&["--role", "restore"]);
    let (address, read) = (guarded.served.address(), Code::read(&code));
    let line = Line::open(address, &Greeting::to_pair());
    for path in [INFO, PULL, RESTORE, INVITE, UNPAIR, HEALTH, REFLECTION, "/no.Such/Call"] {
        let why = guarded.refuses(&["refused: ", path, "stranger"], || call(&line, path, "gym")).unwrap_err();
        assert!(why.code == "refused" && why.message.contains("may do nothing but be paired"), "{why:?}");
    }
    // A certificate that is shown on such a connection opens nothing either: it is not asked for.
    let both = Greeting { alpn: vec!["pullback-pair/1"], ..own(&guarded) };
    let line = Line::open(address, &both);
    let why = guarded.refuses(&["refused: ", INFO, "stranger"], || call(&line, INFO, "")).unwrap_err();
    assert_eq!(why.code, "refused", "{why:?}");
    // A peer that was given a code has no use for it on its own connection, and gets none made.
    let line = Line::open(address, &own(&guarded));
    let pair = || line.call::<_, ()>(PAIR, read.request("mac")).unwrap_err();
    for why in [
        guarded.refuses(&["refused: ", PAIR, "no call for this door"], pair),
        guarded.refuses(&["refused: ", INVITE, "no call for this door"], || {
            call(&line, INVITE, "").unwrap_err()
        }),
    ] {
        assert!(why.code == "refused" && why.hint.contains("pullback-agent pair"), "{why:?}");
    }
    guarded.pull().succeeds("stored");
    sandbox.puller(&["pair", &code, "--replace", NAME]).exits(0);
}

#[test]
fn a_puller_that_is_not_paired_is_told_to_be() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let source = guarded.served.source("gym");
    let pull = || sandbox.pull(&[&source]).fails("refused", 6).ran;
    let ran = guarded.refuses(&["refused: it speaks no TLS"], pull);
    refused(ran, &["speaks TLS, and this machine is not paired with it"], "for `puller pair CODE` here");
    let ran = sandbox.pull(&["pi/gym"]).ran;
    assert!(ran.code() != 0 && ran.stderr.contains("hint: "), "{ran}");
    assert!(!sandbox.store().exists(), "no store is made for an agent that refuses");
    guarded.pair(&guarded.code(&[])).exits(0);
    guarded.pull().succeeds("stored");
}

#[test]
fn an_agent_whose_tls_was_turned_off_gets_nothing_from_who_was_paired() {
    let sandbox = Sandbox::new();
    let mut guarded = Guarded::paired(&sandbox);
    guarded.pull().succeeds("stored");
    guarded.served.restart_with_tls(false);
    let ran = guarded.pull().fails("refused", 6).ran;
    refused(ran, &["what answers at ", "speaks no TLS"], "`tls = \"off\"`");
    guarded.served.restart_with_tls(true);
    guarded.pull().succeeds("unchanged");
}

#[test]
fn an_agent_that_was_installed_anew_is_another_until_it_is_paired_in_the_place_of_the_first() {
    let sandbox = Sandbox::new();
    let mut guarded = Guarded::paired(&sandbox);
    let first = guarded.pull().succeeds("stored");
    let old = guarded.pairing()["fingerprint"].as_str().unwrap().to_owned();
    fs::rename(guarded.identity(), sandbox.file("old-identity")).unwrap();
    guarded.agent(&["init"]).exits(0);
    guarded.served.restart();
    let code = guarded.code(&[]);
    let new: String = Code::read(&code).fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_ne!(old, new);
    let ran =
        guarded.refuses(&["refused: it broke off (UnknownCA)"], || guarded.pull().fails("refused", 6).ran);
    refused(ran, &[&old, &new, "the agent `pi`"], "`puller pair CODE --replace pi`");
    // Without the word, a code of another identity does not take the place of the first.
    refused(guarded.pair(&code), &[&old, &new, "`pi` is paired already"], "--replace pi");
    sandbox.puller(&["pair", &code, "--replace", NAME]).exits(0);
    assert_eq!(guarded.pairing()["fingerprint"], *new);
    let again = guarded.pull().succeeds("unchanged");
    assert_eq!(again.copy, first.copy, "the history goes on");
}

#[track_caller]
fn is_private(path: &Path) {
    let metadata = path.metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let private = if metadata.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(metadata.permissions().mode() & 0o777, private, "{}", path.display());
}

#[test]
fn nobody_else_may_read_a_key() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::paired(&sandbox);
    guarded.code(&[]);
    let identity = guarded.identity();
    is_private(&identity);
    is_private(&identity.join("codes"));
    let mut files: Vec<_> = fs::read_dir(&identity).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.extend(fs::read_dir(identity.join("codes")).unwrap().map(|entry| entry.unwrap().path()));
    for name in ["ca.key", "server.key", "peers.json"] {
        assert!(files.contains(&identity.join(name)), "{files:?}");
    }
    files.iter().for_each(|path| is_private(path));
    is_private(&guarded.pairing_file());
    is_private(guarded.pairing_file().parent().unwrap());
}

/// An agent whose keys others may read says so before it serves, or its doctor does.
#[test]
fn a_doctor_notices_a_key_that_others_may_read() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let key = guarded.identity().join("ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let ran: Ran = guarded.agent(&["doctor"]);
    assert!(ran.code() != 0 && ran.to_string().contains("ca.key"), "{ran}");
}
