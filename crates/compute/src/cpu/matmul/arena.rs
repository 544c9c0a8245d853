//! Memory for packed weights: zeroed, aligned to pages, backed by huge pages where the system has them.

use crate::Error;

/// An anonymous mapping.
pub(super) struct Arena {
    start: *mut u8,
    len: usize,
}

// SAFETY: the arena owns its memory; shared access only reads, except through `part`, whose caller rules out aliases.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// `len` zeroed bytes, which take memory when they are first written.
    ///
    /// # Errors
    /// If the system has no room.
    pub fn new(len: usize) -> Result<Arena, Error> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        let error = Error::Memory { what: "packed weights", bytes: len as u64 };
        if len == 0 {
            return Ok(Arena { start: std::ptr::NonNull::<u8>::dangling().as_ptr(), len });
        }
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(error);
        }
        #[cfg(target_os = "linux")]
        // SAFETY: the range was mapped just now. A hint, whose failure changes nothing but speed.
        unsafe {
            libc::madvise(start, len, libc::MADV_HUGEPAGE);
        }
        Ok(Arena { start: start.cast(), len })
    }

    /// The bytes from `start`.
    pub fn at(&self, start: usize) -> *const u8 {
        assert!(start <= self.len, "beyond the packed weights");
        // SAFETY: within the mapping.
        unsafe { self.start.add(start) }
    }

    /// A part, to write.
    ///
    /// # Safety
    /// No other reference to this part is alive.
    #[allow(clippy::mut_from_ref)] // parts are filled in parallel
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [u8] {
        assert!(start <= self.len && len <= self.len - start, "beyond the packed weights");
        // SAFETY: within the mapping; the caller rules out aliases.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping of `new`, to which no reference outlives the arena.
            unsafe { libc::munmap(self.start.cast(), self.len) };
        }
    }
}
