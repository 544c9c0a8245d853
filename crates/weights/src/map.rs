//! Files mapped into memory: the only `unsafe` of this crate.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use mlxr_compute::Bytes;

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
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(OpenError::io(path, "map"))?;
    Ok(Bytes::new(Arc::new(map)))
}
