//! Random weight matrices of every encoding.

use super::{F32, Limit, QUANTIZED, ROUNDED, Random};
use crate::dtype::TYPES;
use crate::matrix::MlxFloat;
use crate::{Bytes, DType, Encoding, MatrixData, quant};

/// Different random blocks of a matrix; finding one takes up to a hundred tries.
const DIFFERENT: usize = 32;

/// An encoding with what the suite must know of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The encoding.
    pub encoding: Encoding,
    /// Columns are a multiple of this.
    pub n_in_of: usize,
    /// Rows are a multiple of this.
    pub n_out_of: usize,
    /// How far a product may be off.
    pub limit: Limit,
}

impl Sample {
    /// Plain numbers, or GGUF blocks.
    pub fn blocks(dtype: DType) -> Sample {
        let limit = match dtype {
            DType::BF16 => ROUNDED,
            _ if dtype.block() > 1 => QUANTIZED,
            _ => F32,
        };
        Sample { encoding: Encoding::Blocks(dtype), n_in_of: dtype.block(), n_out_of: 1, limit }
    }

    fn other(encoding: Encoding, n_in_of: usize, n_out_of: usize) -> Sample {
        Sample { encoding, n_in_of, n_out_of, limit: QUANTIZED }
    }

    /// Every encoding that a matrix may have, the layouts of packed ones in several widths.
    pub fn all() -> Vec<Sample> {
        let blocks = TYPES.iter().filter(|row| row.block > 1).map(|row| row.dtype);
        let plain = [DType::F32, DType::F16, DType::BF16];
        let mut all: Vec<Sample> = plain.into_iter().chain(blocks).map(Sample::blocks).collect();
        for (bits, group, scale) in [
            (2, 32, DType::F16),
            (3, 64, DType::BF16),
            (4, 64, DType::F16),
            (5, 32, DType::F32),
            (6, 128, DType::BF16),
            (8, 64, DType::F16),
        ] {
            all.push(Sample::other(Encoding::MlxAffine { bits, group, scale }, usize::from(group), 1));
        }
        for kind in [MlxFloat::Mxfp4, MlxFloat::Mxfp8, MlxFloat::Nvfp4] {
            all.push(Sample::other(Encoding::MlxFloat(kind), 32, 1));
        }
        for (bits, group) in [(2, 32), (3, 64), (4, 128), (8, 32)] {
            let gptq = Encoding::Gptq { bits, group, zero_plus_one: bits != 8, scale: DType::F16 };
            all.push(Sample::other(gptq, group as usize, 32));
        }
        all.push(Sample::other(Encoding::Awq { group: 64, scale: DType::F16 }, 64, 8));
        all.push(Sample::other(Encoding::Bnb4 { block: 64, nested_block: 0, nested_offset: 0.0 }, 64, 1));
        all.push(Sample::other(Encoding::Bnb4 { block: 64, nested_block: 256, nested_offset: 0.1 }, 64, 1));
        for (dtype, rows, cols) in
            [(DType::F8E4M3, u32::MAX, u32::MAX), (DType::F8E5M2, 1, u32::MAX), (DType::F8E4M3, 128, 128)]
        {
            all.push(Sample::other(Encoding::Fp8 { dtype, rows, cols, scale: DType::F32 }, 1, 1));
        }
        all
    }
}

/// A random matrix whose weights are of magnitude 0.01 to 10.
///
/// # Panics
/// If the shape is not one that the encoding can have.
pub fn matrix(random: &mut Random, encoding: Encoding, [n_out, n_in]: [usize; 2]) -> MatrixData {
    let n = n_out * n_in;
    let parts = match encoding {
        Encoding::Blocks(dtype) => vec![blocks(random, dtype, n)],
        Encoding::MlxAffine { bits, group, scale } => {
            let n_group = n / usize::from(group);
            vec![
                random.bytes(n * usize::from(bits) / 8),
                scales(random, scale, n_group),
                scales(random, scale, n_group),
            ]
        }
        Encoding::MlxFloat(kind) => {
            // Exponents of 2^-5 .. 2^2 for E8M0, 2^-3 .. 2^4 for E4M3.
            let (bits, group, low) = match kind {
                MlxFloat::Mxfp4 => (4, 32, 122),
                MlxFloat::Mxfp8 => (8, 32, 122),
                MlxFloat::Nvfp4 => (4, 16, 32),
            };
            let scales = (0..n / group).map(|_| low + random.below(if low == 32 { 64 } else { 8 }) as u8).collect();
            vec![finite(random, n * bits / 8), scales]
        }
        Encoding::Gptq { bits, group, scale, .. } => {
            let (bits, n_group) = (usize::from(bits), n_in.div_ceil(group as usize));
            vec![
                random.bytes(n * bits / 8),
                random.bytes(n_group * n_out * bits / 8),
                scales(random, scale, n_group * n_out),
                order(random, n_in, n_group),
            ]
        }
        Encoding::Awq { group, scale } => {
            let n_group = n_in / group as usize;
            vec![random.bytes(n / 2), random.bytes(n_group * n_out / 2), scales(random, scale, n_group * n_out)]
        }
        Encoding::Bnb4 { block, nested_block, .. } => bnb4(random, n, block as usize, nested_block as usize),
        Encoding::Fp8 { rows, cols, scale, .. } => {
            let tiles = |n: usize, of: u32| if of == u32::MAX { 1 } else { n.div_ceil(of as usize) };
            let n_scale = tiles(n_out, rows) * tiles(n_in, cols);
            vec![finite(random, n), scales(random, scale, n_scale)]
        }
    };
    let parts = parts.into_iter().map(Bytes::from).collect();
    MatrixData { name: format!("random {encoding}"), n_out, n_in, encoding, parts }
}

/// Plain numbers, or random blocks that decode to numbers of a reasonable size.
fn blocks(random: &mut Random, dtype: DType, n: usize) -> Vec<u8> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => numbers(dtype, &random.normals(n)),
        _ => {
            let mut weights = vec![0.0; dtype.block()];
            let mut block = |random: &mut Random| loop {
                let bytes = random.bytes(dtype.block_bytes());
                quant::decode(dtype, &bytes, &mut weights);
                let largest = weights.iter().fold(0f32, |m, w| m.max(w.abs()));
                if weights.iter().all(|w| w.is_finite()) && (0.1..4.0).contains(&largest) {
                    return bytes;
                }
            };
            let n = n / dtype.block();
            let different: Vec<Vec<u8>> = (0..n.min(DIFFERENT)).map(|_| block(random)).collect();
            (0..n).flat_map(|_| different[random.below(different.len())].iter().copied()).collect()
        }
    }
}

/// Numbers of a plain type.
fn numbers(dtype: DType, numbers: &[f32]) -> Vec<u8> {
    let pairs = |f: fn(f32) -> u16| numbers.iter().flat_map(|&x| f(x).to_le_bytes()).collect();
    match dtype {
        DType::F16 => pairs(|x| half::f16::from_f32(x).to_bits()),
        DType::BF16 => pairs(|x| half::bf16::from_f32(x).to_bits()),
        _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn scales(random: &mut Random, dtype: DType, n: usize) -> Vec<u8> {
    let scales: Vec<f32> = (0..n).map(|_| 0.01 + 0.1 * random.unit()).collect();
    numbers(dtype, &scales)
}

/// FP8 and FP4 bytes without the top exponents, which hold infinities and NaNs.
fn finite(random: &mut Random, n: usize) -> Vec<u8> {
    random.bytes(n).into_iter().map(|b| b & 0xbf).collect()
}

/// Groups of inputs in random order for one matrix in two, none for the other.
fn order(random: &mut Random, n_in: usize, n_group: usize) -> Vec<u8> {
    if random.below(2) == 0 {
        return Vec::new();
    }
    (0..n_in).flat_map(|_| (random.below(n_group) as i32).to_le_bytes()).collect()
}

fn bnb4(random: &mut Random, n: usize, block: usize, nested_block: usize) -> Vec<Vec<u8>> {
    let n_block = n.div_ceil(block);
    let map: Vec<f32> = (0..16).map(|i| (i as f32 - 7.5) / 7.5).collect();
    let weights = random.bytes(n / 2);
    if nested_block == 0 {
        return vec![weights, scales(random, DType::F32, n_block), numbers(DType::F32, &map), Vec::new(), Vec::new()];
    }
    let nested_map: Vec<f32> = (0..256).map(|i| i as f32 / 256.0).collect();
    let (absmax, nested) = (random.bytes(n_block), scales(random, DType::F32, n_block.div_ceil(nested_block)));
    vec![weights, absmax, numbers(DType::F32, &map), nested, numbers(DType::F32, &nested_map)]
}
