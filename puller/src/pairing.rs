//! This machine becomes a peer of an agent, and stops being one: a key is made here and stays here, and the agent signs a
//! certificate for it.

use crate::clock;
use crate::dial;
use crate::paired::{Paired, Parts};
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
    let reply = ask(addresses, showing, async |mut agent| agent.pair(request).await)?;
    let broken = |what: &str| {
        Fault::new(Kind::Protocol, format!("the agent broke the protocol: {what}"))
            .hint("ask for a new code there, and try again")
    };
    let certificate = CertificateDer::from(reply.certificate.to_vec());
    let provider = rustls::crypto::ring::default_provider();
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| internal(error.to_owned()))?;
    CertifiedKey::from_der(vec![certificate.clone()], private, &provider)
        .map_err(|_| broken("its certificate is not for the key that was made here"))?;
    let paired = Paired::new(Parts {
        name: name.to_owned(),
        fingerprint: code.fingerprint,
        addresses: addresses.to_vec(),
        role: Role::from_word(&reply.role).ok_or_else(|| broken("a role that is none"))?,
        peer_name: printable(&reply.peer_name, NAME_CHARS_MAX),
        certificate: pem::encode(&Pem::new("CERTIFICATE", certificate.as_ref())),
        key: key.serialize_pem(),
        paired_at: clock::now()?,
        expires_at: Timestamp::from_second(reply.expires_at).map_err(|_| broken("an end that is no time"))?,
    });
    let databases = reply.databases.iter().take(DATABASES_MAX);
    Ok(Made { paired, databases: databases.map(|name| printable(name, NAME_CHARS_MAX)).collect() })
}

/// Tells the agent of `paired` that this machine, by the certificate of then, is no peer of its any more.
pub fn unpair(paired: &Paired) -> Result<(), Fault> {
    let showing = Showing::Certificate(Arc::new(paired.clone()));
    let request = pb::UnpairRequest { protocol: PROTOCOL };
    ask(&paired.addresses, showing, async |mut agent| agent.unpair(request).await).map(|_| ())
}

/// One call, with a runtime and a connection of its own.
fn ask<T>(
    addresses: &[String],
    showing: Showing,
    call: impl AsyncFnOnce(PairingClient<Channel>) -> Result<Response<T>, Status>,
) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Fault::new(Kind::Internal, format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let (stream, line) = dial::agent(addresses, &showing).await?;
        let endpoint = Endpoint::from_static("http://pullback.invalid");
        let channel = dial::channel(endpoint, stream, line.clone()).await?;
        let agent = PairingClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        match tokio::time::timeout(ANSWER_WAIT, call(agent)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(line.explain(Fault::from_status(&status))),
            Err(_) => Err(Fault::new(Kind::Lost, "the agent was asked and did not answer")
                .hint("look at its log; to be paired, ask for a new code there")),
        }
    })
}
