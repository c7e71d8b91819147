//! The gRPC edge of the puller: a door is opened, a pull is an iterator of events. The puller's only async.

use crate::address::Address;
use crate::dial::{self, FIRST_ANSWER_WAIT, Line};
use crate::paired::Paired;
use crate::ssh::{self, Door, RunAs, Ssh, Sudo, SudoUser};
use crate::tls::Showing;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::hashes::HashList;
use pullback_shared::identity::Role;
use pullback_shared::page::{PageHash, PageNo};
use pullback_shared::pb::pairing_client::PairingClient;
use pullback_shared::pb::pullback_client::PullbackClient;
use pullback_shared::restoring::{Reply, Request};
use pullback_shared::text::printable;
use pullback_shared::wire::{Event, HASH_LIST_BYTES_MAX, MESSAGE_BYTES_MAX, Start, encode_hashes};
use pullback_shared::{PROTOCOL, pb};
use std::fs::File;
use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// How long an agent that answers pings may say nothing within a call: it may be reading a large database from a slow card.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// How long an agent may take to close the database, after a restore.
const CLOSING_WAIT: Duration = Duration::from_secs(5);

/// How long an agent may take nothing of what is said.
const SEND_WAIT: Duration = Duration::from_secs(60);

/// Bytes of the pipe of the local door.
const PIPE_BYTES: usize = 4 * 1024 * 1024;

/// A connection to an agent, behind whichever door.
pub struct Client {
    runtime: Runtime,
    grpc: PullbackClient<Channel>,
    pairing: PairingClient<Channel>,
    health: Option<HealthClient<Channel>>,
    database: String,
    first_answer_wait: Duration,
    notes: Vec<String>,
    // Last: it ends when all else is gone, and its pipes with it.
    way: Way,
}

/// What carries the connection, and has its own words for what goes wrong.
struct Way {
    line: Line,
    ssh: Option<Ssh>,
}

impl Way {
    /// `fault`, with what `ssh` or the far end's TLS has to say.
    fn explain(&mut self, fault: Fault) -> Fault {
        match &mut self.ssh {
            Some(ssh) => ssh.explain(fault),
            None => self.line.explain(fault),
        }
    }
}

impl Client {
    /// Opens `door` to the agent of `address`. An agent that does not answer pings for its timeout is lost.
    pub fn open(address: &Address, door: &Door) -> Result<Self, Fault> {
        match (address, &door.run_as) {
            (Address::Ssh { .. }, RunAs::Owner) => Self::open_as_owner(address, door),
            (Address::Ssh { .. }, RunAs::User(user)) => {
                Self::open_as(address, door, Some(Sudo { user: user.clone(), login: None }))
            }
            _ => Self::open_as(address, door, None),
        }
    }

    /// The agent of the user who logs in sees whose file it is; another one, run as that user, may read it.
    fn open_as_owner(address: &Address, door: &Door) -> Result<Self, Fault> {
        let mut login = Self::open_as(address, door, None)?;
        let reply = login.info(false)?;
        let database = reply.databases.into_iter().next().unwrap_or_default();
        match database.owner {
            Some(owner) if owner == reply.user => Ok(login),
            Some(owner) => {
                drop(login);
                // A path in the home of the user who logs in would be another one for the owner.
                let address = address.clone().at(&database.path);
                let login = Some((reply.user, reply.agent_path));
                Self::open_as(&address, door, Some(Sudo { user: SudoUser::number(owner), login }))
            }
            None => {
                let why = database.problem.map(Fault::decode);
                let why = why
                    .unwrap_or_else(|| Fault::new(Kind::Refused, "the agent did not say whose file it is"));
                let hint = "`--sudo` needs to see whose file it is; say it with `--sudo-user USER`";
                Err(match why.kind {
                    Kind::Refused => why.hint(hint),
                    _ => why,
                })
            }
        }
    }

    fn open_as(address: &Address, door: &Door, sudo: Option<Sudo>) -> Result<Self, Fault> {
        let timeout = door.timeout;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Fault::new(Kind::Internal, format!("no runtime: {error}")))?;
        let endpoint = Endpoint::from_static("http://pullback.invalid")
            .initial_stream_window_size(pullback_agent::serve::STREAM_WINDOW)
            .initial_connection_window_size(pullback_agent::serve::CONNECTION_WINDOW)
            .http2_keep_alive_interval(timeout / 2)
            .keep_alive_timeout(timeout / 2);
        let mut first_answer_wait = FIRST_ANSWER_WAIT;
        let (mut ssh, mut notes, mut line) = (None, Vec::new(), Line::default());
        let (channel, database) = match address {
            Address::Local(path) => {
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                runtime.spawn(pullback_agent::serve::serve_local(theirs));
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let database = path.to_str().map(str::to_owned).ok_or_else(|| {
                    Fault::new(
                        Kind::Usage,
                        format!("`{}`: a path that is not UTF-8 cannot be pulled", path.display()),
                    )
                })?;
                (runtime.block_on(dial::channel(endpoint, line.count(ours), line.clone()))?, database)
            }
            Address::Service { host, port, database } => {
                let stream = line.count(runtime.block_on(dial::plain(host, *port))?);
                (runtime.block_on(dial::channel(endpoint, stream, line.clone()))?, database.clone())
            }
            Address::Agent { agent, database } => {
                let paired = Paired::read(agent)?.ok_or_else(|| not_paired(agent))?;
                let showing = Showing::Certificate(Arc::new(paired.clone()));
                let stream;
                (stream, line) = runtime.block_on(dial::agent(&paired.addresses, &showing))?;
                (runtime.block_on(dial::channel(endpoint, stream, line.clone()))?, database.clone())
            }
            Address::Ssh { path, .. } => {
                let far = ssh::connect(address, door, sudo)?;
                // The line is there; what the agent does first may take a small machine as long as anything it does later.
                first_answer_wait = FIRST_ANSWER_WAIT.max(timeout);
                notes.extend(far.note);
                let opened = {
                    let _runtime = runtime.enter();
                    let output = pipe::Receiver::from_owned_fd(OwnedFd::from(far.stdout));
                    output.and_then(|output| {
                        Ok((output, pipe::Sender::from_owned_fd(OwnedFd::from(far.stdin))?))
                    })
                };
                let (output, input) = opened
                    .map_err(|error| Fault::new(Kind::Internal, format!("the pipes to ssh: {error}")))?;
                let io = tokio::io::join(Cursor::new(far.first).chain(output), input);
                let mut far = far.ssh;
                let channel = runtime.block_on(dial::channel(endpoint, line.count(io), line.clone()));
                let channel = channel.map_err(|fault| far.explain(fault))?;
                ssh = Some(far);
                (channel, path.clone())
            }
        };
        // Behind the local door it is this very process that answers.
        let is_service = matches!(address, Address::Service { .. } | Address::Agent { .. });
        let health = is_service.then(|| HealthClient::new(channel.clone()));
        let pairing = PairingClient::new(channel.clone());
        let grpc = PullbackClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self {
            runtime,
            grpc,
            pairing,
            health,
            database,
            first_answer_wait,
            notes,
            way: Way { line, ssh },
        })
    }

    /// Bytes received over the connection so far, everything counted.
    pub fn bytes_received(&self) -> u64 {
        self.way.line.bytes_received()
    }

    /// Bytes sent over the connection so far, everything counted.
    pub fn bytes_sent(&self) -> u64 {
        self.way.line.bytes_sent()
    }

    /// The database's name or path at the agent.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// What a person should know of the way to the agent.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Asks the agent what it makes of `address`, the one this was opened for: the same place as every spelling of it comes
    /// to, and why it cannot be pulled now, if so.
    pub fn resolve(&mut self, address: &Address) -> Result<(Address, Option<Fault>), Fault> {
        let database = self.info(false)?.databases.into_iter().next();
        let database =
            database.ok_or_else(|| Fault::new(Kind::Protocol, "the agent said nothing of the database"))?;
        Ok((address.clone().at(&database.path), database.problem.map(Fault::decode)))
    }

    /// Asks what is there now.
    pub fn info(&mut self, tables: bool) -> Result<pb::InfoReply, Fault> {
        self.greet()?;
        let request = pb::InfoRequest { protocol: PROTOCOL, database: self.database.clone(), tables };
        let wait = if tables { SILENCE_MAX } else { Duration::from_secs(30) };
        let grpc = &mut self.grpc;
        let answer = self.runtime.block_on(async { tokio::time::timeout(wait, grpc.info(request)).await });
        match answer {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(self.way.explain(Fault::from_status(&status))),
            Err(_) => Err(silent(wait)),
        }
    }

    /// Sees that an agent is there and awake, before it is asked for something that may take its time.
    fn greet(&mut self) -> Result<(), Fault> {
        let Some(health) = &mut self.health else { return Ok(()) };
        let asked = health.check(HealthCheckRequest::default());
        match self.runtime.block_on(async { tokio::time::timeout(FIRST_ANSWER_WAIT, asked).await }) {
            Ok(Err(status)) if status.code() != tonic::Code::Unimplemented => {
                Err(self.way.explain(no_first_answer(&status)))
            }
            Ok(_) => Ok(()),
            Err(_) => Err(silent_at_first(FIRST_ANSWER_WAIT)),
        }
    }

    /// Begins a pull. The base's hashes, if they are asked for or the base has no name, are read from `hashes`.
    pub fn pull(&mut self, start: &Start, hashes: Option<File>) -> Result<Events<'_>, Fault> {
        let (requests, outgoing) = tokio::sync::mpsc::channel(4);
        let first = start.encode();
        send(self.runtime.handle(), &requests, first)?;
        let call = self.grpc.pull(ReceiverStream::new(outgoing));
        let answer = first_answer(&self.runtime, self.first_answer_wait, call);
        let replies = answer.map_err(|status| self.way.explain(no_first_answer(&status)))?;
        let pages = start.base.map_or(0, |base| base.geometry.page_count);
        let named = start.base.is_some_and(|base| base.snapshot.is_some());
        let mut events = Events {
            runtime: &self.runtime,
            way: &mut self.way,
            replies,
            requests,
            hashes: hashes.map(|file| HashList::new(file, pages)),
        };
        if start.base.is_some() && !named {
            events.send_hashes()?;
        }
        Ok(events)
    }
}

impl Client {
    /// Begins a restore of the database. Pulls may go on beside it.
    pub fn restore(&mut self) -> Result<Restoring, Fault> {
        self.greet()?;
        let (requests, outgoing) = tokio::sync::mpsc::channel(4);
        send(self.runtime.handle(), &requests, Request::Start { database: self.database.clone() }.encode())?;
        let call = self.grpc.restore(ReceiverStream::new(outgoing));
        let answer = first_answer(&self.runtime, self.first_answer_wait, call);
        let replies = answer.map_err(|status| match status.code() {
            tonic::Code::Unimplemented => {
                Fault::new(Kind::Protocol, "this agent's release cannot restore anything yet")
                    .hint("install the agent of the puller's release there")
            }
            _ => self.way.explain(no_first_answer(&status)),
        })?;
        Ok(Restoring { runtime: self.runtime.handle().clone(), replies, requests })
    }

    /// `fault`, with what `ssh` has to say, where it carries the connection.
    pub fn explain(&mut self, fault: Fault) -> Fault {
        self.way.explain(fault)
    }
}

impl Client {
    /// Asks an agent behind ssh for a code that holds for `role` and `ttl`.
    pub fn invite(&mut self, role: Role, ttl: Duration) -> Result<String, Fault> {
        let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let request = pb::InviteRequest { protocol: PROTOCOL, role: role.word().to_owned(), seconds };
        let call = self.pairing.invite(request);
        let answer = first_answer(&self.runtime, self.first_answer_wait, call);
        let reply = answer.map_err(|status| match status.code() {
            tonic::Code::Unimplemented => {
                Fault::new(Kind::Refused, "this agent gives no pairing codes through ssh")
                    .hint("what ssh may do there may be limited to some databases; type `pullback-agent pair` there, then `puller pair CODE`")
            }
            _ => self.way.explain(no_first_answer(&status)),
        })?;
        Ok(reply.code)
    }
}

/// A restore that goes on: what is said and heard. To be dropped before its [`Client`].
pub struct Restoring {
    runtime: Handle,
    replies: Streaming<pb::RestoreReply>,
    requests: Sender<pb::RestoreRequest>,
}

impl Restoring {
    /// Says `request`. `Ok(false)`: the agent does not listen any more, and says why in its next reply.
    pub fn say(&self, request: Request) -> Result<bool, Fault> {
        send(&self.runtime, &self.requests, request.encode())
    }

    /// The agent's next reply.
    pub fn next_reply(&mut self) -> Result<Reply, Fault> {
        let message = async { tokio::time::timeout(SILENCE_MAX, self.replies.message()).await };
        let message = self.runtime.block_on(message).map_err(|_| silent(SILENCE_MAX))?;
        let message = message.map_err(|status| Fault::from_status(&status))?;
        let over = || Fault::new(Kind::Lost, "the agent ended the restore before it was done");
        Reply::decode(message.ok_or_else(over)?)
    }
}

impl Drop for Restoring {
    /// Lets the agent close the database, which takes away what SQLite laid beside it.
    fn drop(&mut self) {
        // The end of the requests is what it waits for.
        drop(std::mem::replace(&mut self.requests, tokio::sync::mpsc::channel(1).0));
        let replies = &mut self.replies;
        let ended = async { while let Ok(Some(_)) = replies.message().await {} };
        if self.runtime.block_on(async { tokio::time::timeout(CLOSING_WAIT, ended).await }).is_err() {
            tracing::debug!("the agent is not waited for any longer");
        }
    }
}

fn not_paired(agent: &str) -> Fault {
    Fault::new(Kind::Refused, format!("no agent `{}` is paired with this machine", printable(agent, 80)))
        .hint("`pullback-agent pair` there gives a code, for `puller pair CODE` here")
}

fn silent_at_first(wait: Duration) -> Fault {
    let seconds = wait.as_secs();
    Fault::new(Kind::Unreachable, format!("the agent took the connection and said nothing for {seconds} s"))
        .hint("look at its log; is it stopped, or is that port another program's?")
}

/// What an agent says itself is as it says; a connection that ends before the first word was never one to an agent.
fn no_first_answer(status: &Status) -> Fault {
    match Fault::from_status(status) {
        Fault { kind: Kind::Lost, message, .. } => {
            Fault::new(Kind::Unreachable, format!("no agent answered: {message}"))
                .hint("look at its log; is it stopped, or is that port another program's?")
        }
        fault => fault,
    }
}

/// The events of one pull, one after the other.
pub struct Events<'client> {
    runtime: &'client Runtime,
    way: &'client mut Way,
    replies: Streaming<pb::PullReply>,
    requests: Sender<pb::PullRequest>,
    hashes: Option<HashList<File>>,
}

impl Events<'_> {
    /// The next event. `NeedHashes` is answered here and not seen outside.
    pub fn next_event(&mut self) -> Result<Event, Fault> {
        loop {
            let message = self
                .runtime
                .block_on(async { tokio::time::timeout(SILENCE_MAX, self.replies.message()).await });
            let message =
                message.map_err(|_| silent(SILENCE_MAX))?.map_err(|status| Fault::from_status(&status));
            let message = message.and_then(|message| {
                message.ok_or_else(|| Fault::new(Kind::Lost, "the agent ended the pull before it was done"))
            });
            let message = message.map_err(|fault| self.way.explain(fault))?;
            match Event::decode(message)? {
                Event::NeedHashes => self.send_hashes()?,
                event => return Ok(event),
            }
        }
    }

    /// Sends the base's hashes. An agent that fails meanwhile says why in its next message.
    fn send_hashes(&mut self) -> Result<(), Fault> {
        let Some(mut list) = self.hashes.take() else {
            return Err(Fault::new(
                Kind::Protocol,
                "the agent asked for hashes that it has or that there are none of",
            ));
        };
        let io = |error: std::io::Error| Fault::io("the page hashes of the copy to build upon", &error);
        let mut part = Vec::with_capacity(HASH_LIST_BYTES_MAX);
        for number in 1..=list.page_count() {
            let no = PageNo::new(number).expect("BUG: page 0");
            part.extend_from_slice(&list.get(no).map_err(io)?.0);
            if part.len() + PageHash::LEN > HASH_LIST_BYTES_MAX {
                let part = encode_hashes(std::mem::take(&mut part), number == list.page_count());
                let sent = send(self.runtime.handle(), &self.requests, part);
                if number == list.page_count() || !sent? {
                    return Ok(());
                }
            }
        }
        send(self.runtime.handle(), &self.requests, encode_hashes(part, true)).map(|_| ())
    }
}

/// Says `message` on a call. Whether the agent still listens.
fn send<M>(runtime: &Handle, to: &Sender<M>, message: M) -> Result<bool, Fault> {
    match runtime.block_on(async { to.send_timeout(message, SEND_WAIT).await }) {
        Ok(()) => Ok(true),
        Err(SendTimeoutError::Closed(_)) => Ok(false),
        Err(SendTimeoutError::Timeout(_)) => Err(silent(SEND_WAIT)),
    }
}

/// What the agent answers a `call` with at first, waited for as long as `wait`.
fn first_answer<T>(
    runtime: &Runtime,
    wait: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match runtime.block_on(async { tokio::time::timeout(wait, call).await }) {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(silent_at_first(wait).to_status()),
    }
}

fn silent(wait: Duration) -> Fault {
    Fault::new(Kind::Lost, format!("the agent said nothing for {} s", wait.as_secs()))
        .hint("look at its log, then try again")
}
