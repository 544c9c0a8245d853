//! A matrix of any encoding as GGUF blocks: exactly where that is possible, else decoded and encoded anew.
//!
//! ```text
//! from                          to             when
//! GPTQ 2, 3 bits                Q4_0           always (*)      q - zero is within -8..=7
//! GPTQ 4 bits, AWQ              Q4_0, Q5_0     always (*)      Q4_0 when every zero is 8; q - zero is within -15..=15
//! GPTQ 8 bits                   Q8_0           zeros are 128 (*)
//! MLX affine, bias = -zero * s  Q4_0 ... Q8_0  as GPTQ
//! MLX affine 2 to 4, 5 bits     Q4_1, Q5_1     the biases are exact in f16
//! MLX mxfp4                     MXFP4          no scale is NaN
//! MLX nvfp4                     NVFP4          n_in is a multiple of 64, no scale is negative or NaN
//! (*) no act-order, groups of a multiple of 32, scales exact in f16
//! ```
//!
//! Act-order GPTQ, bitsandbytes, FP8 and mxfp8 have no GGUF type of equal values.

use std::ops::RangeInclusive;

use super::encode::{fifth_bits, nibbles};
use super::float::Half;
use super::parts::groups;
use super::transposed::grid_line;
use super::{BlockMXFP4, BlockNVFP4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};
use super::{awq, gptq, mlx};
use crate::matrix::MlxFloat;
use crate::{Bytes, DType, Encoding, Error, MatrixData};

/// Rows decoded at a time by [`MatrixData::to_blocks`].
const BAND: usize = 128;

impl MatrixData {
    /// The matrix decoded and encoded as `dtype`, which [`super::can_encode`]: F32, F16, BF16 or blocks.
    ///
    /// # Errors
    /// If `dtype` cannot hold a weight, has no encoder, or rows are not whole blocks of it.
    pub fn to_blocks(&self, dtype: DType) -> Result<MatrixData, Error> {
        if self.encoding == Encoding::Blocks(dtype) {
            return Ok(self.clone());
        }
        if !self.n_in.is_multiple_of(dtype.block()) {
            return Err(Error::Shape {
                tensor: self.name.clone(),
                found: format!("rows of {} weights for type {}", self.n_in, dtype.name()),
                expected: format!("a multiple of {}", dtype.block()),
            });
        }
        let (mut bytes, mut band) = (Vec::new(), vec![0.0; BAND.min(self.n_out) * self.n_in]);
        for first in (0..self.n_out).step_by(BAND) {
            let n = BAND.min(self.n_out - first);
            let band = &mut band[..n * self.n_in];
            self.decode_rows(first, n, band);
            super::encode(dtype, band, None, &mut bytes)?;
        }
        MatrixData::blocks(&self.name, [self.n_out, self.n_in], dtype, bytes.into())
    }

    /// The matrix as GGUF blocks of equal values, or `None` where the table above has no exact type for it.
    /// A zero may change its sign. A matrix of blocks is returned as it is.
    pub fn to_gguf_blocks(&self) -> Option<MatrixData> {
        let (dtype, bytes) = match self.encoding {
            Encoding::Blocks(_) => return Some(self.clone()),
            Encoding::MlxFloat(MlxFloat::Mxfp4) => (DType::MXFP4, mxfp4(self)?),
            Encoding::MlxFloat(MlxFloat::Nvfp4) => (DType::NVFP4, nvfp4(self)?),
            Encoding::MlxAffine { bits, group, scale } => affine(self, mlx::Affine { bits, group, scale })?,
            Encoding::Gptq { bits, group, zero_plus_one, scale } if gptq::in_order(self, group) => {
                let format = gptq::Gptq { bits, group, zero_plus_one, scale };
                let zeros = |g| gptq::zeros(self, format, g, [0, self.n_out]);
                let runs = transposed_runs(self, scale, group, zeros)?;
                pack(self, bits, &runs, |row, run| gptq::codes(self, bits, run, row))?
            }
            Encoding::Awq { group, scale } => {
                let zeros = |g| awq::line(&self.parts[1], self.n_out, g, [0, self.n_out]);
                let runs = transposed_runs(self, scale, group, zeros)?;
                pack(self, 4, &runs, |row, run| awq::codes(self, run, row))?
            }
            Encoding::MlxFloat(MlxFloat::Mxfp8)
            | Encoding::Gptq { .. }
            | Encoding::Bnb4 { .. }
            | Encoding::Fp8 { .. } => return None,
        };
        MatrixData::blocks(&self.name, [self.n_out, self.n_in], dtype, Bytes::from(bytes)).ok()
    }
}

/// Nibbles of two weights a byte, in order, as a block's: the first half in low nibbles.
fn reorder<const N: usize>(pairs: &[u8]) -> [u8; N] {
    let code = |i: usize| pairs[i / 2] >> (4 * (i % 2)) & 15;
    std::array::from_fn(|i| code(i) | code(N + i) << 4)
}

fn mxfp4(matrix: &MatrixData) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(matrix.bytes());
    for (pairs, &e) in matrix.parts[0].chunks_exact(16).zip(&*matrix.parts[1]) {
        if e == 255 {
            return None;
        }
        bytes.extend_from_slice(bytemuck::bytes_of(&BlockMXFP4 { e, qs: reorder(pairs) }));
    }
    Some(bytes)
}

fn nvfp4(matrix: &MatrixData) -> Option<Vec<u8>> {
    if !matrix.n_in.is_multiple_of(64) || matrix.parts[1].iter().any(|&d| d >= 0x7f) {
        return None;
    }
    let mut bytes = Vec::with_capacity(matrix.bytes());
    for (pairs, d) in matrix.parts[0].as_chunks::<32>().0.iter().zip(matrix.parts[1].as_chunks::<4>().0) {
        let qs = std::array::from_fn(|k| reorder(&pairs[8 * k..8 * k + 8]));
        bytes.extend_from_slice(bytemuck::bytes_of(&BlockNVFP4 { d: *d, qs }));
    }
    Some(bytes)
}

/// What the 32 weights of a run share: `w = scale * (q - zero)`.
#[derive(Debug, Clone, Copy)]
struct Run {
    scale: Half,
    zero: u8,
}

/// `x` as f16, if that is exact.
fn exact(x: f32) -> Option<Half> {
    let half = Half::new(x);
    (half.f32() == x).then_some(half)
}

/// The runs of a GPTQ or AWQ matrix, row after row.
fn transposed_runs(
    matrix: &MatrixData,
    scale: DType,
    group: u32,
    zeros: impl Fn(usize) -> Vec<u8>,
) -> Option<Vec<Run>> {
    let n_group = groups(matrix.n_in, group);
    if !matrix.n_in.is_multiple_of(32) || n_group > 1 && !group.is_multiple_of(32) {
        return None;
    }
    let per_row = matrix.n_in / 32;
    let mut runs = vec![Run { scale: Half::new(0.0), zero: 0 }; matrix.n_out * per_row];
    for g in 0..n_group {
        let first = g * group as usize / 32;
        let last = ((g + 1) * group as usize / 32).min(per_row);
        let scales = grid_line(matrix, scale, g, [0, matrix.n_out]);
        for (row, (scale, zero)) in scales.into_iter().zip(zeros(g)).enumerate() {
            runs[row * per_row + first..row * per_row + last].fill(Run { scale: exact(scale)?, zero });
        }
    }
    Some(runs)
}

/// Blocks of symmetric runs, of the smallest type that holds every `q - zero`. `codes(row, run)` are a run's codes.
fn pack(
    matrix: &MatrixData,
    bits: u8,
    runs: &[Run],
    codes: impl Fn(usize, usize) -> [u8; 32],
) -> Option<(DType, Vec<u8>)> {
    // Runs of scale 0 are 0 whatever their codes, so they do not choose the type.
    let zeros = runs.iter().filter(|run| run.scale.f32() != 0.0).map(|run| i32::from(run.zero));
    let high = (1 << bits) - 1 - zeros.clone().min().unwrap_or(1 << (bits - 1));
    let low = -zeros.max().unwrap_or(1 << (bits - 1));
    let types: [(DType, RangeInclusive<i32>); 3] =
        [(DType::Q4_0, -8..=7), (DType::Q5_0, -16..=15), (DType::Q8_0, -128..=127)];
    let (dtype, range) = types.into_iter().find(|(_, range)| range.contains(&low) && range.contains(&high))?;
    let mut bytes = Vec::with_capacity(runs.len() * dtype.block_bytes());
    let per_row = matrix.n_in / 32;
    for (i, &Run { scale: d, zero }) in runs.iter().enumerate() {
        // Modulo 256 this is right for the two types of unsigned codes and for the signed one, whose zero is 0.
        let shift = if dtype == DType::Q8_0 { 0 } else { range.start().unsigned_abs() as u8 }.wrapping_sub(zero);
        let codes = codes(i / per_row, i % per_row).map(|q| q.wrapping_add(shift));
        match dtype {
            DType::Q4_0 => bytes.extend_from_slice(bytemuck::bytes_of(&BlockQ4_0 { d, qs: nibbles(&codes) })),
            DType::Q5_0 => {
                let block = BlockQ5_0 { d, qh: fifth_bits(&codes), qs: nibbles(&codes) };
                bytes.extend_from_slice(bytemuck::bytes_of(&block));
            }
            _ => bytes.extend_from_slice(bytemuck::bytes_of(&BlockQ8_0 { d, qs: codes.map(|q| q as i8) })),
        }
    }
    Some((dtype, bytes))
}

/// Blocks of an MLX affine matrix.
fn affine(matrix: &MatrixData, format: mlx::Affine) -> Option<(DType, Vec<u8>)> {
    let (bits, group) = (format.bits, usize::from(format.group));
    let (per_row, per_group) = (matrix.n_in / 32, group / 32);
    let n_group = matrix.n_out * matrix.n_in / group;
    let (mut scales, mut biases) = (vec![0.0; n_group], vec![0.0; n_group]);
    super::decode(format.scale, &matrix.parts[1], &mut scales);
    super::decode(format.scale, &matrix.parts[2], &mut biases);
    let halves: Vec<Half> = scales.iter().map(|s| exact(*s)).collect::<Option<_>>()?;
    let codes = |row: usize, run: usize| {
        let (size, mut codes) = (4 * usize::from(bits), [0; 32]);
        mlx::unpack_bits(bits, &matrix.parts[0][(row * per_row + run) * size..][..size], &mut codes);
        codes
    };
    let zero = |(scale, bias): (&f32, &f32)| {
        let zero = if *scale == 0.0 { 0.0 } else { -bias / scale };
        let whole = zero.fract() == 0.0 && (0.0..256.0).contains(&zero) && zero * scale == -bias;
        whole.then_some(zero as u8)
    };
    if let Some(zeros) = scales.iter().zip(&biases).map(zero).collect::<Option<Vec<u8>>>() {
        let runs = (0..matrix.n_out * per_row).map(|i| i / per_group);
        let runs: Vec<Run> = runs.map(|g| Run { scale: halves[g], zero: zeros[g] }).collect();
        if let Some(packed) = pack(matrix, bits, &runs, codes) {
            return Some(packed);
        }
    }
    let minima: Vec<Half> = biases.iter().map(|b| exact(*b)).collect::<Option<_>>()?;
    let dtype = match bits {
        2..=4 => DType::Q4_1,
        5 => DType::Q5_1,
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(matrix.n_out * per_row * dtype.block_bytes());
    for i in 0..matrix.n_out * per_row {
        let (d, m, codes) = (halves[i / per_group], minima[i / per_group], codes(i / per_row, i % per_row));
        if dtype == DType::Q4_1 {
            bytes.extend_from_slice(bytemuck::bytes_of(&BlockQ4_1 { d, m, qs: nibbles(&codes) }));
        } else {
            let block = BlockQ5_1 { d, m, qh: fifth_bits(&codes), qs: nibbles(&codes) };
            bytes.extend_from_slice(bytemuck::bytes_of(&block));
        }
    }
    Some((dtype, bytes))
}
