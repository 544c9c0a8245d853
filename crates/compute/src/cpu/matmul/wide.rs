//! The bodies of the kernels of types in super-blocks of 256 weights, whose blocks' scales (and minima) are small integers
//! times a number of the super-block. Activations are int8 with a scale per 128, a span:
//!
//! ```text
//! of a span and column    sums = -dmin * (minima . sums of activations)            integers, two products an instruction
//!                         sums += scale of block * (codes . activations)           for each of its four blocks
//!                         result += scale of activations * sums
//! ```
//!
//! Scales of a block are multiplied with nothing but the codes' sums, so that a block costs one floating-point
//! instruction besides its eight products, where scales of 32 activations need a second one and minima a third; all three
//! kinds share the execution units of the products (Zen 4). As the results are needed once a span, they lie in memory.

use std::marker::PhantomData;

use super::kernel::{Args, BLOCK, Form, Offset, ROWS, Step, codes, each};
use super::simd::Simd;

/// Activations that share a scale.
pub(super) const SPAN: usize = 128;
/// Blocks of a span.
pub(super) const BLOCKS: usize = SPAN / BLOCK;

/// Bytes from the start of a record of `n` columns to its fields. A record describes 128 activations of `n` columns:
///
/// ```text
/// q       [32, n, 4] i8    x / scale, rounded
/// scale   [n] f32          largest magnitude / 127
/// pairs   [2, n, 2] i16    sum of q of each block
/// halves  [4, n, 2] i16    sum of q of each half of a block
/// c128    [4, n] i32       -128 * sum of q of each block
/// c128h   [8, n] i32       -128 * sum of q of each half of a block
/// c128s   [n] i32          -128 * sum of q
/// ```
pub(super) struct Record;

impl Record {
    pub const fn scale(n: usize) -> usize {
        128 * n
    }
    pub const fn pairs(n: usize) -> usize {
        132 * n
    }
    pub const fn halves(n: usize) -> usize {
        140 * n
    }
    pub const fn c128(n: usize) -> usize {
        156 * n
    }
    pub const fn c128h(n: usize) -> usize {
        172 * n
    }
    pub const fn c128s(n: usize) -> usize {
        204 * n
    }
    pub const fn bytes(n: usize) -> usize {
        208 * n
    }
}

/// A form in super-blocks. Its minima, if it has any ([`Offset::MinusMin`]), are integers times a factor.
///
/// # Safety
/// As for [`Form`].
pub(super) trait SuperBlocks: Form {
    /// Whether decoding costs so much that panels are unpacked for many narrow tiles, see `scaled`.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "panels are unpacked on x86-64 alone"))]
    const COSTLY: bool = true;

    /// A group's scales as a factor and integers, the bytes of i8: of each half where `HALVES`, else of each block, those of the
    /// rows.
    unsafe fn integers<S: Simd>(head: &Self::Head<S>) -> (S::Floats, &[u8]);
    /// Minima in pairs, of a group: of blocks `2 i` and `2 i + 1`, or of the halves of block `i` where `HALVES`.
    #[inline(always)]
    unsafe fn min_pair<S: Simd>(_: &Self::Head<S>, _i: usize, _row: usize) -> S::Bytes {
        unreachable!("a form without minima")
    }
    /// What the minima are multiplied with.
    #[inline(always)]
    unsafe fn min_factor<S: Simd>(_: &Self::Head<S>) -> S::Floats {
        unreachable!("a form without minima")
    }
}

/// Panel times tile.
///
/// # Safety
/// See [`super::kernel::Kernel`]; `args.n` is a multiple of `F::BLOCKS`.
#[inline(always)]
pub(super) unsafe fn int<S: Simd, F: SuperBlocks, const N: usize>(args: &Args) {
    let mut row = 0;
    while row < ROWS {
        // SAFETY: passed on to the caller; `row + LANES <= ROWS` as LANES divides 16.
        unsafe { rows::<S, F, N>(args, row) };
        row += S::LANES;
    }
}

#[inline(always)]
unsafe fn rows<S: Simd, F: SuperBlocks, const N: usize>(args: &Args, row: usize) {
    const { assert!(F::BLOCKS % BLOCKS == 0) };
    // SAFETY: group `i` of the panel and the records of its spans exist for all `i < n / BLOCKS`.
    unsafe {
        let out = args.out.add(row);
        for j in 0..N {
            S::store(out.add(j * ROWS), S::zero());
        }
        let (mut p, mut a) = (args.panel, args.tile);
        for _ in 0..args.n / F::BLOCKS {
            let head = F::head::<S>(p, row, args.bf16);
            for first in (0..F::BLOCKS).step_by(BLOCKS) {
                let mut sums = [S::zero(); N];
                if F::OFFSET == Offset::MinusMin && !F::MERGED {
                    each::<S, _, N>(&mut sums, &Minima::<S, F, N>::new(&head, first, row, a));
                }
                for b in 0..BLOCKS {
                    let w = codes::<S, F>(p, first + b, row);
                    let scales = F::scales::<S>(&head, first + b, row);
                    each::<S, _, N>(&mut sums, &Block::<S, F, N> { w, scales, b, a, form: PhantomData });
                }
                if F::MERGED {
                    each::<S, _, N>(&mut sums, &Factor::<S>(F::integers::<S>(&head).0));
                    if F::OFFSET == Offset::MinusMin {
                        each::<S, _, N>(&mut sums, &Minima::<S, F, N>::new(&head, first, row, a));
                    }
                }
                each::<S, _, N>(&mut sums, &Finish::<N> { out, a });
                a = a.add(Record::bytes(N));
            }
            p = p.add(F::BYTES);
        }
    }
}

/// The minima of a span times the activations' sums.
pub(super) struct Minima<S: Simd, F, const N: usize> {
    /// Four where they are of halves of blocks, else two.
    pub pairs: [S::Bytes; BLOCKS],
    pub factor: S::Floats,
    /// The record.
    pub a: *const u8,
    pub form: PhantomData<F>,
}

/// Which pair of minima of a group is number `i` of the span that begins with block `first`.
#[inline(always)]
pub(super) const fn pair_of<F: Form>(first: usize, i: usize) -> usize {
    if F::HALVES { first + i } else { first / 2 + i % 2 }
}

impl<S: Simd, F: SuperBlocks, const N: usize> Minima<S, F, N> {
    #[inline(always)]
    unsafe fn new(head: &F::Head<S>, first: usize, row: usize, a: *const u8) -> Minima<S, F, N> {
        // SAFETY: passed on to the caller.
        unsafe {
            let pair = |i: usize| F::min_pair::<S>(head, pair_of::<F>(first, i), row);
            Minima {
                pairs: [pair(0), pair(1), pair(2), pair(3)],
                factor: F::min_factor::<S>(head),
                a,
                form: PhantomData,
            }
        }
    }
}

impl<S: Simd, F: SuperBlocks, const N: usize> Step<S> for Minima<S, F, N> {
    #[inline(always)]
    unsafe fn step(&self, j: usize, acc: S::Floats) -> S::Floats {
        // SAFETY: `a` is a record of N columns.
        unsafe {
            let sum = pair_sums::<S, F, N>(&self.pairs, self.a.add(4 * j));
            S::fnma(self.factor, S::to_float(sum), acc)
        }
    }
}

/// The pairs of a span times the sums of the activations of a column, to which the record `a` was moved.
#[inline(always)]
pub(super) unsafe fn pair_sums<S: Simd, F: Form, const N: usize>(pairs: &[S::Bytes; BLOCKS], a: *const u8) -> S::Ints {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut sum = S::int_zero();
        let (at, n) = if F::HALVES { (Record::halves(N), BLOCKS) } else { (Record::pairs(N), BLOCKS / 2) };
        for (i, &pair) in pairs[..n].iter().enumerate() {
            sum = S::dot_pairs(sum, pair, a.add(at + 4 * N * i));
        }
        sum
    }
}

/// Block `b` of a span times the columns of a record.
struct Block<S: Simd, F, const N: usize> {
    w: [S::Bytes; 8],
    scales: [S::Floats; 2],
    b: usize,
    a: *const u8,
    form: PhantomData<F>,
}

impl<S: Simd, F: SuperBlocks, const N: usize> Step<S> for Block<S, F, N> {
    #[inline(always)]
    unsafe fn step(&self, j: usize, acc: S::Floats) -> S::Floats {
        let Block { w, scales, b, a, .. } = self;
        let biased = F::CODES.is_biased::<S>();
        // SAFETY: `a` is a record of N columns.
        unsafe {
            let q = a.add(BLOCK * N * b + 4 * j).cast::<i8>();
            let start = |at: usize| if biased { S::int_splat(a.add(at + 4 * j).cast()) } else { S::int_zero() };
            if F::HALVES {
                let (low, high): (&[S::Bytes; 4], &[S::Bytes; 4]) =
                    (w.first_chunk().expect("of eight"), w.last_chunk().expect("of eight"));
                let at = Record::c128h(N) + 8 * N * b;
                let low = S::dot(F::CODES, start(at), low, q, 4 * N);
                let high = S::dot(F::CODES, start(at + 4 * N), high, q.add(16 * N), 4 * N);
                S::fma(S::to_float(high), scales[1], S::fma(S::to_float(low), scales[0], acc))
            } else {
                let sum = S::dot(F::CODES, start(Record::c128(N) + 4 * N * b), w, q, 4 * N);
                S::fma(S::to_float(sum), scales[0], acc)
            }
        }
    }
}

/// Multiplies sums of integers.
pub(super) struct Factor<S: Simd>(pub S::Floats);

impl<S: Simd> Step<S> for Factor<S> {
    #[inline(always)]
    unsafe fn step(&self, _: usize, sum: S::Floats) -> S::Floats {
        // SAFETY: passed on to the caller.
        unsafe { S::mul(self.0, sum) }
    }
}

/// Adds the sums of a span, scaled, to the results.
pub(super) struct Finish<const N: usize> {
    pub out: *mut f32,
    pub a: *const u8,
}

impl<S: Simd, const N: usize> Step<S> for Finish<N> {
    #[inline(always)]
    unsafe fn step(&self, j: usize, sum: S::Floats) -> S::Floats {
        // SAFETY: `a` is a record of N columns, and `out` has as many.
        unsafe {
            let out = self.out.add(j * ROWS);
            let scale = S::splat(self.a.add(Record::scale(N) + 4 * j).cast());
            S::store(out, S::fma(sum, scale, S::load_f32(out.cast())));
        }
        sum
    }
}
