//! Pairing, and those who try it without a right to: guessed, used, old and foreign codes, somebody in the middle, requests that
//! are none. What was refused costs the code nothing that is not documented, and a right code pairs afterwards.

use pullback_shared::pb::{PairReply, PairRequest};
use pullback_tests::guarded::{Guarded, NAME, refused};
use pullback_tests::programs;
use pullback_tests::sandbox::{Ran, Sandbox, wait_until};
use pullback_tests::small_disk::SmallDisk;
use pullback_tests::tls::{Authority, Code, Greeting, Line, Man, Refused, client, from_pem, greet, server};
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::fs;
use std::process::Command;
use std::time::Duration;

const PAIR: &str = "/pullback.v1.Pairing/Pair";

/// Guesses at one code, as the limits say.
const TRIES_MAX: usize = 5;

fn knock(guarded: &Guarded<'_>) -> Line {
    Line::open(guarded.served.address(), &Greeting::to_pair())
}

#[track_caller]
fn pair(line: &Line, request: PairRequest) -> Result<PairReply, Refused> {
    line.call(PAIR, request)
}

#[test]
fn a_thousand_guesses_lock_the_code_and_cost_nobody_else_anything() {
    const GUESSES: usize = 1000;
    const LINES: usize = 20;
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let (guessed, other) = (guarded.code(&[]), guarded.code(&[]));
    let code = Code::read(&guessed);
    let mut request = code.request("thief");
    let before = guarded.served.log();
    let mut wrong = 0;
    for _ in 0..LINES {
        let line = knock(&guarded);
        for number in 0..GUESSES / LINES {
            request.secret = vec![number as u8; 16].into();
            let why = pair(&line, request.clone()).unwrap_err();
            assert_eq!(why.code, "refused", "{why:?}");
            assert!(why.hint.contains("`pullback-agent pair` there gives a new one"), "{why:?}");
            match why.message.contains("not the secret") {
                true => wrong += 1,
                false => assert!(why.message.contains("is locked"), "{why:?}"),
            }
        }
    }
    assert_eq!(wrong, TRIES_MAX, "so many guesses were looked at");
    // The right secret comes too late.
    refused(guarded.pair(&guessed), &["this pairing code is locked"], "`pullback-agent pair` there");
    let log = guarded.served.log().split_off(before.len());
    assert!(log.contains("is not the secret of this pairing code"), "{log}");
    let lines = log.lines().count();
    assert!(lines < 100, "{GUESSES} guesses are {lines} lines in the log:\n{log}");
    // What was not guessed at still pairs, and so does a new one.
    guarded.pair(&other).exits(0);
    guarded.pull().succeeds("stored");
    sandbox.puller(&["pair", &guarded.code(&[]), "--replace", NAME]).exits(0);
}

#[test]
fn a_guess_that_cannot_be_counted_is_not_looked_at() {
    let sandbox = Sandbox::new();
    let what = "guesses while the disk of the agent is full";
    let Some(disk) = SmallDisk::mount(&sandbox.state(), "size=2m", what) else { return };
    let guarded = Guarded::alone(&sandbox);
    let printed = guarded.code(&[]);
    let code = Code::read(&printed);
    disk.fill();
    let mut request = code.request("thief");
    let answers = [vec![7; 16].into(), code.secret.clone()].map(|secret| {
        request.secret = secret;
        pair(&knock(&guarded), request.clone()).unwrap_err()
    });
    assert_eq!(answers[0], answers[1], "whether a guess is right is not told");
    assert_eq!(answers[0].code, "no_space", "{answers:?}");
    // Where files lie is for the agent's owner.
    let state = sandbox.state().display().to_string();
    assert!(!format!("{answers:?}").contains(&state), "{answers:?}");
    assert!(guarded.served.log().contains(&state), "{}", guarded.served.log());
    disk.empty();
    guarded.pair(&printed).exits(0);
    guarded.pull().succeeds("stored");
}

#[test]
fn codes_that_cannot_be_guessed_do_not_exist_either() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let printed = guarded.code(&[]);
    let code = Code::read(&printed);
    let line = knock(&guarded);
    let unknown = PairRequest { code_id: vec![7; 8].into(), ..code.request("thief") };
    let log = ["refused: ", "knows no such pairing code"];
    let why = guarded.refuses(&log, || pair(&line, unknown)).unwrap_err();
    assert!(why.code == "refused" && why.message.contains("knows no such pairing code"), "{why:?}");
    for broken in [
        PairRequest { code_id: vec![].into(), ..code.request("thief") },
        PairRequest { code_id: b"../../ca".to_vec().into(), ..code.request("thief") },
        PairRequest { code_id: vec![0; 10_000].into(), ..code.request("thief") },
        PairRequest { secret: vec![].into(), ..code.request("thief") },
        PairRequest { secret: vec![0; 15].into(), ..code.request("thief") },
        PairRequest { protocol: 99, ..code.request("thief") },
    ] {
        let why = guarded.refuses(&["refused: "], || pair(&line, broken)).unwrap_err();
        assert!(matches!(why.code.as_str(), "protocol" | "refused"), "{why:?}");
    }
    guarded.pair(&printed).exits(0);
}

#[test]
fn a_code_pairs_once_and_not_for_ever() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let short = guarded.code(&["--ttl", "1s"]);
    let printed = guarded.code(&[]);
    guarded.pair(&printed).exits(0);
    let again = || sandbox.puller(&["pair", &printed, "--replace", NAME]);
    let log = ["refused: ", "was used already"];
    refused(guarded.refuses(&log, again), &["this pairing code was used already"], "gives a new one");
    std::thread::sleep(Duration::from_millis(1100));
    let late = || sandbox.puller(&["pair", &short, "--replace", NAME]);
    let log = ["refused: ", "has expired"];
    refused(guarded.refuses(&log, late), &["this pairing code has expired"], "gives a new one");
    // What the puller has is what it had.
    guarded.pull().succeeds("stored");
    // An agent that knows of no code at all does not even begin.
    fs::remove_dir_all(guarded.identity().join("codes")).unwrap();
    let log = ["refused: it wants to be paired, and there is no pairing code"];
    refused(guarded.refuses(&log, again), &["has no pairing code open"], "`pullback-agent pair` there");
    guarded.pull().succeeds("unchanged");
}

#[test]
fn a_code_of_another_agent_pairs_with_that_one_only() {
    let (sandbox, other_sandbox) = (Sandbox::new(), Sandbox::new());
    let (guarded, other) = (Guarded::alone(&sandbox), Guarded::alone(&other_sandbox));
    let (own, foreign) = (guarded.code(&[]), other.code(&[]));
    let there = guarded.served.address();
    let ran = guarded.refuses(&["refused: it broke off (UnknownCA)"], || {
        sandbox.puller(&["pair", &foreign, "--name", NAME, "--address", there])
    });
    let fingerprints = [&own, &foreign].map(|code| hex(&Code::read(code).fingerprint));
    refused(ran, &[&fingerprints[0], &fingerprints[1], "the code is of the agent"], "another machine's code");
    let log = ["refused: ", "knows no such pairing code"];
    let why = guarded.refuses(&log, || pair(&knock(&guarded), Code::read(&foreign).request("mac")));
    assert_eq!(why.unwrap_err().code, "refused");
    assert!(!guarded.pairing_file().exists());
    guarded.pair(&foreign).exits(0);
    sandbox.pull(&["pi/gym"]).succeeds("stored");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whoever stands between a puller and its agent learns no secret, and the code goes on to hold.
#[test]
fn somebody_in_the_middle_is_told_nothing() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let printed = guarded.code(&[]);
    let expected = hex(&Code::read(&printed).fingerprint);
    let foreign = Authority::foreign();
    let (chain, key) = foreign.certify(&server()).parts();
    let read = |name: &str| from_pem(&fs::read_to_string(guarded.identity().join(name)).unwrap());
    let (ca, leaf) = (read("ca.pem"), read("server.pem"));
    let seen = hex(&Sha256::digest(&foreign.certificate));
    let not_one = "is not one of an agent's";
    for (what, chain, says) in [
        ("its own identity", chain.clone(), ["has the identity", &*seen]),
        (
            "its own certificate beside the agent's CA",
            vec![chain[0].clone(), ca.clone()],
            [not_one, &*expected],
        ),
        ("the agent's own certificates, whose key it has not", vec![leaf, ca.clone()], [not_one, &*expected]),
        ("the agent's CA for a server", vec![ca.clone()], ["certificate", &*expected]),
    ] {
        let man = Man::showing(chain, &key);
        let words = ["pair", &*printed, "--name", NAME, "--address", man.address()];
        let ran = refused(sandbox.puller(&words), &[&says[..], &[&*expected]].concat(), "");
        assert!(man.connections() > 0 && man.told().is_empty(), "{what} was told {:?}, of {ran}", man.told());
        assert!(!guarded.pairing_file().exists(), "{what}, of {ran}");
    }
    guarded.pair(&printed).exits(0);
    guarded.pull().succeeds("stored");
    // Once paired, it is the same: somebody else at the agent's address is told nothing, and where the agent is at another of its
    // addresses, that one is found.
    let man = Man::showing(chain, &key);
    guarded.rewrite("addresses", serde_json::json!([man.address()]));
    refused(guarded.pull().fails("refused", 6).ran, &[&seen, &expected], "puller pair CODE --replace pi");
    guarded.rewrite("addresses", serde_json::json!([man.address(), guarded.served.address()]));
    guarded.pull().succeeds("unchanged");
    assert!(man.connections() == 2 && man.told().is_empty(), "{:?}", man.told());
}

#[test]
fn a_mistyped_code_is_noticed_before_any_network_is_asked() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let printed = guarded.code(&[]);
    let wrong_letter = |at: usize| {
        let mut typed = printed.clone().into_bytes();
        typed[at] = if typed[at] == b'a' { b'b' } else { b'a' };
        String::from_utf8(typed).unwrap()
    };
    let shorter = printed[..printed.len() - 1].to_owned();
    let far_too_long = printed.repeat(100);
    for typed in [wrong_letter(0), wrong_letter(60), wrong_letter(printed.len() - 3), shorter, far_too_long] {
        // Somebody who asked the network would be told that nobody is there.
        let ran = sandbox.puller(&["pair", &typed, "--address", "127.0.0.1:1"]).exits(2);
        assert!(ran.stderr.contains("that is no pairing code: ") && ran.stderr.contains("hint: "), "{ran}");
        assert!(!ran.stderr.contains(&typed), "the code is in what is said: {ran}");
    }
    // Capitals, groups and lines are no mistakes.
    let grouped: Vec<String> = printed
        .to_uppercase()
        .as_bytes()
        .chunks(5)
        .map(|five| String::from_utf8_lossy(five).into())
        .collect();
    guarded.pair(&grouped.join("-")).exits(0);
}

#[test]
fn a_hostile_name_becomes_one_that_can_be_typed() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let long = "n".repeat(10_000);
    for (wanted, given) in [
        ("../../etc/cron.d/x", "etc-cron.d-x"),
        ("mac\0", "mac"),
        ("mac\nWARN forged: line", "mac-warn-forged--line"),
        ("\u{1b}[2J", "2j"),
        ("\u{202e}cam", "cam"),
        ("", "puller"),
        (&long, &long[..64]),
    ] {
        let code = Code::read(&guarded.code(&[]));
        let request = PairRequest { name: wanted.to_owned(), ..code.request("mac") };
        let reply = pair(&knock(&guarded), request).expect("a right code pairs");
        assert_eq!(reply.peer_name, given);
    }
    let log = guarded.served.log();
    assert!(!log.contains(['\u{1b}', '\0', '\u{202e}']), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("WARN forged") || line.len() > 1000), "{log}");
    let peers = guarded.agent(&["peers", "list", "--json"]).exits(0);
    let names: Vec<_> = peers.json().iter().map(|peer| peer["name"].to_string()).collect();
    assert_eq!(names.len(), 7, "{peers}");
    let files: Vec<_> =
        fs::read_dir(guarded.identity()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 7, "the identity's files, the peers, the codes and a lock: {files:?}");
}

#[test]
fn a_request_for_a_certificate_that_is_none_costs_the_code_nothing() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let printed = guarded.code(&[]);
    let code = Code::read(&printed);
    let line = knock(&guarded);
    let good = code.request("mac");
    let with = |request: Vec<u8>| PairRequest { certificate_request: request.into(), ..good.clone() };
    let whole = good.certificate_request.to_vec();
    // Signed by another key than the one it asks a certificate for.
    let mut not_its_own = whole.clone();
    *not_its_own.last_mut().unwrap() ^= 1;
    let half = whole[..whole.len() / 2].to_vec();
    // More tries than a code has.
    for request in [vec![], vec![0x30], vec![0xa5; 8000], not_its_own, half, vec![0x30; 300], vec![0; 4]] {
        let why = guarded.refuses(&["refused: ", "cannot be understood"], || pair(&line, with(request)));
        let why = why.unwrap_err();
        assert!(why.code == "protocol" && why.message.contains("cannot be understood"), "{why:?}");
    }
    let log = ["refused: ", PAIR, "too large"];
    let why = guarded.refuses(&log, || pair(&line, with(vec![0xa5; 1 << 20]))).unwrap_err();
    assert!(why.message.contains("too large"), "{why:?}");
    let ran: Ran = guarded.pair(&printed).exits(0);
    assert!(ran.stdout.contains("paired with pi"), "{ran}");
    guarded.pull().succeeds("stored");
}

/// What a request wishes for besides a key is not granted.
#[test]
fn nobody_is_given_a_certificate_that_signs_others() {
    let sandbox = Sandbox::new();
    let guarded = Guarded::alone(&sandbox);
    let code = Code::read(&guarded.code(&[]));
    let mut greedy = server();
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let (request, key) = code.request_for("mac", &greedy);
    let reply = pair(&knock(&guarded), request).expect("what it wishes for is passed over");
    assert_eq!((reply.role.as_str(), reply.peer_name.as_str()), ("pull", "mac"));
    let given = CertificateDer::from(reply.certificate.to_vec());
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    // Nothing of what was wished for is in it: the name of the server, or the right to sign.
    let says = |bytes: &[u8]| given.windows(bytes.len()).any(|window| window == bytes);
    assert!(!says(b"agent.pullback.invalid") && !says(&[0x55, 0x1d, 0x13]), "{given:?}");
    let own = Greeting { shows: Some((vec![given.clone()], private)), ..Greeting::without() };
    greet(guarded.served.address(), &own).expect("it is a peer's");
    let issuer = rcgen::Issuer::new(greedy, key);
    let below = rcgen::KeyPair::generate().unwrap();
    let signed = client("mac").signed_by(&below, &issuer).unwrap().der().clone();
    let below = PrivateKeyDer::try_from(below.serialize_der()).unwrap();
    let chain = Greeting { shows: Some((vec![signed, given], below)), ..Greeting::without() };
    let heard = guarded.refuses(&["refused: the certificate "], || greet(guarded.served.address(), &chain));
    assert_eq!(heard.err().as_deref(), Some("UnknownCA"));
}

#[test]
fn no_log_has_a_code_a_key_or_a_certificate() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(programs::agent());
    command.arg("-vv");
    never_said(&sandbox, command, "DEBUG", &["ca.key", "server.key", "ca.pem", "server.pem"]);
}

/// Then TLS itself tells of its certificates, which everybody may see.
#[test]
fn not_even_a_trace_has_a_code_or_a_key() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(programs::agent());
    command.env("PULLBACK_AGENT_LOG", "trace");
    never_said(&sandbox, command, "TRACE", &["ca.key", "server.key"]);
}

/// Pairs, pulls and is refused, by an agent that `command` starts, with both sides as talkative as that; none of what was said has
/// a code, the puller's key, or what is in `files` of the agent's identity.
#[track_caller]
fn never_said(sandbox: &Sandbox, command: Command, level: &str, files: &[&str]) {
    let guarded = Guarded::by(sandbox, command);
    let (printed, wasted) = (guarded.code(&[]), guarded.code(&["--role", "restore"]));
    let wrong = PairRequest { secret: vec![7; 16].into(), ..Code::read(&wasted).request("thief") };
    pair(&knock(&guarded), wrong).expect_err("a wrong secret pairs nobody");
    let mut said = String::new();
    let mut run = |words: &[&str]| {
        let ran = sandbox.puller(&[words, &["-vv"]].concat());
        said += &ran.stdout;
        said += &ran.stderr;
    };
    run(&["pair", &printed, "--name", NAME]);
    run(&["pair", &printed, "--name", NAME]);
    run(&["pair", &wasted, "--name", NAME, "--address", "127.0.0.1:1"]);
    run(&["pair", &wasted[..80], "--name", NAME]);
    run(&["pull", "pi/gym"]);
    run(&["info", "pi"]);
    let key = guarded.pairing()["key"].clone();
    run(&["pair", &wasted, "--replace", NAME]);
    guarded.agent(&["peers", "revoke", guarded.pairing()["peer_name"].as_str().expect("a name")]).exits(0);
    run(&["pull", "pi/gym"]);
    wait_until("the last refusal", || guarded.served.log().contains("was revoked"));
    said += &guarded.served.log();
    assert!(said.contains(level) && said.contains("paired with pi"), "the logs are as talkative as can be");
    let mut never: Vec<String> = Vec::new();
    for code in [&printed, &wasted] {
        // The middle: the first half of a code is the fingerprint, which is no secret.
        let secret = Code::read(code).secret.clone();
        never.extend([hex(&secret), secret.escape_ascii().to_string()]);
        never.push(format!("{secret:?}").trim_matches(['[', ']']).to_owned());
        never.push(data_encoding::BASE64_NOPAD.encode(&secret));
        never.push(code[code.len() / 2..].chars().take(24).collect());
        never.push(blake3::hash(&secret).to_string());
    }
    let mut texts = vec![key.as_str().expect("a key in PEM").to_owned()];
    for name in files {
        texts.push(fs::read_to_string(guarded.identity().join(name)).expect("an identity is whole"));
    }
    for text in texts {
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let bytes = data_encoding::BASE64.decode(body.as_bytes()).expect("PEM is Base64");
        // The first bytes are the same in every key; these are within what nobody else has.
        let own = &bytes[40..56];
        never.extend([hex(own), own.escape_ascii().to_string(), body[56..72].to_owned()]);
        never.push(format!("{own:?}").trim_matches(['[', ']']).to_owned());
    }
    for secret in never {
        let line = said.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "`{secret}` is in a log: {line:?}");
    }
}
