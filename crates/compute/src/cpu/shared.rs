//! Numbers that several threads write, each its own part.

use std::marker::PhantomData;

/// A mutable slice whose parts are handed to threads.
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` gives out mutable references, whose caller rules out that they overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(all: &'a mut [T]) -> Shared<'a, T> {
        Shared { start: all.as_mut_ptr(), len: all.len(), owner: PhantomData }
    }

    /// The part from `start`.
    ///
    /// # Safety
    /// No other reference to a number of this part is alive.
    #[allow(clippy::mut_from_ref)] // the point of this type; the caller rules out aliases
    pub(super) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part leaves its slice");
        // SAFETY: within the slice; the caller rules out aliases.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
