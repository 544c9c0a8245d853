//! MLX's affine integers: `w = scale * q + bias`.

use super::super::kernel::{Form, Offset};
use super::super::simd::{Codes, Simd};
use super::{bytes, nibbles};

/// Scales and biases of 16 rows, `[2, 16]` of f16 or bf16.
#[inline(always)]
unsafe fn parameters<S: Simd>(p: *const u8, row: usize, bf16: bool) -> [S::Floats; 2] {
    // SAFETY: the caller's pointer is valid for 64 bytes.
    unsafe {
        let (scale, bias) = (p.add(2 * row), p.add(32 + 2 * row));
        match bf16 {
            true => [S::load_bf16(scale), S::load_bf16(bias)],
            false => [S::load_f16(scale), S::load_f16(bias)],
        }
    }
}

/// 4 bits, groups of 32 times `BLOCKS`. Group: scales and biases `[2, 16]`, `BLOCKS` times 4 nibble lines.
pub(in super::super) struct Affine4<const BLOCKS: usize>;

impl<const BLOCKS: usize> Form for Affine4<BLOCKS> {
    const BLOCKS: usize = BLOCKS;
    const BYTES: usize = 64 + BLOCKS * 256;
    const CODES: Codes = Codes::U4;
    const OFFSET: Offset = Offset::Min;
    const HALVES: bool = false;
    type Head<S: Simd> = [S::Floats; 2];

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, bf16: bool) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe { parameters::<S>(p, row, bf16) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { nibbles::<S>(p.add(64 + b * 256), row) }
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

/// 8 bits, groups of 32 times `BLOCKS`. Group: scales and biases `[2, 16]`, `BLOCKS` times 8 byte lines.
///
/// Computed as `scale * (q - 128) + (bias + 128 * scale)`, as products take signed codes.
pub(in super::super) struct Affine8<const BLOCKS: usize>;

impl<const BLOCKS: usize> Form for Affine8<BLOCKS> {
    const BLOCKS: usize = BLOCKS;
    const BYTES: usize = 64 + BLOCKS * 512;
    const CODES: Codes = Codes::I8 { zero: 128, most: 128 };
    const OFFSET: Offset = Offset::Min;
    const HALVES: bool = false;
    type Head<S: Simd> = [S::Floats; 2];

    #[inline(always)]
    unsafe fn head<S: Simd>(p: *const u8, row: usize, bf16: bool) -> [S::Floats; 2] {
        // SAFETY: see [`Form`].
        unsafe {
            let [scale, bias] = parameters::<S>(p, row, bf16);
            [scale, S::fma(scale, S::splat(&128.0), bias)]
        }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, b: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { bytes::<S>(p.add(64 + b * 512), row) }
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
