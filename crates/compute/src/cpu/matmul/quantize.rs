//! Activations to the tiles that kernels read.
//!
//! int8 with a scale per 32 inputs and column: `scale = max|x| / 127`, `q = round(x / scale)`, ties to even. The error
//! of an input is at most `scale / 2`, that is 1/254 of the largest of its 32. A NaN or infinity makes the scale one.
//!
//! Pairs of bf16 where weights are bf16 and the instruction set multiplies them: `x` rounded to nearest, ties to even; the
//! error of an input is at most 1/256 of itself. llama.cpp does the same.

use std::marker::PhantomData;
use std::ops::Range;

use super::kernel::{BLOCK, Record};
use crate::cpu::Isa;

/// Bytes that several threads write to separate parts of.
pub(super) struct Target<'a> {
    bytes: *mut u8,
    len: usize,
    of: PhantomData<&'a mut [u8]>,
}

// SAFETY: whoever calls `slice` keeps to parts of its own.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    pub fn new(bytes: &'a mut [u8]) -> Target<'a> {
        Target { bytes: bytes.as_mut_ptr(), len: bytes.len(), of: PhantomData }
    }

    /// A part.
    ///
    /// # Safety
    /// No other slice of this part is alive.
    #[allow(clippy::mut_from_ref)] // that is what the type is for
    pub unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [u8] {
        assert!(start <= self.len && len <= self.len - start, "a part beyond the end");
        // SAFETY: within the bytes, which are borrowed for 'a; the caller rules out aliases.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.add(start), len) }
    }
}

/// A part of a tile.
pub(super) struct Part<'a> {
    /// Where the columns start.
    pub starts: &'a [usize],
    /// Which of their inputs.
    pub range: Range<usize>,
    /// Columns of the tile, at least as many; what lies in those beyond has no influence.
    pub width: usize,
}

impl Part<'_> {
    /// The inputs, [`BLOCK`] at a time; the last may be fewer. What a block of all columns becomes stays in the nearest
    /// cache while the columns pass.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let end = self.range.end;
        self.range.clone().step_by(BLOCK).map(move |from| from..end.min(from + BLOCK))
    }
}

/// Writes the records of a part.
pub(super) fn int8(isa: Isa, x: &[f32], part: &Part<'_>, out: &mut [u8]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever chose the instruction set has made sure that the machine has it (`PackedMatrix::new`).
        Isa::Avx512Vnni | Isa::Avx512Bf16 => unsafe { int8_avx512(x, part, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise.
        Isa::Avx2 => unsafe { int8_avx2(x, part, out) },
        _ => int8_body(x, part, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn int8_avx512(x: &[f32], part: &Part<'_>, out: &mut [u8]) {
    int8_body(x, part, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn int8_avx2(x: &[f32], part: &Part<'_>, out: &mut [u8]) {
    int8_body(x, part, out);
}

#[inline(always)]
fn int8_body(x: &[f32], part: &Part<'_>, out: &mut [u8]) {
    for (range, record) in part.blocks().zip(out.chunks_exact_mut(Record::bytes(part.width))) {
        for (j, &start) in part.starts.iter().enumerate() {
            let x = x[start..][range.clone()].as_array().expect("rows are whole blocks");
            block(x, j, part.width, record);
        }
    }
}

/// Quantizes 32 inputs into column `j` of a record of `n` columns.
#[inline(always)]
fn block(x: &[f32; BLOCK], j: usize, n: usize, record: &mut [u8]) {
    // As integers, magnitudes compare as floats do, and NaN is above all.
    let largest = x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // Below 2^22, adding 1.5 * 2^23 leaves the rounded integer in the low bits.
    let q: [i32; BLOCK] = std::array::from_fn(|i| (x[i] * inverse + 12_582_912.0).to_bits() as i32 - 0x4b40_0000);
    let low: i32 = q[..16].iter().map(|&q| i32::from(q as i8)).sum();
    let high: i32 = q[16..].iter().map(|&q| i32::from(q as i8)).sum();
    let bytes: [u8; BLOCK] = std::array::from_fn(|i| q[i] as u8);
    for (g, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
        record[4 * (g * n + j)..][..4].copy_from_slice(four);
    }
    let mut put = |at: usize, bytes: [u8; 4]| record[at + 4 * j..][..4].copy_from_slice(&bytes);
    put(Record::scale(n), scale.to_le_bytes());
    put(Record::sum(n), (scale * (low + high) as f32).to_le_bytes());
    put(Record::c8(n), (-8 * (low + high)).to_le_bytes());
    put(Record::c128(n), (-128 * (low + high)).to_le_bytes());
    put(Record::c128h(n), (-128 * low).to_le_bytes());
    put(Record::c128h(n) + 4 * n, (-128 * high).to_le_bytes());
    put(Record::sumh(n), (scale * low as f32).to_le_bytes());
    put(Record::sumh(n) + 4 * n, (scale * high as f32).to_le_bytes());
}

/// Writes `[range / 2, width]` pairs of bf16, the first in the lower half: pair `k` of all columns side by side.
pub(super) fn pairs(x: &[f32], part: &Part<'_>, out: &mut [u32]) {
    for (range, lines) in part.blocks().zip(out.chunks_mut(BLOCK / 2 * part.width)) {
        for (j, &start) in part.starts.iter().enumerate() {
            let pairs = x[start..][range.clone()].as_chunks::<2>().0;
            for (line, [low, high]) in lines.chunks_exact_mut(part.width).zip(pairs) {
                line[j] = to_bf16(*low) >> 16 | to_bf16(*high) & 0xffff_0000;
            }
        }
    }
}

/// The nearest bf16, ties to even, in the upper half.
#[inline(always)]
fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if x.is_nan() { bits | 0x40_0000 } else { rounded }
}

/// Writes `[range, width]`: input `k` of all columns side by side.
pub(super) fn floats(x: &[f32], part: &Part<'_>, out: &mut [f32]) {
    for (range, lines) in part.blocks().zip(out.chunks_mut(BLOCK * part.width)) {
        for (j, &start) in part.starts.iter().enumerate() {
            for (line, x) in lines.chunks_exact_mut(part.width).zip(&x[start..][range.clone()]) {
                line[j] = *x;
            }
        }
    }
}
