//! The `Pairing` service: a machine that was given a code becomes a peer, and a peer stops being one.

use crate::codes::Codes;
use crate::identity::Identity;
use crate::peers::{Peer, Peers};
use crate::refusals::Refusals;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::Role;
use pullback_shared::pairing::Secret;
use pullback_shared::pb;
use pullback_shared::pb::pairing_server::{Pairing, PairingServer};
use pullback_shared::wire::check_protocol;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Bytes of a message, at most: a request for a certificate has some 300.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Makes a code for a role that holds for a time, as text.
pub type Invite = Arc<dyn Fn(Role, Duration) -> Result<String, Fault> + Send + Sync>;

/// Where machines become peers.
#[derive(Clone)]
pub struct Desk {
    is: Is,
}

#[derive(Clone)]
enum Is {
    /// Over the network: codes are taken.
    Open { identity: Arc<Identity>, peers: Arc<Peers>, refusals: Arc<Refusals>, databases: Arc<Vec<String>> },
    /// Behind ssh: codes are given.
    Inviting(Invite),
}

impl Desk {
    /// One that takes codes, for an agent that serves `databases`.
    pub fn open(
        identity: Arc<Identity>,
        peers: Arc<Peers>,
        refusals: Arc<Refusals>,
        databases: Vec<String>,
    ) -> Self {
        Self { is: Is::Open { identity, peers, refusals, databases: Arc::new(databases) } }
    }

    /// One that gives codes to whoever logged in.
    pub fn inviting(invite: Invite) -> Self {
        Self { is: Is::Inviting(invite) }
    }

    /// As a tonic service, its message sizes limited.
    pub fn into_server(self) -> PairingServer<Self> {
        PairingServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn pair_now(&self, request: &pb::PairRequest) -> Result<pb::PairReply, Fault> {
        let Is::Open { identity, peers, refusals, databases } = &self.is else { return Err(no_such_call()) };
        check_protocol(request.protocol, "the puller")?;
        let broken =
            || Fault::new(Kind::Protocol, "the puller broke the protocol: a code without its name or secret");
        let id = (*request.code_id).try_into().map_err(|_| broken())?;
        let secret = Secret::from_bytes(&request.secret).ok_or_else(broken)?;
        // A request that makes no sense is to cost the code nothing.
        identity.certify(&request.certificate_request, "unsigned")?;
        // Where files lie is told to nobody who is no peer yet.
        let to_stranger = |fault: Fault| match fault.kind {
            Kind::Refused | Kind::Protocol => fault,
            kind => {
                refusals.say(&fault.to_string());
                Fault::new(kind, "the agent cannot write down who is paired")
                    .hint("its log says why, and so may `pullback-agent doctor` there")
            }
        };
        let role = Codes::of(identity.dir()).redeem(&id, &secret).map_err(to_stranger)?;
        let certify = |name: &str| identity.certify(&request.certificate_request, name);
        let (peer, certified) = peers.add_with(&request.name, role, certify).map_err(to_stranger)?;
        tracing::info!(peer = peer.name, role = role.word(), certificate = %peer.fingerprint, "paired");
        Ok(pb::PairReply {
            certificate: certified.certificate.as_ref().to_vec().into(),
            role: role.word().to_owned(),
            peer_name: peer.name,
            databases: databases.to_vec(),
            expires_at: certified.expires_at.as_second(),
        })
    }

    fn invite_now(&self, request: &pb::InviteRequest) -> Result<pb::InviteReply, Fault> {
        let Is::Inviting(invite) = &self.is else { return Err(no_such_call()) };
        check_protocol(request.protocol, "the puller")?;
        let role = Role::from_word(&request.role)
            .ok_or_else(|| Fault::new(Kind::Protocol, "the puller asks for a role that is none"))?;
        let code = invite(role, Duration::from_secs(request.seconds.into()))?;
        Ok(pb::InviteReply { code })
    }

    fn unpair_now(&self, peer: &Peer) -> Result<pb::UnpairReply, Fault> {
        let Is::Open { peers, .. } = &self.is else { return Err(no_such_call()) };
        peers.revoke(&peer.fingerprint.to_string())?;
        tracing::info!(peer = peer.name, "unpaired, as it asked for");
        Ok(pb::UnpairReply {})
    }
}

fn no_such_call() -> Fault {
    Fault::new(Kind::Refused, "that is no call for this door")
}

/// Files are locked and made durable here: that is no work for the threads that carry connections.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<Response<T>, Status> {
    // The log says whose call it is.
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || {
        let _span = span.entered();
        work()
    });
    let done = done.await.map_err(|_| Fault::new(Kind::Internal, "the pairing panicked").to_status())?;
    done.map(Response::new).map_err(|fault| fault.to_status())
}

#[tonic::async_trait]
impl Pairing for Desk {
    async fn pair(&self, request: Request<pb::PairRequest>) -> Result<Response<pb::PairReply>, Status> {
        let desk = self.clone();
        aside(move || desk.pair_now(request.get_ref())).await
    }

    async fn invite(&self, request: Request<pb::InviteRequest>) -> Result<Response<pb::InviteReply>, Status> {
        let desk = self.clone();
        aside(move || desk.invite_now(request.get_ref())).await
    }

    async fn unpair(&self, request: Request<pb::UnpairRequest>) -> Result<Response<pb::UnpairReply>, Status> {
        let desk = self.clone();
        let peer = request.extensions().get::<Peer>().cloned();
        aside(move || desk.unpair_now(&peer.ok_or_else(no_such_call)?)).await
    }
}
