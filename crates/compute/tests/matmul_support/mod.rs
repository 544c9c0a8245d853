//! Random matrices of every encoding, and what a product of them should be.

use mlxr_compute::cpu::Isa;
use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{Bytes, DType, Encoding, MatrixData};

/// splitmix64.
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Random bytes that decode to finite, mostly normal numbers: every 16 bits are a small f16 or, where a type has its
/// scale elsewhere, any byte.
pub fn blocks(dtype: DType, [n_out, n_in]: [usize; 2], rng: &mut Rng) -> MatrixData {
    let len = dtype.bytes_of(n_in).expect("a multiple of the block") * n_out;
    let bytes = (0..len).map(|_| rng.next() as u8).collect();
    scaled(dtype, [n_out, n_in], bytes, rng)
}

/// These bytes, but for scales as those above.
pub fn scaled(dtype: DType, [n_out, n_in]: [usize; 2], mut bytes: Vec<u8>, rng: &mut Rng) -> MatrixData {
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        fix_scales(dtype, block, rng);
    }
    MatrixData::blocks("test", [n_out, n_in], dtype, Bytes::from(bytes)).expect("fits")
}

/// Overwrites the scales of a block by values around 0.01.
fn fix_scales(dtype: DType, block: &mut [u8], rng: &mut Rng) {
    let half = half::f16::from_f32(0.01 * rng.float()).to_le_bytes();
    let n = block.len();
    let at: &[usize] = match dtype {
        DType::F32 => return block.copy_from_slice(&rng.float().to_le_bytes()),
        DType::F16 => return block.copy_from_slice(&half::f16::from_f32(rng.float()).to_le_bytes()),
        DType::BF16 => return block.copy_from_slice(&half::bf16::from_f32(rng.float()).to_le_bytes()),
        DType::F64 => return block.copy_from_slice(&f64::from(rng.float()).to_le_bytes()),
        DType::F8E4M3 | DType::F8E5M2 => return block[0] &= 0xbf, // no NaN
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        DType::TQ1_0 => &[52],
        DType::TQ2_0 => &[64],
        DType::MXFP4 => return block[0] = 120 + (rng.next() % 8) as u8,
        DType::NVFP4 => return block[..4].iter_mut().for_each(|s| *s = (rng.next() % 100) as u8),
        DType::IQ1_M => {
            // The f16 scale is spread over the high nibbles of four 16-bit words.
            let bits = u16::from_le_bytes(half);
            for i in 0..4 {
                block[48 + 2 * i + 1] = block[48 + 2 * i + 1] & 15 | ((bits >> (4 * i)) as u8 & 15) << 4;
            }
            return;
        }
        DType::Q8_K => return block[..4].copy_from_slice(&(0.01 * rng.float()).to_le_bytes()),
        _ => &[0],
    };
    for &i in at {
        assert!(i + 2 <= n);
        block[i..i + 2].copy_from_slice(&half);
    }
}

fn bytes(n: usize, rng: &mut Rng) -> Vec<u8> {
    (0..n).map(|_| rng.next() as u8).collect()
}

/// `n` numbers of type `dtype` around 0.01.
fn small(dtype: DType, n: usize, rng: &mut Rng) -> Vec<u8> {
    let number = |x: f32| match dtype {
        DType::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    };
    (0..n).flat_map(|_| number(0.01 * (rng.float() + 1.1))).collect()
}

/// A random matrix of any encoding; `None` if the encoding cannot have the shape.
pub fn matrix(encoding: Encoding, [n_out, n_in]: [usize; 2], rng: &mut Rng) -> Option<MatrixData> {
    let n = n_out * n_in;
    let parts = match encoding {
        Encoding::Blocks(dtype) => {
            dtype.bytes_of(n_in)?;
            return Some(blocks(dtype, [n_out, n_in], rng));
        }
        Encoding::MlxAffine { bits, group, scale } => {
            let n_scale = n / usize::from(group);
            vec![bytes(n * usize::from(bits) / 8, rng), small(scale, n_scale, rng), small(scale, n_scale, rng)]
        }
        Encoding::MlxFloat(kind) => {
            let scales = (0..n / kind.group()).map(|_| 100 + (rng.next() % 20) as u8).collect();
            let codes = bytes(n * kind.bits() / 8, rng);
            vec![if kind == MlxFloat::Mxfp8 { codes.iter().map(|c| c & 0xbf).collect() } else { codes }, scales]
        }
        Encoding::Gptq { bits, group, scale, .. } => {
            let n_group = n_in.div_ceil(group as usize);
            let (codes, zeros) = (n * usize::from(bits) / 8, n_group * n_out * usize::from(bits) / 8);
            vec![bytes(codes, rng), bytes(zeros, rng), small(scale, n_group * n_out, rng), Vec::new()]
        }
        Encoding::Awq { group, scale } => {
            let n_group = n_in.div_ceil(group as usize);
            vec![bytes(n / 2, rng), bytes(n_group * n_out / 2, rng), small(scale, n_group * n_out, rng)]
        }
        Encoding::Bnb4 { block, .. } => {
            let absmax = small(DType::F32, n.div_ceil(block as usize), rng);
            let map = (0..16).flat_map(|i| (i as f32 / 8.0 - 0.9).to_le_bytes()).collect();
            vec![bytes(n.div_ceil(2), rng), absmax, map, Vec::new(), Vec::new()]
        }
        Encoding::Fp8 { rows, cols, scale, .. } => {
            let n_scale = n_out.div_ceil(rows as usize) * n_in.div_ceil(cols as usize);
            vec![bytes(n, rng).iter().map(|c| c & 0xbf).collect(), small(scale, n_scale, rng)]
        }
    };
    let parts = parts.into_iter().map(Bytes::from).collect();
    let matrix = MatrixData { name: "test".to_owned(), n_out, n_in, encoding, parts };
    matrix.check().ok().map(|()| matrix)
}

/// How kernels see inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// As they are.
    Float,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to int8 with a scale for so many.
    Int8(usize),
}

/// What kernels of this encoding make of rows of `n_in` inputs.
pub fn inputs_of(encoding: Encoding, isa: Isa, n_in: usize) -> Inputs {
    let int8 = match encoding {
        Encoding::Blocks(dtype) => dtype.block() >= 32,
        _ => matches!(encoding, Encoding::MlxAffine { bits: 4 | 8, scale: DType::F16 | DType::BF16, .. }),
    };
    let super_blocks = matches!(encoding, Encoding::Blocks(dtype) if dtype.block() == 256);
    let bf16 = encoding == Encoding::Blocks(DType::BF16) && isa.multiplies_bf16() && n_in.is_multiple_of(2);
    match (int8, bf16) {
        (true, _) => Inputs::Int8(if super_blocks { 128 } else { 32 }),
        (_, true) => Inputs::Bf16,
        _ => Inputs::Float,
    }
}

/// All weights of a matrix.
pub fn decoded(matrix: &MatrixData) -> Vec<f32> {
    let mut weights = vec![0.0; matrix.n_out * matrix.n_in];
    matrix.decode_rows(0, matrix.n_out, &mut weights);
    weights
}

/// Inputs as the kernels see them.
pub fn rounded(x: &[f32], inputs: Inputs) -> Vec<f32> {
    let n = match inputs {
        Inputs::Float => return x.to_vec(),
        Inputs::Bf16 => return x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect(),
        Inputs::Int8(n) => n,
    };
    let mut out = Vec::new();
    for x in x.chunks_exact(n) {
        let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        out.extend(x.iter().map(|&x| (x * inverse).round_ties_even() * (largest / 127.0)));
    }
    out
}

/// The product of a row and a column, and how much it may be off.
///
/// Sums of n f32 terms are off by about 1e-6 of the sum of magnitudes. Int8 adds one input that is rounded the other
/// way, as the test's `x / scale` may differ from the kernel's in its last bit.
pub fn dot(row: &[f32], x: &[f32], inputs: Inputs) -> (f64, f64) {
    let terms = || row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
    let size: f64 = terms().map(f64::abs).sum();
    let step = if matches!(inputs, Inputs::Int8(_)) { size / row.len() as f64 / 50.0 } else { 0.0 };
    (terms().sum(), 1e-5 * size + step + 1e-9)
}
