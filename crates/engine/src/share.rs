//! Who was served how much, so that clients of one priority share the model fairly whoever asks most.
//!
//! Each client has a counter of service: a prompt token that is computed counts 1, a generated one 2. The waiting sequence
//! of the client with the smallest counter is admitted first. A client that comes back does not bring what it did not
//! use: its counter is lifted to the smallest one of those who wait or run.
//! Source: Sheng et al., "Fairness in serving large language models" (virtual token counter), OSDI 2024.

use std::collections::HashMap;

/// Service that a generated token counts; a prompt token counts 1.
pub const GENERATED_WEIGHT: u64 = 2;
/// Clients that are remembered.
const MAX_CLIENTS: usize = 4096;

/// Who asks; clients that do not say are all the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ClientId(pub u64);

#[derive(Debug, Clone, Copy, Default)]
struct Share {
    served: u64,
    n_running: usize,
    n_waiting: usize,
}

/// The shares of all clients.
#[derive(Debug, Default)]
pub(crate) struct Shares(HashMap<ClientId, Share>);

impl Shares {
    /// Notes that a sequence of a client waits.
    pub fn wait(&mut self, client: ClientId) {
        let active = |share: &&Share| share.n_running + share.n_waiting > 0;
        let least = self.0.values().filter(active).map(|share| share.served).min();
        if self.0.len() >= MAX_CLIENTS {
            self.0.retain(|_, share| share.n_running + share.n_waiting > 0);
        }
        let share = self.0.entry(client).or_default();
        if share.n_running + share.n_waiting == 0 {
            share.served = share.served.max(least.unwrap_or(0));
        }
        share.n_waiting += 1;
    }

    /// Notes that a waiting sequence is gone.
    pub fn leave(&mut self, client: ClientId) {
        self.share(client).n_waiting -= 1;
    }

    /// Notes that a sequence runs, which did not wait if it was forked.
    pub fn run(&mut self, client: ClientId) {
        self.0.entry(client).or_default().n_running += 1;
    }

    /// Notes that a running sequence stopped.
    pub fn stop(&mut self, client: ClientId) {
        self.share(client).n_running -= 1;
    }

    /// Counts service.
    pub fn serve(&mut self, client: ClientId, service: u64) {
        self.share(client).served += service;
    }

    /// What a client was served.
    pub fn served(&self, client: ClientId) -> u64 {
        self.0.get(&client).map_or(0, |share| share.served)
    }

    /// Sequences of a client that run.
    pub fn n_running(&self, client: ClientId) -> usize {
        self.0.get(&client).map_or(0, |share| share.n_running)
    }

    fn share(&mut self, client: ClientId) -> &mut Share {
        self.0.get_mut(&client).expect("whoever waits or runs has a share")
    }
}
