//! How many bytes a second this machine reads from memory: the ceiling of decoding, which reads every weight once a token.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Bytes read in one pass: many times any last-level cache.
const BUFFER_BYTES: usize = 512 << 20;
/// Passes; the fastest counts, since other programs only ever slow one down.
const N_PASS: usize = 3;

/// A buffer to read, kept between measurements so that its pages are mapped once.
#[derive(Debug)]
pub struct Bandwidth {
    buffer: Vec<u64>,
    n_thread: usize,
}

impl Bandwidth {
    /// Prepares to measure with `n_thread` threads (at least one).
    #[must_use]
    pub fn new(n_thread: usize) -> Bandwidth {
        // Not zero, which the system could serve from one page.
        Bandwidth { buffer: (0..(BUFFER_BYTES / 8) as u64).collect(), n_thread: n_thread.max(1) }
    }

    /// Bytes a second, of the fastest of three passes.
    #[must_use]
    pub fn measure(&self) -> f64 {
        let fastest = (0..N_PASS).map(|_| self.pass()).min().unwrap_or(Duration::MAX);
        (self.buffer.len() * 8) as f64 / fastest.as_secs_f64()
    }

    fn pass(&self) -> Duration {
        let start = Instant::now();
        let part = self.buffer.len().div_ceil(self.n_thread);
        std::thread::scope(|scope| {
            for part in self.buffer.chunks(part) {
                scope.spawn(move || black_box(sum(part)));
            }
        });
        start.elapsed()
    }
}

/// A sum that the compiler vectorizes, so that memory and not arithmetic is the limit.
fn sum(part: &[u64]) -> u64 {
    let mut lanes = [0u64; 16];
    for block in part.chunks_exact(16) {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = lane.wrapping_add(*x);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}
