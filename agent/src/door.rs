//! The door over TCP: connections are taken, and known, before the first call comes over them.

use crate::access::Caller;
use crate::refusals::Refusals;
use crate::tls::{self, Shown, Tls};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, spawn};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::Instrument;

/// How long a handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// Handshakes at once. With one more the oldest of whoever has the most of them is broken off: an honest one takes a moment, and
/// is not thrown out by a crowd from elsewhere.
const HANDSHAKES_MAX: usize = 64;

/// Connections at once of one peer, and of all who come without TLS. With one more the oldest is closed.
const CONNECTIONS_EACH_MAX: usize = 16;
const CONNECTIONS_PLAIN_MAX: usize = 64;

/// Connections at once of all who want to be paired, and how long each may take.
const PAIRINGS_MAX: usize = 8;
const PAIRING_WAIT: Duration = Duration::from_secs(20);

/// Who was refused may take this long to hear why, and may say this many bytes more.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;

/// After an error that is no connection's own, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that were let in and are not served yet.
const WAITING_MAX: usize = 16;

/// A connection, with who is at its other end.
pub struct Connection<I> {
    io: I,
    caller: Caller,
    place: Option<Place>,
}

impl<I> Connection<I> {
    /// Over `io`, by `caller`, who takes nobody's place.
    pub fn new(io: I, caller: Caller) -> Self {
        Self { io, caller, place: None }
    }

    /// An error where its place is needed. Asked by writing as well: who does not read what it asked for is not read from.
    fn has_place(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(place) = &mut self.place
            && Pin::new(&mut place.closed).poll(cx).is_ready()
        {
            self.place = None;
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "its place is needed"));
        }
        Ok(())
    }
}

/// Connections over TLS to `listener`, by peers and by those who want to be paired.
pub fn with_tls(
    listener: TcpListener,
    tls: Tls,
    refusals: Arc<Refusals>,
) -> ReceiverStream<io::Result<Connection<impl AsyncRead + AsyncWrite + Send + Unpin>>> {
    let (tls, places) = (Arc::new(tls), Arc::new(Places::default()));
    open(listener, Arc::clone(&refusals), move |stream| {
        let (tls, refusals, places) = (Arc::clone(&tls), Arc::clone(&refusals), Arc::clone(&places));
        async move {
            match timeout(HANDSHAKE_WAIT, greet(stream, &tls)).await {
                Ok(Ok((io, shown))) => {
                    let caller = match shown {
                        Shown::Certificate(fingerprint) => Caller::Peer(fingerprint),
                        Shown::Nothing => Caller::Stranger,
                    };
                    Some(Connection { io, caller, place: Some(Places::take(&places, Some(shown))) })
                }
                Ok(Err(why)) => {
                    why.inspect(|why| refusals.say(why));
                    None
                }
                Err(_) => {
                    refusals.say(&format!("it did not finish the handshake within {HANDSHAKE_WAIT:?}"));
                    None
                }
            }
        }
    })
}

/// Connections without TLS, for a listener that nobody but this machine reaches.
pub fn plain(listener: TcpListener) -> ReceiverStream<io::Result<Connection<TcpStream>>> {
    let places = Arc::new(Places::default());
    open(listener, Arc::default(), move |io| {
        let place = Some(Places::take(&places, None));
        async move { Some(Connection { io, caller: Caller::Tunnel, place }) }
    })
}

/// Takes connections until nobody wants them, and gives each a task of its own to become known in.
fn open<I, F>(
    listener: TcpListener,
    refusals: Arc<Refusals>,
    make_known: impl Fn(TcpStream) -> F + Send + 'static,
) -> ReceiverStream<io::Result<Connection<I>>>
where
    I: Send + 'static,
    F: Future<Output = Option<Connection<I>>> + Send + 'static,
{
    let (known, incoming) = mpsc::channel(WAITING_MAX);
    spawn(async move {
        let mut handshakes: Vec<(IpAddr, AbortHandle)> = Vec::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = known.closed() => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    refusals.say(&format!("no connection could be taken: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%from, %error, "small messages may wait");
            }
            handshakes.retain(|(_, handshake)| !handshake.is_finished());
            if handshakes.len() >= HANDSHAKES_MAX {
                let (crowd, oldest) = handshakes.remove(oldest_of_the_most(&handshakes));
                oldest.abort();
                refusals.say(&format!(
                    "too many connections at once that did not finish their handshake: the oldest from {crowd} goes"
                ));
            }
            handshakes.push((neighbour(from.ip()), begin(stream, from, known.clone(), &make_known)));
        }
    });
    ReceiverStream::new(incoming)
}

/// Whoever `from` is counted as: with IPv6 one machine has as many addresses as it likes, and its network one /64.
fn neighbour(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// Where in `list`, which is not empty and has the oldest first, the oldest of those is who are there most often.
fn oldest_of_the_most<T>(list: &[(IpAddr, T)]) -> usize {
    let times = |from: IpAddr| list.iter().filter(|(other, _)| *other == from).count();
    let by_times = list.iter().enumerate().rev().max_by_key(|(_, (from, _))| times(*from));
    by_times.map_or(0, |(at, _)| at)
}

fn begin<I, F>(
    stream: TcpStream,
    from: SocketAddr,
    known: mpsc::Sender<io::Result<Connection<I>>>,
    make_known: &impl Fn(TcpStream) -> F,
) -> AbortHandle
where
    I: Send + 'static,
    F: Future<Output = Option<Connection<I>>> + Send + 'static,
{
    let becoming = make_known(stream).instrument(tracing::info_span!("connection", %from));
    let task = spawn(async move {
        if let Some(connection) = becoming.await {
            // Nobody wants it any more once the server stops.
            let _ = known.send(Ok(connection)).await;
        }
    });
    task.abort_handle()
}

/// The handshake. An error is what the log is to say of it, if anything; who is refused has heard it by then.
async fn greet(
    mut stream: TcpStream,
    tls: &Tls,
) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, Shown), Option<String>> {
    let mut acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), &mut stream);
    let begun = match (&mut acceptor).await {
        Ok(begun) => begun.accepted,
        Err(error) => {
            drop(acceptor);
            farewell(stream).await;
            return Err(tls::why(&error));
        }
    };
    drop(acceptor);
    if begun.client_hello().alpn().is_none() {
        // TLS itself would let it in.
        if let Err(error) = stream.write_all(&tls::NO_APPLICATION_PROTOCOL).await {
            tracing::debug!(%error, "it left before it could be told why");
        }
        farewell(stream).await;
        return Err(Some(tls::NO_ALPN.to_owned()));
    }
    let config = tls.config_for(&begun.client_hello());
    let begun = tokio_rustls::StartHandshake::from_parts(begun, stream);
    match begun.into_stream(config).into_fallible().await {
        Ok(stream) => match tls::shown(stream.get_ref().1) {
            Ok(shown) => Ok((stream, shown)),
            Err(why) => Err(Some(why.to_owned())),
        },
        Err((error, stream)) => {
            farewell(stream).await;
            Err(tls::why(&error))
        }
    }
}

/// Lets the other end read why it was refused: to close while it is still talking would take that away from it.
async fn farewell(mut stream: TcpStream) {
    let heard = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await
    };
    if !matches!(timeout(FAREWELL_WAIT, heard).await, Ok(Ok(_))) {
        tracing::debug!("it may not have heard why");
    }
}

/// Who is connected how often. `None` stands for all who come without TLS.
#[derive(Default)]
struct Places {
    next: AtomicU64,
    taken: Mutex<HashMap<Option<Shown>, VecDeque<Taken>>>,
}

/// A place that is taken: its number, and what closes its connection when it goes.
type Taken = (u64, oneshot::Sender<()>);

impl Places {
    /// A place for one more connection by `who`.
    fn take(places: &Arc<Self>, who: Option<Shown>) -> Place {
        let (close, closed) = oneshot::channel();
        let most = match who {
            Some(Shown::Certificate(_)) => CONNECTIONS_EACH_MAX,
            Some(Shown::Nothing) => PAIRINGS_MAX,
            None => CONNECTIONS_PLAIN_MAX,
        };
        let number = places.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let theirs = taken.entry(who).or_default();
            if theirs.len() >= most && theirs.pop_front().is_some() {
                tracing::debug!("{most} connections are open already: the oldest of them is closed");
            }
            theirs.push_back((number, close));
        }
        if who == Some(Shown::Nothing) {
            let places = Arc::clone(places);
            spawn(async move {
                sleep(PAIRING_WAIT).await;
                places.free(who, number);
            });
        }
        Place { places: Arc::clone(places), who, number, closed }
    }

    fn free(&self, who: Option<Shown>, number: u64) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = taken.get_mut(&who) {
            theirs.retain(|(taken, _)| *taken != number);
            if theirs.is_empty() {
                taken.remove(&who);
            }
        }
    }
}

/// A connection's place among those of the same peer, as long as it is there.
struct Place {
    places: Arc<Places>,
    who: Option<Shown>,
    number: u64,
    closed: oneshot::Receiver<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.free(self.who, self.number);
    }
}

impl<I> Connected for Connection<I> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.has_place(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.has_place(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.has_place(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_most_handshakes_loses_the_oldest_of_them() {
        let ip = |text: &str| neighbour(text.parse().unwrap());
        let list = |from: &[&str]| from.iter().map(|from| (ip(from), ())).collect::<Vec<_>>();
        assert_eq!(oldest_of_the_most(&list(&["10.0.0.1", "10.0.0.2", "10.0.0.2"])), 1);
        assert_eq!(oldest_of_the_most(&list(&["10.0.0.1", "10.0.0.2"])), 0);
        assert_eq!(oldest_of_the_most(&list(&["10.0.0.2", "10.0.0.1", "10.0.0.2", "10.0.0.1"])), 0);
        // Both halves of a double stack, and one machine with two addresses of its network.
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
        assert_eq!(ip("fd00::1"), ip("fd00::dead:beef"));
        assert_ne!(ip("fd00::1"), ip("fd00:0:0:1::1"));
    }

    #[tokio::test]
    async fn a_connection_that_is_only_written_to_goes_when_its_place_is_needed() {
        let places = Arc::new(Places::default());
        let who = Some(Shown::Certificate(pullback_shared::identity::Fingerprint([1; 32])));
        let (io, mut far) = tokio::io::duplex(64);
        let place = Some(Places::take(&places, who));
        let mut oldest = Connection { io, caller: Caller::Tunnel, place };
        oldest.write_all(b"one").await.unwrap();
        let others: Vec<Place> = (0..CONNECTIONS_EACH_MAX).map(|_| Places::take(&places, who)).collect();
        assert_eq!(oldest.write_all(b"two").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        // And one that waits for somebody who does not read.
        let (io, _far) = tokio::io::duplex(1);
        let mut stalled = Connection { io, caller: Caller::Tunnel, place: Some(Places::take(&places, who)) };
        let writing = spawn(async move { stalled.write_all(b"more than there is room for").await });
        tokio::task::yield_now().await;
        let _others: Vec<Place> = (0..CONNECTIONS_EACH_MAX).map(|_| Places::take(&places, who)).collect();
        let written = timeout(HANDSHAKE_WAIT, writing).await.expect("it ends").unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        drop(others);
        let mut read = [0; 3];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one");
    }
}
