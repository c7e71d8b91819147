//! The agent as a server: over TCP for `serve`, over stdin and stdout for `stdio`, over a pipe in memory for the local door.

use crate::access::{Access, Caller};
use crate::codes::Codes;
use crate::config::Config;
use crate::door::{self, Connection};
use crate::identity::Identity;
use crate::invitation;
use crate::pairing::Desk;
use crate::peers::Peers;
use crate::refusals::Refusals;
use crate::service::{Agent, Databases};
use crate::settings::Settings;
use crate::tls::Tls;
use anyhow::Context;
use pullback_shared::STDIO_MAGIC;
use pullback_shared::fault::{Fault, Kind};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tower::layer::util::{Identity as NoLayer, Stack};

/// Bytes of an HTTP/2 frame.
pub const HTTP2_FRAME: u32 = 256 * 1024;

/// Bytes one stream may have in flight.
pub const STREAM_WINDOW: u32 = 8 * 1024 * 1024;

/// Bytes one connection may have in flight.
pub const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Calls at once on one connection.
const STREAMS_MAX: u32 = 16;

/// Calls that a puller may have begun and given up, on one connection, before they were looked at.
const RESET_STREAMS_MAX: usize = 32;

/// Bytes of what a call begins with.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// How long a call may go on before its first answer: longer than any puller waits for one.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(900);

/// After this time a connection takes no more calls; those that go on may end.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A connection over which nothing comes is asked for a sign of life after this time.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long the sign of life may take: it waits behind all that was sent before, and the system alone keeps megabytes for a
/// slow line. A call whose puller is gone ends sooner, by [`crate::call::PULLER_WAIT`].
const KEEPALIVE_WAIT: Duration = Duration::from_secs(600);

/// Running pulls get this long to end after the signal to stop.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// A pull whose puller is gone may fold what it read into its mirror before the program ends.
const FOLD_WAIT: Duration = Duration::from_secs(600);

fn builder(access: Access) -> Server<Stack<Access, NoLayer>> {
    Server::builder()
        .max_frame_size(HTTP2_FRAME)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .http2_max_local_error_reset_streams(Some(RESET_STREAMS_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_WAIT))
        .timeout(FIRST_ANSWER_MAX)
        .max_connection_age(CONNECTION_AGE_MAX)
        .max_connection_age_grace(CONNECTION_AGE_MAX)
        .layer(access)
}

/// What an agent with mutual TLS has besides: who it is, and who may come.
struct Guard {
    identity: Arc<Identity>,
    peers: Arc<Peers>,
    refusals: Arc<Refusals>,
    tls: Tls,
}

impl Guard {
    fn new(config: &Config) -> Result<Self, Fault> {
        let state_dir = config.settings.state_dir.as_deref();
        let state_dir = state_dir.ok_or_else(|| Fault::new(Kind::Internal, "no state directory"))?;
        let identity = Arc::new(Identity::open(state_dir)?);
        let peers = Arc::new(Peers::of(identity.dir()));
        // A list that cannot be read would refuse everybody, one by one.
        peers.all()?;
        let refusals = Arc::new(Refusals::default());
        let codes = Codes::of(identity.dir());
        let tls = Tls::new(&identity, Arc::clone(&peers), codes, Arc::clone(&refusals))?;
        tracing::info!(identity = %identity.fingerprint(), "mutual TLS");
        Ok(Self { identity, peers, refusals, tls })
    }
}

/// An agent that has all it needs to serve, and listens to nobody yet.
pub struct Ready {
    config: Config,
    guard: Option<Guard>,
}

impl Ready {
    /// One that works as `config` says; a fault where it has no identity, or a list of peers that cannot be read.
    pub fn new(config: Config) -> Result<Self, Fault> {
        let guard = config.tls.then(|| Guard::new(&config)).transpose()?;
        Ok(Self { config, guard })
    }

    /// Serves on `listener` until `stop` is done; then running pulls have a few seconds to end.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), Fault> {
        let Self { config, guard } = self;
        make_state_dir(&config.settings);
        let access = guard.as_ref().map_or_else(Access::without_peers, |guard| {
            Access::for_peers(Arc::clone(&guard.peers), Arc::clone(&guard.refusals))
        });
        let desk = guard.as_ref().map(|guard| {
            let databases = config.databases.keys().cloned().collect();
            let Guard { identity, peers, refusals, .. } = guard;
            Desk::open(Arc::clone(identity), Arc::clone(peers), Arc::clone(refusals), databases).into_server()
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        let agent =
            Agent::new(config.settings, Databases::Named(config.databases), config.pulls_max).into_server();
        health.set_serving::<pullback_shared::pb::pullback_server::PullbackServer<Agent>>().await;
        let reflection = config.reflection.then(|| {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pullback_shared::pb::DESCRIPTOR)
                .build_v1()
        });
        let internal = |error: tonic_reflection::server::Error| Fault::new(Kind::Internal, error.to_string());
        let router = builder(access)
            .add_service(agent)
            .add_service(health_service)
            .add_optional_service(reflection.transpose().map_err(internal)?)
            .add_optional_service(desk);
        match guard {
            Some(Guard { tls, refusals, .. }) => {
                run(router, door::with_tls(listener, tls, refusals), stop).await
            }
            None => run(router, door::plain(listener), stop).await,
        }
    }
}

/// Serves those who come in, until `stop` is done.
async fn run<I>(
    router: tonic::transport::server::Router<Stack<Access, NoLayer>>,
    incoming: impl Stream<Item = io::Result<Connection<I>>> + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Fault>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (stopping, stopped) = oneshot::channel::<()>();
    let server = router.serve_with_incoming_shutdown(incoming, async move {
        stop.await;
        let _ = stopping.send(());
    });
    let limit = async move {
        match stopped.await {
            Ok(()) => tokio::time::sleep(STOP_WAIT).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        served = server => served.map_err(|error| Fault::new(Kind::Io, format!("serving: {error}"))),
        () = limit => Ok(()),
    }
}

fn make_state_dir(settings: &Settings) {
    use std::os::unix::fs::DirBuilderExt;
    let Some(state_dir) = &settings.state_dir else { return };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    if let Err(error) = made {
        // State is a cache. Without one, each pull says that it worked without its mirror, and why.
        tracing::warn!(dir = %state_dir.display(), %error, "there is no state directory, and so no mirror");
    }
}

/// Serves one connection over stdin and stdout, until stdin ends: the ssh door. Where every database may be named, codes for
/// pairing may be asked for as well.
pub async fn serve_stdio(config: Config, databases: Databases) -> anyhow::Result<()> {
    make_state_dir(&config.settings);
    let (ending, ended) = oneshot::channel();
    let mut stdio = Stdio { input: stdin()?, output: stdout()?, ending: Some(ending) };
    stdio.output.write_all(STDIO_MAGIC).await?;
    stdio.output.flush().await?;
    let pulls_max = config.pulls_max;
    let agent = Agent::new(config.settings.clone(), databases.clone(), pulls_max);
    let desk = matches!(databases, Databases::ByPath).then(|| {
        let invite = move |role, ttl| invitation::over_ssh(&config, role, ttl);
        Desk::inviting(Arc::new(invite)).into_server()
    });
    let once = Ok::<_, io::Error>(Connection::new(stdio, Caller::Owner));
    let once = tokio_stream::once(once).chain(tokio_stream::pending());
    let stop = async move {
        // Either way there is nobody left to serve.
        let _ = ended.await;
    };
    let access = Access::without_peers();
    let server = builder(access).add_service(agent.clone().into_server()).add_optional_service(desk);
    let served = server.serve_with_incoming_shutdown(once, stop).await;
    agent.idle(pulls_max, FOLD_WAIT).await;
    served.context("serving")
}

/// sshd hands over pipes, and those are asked directly: through tokio's own stdin and stdout bytes take 2.6 times as long.
fn stdin() -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    let handle: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(match pipe::Receiver::from_owned_fd(handle) {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(tokio::io::stdin()),
    })
}

fn stdout() -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    let handle: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(match pipe::Sender::from_owned_fd(handle) {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(tokio::io::stdout()),
    })
}

/// Both as one connection. Its end, and that of what is read, is told through `ending`.
struct Stdio {
    input: Box<dyn AsyncRead + Send + Unpin>,
    output: Box<dyn AsyncWrite + Send + Unpin>,
    ending: Option<oneshot::Sender<()>>,
}

impl AsyncRead for Stdio {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.input).poll_read(cx, buf);
        let is_over = matches!(&polled, Poll::Ready(read) if read.is_err() || buf.filled().len() == before);
        if is_over && let Some(ending) = self.ending.take() {
            // It listens until this is dropped.
            let _ = ending.send(());
        }
        polled
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Poller<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.output).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_shutdown(cx)
    }
}

/// Serves one connection over `pipe`, by path, without state: the local door.
pub async fn serve_local(pipe: DuplexStream) -> Result<(), tonic::transport::Error> {
    let agent = Agent::new(Settings::local(), Databases::ByPath, STREAMS_MAX as usize).into_server();
    let once = Ok::<_, io::Error>(Connection::new(pipe, Caller::Owner));
    let once = tokio_stream::once(once).chain(tokio_stream::pending());
    builder(Access::without_peers())
        .add_service(agent)
        .serve_with_incoming_shutdown(once, std::future::pending())
        .await
}
