//! A shared read-only slice of bytes, usually of a mapped file.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Who holds the bytes: a mapped file, a `Vec`, the program itself.
pub trait Owner: AsRef<[u8]> + Send + Sync {
    /// The bytes in `range` will hardly be read again. An owner that can read them anew may give their memory back; what
    /// the bytes are does not change. Does nothing by default.
    fn release(&self, range: Range<usize>) {
        let _ = range;
    }
}

impl Owner for Vec<u8> {}

impl Owner for &'static [u8] {}

/// A slice of bytes that keeps its owner alive. Cloning copies no bytes.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Owner>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn Owner>) -> Bytes {
        let len = (*owner).as_ref().len();
        Bytes { owner, start: 0, len }
    }

    /// The bytes in `range`, or `None` when it does not lie within.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        Some(Bytes { owner: self.owner.clone(), start: self.start + range.start, len: range.end - range.start })
    }

    /// Says that these bytes will hardly be read again, so that a mapped file's pages need not stay in memory.
    pub fn release(&self) {
        self.owner.release(self.start..self.start + self.len);
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::new(Arc::new(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_outside_is_none() {
        let bytes = Bytes::from(vec![1, 2, 3, 4]);
        let tail = bytes.slice(2..4).expect("within");
        assert_eq!(&*tail, [3, 4]);
        assert!(tail.slice(0..3).is_none());
        assert_eq!(&*tail.slice(1..2).expect("within"), [4]);
    }
}
