//! bitsandbytes NF4 and FP4, plain and with nested ("double") quantization of the absmax.
//!
//! ```text
//! weights  n / 2 u8, row after row, high nibble first     w[i] = quant_map[q] * absmax[i / block]
//! absmax   f32 [n / block], or u8 codes: nested_quant_map[code] * nested_absmax[k / nested_block] + offset
//! ```
//!
//! Blocks run over the whole matrix, so one may hold the end of a row and the start of the next.
//!
//! Source: bitsandbytes `bitsandbytes/functional.py` (`dequantize_4bit`, `dequantize_blockwise`).

use crate::MatrixData;

/// The format of a bitsandbytes matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bnb4 {
    pub block: u32,
    pub nested_block: u32,
    pub nested_offset: f32,
}

fn f32_at(bytes: &[u8], i: usize) -> f32 {
    f32::from_le_bytes(bytes[4 * i..][..4].try_into().expect("a slice of four bytes"))
}

/// The absmax of block `k`.
pub(super) fn absmax(matrix: &MatrixData, format: Bnb4, k: usize) -> f32 {
    let [_, absmax, _, nested_absmax, nested_map] = matrix.parts.as_slice() else {
        unreachable!("`MatrixData::check` has counted the parts");
    };
    match format.nested_block {
        0 => f32_at(absmax, k),
        n => f32_at(nested_map, absmax[k].into()) * f32_at(nested_absmax, k / n as usize) + format.nested_offset,
    }
}

/// Rows from `first` on, as many as fill `out`.
pub(super) fn decode(matrix: &MatrixData, format: Bnb4, first: usize, out: &mut [f32]) {
    let map: [f32; 16] = std::array::from_fn(|q| f32_at(&matrix.parts[2], q));
    let block = format.block as usize;
    let (mut at, mut out) = (first * matrix.n_in, out);
    while !out.is_empty() {
        let n = out.len().min(block - at % block);
        let (head, tail) = out.split_at_mut(n);
        let absmax = absmax(matrix, format, at / block);
        run(&matrix.parts[0], at, &map.map(|value| value * absmax), head);
        (at, out) = (at + n, tail);
    }
}

/// Weights from `at` on of one block, whose values are `values`.
fn run(weights: &[u8], at: usize, values: &[f32; 16], out: &mut [f32]) {
    let (odd, even) = out.split_at_mut(at % 2);
    if let [w] = odd {
        *w = values[usize::from(weights[at / 2] & 15)];
    }
    let weights = &weights[at.div_ceil(2)..];
    for (pair, q) in even.chunks_mut(2).zip(weights) {
        for (w, code) in pair.iter_mut().zip([q >> 4, q & 15]) {
            *w = values[usize::from(code)];
        }
    }
}
