//! The bodies of the kernels: one panel of 16 rows times a tile of `N` columns.
//!
//! Integer: weights are codes in blocks of 32, activations int8 with a scale per 32 (per 128 for super-blocks: see `wide`). For each block the eight vectors
//! of codes (four consecutive `k` of each row) stay in registers while the columns pass: start the sum at the
//! correction for the codes' zero point, eight `dot`, convert, one `mul`, one `fma` (two with a minimum).
//! The order of sums of a column does not depend on `N`, so a token's result does not depend on its batch.

use std::marker::PhantomData;

use super::simd::{Codes, Simd};

/// Rows of a panel.
pub(super) const ROWS: usize = 16;
/// Weights that share an activation scale.
pub(super) const BLOCK: usize = 32;
/// Bytes ahead of the weights in use that are asked for. So far ahead they go to the second-level cache: in the first they
/// would displace the activations before they are used.
const AHEAD: usize = 8192;

/// What a kernel computes on.
pub(super) struct Args {
    /// The panel.
    pub panel: *const u8,
    /// Blocks of 32 weights in a row (integer), lines (float).
    pub n: usize,
    /// The tile: [`Record`]s of `N` columns, or `[n, N]` f32 or pairs of bf16.
    pub tile: *const u8,
    /// Whether scales are bf16, where a form leaves that open, rather than f16.
    pub bf16: bool,
    /// `[N, 16]`.
    pub out: *mut f32,
}

/// A kernel for one form and one number of columns.
///
/// # Safety
/// Needs the instruction set that it was made for, and [`Args`] whose pointers are valid for what it says.
pub(super) type Kernel = unsafe fn(&Args);

/// Bytes from the start of a record of `n` columns to its fields. A record describes 32 activations of `n` columns:
///
/// ```text
/// q       [8, n, 4] i8     x / scale, rounded
/// scale   [n] f32          largest magnitude / 127
/// sum     [n] f32          scale * sum of q
/// c8      [n] i32          -8 * sum of q
/// c128    [n] i32          -128 * sum of q
/// c128h   [2, n] i32       -128 * sum of each half of q
/// ```
pub(super) struct Record;

impl Record {
    pub const fn scale(n: usize) -> usize {
        32 * n
    }
    pub const fn sum(n: usize) -> usize {
        36 * n
    }
    pub const fn c8(n: usize) -> usize {
        40 * n
    }
    pub const fn c128(n: usize) -> usize {
        44 * n
    }
    pub const fn c128h(n: usize) -> usize {
        48 * n
    }
    pub const fn bytes(n: usize) -> usize {
        56 * n
    }
}

/// Whether a weight is `scale * code` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offset {
    /// `scale * code`.
    None,
    /// `scale * (code - 8)`.
    Eight,
    /// `scale * code + min`.
    Min,
    /// `scale * code - min`, of [super-blocks](super::wide).
    MinusMin,
}

/// How 16 rows of integer codes lie in a panel. `p` points at a group of `BLOCKS` blocks, `row` is the first of
/// `S::LANES` rows.
///
/// # Safety
/// `p` is valid for `BYTES` bytes, `b < BLOCKS`, and the features of `S` are there.
pub(super) trait Form {
    /// Blocks of 32 in a group.
    const BLOCKS: usize;
    /// Bytes of a group.
    const BYTES: usize;
    /// Range of the codes.
    const CODES: Codes;
    /// What a weight is besides scale and code.
    const OFFSET: Offset;
    /// Whether scales (and minima) are per 16 weights.
    const HALVES: bool;
    /// Whether codes were [looked up](Simd::lookup), so that they need no [`Simd::signed`].
    const LOOKED_UP: bool = false;
    /// Of super-blocks: whether a code times its scale fits a byte (see `unpack`). Scales are then small integers, a span's sums
    /// of which are below 2^24 and so exact in f32, too, and what they are multiplied with is apart.
    const MERGED: bool = false;
    /// What is decoded once a group.
    type Head<S: Simd>;

    /// `bf16`: see [`Args`].
    unsafe fn head<S: Simd>(p: *const u8, row: usize, bf16: bool) -> Self::Head<S>;
    /// Codes of block `b`: vector `g` holds weights `4 g .. 4 g + 4` of each row.
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8];
    /// Scales of the halves of block `b`; the first is the block's unless `HALVES`.
    unsafe fn scales<S: Simd>(head: &Self::Head<S>, b: usize, row: usize) -> [S::Floats; 2];
    /// The minimum of the group, for [`Offset::Min`].
    #[inline(always)]
    unsafe fn min<S: Simd>(_: &Self::Head<S>) -> S::Floats {
        // SAFETY: passed on to the caller.
        unsafe { S::zero() }
    }
}

/// Panel times tile, integer.
///
/// # Safety
/// See [`Kernel`]; `args.n` is a multiple of `F::BLOCKS`.
#[inline(always)]
pub(super) unsafe fn int<S: Simd, F: Form, const N: usize>(args: &Args) {
    let mut row = 0;
    while row < ROWS {
        // SAFETY: passed on to the caller; `row + LANES <= ROWS` as LANES divides 16.
        unsafe { int_rows::<S, F, N>(args, row) };
        row += S::LANES;
    }
}

#[inline(always)]
unsafe fn int_rows<S: Simd, F: Form, const N: usize>(args: &Args, row: usize) {
    // SAFETY: group `i` of the panel and record `i * BLOCKS + b` of the tile exist for all `i < n / BLOCKS`.
    unsafe {
        let mut acc = [S::zero(); N];
        let (mut p, mut a) = (args.panel, args.tile);
        for _ in 0..args.n / F::BLOCKS {
            let head = F::head::<S>(p, row, args.bf16);
            for b in 0..F::BLOCKS {
                let w = codes::<S, F>(p, b, row);
                let (scales, min) = (F::scales::<S>(&head, b, row), F::min::<S>(&head));
                each::<S, _, N>(&mut acc, &Block::<S, F, N> { w, scales, min, a, form: PhantomData });
                a = a.add(Record::bytes(N));
            }
            p = p.add(F::BYTES);
        }
        for (j, acc) in acc.iter().enumerate() {
            S::store(args.out.add(j * ROWS + row), *acc);
        }
    }
}

/// Codes of block `b` of a group, as `dot` takes them; asks for those that will be needed.
///
/// # Safety
/// See [`Form`].
#[inline(always)]
pub(super) unsafe fn codes<S: Simd, F: Form>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
    // SAFETY: passed on to the caller.
    unsafe {
        if row == 0 {
            let line = F::BYTES / F::BLOCKS;
            (0..line.div_ceil(64)).for_each(|i| S::prefetch(p.wrapping_add(b * line + i * 64 + AHEAD)));
        }
        let mut w = F::codes::<S>(p, b, row);
        if let Codes::I8 { zero, .. } = F::CODES
            && !F::LOOKED_UP
        {
            for w in &mut w {
                *w = S::signed(*w, zero);
            }
        }
        w
    }
}

/// What is added to a column: a block of weights, say, times its inputs.
///
/// # Safety
/// `j` is a column of the tile, and the features of `S` are there.
pub(super) trait Step<S: Simd> {
    unsafe fn step(&self, j: usize, acc: S::Floats) -> S::Floats;
}

/// A step of all columns, written out: the compiler does not unroll a loop of this size, and an array that is indexed by
/// a variable lives in memory.
///
/// # Safety
/// See [`Step`].
#[inline(always)]
pub(super) unsafe fn each<S: Simd, T: Step<S>, const N: usize>(acc: &mut [S::Floats; N], step: &T) {
    // SAFETY: passed on to the caller.
    unsafe {
        one::<S, T, N>(0, acc, step);
        one::<S, T, N>(1, acc, step);
        one::<S, T, N>(2, acc, step);
        one::<S, T, N>(3, acc, step);
        one::<S, T, N>(4, acc, step);
        one::<S, T, N>(5, acc, step);
        one::<S, T, N>(6, acc, step);
        one::<S, T, N>(7, acc, step);
        one::<S, T, N>(8, acc, step);
        one::<S, T, N>(9, acc, step);
        one::<S, T, N>(10, acc, step);
        one::<S, T, N>(11, acc, step);
        one::<S, T, N>(12, acc, step);
        one::<S, T, N>(13, acc, step);
        one::<S, T, N>(14, acc, step);
        one::<S, T, N>(15, acc, step);
    }
}

#[inline(always)]
unsafe fn one<S: Simd, T: Step<S>, const N: usize>(j: usize, acc: &mut [S::Floats; N], step: &T) {
    if j < N {
        // SAFETY: passed on to the caller.
        acc[j] = unsafe { S::pin(step.step(j, acc[j])) };
    }
}

/// A block times the columns of a record `a`.
struct Block<S: Simd, F, const N: usize> {
    w: [S::Bytes; 8],
    scales: [S::Floats; 2],
    min: S::Floats,
    a: *const u8,
    form: PhantomData<F>,
}

impl<S: Simd, F: Form, const N: usize> Step<S> for Block<S, F, N> {
    #[inline(always)]
    unsafe fn step(&self, j: usize, acc: S::Floats) -> S::Floats {
        // SAFETY: `a` is a record of N columns.
        unsafe { block::<S, F, N>(acc, &self.w, self.scales, self.min, self.a.add(4 * j)) }
    }
}

/// One block times one column; `a` is the record, moved to the column.
#[inline(always)]
unsafe fn block<S: Simd, F: Form, const N: usize>(
    mut acc: S::Floats,
    w: &[S::Bytes; 8],
    scales: [S::Floats; 2],
    min: S::Floats,
    a: *const u8,
) -> S::Floats {
    // SAFETY: `a` points into a record of N columns.
    unsafe {
        let at = |offset: usize| a.add(offset).cast::<f32>();
        let q = a.cast::<i8>();
        let biased = F::CODES.is_biased::<S>();
        let scale = S::splat(at(Record::scale(N)));
        if F::HALVES {
            let (low, high) = w.split_at(4);
            let (low, high): (&[S::Bytes; 4], &[S::Bytes; 4]) =
                (&low.try_into().unwrap_unchecked(), &high.try_into().unwrap_unchecked());
            let start = |half: usize| match biased {
                true => S::int_splat(at(Record::c128h(N) + half * 4 * N).cast()),
                false => S::int_zero(),
            };
            let low = S::to_float(S::dot(F::CODES, start(0), low, q, 4 * N));
            let high = S::to_float(S::dot(F::CODES, start(1), high, q.add(16 * N), 4 * N));
            acc = S::fma(S::fma(high, scales[1], S::mul(low, scales[0])), scale, acc);
        } else {
            let start = match F::OFFSET {
                _ if biased => S::int_splat(at(Record::c128(N)).cast()),
                Offset::Eight => S::int_splat(at(Record::c8(N)).cast()),
                _ => S::int_zero(),
            };
            let sum = S::dot(F::CODES, start, w, q, 4 * N);
            acc = S::fma(S::to_float(sum), S::mul(scales[0], scale), acc);
        }
        match F::OFFSET {
            Offset::Min => S::fma(min, S::splat(at(Record::sum(N))), acc),
            Offset::None | Offset::Eight | Offset::MinusMin => acc,
        }
    }
}

/// How 16 rows of floats lie in a panel: lines of a weight, or a few, of each row.
///
/// # Safety
/// `p` is valid for the line from a row on, `a` for as many inputs of a column as a line has weights of a row, and the
/// features of `S` are there.
pub(super) trait Line<S: Simd> {
    /// Bytes of a row in a line.
    const BYTES: usize;
    /// What the lanes of `S` hold of a line.
    type Part: Copy;

    unsafe fn load(p: *const u8) -> Self::Part;
    /// `acc + part * a`.
    unsafe fn fma(part: Self::Part, a: *const u8, acc: S::Floats) -> S::Floats;
}

/// Lines of one number of each row, multiplied as f32.
///
/// # Safety
/// `p` is valid for the numbers of as many rows as `S` has lanes, and the features of `S` are there.
pub(super) trait Number {
    /// Bytes of a number.
    const SIZE: usize;

    unsafe fn load<S: Simd>(p: *const u8) -> S::Floats;
}

impl<S: Simd, F: Number> Line<S> for F {
    const BYTES: usize = F::SIZE;
    type Part = S::Floats;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> S::Floats {
        // SAFETY: passed on to the caller.
        unsafe { <F as Number>::load::<S>(p) }
    }

    #[inline(always)]
    unsafe fn fma(part: S::Floats, a: *const u8, acc: S::Floats) -> S::Floats {
        // SAFETY: passed on to the caller.
        unsafe { S::fma(part, S::splat(a.cast()), acc) }
    }
}

/// Panel times tile, float.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
pub(super) unsafe fn float<S: Simd, F: Line<S>, const N: usize>(args: &Args) {
    let mut row = 0;
    while row < ROWS {
        // SAFETY: line `k` of the panel and row `k` of the tile exist for all `k < n`.
        unsafe {
            let mut acc = [S::zero(); N];
            let mut p = args.panel.add(row * F::BYTES);
            let mut a = args.tile;
            for _ in 0..args.n {
                if row == 0 {
                    S::prefetch(p.wrapping_add(AHEAD));
                }
                let part = F::load(p);
                for (j, acc) in acc.iter_mut().enumerate() {
                    *acc = F::fma(part, a.add(4 * j), *acc);
                }
                p = p.add(ROWS * F::BYTES);
                a = a.add(4 * N);
            }
            for (j, acc) in acc.iter().enumerate() {
                S::store(args.out.add(j * ROWS + row), *acc);
            }
        }
        row += S::LANES;
    }
}
