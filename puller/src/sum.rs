//! The MD5 of a file, on a thread of its own beside whatever brings the bytes: it is slower than all the rest.

use md5::{Digest, Md5};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Chunks between the two threads.
const CHUNKS_IN_FLIGHT: usize = 2;

/// An MD5 that is being computed.
pub struct Sum {
    chunks: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
    thread: JoinHandle<[u8; 16]>,
}

impl Sum {
    /// Of nothing yet.
    pub fn start() -> io::Result<Self> {
        let (chunks, to_sum) = sync_channel::<Vec<u8>>(CHUNKS_IN_FLIGHT);
        let (summed, used) = sync_channel::<Vec<u8>>(CHUNKS_IN_FLIGHT + 1);
        let thread = std::thread::Builder::new().name("md5".to_owned()).spawn(move || {
            let mut md5 = Md5::new();
            for chunk in to_sum {
                md5.update(&chunk);
                // To be filled again; at the end nobody wants it.
                let _ = summed.try_send(chunk);
            }
            md5.finalize().into()
        })?;
        Ok(Self { chunks, used, thread })
    }

    /// Adds `chunk`, and gives a buffer to fill next: of any length, and with whatever was in it.
    pub fn add(&mut self, chunk: Vec<u8>) -> Vec<u8> {
        self.chunks.send(chunk).expect("BUG: the MD5's thread ended early");
        self.used.try_recv().unwrap_or_default()
    }

    /// The MD5 of all that was added.
    pub fn finish(self) -> [u8; 16] {
        drop(self.chunks);
        self.thread.join().expect("BUG: the MD5's thread panicked")
    }
}
