//! A slow link on this machine: two network namespaces, an edge and a home, joined by a pair of virtual interfaces that
//! `tc` shapes at both ends.
//!
//! Only root on Linux can make one. It is gone with the value; what a bench that was killed left is cleared by the next.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The edge's address on the link.
pub(crate) const EDGE: &str = "192.0.2.1";

/// The home's.
const HOME: &str = "192.0.2.2";

/// How fast it is, in each direction.
pub(crate) const MBIT_PER_SECOND: u32 = 20;

/// The same for `tc`: how much may go at once, and how long a byte may wait for its turn.
const SHAPE: [&str; 4] = ["burst", "32kb", "latency", "100ms"];

/// Of the interface, in both namespaces.
const DEVICE: &str = "slow0";

/// What namespaces of a bench are called, before their side and the process's number.
const PREFIX: &str = "pullback-bench-";

/// Bytes that are sent to see how fast the link is.
const TRIAL_BYTES: usize = 5_000_000;

/// A link, and both its ends.
pub(crate) struct Link {
    /// Where the agent is.
    pub(crate) edge: Side,
    /// Where the puller is.
    pub(crate) home: Side,
}

/// A network namespace.
pub(crate) struct Side {
    name: String,
    path: PathBuf,
}

impl Link {
    /// Makes one; the error is the sentence why that cannot be.
    pub(crate) fn make() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can make network namespaces".to_owned());
        }
        clear_leftovers();
        let link = Self { edge: Side::make("edge")?, home: Side::make("home")? };
        let (edge, home) = (&link.edge.name, &link.home.name);
        ip(&["link", "add", DEVICE, "netns", edge, "type", "veth", "peer", "name", DEVICE, "netns", home])?;
        link.edge.bring_up(EDGE)?;
        link.home.bring_up(HOME)?;
        Ok(link)
    }

    /// Megabits a second from the edge to the home, as a trial shows.
    pub(crate) fn trial(&self) -> f64 {
        let listener = self.edge.within(|| TcpListener::bind((EDGE, 0)).expect("the edge can listen"));
        let address = listener.local_addr().expect("a listener has an address");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut line, _) = listener.accept().expect("the trial is taken");
                line.write_all(&vec![1; TRIAL_BYTES]).expect("the trial is sent");
            });
            let mut line = self.home.within(|| TcpStream::connect(address).expect("the edge is reached"));
            let began = Instant::now();
            let read = line.read_to_end(&mut Vec::new()).expect("the trial is read");
            read as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64()
        })
    }

    /// Bytes that have crossed it, both ways, with all headers.
    pub(crate) fn crossed(&self) -> f64 {
        let table = self.home.within(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap_or_default();
        let device = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{DEVICE}:")));
        let fields = device.map(|line| line.split_whitespace().map(|field| field.parse().unwrap_or(0.0)));
        let fields: Vec<f64> = fields.map(Iterator::collect).unwrap_or_default();
        // proc_pid_net(5): the first field is what was received, the ninth what was sent.
        fields.first().zip(fields.get(8)).map_or(0.0, |(received, sent)| received + sent)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // With one end goes the other, though a thread of the bench may hold its namespace still.
        let _ = ip(&["-n", &self.edge.name, "link", "del", DEVICE]);
    }
}

impl Side {
    fn make(side: &str) -> Result<Self, String> {
        let name = format!("{PREFIX}{side}-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self { path: Path::new("/run/netns").join(&name), name })
    }

    fn bring_up(&self, address: &str) -> Result<(), String> {
        let here = |words: &[&str]| ip(&[&["-n", &self.name], words].concat());
        here(&["link", "set", "lo", "up"])?;
        here(&["address", "add", &format!("{address}/30"), "dev", DEVICE])?;
        here(&["link", "set", DEVICE, "up"])?;
        let rate = format!("{MBIT_PER_SECOND}mbit");
        let words = ["-n", &self.name, "qdisc", "add", "dev", DEVICE, "root", "tbf", "rate", &rate];
        done(Command::new("tc").args(words).args(SHAPE))
    }

    /// Runs `act` on a thread that is in this namespace, as are the processes and threads it starts and the sockets it
    /// makes.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                enter(&File::open(&self.path).expect("the namespace is there"));
                act()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

#[cfg(target_os = "linux")]
fn enter(namespace: &File) {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("root can enter a namespace");
}

#[cfg(not(target_os = "linux"))]
fn enter(_namespace: &File) {
    unreachable!("BUG: a namespace where there are none");
}

/// Removes namespaces of benches that are no more.
fn clear_leftovers() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-')).map(|(_, pid)| pid);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    done(Command::new("ip").args(words))
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} cannot be run: {error}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said())) }
}
