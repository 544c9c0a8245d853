//! Matrices become GGUF blocks of equal values where the formats allow, and any encodable type otherwise.

mod quant_common;

use mlxr_compute::{Bytes, DType, Encoding, MatrixData};
use quant_common::{Case, FILES, assert_same, cases, matrix};

fn decoded(matrix: &MatrixData) -> Vec<f32> {
    let mut out = vec![f32::NAN; matrix.n_out * matrix.n_in];
    matrix.decode_rows(0, matrix.n_out, &mut out);
    out
}

/// The type that a case of the vectors becomes, from the table in `repack.rs`. Zeros there are random.
fn expected(case: &Case, encoding: Encoding) -> Option<DType> {
    let whole = |group: u32| group as usize >= case.shape[1] || group.is_multiple_of(32);
    match encoding {
        Encoding::MlxAffine { bits: 2..=4, scale: DType::F16 | DType::BF16, .. } => Some(DType::Q4_1),
        Encoding::MlxAffine { bits: 5, scale: DType::F16 | DType::BF16, .. } => Some(DType::Q5_1),
        Encoding::MlxFloat(kind) => match kind.bits() {
            8 => None,
            _ if kind.group() == 16 => Some(DType::NVFP4),
            _ => Some(DType::MXFP4),
        },
        Encoding::Gptq { bits, group, scale: DType::F16, .. } if whole(group) => match bits {
            2 | 3 => Some(DType::Q4_0),
            4 => Some(DType::Q5_0),
            _ => None,
        },
        Encoding::Awq { group, scale: DType::F16 | DType::BF16 } if whole(group) => Some(DType::Q5_0),
        _ => None,
    }
}

#[test]
fn blocks_have_the_values_of_the_vectors() {
    let mut found = 0;
    for name in FILES {
        for case in cases(name) {
            let matrix = matrix(name, &case);
            let dtype = matrix.gguf_type();
            assert_eq!(dtype, expected(&case, matrix.encoding), "{}", matrix.encoding);
            let others = [DType::Q4_0, DType::Q5_0, DType::Q8_0, DType::Q4_1, DType::Q5_1, DType::MXFP4, DType::NVFP4];
            for blocks in others.into_iter().filter_map(|other| matrix.to_gguf_blocks(other)) {
                blocks.check().expect("a valid matrix");
                assert_eq!(decoded(&blocks), case.weights, "{} -> {}", matrix.encoding, blocks.encoding);
                assert!(dtype.is_some(), "{} has no type but fits {}", matrix.encoding, blocks.encoding);
            }
            let Some(dtype) = dtype else { continue };
            let blocks = matrix.to_gguf_blocks(dtype).expect("its own type");
            assert_eq!(decoded(&blocks), case.weights, "{} -> {}", matrix.encoding, blocks.encoding);
            found += 1;
        }
    }
    assert!(found >= 15, "{found} cases");
}

/// An MLX matrix `[2, 128]` whose biases are `-zero` scales.
fn centred(bits: u8, zero: f32) -> MatrixData {
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    let scales = [0.25f32, -3.0 / 256.0, 0.0, 1.0 / 4096.0]; // whose multiples are exact in f16
    let weights: Vec<u8> = (0..32 * usize::from(bits)).map(|i| (i * 89 + 5) as u8).collect();
    let parts: [Vec<u8>; 3] = [weights, scales.map(half).concat(), scales.map(|s| half(-zero * s)).concat()];
    let encoding = Encoding::MlxAffine { bits, group: 64, scale: DType::F16 };
    let parts = parts.into_iter().map(Bytes::from).collect();
    MatrixData { name: "centred".to_owned(), n_out: 2, n_in: 128, encoding, parts }
}

#[test]
fn biases_that_are_whole_scales_become_symmetric_blocks() {
    for (bits, zero, dtype) in [
        (4, 8.0, Some(DType::Q4_0)),
        (4, 7.0, Some(DType::Q5_0)),
        (3, 4.0, Some(DType::Q4_0)),
        (2, 2.0, Some(DType::Q4_0)),
        (5, 16.0, Some(DType::Q5_0)),
        (6, 32.0, Some(DType::Q8_0)),
        (8, 128.0, Some(DType::Q8_0)),
        (8, 100.0, None),
        (4, 7.5, Some(DType::Q4_1)),
        (6, 7.5, None),
    ] {
        let matrix = centred(bits, zero);
        matrix.check().expect("a valid matrix");
        assert_eq!(matrix.gguf_type(), dtype, "{bits} bits, zero {zero}");
        if let Some(dtype) = dtype {
            let blocks = matrix.to_gguf_blocks(dtype).expect("its own type");
            assert_eq!(decoded(&blocks), decoded(&matrix), "{bits} bits, zero {zero}");
        }
    }
}

#[test]
fn any_matrix_becomes_plain_floats() {
    for name in FILES {
        for case in cases(name) {
            let matrix = matrix(name, &case);
            let plain = matrix.to_blocks(DType::F32).expect("F32 holds everything");
            assert_same(&decoded(&plain), &case.weights, &matrix.encoding.to_string());
            let same = plain.to_blocks(DType::F32).expect("the same type");
            assert_eq!(same.parts[0].as_ptr(), plain.parts[0].as_ptr(), "the bytes were copied");
            let bf16: Vec<f32> = case.weights.iter().map(|w| half::bf16::from_f32(*w).to_f32()).collect();
            assert_same(&decoded(&matrix.to_blocks(DType::BF16).expect("BF16 holds everything")), &bf16, name);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let bytes: Vec<u8> = (0..33).flat_map(|_| 1e6f32.to_le_bytes()).collect();
    let matrix = MatrixData::blocks("big", [1, 33], DType::F32, bytes.into()).expect("a valid matrix");
    let error = matrix.to_blocks(DType::F16).expect_err("1e6 is no f16").to_string();
    assert!(error.contains("weight 0 is 1e6"), "{error}");
    let error = matrix.to_blocks(DType::Q8_0).expect_err("33 is no multiple of 32").to_string();
    assert!(error.contains("tensor `big`: rows of 33 weights for type q8_0, expected a multiple of 32"), "{error}");
}
