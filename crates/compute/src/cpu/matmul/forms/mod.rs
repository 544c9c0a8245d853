//! How 16 rows of each encoding lie in a panel: see the line of each form.
//!
//! ```text
//! line            64 bytes: four consecutive weights (a VNNI group) of each of 16 rows
//! byte lines      8 a block of 32: line g holds group g
//! nibble lines    4 a block: line i holds group i in the low, group i + 4 in the high nibbles
//! two-bit lines   2 a block: line i holds groups 4 i .. 4 i + 4, the first lowest
//! bit line        1 a block: bit g of a byte belongs to group g
//! ```
//!
//! A form has as many bytes as the file's blocks, as packing permutes; but those of codebooks are longer (see `coded`).

mod affine;
mod k;
mod table;

pub(super) use affine::{Affine4, Affine8};
pub(super) use k::{IQ1_S, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K};
pub(super) use table::{Codebook, Fp4, IQ4_NL, IQ4_XS, NVFP4};

use super::kernel::{Form, Line, Number, Offset};
use super::simd::{Codes, Pairs, Simd};

/// A block of byte lines.
#[inline(always)]
unsafe fn bytes<S: Simd>(p: *const u8, row: usize) -> [S::Bytes; 8] {
    // SAFETY: the caller's pointer is valid for eight lines.
    unsafe {
        let line = |g: usize| p.add(64 * g + 4 * row);
        [
            S::load(line(0)),
            S::load(line(1)),
            S::load(line(2)),
            S::load(line(3)),
            S::load(line(4)),
            S::load(line(5)),
            S::load(line(6)),
            S::load(line(7)),
        ]
    }
}

/// A block of nibble lines.
#[inline(always)]
unsafe fn nibbles<S: Simd>(p: *const u8, row: usize) -> [S::Bytes; 8] {
    // SAFETY: the caller's pointer is valid for four lines.
    unsafe {
        let mut codes = [S::load(p.add(4 * row)); 8];
        for i in 0..4 {
            let line = S::load(p.add(64 * i + 4 * row));
            codes[i] = S::and(line, 15);
            codes[4 + i] = S::and(S::shr::<4>(line), 15);
        }
        codes
    }
}

/// A block of two-bit lines.
#[inline(always)]
unsafe fn two_bits<S: Simd>(p: *const u8, row: usize) -> [S::Bytes; 8] {
    // SAFETY: the caller's pointer is valid for two lines.
    unsafe {
        let mut codes = [S::load(p.add(4 * row)); 8];
        for i in 0..2 {
            let line = S::load(p.add(64 * i + 4 * row));
            codes[4 * i] = S::and(line, 3);
            codes[4 * i + 1] = S::and(S::shr::<2>(line), 3);
            codes[4 * i + 2] = S::and(S::shr::<4>(line), 3);
            codes[4 * i + 3] = S::and(S::shr::<6>(line), 3);
        }
        codes
    }
}

/// A block of two-bit lines and a bit line, which holds the third bits.
#[inline(always)]
unsafe fn three_bits<S: Simd>(p: *const u8, row: usize) -> [S::Bytes; 8] {
    // SAFETY: the caller's pointer is valid for three lines.
    unsafe {
        let mut codes = two_bits::<S>(p, row);
        let line = S::load(p.add(128 + 4 * row));
        let mut add = |g: usize, bits: S::Bytes| codes[g] = S::or(codes[g], S::and(bits, 4));
        add(0, S::shl::<2>(line));
        add(1, S::shl::<1>(line));
        add(2, line);
        add(3, S::shr::<1>(line));
        add(4, S::shr::<2>(line));
        add(5, S::shr::<3>(line));
        add(6, S::shr::<4>(line));
        add(7, S::shr::<5>(line));
        codes
    }
}

/// Adds the two-bit lines at `p`, times 16, to codes of four bits.
#[inline(always)]
unsafe fn add_two_bits<S: Simd>(codes: &mut [S::Bytes; 8], p: *const u8, row: usize) {
    // SAFETY: the caller's pointer is valid for two lines.
    unsafe {
        for i in 0..2 {
            let line = S::load(p.add(64 * i + 4 * row));
            let mut add = |g: usize, bits: S::Bytes| codes[g] = S::or(codes[g], S::and(bits, 0x30));
            add(4 * i, S::shl::<4>(line));
            add(4 * i + 1, S::shl::<2>(line));
            add(4 * i + 2, line);
            add(4 * i + 3, S::shr::<2>(line));
        }
    }
}

/// Adds the bit line at `p`, times 16, to codes of four bits.
#[inline(always)]
unsafe fn add_bit<S: Simd>(codes: &mut [S::Bytes; 8], p: *const u8, row: usize) {
    // SAFETY: the caller's pointer is valid for a line.
    unsafe {
        let line = S::load(p.add(4 * row));
        let mut add = |g: usize, bits: S::Bytes| codes[g] = S::or(codes[g], S::and(bits, 0x10));
        add(0, S::shl::<4>(line));
        add(1, S::shl::<3>(line));
        add(2, S::shl::<2>(line));
        add(3, S::shl::<1>(line));
        add(4, line);
        add(5, S::shr::<1>(line));
        add(6, S::shr::<2>(line));
        add(7, S::shr::<3>(line));
    }
}

/// Q4_0. Group: `d` f16 `[16]`, 4 nibble lines.
pub(super) struct Q4_0;

impl Form for Q4_0 {
    const BLOCKS: usize = 1;
    const BYTES: usize = 32 + 256;
    const CODES: Codes = Codes::U4;
    const OFFSET: Offset = Offset::Eight;
    const HALVES: bool = false;
    type Head<S: Simd> = S::Floats;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> S::Floats {
        // SAFETY: see [`Form`].
        unsafe { S::load_f16(p.add(2 * row)) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, _: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { nibbles::<S>(p.add(32), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &S::Floats, _: usize, _: usize) -> [S::Floats; 2] {
        [*head; 2]
    }
}

/// Q4_1. Group: `d` f16 `[16]`, `m` f16 `[16]`, 4 nibble lines.
pub(super) struct Q4_1;

impl Form for Q4_1 {
    const BLOCKS: usize = 1;
    const BYTES: usize = 64 + 256;
    const CODES: Codes = Codes::U4;
    const OFFSET: Offset = Offset::Min;
    const HALVES: bool = false;
    type Head<S: Simd> = [S::Floats; 2];

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe { [S::load_f16(p.add(2 * row)), S::load_f16(p.add(32 + 2 * row))] }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, _: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { nibbles::<S>(p.add(64), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &[S::Floats; 2], _: usize, _: usize) -> [S::Floats; 2] {
        [head[0]; 2]
    }

    #[inline(always)]
    unsafe fn min<S: Simd>(head: &[S::Floats; 2]) -> S::Floats {
        head[1]
    }
}

/// Q5_0. Group: `d` f16 `[16]`, 4 nibble lines, a bit line.
pub(super) struct Q5_0;

impl Form for Q5_0 {
    const BLOCKS: usize = 1;
    const BYTES: usize = 32 + 256 + 64;
    const CODES: Codes = Codes::I8 { zero: 16, most: 16 };
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = false;
    type Head<S: Simd> = S::Floats;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> S::Floats {
        // SAFETY: see [`Form`].
        unsafe { S::load_f16(p.add(2 * row)) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, _: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe {
            let mut codes = nibbles::<S>(p.add(32), row);
            add_bit::<S>(&mut codes, p.add(32 + 256), row);
            codes
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &S::Floats, _: usize, _: usize) -> [S::Floats; 2] {
        [*head; 2]
    }
}

/// Q5_1. Group: `d` f16 `[16]`, `m` f16 `[16]`, 4 nibble lines, a bit line.
pub(super) struct Q5_1;

impl Form for Q5_1 {
    const BLOCKS: usize = 1;
    const BYTES: usize = 64 + 256 + 64;
    const CODES: Codes = Codes::U5;
    const OFFSET: Offset = Offset::Min;
    const HALVES: bool = false;
    type Head<S: Simd> = [S::Floats; 2];

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe { Q4_1::head::<S>(p, row, false) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, _: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe {
            let mut codes = nibbles::<S>(p.add(64), row);
            add_bit::<S>(&mut codes, p.add(64 + 256), row);
            codes
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &[S::Floats; 2], _: usize, _: usize) -> [S::Floats; 2] {
        [head[0]; 2]
    }

    #[inline(always)]
    unsafe fn min<S: Simd>(head: &[S::Floats; 2]) -> S::Floats {
        head[1]
    }
}

/// Q8_0. Group: `d` f16 `[16]`, 8 byte lines.
pub(super) struct Q8_0;

impl Form for Q8_0 {
    const BLOCKS: usize = 1;
    const BYTES: usize = 32 + 512;
    const CODES: Codes = Codes::I8 { zero: 0, most: 128 };
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = false;
    type Head<S: Simd> = S::Floats;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> S::Floats {
        // SAFETY: see [`Form`].
        unsafe { S::load_f16(p.add(2 * row)) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, _: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { bytes::<S>(p.add(32), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &S::Floats, _: usize, _: usize) -> [S::Floats; 2] {
        [*head; 2]
    }
}

/// Numbers of type f32.
pub(super) struct F32;

impl Number for F32 {
    const SIZE: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::Floats {
        // SAFETY: see [`Number`].
        unsafe { S::load_f32(p) }
    }
}

/// Numbers of type f16.
pub(super) struct F16;

impl Number for F16 {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::Floats {
        // SAFETY: see [`Number`].
        unsafe { S::load_f16(p) }
    }
}

/// Numbers of type bf16, multiplied as f32.
pub(super) struct BF16;

impl Number for BF16 {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::Floats {
        // SAFETY: see [`Number`].
        unsafe { S::load_bf16(p) }
    }
}

/// Numbers of type bf16 whose inputs are bf16 too. A line holds two consecutive weights of each row.
pub(super) struct Bf16Pairs;

impl<S: Pairs> Line<S> for Bf16Pairs {
    const BYTES: usize = 4;
    type Part = S::Bytes;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> S::Bytes {
        // SAFETY: see [`Line`].
        unsafe { S::load(p) }
    }

    #[inline(always)]
    unsafe fn fma(part: S::Bytes, a: *const u8, acc: S::Floats) -> S::Floats {
        // SAFETY: see [`Line`].
        unsafe { S::fma_pair(part, a, acc) }
    }
}
