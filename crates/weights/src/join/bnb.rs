//! bitsandbytes: 4-bit codes with a map of values, each tensor with its own description.
//!
//! `S.weight.quant_state.bitsandbytes__nf4` (or `__fp4`) holds JSON: `quant_type`, `blocksize`, `dtype`, `shape`, and
//! for nested absmax `nested_blocksize`, `nested_dtype`, `nested_offset`. Source: bitsandbytes `functional.py`
//! (`QuantState.as_dict`).

use mlxr_compute::{Bytes, DType, Encoding};
use serde_json::Value;

use super::{Joined, Stem};
use crate::OpenError;
use crate::error::printable;
use crate::fields::Fields;
use crate::folder::parse_json;
use crate::tensors::TensorInfo;

/// Endings of the description.
const STATES: [&str; 2] = [".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"];
/// More bytes than a description can need.
const MAX_STATE_BYTES: usize = 1 << 16;

/// `S.weight` u8, `S.weight.absmax`, `S.weight.quant_map`, `S.weight.nested_absmax`, `S.weight.nested_quant_map`.
pub(super) fn join(stem: &Stem<'_>, weight: &TensorInfo) -> Result<Joined, OpenError> {
    let Some(tensor) = STATES.iter().find_map(|suffix| stem.part(suffix)) else {
        let expected = format!("a tensor `{}{}` with it", printable(stem.name.as_bytes()), STATES[0]);
        return Err(stem.error(weight, "no such tensor".to_owned(), expected));
    };
    stem.typed(tensor, &[DType::U8])?;
    let bytes = stem.bytes(tensor);
    if bytes.len() > MAX_STATE_BYTES {
        let expected = format!("a description of at most {MAX_STATE_BYTES}");
        return Err(stem.error(tensor, format!("{} bytes", bytes.len()), expected));
    }
    let place = stem.tensors.path(tensor).join(printable(tensor.name.as_bytes()));
    let document = parse_json(&place, &bytes)?;
    let state = Fields::new(&place, &document)?;

    let absmax = stem.need(weight, ".weight.absmax")?;
    let quant_map = stem.need(weight, ".weight.quant_map")?;
    stem.typed(quant_map, &[DType::F32])?;
    let mut parts = vec![stem.bytes(weight), stem.bytes(absmax), stem.bytes(quant_map)];
    let (nested_block, nested_offset) = match stem.typed(absmax, &[DType::F32, DType::U8])? {
        DType::F32 => {
            parts.extend([Bytes::from(Vec::new()), Bytes::from(Vec::new())]);
            (0, 0.0)
        }
        _ => {
            for suffix in [".weight.nested_absmax", ".weight.nested_quant_map"] {
                let part = stem.need(weight, suffix)?;
                stem.typed(part, &[DType::F32])?;
                parts.push(stem.bytes(part));
            }
            let offset = state.f64("nested_offset")?.unwrap_or(0.0);
            (block(&state, "nested_blocksize")?, offset as f32)
        }
    };
    let encoding = Encoding::Bnb4 { block: block(&state, "blocksize")?, nested_block, nested_offset };
    Ok(Joined { name: weight.name.clone(), shape: shape(&state)?, encoding, parts })
}

fn block(state: &Fields<'_>, key: &str) -> Result<u32, OpenError> {
    let found = state.u64(key)?.unwrap_or(0);
    let block = u32::try_from(found).ok().filter(|&n| n > 0);
    block.ok_or_else(|| state.error(key, found.to_string(), "1 to 4294967295"))
}

/// `[n_out, n_in]`. Stacks are not read: a block may hold the end of one matrix and the start of the next.
fn shape(state: &Fields<'_>) -> Result<Vec<usize>, OpenError> {
    let list = state.list("shape")?.unwrap_or_default();
    let dims = list.iter().map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0));
    let shape = dims.collect::<Option<Vec<_>>>().filter(|s| s.len() == 2);
    shape.ok_or_else(|| state.error("shape", Value::from(list).to_string(), "[rows, columns], each at least 1"))
}
