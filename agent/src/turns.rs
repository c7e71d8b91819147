//! Whose turn it is: pulls at once, of which no peer takes more than its share, and counts of rows, one at a time.

use pullback_shared::fault::{Fault, Kind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of the pulls at once one peer may have one in so many, rounded up: whoever does not read what it asked for, or never says
/// what it wants, leaves room for others.
const PEER_SHARE: usize = 2;

/// How long a count of rows may wait for those before it. Each takes a snapshot to a file of its own.
const COUNT_WAIT: Duration = Duration::from_secs(120);

/// Turns, of which there are so many. Cheap to clone.
#[derive(Clone)]
pub struct Turns {
    pulls: Arc<Semaphore>,
    pulls_each: usize,
    of_peers: Arc<Mutex<HashMap<String, usize>>>,
    counts: Arc<Semaphore>,
}

impl Turns {
    /// With at most `pulls_max` pulls at once.
    pub fn new(pulls_max: usize) -> Self {
        Self {
            pulls: Arc::new(Semaphore::new(pulls_max)),
            pulls_each: pulls_max.div_ceil(PEER_SHARE),
            of_peers: Arc::default(),
            counts: Arc::new(Semaphore::new(1)),
        }
    }

    /// A turn to pull, now or not at all. Who is no peer, `None`, is not counted by itself.
    pub fn to_pull(&self, peer: Option<String>) -> Result<Pulling, Fault> {
        let busy = |what: &str| Fault::new(Kind::Busy, what).hint("try again later");
        let place = Arc::clone(&self.pulls).try_acquire_owned();
        let place = place.map_err(|_| busy("the agent serves as many pulls as it may (`pulls_max`)"))?;
        if let Some(peer) = &peer {
            let mut of_peers = self.of_peers.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = of_peers.entry(peer.clone()).or_default();
            if *taken >= self.pulls_each {
                return Err(busy(
                    "the agent serves as many pulls of one puller as it may (half of `pulls_max`)",
                ));
            }
            *taken += 1;
        }
        Ok(Pulling { peer, of_peers: Arc::clone(&self.of_peers), _place: place })
    }

    /// A turn to count rows, waited for.
    pub async fn to_count(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let turn = tokio::time::timeout(COUNT_WAIT, Arc::clone(&self.counts).acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| {
            Fault::new(Kind::Busy, "the agent counts rows for others already").hint("try again later")
        })
    }

    /// Waits until nobody pulls, of `pulls_max` who may.
    pub async fn until_nobody_pulls(&self, pulls_max: usize) {
        let all = u32::try_from(pulls_max).unwrap_or(u32::MAX);
        let _ = self.pulls.acquire_many(all).await;
    }
}

/// A turn to pull, until it is dropped.
pub struct Pulling {
    peer: Option<String>,
    of_peers: Arc<Mutex<HashMap<String, usize>>>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Pulling {
    fn drop(&mut self) {
        let Some(peer) = &self.peer else { return };
        let mut of_peers = self.of_peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = of_peers.get_mut(peer) {
            *taken -= 1;
            if *taken == 0 {
                of_peers.remove(peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peer_takes_more_than_half_of_the_pulls_and_all_come_back() {
        let turns = Turns::new(4);
        let pull = |peer: &str| turns.to_pull(Some(peer.to_owned()));
        let (first, second) = (pull("a").ok(), pull("a").ok());
        assert!(first.is_some() && second.is_some());
        assert_eq!(pull("a").err().map(|fault| fault.kind), Some(Kind::Busy));
        let other = pull("b").ok();
        assert!(other.is_some());
        drop(first);
        let again = pull("a").ok();
        assert!(again.is_some() && turns.to_pull(None).is_ok());
        drop((second, other, again));
        assert!(turns.of_peers.lock().unwrap().is_empty());
        assert_eq!(turns.pulls.available_permits(), 4);
        assert!(Turns::new(1).to_pull(Some("a".to_owned())).is_ok());
    }
}
