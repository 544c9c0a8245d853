//! Every encoding, instruction set and shape against the definition: decoded weights, f64 sums.

mod matmul_support;

use matmul_support::{Rng, decoded, dot, inputs_of, matrix, rounded, scaled};
use mlxr_compute::cpu::matmul::{Activations, Columns, Epilogue, Out, PackedMatrix, Place, Product, Weights, matmul};
use mlxr_compute::cpu::{Isa, Pool};
use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{DType, Encoding, MatrixData};

/// Every encoding: all GGUF types, and each of the others with some parameters.
fn encodings() -> Vec<Encoding> {
    let mut all: Vec<_> = TYPES.iter().map(|&t| Encoding::Blocks(t)).collect();
    for bits in [2, 3, 4, 5, 6, 8] {
        for (group, scale) in [(32, DType::F16), (64, DType::BF16), (128, DType::F16), (64, DType::F32)] {
            all.push(Encoding::MlxAffine { bits, group, scale });
        }
    }
    all.extend([MlxFloat::Mxfp4, MlxFloat::Mxfp8, MlxFloat::Nvfp4].map(Encoding::MlxFloat));
    for bits in [2, 3, 4, 8] {
        all.push(Encoding::Gptq { bits, group: 64, zero_plus_one: bits == 4, scale: DType::F16 });
    }
    all.push(Encoding::Awq { group: 64, scale: DType::F16 });
    all.push(Encoding::Bnb4 { block: 64, nested_block: 0, nested_offset: 0.0 });
    for dtype in [DType::F8E4M3, DType::F8E5M2] {
        all.push(Encoding::Fp8 { dtype, rows: 8, cols: 128, scale: DType::F32 });
    }
    all
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

/// One matrix, multiplied with each number of columns. Says how many shapes were checked, 0 or all.
fn check(encoding: Encoding, isa: Isa, shape @ [n_out, n_in]: [usize; 2], columns: &[usize], pool: &Pool) -> usize {
    let seed = (n_out * 31 + n_in) as u64;
    let rng = &mut Rng(seed);
    let Some(data) = matrix(encoding, shape, rng) else { return 0 };
    let n_max = columns.iter().copied().max().unwrap_or(0);
    let x: Vec<f32> = (0..n_max * n_in).map(|_| rng.float()).collect();
    check_data(data, &x, isa, columns, pool);
    columns.len()
}

/// Likewise, of a matrix and inputs of as many columns as any number of them.
fn check_data(data: MatrixData, x: &[f32], isa: Isa, columns: &[usize], pool: &Pool) {
    let (encoding, shape @ [n_out, n_in]) = (data.encoding, [data.n_out, data.n_in]);
    let how = inputs_of(encoding, isa, n_in);
    let (weights, seen) = (decoded(&data), rounded(x, how));
    let packed = PackedMatrix::new(&[data], isa).expect("available");
    let mut inputs = Activations::new(isa);
    for &n_col in columns {
        inputs.load(pool, &x[..n_col * n_in], n_in, Columns::Rows, &[&packed]).expect("no panic");
        let mut y = vec![f32::NAN; n_col * n_out];
        let place = Place { out: 0, row: 0, col: 0 };
        let product = Product { weights: Weights::all(&packed), group: 0, epilogue: Epilogue::Store, place };
        matmul(pool, &inputs, &[product], &mut [Out { data: &mut y, stride: n_out }]).expect("no panic");
        for (i, &found) in y.iter().enumerate() {
            let (c, r) = (i / n_out, i % n_out);
            let column = &seen[c * n_in..][..n_in];
            let (expected, tolerance) = dot(&weights[r * n_in..][..n_in], column, how);
            assert!(
                (f64::from(found) - expected).abs() <= tolerance,
                "{encoding} {isa} {shape:?} x {n_col}: row {r} column {c}: {found} for {expected}"
            );
        }
    }
}

#[test]
fn every_encoding_and_isa() {
    let pool = Pool::new(2).expect("threads");
    for isa in isas() {
        for encoding in encodings() {
            let n = [[17, 512], [32, 256]].map(|shape| check(encoding, isa, shape, &[1, 3, 64], &pool));
            assert!(n.iter().sum::<usize>() > 0, "{encoding}: no shape fits");
        }
    }
}

#[test]
fn sums_of_the_largest_codes_and_inputs_fit() {
    let pool = Pool::new(1).expect("threads");
    let shape @ [n_out, n_in] = [32, 512];
    for isa in isas() {
        for encoding in encodings() {
            let Encoding::Blocks(dtype) = encoding else { continue };
            let Some(len) = dtype.bytes_of(n_in).filter(|_| dtype.block() >= 32) else { continue };
            for byte in [0x00, 0x55, 0x77, 0x7f, 0x80, 0x88, 0xaa, 0xff] {
                let data = scaled(dtype, shape, vec![byte; len * n_out], &mut Rng(u64::from(byte)));
                // Signs of whole columns, and of every other pair.
                let x: Vec<f32> = (0..64 * n_in).map(|i| [1.0, -1.0][[0, i / n_in, i / 2][i / n_in % 3] % 2]).collect();
                check_data(data, &x, isa, &[1, 64], &pool);
            }
        }
    }
}

/// One encoding a kind of kernel: with and without minima, halves, planes, tables, floats, decoded panels.
fn kinds() -> Vec<Encoding> {
    let types = [
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4_K,
        DType::Q6_K,
        DType::Q2_K,
        DType::Q3_K,
        DType::IQ1_S,
        DType::TQ1_0,
        DType::MXFP4,
    ];
    let mut kinds: Vec<_> = types.into_iter().map(Encoding::Blocks).collect();
    kinds.push(Encoding::Blocks(DType::IQ2_S));
    kinds.push(Encoding::MlxAffine { bits: 8, group: 64, scale: DType::BF16 });
    kinds
}

#[test]
fn every_number_of_rows_and_columns() {
    let pool = Pool::new(3).expect("threads");
    for isa in isas() {
        for encoding in kinds() {
            let columns: Vec<usize> = (1..18).chain([33, 64, 83]).collect();
            assert!(check(encoding, isa, [33, 256], &columns, &pool) > 0);
            for n_out in [1, 15, 16, 17, 100] {
                check(encoding, isa, [n_out, 512], &[1, 5], &pool);
            }
        }
    }
}

#[test]
fn rows_of_any_multiple_of_the_block() {
    let pool = Pool::new(2).expect("threads");
    for isa in isas() {
        for dtype in [DType::Q4_0, DType::Q8_0, DType::IQ4_NL, DType::MXFP4, DType::F16, DType::BF16, DType::F32] {
            for n_in in [32, 96, 2880, 4128] {
                assert!(check(Encoding::Blocks(dtype), isa, [18, n_in], &[1, 7], &pool) > 0);
            }
        }
        for n_in in [1, 5, 33, 34] {
            for dtype in [DType::F32, DType::BF16] {
                assert!(check(Encoding::Blocks(dtype), isa, [18, n_in], &[1, 7], &pool) > 0);
            }
        }
    }
}
