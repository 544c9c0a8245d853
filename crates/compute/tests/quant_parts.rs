//! Encodings of several parts decode as their oracles say, and refuse what does not fit.

mod quant_common;

use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{DType, Encoding, MatrixData};
use quant_common::{FILES, assert_same, cases, matrix};

#[test]
fn whole_matrices_decode_as_the_oracles_say() {
    for name in FILES {
        for case in cases(name) {
            let matrix = matrix(name, &case);
            matrix.check().expect("a valid matrix");
            let mut out = vec![f32::NAN; case.weights.len()];
            matrix.decode_rows(0, matrix.n_out, &mut out);
            assert_same(&out, &case.weights, &format!("{} {:?}", matrix.encoding, case.params));
        }
    }
}

#[test]
fn any_band_of_rows_equals_the_same_rows_of_the_whole() {
    for name in FILES {
        for case in cases(name) {
            let matrix = matrix(name, &case);
            for first in (0..matrix.n_out).step_by(3) {
                let n = (matrix.n_out - first).min(1 + first % 11);
                let mut out = vec![f32::NAN; n * matrix.n_in];
                matrix.decode_rows(first, n, &mut out);
                let expected = &case.weights[first * matrix.n_in..][..n * matrix.n_in];
                assert_same(&out, expected, &format!("{} rows {first}+{n}", matrix.encoding));
            }
        }
    }
}

#[test]
fn parts_of_a_wrong_size_are_refused_by_name() {
    for name in FILES {
        for case in cases(name) {
            let whole = matrix(name, &case);
            for part in 0..whole.parts.len() {
                for change in [-1i32, 1, 4096] {
                    let mut bytes = whole.parts[part].to_vec();
                    bytes.resize((bytes.len() as i32 + change).max(0) as usize, 0);
                    if bytes.len() == whole.parts[part].len() {
                        continue; // an empty part cannot shrink
                    }
                    let mut damaged = whole.clone();
                    damaged.parts[part] = bytes.into();
                    let error = damaged.check().expect_err("a damaged part").to_string();
                    assert!(error.contains(name) && error.contains("the file is damaged"), "{error}");
                }
            }
            let mut short = whole.clone();
            short.parts.pop();
            let error = short.check().expect_err("a missing part").to_string();
            assert!(error.contains("expected the parts"), "{error}");
        }
    }
}

/// `MatrixData::check` of a matrix without parts gives an error that has `expect`.
#[track_caller]
fn refuse([n_out, n_in]: [usize; 2], encoding: Encoding, expect: &str) {
    let matrix = MatrixData { name: "t".to_owned(), n_out, n_in, encoding, parts: Vec::new() };
    let error = matrix.check().expect_err(expect).to_string();
    assert!(error.contains(expect), "`{error}` lacks `{expect}`");
}

#[test]
fn impossible_shapes_are_refused() {
    let affine = |bits, group, scale| Encoding::MlxAffine { bits, group, scale };
    let gptq = |bits, group, scale| Encoding::Gptq { bits, group, zero_plus_one: true, scale };
    let f16 = DType::F16;
    refuse([0, 32], Encoding::Blocks(DType::F32), "at least one row");
    refuse([32, 0], Encoding::Blocks(DType::F32), "at least one row");
    refuse([1, 33], Encoding::Blocks(DType::Q4_0), "a multiple of 32");
    refuse([1 << 62, 32], Encoding::Blocks(DType::F32), "a size that fits memory");
    refuse([usize::MAX, usize::MAX], Encoding::Blocks(DType::Q4_K), "a size that fits memory");
    refuse([8, 64], affine(7, 64, f16), "one of [2, 3, 4, 5, 6, 8]");
    refuse([8, 64], affine(4, 48, f16), "one of [32, 64, 128]");
    refuse([8, 96], affine(4, 64, f16), "a multiple of 64");
    refuse([8, 64], affine(4, 64, DType::I8), "one of [F16, BF16, F32]");
    refuse([8, 40], Encoding::MlxFloat(MlxFloat::Nvfp4), "a multiple of 16");
    refuse([8, 64], gptq(5, 64, f16), "one of [2, 3, 4, 8]");
    refuse([8, 60], gptq(4, 64, f16), "a multiple of 8");
    refuse([8, 64], gptq(3, 64, f16), "a multiple of 32");
    refuse([8, 64], gptq(4, 0, f16), "groups of at least 1");
    refuse([12, 64], Encoding::Awq { group: 64, scale: f16 }, "a multiple of 8");
    refuse([8, 64], Encoding::Awq { group: 0, scale: f16 }, "groups of at least 1");
    refuse([8, 64], Encoding::Bnb4 { block: 0, nested_block: 0, nested_offset: 0.0 }, "groups of at least 1");
    let fp8 = |dtype, rows, cols, scale| Encoding::Fp8 { dtype, rows, cols, scale };
    refuse([8, 64], fp8(f16, 1, 1, f16), "one of [F8E4M3, F8E5M2]");
    refuse([8, 64], fp8(DType::F8E4M3, 0, 1, f16), "groups of at least 1");
    refuse([8, 64], fp8(DType::F8E4M3, 1, 0, f16), "groups of at least 1");
    refuse([8, 64], fp8(DType::F8E4M3, 1, 1, DType::I8), "one of [F32, BF16, F16, F8E8M0]");
}

#[test]
fn groups_outside_the_matrix_are_refused() {
    for case in cases("gptq") {
        let mut matrix = matrix("gptq", &case);
        if matrix.parts[3].is_empty() {
            continue;
        }
        for id in [-1i32, i32::MIN, 1 << 20] {
            let mut ids = matrix.parts[3].to_vec();
            ids[20..24].copy_from_slice(&id.to_le_bytes());
            matrix.parts[3] = ids.into();
            let error = matrix.check().expect_err("a group outside").to_string();
            assert!(error.contains(&format!("g_idx has the group {id}")), "{error}");
        }
    }
}

/// Rows to take: all, a head, a tail, an odd middle, a permutation, repeats, one.
fn choices(n_out: usize) -> Vec<Vec<usize>> {
    let middle = (n_out / 3).max(1)..(2 * n_out / 3).max(2);
    vec![
        (0..n_out).collect(),
        (0..n_out.div_ceil(2)).collect(),
        (n_out / 2..n_out).collect(),
        middle.collect(),
        (0..n_out).map(|i| (i * 7 + 3) % n_out).collect(),
        (0..n_out).map(|i| i / 2).collect(),
        vec![n_out - 1],
    ]
}

#[test]
fn taken_rows_keep_their_values() {
    for name in FILES {
        for case in cases(name) {
            let matrix = matrix(name, &case);
            for rows in choices(matrix.n_out) {
                let taken = matrix.take_rows(&rows).expect("rows within");
                taken.check().unwrap_or_else(|e| panic!("{} -> {}: {e}", matrix.encoding, taken.encoding));
                let mut out = vec![f32::NAN; rows.len() * matrix.n_in];
                taken.decode_rows(0, rows.len(), &mut out);
                let expected: Vec<f32> =
                    rows.iter().flat_map(|row| &case.weights[row * matrix.n_in..][..matrix.n_in]).copied().collect();
                assert_same(&out, &expected, &format!("{} rows {rows:?}", matrix.encoding));
            }
        }
    }
}

#[test]
fn a_slice_of_rows_shares_the_files_bytes() {
    for name in ["q4_k", "mlx_affine"] {
        let case = &cases(name)[0];
        let matrix = match name {
            "q4_k" => MatrixData::blocks(name, case.shape, DType::Q4_K, case.parts[0].clone().into()),
            _ => Ok(matrix(name, case)),
        };
        let matrix = matrix.expect("a valid matrix");
        let slice = matrix.slice_rows(1..2).expect("a row within");
        for (whole, part) in matrix.parts.iter().zip(&slice.parts) {
            assert_eq!(part.as_ptr(), whole[whole.len() / matrix.n_out..].as_ptr(), "{name}: the bytes were copied");
        }
    }
}

#[test]
fn rows_outside_are_refused() {
    let matrix = matrix("mlx_float", &cases("mlx_float")[0]);
    for rows in [vec![], vec![0, matrix.n_out], vec![usize::MAX]] {
        let error = matrix.take_rows(&rows).expect_err("rows outside").to_string();
        assert!(error.contains("is asked for"), "{error}");
    }
    assert!(matrix.slice_rows(0..usize::MAX).is_err() && matrix.slice_rows(2..2).is_err());
}
