//! JSON of a folder: the first byte chooses whether the rest is `config.json`, the index, or the description that
//! bitsandbytes keeps in a tensor. The tensors are fixed and have the parts of every encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxr_compute::Bytes;
use mlxr_weights::{Limits, open_memory};

mod touch;

/// Name, type, shape, bytes of the tensors; the description of `b` comes last.
const TENSORS: [(&str, &str, &str, usize); 24] = [
    ("a.weight", "U32", "[2,8]", 64),
    ("a.scales", "F16", "[2,2]", 8),
    ("a.biases", "F16", "[2,2]", 8),
    ("b.weight", "U8", "[32,1]", 32),
    ("b.weight.absmax", "U8", "[1]", 1),
    ("b.weight.quant_map", "F32", "[16]", 64),
    ("b.weight.nested_absmax", "F32", "[1]", 4),
    ("b.weight.nested_quant_map", "F32", "[256]", 1024),
    ("c.qweight", "I32", "[4,32]", 512),
    ("c.qzeros", "I32", "[2,4]", 32),
    ("c.scales", "F16", "[2,32]", 128),
    ("c.g_idx", "I32", "[32]", 128),
    ("d.weight", "F8_E4M3", "[4,8]", 32),
    ("d.weight_scale_inv", "F32", "[2,2]", 16),
    ("e_blocks", "U8", "[2,2,1,16]", 64),
    ("e_scales", "U8", "[2,2,1]", 4),
    ("f.weight", "BF16", "[4,4]", 32),
    ("g.weight_packed", "I32", "[2,4]", 32),
    ("g.weight_scale", "BF16", "[2,1]", 4),
    ("g.weight_shape", "I32", "[2]", 8),
    ("h.weight", "I8", "[2,32]", 64),
    ("h.SCB", "F32", "[2]", 8),
    ("i.weight_packed", "U8", "[2,16]", 32),
    ("i.weight_scale", "U8", "[2,1]", 2),
];

/// A safetensors file of [`TENSORS`] and the description.
fn weights(state: &[u8]) -> Vec<u8> {
    let mut header = String::from("{");
    let mut at = 0;
    for (name, dtype, shape, bytes) in TENSORS {
        let end = at + bytes;
        header.push_str(&format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{at},{end}]}},"#));
        at = end;
    }
    let (name, n) = ("b.weight.quant_state.bitsandbytes__nf4", state.len());
    let end = at + n;
    header.push_str(&format!(r#""{name}":{{"dtype":"U8","shape":[{n}],"data_offsets":[{at},{end}]}}}}"#));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + at, 0);
    file.extend(state);
    file
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, json)) = data.split_first() else { return };
    let config: &[u8] = br#"{"quantization_config":{"quant_method":"bitsandbytes"}}"#;
    let state: &[u8] = br#"{"blocksize":64,"nested_blocksize":256,"shape":[8,8]}"#;
    let files = match first % 3 {
        0 => vec![("config.json", json.to_vec()), ("model.safetensors", weights(state))],
        1 => vec![("config.json", config.to_vec()), ("model.safetensors", weights(json))],
        _ => vec![
            ("config.json", b"{}".to_vec()),
            ("model.safetensors", weights(state)),
            ("model.safetensors.index.json", json.to_vec()),
        ],
    };
    let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes))).collect();
    if let Ok(model) = open_memory(files, &Limits::default()) {
        touch::everything(&model);
        let _ = model.summary();
    }
});
