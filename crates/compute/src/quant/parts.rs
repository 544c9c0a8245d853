//! Which parts an encoding has and how large each is; every size is computed without overflow.

use crate::{DType, Encoding, Error, MatrixData};

/// A part of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its name in [`Encoding`].
    pub name: &'static str,
    /// Its bytes.
    pub bytes: usize,
    /// Whether it may be empty instead.
    pub optional: bool,
}

/// Why a shape does not fit an encoding: what was found, what would be valid.
type Misfit = (String, String);

/// Bytes of `factors` items of `bits` bits, or a misfit when that is no whole number of bytes or overflows.
fn bytes(bits: usize, factors: &[usize]) -> Result<usize, Misfit> {
    let total = factors.iter().try_fold(bits, |product, &factor| product.checked_mul(factor));
    match total {
        Some(total) if total % 8 == 0 => Ok(total / 8),
        Some(total) => Err((format!("a part of {total} bits"), "whole bytes".to_owned())),
        None => Err((format!("a part of {factors:?} numbers"), "a size that fits memory".to_owned())),
    }
}

fn part(name: &'static str, bits: usize, factors: &[usize]) -> Result<Part, Misfit> {
    Ok(Part { name, bytes: bytes(bits, factors)?, optional: false })
}

fn multiple(what: &str, n: usize, of: usize) -> Result<(), Misfit> {
    match of {
        0 => Err((format!("groups of 0 {what}"), "groups of at least 1".to_owned())),
        _ if n.is_multiple_of(of) => Ok(()),
        _ => Err((format!("{n} {what}"), format!("a multiple of {of}"))),
    }
}

fn one_of<T: PartialEq + std::fmt::Debug>(what: &str, found: T, valid: &[T]) -> Result<(), Misfit> {
    if valid.contains(&found) { Ok(()) } else { Err((format!("{what} {found:?}"), format!("one of {valid:?}"))) }
}

/// Bits of a scale, which is one of `valid`.
fn scale_bits(scale: DType, valid: &[DType]) -> Result<usize, Misfit> {
    one_of("scales of type", scale, valid)?;
    Ok(8 * scale.block_bytes())
}

const FLOATS: &[DType] = &[DType::F16, DType::BF16, DType::F32];
const FP8_SCALES: &[DType] = &[DType::F32, DType::BF16, DType::F16, DType::F8E8M0];

/// Groups of `group` in `n`, the last one possibly short. `group` is not 0.
pub(super) fn groups(n: usize, group: u32) -> usize {
    n.div_ceil(group as usize)
}

impl Encoding {
    /// The parts of a matrix `[n_out, n_in]`, in order.
    fn parts(&self, n_out: usize, n_in: usize) -> Result<Vec<Part>, Misfit> {
        match *self {
            Encoding::Blocks(dtype) => {
                multiple("weights a row", n_in, dtype.block())?;
                Ok(vec![part("weights", 8 * dtype.block_bytes(), &[n_out, n_in / dtype.block()])?])
            }
            Encoding::MlxAffine { bits, group, scale } => {
                one_of("bits", bits, &[2, 3, 4, 5, 6, 8])?;
                one_of("groups of", group, &[32, 64, 128])?;
                multiple("weights a row", n_in, usize::from(group))?;
                let (scales, scale) = ([n_out, n_in / usize::from(group)], scale_bits(scale, FLOATS)?);
                Ok(vec![
                    part("weights", usize::from(bits), &[n_out, n_in])?,
                    part("scales", scale, &scales)?,
                    part("biases", scale, &scales)?,
                ])
            }
            Encoding::MlxFloat(kind) => {
                multiple("weights a row", n_in, kind.group())?;
                Ok(vec![
                    part("weights", kind.bits(), &[n_out, n_in])?,
                    part("scales", 8, &[n_out, n_in / kind.group()])?,
                ])
            }
            Encoding::Gptq { bits, group, scale, .. } => gptq(bits, group, scale, [n_out, n_in]),
            Encoding::Awq { group, scale } => {
                multiple("rows", n_out, 8)?;
                multiple("columns", 0, group as usize)?;
                let n_group = groups(n_in, group);
                Ok(vec![
                    part("qweight", 4, &[n_in, n_out])?,
                    part("qzeros", 4, &[n_group, n_out])?,
                    part("scales", scale_bits(scale, FLOATS)?, &[n_group, n_out])?,
                ])
            }
            Encoding::Bnb4 { block, nested_block, .. } => bnb4(block, nested_block, [n_out, n_in]),
            Encoding::Fp8 { dtype, rows, cols, scale } => {
                one_of("weights of type", dtype, &[DType::F8E4M3, DType::F8E5M2])?;
                multiple("rows", 0, rows as usize)?;
                multiple("columns", 0, cols as usize)?;
                Ok(vec![
                    part("weights", 8, &[n_out, n_in])?,
                    part("scales", scale_bits(scale, FP8_SCALES)?, &[groups(n_out, rows), groups(n_in, cols)])?,
                ])
            }
        }
    }
}

fn gptq(bits: u8, group: u32, scale: DType, [n_out, n_in]: [usize; 2]) -> Result<Vec<Part>, Misfit> {
    one_of("bits", bits, &[2, 3, 4, 8])?;
    let per_words = if bits == 3 { 32 } else { 32 / usize::from(bits) };
    multiple("columns", n_in, per_words)?;
    multiple("rows", n_out, per_words)?;
    multiple("columns", 0, group as usize)?;
    let n_group = groups(n_in, group);
    Ok(vec![
        part("qweight", usize::from(bits), &[n_in, n_out])?,
        part("qzeros", usize::from(bits), &[n_group, n_out])?,
        part("scales", scale_bits(scale, FLOATS)?, &[n_group, n_out])?,
        Part { optional: true, ..part("g_idx", 32, &[n_in])? },
    ])
}

fn bnb4(block: u32, nested_block: u32, [n_out, n_in]: [usize; 2]) -> Result<Vec<Part>, Misfit> {
    multiple("weights", 0, block as usize)?;
    let n = bytes(8, &[n_out, n_in])?;
    let n_block = groups(n, block);
    let nested = nested_block != 0;
    let n_nested = if nested { groups(n_block, nested_block) } else { 0 };
    Ok(vec![
        part("weights", 8, &[n.div_ceil(2)])?,
        part("absmax", if nested { 8 } else { 32 }, &[n_block])?,
        part("quant_map", 32, &[16])?,
        part("nested_absmax", 32, &[n_nested])?,
        part("nested_quant_map", 32, &[if nested { 256 } else { 0 }])?,
    ])
}

/// [`MatrixData::check`].
pub(crate) fn check(matrix: &MatrixData) -> Result<(), Error> {
    let shape = |found, expected| Error::Shape { tensor: matrix.name.clone(), found, expected };
    let &MatrixData { n_out, n_in, .. } = matrix;
    if n_out == 0 || n_in == 0 {
        return Err(shape(format!("the shape [{n_out}, {n_in}]"), "at least one row and column".to_owned()));
    }
    bytes(32, &[n_out, n_in]).map_err(|(found, expected)| shape(found, expected))?; // so decoded sizes fit
    let parts = matrix.encoding.parts(n_out, n_in);
    let parts = parts.map_err(|(found, expected)| shape(format!("{}: {found}", matrix.encoding), expected))?;
    if parts.len() != matrix.parts.len() {
        let names: Vec<_> = parts.iter().map(|p| p.name).collect();
        return Err(shape(
            format!("{} in {} parts", matrix.encoding, matrix.parts.len()),
            format!("the parts {}", names.join(", ")),
        ));
    }
    for (part, found) in parts.iter().zip(&matrix.parts) {
        if found.len() != part.bytes && !(part.optional && found.is_empty()) {
            let (tensor, found) = (matrix.name.clone(), found.len());
            return Err(Error::Size { tensor, part: part.name, found, expected: part.bytes });
        }
    }
    if let Encoding::Gptq { group, .. } = matrix.encoding {
        let n_group = groups(n_in, group);
        let ids = matrix.parts[3].as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b));
        if let Some(id) = ids.into_iter().find(|&id| usize::try_from(id).map_or(true, |id| id >= n_group)) {
            return Err(shape(format!("g_idx has the group {id}"), format!("groups 0 to {}", n_group - 1)));
        }
    }
    Ok(())
}
