//! Values of GGUF metadata that change what a model computes and that nothing here computes: a file that sets one is
//! refused, rather than run as something else.

use mlxr_weights::Checkpoint;
use mlxr_weights::gguf::{Element, Value};

/// Keys below `{arch}.`, the values that change nothing, and what the others would need.
const UNREAD: &[(&str, &[f64], &str)] = &[
    ("swiglu_clamp_exp", &[0.0], "clamped activations of experts"),
    ("swiglu_clamp_shexp", &[0.0], "clamped activations of the shared expert"),
    ("hyper_connection.count", &[0.0, 1.0], "hyper-connections"),
    ("num_loops", &[0.0, 1.0], "layers that run more than once"),
    ("hrm.layers_per_stack", &[0.0], "stacks of layers that run in cycles"),
    ("attn_res.block_size", &[0.0], "attention over residuals"),
    ("attention.output_group_count", &[0.0], "grouped output projections"),
    ("attention.compress_ratios", &[0.0], "compressed attention"),
    ("hash_layer_count", &[0.0], "experts chosen by hashes"),
    ("rescale_every_n_layers", &[0.0], "rescaled layers"),
    ("attention.relative_buckets_count", &[0.0], "relative position buckets"),
    ("attention.shared_kv_layers", &[0.0], "layers that share keys and values"),
    ("embedding_length_per_layer_input", &[0.0], "embeddings of each layer"),
    ("attention.causal", &[1.0], "attention that sees later tokens"),
];

/// The first value that cannot be computed, with what it would need.
pub(crate) fn unread(checkpoint: &Checkpoint, arch: &str) -> Option<String> {
    UNREAD.iter().find_map(|(key, neutral, what)| {
        let name = format!("{arch}.{key}");
        let value = checkpoint.meta().value(&name)?;
        let changes = numbers(value).into_iter().find(|n| !neutral.contains(n))?;
        Some(format!("`{name}` is {changes}, which needs {what}"))
    })
}

fn numbers(value: &Value) -> Vec<f64> {
    let one = |element: Element<'_>| match element {
        Element::Int(i) => Some(i as f64),
        Element::Float(f) => Some(f),
        Element::Bool(b) => Some(f64::from(u8::from(b))),
        _ => None,
    };
    match value {
        Value::Array(array) => (0..array.len()).filter_map(|i| array.element(i).and_then(one)).collect(),
        value => one(value.element()).into_iter().collect(),
    }
}
