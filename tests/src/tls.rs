//! TLS of the tests' own: certificates that say what a test wants, a client that shows any of them and speaks any protocol,
//! and gRPC calls over it, as somebody who has no puller would make them.

use hyper_util::rt::TokioIo;
use prost::Message;
use pullback_shared::pb;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

/// The name in an agent's certificate.
pub const SERVER_NAME: &str = "agent.pullback.invalid";

/// How long the far end may take to say what it makes of a greeting.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// What a client of HTTP/2 says first, and its empty settings.
pub const HTTP2_BEGINS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A certificate with its key, and what is shown beside it.
pub struct Shown {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Shown after it.
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Shown {
    /// The same, shown with nothing beside it.
    pub fn alone(self) -> Self {
        Self { chain: Vec::new(), ..self }
    }

    /// In PEM: the certificate, and its key.
    pub fn pem(&self) -> (String, String) {
        let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in data_encoding::BASE64.encode(&self.certificate).as_bytes().chunks(64) {
            text += str::from_utf8(line).expect("Base64 is text");
            text.push('\n');
        }
        (text + "-----END CERTIFICATE-----\n", self.key.serialize_pem())
    }

    /// All that is shown, and the key, as rustls takes them.
    pub fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let shown = [self.certificate.clone()].into_iter().chain(self.chain.iter().cloned());
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key is one");
        (shown.collect(), key)
    }
}

/// What a certificate says, where a test does not say otherwise: that it is for a client called `name`, and holds.
pub fn client(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// The same for a server with the name of every agent's.
pub fn server() -> CertificateParams {
    let mut params = client("Pullback agent");
    let named = CertificateParams::new(vec![SERVER_NAME.to_owned()]).expect("that is a name");
    params.subject_alt_names = named.subject_alt_names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// A certificate that its own key signed.
pub fn self_signed(params: &CertificateParams) -> Shown {
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.self_signed(&key).expect("a certificate can be signed").der().clone();
    Shown { certificate, chain: Vec::new(), key }
}

/// What signs certificates.
pub struct Authority {
    /// Its own certificate.
    pub certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The one of the agent whose state is in `state`: what the machine has that an agent's keys were stolen from.
    pub fn of_agent(state: &Path) -> Self {
        let text = |name: &str| {
            fs::read_to_string(state.join("identity").join(name)).expect("an agent has an identity")
        };
        let key = KeyPair::from_pem(&text("ca.key")).expect("that is a key");
        let pem = text("ca.pem");
        let issuer = Issuer::from_ca_cert_pem(&pem, key).expect("that is a CA");
        Self { certificate: from_pem(&pem), issuer }
    }

    /// A new one that is called as every agent's is.
    pub fn foreign() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = client("Pullback agent CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages.clear();
        let certificate = params.self_signed(&key).expect("a certificate can be signed").der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate that says `params`, shown with this authority's own beside it.
    pub fn certify(&self, params: &CertificateParams) -> Shown {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        Shown { certificate: certificate.der().clone(), chain: vec![self.certificate.clone()], key }
    }
}

/// The certificate in a text of PEM.
pub fn from_pem(text: &str) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(text.as_bytes()).expect("that is a certificate")
}

/// How a client of TLS begins.
pub struct Greeting {
    /// The protocols it offers to speak.
    pub alpn: Vec<&'static str>,
    /// The certificate it shows, if any, and the key it signs with.
    pub shows: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Whether TLS 1.2 is the newest it speaks.
    pub is_old: bool,
}

impl Greeting {
    /// TLS 1.3, HTTP/2, and `shown`.
    pub fn with(shown: &Shown) -> Self {
        Self { shows: Some(shown.parts()), ..Self::without() }
    }

    /// The same without any certificate.
    pub fn without() -> Self {
        Self { alpn: vec!["h2"], shows: None, is_old: false }
    }

    /// As one who wants to be paired begins.
    pub fn to_pair() -> Self {
        Self { alpn: vec!["pullback-pair/1"], ..Self::without() }
    }

    /// The same as rustls takes it.
    pub fn config(&self) -> ClientConfig {
        let provider = Arc::new(ring::default_provider());
        let anyone = Arc::new(Anyone(Arc::clone(&provider)));
        let version = if self.is_old { &TLS12 } else { &TLS13 };
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let config = config.expect("these versions are spoken").dangerous();
        let config = config.with_custom_certificate_verifier(anyone);
        let mut config = match &self.shows {
            // Whether they belong together or not.
            Some((chain, key)) => {
                let key = ring::sign::any_supported_type(key).expect("a key can be used");
                config.with_client_cert_resolver(Arc::new(Always(Arc::new(CertifiedKey::new(
                    chain.clone(),
                    key,
                )))))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|word| word.as_bytes().to_vec()).collect();
        config.enable_early_data = true;
        config
    }
}

/// A client that was let in, as TLS sees it.
pub struct LetIn {
    /// Tickets that came, for a handshake that shows less.
    pub tickets: u32,
    /// Whether the far end takes data before its handshake is over.
    pub early_data: bool,
}

/// Greets whoever listens at `address`; an error is the alert it got, such as `CertificateExpired`, or how it ended without.
pub fn greet(address: &str, greeting: &Greeting) -> Result<LetIn, String> {
    let stream = TcpStream::connect(address).expect("somebody listens there");
    stream.set_read_timeout(Some(ANSWER_WAIT)).expect("a wait can be limited");
    let name = ServerName::try_from(SERVER_NAME).expect("that is a name");
    let connection = ClientConnection::new(Arc::new(greeting.config()), name).expect("that is a client");
    let mut tls = StreamOwned::new(connection, stream);
    // With TLS 1.3 a client hears only after its own part what became of its certificate.
    let said = tls.write_all(HTTP2_BEGINS).and_then(|()| tls.flush());
    let mut first = [0; 9];
    let heard = said.and_then(|()| tls.read_exact(&mut first));
    let early_data = tls.conn.early_data().is_some();
    heard.map(|()| LetIn { tickets: tls.conn.tls13_tickets_received(), early_data }).map_err(|e| word_of(&e))
}

fn word_of(error: &io::Error) -> String {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => format!("{alert:?}"),
        _ => error.to_string(),
    }
}

/// Says `bytes` to whoever listens at `address`, without any TLS, and gives what comes back until it hangs up.
pub fn say(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("somebody listens there");
    stream.set_read_timeout(Some(ANSWER_WAIT)).expect("a wait can be limited");
    stream.write_all(bytes).expect("something can be said");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("whoever refuses hangs up");
    heard
}

/// A gRPC connection over TLS.
pub struct Line {
    runtime: Runtime,
    channel: Channel,
}

/// Why a call was refused: the `Fault` that its status carries, and its status.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Such as `refused`; empty where the status carries no fault.
    pub code: String,
    /// The sentence.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Line {
    /// Greets whoever listens at `address`, and goes on with HTTP/2.
    pub fn open(address: &str, greeting: &Greeting) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("there is a runtime");
        let connector = TlsConnector::from(Arc::new(greeting.config()));
        let (address, name) =
            (address.to_owned(), ServerName::try_from(SERVER_NAME).expect("that is a name"));
        let channel = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("somebody listens there");
            stream.set_nodelay(true).expect("small words can be sent at once");
            let mut once = Some(connector.connect(name, stream).await.expect("the handshake succeeds"));
            let once = tower::service_fn(move |_| {
                let stream = once.take().map(TokioIo::new);
                async move { stream.ok_or_else(|| io::Error::other("the connection is gone")) }
            });
            let endpoint = Endpoint::from_static("http://pullback.invalid");
            endpoint.connect_with_connector(once).await.expect("HTTP/2 is spoken")
        });
        Self { runtime, channel }
    }

    /// Calls `path`, such as `/pullback.v1.Pullback/Info`, with one message, and waits for the one that answers.
    pub fn call<M, R>(&self, path: &'static str, message: M) -> Result<R, Refused>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        let codec = tonic_prost::ProstCodec::<M, R>::default();
        let answer = self.runtime.block_on(async {
            let called = async {
                grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
                grpc.unary(tonic::Request::new(message), PathAndQuery::from_static(path), codec).await
            };
            tokio::time::timeout(ANSWER_WAIT, called).await.expect("a call is answered")
        });
        answer.map(tonic::Response::into_inner).map_err(|status| {
            let fault = pb::Fault::decode(status.details()).unwrap_or_default();
            let message = if fault.code.is_empty() { status.to_string() } else { fault.message };
            Refused { code: fault.code, message, hint: fault.hint }
        })
    }
}

/// What begins a pull of the database called `name`, and would a restore.
pub fn begin(name: &str) -> pb::PullRequest {
    let start = pb::Start { protocol: 1, database: name.to_owned(), ..pb::Start::default() };
    pb::PullRequest { is: Some(pb::pull_request::Is::Start(start)) }
}

/// What a pairing code holds.
pub struct Code(pb::PairingCode);

impl Deref for Code {
    type Target = pb::PairingCode;

    fn deref(&self) -> &pb::PairingCode {
        &self.0
    }
}

impl Code {
    /// Reads what `pullback-agent pair` printed: a version, this message, and four bytes against typing errors.
    pub fn read(printed: &str) -> Self {
        let bytes = data_encoding::BASE32_NOPAD_NOCASE.decode(printed.trim().as_bytes());
        let bytes = bytes.expect("a code is base32");
        Self(pb::PairingCode::decode(&bytes[1..bytes.len() - 4]).expect("a code is a message"))
    }

    /// A request with this code, for a certificate for a new key.
    pub fn request(&self, name: &str) -> pb::PairRequest {
        self.request_for(name, &client(name)).0
    }

    /// The same where the certificate is asked to say `params`; and the key.
    pub fn request_for(&self, name: &str, params: &CertificateParams) -> (pb::PairRequest, KeyPair) {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = params.clone();
        params.use_authority_key_identifier_extension = false;
        let request = params.serialize_request(&key).expect("a certificate can be asked for");
        let request = pb::PairRequest {
            protocol: 1,
            code_id: self.id.clone(),
            secret: self.secret.clone(),
            certificate_request: request.der().to_vec().into(),
            name: name.to_owned(),
        };
        (request, key)
    }
}

/// Somebody who takes an agent's place: ends TLS with what it has, for whatever protocol, and keeps what it is told.
pub struct Man {
    address: String,
    connections: Arc<AtomicUsize>,
    told: Arc<Mutex<Vec<u8>>>,
}

impl Man {
    /// One who shows `chain`, and has `key`, whether they belong together or not.
    pub fn showing(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'static>) -> Self {
        let key = ring::sign::any_supported_type(key).expect("a key can be used");
        let shown = Arc::new(Always(Arc::new(CertifiedKey::new(chain, key))));
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("TLS is spoken").with_no_client_auth();
        let mut config = config.with_cert_resolver(shown);
        config.alpn_protocols = vec![b"pullback-pair/1".to_vec(), b"h2".to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address").to_string();
        let (connections, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counted, heard) = (Arc::clone(&connections), Arc::clone(&told));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                let connection = ServerConnection::new(Arc::clone(&config)).expect("that is a server");
                let mut tls = StreamOwned::new(connection, stream);
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = tls.read(&mut buffer) {
                    heard.lock().expect("nobody panicked").extend_from_slice(&buffer[..read]);
                }
            }
        });
        Self { address, connections, told }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Who came.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// All that was said to it within TLS.
    pub fn told(&self) -> Vec<u8> {
        self.told.lock().expect("nobody panicked").clone()
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any server for the right one: what is looked at is what that server makes of its client.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
