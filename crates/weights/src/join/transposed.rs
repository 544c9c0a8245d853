//! GPTQ and AWQ, which pack the transposed matrix.
//!
//! The parts' shapes tell bits and groups; where `config.json` names them too, both must agree. Sources: AutoGPTQ
//! `qlinear_cuda_old.py`, AutoAWQ `modules/linear/gemm.py`.

use mlxr_compute::{Bytes, DType, Encoding};

use super::{FLOATS, Joined, Stem};
use crate::OpenError;
use crate::quantization::{Gptq, Scheme};
use crate::tensors::TensorInfo;

const WORDS: [DType; 2] = [DType::I32, DType::U32];

/// `S.qweight`, `S.qzeros`, `S.scales` and, for GPTQ, `S.g_idx`.
pub(super) fn join(stem: &Stem<'_>, qweight: &TensorInfo) -> Result<Joined, OpenError> {
    let scales = stem.need(qweight, ".scales")?;
    let qzeros = stem.need(qweight, ".qzeros")?;
    for part in [qweight, qzeros] {
        stem.typed(part, &WORDS)?;
    }
    stem.typed(scales, &FLOATS)?;
    for part in [qweight, qzeros, scales] {
        if part.shape.len() != 2 || part.shape.contains(&0) {
            let expected = "two dimensions of at least 1".to_owned();
            return Err(stem.error(part, format!("shape {:?}", part.shape), expected));
        }
    }
    match stem.scheme() {
        Scheme::Gptq(config) => gptq(stem, config, [qweight, qzeros, scales]),
        Scheme::Awq => awq(stem, [qweight, qzeros, scales]),
        _ => Err(stem.unannounced(qweight, "gptq or awq")),
    }
}

/// `qweight` `[n_in * bits / 32, n_out]`, `qzeros` `[n_group, n_out * bits / 32]`, `scales` `[n_group, n_out]`,
/// `g_idx` `[n_in]`.
fn gptq(stem: &Stem<'_>, config: &Gptq, [qweight, qzeros, scales]: [&TensorInfo; 3]) -> Result<Joined, OpenError> {
    let [n_group, n_out] = [scales.shape[0], scales.shape[1]];
    let bits = qzeros.shape[1].saturating_mul(32) / n_out;
    let fits = matches!(bits, 2 | 3 | 4 | 8) && config.bits.is_none_or(|b| usize::from(b) == bits);
    if !fits || qzeros.shape != [n_group, n_out * bits / 32] {
        let bits = config.bits.map_or("2, 3, 4 or 8".to_owned(), |b| b.to_string());
        let expected = format!("{bits} bits for each of the scales, whose shape is {:?}", scales.shape);
        return Err(stem.error(qzeros, format!("shape {:?}", qzeros.shape), expected));
    }
    let n_in = qweight.shape[0].saturating_mul(32) / bits;
    stem.shaped(qweight, &[n_in * bits / 32, n_out], &format!("{bits} bits and scales of {:?}", scales.shape))?;
    let group = match config.group {
        Some(0) => n_in,
        Some(group) => group as usize,
        None => n_in.div_ceil(n_group),
    };
    if n_in.div_ceil(group) != n_group {
        let expected = format!("{} groups of {group} for {n_in} inputs", n_in.div_ceil(group));
        return Err(stem.error(scales, format!("shape {:?}", scales.shape), expected));
    }
    let g_idx = match stem.part(".g_idx") {
        None => Bytes::from(Vec::new()),
        Some(g_idx) => {
            stem.typed(g_idx, &WORDS)?;
            stem.shaped(g_idx, &[n_in], &format!("a matrix of {n_in} inputs"))?;
            unless_in_order(stem.bytes(g_idx), group)
        }
    };
    let (bits, group) = (bits as u8, u32::try_from(group).unwrap_or(u32::MAX));
    let encoding = Encoding::Gptq { bits, group, zero_plus_one: config.zero_plus_one, scale: scales.dtype };
    let parts = vec![stem.bytes(qweight), stem.bytes(qzeros), stem.bytes(scales), g_idx];
    Ok(Joined { name: qweight.name.clone(), shape: vec![n_out, n_in], encoding, parts })
}

/// `g_idx`, or nothing when input `i` is of group `i / group`: the fast kernels need not look it up then.
fn unless_in_order(g_idx: Bytes, group: usize) -> Bytes {
    let ids = g_idx.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b) as usize);
    match ids.enumerate().all(|(i, id)| id == i / group) {
        true => Bytes::from(Vec::new()),
        false => g_idx,
    }
}

/// `qweight` `[n_in, n_out / 8]`, `qzeros` `[n_group, n_out / 8]`, `scales` `[n_group, n_out]`.
fn awq(stem: &Stem<'_>, [qweight, qzeros, scales]: [&TensorInfo; 3]) -> Result<Joined, OpenError> {
    let [n_group, n_out] = [scales.shape[0], scales.shape[1]];
    let n_in = qweight.shape[0];
    let why = format!("4 bits and scales of {:?}", scales.shape);
    stem.shaped(qweight, &[n_in, n_out / 8], &why)?;
    stem.shaped(qzeros, &[n_group, n_out / 8], &why)?;
    if !n_in.is_multiple_of(n_group) {
        let expected = format!("groups that divide {n_in} inputs evenly");
        return Err(stem.error(scales, format!("shape {:?}", scales.shape), expected));
    }
    let group = u32::try_from(n_in / n_group).unwrap_or(u32::MAX);
    let parts = vec![stem.bytes(qweight), stem.bytes(qzeros), stem.bytes(scales)];
    let encoding = Encoding::Awq { group, scale: scales.dtype };
    Ok(Joined { name: qweight.name.clone(), shape: vec![n_out, n_in], encoding, parts })
}
