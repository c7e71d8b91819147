//! A TCP relay between a puller and an agent: it counts bytes, can cut the line, or let it stand still, after so many, and
//! can be slow.

use rustix::net::sockopt::set_socket_recv_buffer_size;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A relay that lives as long as the process.
pub struct Relay {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    from_agent: AtomicU64,
    to_agent: AtomicU64,
    cut_after: AtomicU64,
    stall_after: AtomicU64,
    /// Bytes a second from the agent.
    pace: AtomicU64,
}

/// What a slow relay has the system keep for it: what waits here has left the agent and is no longer its business.
const SLOW_BUFFER: usize = 64 * 1024;

/// How often a slow relay passes something on.
const SLOW_TICK: Duration = Duration::from_millis(50);

impl Relay {
    /// A relay to the agent at `agent`, on a free port.
    pub fn to(agent: &str) -> Self {
        Self::between("127.0.0.1:0", agent)
    }

    /// A relay that listens on `address`, to the agent at `agent`; both as seen from where this thread is.
    pub fn between(address: &str, agent: &str) -> Self {
        let listener = TcpListener::bind(address).expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let counts = Arc::new(Counts::default());
        counts.cut_after.store(u64::MAX, Ordering::Relaxed);
        counts.stall_after.store(u64::MAX, Ordering::Relaxed);
        counts.pace.store(u64::MAX, Ordering::Relaxed);
        let (agent, shared) = (agent.to_owned(), Arc::clone(&counts));
        std::thread::spawn(move || {
            for puller in listener.incoming().flatten() {
                let Ok(agent) = TcpStream::connect(&agent) else { continue };
                if shared.pace.load(Ordering::Relaxed) < u64::MAX {
                    let small = set_socket_recv_buffer_size(&agent, SLOW_BUFFER);
                    small.expect("a buffer's size can be set");
                }
                let clones = (puller.try_clone(), agent.try_clone());
                let (Ok(puller_again), Ok(agent_again)) = clones else { continue };
                let (there, back) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || pump(puller, agent, &there, false));
                std::thread::spawn(move || pump(agent_again, puller_again, &back, true));
            }
        });
        Self { address, counts }
    }

    /// `HOST:PORT` of the relay.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts the line once `bytes` came from the agent, counted from now; `None`: never.
    pub fn cut_after(&self, bytes: Option<u64>) {
        self.counts.from_agent.store(0, Ordering::Relaxed);
        self.counts.to_agent.store(0, Ordering::Relaxed);
        self.counts.cut_after.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lets nothing more through to the puller once `bytes` came from the agent; `None`: go on.
    pub fn stall_after(&self, bytes: Option<u64>) {
        self.counts.stall_after.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lets so many bytes a second through to the puller, over lines that begin from now on; `None`: all there are.
    pub fn pace(&self, bytes_per_second: Option<u64>) {
        self.counts.pace.store(bytes_per_second.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Bytes from the agent since the last [`Relay::cut_after`].
    pub fn from_agent(&self) -> u64 {
        self.counts.from_agent.load(Ordering::Relaxed)
    }

    /// Bytes to the agent since the last [`Relay::cut_after`].
    pub fn to_agent(&self) -> u64 {
        self.counts.to_agent.load(Ordering::Relaxed)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, counts: &Counts, from_agent: bool) {
    let mut buffer = vec![0; 64 * 1024];
    let pace = if from_agent { counts.pace.load(Ordering::Relaxed) } else { u64::MAX };
    if pace < u64::MAX {
        buffer.truncate((pace as f64 * SLOW_TICK.as_secs_f64()).max(1.0) as usize);
    }
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if pace < u64::MAX {
            std::thread::sleep(Duration::from_secs_f64(read as f64 / pace as f64));
        }
        let count = if from_agent { &counts.from_agent } else { &counts.to_agent };
        let total = count.fetch_add(read as u64, Ordering::Relaxed) + read as u64;
        while from_agent && total > counts.stall_after.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let cut = from_agent && total > counts.cut_after.load(Ordering::Relaxed);
        if cut || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // Either side may be gone already; both are to learn of it.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
