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

use std::ops::{Range, RangeInclusive};

use super::encode::{fifth_bits, nibbles};
use super::float::Half;
use super::parts::groups;
use super::transposed::grid_line;
use super::{BlockMXFP4, BlockNVFP4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};
use super::{awq, gptq, mlx};
use crate::matrix::MlxFloat;
use crate::{Bytes, DType, Encoding, Error, MatrixData};

/// Rows decoded at a time.
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

    /// The GGUF type whose blocks have this matrix's values, or `None` where the table above has none. Scales, zeros and
    /// biases tell; codes are not read.
    pub fn gguf_type(&self) -> Option<DType> {
        match self.encoding {
            Encoding::Blocks(dtype) => Some(dtype),
            Encoding::MlxFloat(MlxFloat::Mxfp4) => (!self.parts[1].contains(&255)).then_some(DType::MXFP4),
            Encoding::MlxFloat(MlxFloat::Nvfp4) => {
                let fits = self.n_in.is_multiple_of(64) && self.parts[1].iter().all(|&d| d < 0x7f);
                fits.then_some(DType::NVFP4)
            }
            Encoding::MlxAffine { bits, group, scale } => affine_type(self, mlx::Affine { bits, group, scale }),
            _ => Transposed::of(self)?.gguf_type(),
        }
    }

    /// The matrix as blocks of `dtype` of equal values: of its own [`MatrixData::gguf_type`], or that of a matrix that
    /// this is some rows of. `None` if the type cannot hold them. A zero may change its sign.
    pub fn to_gguf_blocks(&self, dtype: DType) -> Option<MatrixData> {
        let bytes = match (self.encoding, dtype) {
            (Encoding::Blocks(own), _) => return (own == dtype).then(|| self.clone()),
            (Encoding::MlxFloat(MlxFloat::Mxfp4), DType::MXFP4) => mxfp4(self)?,
            (Encoding::MlxFloat(MlxFloat::Nvfp4), DType::NVFP4) => nvfp4(self)?,
            (Encoding::MlxAffine { bits, group, scale }, _) => affine(self, mlx::Affine { bits, group, scale }, dtype)?,
            _ => {
                let transposed = Transposed::of(self)?;
                pack(self, (dtype, transposed.bits), &transposed.runs()?, |row, run| transposed.codes(row, run))?
            }
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

/// A GPTQ or AWQ matrix whose groups are whole runs, in order.
struct Transposed<'a> {
    matrix: &'a MatrixData,
    bits: u8,
    group: u32,
    scale: DType,
    /// Of GPTQ: whether zeros are stored less one.
    zero_plus_one: Option<bool>,
}

impl Transposed<'_> {
    fn of(matrix: &MatrixData) -> Option<Transposed<'_>> {
        let (bits, group, scale, zero_plus_one) = match matrix.encoding {
            Encoding::Gptq { bits, group, zero_plus_one, scale } if gptq::in_order(matrix, group) => {
                (bits, group, scale, Some(zero_plus_one))
            }
            Encoding::Awq { group, scale } => (4, group, scale, None),
            _ => return None,
        };
        let whole = groups(matrix.n_in, group) == 1 || group.is_multiple_of(32);
        (matrix.n_in.is_multiple_of(32) && whole).then_some(Transposed { matrix, bits, group, scale, zero_plus_one })
    }

    /// Scales and zeros of a group, of every row.
    fn group(&self, g: usize) -> impl Iterator<Item = (f32, u8)> {
        let (matrix, rows) = (self.matrix, [0, self.matrix.n_out]);
        let zeros = match self.zero_plus_one {
            Some(zero_plus_one) => {
                let format = gptq::Gptq { bits: self.bits, group: self.group, zero_plus_one, scale: self.scale };
                gptq::zeros(matrix, format, g, rows)
            }
            None => awq::line(&matrix.parts[1], matrix.n_out, g, rows),
        };
        grid_line(matrix, self.scale, g, rows).into_iter().zip(zeros)
    }

    fn gguf_type(&self) -> Option<DType> {
        let mut zeros = Zeros::default();
        for g in 0..groups(self.matrix.n_in, self.group) {
            for (scale, zero) in self.group(g) {
                zeros.add(Run { scale: exact(scale)?, zero });
            }
        }
        zeros.gguf_type(self.bits)
    }

    /// The runs, row after row.
    fn runs(&self) -> Option<Vec<Run>> {
        let per_row = self.matrix.n_in / 32;
        let mut runs = vec![Run { scale: Half::new(0.0), zero: 0 }; self.matrix.n_out * per_row];
        for g in 0..groups(self.matrix.n_in, self.group) {
            let first = g * self.group as usize / 32;
            let last = ((g + 1) * self.group as usize / 32).min(per_row);
            for (row, (scale, zero)) in self.group(g).enumerate() {
                runs[row * per_row + first..row * per_row + last].fill(Run { scale: exact(scale)?, zero });
            }
        }
        Some(runs)
    }

    fn codes(&self, row: usize, run: usize) -> [u8; 32] {
        match self.zero_plus_one {
            Some(_) => gptq::codes(self.matrix, self.bits, run, row),
            None => awq::codes(self.matrix, run, row),
        }
    }
}

/// Types of symmetric blocks, the smallest first, and what `q - zero` may be in them.
const SYMMETRIC: [(DType, RangeInclusive<i32>); 3] =
    [(DType::Q4_0, -8..=7), (DType::Q5_0, -16..=15), (DType::Q8_0, -128..=127)];

/// The smallest and the largest zero. Runs of scale 0 are 0 whatever their codes, so they do not count.
#[derive(Debug, Default)]
struct Zeros(Option<(u8, u8)>);

impl Zeros {
    fn add(&mut self, run: Run) {
        if run.scale.f32() != 0.0 {
            let (least, most) = self.0.unwrap_or((run.zero, run.zero));
            self.0 = Some((least.min(run.zero), most.max(run.zero)));
        }
    }

    /// Whether a range holds every `q - zero` of codes of so many bits.
    fn within(&self, bits: u8, range: &RangeInclusive<i32>) -> bool {
        let (least, most) = self.0.unwrap_or((1 << (bits - 1), 1 << (bits - 1)));
        range.contains(&-i32::from(most)) && range.contains(&((1 << bits) - 1 - i32::from(least)))
    }

    /// The smallest type that holds every `q - zero`.
    fn gguf_type(&self, bits: u8) -> Option<DType> {
        SYMMETRIC.iter().find(|(_, range)| self.within(bits, range)).map(|(dtype, _)| *dtype)
    }
}

/// Symmetric runs of codes of so many bits as blocks of a type, if that holds every `q - zero`. `codes(row, run)` are a
/// run's codes.
fn pack(
    matrix: &MatrixData,
    (dtype, bits): (DType, u8),
    runs: &[Run],
    codes: impl Fn(usize, usize) -> [u8; 32],
) -> Option<Vec<u8>> {
    let (_, range) = SYMMETRIC.iter().find(|(own, _)| *own == dtype)?;
    let mut zeros = Zeros::default();
    runs.iter().for_each(|run| zeros.add(*run));
    if !zeros.within(bits, range) {
        return None;
    }
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
    Some(bytes)
}

/// Scales and biases of some rows of an MLX affine matrix, a pair for each group.
fn affine_groups(matrix: &MatrixData, format: mlx::Affine, rows: Range<usize>) -> [Vec<f32>; 2] {
    [1, 2].map(|part| {
        let row = matrix.parts[part].len() / matrix.n_out.max(1);
        let mut numbers = vec![0.0; rows.len() * matrix.n_in / usize::from(format.group)];
        super::decode(format.scale, &matrix.parts[part][rows.start * row..rows.end * row], &mut numbers);
        numbers
    })
}

/// A group of scale `s` and bias `b` as `s * (q - zero)`, if that is exact.
fn symmetric([scale, bias]: [f32; 2]) -> Option<Run> {
    let zero = if scale == 0.0 { 0.0 } else { -bias / scale };
    let whole = zero.fract() == 0.0 && (0.0..256.0).contains(&zero) && zero * scale == -bias;
    Some(Run { scale: exact(scale)?, zero: whole.then_some(zero as u8)? })
}

/// The type of blocks that have an MLX affine matrix's values.
fn affine_type(matrix: &MatrixData, format: mlx::Affine) -> Option<DType> {
    let (mut zeros, mut whole, mut minima) = (Zeros::default(), true, true);
    for first in (0..matrix.n_out).step_by(BAND) {
        let [scales, biases] = affine_groups(matrix, format, first..matrix.n_out.min(first + BAND));
        for (scale, bias) in scales.into_iter().zip(biases) {
            exact(scale)?;
            match symmetric([scale, bias]) {
                Some(run) => zeros.add(run),
                None => whole = false,
            }
            minima &= exact(bias).is_some();
        }
    }
    let with_minimum = || match format.bits {
        2..=4 => Some(DType::Q4_1),
        5 => Some(DType::Q5_1),
        _ => None,
    };
    let found = if whole { zeros.gguf_type(format.bits) } else { None };
    found.or_else(|| with_minimum().filter(|_| minima))
}

/// An MLX affine matrix as blocks of a type, if they can have its values.
fn affine(matrix: &MatrixData, format: mlx::Affine, dtype: DType) -> Option<Vec<u8>> {
    let (bits, per_row, per_group) = (format.bits, matrix.n_in / 32, usize::from(format.group) / 32);
    let [scales, biases] = affine_groups(matrix, format, 0..matrix.n_out);
    let codes = |row: usize, run: usize| {
        let (size, mut codes) = (4 * usize::from(bits), [0; 32]);
        mlx::unpack_bits(bits, &matrix.parts[0][(row * per_row + run) * size..][..size], &mut codes);
        codes
    };
    let n_run = matrix.n_out * per_row;
    if !matches!((dtype, bits), (DType::Q4_1, 2..=4) | (DType::Q5_1, 2..=5)) {
        let groups = scales.into_iter().zip(biases).map(|(scale, bias)| symmetric([scale, bias]));
        let groups: Vec<Run> = groups.collect::<Option<_>>()?;
        let runs: Vec<Run> = (0..n_run).map(|i| groups[i / per_group]).collect();
        return pack(matrix, (dtype, bits), &runs, codes);
    }
    let halves = |numbers: Vec<f32>| numbers.into_iter().map(exact).collect::<Option<Vec<Half>>>();
    let (scales, minima) = (halves(scales)?, halves(biases)?);
    let mut bytes = Vec::with_capacity(n_run * dtype.block_bytes());
    for i in 0..n_run {
        let (d, m, codes) = (scales[i / per_group], minima[i / per_group], codes(i / per_row, i % per_row));
        if dtype == DType::Q4_1 {
            bytes.extend_from_slice(bytemuck::bytes_of(&BlockQ4_1 { d, m, qs: nibbles(&codes) }));
        } else {
            let block = BlockQ5_1 { d, m, qh: fifth_bits(&codes), qs: nibbles(&codes) };
            bytes.extend_from_slice(bytemuck::bytes_of(&block));
        }
    }
    Some(bytes)
}
