//! This machine becomes a peer of an agent, and stops being one: a key is made here and stays here, and the agent signs a
//! certificate for it.

use crate::clock;
use crate::dial;
use crate::paired::{Paired, VERSION};
use crate::tls::Showing;
use jiff::Timestamp;
use pem::Pem;
use pullback_shared::PROTOCOL;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{NAME_CHARS_MAX, Role};
use pullback_shared::pairing::PairingCode;
use pullback_shared::pb;
use pullback_shared::pb::pairing_client::PairingClient;
use pullback_shared::text::printable;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// How long an agent may take to answer: it waits for its disk twice.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Names of databases that are taken from an answer.
const DATABASES_MAX: usize = 1000;

/// What came of a pairing.
pub struct Made {
    /// To be kept.
    pub paired: Paired,
    /// The databases that the agent serves; text from the network.
    pub databases: Vec<String>,
}

/// Uses `code` up at one of `addresses`. The agent is called `name` here; this machine calls itself `own_name` there.
pub fn pair(code: &PairingCode, addresses: &[String], name: &str, own_name: &str) -> Result<Made, Fault> {
    let internal = |error: String| Fault::new(Kind::Internal, format!("no key could be made: {error}"));
    let key = KeyPair::generate().map_err(|error| internal(error.to_string()))?;
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.map_err(|error| internal(error.to_string()))?;
    let request = pb::PairRequest {
        protocol: PROTOCOL,
        code_id: code.id.to_vec().into(),
        secret: code.secret.bytes().to_vec().into(),
        certificate_request: request.der().to_vec().into(),
        name: own_name.to_owned(),
    };
    let showing = Showing::Nothing(code.fingerprint);
    let reply = ask(addresses, showing, async |mut agent| agent.pair(request).await)??;
    take(&reply, &key, code, addresses, name)
}

/// What `reply` makes of this machine, which asked with `key`.
fn take(
    reply: &pb::PairReply,
    key: &KeyPair,
    code: &PairingCode,
    addresses: &[String],
    name: &str,
) -> Result<Made, Fault> {
    let internal = |error: &str| Fault::new(Kind::Internal, format!("no key could be made: {error}"));
    let broken = |what: &str| {
        Fault::new(Kind::Protocol, format!("the agent broke the protocol: {what}"))
            .hint("ask for a new code there, and try again")
    };
    let certificate = CertificateDer::from(reply.certificate.to_vec());
    let provider = rustls::crypto::ring::default_provider();
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(internal)?;
    CertifiedKey::from_der(vec![certificate.clone()], private, &provider)
        .map_err(|_| broken("its certificate is not for the key that was made here"))?;
    let paired = Paired {
        v: VERSION,
        name: name.to_owned(),
        fingerprint: code.fingerprint,
        addresses: addresses.to_vec(),
        role: Role::from_word(&reply.role).ok_or_else(|| broken("a role that is none"))?,
        peer_name: printable(&reply.peer_name, NAME_CHARS_MAX),
        certificate: pem::encode(&Pem::new("CERTIFICATE", certificate.as_ref())),
        key: key.serialize_pem(),
        paired_at: clock::now()?,
        expires_at: Timestamp::from_second(reply.expires_at).map_err(|_| broken("an end that is no time"))?,
    };
    let databases = reply.databases.iter().take(DATABASES_MAX);
    Ok(Made { paired, databases: databases.map(|name| printable(name, NAME_CHARS_MAX)).collect() })
}

/// Tells the agent of `paired` that this machine, by the certificate of then, is no peer of its any more. An agent that refuses
/// this machine has nothing to be told; whoever else answers at its addresses was not told.
pub fn unpair(paired: &Paired) -> Result<(), Fault> {
    let showing = Showing::Certificate(Arc::new(paired.clone()));
    let request = pb::UnpairRequest { protocol: PROTOCOL };
    match ask(&paired.addresses, showing, async |mut agent| agent.unpair(request).await)? {
        Err(fault) if fault.kind != Kind::Refused => Err(fault),
        _ => Ok(()),
    }
}

/// One call, with a runtime and a connection of its own: what the agent said, once it had proven that it is the one.
fn ask<T>(
    addresses: &[String],
    showing: Showing,
    call: impl AsyncFnOnce(PairingClient<Channel>) -> Result<Response<T>, Status>,
) -> Result<Result<T, Fault>, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Fault::new(Kind::Internal, format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let (stream, line) = dial::agent(addresses, &showing).await?;
        let endpoint = Endpoint::from_static("http://pullback.invalid");
        let channel = match dial::channel(endpoint, stream, line.clone()).await {
            Ok(channel) => channel,
            Err(fault) => return Ok(Err(fault)),
        };
        let agent = PairingClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(match tokio::time::timeout(ANSWER_WAIT, call(agent)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(line.explain(Fault::from_status(&status))),
            Err(_) => Err(Fault::new(Kind::Lost, "the agent was asked and did not answer")
                .hint("look at its log; to be paired, ask for a new code there")),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pullback_shared::identity::Fingerprint;
    use pullback_shared::pairing::Secret;

    /// What must neither reach a terminal nor name a file.
    const HOSTILE: &str = "\u{1b}[2J\u{9b}m\r\n../../x";

    /// What comes of an answer that makes sense but for `lie`.
    fn taken(lie: impl FnOnce(&mut pb::PairReply)) -> Result<Made, Fault> {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let mut reply = pb::PairReply {
            certificate: certificate.der().to_vec().into(),
            role: "pull".to_owned(),
            peer_name: "desk".to_owned(),
            databases: vec!["gym".to_owned()],
            expires_at: 2_000_000_000,
        };
        lie(&mut reply);
        let code = PairingCode {
            fingerprint: Fingerprint([1; 32]),
            id: [2; 8],
            secret: Secret::new([3; 16]),
            name: "pi".to_owned(),
            addresses: Vec::new(),
        };
        take(&reply, &key, &code, &[], "pi")
    }

    #[test]
    fn an_answer_that_makes_no_sense_pairs_nobody() {
        assert!(taken(|_| ()).is_ok());
        let foreign = KeyPair::generate().unwrap();
        let foreign = CertificateParams::default().self_signed(&foreign).unwrap().der().to_vec();
        let refused = |says: &str, lie: &dyn Fn(&mut pb::PairReply)| {
            let fault = taken(lie).err().unwrap();
            assert!(fault.kind == Kind::Protocol && fault.message.contains(says), "{fault:?}");
        };
        for certificate in [foreign, vec![0xff; 200_000], Vec::new()] {
            refused("not for the key", &|reply| reply.certificate = certificate.clone().into());
        }
        for role in [HOSTILE, "owner", ""] {
            refused("a role that is none", &|reply| reply.role = role.to_owned());
        }
        // The last of them is the year 9999999.
        for end in [i64::MAX, i64::MIN, 315_507_000_000_000] {
            refused("no time", &|reply| reply.expires_at = end);
        }
    }

    #[test]
    fn names_in_an_answer_are_few_and_fit_for_a_terminal() {
        let made = taken(|reply| {
            reply.peer_name = HOSTILE.repeat(1000);
            reply.databases = vec![HOSTILE.to_owned(); 1_000_000];
        });
        let made = made.unwrap();
        assert_eq!(made.databases.len(), DATABASES_MAX);
        for name in made.databases.iter().chain([&made.paired.peer_name]) {
            assert!(!name.contains(char::is_control) && name.len() < 1000, "{name}");
        }
    }
}
