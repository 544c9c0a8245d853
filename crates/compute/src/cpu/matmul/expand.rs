//! Encodings without a form of their own: panels made each time they are used, in the memory of the thread that uses
//! them, once for all columns.
//!
//! IQ1 and Q8_K become bytes with a scale per 16 ([`super::forms::Wide`]), which is exact: each weight is
//! a small integer times a scale. Everything else becomes floats.

use bytemuck::{Pod, Zeroable};

use super::forms::Wide;
use super::kernel::{BLOCK, Form, ROWS};
use crate::quant::grids;
use crate::quant::*;
use crate::{DType, Encoding, MatrixData};

/// A group of [`Wide`]: 32 weights of 16 rows.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Group {
    scales: [[f32; ROWS]; 2],
    codes: [[u64; ROWS]; 4],
}

/// A row of consecutive groups.
pub(super) struct Row<'a> {
    groups: &'a mut [Group],
    row: usize,
}

impl Row<'_> {
    /// Writes weights `8 i .. 8 i + 8`, as bytes of a word, the first lowest.
    #[inline(always)]
    fn codes(&mut self, i: usize, codes: u64) {
        self.groups[i / 4].codes[i % 4][self.row % ROWS] = codes;
    }

    /// Writes the scale of weights `16 k .. 16 k + 16`.
    #[inline(always)]
    fn scale(&mut self, k: usize, scale: f32) {
        self.groups[k / 2].scales[k % 2][self.row % ROWS] = scale;
    }
}

/// A block whose weights are small integers times a scale of each 16.
pub(super) trait Expand: Pod {
    /// Its type.
    const DTYPE: DType;

    /// Writes all weights and scales of the block.
    fn expand(&self, row: &mut Row<'_>);
}

/// Whether a matrix holds blocks of this type.
pub(super) fn takes<B: Expand>(matrix: &MatrixData) -> bool {
    matrix.encoding == Encoding::Blocks(B::DTYPE)
}

/// Expands rows `first .. first + n` of `matrix` into `panel`, all bytes of which are zero.
pub(super) fn blocks<B: Expand>(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    const { assert!(size_of::<Group>() == Wide::BYTES && B::DTYPE.block().is_multiple_of(BLOCK)) };
    let weights = B::DTYPE.block();
    let per_row = matrix.n_in / weights;
    let rows = &matrix.parts[0][first * per_row * size_of::<B>()..][..n * per_row * size_of::<B>()];
    let blocks = bytemuck::cast_slice::<u8, B>(rows);
    let groups: &mut [Group] = bytemuck::cast_slice_mut(panel);
    for (i, groups) in groups.chunks_exact_mut(weights / BLOCK).enumerate() {
        for row in 0..n {
            blocks[row * per_row + i].expand(&mut Row { groups, row });
        }
    }
}

/// Decodes rows `first .. first + n` into a panel of floats, all bytes of which are zero.
pub(super) fn floats(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    // Encodings that store the transposed matrix decode several rows in little more time than one.
    let at_once = if matches!(matrix.encoding, Encoding::Gptq { .. } | Encoding::Awq { .. }) { n } else { 1 };
    let mut rows = vec![0.0; at_once * matrix.n_in];
    for from in (0..n).step_by(at_once) {
        matrix.decode_rows(first + from, at_once, &mut rows);
        for (row, weights) in (from..).zip(rows.chunks_exact(matrix.n_in)) {
            for (line, weight) in panel.as_chunks_mut::<{ 4 * ROWS }>().0.iter_mut().zip(weights) {
                line[4 * row..][..4].copy_from_slice(&weight.to_le_bytes());
            }
        }
    }
}

/// `a - b` in every byte, for `b` of 1 in every byte.
#[inline]
fn less_one(a: u64) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    ((a | HIGH) - 0x0101_0101_0101_0101) ^ (!a & HIGH)
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// Eight values of the codebook of IQ1, times 8, plus or minus 1.
#[inline]
fn shifted(code: usize, minus: bool) -> u64 {
    let times_eight = (grids::IQ1[code] & 0x1f1f_1f1f_1f1f_1f1f) << 3;
    if minus { less_one(times_eight) } else { times_eight + 0x0101_0101_0101_0101 }
}

impl Expand for BlockIQ1_S {
    const DTYPE: DType = DType::IQ1_S;

    #[inline]
    fn expand(&self, row: &mut Row<'_>) {
        let d = self.d.f32();
        for k in 0..8 {
            let word = u16::from_le_bytes(self.qh[k]);
            let scale = d * f32::from(2 * (word >> 12 & 7) + 1) * iq1::DELTA;
            row.scale(2 * k, scale);
            row.scale(2 * k + 1, scale);
            for i in 0..4 {
                let q = usize::from(self.qs[4 * k + i]) | usize::from(word >> (3 * i) & 7) << 8;
                row.codes(4 * k + i, shifted(q, word & 0x8000 != 0));
            }
        }
    }
}

impl Expand for BlockIQ1_M {
    const DTYPE: DType = DType::IQ1_M;

    #[inline]
    fn expand(&self, row: &mut Row<'_>) {
        let d = self.d();
        for k in 0..16 {
            let scale = u16::from_le_bytes(self.scales[k / 4]) >> (3 * (k % 4)) & 7;
            row.scale(k, d * f32::from(2 * scale + 1) * iq1::DELTA);
            for i in 0..2 {
                let nibble = self.qh[k] >> (4 * i) & 15;
                let q = usize::from(self.qs[2 * k + i]) | usize::from(nibble & 7) << 8;
                row.codes(2 * k + i, shifted(q, nibble & 8 != 0));
            }
        }
    }
}

impl Expand for BlockQ8_K {
    const DTYPE: DType = DType::Q8_K;

    #[inline]
    fn expand(&self, row: &mut Row<'_>) {
        (0..16).for_each(|k| row.scale(k, f32::from_le_bytes(self.d)));
        let qs: &[u8] = bytemuck::cast_slice(&self.qs);
        qs.chunks_exact(8).enumerate().for_each(|(i, eight)| row.codes(i, word(eight)));
    }
}
