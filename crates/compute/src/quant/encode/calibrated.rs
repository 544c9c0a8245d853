//! MLX's formats with GPTQ: see [`crate::quant::compensate`].
//!
//! A group of affine integers gets its scale and bias first, with the columns' mean squares as importance; then its columns
//! are rounded one after another, and each makes up for those before it. Groups of floats are rounded at once, and make up
//! for the groups before them.

use std::ops::Range;

use super::super::compensate::Factor;
use super::mlx::{Affine, check, encode_parts};
use crate::{Encoding, Error, MatrixData};

/// Appends `weights`, whole rows, to the parts that `encoding` has, so that products with the inputs of `factor` change
/// least. `weights` end as what was encoded.
///
/// # Errors
/// If the encoding is none of MLX's, rows are not whole groups, or a number is not finite. Nothing is changed then.
///
/// # Panics
/// If rows are not of the factor's columns.
pub fn encode_parts_calibrated(
    encoding: Encoding,
    weights: &mut [f32],
    factor: &Factor,
    parts: &mut [Vec<u8>; 3],
) -> Result<(), Error> {
    let n_in = factor.importance().len();
    assert!(weights.len().is_multiple_of(n_in), "rows of {n_in} columns");
    let group = check(encoding, weights, n_in, None)?;
    let n_row = weights.len() / n_in;
    if let Encoding::MlxAffine { bits, scale, .. } = encoding {
        let mut chosen: Vec<Affine> = Vec::with_capacity(n_row * n_in / group);
        let mut prepare = |range: Range<usize>, columns: &[f32]| -> Result<Vec<Affine>, Error> {
            let importance = &factor.importance()[range];
            let of_group = |x: &[f32]| Affine::new(x, importance, bits, scale);
            chosen.extend(columns.chunks_exact(group).map(of_group));
            Ok(chosen[chosen.len() - n_row..].to_vec())
        };
        factor.run_columns(weights, group, &mut prepare, &|affine: &Affine, x| affine.round(x))?;
        for (i, x) in weights.chunks_exact(group).enumerate() {
            let (row, g) = (i / (n_in / group), i % (n_in / group));
            chosen[g * n_row + row].push(x, parts);
        }
        return Ok(());
    }
    let mut groups: Vec<[Vec<u8>; 3]> = Vec::with_capacity(n_in / group);
    let mut encode = |range: Range<usize>, columns: &[f32], decoded: &mut [f32]| -> Result<(), Error> {
        let mut own: [Vec<u8>; 3] = Default::default();
        encode_parts(encoding, columns, group, Some(&factor.importance()[range]), &mut own)?;
        let used = own.iter().filter(|part| !part.is_empty()).map(|part| part.clone().into()).collect();
        let matrix = MatrixData { name: String::new(), n_out: n_row, n_in: group, encoding, parts: used };
        matrix.decode_rows(0, n_row, decoded);
        groups.push(own);
        Ok(())
    };
    factor.run(weights, group, &mut encode)?;
    for row in 0..n_row {
        for own in &groups {
            for (part, own) in parts.iter_mut().zip(own) {
                let size = own.len() / n_row;
                part.extend_from_slice(&own[row * size..][..size]);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::conformance::Random;
    use crate::matrix::MlxFloat;

    #[test]
    fn products_with_inputs_change_less() {
        let (n, n_row, n_sample, mut random) = (256, 24, 600, Random::new(11));
        let mix = random.normals(8 * n);
        let mut x = Vec::new();
        for _ in 0..n_sample {
            let hidden = random.normals(8);
            x.extend((0..n).map(|j| (0..8).map(|k| hidden[k] * mix[k * n + j]).sum::<f32>() + 0.3 * random.normal()));
        }
        let mut products = vec![0.0; n * n];
        for row in x.chunks_exact(n) {
            for i in 0..n {
                (0..n).for_each(|j| products[i * n + j] += row[i] * row[j]);
            }
        }
        let factor = Factor::new(n, &products).expect("finite");
        let weights: Vec<f32> = (0..n * n_row).map(|_| 0.05 * random.normal()).collect();
        let miss = |encoding: Encoding, parts: &[Vec<u8>; 3]| -> f64 {
            let used = parts.iter().filter(|part| !part.is_empty()).map(|part| part.clone().into()).collect();
            let matrix = MatrixData { name: "m".into(), n_out: n_row, n_in: n, encoding, parts: used };
            matrix.check().expect("parts of the right size");
            let mut found = vec![0.0; weights.len()];
            matrix.decode_rows(0, n_row, &mut found);
            let dot = |x: &[f32], r: usize| -> f64 {
                (0..n).map(|j| f64::from(x[j]) * f64::from(found[r * n + j] - weights[r * n + j])).sum()
            };
            x.chunks_exact(n).map(|x| (0..n_row).map(|r| dot(x, r).powi(2)).sum::<f64>()).sum()
        };
        let affine = |bits, group| Encoding::MlxAffine { bits, group, scale: DType::F16 };
        for (encoding, least_gain) in [
            (affine(2, 64), 3.0),
            (affine(4, 64), 5.0),
            (affine(8, 32), 3.0),
            (Encoding::MlxFloat(MlxFloat::Mxfp4), 2.0),
            (Encoding::MlxFloat(MlxFloat::Nvfp4), 2.0),
        ] {
            let (mut plain, mut calibrated): ([Vec<u8>; 3], [Vec<u8>; 3]) = Default::default();
            encode_parts(encoding, &weights, n, None, &mut plain).expect("finite");
            encode_parts_calibrated(encoding, &mut weights.clone(), &factor, &mut calibrated).expect("finite");
            let gain = miss(encoding, &plain) / miss(encoding, &calibrated);
            eprintln!("{encoding}: squared miss without / with calibration {gain:.2}");
            assert!(gain > least_gain, "{encoding}: {gain}");
        }
    }
}
