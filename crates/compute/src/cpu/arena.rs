//! Memory for packed weights, keys and values: zeroed, cut from large mappings that huge pages back where the system has
//! them. It takes room when it is first written (an allocator's zeroed memory of this alignment is written at once).
//!
//! A matrix of a few MiB in a mapping of its own would lie half in small pages, for each of which the processor walks page
//! tables: products of one column then take half as long again.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::Error;

/// Bytes of address space of a chunk; arenas that need more get a chunk of their own. Only what is written takes memory.
const CHUNK: usize = 256 << 20;
/// What the start of a chunk is a multiple of: a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// What the start of an arena is a multiple of: the largest page of any system, so that two arenas share none.
const PAGE: usize = 64 << 10;

/// Gives what the allocator keeps of freed memory back to the system, where it keeps any: glibc leaves freed blocks of up to
/// 32 MiB, each thread's in an arena of its own, for later ones. Takes milliseconds.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it changes no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The chunk that is being cut up, and how many of its bytes are taken.
static CURRENT: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

/// An anonymous mapping, unmapped with the last of its arenas.
struct Chunk {
    /// What was mapped, in which the chunk starts at a huge page.
    mapped: *mut libc::c_void,
    len: usize,
}

/// A part of a chunk.
pub(super) struct Arena {
    /// `None` where the arena is empty.
    chunk: Option<Arc<Chunk>>,
    start: *mut u8,
    len: usize,
}

// SAFETY: a chunk is an address range; its memory is reached through its arenas, which share none of it.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}
// SAFETY: the arena owns its part; shared access only reads, except through `part`, whose caller rules out aliases.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Chunk {
    /// A chunk of at least `len` bytes, for `what`.
    fn new(len: usize, what: &'static str) -> Result<Chunk, Error> {
        let error = Error::Memory { what, bytes: len as u64 };
        let Some(len) = len.checked_add(HUGE_PAGE) else { return Err(error) };
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags | libc::MAP_NORESERVE, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(error);
        }
        #[cfg(target_os = "linux")]
        // SAFETY: the range was mapped just now. A hint, whose failure changes nothing but speed.
        unsafe {
            libc::madvise(mapped, len, libc::MADV_HUGEPAGE);
        }
        Ok(Chunk { mapped, len })
    }

    /// Its first huge page.
    fn start(&self) -> *mut u8 {
        let mapped = self.mapped.cast::<u8>();
        // SAFETY: the mapping is a huge page longer than what was asked for.
        unsafe { mapped.add(mapped.align_offset(HUGE_PAGE)) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, into which no arena points any more.
        unsafe { libc::munmap(self.mapped, self.len) };
    }
}

impl Arena {
    /// `len` zeroed bytes for `what`, which take memory when they are first written.
    ///
    /// # Errors
    /// If the system has no room.
    pub fn new(len: usize, what: &'static str) -> Result<Arena, Error> {
        if len == 0 {
            return Ok(Arena { chunk: None, start: std::ptr::without_provenance_mut(PAGE), len });
        }
        if len > CHUNK {
            let chunk = Chunk::new(len, what)?;
            return Ok(Arena { start: chunk.start(), chunk: Some(Arc::new(chunk)), len });
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (chunk, taken) = match current.0.upgrade() {
            Some(chunk) if len <= CHUNK - current.1 => (chunk, current.1),
            _ => (Arc::new(Chunk::new(CHUNK, what)?), 0),
        };
        *current = (Arc::downgrade(&chunk), (taken + len).next_multiple_of(PAGE).min(CHUNK));
        // SAFETY: `taken + len <= CHUNK`.
        let start = unsafe { chunk.start().add(taken) };
        Ok(Arena { chunk: Some(chunk), start, len })
    }

    /// The bytes from `start`.
    pub fn at(&self, start: usize) -> *const u8 {
        assert!(start <= self.len, "beyond the arena");
        // SAFETY: within the arena.
        unsafe { self.start.add(start) }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the arena's own memory, any bytes of which are bytes; who holds a `part` sees to it that it is not read.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// All bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nothing else refers to the arena.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// A part, to write.
    ///
    /// # Safety
    /// No other reference to this part is alive.
    #[allow(clippy::mut_from_ref)] // parts are filled in parallel
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [u8] {
        assert!(start <= self.len && len <= self.len - start, "beyond the arena");
        // SAFETY: within the arena; the caller rules out aliases.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.chunk.is_some() {
            // Other arenas may keep the chunk for long.
            // SAFETY: whole pages, none of which another arena has a part of: arenas start at multiples of `PAGE`, and the
            // chunk ends with one.
            unsafe { libc::madvise(self.start.cast(), self.len.next_multiple_of(PAGE), libc::MADV_DONTNEED) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_are_zeroed_aligned_and_apart() {
        let lens = [1, PAGE, PAGE + 1, CHUNK / 2, CHUNK / 2, CHUNK, CHUNK + 1, 0, 100];
        let mut arenas: Vec<Arena> =
            lens.iter().map(|&len| Arena::new(len, "a test").expect("address space")).collect();
        for (i, arena) in arenas.iter_mut().enumerate().filter(|(_, arena)| arena.len > 0) {
            assert!((arena.start as usize).is_multiple_of(PAGE), "arena {i}");
            let (all, last) = (arena.bytes_mut(), lens[i] - 1);
            assert_eq!((all[0], all[last]), (0, 0), "arena {i}");
            (all[0], all[last]) = (i as u8 + 1, i as u8 + 1);
        }
        let bytes = |arena: &Arena| (arena.bytes()[0], arena.bytes()[arena.len - 1]);
        for (i, arena) in arenas.iter().enumerate().filter(|(_, arena)| arena.len > 0) {
            assert_eq!(bytes(arena), (i as u8 + 1, i as u8 + 1), "arena {i}");
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn freed_memory_goes_back_to_the_system() {
        let resident_kib = || -> usize {
            let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        // Blocks of which every other one stays: the allocator cannot give back what lies between.
        let blocks = || (0..400).map(|_| vec![1u8; 100 << 10]).collect::<Vec<_>>();
        let kept: Vec<Vec<u8>> =
            std::thread::spawn(move || blocks().into_iter().step_by(2).collect()).join().expect("it ends");
        let before = resident_kib();
        trim();
        let after = resident_kib();
        assert!(after + (10 << 10) < before, "{before} KiB before and {after} KiB after");
        drop(kept);
    }

    #[test]
    fn an_arena_beyond_the_address_space_is_an_error() {
        for len in [usize::MAX, usize::MAX / 2] {
            assert!(matches!(Arena::new(len, "a test"), Err(Error::Memory { .. })), "{len}");
        }
    }
}
