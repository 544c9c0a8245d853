//! How many bytes a second this machine reads from memory: the ceiling of decoding, which reads every weight once a token.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Pool;
use super::arena::Arena;
use crate::Error;

/// Bytes read in one pass: many times any last-level cache.
const BYTES: usize = 512 << 20;
/// Passes; the fastest counts, since other programs only ever slow one down.
const N_PASS: usize = 3;
/// Parts of a pass that each thread gets at least, so that a late thread can be helped.
const PARTS_A_THREAD: usize = 64;

/// Memory like that of packed weights, kept between measurements so that its pages are mapped once.
pub struct Bandwidth {
    pool: Pool,
    memory: Arena,
}

impl Bandwidth {
    /// Prepares to measure with `n_threads` threads.
    ///
    /// # Errors
    /// If the system gives no memory or threads.
    pub fn new(n_threads: usize) -> Result<Bandwidth, Error> {
        let mut memory = Arena::new(BYTES, "the measurement of bandwidth")?;
        memory.bytes_mut().fill(1); // the system may serve what was never written from one page
        Ok(Bandwidth { pool: Pool::new(n_threads)?, memory })
    }

    /// Bytes a second, of the fastest of three passes.
    ///
    /// # Errors
    /// If a thread failed.
    pub fn measure(&self) -> Result<f64, Error> {
        let mut fastest = Duration::MAX;
        for _ in 0..N_PASS {
            let start = Instant::now();
            let n = PARTS_A_THREAD * self.pool.n_threads();
            self.pool.run(n, |_, i| {
                black_box(folded(&self.memory.bytes()[BYTES * i / n..BYTES * (i + 1) / n]));
            })?;
            fastest = fastest.min(start.elapsed());
        }
        Ok(BYTES as f64 / fastest.as_secs_f64())
    }
}

/// Something that depends on all bytes and that the compiler vectorizes, so that memory and not arithmetic is the limit.
fn folded(part: &[u8]) -> [u8; 256] {
    let mut lanes = [0; 256];
    for block in part.as_chunks::<256>().0 {
        lanes.iter_mut().zip(block).for_each(|(lane, x)| *lane ^= x);
    }
    lanes
}
