//! Activations to the tiles that kernels read.
//!
//! int8 with a scale per 32 inputs and column, or per 128 where weights come in super-blocks of 256: `scale = max|x| / 127`,
//! `q = round(x / scale)`, ties to even. The error of an input is at most `scale / 2`, that is 1/254 of the largest of its 32 or
//! 128. A NaN or infinity makes the scale one. llama.cpp rounds to int8 too, per 32 and per 256.
//!
//! Pairs of bf16 where weights are bf16 and the instruction set multiplies them: `x` rounded to nearest, ties to even; the
//! error of an input is at most 1/256 of itself. llama.cpp does the same.

use std::marker::PhantomData;
use std::ops::Range;

use super::kernel::{BLOCK, Record};
use super::wide::{self, SPAN};
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
    /// The inputs, `n` at a time; the last may be fewer. What a block of all columns becomes stays in the nearest
    /// cache while the columns pass.
    fn blocks(&self, n: usize) -> impl Iterator<Item = Range<usize>> {
        let end = self.range.end;
        self.range.clone().step_by(n).map(move |from| from..end.min(from + n))
    }
}

/// Records that this machine's instruction sets fill.
#[cfg(not(target_arch = "x86_64"))]
pub(super) use self::Records as Fill;
#[cfg(target_arch = "x86_64")]
pub(super) use super::quantize_avx512::Fill;

/// Records of int8.
pub(super) trait Records {
    /// Inputs of a column in a record.
    const LEN: usize;
    /// Bytes of a record of `n` columns.
    fn bytes(n: usize) -> usize;
    /// Quantizes `LEN` inputs into column `j` of a record of `n` columns.
    fn put(x: &[f32], j: usize, n: usize, record: &mut [u8]);
}

/// Writes the records of a part.
pub(super) fn int8<R: Fill>(isa: Isa, x: &[f32], part: &Part<'_>, out: &mut [u8]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever chose the instruction set has made sure that the machine has it (`PackedMatrix::new`).
        Isa::Avx512Vnni | Isa::Avx512Bf16 => unsafe { int8_avx512::<R>(x, part, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise.
        Isa::Avx2 => unsafe { int8_avx2::<R>(x, part, out) },
        _ => int8_body::<R>(x, part, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
fn int8_avx512<R: Fill>(x: &[f32], part: &Part<'_>, out: &mut [u8]) {
    for (range, record) in part.blocks(R::LEN).zip(out.chunks_exact_mut(R::bytes(part.width))) {
        // SAFETY: the features are those of this function.
        unsafe { R::fill(x, part.starts.iter().map(|start| start + range.start), part.width, record) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn int8_avx2<R: Records>(x: &[f32], part: &Part<'_>, out: &mut [u8]) {
    int8_body::<R>(x, part, out);
}

#[inline(always)]
fn int8_body<R: Records>(x: &[f32], part: &Part<'_>, out: &mut [u8]) {
    for (range, record) in part.blocks(R::LEN).zip(out.chunks_exact_mut(R::bytes(part.width))) {
        for (j, &start) in part.starts.iter().enumerate() {
            R::put(&x[start..][range.clone()], j, part.width, record);
        }
    }
}

/// Scale and numbers of inputs.
#[inline(always)]
fn quantized<const N: usize>(x: &[f32; N]) -> (f32, [i32; N]) {
    // As integers, magnitudes compare as floats do, and NaN is above all.
    let largest = x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // Below 2^22, adding 1.5 * 2^23 leaves the rounded integer in the low bits.
    let q = std::array::from_fn(|i| (x[i] * inverse + 12_582_912.0).to_bits() as i32 - 0x4b40_0000);
    (largest / 127.0, q)
}

/// Writes the numbers of column `j` of a record that begins with `[N / 4, n, 4]` of them.
#[inline(always)]
fn put_bytes<const N: usize>(q: &[i32; N], j: usize, n: usize, record: &mut [u8]) {
    let bytes: [u8; N] = std::array::from_fn(|i| q[i] as u8);
    for (g, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
        record[4 * (g * n + j)..][..4].copy_from_slice(four);
    }
}

/// Of 16 numbers, which a NaN may have made too large.
#[inline(always)]
fn sum(q: &[i32]) -> i32 {
    q.iter().map(|&q| i32::from(q as i8)).sum()
}

impl Records for Record {
    const LEN: usize = BLOCK;

    fn bytes(n: usize) -> usize {
        Record::bytes(n)
    }

    #[inline(always)]
    fn put(x: &[f32], j: usize, n: usize, record: &mut [u8]) {
        let (scale, q) = quantized::<BLOCK>(x.as_array().expect("rows are whole blocks"));
        let (low, high) = (sum(&q[..16]), sum(&q[16..]));
        put_bytes(&q, j, n, record);
        let mut put = |at: usize, bytes: [u8; 4]| record[at + 4 * j..][..4].copy_from_slice(&bytes);
        put(Record::scale(n), scale.to_le_bytes());
        put(Record::sum(n), (scale * (low + high) as f32).to_le_bytes());
        put(Record::c8(n), (-8 * (low + high)).to_le_bytes());
        put(Record::c128(n), (-128 * (low + high)).to_le_bytes());
        put(Record::c128h(n), (-128 * low).to_le_bytes());
        put(Record::c128h(n) + 4 * n, (-128 * high).to_le_bytes());
    }
}

impl Records for wide::Record {
    const LEN: usize = SPAN;

    fn bytes(n: usize) -> usize {
        wide::Record::bytes(n)
    }

    #[inline(always)]
    fn put(x: &[f32], j: usize, n: usize, record: &mut [u8]) {
        let (scale, q) = quantized::<SPAN>(x.as_array().expect("rows are whole spans"));
        let halves: [i32; 8] = std::array::from_fn(|i| sum(&q[16 * i..][..16]));
        put_bytes(&q, j, n, record);
        let mut put = |at: usize, bytes: [u8; 4]| record[at + 4 * j..][..4].copy_from_slice(&bytes);
        let pair = |low: i32, high: i32| (low & 0xffff | high << 16).to_le_bytes();
        put(wide::Record::scale(n), scale.to_le_bytes());
        for (i, &[low, high]) in halves.as_chunks::<2>().0.iter().enumerate() {
            put(wide::Record::halves(n) + 4 * n * i, pair(low, high));
            put(wide::Record::c128(n) + 4 * n * i, (-128 * (low + high)).to_le_bytes());
            put(wide::Record::c128h(n) + 8 * n * i, (-128 * low).to_le_bytes());
            put(wide::Record::c128h(n) + 8 * n * i + 4 * n, (-128 * high).to_le_bytes());
        }
        for (i, &[a, b, c, d]) in halves.as_chunks::<4>().0.iter().enumerate() {
            put(wide::Record::pairs(n) + 4 * n * i, pair(a + b, c + d));
        }
        put(wide::Record::c128s(n), (-128 * halves.iter().sum::<i32>()).to_le_bytes());
    }
}

/// Writes `[range / 2, width]` pairs of bf16, the first in the lower half: pair `k` of all columns side by side.
pub(super) fn pairs(x: &[f32], part: &Part<'_>, out: &mut [u32]) {
    for (range, lines) in part.blocks(BLOCK).zip(out.chunks_mut(BLOCK / 2 * part.width)) {
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
    for (range, lines) in part.blocks(BLOCK).zip(out.chunks_mut(BLOCK * part.width)) {
        for (j, &start) in part.starts.iter().enumerate() {
            for (line, x) in lines.chunks_exact_mut(part.width).zip(&x[start..][range.clone()]) {
                line[j] = *x;
            }
        }
    }
}
