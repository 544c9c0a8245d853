//! Reads parts of tensors into a buffer, for jobs that pass over a whole file: unlike mapped pages, what was read does
//! not stay in the memory of the process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use crate::tensors::{TensorInfo, Tensors};
use crate::{Checkpoint, OpenError};

/// Reads bytes of a checkpoint's tensors.
#[derive(Debug)]
pub struct Reader<'a> {
    tensors: &'a Tensors,
    /// The open file of each mapped one; `None` until it is used, and for files in memory.
    files: Vec<Option<File>>,
}

impl Checkpoint {
    /// A reader of this checkpoint's tensors; each thread wants its own.
    pub fn reader(&self) -> Reader<'_> {
        Reader { tensors: &self.tensors, files: self.tensors.files.iter().map(|_| None).collect() }
    }
}

impl Reader<'_> {
    /// Replaces `out` by the bytes `range` of a tensor of this checkpoint.
    ///
    /// # Errors
    /// If the file cannot be read, or has become shorter.
    ///
    /// # Panics
    /// If `range` is not within the tensor.
    pub fn read(&mut self, tensor: &TensorInfo, range: Range<usize>, out: &mut Vec<u8>) -> Result<(), OpenError> {
        assert!(range.start <= range.end && range.end <= tensor.bytes, "{}: range outside the tensor", tensor.name);
        out.clear();
        let path = self.tensors.path(tensor);
        if !path.is_file() {
            out.extend_from_slice(&self.tensors.bytes(tensor)[range]); // files in memory
            return Ok(());
        }
        let slot = &mut self.files[tensor.file];
        let file = match slot {
            Some(file) => file,
            None => slot.insert(File::open(path).map_err(OpenError::io(path, "open"))?),
        };
        let (start, len) = ((tensor.offset + range.start) as u64, range.len());
        file.seek(SeekFrom::Start(start)).map_err(OpenError::io(path, "read"))?;
        let found = file.take(len as u64).read_to_end(out).map_err(OpenError::io(path, "read"))?;
        if found < len {
            let what = format!("tensor `{}`", tensor.name);
            let (need, left) = (len as u64, found as u64);
            return Err(OpenError::Truncated { path: path.to_owned(), what, at: start, need, left });
        }
        Ok(())
    }
}
