//! What tests of several crates share: an allocator that counts, for steps that must not allocate, a model without weights and
//! folders that go with a test.
//!
//! ```ignore
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting::new();
//! ```

mod folder;
mod runner;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

pub use folder::Temp;
pub use runner::{Scripted, n_logits};

/// The system's allocator, counting how often it gives.
#[derive(Debug, Default)]
pub struct Counting(AtomicU64);

impl Counting {
    /// Nothing given yet.
    #[must_use]
    pub const fn new() -> Counting {
        Counting(AtomicU64::new(0))
    }

    /// How often memory was given or grew, by all threads.
    pub fn given(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

// SAFETY: everything is the system allocator's. Growing is left to the trait, which allocates anew and so is counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(p, layout) }
    }
}
