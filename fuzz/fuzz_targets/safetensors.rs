//! A safetensors file in a folder whose configuration allows every encoding; the first byte chooses which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxr_compute::Bytes;
use mlxr_weights::{Limits, open_memory};

mod touch;

/// Configurations.
const CONFIGS: [&str; 9] = [
    "{}",
    r#"{"quantization":{"bits":4,"group_size":32}}"#,
    r#"{"quantization":{"mode":"mxfp4"}}"#,
    r#"{"quantization_config":{"quant_method":"gptq"}}"#,
    r#"{"quantization_config":{"quant_method":"awq"}}"#,
    r#"{"quantization_config":{"quant_method":"bitsandbytes"}}"#,
    r#"{"quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]}}"#,
    r#"{"quantization_config":{"quant_method":"mxfp4"}}"#,
    r#"{"quantization_config":{"quant_method":"compressed-tensors","format":"mixed-precision"}}"#,
];

fuzz_target!(|data: &[u8]| {
    let Some((&first, file)) = data.split_first() else { return };
    let config = CONFIGS[usize::from(first) % CONFIGS.len()];
    let files = [("config.json", config.as_bytes()), ("model.safetensors", file)];
    let files = files.map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes.to_vec())));
    if let Ok(model) = open_memory(files.to_vec(), &Limits::default()) {
        touch::everything(&model);
        let _ = model.summary();
    }
});
