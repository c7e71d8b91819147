//! Who may make which call, asked at each call: a peer that was revoked a moment ago is none, on whatever connection.

use crate::peers::{Peer, Peers};
use crate::refusals::Refusals;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{Fingerprint, Role};
use pullback_shared::text::printable;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument;

/// Who is at the other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caller {
    /// The user this agent runs as: behind the local door, and behind ssh.
    Owner,
    /// Somebody on this machine, such as the end of a tunnel, where TLS is off.
    Tunnel,
    /// Who showed this certificate, which this agent signed.
    Peer(Fingerprint),
    /// Who showed none, and wants to be paired.
    Stranger,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Tunnel => f.write_str("tunnel"),
            Self::Peer(fingerprint) => write!(f, "{fingerprint}"),
            Self::Stranger => f.write_str("stranger"),
        }
    }
}

/// Asks at each call who makes it, before anything of the call is read. A tower layer.
#[derive(Clone)]
pub struct Access {
    peers: Option<Arc<Peers>>,
    refusals: Arc<Refusals>,
    calls: Arc<AtomicU64>,
}

impl Access {
    /// For connections whose caller needs no list of peers.
    pub fn without_peers() -> Self {
        Self { peers: None, refusals: Arc::default(), calls: Arc::default() }
    }

    /// For those that do.
    pub fn for_peers(peers: Arc<Peers>, refusals: Arc<Refusals>) -> Self {
        Self { peers: Some(peers), refusals, calls: Arc::default() }
    }

    /// The peer who calls, if it is one; a fault where it is one no longer.
    fn peer(&self, caller: &Caller) -> Result<Option<Peer>, Fault> {
        match (caller, &self.peers) {
            (Caller::Peer(fingerprint), Some(peers)) => peers.with(fingerprint).map(Some),
            (Caller::Peer(_), None) => Err(Fault::new(Kind::Internal, "no list of peers")),
            _ => Ok(None),
        }
    }
}

/// Whether `caller`, a peer with `role` if it is one, may call `path`.
fn may(caller: &Caller, role: Option<Role>, path: &str) -> Result<(), Fault> {
    let refused = |why: &str, hint: &str| Err(Fault::new(Kind::Refused, why).hint(hint));
    let pair = "`pullback-agent pair` there gives a code, for `puller pair CODE`";
    match (path, caller, role) {
        ("/pullback.v1.Pairing/Pair", Caller::Stranger, _)
        | ("/pullback.v1.Pairing/Invite" | "/pullback.v1.Pullback/Restore", Caller::Owner, _)
        | ("/pullback.v1.Pairing/Unpair", Caller::Peer(_), Some(_))
        | ("/pullback.v1.Pullback/Restore", Caller::Peer(_), Some(Role::Restore)) => Ok(()),
        (_, Caller::Stranger, _) => refused("who is not paired may do nothing but be paired", pair),
        ("/pullback.v1.Pullback/Restore", Caller::Peer(_), _) => refused(
            "this puller was paired to pull, not to restore",
            "`pullback-agent pair --role restore` there gives a code for more; or restore through ssh: `--to ssh://HOST/PATH`",
        ),
        ("/pullback.v1.Pullback/Restore", Caller::Tunnel, _) => refused(
            "an agent without TLS restores nothing: it cannot tell who asks",
            "restore through ssh: `--to ssh://HOST/PATH`; or turn TLS on there, and pair with `--role restore`",
        ),
        (path, ..) if path.starts_with("/pullback.v1.Pairing/") => {
            refused("that is no call for this door", pair)
        }
        (_, Caller::Owner | Caller::Tunnel, _) | (_, Caller::Peer(_), Some(_)) => Ok(()),
        (_, Caller::Peer(_), None) => refused("this puller is no peer", pair),
    }
}

impl<S> Layer<S> for Access {
    type Service = Guarded<S>;

    fn layer(&self, within: S) -> Guarded<S> {
        Guarded { access: self.clone(), within }
    }
}

/// The service within, for those who may.
#[derive(Clone)]
pub struct Guarded<S> {
    access: Access,
    within: S,
}

/// An answer that is to come.
type Coming<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Coming<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.within.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // A connection that says nothing of its caller is nobody's.
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Stranger);
        let number = self.access.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let peer = self.access.peer(&caller);
        let name = match &peer {
            Ok(Some(peer)) => peer.name.clone(),
            _ => caller.to_string(),
        };
        let span = tracing::info_span!("call", request = number, peer = name);
        let path = request.uri().path();
        let checked =
            peer.and_then(|peer| may(&caller, peer.as_ref().map(|peer| peer.role), path).map(|()| peer));
        let path = printable(path, 100);
        match checked {
            Ok(peer) => {
                if let Some(peer) = peer {
                    request.extensions_mut().insert(peer);
                }
                let refusals = self.access.peers.is_some().then(|| Arc::clone(&self.access.refusals));
                let answered = self.within.call(request);
                let answered = async move {
                    let response = answered.await?;
                    if let (Some(refusals), Some(why)) = (refusals, why_not(&response)) {
                        refusals.say(&format!("{path}: {why}"));
                    }
                    Ok(response)
                };
                Box::pin(answered.instrument(span))
            }
            Err(fault) => {
                span.in_scope(|| self.access.refusals.say(&format!("{path}: {fault}")));
                let refused = fault.to_status().into_http();
                Box::pin(std::future::ready(Ok(refused)))
            }
        }
    }
}

/// Why a call is answered with nothing but a fault.
fn why_not(response: &Response<Body>) -> Option<Fault> {
    let status = Status::from_header_map(response.headers())?;
    (status.code() != Code::Ok).then(|| Fault::from_status(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_may_make_its_own_calls_and_no_other() {
        const CALLS: [&str; 7] = [
            "/pullback.v1.Pairing/Pair",
            "/pullback.v1.Pairing/Invite",
            "/pullback.v1.Pairing/Unpair",
            "/pullback.v1.Pullback/Info",
            "/pullback.v1.Pullback/Pull",
            "/pullback.v1.Pullback/Restore",
            "/grpc.health.v1.Health/Check",
        ];
        let peer = || Caller::Peer(Fingerprint([1; 32]));
        for (caller, role, expected) in [
            (Caller::Stranger, None, [1, 0, 0, 0, 0, 0, 0]),
            (Caller::Owner, None, [0, 1, 0, 1, 1, 1, 1]),
            (Caller::Tunnel, None, [0, 0, 0, 1, 1, 0, 1]),
            (peer(), Some(Role::Pull), [0, 0, 1, 1, 1, 0, 1]),
            (peer(), Some(Role::Restore), [0, 0, 1, 1, 1, 1, 1]),
            (peer(), None, [0; 7]),
        ] {
            let found = CALLS.map(|call| u8::from(may(&caller, role, call).is_ok()));
            assert_eq!(found, expected, "{caller:?} {role:?}");
        }
    }
}
