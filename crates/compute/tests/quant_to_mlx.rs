//! GGUF blocks in MLX's packed formats mean what the blocks mean.

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

#[test]
fn other_encodings_have_none() {
    let mut random = Random::new(7);
    for sample in Sample::all() {
        let known = match sample.encoding {
            Encoding::Blocks(dtype) => TYPES.contains(&dtype),
            Encoding::MlxAffine { .. } | Encoding::MlxFloat(_) => true,
            _ => false,
        };
        let shape = [32usize.next_multiple_of(sample.n_out_of), sample.n_in_of.max(128)];
        let matrix = random_matrix(&mut random, sample.encoding, shape);
        assert_eq!(matrix.to_mlx(DType::F32).is_some(), known, "{}", sample.encoding);
    }
}
