//! The memory that all loaded models take together, and how many they may be.
//!
//! ```text
//! App::lease -> Memory::take -> Hold -> engine's thread, dropped when the model is freed -> waiters are told
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The arena of keys and values of a model that names no size gets half of what is left, and at least this.
pub const LEAST_ARENA_BYTES: u64 = 64 << 20;

/// What a model takes before it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Its weights, and those of what drafts for it.
    pub weights_bytes: u64,
    /// Its arena of keys and values; `None`: half of what is left.
    pub arena_bytes: Option<u64>,
}

impl Need {
    /// Without so many bytes it is not loaded.
    pub fn least_bytes(&self) -> u64 {
        self.weights_bytes.saturating_add(self.arena_bytes.unwrap_or(LEAST_ARENA_BYTES))
    }

    /// The arena that it gets where `left_bytes` are left.
    fn arena(&self, left_bytes: u64) -> u64 {
        let half = left_bytes.saturating_sub(self.weights_bytes) / 2;
        self.arena_bytes.unwrap_or(half.max(LEAST_ARENA_BYTES))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Memory {
    limit_bytes: u64,
    limit_models: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub bytes: u64,
    pub models: usize,
}

/// A model's part of the memory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    memory: Arc<Memory>,
    bytes: u64,
    /// Of these, the arena's.
    pub arena_bytes: u64,
}

impl Memory {
    pub fn new(limit_bytes: u64, limit_models: usize) -> Arc<Memory> {
        Arc::new(Memory { limit_bytes, limit_models, taken: Mutex::default(), freed: Notify::new() })
    }

    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub fn taken(&self) -> Taken {
        *self.state()
    }

    /// Room for a model; `None` where it does not fit beside the others.
    pub fn take(self: &Arc<Memory>, need: &Need) -> Option<Hold> {
        let mut taken = self.state();
        let left = self.limit_bytes.saturating_sub(taken.bytes);
        if need.least_bytes() > left || taken.models >= self.limit_models {
            return None;
        }
        let arena_bytes = need.arena(left);
        let bytes = need.weights_bytes + arena_bytes;
        taken.bytes += bytes;
        taken.models += 1;
        Some(Hold { memory: self.clone(), bytes, arena_bytes })
    }

    /// Completes when a model is freed after this call.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    fn state(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// Corrects what was taken by what it came to, which may be more than is allowed: then others must go first.
    pub fn settle(&mut self, bytes: u64) {
        let mut taken = self.memory.state();
        taken.bytes = taken.bytes - self.bytes + bytes;
        self.bytes = bytes;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut taken = self.memory.state();
        taken.bytes -= self.bytes;
        taken.models -= 1;
        drop(taken);
        self.memory.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn models_share_the_memory() {
        let memory = Memory::new(1000 * MIB, 3);
        let need = |weights: u64, arena: Option<u64>| Need {
            weights_bytes: weights * MIB,
            arena_bytes: arena.map(|mib| mib * MIB),
        };
        assert!(memory.take(&need(990, None)).is_none(), "no arena would be left");
        let first = memory.take(&need(200, None)).expect("it fits");
        assert_eq!((first.arena_bytes, memory.taken().bytes), (400 * MIB, 600 * MIB));
        let mut second = memory.take(&need(100, Some(100))).expect("it fits");
        assert!(memory.take(&need(150, None)).is_none(), "200 MiB are left");
        let third = memory.take(&need(100, None)).expect("it fits");
        assert_eq!(third.arena_bytes, 64 * MIB, "the least");
        assert!(memory.take(&need(0, Some(0))).is_none(), "three are loaded");
        second.settle(900 * MIB);
        drop(third);
        assert_eq!(memory.taken(), Taken { bytes: 1500 * MIB, models: 2 });
        assert!(memory.take(&need(0, Some(1))).is_none(), "more is taken than allowed");
        drop((first, second));
        assert_eq!(memory.taken(), Taken::default());
    }
}
