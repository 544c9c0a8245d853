//! The bodies of the kernels of super-blocks where products of bytes are summed in 16 bits ([`Narrow`]): the small scale of a block
//! is the factor by which its sums are widened, which costs nothing, so that a span of 128 weights has one sum of integers.
//!
//! ```text
//! of a span and column    sums = -bias * (scales . sums of activations)              of codes that `bias` makes unsigned
//!                         sums += scale of block * (codes . activations)             for each of its four blocks
//!                         sums = factor * sums - dmin * (minima . sums of activations)
//!                         result += scale of activations * sums
//! ```
//!
//! For many columns panels are unpacked, once for all tiles, into the memory of the thread that multiplies them:
//!
//! ```text
//! group     factor [16] f32
//!           dmin [16] f32                       of forms with minima
//!           minima, or -bias * scales           in pairs [.., 16] of i16, see `wide`; of forms that need them
//!           scales [.., 16], each twice, i16    of halves where `HALVES`, else of blocks
//!           byte lines                          of codes, bias added
//! ```
//!
//! Sums are exact, so that results are the same, bit by bit, of packed and unpacked panels.

use std::marker::PhantomData;

use super::kernel::{Args, BLOCK, Form, Offset, ROWS, codes, each};
use super::simd::Codes;
use super::unpack::{LINE, NEAR, Unpacks};
use super::wide::{BLOCKS, Finish, Minima, Record, SuperBlocks, pair_of, pair_sums};

/// Instruction sets that sum products of bytes in 16 bits.
///
/// # Safety
/// As for [`super::simd::Simd`].
pub(super) trait Narrow: Unpacks {
    /// Zeros.
    unsafe fn none() -> Self::Bytes;
    /// Of i16: `acc[l] + w[2 l] * a[2 l % 4] + w[2 l + 1] * a[2 l % 4 + 1]`; bytes `w` are signed where `SIGNED`.
    unsafe fn add_products<const SIGNED: bool>(acc: Self::Bytes, w: Self::Bytes, a: *const u8) -> Self::Bytes;
    /// `acc[l] + scale[2 l] * sums[2 l] + scale[2 l + 1] * sums[2 l + 1]`, of i16.
    unsafe fn widen(acc: Self::Ints, sums: Self::Bytes, scale: Self::Bytes) -> Self::Ints;
    /// Each i8 at `p`, twice, as i16.
    unsafe fn twice(p: *const u8) -> Self::Bytes;
    /// Of i16: `k * a[2 l]` and `k * b[2 l + 1]`.
    unsafe fn pairs_times(a: Self::Bytes, b: Self::Bytes, k: i16) -> Self::Bytes;
}

/// How products of codes are summed in 16 bits.
struct Sums {
    /// Whether codes are signed: their signs then go to the activations, for each product.
    signed: bool,
    /// What is added to a code (less its zero) to make it unsigned.
    bias: u8,
    /// Vectors of products whose sum fits, at most 8.
    run: usize,
}

impl Sums {
    const fn of<F: Form>() -> Sums {
        let (signed, bias, largest) = match F::CODES {
            Codes::U4 => (false, 0, 15),
            Codes::U5 => (false, 0, 31),
            // Twice as large, unsigned codes of more would have runs of one.
            Codes::I8 { zero: 0, most: most @ 33.. } => (true, 0, most as usize),
            Codes::I8 { zero: 0, most } => (false, most, 2 * most as usize),
            Codes::I8 { zero, most } => (false, zero, zero as usize + most as usize),
        };
        let unit = if F::HALVES { 4 } else { 8 };
        let mut run = 1;
        while 2 * run <= unit && 2 * run * largest * 2 * 127 <= i16::MAX as usize {
            run *= 2;
        }
        Sums { signed, bias, run }
    }

    /// Whether there are pairs: minima, or scales for the bias.
    const fn pairs<F: Form>() -> bool {
        matches!(F::OFFSET, Offset::MinusMin) || Sums::of::<F>().bias > 0
    }
}

/// A group of a panel, for as many rows as `S` has lanes.
///
/// # Safety
/// As for [`Form`].
trait Group<S: Narrow> {
    /// A block.
    type Block;

    unsafe fn factor(&self) -> S::Floats;
    unsafe fn min_factor(&self) -> S::Floats;
    /// Pair `i` of minima, or of scales times `-bias`.
    unsafe fn pair(&self, i: usize) -> S::Bytes;
    /// Scale of half or block `i`.
    unsafe fn scale(&self, i: usize) -> S::Bytes;
    unsafe fn block(&self, b: usize) -> Self::Block;
    /// Vector `g` of its codes.
    unsafe fn codes(block: &Self::Block, g: usize) -> S::Bytes;
}

/// As it is packed.
struct Packed<S: Narrow, F: SuperBlocks> {
    head: F::Head<S>,
    p: *const u8,
    row: usize,
}

impl<S: Narrow, F: SuperBlocks> Packed<S, F> {
    #[inline(always)]
    unsafe fn new(p: *const u8, row: usize) -> Self {
        // SAFETY: passed on to the caller.
        Packed { head: unsafe { F::head::<S>(p, row, false) }, p, row }
    }
}

impl<S: Narrow, F: SuperBlocks> Group<S> for Packed<S, F> {
    type Block = [S::Bytes; 8];

    #[inline(always)]
    unsafe fn factor(&self) -> S::Floats {
        // SAFETY: passed on to the caller.
        unsafe { F::integers::<S>(&self.head).0 }
    }

    #[inline(always)]
    unsafe fn min_factor(&self) -> S::Floats {
        // SAFETY: passed on to the caller.
        unsafe { F::min_factor::<S>(&self.head) }
    }

    #[inline(always)]
    unsafe fn pair(&self, i: usize) -> S::Bytes {
        // SAFETY: passed on to the caller.
        unsafe {
            match const { Sums::of::<F>().bias } {
                0 => F::min_pair::<S>(&self.head, i, self.row),
                bias => S::pairs_times(self.scale(2 * i), self.scale(2 * i + 1), -i16::from(bias)),
            }
        }
    }

    #[inline(always)]
    unsafe fn scale(&self, i: usize) -> S::Bytes {
        // SAFETY: rows of 16 have `S::LANES` numbers from `row` on.
        unsafe { S::twice(F::integers::<S>(&self.head).1[ROWS * i..][..ROWS][self.row..].as_ptr()) }
    }

    #[inline(always)]
    unsafe fn block(&self, b: usize) -> [S::Bytes; 8] {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut w = codes::<S, F>(self.p, b, self.row);
            for w in &mut w {
                *w = S::signed(*w, const { Sums::of::<F>().bias.wrapping_neg() });
            }
            w
        }
    }

    #[inline(always)]
    unsafe fn codes(block: &[S::Bytes; 8], g: usize) -> S::Bytes {
        block[g]
    }
}

/// Unpacked: the group, moved to the first row.
pub(super) struct Unpacked<F>(*const u8, PhantomData<F>);

impl<F: SuperBlocks> Unpacked<F> {
    /// Where the parts of a group begin.
    const PAIRS: usize = LINE * if matches!(F::OFFSET, Offset::MinusMin) { 2 } else { 1 };
    const N_PAIR: usize = match (Sums::pairs::<F>(), F::HALVES) {
        (false, _) => 0,
        (true, true) => F::BLOCKS,
        (true, false) => F::BLOCKS / 2,
    };
    const SCALES: usize = Self::PAIRS + Self::N_PAIR * LINE;
    const N_SCALE: usize = if F::HALVES { 2 * F::BLOCKS } else { F::BLOCKS };
    const LINES: usize = Self::SCALES + Self::N_SCALE * LINE;
    /// Bytes of a group.
    pub const BYTES: usize = Self::LINES + F::BLOCKS * 8 * LINE;

    /// Unpacks the first `n` blocks of a panel.
    ///
    /// # Safety
    /// Needs the features of `S`; `panel` is valid for the blocks, `out` for as many unpacked.
    #[inline(always)]
    pub unsafe fn unpack<S: Narrow>(panel: *const u8, n: usize, out: *mut u8) {
        const { assert!(S::LANES == ROWS) };
        // SAFETY: passed on to the caller; vectors have all rows.
        unsafe {
            for i in 0..n / F::BLOCKS {
                let group = Packed::<S, F>::new(panel.add(i * F::BYTES), 0);
                let out = out.add(i * Self::BYTES);
                S::store(out.cast(), group.factor());
                if F::OFFSET == Offset::MinusMin {
                    S::store(out.add(LINE).cast(), group.min_factor());
                }
                for i in 0..Self::N_PAIR {
                    S::store_bytes(out.add(Self::PAIRS + i * LINE), group.pair(i));
                }
                for i in 0..Self::N_SCALE {
                    S::store_bytes(out.add(Self::SCALES + i * LINE), group.scale(i));
                }
                for b in 0..F::BLOCKS {
                    for (g, w) in group.block(b).into_iter().enumerate() {
                        S::store_bytes(out.add(Self::LINES + (8 * b + g) * LINE), w);
                    }
                }
            }
        }
    }
}

impl<S: Narrow, F: SuperBlocks> Group<S> for Unpacked<F> {
    type Block = *const u8;

    #[inline(always)]
    unsafe fn factor(&self) -> S::Floats {
        // SAFETY: passed on to the caller.
        unsafe { S::load_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn min_factor(&self) -> S::Floats {
        // SAFETY: passed on to the caller.
        unsafe { S::load_f32(self.0.add(LINE)) }
    }

    #[inline(always)]
    unsafe fn pair(&self, i: usize) -> S::Bytes {
        // SAFETY: passed on to the caller.
        unsafe { S::load(self.0.add(Self::PAIRS + i * LINE)) }
    }

    #[inline(always)]
    unsafe fn scale(&self, i: usize) -> S::Bytes {
        // SAFETY: passed on to the caller.
        unsafe { S::load(self.0.add(Self::SCALES + i * LINE)) }
    }

    #[inline(always)]
    unsafe fn block(&self, b: usize) -> *const u8 {
        // SAFETY: passed on to the caller.
        unsafe { self.0.add(Self::LINES + 8 * b * LINE) }
    }

    #[inline(always)]
    unsafe fn codes(block: &*const u8, g: usize) -> S::Bytes {
        // SAFETY: passed on to the caller.
        unsafe {
            let line = block.add(g * LINE);
            S::prefetch_near(line.wrapping_add(NEAR));
            S::load(line)
        }
    }
}

/// Packed panel times tile.
///
/// # Safety
/// See [`super::kernel::Kernel`]; `args.n` is a multiple of `F::BLOCKS`.
#[inline(always)]
pub(super) unsafe fn int<S: Narrow, F: SuperBlocks, const N: usize>(args: &Args) {
    const { assert!(F::BLOCKS % BLOCKS == 0) };
    // SAFETY: group `i` of the panel and the records of its spans exist for all `i < n / BLOCKS`; LANES divides 16.
    unsafe {
        for row in (0..ROWS).step_by(S::LANES) {
            let out = args.out.add(row);
            (0..N).for_each(|j| S::store(out.add(j * ROWS), S::zero()));
            let (mut p, mut a) = (args.panel, args.tile);
            for _ in 0..args.n / F::BLOCKS {
                let group = Packed::<S, F>::new(p, row);
                for first in (0..F::BLOCKS).step_by(BLOCKS) {
                    span::<S, F, _, N>(&group, first, a, out);
                    a = a.add(Record::bytes(N));
                }
                p = p.add(F::BYTES);
            }
        }
    }
}

/// Unpacked panel times tile.
///
/// # Safety
/// Likewise; `args.panel` is unpacked.
#[inline(always)]
pub(super) unsafe fn unpacked<S: Narrow, F: SuperBlocks, const N: usize>(args: &Args) {
    // SAFETY: likewise.
    unsafe {
        (0..N * ROWS / S::LANES).for_each(|i| S::store(args.out.add(i * S::LANES), S::zero()));
        let (mut p, mut a) = (args.panel, args.tile);
        for _ in 0..args.n / F::BLOCKS {
            for first in (0..F::BLOCKS).step_by(BLOCKS) {
                for row in (0..ROWS).step_by(S::LANES) {
                    let group = Unpacked::<F>(p.add(4 * row), PhantomData);
                    span::<S, F, _, N>(&group, first, a, args.out.add(row));
                }
                a = a.add(Record::bytes(N));
            }
            p = p.add(Unpacked::<F>::BYTES);
        }
    }
}

/// The span of a group that begins with block `first`, times a record.
#[inline(always)]
unsafe fn span<S: Narrow, F: SuperBlocks, G: Group<S>, const N: usize>(
    group: &G,
    first: usize,
    a: *const u8,
    out: *mut f32,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let pair = |i: usize| group.pair(pair_of::<F>(first, i));
        let mut sums = [S::int_zero(); N];
        if const { Sums::of::<F>().bias > 0 } {
            let pairs = [pair(0), pair(1), pair(2), pair(3)];
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = pair_sums::<S, F, N>(&pairs, a.add(4 * j));
            }
        }
        for b in first..first + BLOCKS {
            let scales = match F::HALVES {
                true => [group.scale(2 * b), group.scale(2 * b + 1)],
                false => [group.scale(b); 2],
            };
            add_block::<S, F, G, N>(&mut sums, &group.block(b), scales, a.add(BLOCK * N * (b - first)));
        }
        let mut floats = [S::zero(); N];
        for (float, sum) in floats.iter_mut().zip(sums) {
            *float = S::mul(group.factor(), S::to_float(sum));
        }
        if F::OFFSET == Offset::MinusMin {
            let (pairs, factor) = ([pair(0), pair(1), pair(2), pair(3)], group.min_factor());
            each::<S, _, N>(&mut floats, &Minima::<S, F, N> { pairs, factor, a, form: PhantomData });
        }
        each::<S, _, N>(&mut floats, &Finish::<N> { out, a });
    }
}

/// Adds a block times its activations, which begin at `a`.
#[inline(always)]
unsafe fn add_block<S: Narrow, F: SuperBlocks, G: Group<S>, const N: usize>(
    sums: &mut [S::Ints; N],
    block: &G::Block,
    scales: [S::Bytes; 2],
    a: *const u8,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut narrow = [S::none(); N];
        for g in 0..8 {
            let w = G::codes(block, g);
            for (j, narrow) in narrow.iter_mut().enumerate() {
                let a = a.add(4 * (N * g + j));
                *narrow = match const { Sums::of::<F>().signed } {
                    true => S::add_products::<true>(*narrow, w, a),
                    false => S::add_products::<false>(*narrow, w, a),
                };
            }
            if (g + 1).is_multiple_of(const { Sums::of::<F>().run }) {
                for (sum, narrow) in sums.iter_mut().zip(&mut narrow) {
                    *sum = S::widen(*sum, *narrow, scales[g / 4]);
                    *narrow = S::none();
                }
            }
        }
    }
}
