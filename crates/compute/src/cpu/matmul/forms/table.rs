//! Codes of up to four bits that index a table: IQ4_NL, IQ4_XS, MXFP4, NVFP4, and the codebook and ternary types.

#![allow(non_camel_case_types)] // named as the formats are

use std::marker::PhantomData;

use super::super::coded::{self, Coded};
use super::super::kernel::{Form, Offset, ROWS};
use super::super::simd::{Codes, Simd};
use super::super::wide::SuperBlocks;
use super::k::{six_bits, times, whole};
use super::{nibbles, three_bits, two_bits};
use crate::quant::float::{e8m0_half, ue4m3_half};
use crate::quant::grids::{FP4_VALUES, IQ4_VALUES};

/// A block of nibble lines that index `values`.
#[inline(always)]
unsafe fn lookup<S: Simd>(values: &[i8; 16], p: *const u8, row: usize) -> [S::Bytes; 8] {
    // SAFETY: the caller's pointer is valid for four lines.
    unsafe {
        let mut codes = [S::load(p.add(4 * row)); 8];
        for i in 0..4 {
            let line = S::load(p.add(64 * i + 4 * row));
            codes[i] = S::lookup(values, line);
            codes[4 + i] = S::lookup(values, S::shr::<4>(line));
        }
        codes
    }
}

/// The largest magnitude.
const fn largest(values: &[i8]) -> u8 {
    let (mut most, mut i) = (0, 0);
    while i < values.len() {
        let one = values[i].unsigned_abs();
        most = if one > most { one } else { most };
        i += 1;
    }
    most
}

/// The code of 0 where the value of each code is the code less it; else 0.
const fn zero(values: &[i8], bits: usize) -> u8 {
    let (zero, mut i) = (values[0].unsigned_abs(), 0);
    while i < 1 << bits {
        if values[i] != i as i8 - zero as i8 {
            return 0;
        }
        i += 1;
    }
    zero
}

/// IQ4_NL. Group: `d` f16 `[16]`, 4 nibble lines.
pub(in super::super) struct IQ4_NL;

impl Form for IQ4_NL {
    const BLOCKS: usize = 1;
    const BYTES: usize = 32 + 256;
    const CODES: Codes = Codes::I8 { zero: 0, most: largest(&IQ4_VALUES) };
    const LOOKED_UP: bool = true;
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
        unsafe { lookup::<S>(&IQ4_VALUES, p.add(32), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &S::Floats, _: usize, _: usize) -> [S::Floats; 2] {
        [*head; 2]
    }
}

/// IQ4_XS. Group: `d` f16 `[16]`, scales as [`six_bits`], 8 times 4 nibble lines.
pub(in super::super) struct IQ4_XS;

impl Form for IQ4_XS {
    const BLOCKS: usize = 8;
    const BYTES: usize = 32 + 96 + 8 * 256;
    const CODES: Codes = Codes::I8 { zero: 0, most: largest(&IQ4_VALUES) };
    const LOOKED_UP: bool = true;
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = false;
    type Head<S: Simd> = (S::Floats, [u8; 128]);

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> (S::Floats, [u8; 128]) {
        // SAFETY: see [`Form`].
        unsafe { (S::load_f16(p.add(2 * row)), six_bits(p.add(32)).map(|s| s.wrapping_sub(32))) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { lookup::<S>(&IQ4_VALUES, p.add(128 + b * 256), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &(S::Floats, [u8; 128]), b: usize, row: usize) -> [S::Floats; 2] {
        // SAFETY: the array has a row `b`.
        unsafe { [S::mul(head.0, S::load_i8(head.1.as_ptr().add(ROWS * b + row))); 2] }
    }
}

impl SuperBlocks for IQ4_XS {
    const COSTLY: bool = false;

    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &(S::Floats, [u8; 128])) -> (S::Floats, &[u8]) {
        (head.0, &head.1)
    }
}

/// MXFP4 with e8m0 scales. Group: `e` u8 `[16]`, 4 nibble lines.
pub(in super::super) struct Fp4;

impl Form for Fp4 {
    const BLOCKS: usize = 1;
    const BYTES: usize = 16 + 256;
    const CODES: Codes = Codes::I8 { zero: 0, most: largest(&FP4_VALUES) };
    const LOOKED_UP: bool = true;
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = false;
    type Head<S: Simd> = S::Floats;

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> S::Floats {
        // SAFETY: see [`Form`].
        unsafe {
            let scales = p.cast::<[u8; 16]>().read_unaligned().map(e8m0_half);
            S::load_f32(scales.as_ptr().add(row).cast())
        }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, _: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { lookup::<S>(&FP4_VALUES, p.add(16), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &S::Floats, _: usize, _: usize) -> [S::Floats; 2] {
        [*head; 2]
    }
}

/// NVFP4. Group: ue4m3 scales `[4, 16]`, 2 times 4 nibble lines.
pub(in super::super) struct NVFP4;

impl Form for NVFP4 {
    const BLOCKS: usize = 2;
    const BYTES: usize = 64 + 2 * 256;
    const CODES: Codes = Codes::I8 { zero: 0, most: largest(&FP4_VALUES) };
    const LOOKED_UP: bool = true;
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = true;
    type Head<S: Simd> = [f32; 64];

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, _: usize, _: bool) -> [f32; 64] {
        // SAFETY: see [`Form`].
        unsafe { p.cast::<[u8; 64]>().read_unaligned() }.map(ue4m3_half)
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { lookup::<S>(&FP4_VALUES, p.add(64 + b * 256), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &[f32; 64], b: usize, row: usize) -> [S::Floats; 2] {
        let at = |half: usize| head.as_ptr().wrapping_add(ROWS * (2 * b + half) + row).cast();
        // SAFETY: the array has rows `2 b` and `2 b + 1`.
        unsafe { [S::load_f32(at(0)), S::load_f32(at(1))] }
    }
}

/// IQ2, IQ3 and TQ. Group: see [`coded::group_bytes`].
pub(in super::super) struct Codebook<B>(PhantomData<B>);

impl<B: Coded> Form for Codebook<B> {
    const BLOCKS: usize = 8;
    const BYTES: usize = coded::group_bytes::<B>();
    const CODES: Codes = Codes::I8 { zero: zero(&B::VALUES, B::BITS), most: largest(&B::VALUES) };
    const LOOKED_UP: bool = zero(&B::VALUES, B::BITS) == 0;
    const OFFSET: Offset = Offset::None;
    const HALVES: bool = B::SCALES == 16;
    const MERGED: bool = B::MERGED;
    type Head<S: Simd> = (S::Floats, [u8; 256]);

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, _: bool) -> (S::Floats, [u8; 256]) {
        let half = B::SCALES / 2 * ROWS;
        let mut scales = [1; 256];
        // SAFETY: see [`Form`]; `half` nibble pairs follow `d`.
        let packed = unsafe { std::slice::from_raw_parts(p.add(2 * ROWS), half) };
        for (i, pair) in packed.iter().enumerate() {
            scales[i] = 2 * (pair & 15) + 1;
            scales[half + i] = 2 * (pair >> 4) + 1;
        }
        // SAFETY: see [`Form`].
        unsafe { (S::mul(S::load_f16(p.add(2 * row)), S::splat(&B::FACTOR)), scales) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe {
            let p = p.add(coded::lines_at::<B>() + b * B::BITS * 64);
            let mut codes = match B::BITS {
                2 => two_bits::<S>(p, row),
                3 => three_bits::<S>(p, row),
                _ => nibbles::<S>(p, row),
            };
            if Self::LOOKED_UP {
                for code in &mut codes {
                    *code = S::lookup(&B::VALUES, *code);
                }
            }
            codes
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(head: &(S::Floats, [u8; 256]), b: usize, row: usize) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe {
            if Self::MERGED {
                [whole::<S>(&head.1, b, row); 2]
            } else if Self::HALVES {
                [times::<S>(head.0, &head.1, 2 * b, row), times::<S>(head.0, &head.1, 2 * b + 1, row)]
            } else {
                [times::<S>(head.0, &head.1, b, row); 2]
            }
        }
    }
}

impl<B: Coded> SuperBlocks for Codebook<B> {
    const COSTLY: bool = B::BITS > 2;

    #[inline(always)]
    unsafe fn integers<S: Simd>(head: &(S::Floats, [u8; 256])) -> (S::Floats, &[u8]) {
        (head.0, &head.1)
    }
}
