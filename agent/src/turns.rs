//! `Turns`: how many pulls go on at once, in all and for each peer, so that one that takes its time leaves room for others.

use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::Fingerprint;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns of one agent; cheap to clone.
#[derive(Clone)]
pub struct Turns {
    all: Arc<Semaphore>,
    most: usize,
    taken: Arc<Mutex<HashMap<Fingerprint, usize>>>,
}

impl Turns {
    /// `most` of them; a peer has half of that at most, and at least one.
    pub fn new(most: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(most)), most, taken: Arc::default() }
    }

    /// A turn for `peer`, if there is one; whoever is no peer is not counted apart.
    pub fn take(&self, peer: Option<Fingerprint>) -> Result<Turn, Fault> {
        let busy = |who: &str| {
            Fault::new(Kind::Busy, format!("{who} as many pulls as it may (`pulls_max`)"))
                .hint("try again later")
        };
        let each = self.most.div_ceil(2);
        let place = Arc::clone(&self.all).try_acquire_owned().map_err(|_| busy("the agent serves"))?;
        if let Some(peer) = peer {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let theirs = taken.entry(peer).or_default();
            if *theirs >= each {
                return Err(busy("this puller has"));
            }
            *theirs += 1;
        }
        Ok(Turn { turns: self.clone(), peer, _place: place })
    }

    /// Waits until nobody has one, but no longer than `limit`.
    pub async fn idle(&self, limit: Duration) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        // Whoever is still at it then has had its time.
        let _ = tokio::time::timeout(limit, self.all.acquire_many(all)).await;
    }
}

/// A turn that was taken, until it is dropped.
pub struct Turn {
    turns: Turns,
    peer: Option<Fingerprint>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        let mut taken = self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = taken.get_mut(&peer) {
            *theirs -= 1;
            if *theirs == 0 {
                taken.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_leaves_turns_for_others() {
        let turns = Turns::new(5);
        let [one, other] = [1, 2].map(|byte| Some(Fingerprint([byte; 32])));
        let theirs: Vec<Turn> = (0..3).map(|_| turns.take(one).unwrap()).collect();
        let refused = turns.take(one).err().unwrap();
        assert!(refused.kind == Kind::Busy && refused.message.contains("this puller"), "{refused:?}");
        let others = [turns.take(other).unwrap(), turns.take(None).unwrap()];
        assert!(turns.take(None).err().unwrap().message.contains("the agent"));
        drop(theirs);
        drop(others);
        assert!(turns.taken.lock().unwrap().is_empty());
        assert!((0..3).map(|_| turns.take(one)).all(|turn| turn.is_ok()));
        assert!(Turns::new(1).take(one).is_ok());
    }
}
