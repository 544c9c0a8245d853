//! MLX's packed formats: affine integers and microscaled floats.
//!
//! ```text
//! weights   a row is a little-endian stream of bits: weight i is bits [i * bits, (i + 1) * bits)
//! affine    w = scale * q + bias, in f32
//! mxfp4     w = e8m0(scale) * e2m1(q)     group 32
//! mxfp8     w = e8m0(scale) * e4m3(q)     group 32
//! nvfp4     w = e4m3(scale) * e2m1(q)     group 16
//! ```
//!
//! MLX itself computes in the type of the scales; here the f32 values are the definition, as for GGUF. A NaN of e4m3
//! (0x7f, 0xff), which no encoder writes, is NaN; MLX reads it as 480.
//!
//! Source: MLX `mlx/backend/cpu/quantized.cpp` @ 0.32 (`affine_dequantize`, `fp_dequantize`).

use super::float::{self, E2M1};
use crate::matrix::MlxFloat;
use crate::{DType, MatrixData};

impl MlxFloat {
    /// Weights that share a scale.
    pub const fn group(self) -> usize {
        match self {
            MlxFloat::Mxfp4 | MlxFloat::Mxfp8 => 32,
            MlxFloat::Nvfp4 => 16,
        }
    }

    /// Bits a weight.
    pub const fn bits(self) -> usize {
        match self {
            MlxFloat::Mxfp4 | MlxFloat::Nvfp4 => 4,
            MlxFloat::Mxfp8 => 8,
        }
    }
}

/// Unpacks a little-endian stream of `BITS` bits a code. `codes` has 8 codes per `BITS` bytes.
#[inline]
pub(super) fn unpack<const BITS: usize>(bytes: &[u8], codes: &mut [u8]) {
    for (codes, bytes) in codes.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<BITS>().0) {
        let mut word = [0; 8];
        word[..BITS].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (word >> (i * BITS)) as u8 & (0xff >> (8 - BITS));
        }
    }
}

/// [`unpack`] with the bits chosen at run time.
#[inline]
pub(super) fn unpack_bits(bits: u8, bytes: &[u8], codes: &mut [u8]) {
    match bits {
        2 => unpack::<2>(bytes, codes),
        3 => unpack::<3>(bytes, codes),
        4 => unpack::<4>(bytes, codes),
        5 => unpack::<5>(bytes, codes),
        6 => unpack::<6>(bytes, codes),
        8 => codes.copy_from_slice(bytes),
        _ => unreachable!("`MatrixData::check` allows 2, 3, 4, 5, 6 and 8 bits"),
    }
}

/// Packs codes into a little-endian stream of `bits` bits each. `codes` fill whole bytes.
pub(super) fn pack_bits(bits: u8, codes: &[u8], bytes: &mut Vec<u8>) {
    let (mut word, mut n) = (0u32, 0);
    for code in codes {
        word |= u32::from(*code) << n;
        n += u32::from(bits);
        while n >= 8 {
            bytes.push(word as u8);
            (word, n) = (word >> 8, n - 8);
        }
    }
}

/// The format of an affine matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine {
    pub bits: u8,
    pub group: u16,
    pub scale: DType,
}

/// Rows from `first` on, as many as fill `out`.
pub(super) fn affine(matrix: &MatrixData, format: Affine, first: usize, out: &mut [f32]) {
    let (n_in, group) = (matrix.n_in, usize::from(format.group));
    let (row_bytes, n_group) = (n_in * usize::from(format.bits) / 8, n_in / group);
    let scale_bytes = n_group * format.scale.block_bytes();
    let (mut scales, mut biases) = (vec![0.0; n_group], vec![0.0; n_group]);
    let mut codes = vec![0; n_in];
    for (row, out) in (first..).zip(out.chunks_exact_mut(n_in)) {
        super::decode(format.scale, &matrix.parts[1][row * scale_bytes..][..scale_bytes], &mut scales);
        super::decode(format.scale, &matrix.parts[2][row * scale_bytes..][..scale_bytes], &mut biases);
        unpack_bits(format.bits, &matrix.parts[0][row * row_bytes..][..row_bytes], &mut codes);
        let parameters = scales.iter().zip(&biases);
        for ((out, codes), (scale, bias)) in out.chunks_exact_mut(group).zip(codes.chunks_exact(group)).zip(parameters)
        {
            for (w, q) in out.iter_mut().zip(codes) {
                *w = scale * f32::from(*q) + bias;
            }
        }
    }
}

/// Rows from `first` on, as many as fill `out`.
pub(super) fn floats(matrix: &MatrixData, kind: MlxFloat, first: usize, out: &mut [f32]) {
    let (start, group) = (first * matrix.n_in, kind.group());
    let weights = &matrix.parts[0][start * kind.bits() / 8..];
    let scales = &matrix.parts[1][start / group..];
    let groups = out.chunks_exact_mut(group).zip(weights.chunks_exact(group * kind.bits() / 8)).zip(scales);
    for ((out, codes), &scale) in groups {
        match kind {
            MlxFloat::Mxfp8 => {
                let scale = float::e8m0(scale);
                for (w, q) in out.iter_mut().zip(codes) {
                    *w = scale * float::e4m3(*q);
                }
            }
            MlxFloat::Mxfp4 => nibbles(float::e8m0(scale), codes, out),
            MlxFloat::Nvfp4 => nibbles(float::e4m3(scale), codes, out),
        }
    }
}

fn nibbles(scale: f32, codes: &[u8], out: &mut [f32]) {
    for (pair, q) in out.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
        *pair = [scale * E2M1[usize::from(q & 15)], scale * E2M1[usize::from(q >> 4)]];
    }
}
