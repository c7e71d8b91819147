//! TLS as the agent speaks it: 1.3 only; who has a certificate of this agent's and is still a peer comes in, and who wants to
//! be paired gets as far as the pairing.

use crate::codes::Codes;
use crate::identity::Identity;
use crate::peers::Peers;
use crate::refusals::Refusals;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{ALPN_PAIRING, ALPN_SERVICE, Fingerprint};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::sync::Arc;

/// What is said of who does not say what it wants.
pub const NO_ALPN: &str = "it did not say which protocol it speaks (ALPN)";

/// The alert for that, as it goes over the wire: fatal, `no_application_protocol`.
pub const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// What an agent needs to speak TLS.
pub struct Tls {
    service: Arc<ServerConfig>,
    pairing: Arc<ServerConfig>,
}

/// Whom a connection was found to be from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shown {
    /// Somebody with this certificate, which this agent gave to a peer.
    Certificate(Fingerprint),
    /// Somebody who wants to be paired.
    Nothing,
}

impl Tls {
    /// As `identity`, for `peers`, and for those who want to be paired while there are `codes`.
    pub fn new(
        identity: &Identity,
        peers: Arc<Peers>,
        codes: Codes,
        refusals: Arc<Refusals>,
    ) -> Result<Self, Fault> {
        let wrong =
            |error: Error| Fault::new(Kind::Config, format!("the agent's identity cannot be used: {error}"));
        let provider = Arc::new(ring::default_provider());
        let (chain, key) = identity.server();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(wrong)?;
        let shown = Arc::new(Certificates { key: Arc::new(key), codes });
        let verifier = Arc::new(PeerVerifier::new(identity, peers, refusals, &provider).map_err(wrong)?);
        let config = |provider: &Arc<CryptoProvider>| {
            ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&TLS13])
        };
        let service = config(&provider).map_err(wrong)?.with_client_cert_verifier(verifier);
        let pairing = config(&provider).map_err(wrong)?.with_no_client_auth();
        let finished = |mut config: ServerConfig, alpn: &[u8]| {
            config.alpn_protocols = vec![alpn.to_vec()];
            // A resumed connection would come in with a certificate that was looked at when the ticket was made.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Arc::new(config)
        };
        let certificates: Arc<Certificates> = Arc::clone(&shown);
        Ok(Self {
            service: finished(service.with_cert_resolver(shown), ALPN_SERVICE),
            pairing: finished(pairing.with_cert_resolver(certificates), ALPN_PAIRING),
        })
    }

    /// How to go on with who begins like this.
    pub fn config_for(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        match wants_pairing(hello) {
            true => Arc::clone(&self.pairing),
            false => Arc::clone(&self.service),
        }
    }
}

fn wants_pairing(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut words| words.any(|word| word == ALPN_PAIRING))
}

/// Whom a handshake that succeeded has shown to be there; why it is of no use, if so.
pub fn shown(connection: &ServerConnection) -> Result<Shown, &'static str> {
    match (connection.alpn_protocol(), connection.peer_certificates()) {
        (Some(ALPN_PAIRING), _) => Ok(Shown::Nothing),
        (Some(ALPN_SERVICE), Some([certificate, ..])) => Ok(Shown::Certificate(Fingerprint::of(certificate))),
        _ => Err(NO_ALPN),
    }
}

/// What a handshake that failed says of who was at the other end. `None`: it was said already, or is nothing to say.
pub fn why(error: &std::io::Error) -> Option<String> {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    Some(match tls {
        Some(Error::InvalidCertificate(_)) => return None,
        Some(Error::NoCertificatesPresented) => "it showed no certificate; is it paired?".to_owned(),
        Some(Error::InvalidMessage(_)) => "it speaks no TLS".to_owned(),
        Some(Error::PeerIncompatible(what)) => {
            format!("it cannot speak TLS 1.3 as this agent does ({what:?})")
        }
        Some(Error::NoApplicationProtocol) => "it speaks another protocol (ALPN)".to_owned(),
        Some(Error::AlertReceived(alert)) => {
            format!("it broke off ({alert:?}); does it know this agent by another identity?")
        }
        Some(Error::General(_)) => "it wants to be paired, and there is no pairing code".to_owned(),
        Some(error) => error.to_string(),
        None => {
            // Nobody refused it: it has seen who is here, or lost its way.
            tracing::debug!(%error, "it left while it was greeted");
            return None;
        }
    })
}

/// What the agent shows: its certificate; and to those who want to be paired nothing, unless there is a code for somebody.
#[derive(Debug)]
struct Certificates {
    key: Arc<CertifiedKey>,
    codes: Codes,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        (!wants_pairing(&hello) || self.codes.any()).then(|| Arc::clone(&self.key))
    }
}

/// Lets certificates in that this agent's CA signed for clients, that hold now, and that are a peer's.
#[derive(Debug)]
struct PeerVerifier {
    signed: Arc<dyn ClientCertVerifier>,
    peers: Arc<Peers>,
    refusals: Arc<Refusals>,
}

impl PeerVerifier {
    fn new(
        identity: &Identity,
        peers: Arc<Peers>,
        refusals: Arc<Refusals>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(identity.ca().clone())?;
        let signed =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        let signed = signed.map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { signed, peers, refusals })
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Whoever is paired knows which certificate to show; nobody else has to be told.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let fingerprint = Fingerprint::of(end_entity);
        let verified = self.signed.verify_client_cert(end_entity, intermediates, now);
        let verified = verified.inspect_err(|error| {
            self.refusals.say(&format!("the certificate {fingerprint}: {}", of_certificate(error)));
        })?;
        match self.peers.with(&fingerprint) {
            Ok(_) => Ok(verified),
            Err(fault) => {
                self.refusals.say(&fault.message);
                Err(Error::InvalidCertificate(CertificateError::Revoked))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, certificate, signed).inspect_err(|error| {
            let fingerprint = Fingerprint::of(certificate);
            self.refusals.say(&format!("the certificate {fingerprint} was shown without its key ({error})"));
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

fn of_certificate(error: &Error) -> String {
    use CertificateError as C;
    match error {
        Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "this agent did not sign it".to_owned()
        }
        Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "it has expired; or is the clock here wrong?".to_owned()
        }
        Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            "it is not valid yet; is the clock here wrong?".to_owned()
        }
        Error::InvalidCertificate(C::InvalidPurpose | C::InvalidPurposeContext { .. }) => {
            "it is none for a client".to_owned()
        }
        error => error.to_string(),
    }
}
