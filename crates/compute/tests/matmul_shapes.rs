//! Every encoding, instruction set and shape against the definition: decoded weights, f64 sums.

use mlxr_compute::cpu::matmul::{Activations, Columns, Epilogue, Out, PackedMatrix, Place, Product, Weights, matmul};
use mlxr_compute::cpu::{Isa, Pool};
use mlxr_compute::quant;
use mlxr_compute::{Bytes, DType, MatrixData};

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1..1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Random bytes that decode to finite, mostly normal numbers: every 16 bits are a small f16 or, where a type has its
/// scale elsewhere, any byte.
fn random_matrix(dtype: DType, [n_out, n_in]: [usize; 2], rng: &mut Rng) -> MatrixData {
    let len = dtype.bytes_of(n_in).expect("a multiple of the block") * n_out;
    let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
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

/// The encodings whose kernels take int8 inputs.
fn is_int8(dtype: DType) -> bool {
    let float = dtype.block() == 1;
    let decoded = dtype.name().starts_with("iq1") || dtype.name().starts_with("iq2") || dtype.name().starts_with("iq3");
    !(float || decoded || matches!(dtype, DType::TQ1_0 | DType::TQ2_0 | DType::Q8_K))
}

/// Inputs as the kernels see them: rounded to int8 with a scale per 32, if `int8`.
fn rounded(x: &[f32], int8: bool) -> Vec<f32> {
    if !int8 {
        return x.to_vec();
    }
    let mut out = Vec::new();
    for x in x.chunks_exact(32) {
        let scale = x.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
        let q = |x: f32| (x * (if scale > 0.0 { 127.0 / (scale * 127.0) } else { 0.0 })).round_ties_even();
        out.extend(x.iter().map(|&x| q(x) * scale));
    }
    out
}

fn check(dtype: DType, isa: Isa, [n_out, n_in]: [usize; 2], n_col: usize, pool: &Pool) {
    let seed = 1 + dtype as u64 * 1000 + (n_out * 31 + n_in) as u64;
    let rng = &mut Rng(seed);
    let data = random_matrix(dtype, [n_out, n_in], rng);
    let x: Vec<f32> = (0..n_col * n_in).map(|_| rng.float()).collect();
    let mut weights = vec![0.0; n_out * n_in];
    quant::decode(dtype, &data.parts[0], &mut weights);

    let matrix = PackedMatrix::new(std::slice::from_ref(&data), isa).expect("available");
    let mut inputs = Activations::new(isa);
    inputs.load(pool, &x, n_in, Columns::Rows, &[&matrix]).expect("no panic");
    let mut y = vec![f32::NAN; n_col * n_out];
    let product = Product {
        weights: Weights::all(&matrix),
        group: 0,
        epilogue: Epilogue::Store,
        place: Place { out: 0, row: 0, col: 0 },
    };
    matmul(pool, &inputs, &[product], &mut [Out { data: &mut y, stride: n_out }]).expect("no panic");

    let seen = rounded(&x, is_int8(dtype));
    for c in 0..n_col {
        for r in 0..n_out {
            let row = &weights[r * n_in..][..n_in];
            let terms = || row.iter().zip(&seen[c * n_in..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (expected, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            // A tie may round the other way where the test's scale differs in its last bit: one step of one input.
            let step = if is_int8(dtype) { size / n_in as f64 / 50.0 } else { 0.0 };
            let found = f64::from(y[c * n_out + r]);
            let error = (found - expected).abs();
            assert!(
                error <= 1e-5 * size + step + 1e-9,
                "{} {isa} [{n_out}, {n_in}] x {n_col}: row {r} column {c}: {found} for {expected} (seed {seed})",
                dtype.name()
            );
        }
    }
}

const TYPES: [DType; 30] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F64,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q8_K,
    DType::IQ1_S,
    DType::IQ1_M,
    DType::IQ2_XXS,
    DType::IQ2_XS,
    DType::IQ2_S,
    DType::IQ3_XXS,
    DType::IQ3_S,
    DType::IQ4_NL,
    DType::IQ4_XS,
    DType::TQ1_0,
    DType::TQ2_0,
    DType::MXFP4,
    DType::NVFP4,
    DType::F8E4M3,
    DType::F8E5M2,
];

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

#[test]
fn every_type_and_isa() {
    let pool = Pool::new(2).expect("threads");
    for isa in isas() {
        for dtype in TYPES {
            check(dtype, isa, [17, 512], 3, &pool);
        }
    }
}
