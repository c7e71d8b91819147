//! The way to an agent over TCP: which of its addresses leads there, and one HTTP/2 connection over whatever was found.

use crate::tls::{Attempt, Showing, of_alert, server_name};
use hyper_util::rt::TokioIo;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// How long an agent is waited for to take a connection and to answer for the first time.
pub const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(4);

/// Between the first tries of two addresses of one agent: on most days the first is the right one.
const STAGGER: Duration = Duration::from_millis(250);

/// TCP to `host`, which must be this machine: what is not within TLS goes no further.
pub async fn plain(host: &str, port: u16) -> Result<TcpStream, Fault> {
    let shown = printable(host, 200);
    let unreachable = |why: String| {
        let shown = if host.contains(':') { format!("[{shown}]") } else { shown.clone() };
        Fault::new(Kind::Unreachable, format!("the agent at {shown}:{port} cannot be reached: {why}"))
            .hint("is `pullback-agent serve` running there, and is this its address?")
    };
    let addresses = found((host.to_owned(), port)).await.map_err(unreachable)?;
    if let Some(open) = addresses.iter().find(|address| !address.ip().is_loopback()) {
        let is = match open.ip().to_string() {
            ip if ip == shown => format!("{shown} is another machine"),
            ip => format!("{shown} is {ip}, another machine"),
        };
        return Err(Fault::new(
            Kind::Refused,
            format!("{is}, and this one is not paired with an agent at {shown}:{port}"),
        )
        .hint("`pullback-agent pair` there gives a code, for `puller pair CODE` here; or pull through ssh, as HOST:PATH"));
    }
    connected(&addresses).await.map_err(unreachable)
}

/// The addresses of `name`. Who looks is a thread of its own: a runtime would wait at its end for a resolver that says nothing,
/// long after another address has led to the agent.
async fn found(name: impl ToSocketAddrs + Send + 'static) -> Result<Vec<SocketAddr>, String> {
    let (say, said) = oneshot::channel();
    // Nobody listens any more where that took too long.
    std::thread::spawn(move || say.send(name.to_socket_addrs().map(Iterator::collect)));
    match timeout(FIRST_ANSWER_WAIT, said).await {
        Ok(Ok(Ok(addresses))) => Ok(addresses),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) | Err(_) => Err("its name is not found in time".to_owned()),
    }
}

async fn connected(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    match timeout(FIRST_ANSWER_WAIT, first_connected(addresses)).await {
        Ok(Ok(stream)) => {
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            Ok(stream)
        }
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer within {} s", FIRST_ANSWER_WAIT.as_secs())),
    }
}

/// To the first of `addresses` that takes a connection. One name may have an address of IPv6 that leads nowhere from here, and
/// one of IPv4 that does.
async fn first_connected(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let (mut tries, mut rest) = (JoinSet::new(), addresses.iter().copied());
    let mut why = "its name has no address".to_owned();
    loop {
        let next = rest.next();
        if let Some(address) = next {
            tries.spawn(TcpStream::connect(address));
        }
        let tried = match next {
            Some(_) => match timeout(STAGGER, tries.join_next()).await {
                Ok(tried) => tried,
                Err(_) => continue,
            },
            None => tries.join_next().await,
        };
        match tried {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => why = error.to_string(),
            Some(Err(error)) => why = error.to_string(),
            None => return Err(why),
        }
    }
}

/// TLS to the agent that `showing` means, by the first of `addresses` (`HOST:PORT`) that leads to it.
pub async fn agent(
    addresses: &[String],
    showing: &Showing,
) -> Result<(TlsStream<Counted<TcpStream>>, Line), Fault> {
    let mut tries = JoinSet::new();
    for (number, address) in (0..).zip(addresses) {
        let (address, showing) = (address.clone(), showing.clone());
        tries.spawn(async move {
            sleep(STAGGER * number).await;
            attempt(&address, showing).await
        });
    }
    let mut faults = Vec::new();
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(fault)) => faults.push(fault),
            Err(error) => faults.push(Fault::new(Kind::Internal, format!("a try ended: {error}"))),
        }
    }
    // Somebody who answers and is another one is news; an address of last month's network that nobody answers at is none.
    let worst = faults.iter().position(|fault| fault.kind != Kind::Unreachable);
    match worst {
        Some(at) => Err(faults.swap_remove(at)),
        None if faults.is_empty() => Err(Fault::new(Kind::Unreachable, "no address of the agent is known")
            .hint("name one with `--address HOST:PORT` when you pair")),
        None => {
            let why: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
            Err(Fault::new(Kind::Unreachable, format!("no agent answers: {}", why.join("; ")))
                .hint("is it on, and in this network? does `systemctl status 'pullback-agent@*'` there say that it runs?"))
        }
    }
}

async fn attempt(address: &str, showing: Showing) -> Result<(TlsStream<Counted<TcpStream>>, Line), Fault> {
    let shown = printable(address, 260);
    let unreachable = |why: String| Fault::new(Kind::Unreachable, format!("{shown}: {why}"));
    let addresses = found(address.to_owned()).await.map_err(unreachable)?;
    let stream = connected(&addresses).await.map_err(unreachable)?;
    let line = Line { tls: Some(Arc::new((showing.clone(), shown.clone()))), ..Line::default() };
    let stream = line.count(stream);
    let attempt = Attempt::new(showing)?;
    let connector = TlsConnector::from(Arc::clone(&attempt.config));
    match timeout(FIRST_ANSWER_WAIT, connector.connect(server_name(), stream)).await {
        Ok(Ok(stream)) => {
            let (sent, received) = (line.bytes_sent(), line.bytes_received());
            tracing::info!(address = shown, sent, received, "the handshake is done");
            Ok((stream, line))
        }
        Ok(Err(error)) => Err(attempt.explain(&shown, &error)),
        Err(_) => Err(unreachable("it took the connection and said nothing".to_owned())),
    }
}

/// What is known of a connection while it goes on.
#[derive(Clone, Default)]
pub struct Line {
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    heard: Arc<Mutex<Option<Fault>>>,
    tls: Option<Arc<(Showing, String)>>,
}

impl Line {
    /// `io`, with its bytes counted here.
    pub fn count<I>(&self, io: I) -> Counted<I> {
        Counted { io, line: self.clone() }
    }

    /// Bytes received so far, everything counted.
    pub fn bytes_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes sent so far, everything counted.
    pub fn bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// `fault`; or what the far end itself said of why there is no connection, where all that is known is that there is none.
    pub fn explain(&self, fault: Fault) -> Fault {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match fault.kind {
            Kind::Lost | Kind::Unreachable => heard.unwrap_or(fault),
            _ => fault,
        }
    }

    fn hear(&self, fault: Fault) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }
}

/// One HTTP/2 connection over `io`, which is `line`. There is never a second one: the connector gives its stream once.
pub async fn channel<I>(endpoint: Endpoint, io: I, line: Line) -> Result<Channel, Fault>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut once = Some(Heard { io, line: line.clone(), has_begun: false });
    let connector = tower::service_fn(move |_| {
        let io = once.take().map(TokioIo::new).ok_or_else(|| io::Error::other("the connection is gone"));
        async move { io }
    });
    let connecting = timeout(FIRST_ANSWER_WAIT, endpoint.connect_with_connector(connector)).await;
    let unreachable = |why: String| {
        line.explain(Fault::new(Kind::Unreachable, format!("the agent cannot be talked to: {why}")))
    };
    connecting
        .map_err(|_| unreachable("no answer".to_owned()))?
        .map_err(|error| unreachable(error.to_string()))
}

/// The first bytes of what TLS sends to somebody who speaks none.
const TLS_ALERT: [u8; 2] = [21, 3];

/// Hears what the far end's TLS has to say.
struct Heard<I> {
    io: I,
    line: Line,
    has_begun: bool,
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let came = &buf.filled()[before..];
        match (&polled, &self.line.tls) {
            (Poll::Ready(Err(error)), Some(tls)) => {
                let said = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
                if let Some(rustls::Error::AlertReceived(alert)) = said {
                    self.line.hear(of_alert(*alert, &tls.1, &tls.0));
                }
            }
            (Poll::Ready(Ok(())), None) if !self.has_begun && came.starts_with(&TLS_ALERT) => {
                self.line.hear(
                    Fault::new(
                        Kind::Refused,
                        "the agent there speaks TLS, and this machine is not paired with it",
                    )
                    .hint("`pullback-agent pair` there gives a code, for `puller pair CODE` here"),
                );
            }
            _ => {}
        }
        self.has_begun |= !came.is_empty();
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Counts what goes through a connection, both ways.
pub struct Counted<I> {
    io: I,
    line: Line,
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.line.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &polled {
            self.line.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    // What TLS says last, such as why it breaks off, is in the last of several buffers.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = &polled {
            self.line.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    #[tokio::test]
    async fn an_address_that_leads_nowhere_hides_no_other_of_its_name() {
        let full = TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(1).unwrap();
        let nowhere = full.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(taken) = timeout(STAGGER, TcpStream::connect(nowhere)).await {
            waiting.push(taken.unwrap());
        }
        let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = agent.local_addr().unwrap();
        let stream = connected(&[nowhere, there]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        let nobody = connected(&[nowhere]).await.err().unwrap();
        assert!(nobody.contains("no answer within"), "{nobody}");
        assert!(connected(&[]).await.is_err());
    }

    /// A name whose resolver says nothing.
    struct Hangs;

    impl ToSocketAddrs for Hangs {
        type Iter = std::vec::IntoIter<SocketAddr>;

        fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
            std::thread::sleep(Duration::from_secs(60));
            Ok(Vec::new().into_iter())
        }
    }

    #[test]
    fn a_name_that_is_looked_for_in_vain_holds_nobody_up_at_the_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let found = runtime.block_on(found(Hangs));
            drop(runtime);
            tell.send(found)
        });
        let found = told.recv_timeout(FIRST_ANSWER_WAIT * 3).unwrap();
        assert_eq!(found, Err("its name is not found in time".to_owned()));
    }
}
