//! GGUF blocks, GPTQ and AWQ mean the same in MLX's packed formats.

mod quant_common;

use mlxr_compute::conformance::{Random, Sample, random_matrix};
use mlxr_compute::{DType, Encoding, MatrixData};

/// Types that have an MLX format; the last two round their scales to f16.
const TYPES: [DType; 13] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::MXFP4,
    DType::NVFP4,
    DType::TQ1_0,
    DType::TQ2_0,
    DType::Q1_0,
    DType::Q2_0,
    DType::Q4_K,
    DType::Q5_K,
];

fn decoded(matrix: &MatrixData) -> Vec<f32> {
    let mut out = vec![0.0; matrix.n_out * matrix.n_in];
    matrix.decode_rows(0, matrix.n_out, &mut out);
    out
}

#[test]
fn packed_values_equal_the_blocks_bit_for_bit() {
    let mut random = Random::new(6);
    for dtype in TYPES {
        let matrix = random_matrix(&mut random, Encoding::Blocks(dtype), [7, 512]);
        for scale in [DType::F32, DType::F16] {
            let packed = matrix.to_mlx(scale).unwrap_or_else(|| panic!("{}: no MLX format", dtype.name()));
            packed.check().expect("the packed parts fit the shape");
            let (want, got) = (decoded(&matrix), decoded(&packed));
            let rounds = scale == DType::F16 && [DType::Q4_K, DType::Q5_K].contains(&dtype);
            let largest = want.iter().fold(0f32, |m, w| m.max(w.abs()));
            for (i, (w, g)) in want.iter().zip(&got).enumerate() {
                // 31 steps of a scale rounded to 11 bits, and a minimum likewise: below 2^-6 of the largest weight.
                let fits = if rounds { (w - g).abs() <= largest / 64.0 } else { w == g };
                assert!(fits, "{} with {} scales, weight {i}: {g}, expected {w}", dtype.name(), scale.name());
            }
        }
    }
}

/// Whether columns of a GPTQ matrix lie in groups one after another.
fn ordered(matrix: &MatrixData, group: u32) -> bool {
    let ids = matrix.parts[3].as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id));
    ids.zip(0..).all(|(id, i)| id == i / group)
}

/// Whether MLX has the codes of a GPTQ or AWQ matrix.
fn has_codes(matrix: &MatrixData) -> bool {
    let of_32 = |group: u32| group.is_multiple_of(32) || group as usize >= matrix.n_in;
    let fits = match matrix.encoding {
        Encoding::Gptq { group, .. } => of_32(group) && ordered(matrix, group),
        Encoding::Awq { group, .. } => of_32(group),
        _ => false,
    };
    fits && matrix.n_in.is_multiple_of(32)
}

#[test]
fn gptq_and_awq_keep_their_codes() {
    let mut found = [0; 2];
    for name in ["gptq", "awq"] {
        for case in quant_common::cases(name) {
            let matrix = quant_common::matrix(name, &case);
            let Some(packed) = matrix.to_mlx(DType::F32) else {
                assert!(!has_codes(&matrix), "{}", matrix.encoding);
                found[0] += 1;
                continue;
            };
            packed.check().expect("the packed parts fit the shape");
            let halves = matrix.to_mlx(DType::F16).expect("scales that f16 has, about");
            let want = decoded(&matrix);
            let largest = want.iter().fold(0f32, |m, w| m.max(w.abs()));
            let off = |got: &[f32]| want.iter().zip(got).fold(0f32, |m, (w, g)| m.max((w - g).abs()));
            // A product of a zero and a scale of 24 bits rounds.
            let whole = |scale: DType| if scale == DType::F32 { largest / 1e6 } else { 0.0 };
            let near = match matrix.encoding {
                Encoding::Gptq { scale, .. } | Encoding::Awq { scale, .. } => whole(scale),
                _ => panic!("{}", matrix.encoding),
            };
            assert!(has_codes(&matrix) && off(&decoded(&packed)) <= near, "{}", matrix.encoding);
            // Scales and biases rounded to 11 bits: codes and zeros are at most 255 scales from 0.
            let off = off(&decoded(&halves));
            assert!(off <= largest / 512.0, "{}: off by {off} of {largest}", matrix.encoding);
            assert_eq!(off > 0.0, matrix.rounds_in_mlx(), "{}: off by {off}", matrix.encoding);
            found[1] += 1;
        }
    }
    assert!(found.iter().all(|n| *n > 0), "cases that MLX has not and has: {found:?}");
}

#[test]
fn other_encodings_have_none() {
    let mut random = Random::new(7);
    for sample in Sample::all() {
        let shape = [32usize.next_multiple_of(sample.n_out_of), sample.n_in_of.max(128)];
        let matrix = random_matrix(&mut random, sample.encoding, shape);
        let known = match sample.encoding {
            Encoding::Blocks(dtype) => TYPES.contains(&dtype),
            Encoding::MlxAffine { .. } | Encoding::MlxFloat(_) => true,
            _ => has_codes(&matrix),
        };
        assert_eq!(matrix.to_mlx(DType::F32).is_some(), known, "{}", sample.encoding);
    }
}
