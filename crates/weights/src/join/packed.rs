//! MLX's packed rows, and the MXFP4 of gpt-oss, which has the same bytes.
//!
//! A byte of gpt-oss's blocks has the even weight in its low nibble, as a little-endian `u32` of MLX has; its scale is
//! an E8M0 byte. Sources: mlx `mx.quantize`; transformers `integrations/mxfp4.py` (`convert_moe_packed_tensors`).

use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::{DType, Encoding};

use super::{FLOATS, Joined, Stem};
use crate::OpenError;
use crate::quantization::{MlxMode, Scheme};
use crate::tensors::TensorInfo;

/// `S.weight` u32 `[.., n_out, n_in * bits / 32]`, `S.scales`, for affine modes `S.biases` `[.., n_out, n_in / group]`.
pub(super) fn mlx(stem: &Stem<'_>, weight: &TensorInfo) -> Result<Joined, OpenError> {
    let Scheme::Mlx(config) = stem.scheme() else {
        return Err(stem.unannounced(weight, "the `quantization` block of MLX"));
    };
    let Some(mode) = config.mode(stem.name) else {
        let found = "packed weights of a layer that `quantization` says is not quantized".to_owned();
        return Err(stem.error(weight, found, "a float type".to_owned()));
    };
    let (bits, group) = match mode {
        MlxMode::Affine { bits, group } => (usize::from(bits), usize::from(group)),
        MlxMode::Float(MlxFloat::Mxfp4) => (4, 32),
        MlxMode::Float(MlxFloat::Mxfp8) => (8, 32),
        MlxMode::Float(MlxFloat::Nvfp4) => (4, 16),
    };
    let scales = stem.need(weight, ".scales")?;
    let (shape, scale_shape) = unpacked(&weight.shape, 32, bits, group).ok_or_else(|| {
        let expected = format!("rows of whole groups of {group} weights of {bits} bits");
        stem.error(weight, format!("shape {:?}", weight.shape), expected)
    })?;
    let why = format!("a weight of shape {:?} with {bits} bits in groups of {group}", weight.shape);
    stem.shaped(scales, &scale_shape, &why)?;
    let mut parts = vec![stem.bytes(weight), stem.bytes(scales)];
    let encoding = match mode {
        MlxMode::Affine { bits, group } => {
            let scale = stem.typed(scales, &FLOATS)?;
            let biases = stem.need(weight, ".biases")?;
            stem.typed(biases, &[scale])?;
            stem.shaped(biases, &scale_shape, &why)?;
            parts.push(stem.bytes(biases));
            Encoding::MlxAffine { bits, group, scale }
        }
        MlxMode::Float(kind) => {
            stem.typed(scales, &[DType::U8])?;
            Encoding::MlxFloat(kind)
        }
    };
    Ok(Joined { name: weight.name.clone(), shape, encoding, parts })
}

/// `S_blocks` u8 `[.., n_out, n_in / 32, 16]`, `S_scales` u8 `[.., n_out, n_in / 32]`.
pub(super) fn mxfp4(stem: &Stem<'_>, blocks: &TensorInfo) -> Result<Joined, OpenError> {
    if !matches!(stem.scheme(), Scheme::Mxfp4) {
        return Err(stem.unannounced(blocks, "mxfp4"));
    }
    stem.typed(blocks, &[DType::U8])?;
    let scales = stem.need(blocks, "_scales")?;
    stem.typed(scales, &[DType::U8])?;
    let [outer @ .., n_group, 16] = &blocks.shape[..] else {
        let expected = "[.., n_out, n_in / 32, 16]".to_owned();
        return Err(stem.error(blocks, format!("shape {:?}", blocks.shape), expected));
    };
    let why = format!("blocks of shape {:?}", blocks.shape);
    stem.shaped(scales, &blocks.shape[..blocks.shape.len() - 1], &why)?;
    let mut shape = outer.to_vec();
    shape.push(n_group.saturating_mul(32));
    let parts = vec![stem.bytes(blocks), stem.bytes(scales)];
    Ok(Joined { name: blocks.name.clone(), shape, encoding: Encoding::MlxFloat(MlxFloat::Mxfp4), parts })
}

/// compressed-tensors: `S.weight_packed` u8 `[n_out, n_in / 2]`, `S.weight_scale` u8 `[n_out, n_in / 32]`.
pub(super) fn mxfp4_pairs(stem: &Stem<'_>, weight: &TensorInfo) -> Result<Joined, OpenError> {
    let scales = stem.need(weight, ".weight_scale")?;
    if let Some(global) = stem.part(".weight_global_scale") {
        return Err(stem.unsupported(
            global,
            "nvfp4 with a global scale".to_owned(),
            "mxfp4, or nvfp4 as MLX packs it",
        ));
    }
    stem.typed(scales, &[DType::U8, DType::F8E8M0])?;
    let (shape, scale_shape) = unpacked(&weight.shape, 8, 4, 32).ok_or_else(|| {
        let expected = "rows of whole groups of 32 weights of 4 bits".to_owned();
        stem.error(weight, format!("shape {:?}", weight.shape), expected)
    })?;
    stem.shaped(scales, &scale_shape, &format!("a weight of shape {:?} in groups of 32", weight.shape))?;
    let parts = vec![stem.bytes(weight), stem.bytes(scales)];
    Ok(Joined { name: weight.name.clone(), shape, encoding: Encoding::MlxFloat(MlxFloat::Mxfp4), parts })
}

/// From the shape of packed words of `word` bits: the shape in weights and the shape of the scales. `None` when rows
/// are not made of whole groups.
fn unpacked(packed: &[usize], word: usize, bits: usize, group: usize) -> Option<(Vec<usize>, Vec<usize>)> {
    let (&words, outer) = packed.split_last()?;
    let row_bits = words.checked_mul(word)?;
    let n_in = row_bits.is_multiple_of(bits).then_some(row_bits / bits)?;
    let n_group = n_in.is_multiple_of(group).then_some(n_in / group)?;
    let with = |last: usize| outer.iter().copied().chain([last]).collect();
    Some((with(n_in), with(n_group)))
}
