//! The agent as a server: over TCP for `serve`, over a pipe in memory for the local door.

use crate::config::Config;
use crate::service::{Agent, Databases};
use crate::settings::Settings;
use anyhow::Context;
use std::future::Future;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Bytes of an HTTP/2 frame.
pub const HTTP2_FRAME: u32 = 256 * 1024;

/// Bytes one stream may have in flight.
pub const STREAM_WINDOW: u32 = 8 * 1024 * 1024;

/// Bytes one connection may have in flight.
pub const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Calls at once on one connection.
const STREAMS_MAX: u32 = 16;

/// A connection over which nothing comes is asked for a sign of life after this time.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long the sign of life may take: it waits behind all that was sent before, and the system alone keeps megabytes for a
/// slow line. A call whose puller is gone ends sooner, by [`crate::call::PULLER_WAIT`].
const KEEPALIVE_WAIT: Duration = Duration::from_secs(600);

/// Running pulls get this long to end after the signal to stop.
const STOP_WAIT: Duration = Duration::from_secs(5);

fn builder() -> Server {
    Server::builder()
        .max_frame_size(HTTP2_FRAME)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_WAIT))
}

/// Serves `config` on `listener` until `stop` is done; then running pulls have a few seconds to end.
pub async fn serve(
    config: Config,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    if let Some(state_dir) = &config.settings.state_dir {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
        if let Err(error) = made {
            // State is a cache. Without one, each pull says that it worked without its mirror, and why.
            tracing::warn!(dir = %state_dir.display(), %error, "there is no state directory, and so no mirror");
        }
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    let agent =
        Agent::new(config.settings, Databases::Named(config.databases), config.pulls_max).into_server();
    health.set_serving::<pullback_shared::pb::pullback_server::PullbackServer<Agent>>().await;
    let reflection = config.reflection.then(|| {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pullback_shared::pb::DESCRIPTOR)
            .build_v1()
    });
    let router = builder()
        .add_service(agent)
        .add_service(health_service)
        .add_optional_service(reflection.transpose()?);
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    // Said here: what a builder says of sockets does not reach those of a listener that is handed over.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
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
        served = server => served.context("serving"),
        () = limit => Ok(()),
    }
}

/// Serves one connection over `pipe`, by path, without state: the local door.
pub async fn serve_local(pipe: DuplexStream) -> Result<(), tonic::transport::Error> {
    let agent = Agent::new(Settings::local(), Databases::ByPath, STREAMS_MAX as usize).into_server();
    let once = tokio_stream::once(Ok::<_, std::io::Error>(pipe)).chain(tokio_stream::pending());
    builder().add_service(agent).serve_with_incoming_shutdown(once, std::future::pending()).await
}
