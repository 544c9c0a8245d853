//! Tensors whose memory comes back: a step that repeats allocates nothing.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::Cacheline;

/// Floats of a [`Cacheline`].
const LINE: usize = 16;
/// Most buffers of one size that wait to be used again.
const SPARES: usize = 64;
/// Sizes: four to each power of two, from one line to 2^40 lines.
const SIZES: usize = 4 * 40;

/// Where buffers wait to be used again, by size. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Mutex<Vec<Spares>>>);

/// Buffers of one size.
type Spares = Vec<Box<[Cacheline]>>;

/// Some f32, aligned to 64 bytes, which go back to their [`Memory`] when dropped.
pub struct Buffer {
    lines: Box<[Cacheline]>,
    len: usize,
    home: Memory,
}

/// Numbers `[n_row, n_col]`, row after row.
pub struct Tensor {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The numbers.
    pub data: Buffer,
}

impl Default for Memory {
    fn default() -> Memory {
        let lists = (0..SIZES).map(|_| Vec::with_capacity(SPARES)).collect();
        Memory(Arc::new(Mutex::new(lists)))
    }
}

impl Memory {
    /// A buffer of `len` floats that hold anything.
    pub fn buffer(&self, len: usize) -> Buffer {
        let (size, n_line) = size_class(len.div_ceil(LINE));
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner)[size].pop();
        let lines = spare.unwrap_or_else(|| vec![Cacheline([0.0; LINE]); n_line].into_boxed_slice());
        Buffer { lines, len, home: self.clone() }
    }

    /// A tensor whose numbers are anything.
    pub fn tensor(&self, shape: [usize; 2]) -> Tensor {
        Tensor { shape, data: self.buffer(shape[0] * shape[1]) }
    }

    /// A copy of a tensor.
    pub fn copy(&self, x: &Tensor) -> Tensor {
        let mut copy = self.tensor(x.shape);
        copy.data.copy_from_slice(&x.data);
        copy
    }
}

/// The class of a size and the lines of its buffers: 1.25, 1.5, 1.75 or 2 times a power of two.
fn size_class(n_line: usize) -> (usize, usize) {
    if n_line <= 4 {
        return (n_line, n_line);
    }
    let power = (n_line - 1).ilog2() as usize; // 2^power < n_line <= 2^(power + 1), power >= 2
    let quarter = 1 << (power - 2);
    let quarters = (n_line - (1 << power)).div_ceil(quarter);
    (4 * (power - 1) + quarters, (1 << power) + quarters * quarter)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let (size, _) = size_class(lines.len());
        let mut lists = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lists[size].len() < SPARES {
            lists[size].push(lines);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl Tensor {
    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.shape[1]..][..self.shape[1]]
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({:?})", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_classes_of_their_own() {
        let mut last = (0, 0);
        for n in 0..5000 {
            let (size, lines) = size_class(n);
            assert!(lines >= n && lines <= n + n / 4 + 1, "{n}: {lines}");
            assert_eq!(size_class(lines), (size, lines), "a buffer comes back to the class that it left");
            assert!((size, lines) == last || (size > last.0 && lines > last.1) || n == 0, "{n}");
            last = (size, lines);
        }
        assert!(size_class(usize::MAX >> 20).0 < SIZES + 16);
    }

    #[test]
    fn memory_comes_back() {
        let memory = Memory::default();
        let first = memory.tensor([3, 100]);
        let place = first.data.as_ptr();
        drop(first);
        let second = memory.tensor([1, 299]);
        assert_eq!((second.data.as_ptr(), second.data.len()), (place, 299));
        assert_ne!(memory.tensor([1, 299]).data.as_ptr(), place);
        assert!(memory.tensor([0, 7]).data.is_empty());
    }
}
