//! The K-quants and IQ1_S: super-blocks of 256, whose scales of 16 or 32 weights are small integers times an f16.

#![allow(non_camel_case_types)] // named as the formats are

use super::super::kernel::{Form, Offset, ROWS};
use super::super::simd::{Codes, Simd};
use super::super::wide::SuperBlocks;
use super::{add_bit, add_two_bits, bytes, nibbles, three_bits, two_bits};
use crate::quant::iq1::DELTA;

/// Six-bit numbers `[8, 16]` in 96 bytes: `[4, 16]` low nibbles of numbers `i` and `i + 4`, then `[2, 16]` high two
/// bits, where number `i` has bits `2 * (i / 2)` of row `i % 2`.
#[inline(always)]
pub(super) unsafe fn six_bits(p: *const u8) -> [u8; 128] {
    // SAFETY: the caller's pointer is valid for 96 bytes.
    let (low, high) = unsafe { (p.cast::<[u8; 64]>().read_unaligned(), p.add(64).cast::<[u8; 32]>().read_unaligned()) };
    let mut out = [0; 128];
    for i in 0..32 {
        out[i] = low[i] & 15 | (high[i] & 3) << 4;
        out[32 + i] = low[32 + i] & 15 | (high[i] & 12) << 2;
        out[64 + i] = low[i] >> 4 | high[i] & 48;
        out[96 + i] = low[32 + i] >> 4 | (high[i] & 192) >> 2;
    }
    out
}

/// Scales and minima of a group of Q4_K or Q5_K.
pub(in super::super) struct Head45<F> {
    d: F,
    dmin: F,
    scales: [u8; 128],
    mins: [u8; 128],
}

#[inline(always)]
unsafe fn head45<S: Simd>(p: *const u8, row: usize) -> Head45<S::Floats> {
    // SAFETY: the caller's pointer is valid for 256 bytes.
    unsafe {
        Head45 {
            d: S::load_f16(p.add(2 * row)),
            dmin: S::load_f16(p.add(32 + 2 * row)),
            scales: six_bits(p.add(64)),
            mins: six_bits(p.add(160)),
        }
    }
}

/// Rows `2 i` and `2 i + 1` of `numbers`, 16 bytes each, side by side.
#[inline(always)]
unsafe fn pair<S: Simd>(numbers: &[u8], i: usize, row: usize) -> S::Bytes {
    let at = |index: usize| numbers[ROWS * index..][..ROWS][row..].as_ptr();
    // SAFETY: the rows of 16 have `S::LANES` numbers from `row` on.
    unsafe { S::byte_pairs(at(2 * i), at(2 * i + 1)) }
}

/// `factor` times the unsigned numbers of 16 rows, `index` rows into `numbers`.
#[inline(always)]
pub(super) unsafe fn times<S: Simd>(factor: S::Floats, numbers: &[u8], index: usize, row: usize) -> S::Floats {
    // SAFETY: the callers' arrays have a row `index`.
    unsafe { S::mul(factor, S::load_u8(numbers.as_ptr().add(ROWS * index + row))) }
}

/// The unsigned numbers of 16 rows, `index` rows into `numbers`.
#[inline(always)]
pub(super) unsafe fn whole<S: Simd>(numbers: &[u8], index: usize, row: usize) -> S::Floats {
    // SAFETY: the rows of 16 have `S::LANES` numbers from `row` on.
    unsafe { S::load_u8(numbers[ROWS * index..][..ROWS][row..].as_ptr()) }
}

/// Likewise [`times`] for signed numbers.
#[inline(always)]
unsafe fn times_signed<S: Simd>(factor: S::Floats, numbers: *const i8, index: usize, row: usize) -> S::Floats {
    // SAFETY: the callers' arrays have a row `index`.
    unsafe { S::mul(factor, S::load_i8(numbers.add(ROWS * index + row).cast())) }
}

/// Q4_K. Group: `d`, `dmin` f16 `[16]`, scales and minima as [`six_bits`], 8 times 4 nibble lines.
pub(in super::super) struct Q4_K;

impl Form for Q4_K {
    const BLOCKS: usize = 8;
    const BYTES: usize = 256 + 8 * 256;
    const CODES: Codes = Codes::U4;
    const OFFSET: Offset = Offset::MinusMin;
    const HALVES: bool = false;
    type Head<S: Simd> = Head45<S::Floats>;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> Head45<S::Floats> {
        // SAFETY: see [`Form`].
        unsafe { head45::<S>(p, row) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { nibbles::<S>(p.add(256 + b * 256), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &Head45<S::Floats>, b: usize, row: usize) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe { [times::<S>(head.d, &head.scales, b, row); 2] }
    }
}

impl SuperBlocks for Q4_K {
    const COSTLY: bool = false;

    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &Head45<S::Floats>) -> (S::Floats, &[u8]) {
        (head.d, &head.scales)
    }

    #[inline(always)]
    unsafe fn min_pair<S: Simd>(head: &Head45<S::Floats>, i: usize, row: usize) -> S::Bytes {
        // SAFETY: see [`Form`].
        unsafe { pair::<S>(&head.mins, i, row) }
    }

    #[inline(always)]
    unsafe fn min_factor<S: Simd>(head: &Head45<S::Floats>) -> S::Floats {
        head.dmin
    }
}

/// Q5_K. Group: like Q4_K, but a bit line follows each 4 nibble lines.
pub(in super::super) struct Q5_K;

impl Form for Q5_K {
    const BLOCKS: usize = 8;
    const BYTES: usize = 256 + 8 * 320;
    const CODES: Codes = Codes::U5;
    const OFFSET: Offset = Offset::MinusMin;
    const HALVES: bool = false;
    type Head<S: Simd> = Head45<S::Floats>;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> Head45<S::Floats> {
        // SAFETY: see [`Form`].
        unsafe { head45::<S>(p, row) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe {
            let p = p.add(256 + b * 320);
            let mut codes = nibbles::<S>(p, row);
            add_bit::<S>(&mut codes, p.add(256), row);
            codes
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &Head45<S::Floats>, b: usize, row: usize) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe { Q4_K::scales::<S>(head, b, row) }
    }
}

impl SuperBlocks for Q5_K {
    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &Head45<S::Floats>) -> (S::Floats, &[u8]) {
        (head.d, &head.scales)
    }

    #[inline(always)]
    unsafe fn min_pair<S: Simd>(head: &Head45<S::Floats>, i: usize, row: usize) -> S::Bytes {
        // SAFETY: see [`Form`].
        unsafe { pair::<S>(&head.mins, i, row) }
    }

    #[inline(always)]
    unsafe fn min_factor<S: Simd>(head: &Head45<S::Floats>) -> S::Floats {
        head.dmin
    }
}

/// Q6_K. Group: `d` f16 `[16]`, scales i8 `[16, 16]`, 8 times 4 nibble and 2 two-bit lines.
pub(in super::super) struct Q6_K;

impl Form for Q6_K {
    const BLOCKS: usize = 8;
    const BYTES: usize = 32 + 256 + 8 * 384;
    const CODES: Codes = Codes::I8 { zero: 32, most: 32 };
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = true;
    type Head<S: Simd> = (S::Floats, *const i8);

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> (S::Floats, *const i8) {
        // SAFETY: see [`Form`].
        unsafe { (S::load_f16(p.add(2 * row)), p.add(32).cast()) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe {
            let p = p.add(32 + 256 + b * 384);
            let mut codes = nibbles::<S>(p, row);
            add_two_bits::<S>(&mut codes, p.add(256), row);
            codes
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &(S::Floats, *const i8), b: usize, row: usize) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe { [times_signed::<S>(head.0, head.1, 2 * b, row), times_signed::<S>(head.0, head.1, 2 * b + 1, row)] }
    }
}

impl SuperBlocks for Q6_K {
    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &(S::Floats, *const i8)) -> (S::Floats, &[u8]) {
        // SAFETY: the group has as many scales.
        (head.0, unsafe { std::slice::from_raw_parts(head.1.cast(), 16 * ROWS) })
    }
}

/// Scales and minima of a group of Q2_K.
pub(in super::super) struct Head2<F> {
    d: F,
    dmin: F,
    scales: [u8; 256],
    mins: [u8; 256],
}

/// Q2_K. Group: `d`, `dmin` f16 `[16]`, `[16, 16]` scales (low nibble) and minima, 8 times 2 two-bit lines.
pub(in super::super) struct Q2_K;

impl Form for Q2_K {
    const BLOCKS: usize = 8;
    const BYTES: usize = 64 + 256 + 8 * 128;
    const CODES: Codes = Codes::U4;
    const OFFSET: Offset = Offset::MinusMin;
    const HALVES: bool = true;
    const MERGED: bool = true;
    type Head<S: Simd> = Head2<S::Floats>;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> Head2<S::Floats> {
        // SAFETY: see [`Form`].
        unsafe {
            let packed = p.add(64).cast::<[u8; 256]>().read_unaligned();
            Head2 {
                d: S::load_f16(p.add(2 * row)),
                dmin: S::load_f16(p.add(32 + 2 * row)),
                scales: packed.map(|s| s & 15),
                mins: packed.map(|s| s >> 4),
            }
        }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { two_bits::<S>(p.add(64 + 256 + b * 128), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &Head2<S::Floats>, b: usize, row: usize) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe { [whole::<S>(&head.scales, 2 * b, row), whole::<S>(&head.scales, 2 * b + 1, row)] }
    }
}

/// Codes up to 3 times scales up to 15.
impl SuperBlocks for Q2_K {
    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &Head2<S::Floats>) -> (S::Floats, &[u8]) {
        (head.d, &head.scales)
    }

    #[inline(always)]
    unsafe fn min_pair<S: Simd>(head: &Head2<S::Floats>, i: usize, row: usize) -> S::Bytes {
        // SAFETY: see [`Form`].
        unsafe { pair::<S>(&head.mins, i, row) }
    }

    #[inline(always)]
    unsafe fn min_factor<S: Simd>(head: &Head2<S::Floats>) -> S::Floats {
        head.dmin
    }
}

/// Q3_K. Group: `d` f16 `[16]`, `[8, 16]` low nibbles of scales `i` and `i + 8`, `[4, 16]` their high two bits (scale
/// `i` at bits `2 * (i / 4)` of row `i % 4`), 8 times 2 two-bit lines and a bit line.
pub(in super::super) struct Q3_K;

impl Form for Q3_K {
    const BLOCKS: usize = 8;
    const BYTES: usize = 32 + 128 + 64 + 8 * 192;
    const CODES: Codes = Codes::I8 { zero: 4, most: 4 };
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = true;
    const MERGED: bool = true;
    type Head<S: Simd> = (S::Floats, [u8; 256]);

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> (S::Floats, [u8; 256]) {
        // SAFETY: see [`Form`].
        let (d, low, high) = unsafe {
            let (low, high) = (p.add(32).cast::<[u8; 128]>(), p.add(160).cast::<[u8; 64]>());
            (S::load_f16(p.add(2 * row)), low.read_unaligned(), high.read_unaligned())
        };
        let mut scales = [0; 256];
        for i in 0..64 {
            scales[i] = 32u8.wrapping_sub(low[i] & 15 | (high[i] & 3) << 4);
            scales[64 + i] = 32u8.wrapping_sub(low[64 + i] & 15 | (high[i] & 12) << 2);
            scales[128 + i] = 32u8.wrapping_sub(low[i] >> 4 | high[i] & 48);
            scales[192 + i] = 32u8.wrapping_sub(low[64 + i] >> 4 | (high[i] & 192) >> 2);
        }
        // SAFETY: see [`Form`].
        (unsafe { S::fnma(d, S::splat(&1.0), S::zero()) }, scales)
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { three_bits::<S>(p.add(32 + 192 + b * 192), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &(S::Floats, [u8; 256]), b: usize, row: usize) -> [S::Floats; 2] {
        let scale = |i: usize| head.1[ROWS * i..][..ROWS][row..].as_ptr();
        // SAFETY: see [`Form`].
        unsafe { [S::load_i8(scale(2 * b)), S::load_i8(scale(2 * b + 1))] }
    }
}

/// Codes of -4 to 3 times -31 to 32: scales are those of the file (-32 to 31), negated, so that -128 is the least product.
impl SuperBlocks for Q3_K {
    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &(S::Floats, [u8; 256])) -> (S::Floats, &[u8]) {
        (head.0, &head.1)
    }
}

/// Q8_K. Group: `d` f32 `[16]`, 8 times 8 byte lines.
pub(in super::super) struct Q8_K;

impl Form for Q8_K {
    const BLOCKS: usize = 8;
    const BYTES: usize = 64 + 8 * 512;
    const CODES: Codes = Codes::I8 { zero: 0, most: 128 };
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = false;
    type Head<S: Simd> = S::Floats;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> S::Floats {
        // SAFETY: see [`Form`].
        unsafe { S::load_f32(p.add(4 * row)) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { bytes::<S>(p.add(64 + b * 512), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &S::Floats, _: usize, _: usize) -> [S::Floats; 2] {
        [*head; 2]
    }
}

impl SuperBlocks for Q8_K {
    const COSTLY: bool = false;

    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &S::Floats) -> (S::Floats, &[u8]) {
        (*head, &[1; 8 * ROWS])
    }
}

/// IQ1_S, whose codebook holds -1, 0 and 1: `d s (grid + shift / 8)` is `d s code - d / 8 * m` with a code of 0, 1 or 2
/// and `m = s (8 - shift)`. Group: `d` f16 `[16]`, nibbles of blocks `b` and `b + 4` `[4, 16]` (three bits of `s = 2 n + 1`,
/// then one for a shift of -1), 8 times 2 two-bit lines.
pub(in super::super) struct IQ1_S;

impl Form for IQ1_S {
    const BLOCKS: usize = 8;
    const BYTES: usize = 32 + 64 + 8 * 128;
    const CODES: Codes = Codes::U4;
    const OFFSET: Offset = Offset::MinusMin;
    const HALVES: bool = false;
    const MERGED: bool = true;
    type Head<S: Simd> = Head45<S::Floats>;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> Head45<S::Floats> {
        // SAFETY: see [`Form`].
        let (d, nibbles) = unsafe { (S::load_f16(p.add(2 * row)), p.add(32).cast::<[u8; 64]>().read_unaligned()) };
        let (mut scales, mut mins) = ([0; 128], [0; 128]);
        for (i, n) in nibbles.into_iter().enumerate() {
            for (at, n) in [(i, n & 15), (64 + i, n >> 4)] {
                scales[at] = 2 * (n & 7) + 1;
                mins[at] = scales[at] * (7 + (n >> 3 << 1));
            }
        }
        // SAFETY: see [`Form`].
        unsafe { Head45 { d, dmin: S::mul(d, S::splat(&DELTA)), scales, mins } }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { two_bits::<S>(p.add(32 + 64 + b * 128), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &Head45<S::Floats>, b: usize, row: usize) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe { [whole::<S>(&head.scales, b, row); 2] }
    }
}

/// Codes up to 2 times scales up to 15.
impl SuperBlocks for IQ1_S {
    const COSTLY: bool = false;

    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &Head45<S::Floats>) -> (S::Floats, &[u8]) {
        (head.d, &head.scales)
    }

    #[inline(always)]
    unsafe fn min_pair<S: Simd>(head: &Head45<S::Floats>, i: usize, row: usize) -> S::Bytes {
        // SAFETY: see [`Form`].
        unsafe { pair::<S>(&head.mins, i, row) }
    }

    #[inline(always)]
    unsafe fn min_factor<S: Simd>(head: &Head45<S::Floats>) -> S::Floats {
        head.dmin
    }
}
