//! f32 to GGUF types: round to nearest, with a least-squares search for scales where the format leaves a choice.
//!
//! | module | types |
//! |---|---|
//! | `simple` | Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q1_0 Q2_0 TQ1_0 TQ2_0: without importance (but Q2_0) the bytes equal ggml's reference |
//! | `k` | Q2_K Q3_K Q4_K Q5_K Q6_K |
//! | `codebook` | IQ4_NL IQ4_XS MXFP4 NVFP4 |
//! | `search` | the least-squares searches of one block that these share |
//! | `nested` | scales of scales: a super-block's scales as small integers times one f16 |
//!
//! *Importance* is a weight per input column, the mean square of its activations. A search makes the sum of
//! `importance * sqrt(2 * mean square of the block + weight^2) * (weight - decoded)^2` small, as ggml's do.

mod codebook;
mod k;
mod nested;
mod search;
mod simple;

pub(super) use simple::{fifth_bits, nibbles};

use super::Block;
use super::{BlockIQ4_NL, BlockIQ4_XS, BlockMXFP4, BlockNVFP4, BlockTQ1_0, BlockTQ2_0};
use super::{BlockQ1_0, BlockQ2_0};
use super::{
    BlockQ2_K, BlockQ3_K, BlockQ4_0, BlockQ4_1, BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K, BlockQ6_K, BlockQ8_0,
};
use crate::{DType, Error};

/// A block that can be made of weights.
trait Encode<const N: usize>: Block<N> {
    /// Weights are finite, importance is finite and not negative.
    fn encode(weights: &[f32; N], importance: Option<&[f32; N]>) -> Self;
}

/// Encodes whole blocks.
type Encoder = fn(&[f32], Option<&[f32]>, &mut Vec<u8>);

/// The types that can be encoded.
const ROWS: [(DType, Encoder); 21] = [
    (DType::F32, |weights, _, out| out.extend(weights.iter().flat_map(|w| w.to_le_bytes()))),
    (DType::F16, |weights, _, out| out.extend(weights.iter().flat_map(|w| half::f16::from_f32(*w).to_le_bytes()))),
    (DType::BF16, |weights, _, out| out.extend(weights.iter().flat_map(|w| half::bf16::from_f32(*w).to_le_bytes()))),
    (DType::Q4_0, blocks::<BlockQ4_0, 32>),
    (DType::Q4_1, blocks::<BlockQ4_1, 32>),
    (DType::Q5_0, blocks::<BlockQ5_0, 32>),
    (DType::Q5_1, blocks::<BlockQ5_1, 32>),
    (DType::Q8_0, blocks::<BlockQ8_0, 32>),
    (DType::Q2_K, blocks::<BlockQ2_K, 256>),
    (DType::Q3_K, blocks::<BlockQ3_K, 256>),
    (DType::Q4_K, blocks::<BlockQ4_K, 256>),
    (DType::Q5_K, blocks::<BlockQ5_K, 256>),
    (DType::Q6_K, blocks::<BlockQ6_K, 256>),
    (DType::IQ4_NL, blocks::<BlockIQ4_NL, 32>),
    (DType::IQ4_XS, blocks::<BlockIQ4_XS, 256>),
    (DType::TQ1_0, blocks::<BlockTQ1_0, 256>),
    (DType::TQ2_0, blocks::<BlockTQ2_0, 256>),
    (DType::MXFP4, blocks::<BlockMXFP4, 32>),
    (DType::NVFP4, blocks::<BlockNVFP4, 64>),
    (DType::Q1_0, blocks::<BlockQ1_0, 128>),
    (DType::Q2_0, blocks::<BlockQ2_0, 64>),
];

fn blocks<B: Encode<N>, const N: usize>(weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (i, weights) in weights.as_chunks::<N>().0.iter().enumerate() {
        let importance = importance.map(|columns| {
            let columns = columns.as_chunks::<N>().0;
            &columns[i % columns.len()]
        });
        out.extend_from_slice(bytemuck::bytes_of(&B::encode(weights, importance)));
    }
}

/// Whether [`encode`] makes this type.
pub fn can_encode(dtype: DType) -> bool {
    ROWS.iter().any(|(row, _)| *row == dtype)
}

/// Appends `weights`, whole rows, as `dtype` to `out`. `importance` has a weight per column, so its length is that of
/// a row; plain numbers and the ternary types ignore it.
///
/// # Errors
/// If the type has no encoder, a row is not whole blocks, importance does not fit or is negative or not finite, or a
/// weight is not finite (F32, BF16 and F16 keep infinities and NaN) or too large for F16. `out` is as before then.
pub fn encode(dtype: DType, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) -> Result<(), Error> {
    let refused = |found: String, expected: &'static str| Err(Error::Encode { dtype: dtype.name(), found, expected });
    let Some((_, encoder)) = ROWS.iter().find(|(row, _)| *row == dtype) else {
        return refused("a type without an encoder".to_owned(), "a type such as q8_0, q4_K or f16");
    };
    let block = dtype.block();
    if !weights.len().is_multiple_of(block) {
        return refused(format!("{} weights", weights.len()), "whole blocks");
    }
    if let Some(columns) = importance {
        if columns.is_empty() || !columns.len().is_multiple_of(block) || !weights.len().is_multiple_of(columns.len()) {
            let found = format!("{} weights with importance of {} columns", weights.len(), columns.len());
            return refused(found, "rows of whole blocks, as long as the importance");
        }
        if let Some(i) = columns.iter().position(|w| !w.is_finite() || *w < 0.0) {
            return refused(format!("importance {} of column {i}", columns[i]), "a finite number, not negative");
        }
    }
    let fits = |w: f32| match dtype {
        DType::F32 | DType::BF16 => true,
        DType::F16 => !w.is_finite() || half::f16::from_f32(w).is_finite(),
        _ => w.abs() <= 65504.0, // so that f16 scales and minima hold it
    };
    if let Some(i) = weights.iter().position(|w| !fits(*w)) {
        return refused(format!("weight {i} is {:e}", weights[i]), "finite numbers that the type can hold");
    }
    out.reserve(weights.len() / block * dtype.block_bytes());
    encoder(weights, importance, out);
    Ok(())
}
