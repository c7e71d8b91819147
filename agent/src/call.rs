//! One call as plain synchronous code sees it: what the puller says comes in, events go out, nothing waits for ever.

use pullback_shared::fault::{Fault, Kind};
use pullback_shared::page::{Geometry, PageHash};
use pullback_shared::pb;
use pullback_shared::restoring::{Reply, Request};
use pullback_shared::wire::{Event, decode_hashes};
use std::io::Write;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::{SendTimeoutError, TrySendError};
use tonic::{Status, Streaming};

/// How long a silent puller is waited for: for its next message, or to take ours.
pub const PULLER_WAIT: Duration = Duration::from_secs(60);

/// Events that may lie between the agent and the network.
pub const EVENTS_IN_FLIGHT: usize = 4;

/// What the agent sends messages of the kind `M` with; cheap to clone.
pub struct Outbound<M = pb::PullReply> {
    events: Sender<Result<M, Status>>,
    runtime: Handle,
}

impl<M> Clone for Outbound<M> {
    fn clone(&self) -> Self {
        Self { events: self.events.clone(), runtime: self.runtime.clone() }
    }
}

impl<M> Outbound<M> {
    /// Sends into `events`, with the timers of `runtime`.
    pub fn new(events: Sender<Result<M, Status>>, runtime: Handle) -> Self {
        Self { events, runtime }
    }

    fn send_message(&self, message: M) -> Result<(), Fault> {
        let sent = self.runtime.block_on(self.events.send_timeout(Ok(message), PULLER_WAIT));
        sent.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => {
                Fault::new(Kind::Lost, format!("the puller took nothing for {} s", PULLER_WAIT.as_secs()))
            }
            SendTimeoutError::Closed(_) => gone(),
        })
    }

    fn hint_message(&self, message: M) -> Result<(), Fault> {
        match self.events.try_send(Ok(message)) {
            Err(TrySendError::Closed(_)) => Err(gone()),
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
        }
    }

    /// Ends the call with `fault`.
    pub fn fail(&self, fault: &Fault) {
        let end = self.events.send_timeout(Err(fault.to_status()), PULLER_WAIT);
        if self.runtime.block_on(end).is_err() {
            tracing::debug!("the puller left before it could be told why the call failed");
        }
    }
}

impl Outbound {
    /// Sends `event`; waits [`PULLER_WAIT`] for a puller that does not take it.
    pub fn send(&self, event: Event) -> Result<(), Fault> {
        self.send_message(event.encode())
    }

    /// Sends `event` if there is room for it now; an error only when the puller is gone.
    pub fn hint(&self, event: Event) -> Result<(), Fault> {
        self.hint_message(event.encode())
    }
}

impl Outbound<pb::RestoreReply> {
    /// Sends `reply`; waits [`PULLER_WAIT`] for a puller that does not take it.
    pub fn say(&self, reply: Reply) -> Result<(), Fault> {
        self.send_message(reply.encode())
    }

    /// Sends `reply` if there is room for it now; an error only when the puller is gone.
    pub fn mention(&self, reply: Reply) -> Result<(), Fault> {
        self.hint_message(reply.encode())
    }
}

fn gone() -> Fault {
    Fault::new(Kind::Lost, "the puller ended the call")
}

/// What the puller says, in messages of the kind `M`.
pub struct Inbound<M = pb::PullRequest> {
    requests: Streaming<M>,
    runtime: Handle,
}

impl<M> Inbound<M> {
    /// Reads from `requests`, with the timers of `runtime`.
    pub fn new(requests: Streaming<M>, runtime: Handle) -> Self {
        Self { requests, runtime }
    }

    fn message(&mut self, wait: Duration) -> Result<M, Fault> {
        let message = async { tokio::time::timeout(wait, self.requests.message()).await };
        match self.runtime.block_on(message) {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => {
                Err(Fault::new(Kind::Protocol, "the puller stopped talking before its turn was over"))
            }
            Ok(Err(status)) => Err(Fault::from_status(&status)),
            Err(_) => {
                Err(Fault::new(Kind::Lost, format!("the puller said nothing for {} s", wait.as_secs())))
            }
        }
    }
}

impl Inbound<pb::RestoreRequest> {
    /// The puller's next message, waited for as long as `wait`.
    pub fn next_request(&mut self, wait: Duration) -> Result<Request, Fault> {
        Request::decode(self.message(wait)?)
    }
}

impl Inbound {
    /// The puller's next message.
    pub fn next_message(&mut self) -> Result<pb::PullRequest, Fault> {
        self.message(PULLER_WAIT)
    }

    /// Writes the hashes of a base of `geometry`, as the puller sends them, to `list`.
    pub fn hashes(&mut self, geometry: Geometry, list: &mut impl Write) -> Result<(), Fault> {
        let mut missing = u64::from(geometry.page_count) * PageHash::LEN as u64;
        loop {
            let (hashes, last) = decode_hashes(self.next_message()?)?;
            let wrong = || {
                Fault::new(Kind::Protocol, format!("the hashes of {} pages were due", geometry.page_count))
            };
            missing = missing.checked_sub(hashes.len() as u64).ok_or_else(wrong)?;
            list.write_all(&hashes)
                .map_err(|error| Fault::io("the list of the puller's page hashes", &error))?;
            match (last, missing) {
                (true, 0) => return Ok(()),
                (true, _) => return Err(wrong()),
                (false, _) if hashes.is_empty() => return Err(wrong()),
                (false, _) => {}
            }
        }
    }
}
