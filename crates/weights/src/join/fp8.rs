//! FP8 weights with a scale for the tensor, for a row, or for a tile.
//!
//! `weight_scale_inv` (DeepSeek-V3, Qwen3) and `weight_scale` (compressed-tensors, modelopt, fbgemm) are both
//! multiplied with the weights. `input_scale` is for hardware that also has 8-bit activations; it is not needed.

use mlxr_compute::{Bytes, DType, Encoding};

use super::{Joined, Stem};
use crate::OpenError;
use crate::quantization::Scheme;
use crate::tensors::TensorInfo;

/// The whole matrix.
const ALL: u32 = u32::MAX;

/// `S.weight` (or `S`) `[.., n_out, n_in]` and its scales.
pub(super) fn join(stem: &Stem<'_>, weight: &TensorInfo) -> Result<Joined, OpenError> {
    let (n_stack, [n_out, n_in]) = match weight.shape[..] {
        [n_out, n_in] => (None, [n_out, n_in]),
        [n, n_out, n_in] => (Some(n), [n_out, n_in]),
        _ => {
            let expected = "two dimensions, or three for experts".to_owned();
            return Err(stem.error(weight, format!("shape {:?}", weight.shape), expected));
        }
    };
    let named = |suffix: &str| stem.tensors.get(&format!("{}{suffix}", weight.name));
    let scales = named("_scale_inv").or_else(|| named("_scale")).or_else(|| stem.part(".scale"));
    let (tile, scale, bytes) = match scales {
        Some(scales) => {
            let scale = match stem.typed(scales, &[DType::F32, DType::BF16, DType::F16, DType::F8E8M0, DType::U8])? {
                DType::U8 => DType::F8E8M0, // torch had no type for it: MX scales were saved as bytes
                other => other,
            };
            let tile = tile(stem, scales, n_stack, [n_out, n_in])?;
            let bytes = stem.bytes(scales);
            let shared = n_stack.filter(|_| scales.elements() == 1);
            (tile, scale, shared.map_or(bytes.clone(), |n| Bytes::from(bytes.repeat(n))))
        }
        None => ([ALL, ALL], DType::F32, Bytes::from(1f32.to_le_bytes().repeat(n_stack.unwrap_or(1)))),
    };
    let encoding = Encoding::Fp8 { dtype: weight.dtype, rows: tile[0], cols: tile[1], scale };
    let parts = vec![stem.bytes(weight), bytes];
    Ok(Joined { name: weight.name.clone(), shape: weight.shape.clone(), encoding, parts })
}

/// Rows and columns that share a scale.
fn tile(
    stem: &Stem<'_>,
    scales: &TensorInfo,
    n_stack: Option<usize>,
    [n_out, n_in]: [usize; 2],
) -> Result<[u32; 2], OpenError> {
    let wrong = || {
        let expected = format!("one scale, or one for each row or tile of a [{n_out}, {n_in}] matrix");
        stem.error(scales, format!("shape {:?}", scales.shape), expected)
    };
    if scales.elements() == 1 {
        return Ok([ALL, ALL]);
    }
    let of_one = match n_stack {
        None => &scales.shape[..],
        Some(n) => match scales.shape.split_first() {
            Some((&first, rest)) if first == n => rest,
            _ => return Err(wrong()),
        },
    };
    let [rows, cols] = match *of_one {
        [] | [1] => return Ok([ALL, ALL]),
        [rows] => [rows, 1],
        [rows, cols] => [rows, cols],
        _ => return Err(wrong()),
    };
    if let Scheme::Fp8(config) = stem.scheme()
        && let Some(tile) = config.tile
        && fits([n_out, n_in], tile, [rows, cols])
    {
        return Ok(tile);
    }
    // Without a word in the configuration: DeepSeek's 128 x 128, with short ones at the ends, or else even tiles.
    if fits([n_out, n_in], [128, 128], [rows, cols]) {
        return Ok([128, 128]);
    }
    let even = |n: usize, tiles: usize| (tiles > 0 && n.is_multiple_of(tiles)).then(|| u32::try_from(n / tiles).ok());
    match (even(n_out, rows).flatten(), even(n_in, cols).flatten()) {
        (Some(rows), Some(cols)) => Ok([rows, cols]),
        _ => Err(wrong()),
    }
}

/// Whether a matrix has so many tiles.
fn fits(matrix: [usize; 2], tile: [u32; 2], tiles: [usize; 2]) -> bool {
    (0..2).all(|i| matrix[i].div_ceil(tile[i] as usize) == tiles[i])
}
