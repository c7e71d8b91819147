//! `AgentVerifier`: whether what a server shows while TLS begins is an agent's identity, and which.

use crate::identity::{Fingerprint, WRITTEN_AT};
use core::time::Duration;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::{Arc, Mutex, PoisonError};

/// Takes a server for an agent if it shows its own certificate and then a CA's that signed it, and has the key. For one
/// connection: it remembers what was shown.
#[derive(Debug)]
pub struct AgentVerifier {
    expected: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    shown: Option<Fingerprint>,
    is_proven: bool,
}

impl AgentVerifier {
    /// For the agent with the identity `expected`, which must hold now; or for any agent, whose identity is asked and not
    /// whether it holds still.
    pub fn new(expected: Option<Fingerprint>) -> Arc<Self> {
        Arc::new(Self { expected, provider: Arc::new(ring::default_provider()), seen: Mutex::default() })
    }

    /// The identity that was shown, whoever did: it is there for all to see.
    pub fn shown(&self) -> Option<Fingerprint> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).shown
    }

    /// The identity of the server, which has proven that it is its own.
    pub fn proven(&self) -> Option<Fingerprint> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.shown.filter(|_| seen.is_proven)
    }
}

impl ServerCertVerifier for AgentVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates.last().unwrap_or(end_entity);
        let shown = Fingerprint::of(ca);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).shown = Some(shown);
        if self.expected.is_some_and(|expected| expected != shown) || intermediates.len() != 1 {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider));
        let signed = signed.build().map_err(|error| Error::General(error.to_string()))?;
        let at = match self.expected {
            Some(_) => now,
            None => UnixTime::since_unix_epoch(Duration::from_secs(WRITTEN_AT.unsigned_abs())),
        };
        signed.verify_server_cert(end_entity, &[], server_name, ocsp_response, at)
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
        let valid = verify_tls13_signature(message, certificate, signed, algorithms)?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_proven = true;
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
