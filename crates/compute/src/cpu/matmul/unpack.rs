//! Panels unpacked for many columns, of forms whose codes times their small scales fit a byte ([`Form::MERGED`]): what kernels
//! decode anew for each tile of a packed panel is decoded once for all of them, into the memory of the thread that multiplies
//! it, and a span of 128 weights has one sum and one scale. Other forms gain nothing: decoding overlaps with products.
//!
//! ```text
//! group     factor [16] f32
//!           dmin [16] f32, pairs of minima [.., 16]     of forms with minima, see `wide`
//!           byte lines                                  code times scale, as `dot` takes it
//! ```
//!
//! Results are those of the packed panel, bit by bit: a column does not depend on how many there are.

use std::marker::PhantomData;

use super::kernel::{Args, Offset, ROWS, each};
use super::simd::{Codes, Simd};
use super::wide::{BLOCKS, Factor, Finish, Minima, Record, SuperBlocks, pair_of};

/// Bytes of a line: four for each row.
pub(super) const LINE: usize = 4 * ROWS;
/// Bytes ahead of those in use that are asked for: panel and tile come from the second-level cache.
pub(super) const NEAR: usize = 1024;

/// Instruction sets for which panels are unpacked.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Unpacks: Simd {
    /// Writes `4 * LANES` bytes.
    unsafe fn store_bytes(p: *mut u8, a: Self::Bytes);
    /// Asks for the cache line at `p`, which may lie outside any allocation, in the first-level cache.
    unsafe fn prefetch_near(p: *const u8);
}

/// Unpacked panels of form `F`.
pub(super) struct Unpacked<F>(PhantomData<F>);

impl<F: SuperBlocks> Unpacked<F> {
    /// Pairs of minima.
    const PAIRS: usize = if F::HALVES { F::BLOCKS } else { F::BLOCKS / 2 };
    /// Where the lines begin.
    const LINES: usize = match F::OFFSET {
        Offset::MinusMin => (2 + Self::PAIRS) * LINE,
        _ => LINE,
    };

    /// Bytes of a group.
    pub const BYTES: usize = Self::LINES + F::BLOCKS * 8 * LINE;

    /// Unpacks the first `n` blocks of a panel.
    ///
    /// # Safety
    /// Needs the features of `S`; `panel` is valid for the blocks, `out` for as many unpacked.
    #[inline(always)]
    pub unsafe fn unpack<S: Unpacks>(panel: *const u8, n: usize, out: *mut u8) {
        const { assert!(S::LANES == ROWS && F::MERGED) };
        // SAFETY: passed on to the caller; vectors have all rows.
        unsafe {
            for i in 0..n / F::BLOCKS {
                let (p, out) = (panel.add(i * F::BYTES), out.add(i * Self::BYTES));
                (0..F::BYTES.div_ceil(64)).for_each(|i| S::prefetch(p.wrapping_add(F::BYTES + i * 64)));
                let head = F::head::<S>(p, 0, false);
                S::store(out.cast(), F::integers::<S>(&head).0);
                if F::OFFSET == Offset::MinusMin {
                    S::store(out.add(LINE).cast(), F::min_factor::<S>(&head));
                    for i in 0..Self::PAIRS {
                        S::store_bytes(out.add((2 + i) * LINE), F::min_pair::<S>(&head, i, 0));
                    }
                }
                for b in 0..F::BLOCKS {
                    Self::products::<S>(&head, p, b, out.add(Self::LINES + b * 8 * LINE));
                }
            }
        }
    }

    /// Writes codes times scales of block `b` of a group `p`.
    #[inline(always)]
    unsafe fn products<S: Unpacks>(head: &F::Head<S>, p: *const u8, b: usize, out: *mut u8) {
        let zero = if let Codes::I8 { zero, .. } = F::CODES { zero } else { 0 };
        let bias = if F::CODES.is_biased::<S>() { 128 } else { 0 };
        // SAFETY: passed on to the caller.
        unsafe {
            let scales = F::integers::<S>(head).1.as_chunks::<ROWS>().0;
            for (g, codes) in F::codes::<S>(p, b, 0).into_iter().enumerate() {
                let rows = &scales[if F::HALVES { 2 * b + g / 4 } else { b }];
                let scales: [u8; LINE] = std::array::from_fn(|i| rows[i / 4]);
                let line = out.add(g * LINE);
                S::store_bytes(line, codes);
                for (code, scale) in (*line.cast::<[u8; LINE]>()).iter_mut().zip(scales) {
                    *code = code.wrapping_sub(zero).wrapping_mul(scale).wrapping_add(bias);
                }
            }
        }
    }
}

/// Unpacked panel times tile: a running sum of each column over the 32 lines of a span.
///
/// # Safety
/// See [`super::kernel::Kernel`]; `args.panel` is unpacked, `args.n` a multiple of `F::BLOCKS`.
#[inline(always)]
pub(super) unsafe fn int<S: Unpacks, F: SuperBlocks, const N: usize>(args: &Args) {
    const { assert!(S::LANES == ROWS && F::MERGED && F::BLOCKS % BLOCKS == 0) };
    // SAFETY: group `i` of the panel and the records of its spans exist for all `i < n / BLOCKS`; vectors have all rows.
    unsafe {
        for j in 0..N {
            S::store(args.out.add(j * ROWS), S::zero());
        }
        let (mut p, mut a) = (args.panel, args.tile);
        for _ in 0..args.n / F::BLOCKS {
            for first in (0..F::BLOCKS).step_by(BLOCKS) {
                let lines = p.add(Unpacked::<F>::LINES + first * 8 * LINE);
                let mut sums = span::<S, F, N>(lines, a);
                each::<S, _, N>(&mut sums, &Factor::<S>(S::load_f32(p)));
                if F::OFFSET == Offset::MinusMin {
                    let pair = |i: usize| S::load(p.add((2 + pair_of::<F>(first, i)) * LINE));
                    let pairs = [pair(0), pair(1), pair(2), pair(3)];
                    let factor = S::load_f32(p.add(LINE));
                    each::<S, _, N>(&mut sums, &Minima::<S, F, N> { pairs, factor, a, form: PhantomData });
                }
                each::<S, _, N>(&mut sums, &Finish::<N> { out: args.out, a });
                a = a.add(Record::bytes(N));
            }
            p = p.add(Unpacked::<F>::BYTES);
        }
    }
}

/// The lines of a span times a record.
#[inline(always)]
unsafe fn span<S: Unpacks, F: SuperBlocks, const N: usize>(lines: *const u8, a: *const u8) -> [S::Floats; N] {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut sums = [S::int_zero(); N];
        if F::CODES.is_biased::<S>() {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = S::int_splat(a.add(Record::c128s(N) + 4 * j).cast());
            }
        }
        for line in 0..8 * BLOCKS {
            S::prefetch_near(lines.wrapping_add(line * LINE + NEAR));
            S::prefetch_near(a.wrapping_add(line * 4 * N + NEAR));
            let w = [S::load(lines.add(line * LINE))];
            let q = a.add(line * 4 * N).cast::<i8>();
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = S::dot(F::CODES, *sum, &w, q.add(4 * j), 0);
            }
        }
        let mut floats = [S::zero(); N];
        for (float, sum) in floats.iter_mut().zip(sums) {
            *float = S::to_float(sum);
        }
        floats
    }
}
