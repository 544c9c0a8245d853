//! How 16 rows of each encoding lie in a panel: see the line of each form.
//!
//! A *line* is 64 bytes: four consecutive weights (a VNNI group) of each of 16 rows. Nibble lines hold group `i` of a
//! block of 32 in the low and group `i + 4` in the high nibbles, `i < 4`.
//! Every form has as many bytes as the file: packing permutes.

use super::kernel::{FloatForm, Form, Offset};
use super::simd::{Codes, Simd};

/// Nibble lines at `p`, as eight vectors of codes.
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
    unsafe fn head<S: Simd>(p: *const u8, row: usize) -> S::Floats {
        // SAFETY: see [`Form`].
        unsafe { S::load_f16(p.add(2 * row)) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(p: *const u8, _: usize, row: usize) -> [S::Bytes; 8] {
        // SAFETY: see [`Form`].
        unsafe { nibbles::<S>(p.add(32), row) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(_: *const u8, head: &S::Floats, _: usize, _: usize) -> [S::Floats; 2] {
        [*head; 2]
    }

    #[inline(always)]
    unsafe fn mins<S: Simd>(_: *const u8, head: &S::Floats, _: usize, _: usize) -> [S::Floats; 2] {
        [*head; 2]
    }
}

/// Numbers of type f32.
pub(super) struct F32;

impl FloatForm for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::Floats {
        // SAFETY: see [`FloatForm`].
        unsafe { S::load_f32(p) }
    }
}

/// Numbers of type f16.
pub(super) struct F16;

impl FloatForm for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::Floats {
        // SAFETY: see [`FloatForm`].
        unsafe { S::load_f16(p) }
    }
}

/// Numbers of type bf16.
pub(super) struct BF16;

impl FloatForm for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::Floats {
        // SAFETY: see [`FloatForm`].
        unsafe { S::load_bf16(p) }
    }
}
