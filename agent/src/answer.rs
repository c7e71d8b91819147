//! `Answer`: who listens at this agent's address: nobody, this agent, or somebody else.

use pullback_shared::agent_verifier::AgentVerifier;
use pullback_shared::identity::{ALPN_SERVICE, Fingerprint, SERVER_NAME};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long whoever listens may take, for each step.
const WAIT: Duration = Duration::from_secs(2);

/// How HTTP/2 begins: the preface, and an empty frame of settings.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The kind of a frame of settings, the first that a server sends, and where its first frame says it.
const SETTINGS: u8 = 4;
const FRAME_HEAD_LEN: usize = 9;

/// Who listens.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nobody, and this agent could.
    Nobody,
    /// This agent.
    Agent,
    /// Another agent, with this identity.
    Other(Fingerprint),
    /// Something that is no agent, or none with this configuration.
    Stranger,
    /// Nobody, and this agent cannot either.
    Unusable(String),
}

impl Answer {
    /// Asks at `listen` for the agent with the identity `expected`; none: for one without TLS.
    pub fn at(listen: SocketAddr, expected: Option<Fingerprint>) -> Self {
        // An address that this machine does not have is somebody else's to ask at.
        let bound = TcpListener::bind(listen).map(drop);
        if let Err(error) = &bound
            && error.kind() == ErrorKind::AddrNotAvailable
        {
            return Self::Unusable(error.to_string());
        }
        let mut near = listen;
        match listen {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => near.set_ip(Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => near.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let Some(mut stream) = connect(near) else {
            return bound.map_or_else(|error| Self::Unusable(error.to_string()), |()| Self::Nobody);
        };
        match expected {
            None if speaks_http2(&mut stream) => Self::Agent,
            None => Self::Stranger,
            Some(expected) => match identity_of(stream) {
                Some(found) if found == expected => Self::Agent,
                Some(found) => Self::Other(found),
                None => Self::Stranger,
            },
        }
    }
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    if address.port() == 0 {
        return None;
    }
    let stream = TcpStream::connect_timeout(&address, WAIT).ok()?;
    stream.set_read_timeout(Some(WAIT)).ok()?;
    stream.set_write_timeout(Some(WAIT)).ok()?;
    Some(stream)
}

fn speaks_http2(stream: &mut TcpStream) -> bool {
    let mut head = [0; FRAME_HEAD_LEN];
    stream.write_all(HTTP2).and_then(|()| stream.read_exact(&mut head)).is_ok() && head[3] == SETTINGS
}

/// The identity that the far end shows and proves to have. No certificate of ours is shown, so nobody gets in by this.
fn identity_of(mut stream: TcpStream) -> Option<Fingerprint> {
    let verifier = AgentVerifier::new(None);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .ok()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier.clone());
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_SERVICE.to_vec()];
    let name = ServerName::try_from(SERVER_NAME).ok()?;
    let mut tls = ClientConnection::new(Arc::new(config), name).ok()?;
    // It leaves as soon as the far end has shown who it is: to go on without a certificate would be refused, and logged there.
    while verifier.proven().is_none() {
        while tls.wants_write() {
            tls.write_tls(&mut stream).ok()?;
        }
        match tls.read_tls(&mut stream) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return None,
        }
        if tls.process_new_packets().is_err() {
            break;
        }
    }
    verifier.proven()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection};

    /// Serves one connection by `how`, and says what is found there.
    fn found(expected: Option<Fingerprint>, how: impl FnOnce(TcpStream) + Send + 'static) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || how(listener.accept().unwrap().0));
        let answer = Answer::at(address, expected);
        server.join().unwrap();
        answer
    }

    fn serve_tls(identity: &Identity) -> impl FnOnce(TcpStream) + Send + use<> {
        let (chain, key) = identity.server();
        serve_chain(chain, key)
    }

    fn serve_chain(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> impl FnOnce(TcpStream) + Send {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![ALPN_SERVICE.to_vec()];
        move |mut stream| {
            let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
            let _ = tls.complete_io(&mut stream);
        }
    }

    #[test]
    fn an_agent_is_known_by_its_identity_and_nobody_else_passes_for_it() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ours = Identity::open_or_make(here.path()).unwrap().0;
        let other = Identity::open_or_make(there.path()).unwrap().0;
        let expected = Some(ours.fingerprint());
        assert_eq!(found(expected, serve_tls(&ours)), Answer::Agent);
        assert_eq!(found(expected, serve_tls(&other)), Answer::Other(other.fingerprint()));
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["www.example".to_owned()]).unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let web = serve_chain(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap());
        assert_eq!(found(expected, web), Answer::Stranger);
        // What an agent shows is there for all to see: who shows its CA behind a certificate of his own is not it.
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone(), ours.ca().clone()];
        let impostor = serve_chain(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap());
        assert_eq!(found(expected, impostor), Answer::Stranger);
        let http1 = |mut stream: TcpStream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        };
        assert_eq!(found(expected, http1), Answer::Stranger);
        assert_eq!(found(None, http1), Answer::Stranger);
        assert_eq!(
            found(None, |mut stream| {
                stream.read_exact(&mut [0; HTTP2.len()]).unwrap();
                stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).unwrap();
            }),
            Answer::Agent
        );
    }

    #[test]
    fn where_nobody_listens_it_is_tried_whether_one_could() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(Answer::at(address, None), Answer::Nobody);
        // An address for documents, which no machine has.
        assert!(matches!(Answer::at("203.0.113.77:7420".parse().unwrap(), None), Answer::Unusable(_)));
    }
}
