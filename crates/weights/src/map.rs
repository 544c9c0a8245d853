//! Files mapped into memory: the only `unsafe` of this crate.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};
use mlxr_compute::{Bytes, Owner};

use crate::OpenError;

/// Maps a whole file for reading. Nothing is copied; pages come from the file when they are touched.
///
/// # Errors
/// If the file cannot be opened, is no regular file, or cannot be mapped.
pub(crate) fn map(path: &Path) -> Result<Bytes, OpenError> {
    let file = File::open(path).map_err(OpenError::io(path, "open"))?;
    let stat = file.metadata().map_err(OpenError::io(path, "read the size of"))?;
    if !stat.is_file() {
        return Err(OpenError::file(path, "no regular file", "a model file", "give the path of a file"));
    }
    if stat.len() == 0 {
        return Ok(Bytes::from(Vec::new()));
    }
    // SAFETY: the map is private to this process and read-only, so nothing here writes to it. Another program that
    // shortens or rewrites the file while it is mapped would break `&[u8]`; model files are replaced by rename (as
    // every writer of this project does), never in place, and a reader of untrusted bytes re-checks nothing that it
    // has parsed: header fields are copied out once, tensor data is only ever interpreted as plain numbers.
    let map = unsafe { Mmap::map(&file) }.map_err(OpenError::io(path, "map"))?;
    Ok(Bytes::new(Arc::new(Mapped(map))))
}

struct Mapped(Mmap);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Owner for Mapped {
    /// Takes the whole pages in `range` out of this process's memory. The next read brings them back from the file.
    fn release(&self, range: Range<usize>) {
        let start = range.start.next_multiple_of(PAGE);
        let end = range.end / PAGE * PAGE;
        if start < end && end <= self.0.len() {
            // SAFETY: the map is of a file and read-only, so nothing in it can be lost: pages that are dropped are read
            // again from the same file. Failing costs memory only.
            let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

/// A multiple of every page size in use (4 KiB, 16 KiB on Apple Silicon, 64 KiB).
const PAGE: usize = 65536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_read_as_before() {
        let path = std::env::temp_dir().join(format!("mlxr-map-{}", std::process::id()));
        let want: Vec<u8> = (0..5 * PAGE + 17).map(|i| (i * 31 % 251) as u8).collect();
        std::fs::write(&path, &want).expect("a writable temporary folder");
        let bytes = map(&path).expect("a regular file");
        for range in [0..want.len(), 5..PAGE, PAGE - 1..3 * PAGE + 1, want.len()..want.len()] {
            let part = bytes.slice(range.clone()).expect("within");
            part.release();
            assert_eq!(&*part, &want[range]);
        }
        std::fs::remove_file(&path).expect("it was made above");
    }
}
