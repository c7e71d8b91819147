//! TLS as the puller speaks it: with the agent that was paired and no other; and what went wrong with that, as a sentence.

use crate::paired::Paired;
use pullback_shared::agent_verifier::AgentVerifier;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{ALPN_PAIRING, ALPN_SERVICE, Fingerprint, SERVER_NAME};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use std::io;
use std::sync::Arc;

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

/// The name that every agent's certificate has.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("BUG: no name")
}

/// One attempt to speak with an agent: how, and which identity it showed.
pub struct Attempt {
    /// For one connection.
    pub config: Arc<ClientConfig>,
    showing: Showing,
    verifier: Arc<AgentVerifier>,
}

impl Attempt {
    /// An attempt that shows what `showing` says.
    pub fn new(showing: Showing) -> Result<Self, Fault> {
        let verifier = AgentVerifier::new(Some(showing.expected()));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(&[&TLS13]);
        let config = config.map_err(|error| Fault::new(Kind::Internal, error.to_string()))?;
        let config = config.dangerous().with_custom_certificate_verifier(verifier.clone());
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
                let key = PrivateKeyDer::from_pem_slice(paired.key.as_bytes());
                let key = key.map_err(|error| wrong(error.to_string()))?;
                let config = config.with_client_auth_cert(vec![certificate], key);
                (config.map_err(|error| wrong(error.to_string()))?, ALPN_SERVICE)
            }
            Showing::Nothing(_) => (config.with_no_client_auth(), ALPN_PAIRING),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), showing, verifier })
    }

    /// Why a handshake with whoever answers at `address` failed.
    pub fn explain(&self, address: &str, error: &io::Error) -> Fault {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        let expected = self.showing.expected();
        match (tls, self.verifier.shown()) {
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
            let shown = shown.map_or_else(|_| "that is none".to_owned(), |shown| Fingerprint::of(&shown).to_string());
            refused(format!("the agent `{name}` does not know the certificate {shown} of this machine")).hint(again)
        }
        alert => refused(format!("the agent `{name}` broke off ({alert:?})")).hint("its log says why"),
    }
}
