//! Integer weights with a scale for a row or a group, as MLX affine matrices of the same bits.
//!
//! A code `u` of `b` bits stands for `(u - zero) * scale`, which is MLX's `scale * u + bias` with
//! `bias = -zero * scale`; zero is `2^(b-1)` where the file has none. compressed-tensors packs rows as MLX does, so
//! those codes stay in the file; signed bytes are copied with their sign bit flipped. Scales and biases are made here.
//!
//! | tensors of a stem `S` | writer |
//! |---|---|
//! | `S.weight_packed` i32, `S.weight_scale`, `S.weight_shape`, `S.weight_zero_point` i32 packed along the rows | compressed-tensors `pack-quantized` |
//! | `S.weight` i8, `S.weight_scale`, `S.weight_zero_point` i8 | compressed-tensors `int-quantized` |
//! | `S.weight` i8, `S.SCB` f32: 127 times the scales | bitsandbytes LLM.int8 |
//!
//! Sources: compressed-tensors `compressors/pack_quantized`, `compressors/naive_quantized`; bitsandbytes
//! `functional.py` (`int8_vectorwise_dequant`).

use mlxr_compute::{Bytes, DType, Encoding, quant};

use super::{FLOATS, Joined, Stem};
use crate::OpenError;
use crate::tensors::TensorInfo;

/// Groups that MLX has, the largest first.
const GROUPS: [usize; 3] = [128, 64, 32];

/// The codes of a matrix, and what they need to become weights.
struct Codes<'a> {
    weight: &'a TensorInfo,
    bytes: Bytes,
    bits: usize,
    /// Rows and columns.
    shape: [usize; 2],
}

/// `S.weight_packed` of compressed-tensors.
pub(super) fn packed(stem: &Stem<'_>, weight: &TensorInfo) -> Result<Joined, OpenError> {
    stem.typed(weight, &[DType::I32, DType::U32])?;
    let shape_of = stem.need(weight, ".weight_shape")?;
    stem.typed(shape_of, &[DType::I64, DType::I32])?;
    let numbers = whole_numbers(stem, shape_of);
    let (&[n_out, words], &[rows, n_in]) = (&weight.shape[..], &numbers[..]) else {
        let found = format!("shape {:?} and `weight_shape` {numbers:?}", weight.shape);
        return Err(stem.error(weight, found, "two dimensions".to_owned()));
    };
    let row_bits = words.checked_mul(32).filter(|_| rows == n_out);
    let fits = |bits: &usize| row_bits.is_some_and(|n| n_in.checked_mul(*bits) == Some(n));
    let Some(bits) = [2, 3, 4, 5, 6, 8].into_iter().find(fits) else {
        let found = format!("shape {:?} for a matrix {numbers:?}", weight.shape);
        return Err(stem.error(weight, found, "rows of 2, 3, 4, 5, 6 or 8 bits a weight".to_owned()));
    };
    let scales = stem.need(weight, ".weight_scale")?;
    let codes = Codes { weight, bytes: stem.bytes(weight), bits, shape: [n_out, n_in] };
    let n_group = groups(stem, scales, codes.shape)?;
    ordered(stem, n_in / n_group)?;
    let zeros = match stem.part(".weight_zero_point") {
        None => None,
        Some(zeros) => {
            stem.typed(zeros, &[DType::I32, DType::U32])?;
            let why = format!("{n_out} rows of {bits} bits");
            stem.shaped(zeros, &[n_out.saturating_mul(bits).div_ceil(32), n_group], &why)?;
            Some(unpacked_zeros(&stem.bytes(zeros), bits, [n_out, n_group]))
        }
    };
    affine(stem, codes, scales, zeros)
}

/// `S.weight` i8 of compressed-tensors or bitsandbytes.
pub(super) fn signed_bytes(stem: &Stem<'_>, weight: &TensorInfo) -> Result<Joined, OpenError> {
    let &[n_out, n_in] = &weight.shape[..] else {
        return Err(stem.error(weight, format!("shape {:?}", weight.shape), "two dimensions".to_owned()));
    };
    let flipped: Vec<u8> = stem.bytes(weight).iter().map(|b| b ^ 0x80).collect();
    let codes = Codes { weight, bytes: Bytes::from(flipped), bits: 8, shape: [n_out, n_in] };
    if let Some(scales) = stem.part(".SCB") {
        return affine(stem, codes, scales, None);
    }
    let scales = stem.need(weight, ".weight_scale")?;
    let n_group = groups(stem, scales, codes.shape)?;
    let zeros = match stem.part(".weight_zero_point") {
        None => None,
        Some(zeros) => {
            stem.typed(zeros, &[DType::I8])?;
            stem.shaped(zeros, &scales.shape, &format!("scales of {n_group} groups"))?;
            Some(stem.bytes(zeros).iter().map(|b| b ^ 0x80).collect())
        }
    };
    affine(stem, codes, scales, zeros)
}

/// Makes scales and biases. `zeros` `[n_out, n_group]` are codes without sign.
fn affine(stem: &Stem<'_>, codes: Codes<'_>, scales: &TensorInfo, zeros: Option<Vec<u8>>) -> Result<Joined, OpenError> {
    let [n_out, n_in] = codes.shape;
    let n_group = groups(stem, scales, codes.shape)?;
    stem.typed(scales, &FLOATS)?;
    let Some(group) = GROUPS.into_iter().find(|g| (n_in / n_group).is_multiple_of(*g)) else {
        let expected = "groups of a multiple of 32 weights";
        return Err(stem.unsupported(scales, format!("groups of {}", n_in / n_group), expected));
    };
    let mut numbers = vec![0.0; scales.elements()];
    quant::decode(scales.dtype, &stem.bytes(scales), &mut numbers);
    let factor = if scales.name.ends_with(".SCB") { 1.0 / 127.0 } else { 1.0 };
    let middle = 1u8 << (codes.bits - 1);
    let repeat = n_in / n_group / group; // a group of the file is so many of the matrix
    let size = n_out * n_group * repeat * size_of::<f32>();
    let (mut out_scales, mut out_biases) = (Vec::with_capacity(size), Vec::with_capacity(size));
    for i in 0..n_out * n_group {
        let scale = factor * numbers[i % numbers.len()];
        let bias = -f32::from(zeros.as_ref().map_or(middle, |z| z[i])) * scale;
        for _ in 0..repeat {
            out_scales.extend_from_slice(&scale.to_le_bytes());
            out_biases.extend_from_slice(&bias.to_le_bytes());
        }
    }
    Ok(Joined {
        name: codes.weight.name.clone(),
        shape: codes.shape.to_vec(),
        encoding: Encoding::MlxAffine { bits: codes.bits as u8, group: group as u16, scale: DType::F32 },
        parts: vec![codes.bytes, Bytes::from(out_scales), Bytes::from(out_biases)],
    })
}

/// Groups of a row: scales are `[n_out, n_group]`, `[n_out]`, or one for all.
fn groups(stem: &Stem<'_>, scales: &TensorInfo, [n_out, n_in]: [usize; 2]) -> Result<usize, OpenError> {
    let n_group = match scales.shape[..] {
        _ if scales.elements() == 1 => 1,
        [rows] if rows == n_out => 1,
        [rows, n] if rows == n_out => n,
        _ => 0,
    };
    if n_group == 0 || n_in == 0 || n_out == 0 || !n_in.is_multiple_of(n_group) {
        let expected = format!("one scale for each row or group of a [{n_out}, {n_in}] matrix");
        return Err(stem.error(scales, format!("shape {:?}", scales.shape), expected));
    }
    Ok(n_group)
}

/// Refuses act-order, whose groups are not runs of columns. -1 stands for groups that were never assigned.
fn ordered(stem: &Stem<'_>, group: usize) -> Result<(), OpenError> {
    let Some(g_idx) = stem.part(".weight_g_idx") else { return Ok(()) };
    stem.typed(g_idx, &[DType::I32])?;
    let bytes = stem.bytes(g_idx);
    let ids = bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b));
    if ids.enumerate().all(|(i, id)| id == -1 || usize::try_from(id) == Ok(i / group)) {
        return Ok(());
    }
    Err(stem.unsupported(g_idx, "columns whose groups are in disorder (act-order)".to_owned(), "groups in order"))
}

/// Zeros packed down the columns: the codes of a column are a little-endian stream of bits over the rows.
fn unpacked_zeros(bytes: &[u8], bits: usize, [n_out, n_group]: [usize; 2]) -> Vec<u8> {
    let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let mut zeros = Vec::with_capacity(n_out * n_group);
    for row in 0..n_out {
        let (word, shift) = (row * bits / 32, row * bits % 32);
        for column in 0..n_group {
            let low = words[word * n_group + column];
            let high = words.get((word + 1) * n_group + column).copied().unwrap_or(0);
            let pair = u64::from(high) << 32 | u64::from(low);
            zeros.push((pair >> shift) as u8 & (0xff >> (8 - bits)));
        }
    }
    zeros
}

/// A small tensor of integers that are not negative; the others become 0, which no shape has.
fn whole_numbers(stem: &Stem<'_>, tensor: &TensorInfo) -> Vec<usize> {
    let bytes = stem.bytes(tensor);
    let all: Vec<i64> = match tensor.dtype {
        DType::I64 => bytes.as_chunks::<8>().0.iter().take(4).map(|&b| i64::from_le_bytes(b)).collect(),
        _ => bytes.as_chunks::<4>().0.iter().take(4).map(|&b| i32::from_le_bytes(b).into()).collect(),
    };
    all.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect()
}
