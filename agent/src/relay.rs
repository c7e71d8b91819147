//! The relay: pages go from the thread that holds the source to one that collects them, a batch at a time.
//!
//! SQLite's reading and the hashing, comparing and writing of what was read take about as long, so that two threads make
//! the hold about half as long where there are two cores. The batches between them are few: a collector that is slower
//! than the source makes the hold wait for it, as if both were one thread.

use crate::collector::Collector;
use crate::sink::PageSink;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::page::{Geometry, PageNo};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// Bytes of pages in one batch: what stays in a processor's cache between the two threads.
const BATCH_BYTES: usize = 128 * 1024;

/// Batches between the two threads.
const BATCHES_IN_FLIGHT: usize = 4;

/// Pages on their way to the collector.
#[derive(Default)]
struct Batch {
    numbers: Vec<PageNo>,
    pages: Vec<u8>,
}

/// The sink that a source is read into.
struct Relay {
    batch: Batch,
    full: SyncSender<Batch>,
    /// Batches to be filled again.
    empty: Receiver<Batch>,
    fault: Arc<OnceLock<Fault>>,
}

/// A collector at work in its own thread.
pub struct Collecting {
    thread: Option<JoinHandle<Collector>>,
    fault: Arc<OnceLock<Fault>>,
}

/// Puts `collector` to work on the pages of `geometry`; gives the sink to read the source into, and what to get the
/// collector back from.
pub fn start(collector: Collector, geometry: Geometry) -> Result<(Box<dyn PageSink>, Collecting), Fault> {
    let (full, batches) = sync_channel(BATCHES_IN_FLIGHT);
    let (emptied, empty) = sync_channel(BATCHES_IN_FLIGHT + 1);
    let fault = Arc::new(OnceLock::new());
    let theirs = Arc::clone(&fault);
    let size = geometry.page_size.as_usize();
    let work = move || collect(collector, size, &batches, &emptied, &theirs);
    let thread = std::thread::Builder::new()
        .name("collect".to_owned())
        .spawn(work)
        .map_err(|error| Fault::new(Kind::Internal, format!("no thread to collect pages in: {error}")))?;
    let relay = Relay { batch: Batch::default(), full, empty, fault: Arc::clone(&fault) };
    Ok((Box::new(relay), Collecting { thread: Some(thread), fault }))
}

/// Takes pages until the relay is gone, or one cannot be taken; then the next batch finds nobody.
fn collect(
    mut collector: Collector,
    page_size: usize,
    batches: &Receiver<Batch>,
    emptied: &SyncSender<Batch>,
    fault: &OnceLock<Fault>,
) -> Collector {
    for mut batch in batches {
        for (no, page) in batch.numbers.iter().zip(batch.pages.chunks_exact(page_size)) {
            if let Err(why) = collector.page(*no, page) {
                let _ = fault.set(why);
                return collector;
            }
        }
        batch.numbers.clear();
        batch.pages.clear();
        // The relay may be gone already, and needs no more batches.
        let _ = emptied.try_send(batch);
    }
    collector
}

impl Relay {
    fn hand_over(&mut self) -> Result<(), Fault> {
        let empty = self.empty.try_recv().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, empty);
        self.full.send(batch).map_err(|_| why(&self.fault))
    }
}

impl PageSink for Relay {
    fn page(&mut self, no: PageNo, page: &mut [u8]) -> Result<(), Fault> {
        self.batch.numbers.push(no);
        self.batch.pages.extend_from_slice(page);
        match self.batch.pages.len() < BATCH_BYTES {
            true => Ok(()),
            false => self.hand_over(),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A collector that is gone has left its fault behind; [`Collecting::finish`] tells it.
        let _ = self.hand_over();
    }
}

impl Collecting {
    /// The collector, once it took every page of a sink that is gone; or why it could not.
    pub fn finish(mut self) -> Result<Collector, Fault> {
        let thread = self.thread.take().expect("BUG: a collector waited for twice");
        let collector = thread.join().map_err(|_| panicked())?;
        match self.fault.get() {
            None => Ok(collector),
            Some(fault) => Err(fault.clone()),
        }
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        // After a hold that failed: nothing is written any more once the caller goes on.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("collecting pages panicked");
        }
    }
}

fn why(fault: &OnceLock<Fault>) -> Fault {
    fault.get().cloned().unwrap_or_else(panicked)
}

fn panicked() -> Fault {
    Fault::new(Kind::Internal, "collecting pages panicked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::{MirrorWriter, Outlet};
    use pullback_shared::page::PageHash;
    use pullback_shared::snapshot::SnapshotHasher;
    use std::os::unix::fs::FileExt;

    fn relay_into(file: std::fs::File, geometry: Geometry) -> (Box<dyn PageSink>, Collecting) {
        let dir = std::env::temp_dir();
        let writer = MirrorWriter::new(file, tempfile::tempfile().unwrap(), geometry);
        start(Collector::new(geometry, None, Outlet::Mirror(writer), None, &dir), geometry).unwrap()
    }

    #[test]
    fn every_page_is_collected_in_whatever_order_it_comes() {
        let geometry = Geometry::new(512, 3000).unwrap();
        let file = tempfile::tempfile().unwrap();
        let (mut sink, collecting) = relay_into(file.try_clone().unwrap(), geometry);
        let page = |number: u32| (number * 7).to_le_bytes().repeat(128);
        for number in (2..=3000).chain([1]) {
            sink.page(PageNo::new(number).unwrap(), &mut page(number)).unwrap();
        }
        drop(sink);
        let mut collector = collecting.finish().unwrap();
        collector.finish().unwrap();
        let mut expected = SnapshotHasher::new(geometry);
        (1..=3000).for_each(|number| expected.push(PageHash::of(&page(number))));
        assert_eq!(collector.snapshot_id().unwrap(), expected.finish());
        let mut last = vec![0; 512];
        file.read_exact_at(&mut last, 2999 * 512).unwrap();
        assert_eq!(last, page(3000));
    }

    #[test]
    fn what_stops_the_collector_stops_the_hold_and_is_told() {
        let geometry = Geometry::new(4096, 100_000).unwrap();
        // A file that cannot be written.
        let (mut sink, collecting) = relay_into(std::fs::File::open("/dev/null").unwrap(), geometry);
        let mut pages = (1..=100_000).map(|number| PageNo::new(number).unwrap());
        let stopped = pages.find_map(|no| sink.page(no, &mut [1; 4096]).err()).unwrap();
        assert!(stopped.message.contains("mirror"), "{stopped}");
        drop(sink);
        assert_eq!(collecting.finish().err(), Some(stopped));
    }
}
