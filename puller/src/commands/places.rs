//! Places: how many of the sources of one command an agent is asked for at once. It refuses what is more than one puller's share,
//! and closes connections that are too many.

use puller::address::Address;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};

/// Sources of one agent that are pulled at once: a puller's share of what an agent serves where its configuration says nothing.
const PLACES_MAX: usize = 4;

/// The places at all agents.
#[derive(Default)]
pub(crate) struct Places {
    agents: Mutex<HashMap<String, AtAgent>>,
    changed: Condvar,
}

struct AtAgent {
    taken: usize,
    most: usize,
}

/// A place at an agent, until it is dropped.
pub(crate) struct Place<'a> {
    places: &'a Places,
    agent: String,
}

impl Places {
    /// A place at the agent of `address`, waited for. Behind the other doors each source has an agent of its own.
    pub(crate) fn take(&self, address: &Address) -> Option<Place<'_>> {
        let agent = match address {
            Address::Agent { agent, .. } => agent.clone(),
            address => address.door()?,
        };
        self.wait(&agent);
        Some(Place { places: self, agent })
    }

    fn wait(&self, agent: &str) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let at = agents.entry(agent.to_owned()).or_insert(AtAgent { taken: 0, most: PLACES_MAX });
            if at.taken < at.most {
                at.taken += 1;
                return;
            }
            agents = self.changed.wait(agents).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a place back. `fewer`: there are none for so many. Whether others were taken.
    fn give_back(&self, agent: &str, fewer: bool) -> bool {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = agents.get_mut(agent) else { return false };
        at.taken -= 1;
        if fewer {
            at.most = at.taken.clamp(1, at.most);
        }
        self.changed.notify_all();
        at.taken > 0
    }
}

impl Place<'_> {
    /// The agent has no place for this one. Waits until another of this command has ended there; `false`: none goes on, so that it
    /// is for others that the agent is busy.
    pub(crate) fn wait_for_another(&mut self) -> bool {
        let are_others = self.places.give_back(&self.agent, true);
        self.places.wait(&self.agent);
        are_others
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.places.give_back(&self.agent, false);
    }
}
