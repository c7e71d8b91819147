//! TLS as the puller speaks it: with the agent that was paired and no other; and what went wrong with that, as a sentence.

use crate::paired::Paired;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{ALPN_PAIRING, ALPN_SERVICE, Fingerprint, SERVER_NAME};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Whom an agent is to see, and who it is to be.
#[derive(Clone, Debug)]
pub enum Showing {
    /// The certificate that this agent gave.
    Certificate(Arc<Paired>),
    /// None: an agent of this fingerprint is to give one.
    Nothing(Fingerprint),
}

impl Showing {
    /// Who the agent is to be.
    pub fn expected(&self) -> Fingerprint {
        match self {
            Self::Certificate(paired) => paired.fingerprint,
            Self::Nothing(fingerprint) => *fingerprint,
        }
    }
}

/// SHA-256 of a certificate.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate.as_ref()).into())
}

/// The name that every agent's certificate has.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("BUG: no name")
}

/// One attempt to speak with an agent: how, and which identity it showed.
pub struct Attempt {
    /// For one connection.
    pub config: Arc<ClientConfig>,
    showing: Showing,
    seen: Arc<Mutex<Option<Fingerprint>>>,
}

impl Attempt {
    /// An attempt that shows what `showing` says.
    pub fn new(showing: Showing) -> Result<Self, Fault> {
        let provider = Arc::new(ring::default_provider());
        let seen = Arc::default();
        let verifier =
            Pinned { expected: showing.expected(), provider: Arc::clone(&provider), seen: Arc::clone(&seen) };
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let config = config.map_err(|error| Fault::new(Kind::Internal, error.to_string()))?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let (mut config, alpn) = match &showing {
            Showing::Certificate(paired) => {
                let wrong = |error: String| {
                    let name = &paired.name;
                    Fault::new(
                        Kind::Config,
                        format!("what this machine shows `{name}` cannot be used: {error}"),
                    )
                    .hint(format!("pair again: `puller pair CODE --replace {name}`"))
                };
                let certificate = CertificateDer::from_pem_slice(paired.certificate.as_bytes());
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(paired.key().as_bytes());
                let key = key.map_err(|error| wrong(error.to_string()))?;
                let config = config.with_client_auth_cert(vec![certificate], key);
                (config.map_err(|error| wrong(error.to_string()))?, ALPN_SERVICE)
            }
            Showing::Nothing(_) => (config.with_no_client_auth(), ALPN_PAIRING),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), showing, seen })
    }

    /// Why a handshake with whoever answers at `address` failed.
    pub fn explain(&self, address: &str, error: &io::Error) -> Fault {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        let expected = self.showing.expected();
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match (tls, seen) {
            (Some(Error::InvalidCertificate(_)), Some(seen)) if seen != expected => {
                let (what, hint) = match &self.showing {
                    Showing::Certificate(paired) => (
                        format!("the agent `{}` has the identity {expected}", paired.name),
                        format!(
                            "if it was installed anew: `pullback-agent pair` there, then `puller pair CODE --replace {}`; if not, another machine answers in its place",
                            paired.name
                        ),
                    ),
                    Showing::Nothing(_) => (
                        format!("the code is of the agent with the identity {expected}"),
                        "is it another machine's code, or does another machine answer in its place?"
                            .to_owned(),
                    ),
                };
                Fault::new(
                    Kind::Refused,
                    format!("what answers at {address} has the identity {seen}, and {what}"),
                )
                .hint(hint)
            }
            (Some(Error::InvalidCertificate(wrong)), _) => {
                let why = match wrong {
                    CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                        "has expired; or is the clock of this machine wrong?".to_owned()
                    }
                    CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                        "is not valid yet; is the clock of this machine wrong?".to_owned()
                    }
                    wrong => format!("is not one of an agent's ({wrong}), and {expected} was expected"),
                };
                Fault::new(Kind::Refused, format!("the certificate that {address} shows {why}"))
                    .hint("`pullback-agent doctor` there looks at its identity")
            }
            (Some(Error::AlertReceived(alert)), _) => of_alert(*alert, address, &self.showing),
            (Some(Error::InvalidMessage(_)), _) => {
                Fault::new(Kind::Refused, format!("what answers at {address} speaks no TLS"))
                    .hint("is it the agent, or another program? does its configuration say `tls = \"off\"`?")
            }
            (Some(error), _) => {
                Fault::new(Kind::Refused, format!("no TLS 1.3 with what answers at {address}: {error}"))
                    .hint("is it an agent of this release?")
            }
            (None, _) => Fault::new(Kind::Unreachable, format!("{address}: {error}"))
                .hint("is the agent running there?"),
        }
    }
}

/// What an agent said, in the one word that TLS has for it, of what it was shown.
pub fn of_alert(alert: AlertDescription, address: &str, showing: &Showing) -> Fault {
    use AlertDescription as A;
    let refused = |why: String| Fault::new(Kind::Refused, why);
    let Showing::Certificate(paired) = showing else {
        return match alert {
            A::AccessDenied => refused(format!("the agent at {address} has no pairing code open"))
                .hint("`pullback-agent pair` there gives one"),
            alert => refused(format!("the agent at {address} does not want to be paired ({alert:?})"))
                .hint("its log says why"),
        };
    };
    let name = &paired.name;
    let again =
        format!("to pair again: `pullback-agent pair` there, then `puller pair CODE --replace {name}`");
    match alert {
        A::CertificateRevoked => {
            refused(format!("the agent `{name}` has revoked this machine, or has forgotten it")).hint(again)
        }
        A::CertificateExpired => refused(format!(
            "the agent `{name}` does not take this machine's certificate, which holds until {}: it has expired, or the agent's clock is wrong",
            paired.expires_at
        ))
        .hint(again),
        A::UnknownCA | A::BadCertificate | A::DecryptError | A::CertificateUnknown | A::UnsupportedCertificate => {
            let shown = CertificateDer::from_pem_slice(paired.certificate.as_bytes());
            let shown = shown.map_or_else(|_| "that is none".to_owned(), |shown| fingerprint_of(&shown).to_string());
            refused(format!("the agent `{name}` does not know the certificate {shown} of this machine")).hint(again)
        }
        alert => refused(format!("the agent `{name}` broke off ({alert:?})")).hint("its log says why"),
    }
}

/// Takes an agent for the right one if it shows a CA of the expected fingerprint, and a certificate that this CA signed.
#[derive(Debug)]
struct Pinned {
    expected: Fingerprint,
    provider: Arc<CryptoProvider>,
    seen: Arc<Mutex<Option<Fingerprint>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // An agent shows its own certificate, then its CA's.
        let ca = intermediates.last().unwrap_or(end_entity);
        let shown = fingerprint_of(ca);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        if shown != self.expected || intermediates.len() != 1 {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider)).build();
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
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
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
