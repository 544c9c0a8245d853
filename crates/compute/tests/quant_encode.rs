//! Encoders: the simple ones equal ggml's reference byte for byte, the searching ones miss by no more than ggml's.

mod quant_common;

use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::quant::{self, Encoder};
use mlxr_compute::{DType, Encoding, MatrixData, cpu::Isa, dtype::TYPES};
use quant_common::{Case, assert_same, cases};

fn dtype(case: &Case) -> DType {
    DType::from_ggml(case.params[0]).expect("a GGUF type")
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Sum of `weights of errors * (decoded - weight)^2`.
fn error(dtype: DType, bytes: &[u8], weights: &[f32], of_errors: &[f32]) -> f64 {
    let mut decoded = vec![0.0; weights.len()];
    quant::decode(dtype, bytes, &mut decoded);
    let misses = decoded.iter().zip(weights).map(|(a, b)| f64::from(a - b).powi(2));
    misses.zip(of_errors).map(|(miss, w)| miss * f64::from(*w)).sum()
}

/// What the searches weigh errors by: importance times a rise with magnitude, `sqrt(2 * mean square + x^2)`.
fn weights_of_errors(weights: &[f32], importance: &[f32], block: usize) -> Vec<f32> {
    let mut importance = importance.iter().cycle();
    let of_block = |x: &[f32]| {
        let sigma2 = 2.0 * x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        x.iter().map(|x| importance.next().expect("endless") * (sigma2 + x * x).sqrt()).collect::<Vec<f32>>()
    };
    weights.chunks(block).flat_map(of_block).collect()
}

#[test]
fn simple_encoders_equal_ggml() {
    for case in cases("encode") {
        let dtype = dtype(&case);
        let mut out = vec![7];
        quant::encode(dtype, &case.weights, None, &mut out).expect("finite weights");
        assert_eq!(out[0], 7, "what was there stays");
        let differ = out[1..].iter().zip(&case.parts[0]).position(|(a, b)| a != b);
        assert!(out.len() == 1 + case.parts[0].len() && differ.is_none(), "{}: byte {differ:?}", dtype.name());
    }
}

#[test]
fn searching_encoders_miss_by_no_more_than_ggml() {
    for case in cases("encode_ggml").into_iter().chain(cases("encode_ggml_iq")) {
        let (dtype, weights, importance) = (dtype(&case), &case.weights, f32s(&case.parts[2]));
        let (mut plain, mut weighted) = (Vec::new(), Vec::new());
        let encoder = Encoder::new(dtype).expect("a type with an encoder");
        encoder.encode(weights, None, &mut plain).expect("finite weights");
        encoder.encode(weights, Some(&importance), &mut weighted).expect("finite weights");
        let check = |what: &str, found: &[u8], ggml: &[u8], of_errors: &[f32], factor: f64| {
            let [found, ggml] = [found, ggml].map(|bytes| error(dtype, bytes, weights, of_errors));
            eprintln!("{:7} {what:8} error / ggml's error {:.4}", dtype.name(), found / ggml);
            assert!(found <= ggml * factor, "{} {what}: error {found:e}, ggml's is {ggml:e}", dtype.name());
        };
        check("plain", &plain, &case.parts[0], &vec![1.0; weights.len()], 1.0001);
        // ggml takes the mean square over the row or another block for some types, so it may be ahead by chance.
        check("weighted", &weighted, &case.parts[1], &weights_of_errors(weights, &importance, dtype.block()), 1.01);
    }
}

#[test]
fn mlx_parts_equal_mlx_and_importance_lowers_the_error() {
    for case in cases("encode_mlx") {
        let scale = |k: u32| [DType::F16, DType::BF16, DType::F32][k as usize];
        let encoding = match case.params[..] {
            [bits, group, k] => Encoding::MlxAffine { bits: bits as u8, group: group as u16, scale: scale(k) },
            [kind] => Encoding::MlxFloat([MlxFloat::Mxfp4, MlxFloat::Mxfp8, MlxFloat::Nvfp4][kind as usize]),
            _ => panic!("parameters of {}", case.params.len()),
        };
        let importance: Vec<f32> = (0..case.shape[1]).map(|i| if i % 7 == 0 { 9.0 } else { 0.5 }).collect();
        let encoded = |importance| {
            let mut parts = [const { Vec::new() }; 3];
            quant::encode_parts(encoding, &case.weights, case.shape[1], importance, &mut parts).expect("whole groups");
            parts
        };
        let error = |parts: &[Vec<u8>]| {
            let parts = parts[..case.parts.len()].iter().map(|part| part.clone().into()).collect();
            let matrix = MatrixData { name: "m".into(), n_out: case.shape[0], n_in: case.shape[1], encoding, parts };
            matrix.check().expect("parts of the right size");
            let mut out = vec![0.0; case.weights.len()];
            matrix.decode_rows(0, case.shape[0], &mut out);
            let misses = out.iter().zip(&case.weights).zip(importance.iter().cycle());
            misses.map(|((a, b), w)| f64::from(w * (a - b) * (a - b))).sum::<f64>()
        };
        let plain = encoded(None);
        for (i, part) in case.parts.iter().enumerate() {
            assert!(plain[i] == *part, "{encoding}: part {i} differs from MLX's");
        }
        let (before, after) = (error(&plain), error(&encoded(Some(&importance))));
        eprintln!("{encoding}: weighted error with importance / without {:.3}", after / before);
        assert!(after <= before * 1.000_001, "{encoding}: {after:e} with importance, {before:e} without");
    }
}

#[test]
fn instruction_sets_give_the_same_bytes() {
    for case in cases("encode_ggml").into_iter().chain(cases("encode_ggml_iq")) {
        let (dtype, importance) = (dtype(&case), f32s(&case.parts[2]));
        let encoded = |isa| {
            let mut out = Vec::new();
            let encoder = Encoder::with_isa(isa, dtype).expect("a type with an encoder");
            encoder.encode(&case.weights, Some(&importance), &mut out).expect("finite weights");
            out
        };
        let expected = encoded(Isa::Scalar);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            assert!(encoded(isa) == expected, "{} on {isa}", dtype.name());
        }
    }
}

#[test]
fn decoded_blocks_encode_to_the_same_values() {
    // Codes and scales that a block holds are met again: rows are a scale times small integers that use the range.
    for (dtype, low, high) in [
        (DType::Q4_0, -8, 7),
        (DType::Q5_0, -16, 15),
        (DType::Q8_0, -127, 127),
        (DType::Q6_K, -32, 31),
        (DType::Q3_K, -4, 3),
        (DType::TQ1_0, -1, 1),
        (DType::TQ2_0, -1, 1),
    ] {
        let n = (high - low + 1) as usize;
        let weights: Vec<f32> = (0..512).map(|i| 0.25 * (low + ((i * 5) % n) as i32) as f32).collect();
        let mut bytes = Vec::new();
        quant::encode(dtype, &weights, None, &mut bytes).expect("finite weights");
        let mut out = vec![0.0; weights.len()];
        quant::decode(dtype, &bytes, &mut out);
        let worst = out.iter().zip(&weights).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 0.25 * 0.02 * high as f32, "{}: off by {worst}", dtype.name());
    }
}

#[test]
fn extreme_weights_encode_to_finite_values() {
    let rows: [fn(usize) -> f32; 8] = [
        |_| 0.0,
        |_| -0.0,
        |_| 1e-30,
        |i| if i == 0 { 65504.0 } else { -1e-7 },
        |i| if i % 2 == 0 { 65504.0 } else { -65504.0 },
        |_| 65504.0,
        |_| -3.0,
        |i| f32::from_bits(i as u32),
    ];
    for row in TYPES.iter().filter(|row| quant::can_encode(row.dtype)) {
        let encoder = Encoder::new(row.dtype).expect("it can be encoded");
        for (k, weight) in rows.iter().enumerate() {
            let weights: Vec<f32> = (0..256).map(weight).collect();
            for importance in [None, Some(vec![0.0; 256]), Some(vec![1e30; 256])] {
                let mut bytes = Vec::new();
                encoder.encode(&weights, importance.as_deref(), &mut bytes).expect("finite weights");
                let mut out = vec![f32::NAN; 256];
                quant::decode(row.dtype, &bytes, &mut out);
                assert!(out.iter().all(|w| w.is_finite()), "{} row {k}: {out:?}", row.name);
            }
        }
    }
}

#[test]
fn plain_floats_keep_what_they_can_hold() {
    let weights = [1.0, -0.0, f32::INFINITY, f32::NAN, 2f32.powi(-24), 65504.0];
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let (mut bytes, mut out) = (Vec::new(), [0.0; 6]);
        quant::encode(dtype, &weights, None, &mut bytes).expect("numbers that fit");
        quant::decode(dtype, &bytes, &mut out);
        let expected = if dtype == DType::BF16 { [&weights[..5], &[65536.0]].concat() } else { weights.to_vec() };
        assert_same(&out, &expected, dtype.name());
    }
}

#[test]
fn what_cannot_be_encoded_is_refused_and_out_kept() {
    let check = |dtype, weights: &[f32], importance: Option<&[f32]>, expect: &str| {
        let mut out = vec![1, 2, 3];
        let error = quant::encode(dtype, weights, importance, &mut out).expect_err(expect).to_string();
        assert!(error.contains(expect) && out == [1, 2, 3], "`{error}` lacks `{expect}`");
    };
    check(DType::Q8_K, &[0.0; 256], None, "a type without an encoder");
    check(DType::I8, &[0.0], None, "a type without an encoder");
    check(DType::Q4_K, &[0.0; 255], None, "255 weights, expected whole blocks");
    check(DType::Q4_K, &[0.0; 256], Some(&[1.0; 128]), "importance of 128 columns");
    check(DType::Q4_K, &[0.0; 256], Some(&[]), "importance of 0 columns");
    check(DType::Q4_0, &[0.0; 32], Some(&[-1.0; 32]), "importance -1 of column 0");
    check(DType::Q4_0, &[0.0; 32], Some(&[f32::NAN; 32]), "importance NaN of column 0");
    check(DType::Q8_0, &[f32::NAN; 32], None, "weight 0 is NaN");
    check(DType::Q6_K, &[1e6; 256], None, "weight 0 is 1e6");
    check(DType::F16, &[1.0, 65520.0], None, "weight 1 is 6.552e4");
}
