//! `cargo xtask random-model`: a GGUF of a real model's shapes with random weights, for benchmarks.
//!
//! Weights are normal numbers encoded by our own encoders, so every block has scales as a trained model's would; a few
//! encoded rows are repeated, since speed does not depend on the numbers.

use std::path::Path;

use mlxr_compute::{DType, quant};
use mlxr_weights::gguf::{Entry, Metadata, Value, Writer};
use mlxr_weights::{Checkpoint, open};

/// A model's shape. `d_head` is of q, k and v.
struct Shape {
    name: &'static str,
    arch: &'static str,
    n_layer: usize,
    d_model: usize,
    d_ff: usize,
    n_head: usize,
    n_kv_head: usize,
    d_head: usize,
    n_vocab: usize,
    tied: bool,
    qk_norm: bool,
    rope_base: f32,
    /// Experts and experts used; `d_ff` is an expert's.
    experts: Option<(usize, usize)>,
}

const LLAMA_1B: Shape = Shape {
    name: "llama-3.2-1b",
    arch: "llama",
    n_layer: 16,
    d_model: 2048,
    d_ff: 8192,
    n_head: 32,
    n_kv_head: 8,
    d_head: 64,
    n_vocab: 128_256,
    tied: true,
    qk_norm: false,
    rope_base: 500_000.0,
    experts: None,
};

/// One layer whose attention outweighs the rest: for times at great depths. Four queries share a head, as in LLaMA 3.
const ATTENTION: Shape =
    Shape { name: "attention-4", n_layer: 1, d_model: 2048, d_ff: 2048, d_head: 128, n_vocab: 4096, ..LLAMA_1B };

/// Source: the models' `config.json`, but for attention.
const SHAPES: &[Shape] = &[
    LLAMA_1B,
    ATTENTION,
    Shape { name: "attention-8", n_kv_head: 4, ..ATTENTION },
    Shape { name: "llama-3.1-8b", n_layer: 32, d_model: 4096, d_ff: 14336, d_head: 128, tied: false, ..LLAMA_1B },
    Shape {
        name: "qwen3-0.6b",
        arch: "qwen3",
        n_layer: 28,
        d_model: 1024,
        d_ff: 3072,
        n_head: 16,
        d_head: 128,
        n_vocab: 151_936,
        qk_norm: true,
        rope_base: 1_000_000.0,
        ..LLAMA_1B
    },
    // Cut in layers to fit a small machine.
    Shape {
        name: "qwen3-30b-a3b-cut",
        arch: "qwen3moe",
        n_layer: 6,
        d_model: 2048,
        d_ff: 768,
        n_kv_head: 4,
        d_head: 128,
        n_vocab: 151_936,
        tied: false,
        qk_norm: true,
        rope_base: 1_000_000.0,
        experts: Some((128, 8)),
        ..LLAMA_1B
    },
    Shape {
        name: "mixtral-cut",
        n_layer: 3,
        d_model: 4096,
        d_ff: 14336,
        d_head: 128,
        n_vocab: 32_000,
        tied: false,
        rope_base: 1_000_000.0,
        experts: Some((8, 2)),
        ..LLAMA_1B
    },
];

/// Rows that are encoded before they repeat, and of a vocabulary: samplers read all tokens that are as likely as the last that
/// counts.
const DISTINCT_ROWS: usize = 64;
const DISTINCT_TOKENS: usize = 8192;

/// Names of the shapes.
pub fn names() -> String {
    SHAPES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
}

/// A template for models that get a vocabulary: servers are asked by chat.
const TEMPLATE: &str = "{% for message in messages %}{{ '[' + message['role'] + ']\n' + message['content'] + '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}";

/// Writes the model `shape` with matrices of type `types` (a type's name, or `q4_k_m`, `q5_k_m`) to `out`. With the
/// tokenizer of the GGUF file `vocab` it takes text; without one, ids only.
pub fn run(shape: &str, types: &str, vocab: Option<&Path>, out: &Path) -> Result<(), String> {
    let shape =
        SHAPES.iter().find(|s| s.name == shape).ok_or_else(|| format!("no shape `{shape}`; there are {}", names()))?;
    let entries = entries(shape, types)?;
    let mut metadata = metadata(shape, out);
    if let Some(vocab) = vocab {
        let checkpoint = open(vocab).map_err(|e| e.to_string())?;
        add_tokenizer(&mut metadata, &checkpoint, shape.n_vocab)?;
    }
    let mut writer = Writer::create(out, &metadata, &entries).map_err(|e| e.to_string())?;
    let mut seed = 1;
    for entry in &entries {
        write(&mut writer, entry, &mut seed).map_err(|e| format!("{}: {e}", entry.name))?;
    }
    writer.finish().map_err(|e| e.to_string())
}

/// The type of a matrix under a recipe: llama-quantize gives half of the value and down projections more bits.
fn dtype(types: &str, role: &str, layer: usize, n_layer: usize) -> Result<DType, String> {
    let (low, high) = match types.to_lowercase().as_str() {
        "q4_k_m" => (DType::Q4_K, DType::Q6_K),
        "q5_k_m" => (DType::Q5_K, DType::Q6_K),
        name => {
            let one = DType::from_name(name).filter(|d| quant::can_encode(*d));
            let one = one.ok_or_else(|| format!("`{types}` is no type that can be encoded"))?;
            return Ok(one);
        }
    };
    let eighth = n_layer / 8;
    let better = layer < eighth || layer >= 7 * eighth || (layer - eighth) % 3 == 2;
    let more =
        matches!(role, "output" | "token_embd") || (better && (role == "attn_v" || role.starts_with("ffn_down")));
    Ok(if more { high } else { low })
}

fn entries(shape: &Shape, types: &str) -> Result<Vec<Entry>, String> {
    let mut list = Vec::new();
    let matrix = |list: &mut Vec<Entry>, layer: Option<usize>, role: &str, dims: &[usize]| -> Result<(), String> {
        let name = layer.map_or_else(|| format!("{role}.weight"), |i| format!("blk.{i}.{role}.weight"));
        let dtype = dtype(types, role, layer.unwrap_or(0), shape.n_layer)?;
        list.push(Entry { name, dtype, shape: dims.to_vec() });
        Ok(())
    };
    let vector = |list: &mut Vec<Entry>, name: String, n: usize| {
        list.push(Entry { name, dtype: DType::F32, shape: vec![n] });
    };
    let Shape { d_model, d_ff, d_head, n_vocab, .. } = *shape;
    let (d_q, d_kv) = (shape.n_head * d_head, shape.n_kv_head * d_head);
    matrix(&mut list, None, "token_embd", &[n_vocab, d_model])?;
    for i in 0..shape.n_layer {
        vector(&mut list, format!("blk.{i}.attn_norm.weight"), d_model);
        vector(&mut list, format!("blk.{i}.ffn_norm.weight"), d_model);
        if shape.qk_norm {
            vector(&mut list, format!("blk.{i}.attn_q_norm.weight"), d_head);
            vector(&mut list, format!("blk.{i}.attn_k_norm.weight"), d_head);
        }
        for (role, n_out, n_in) in [
            ("attn_q", d_q, d_model),
            ("attn_k", d_kv, d_model),
            ("attn_v", d_kv, d_model),
            ("attn_output", d_model, d_q),
        ] {
            matrix(&mut list, Some(i), role, &[n_out, n_in])?;
        }
        match shape.experts {
            None => {
                matrix(&mut list, Some(i), "ffn_gate", &[d_ff, d_model])?;
                matrix(&mut list, Some(i), "ffn_up", &[d_ff, d_model])?;
                matrix(&mut list, Some(i), "ffn_down", &[d_model, d_ff])?;
            }
            Some((n, _)) => {
                let router =
                    Entry { name: format!("blk.{i}.ffn_gate_inp.weight"), dtype: DType::F32, shape: vec![n, d_model] };
                list.push(router);
                matrix(&mut list, Some(i), "ffn_gate_exps", &[n, d_ff, d_model])?;
                matrix(&mut list, Some(i), "ffn_up_exps", &[n, d_ff, d_model])?;
                matrix(&mut list, Some(i), "ffn_down_exps", &[n, d_model, d_ff])?;
            }
        }
    }
    vector(&mut list, "output_norm.weight".to_owned(), d_model);
    if !shape.tied {
        matrix(&mut list, None, "output", &[n_vocab, d_model])?;
    }
    Ok(list)
}

fn metadata(shape: &Shape, out: &Path) -> Metadata {
    let mut meta = Metadata::new(out);
    meta.set("general.architecture", Value::Str(shape.arch.to_owned()));
    meta.set("general.name", Value::Str(format!("random {}", shape.name)));
    meta.set("tokenizer.ggml.model", Value::Str("none".to_owned()));
    let mut number = |key: &str, n: usize| {
        meta.set(&format!("{}.{key}", shape.arch), Value::U32(n as u32));
    };
    number("block_count", shape.n_layer);
    number("context_length", 131_072);
    number("embedding_length", shape.d_model);
    number("feed_forward_length", shape.d_ff);
    number("attention.head_count", shape.n_head);
    number("attention.head_count_kv", shape.n_kv_head);
    number("attention.key_length", shape.d_head);
    number("attention.value_length", shape.d_head);
    number("rope.dimension_count", shape.d_head);
    number("vocab_size", shape.n_vocab);
    if let Some((n, used)) = shape.experts {
        number("expert_count", n);
        number("expert_used_count", used);
        number("expert_feed_forward_length", shape.d_ff);
    }
    meta.set(&format!("{}.attention.layer_norm_rms_epsilon", shape.arch), Value::F32(1e-5));
    meta.set(&format!("{}.rope.freq_base", shape.arch), Value::F32(shape.rope_base));
    meta
}

fn add_tokenizer(metadata: &mut Metadata, vocab: &Checkpoint, n_vocab: usize) -> Result<(), String> {
    let rows = vocab.meta().iter().filter(|(key, _)| key.starts_with("tokenizer."));
    rows.for_each(|(key, value)| drop(metadata.set(key, value.clone())));
    let found =
        vocab.meta().list::<&[u8]>("tokenizer.ggml.tokens").map_err(|e| e.to_string())?.unwrap_or_default().len();
    if found != n_vocab {
        return Err(format!("{} has {found} tokens and the shape {n_vocab}", vocab.path().display()));
    }
    metadata.set("tokenizer.chat_template", Value::Str(TEMPLATE.to_owned()));
    Ok(())
}

/// Writes a tensor: norms are 1, matrices normal with a deviation that keeps activations of the order of 1.
fn write(writer: &mut Writer, entry: &Entry, seed: &mut u64) -> Result<(), String> {
    let push = |writer: &mut Writer, bytes: &[u8]| writer.push(bytes).map_err(|e| e.to_string());
    let Some((&n_in, outer)) = entry.shape.split_last() else { return Err("no dimensions".to_owned()) };
    if outer.is_empty() {
        return push(writer, &vec![1.0f32; n_in].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    }
    let mut remaining: usize = outer.iter().product();
    let deviation = 1.0 / (n_in as f32).sqrt();
    let is_vocabulary = ["token_embd.weight", "output.weight"].contains(&entry.name.as_str());
    let distinct = if is_vocabulary { DISTINCT_TOKENS } else { DISTINCT_ROWS }.min(remaining);
    let rows: Vec<f32> = (0..distinct * n_in).map(|_| normal(seed) * deviation).collect();
    let mut bytes = Vec::new();
    quant::encode(entry.dtype, &rows, None, &mut bytes).map_err(|e| e.to_string())?;
    let row_bytes = bytes.len() / distinct;
    while remaining > 0 {
        let n = remaining.min(distinct);
        push(writer, &bytes[..n * row_bytes])?;
        remaining -= n;
        // Another order each time, so that no two neighbours repeat.
        let shift = row_bytes * 7 % bytes.len();
        bytes.rotate_left(shift);
    }
    Ok(())
}

/// A number of about unit variance: the sum of four uniform ones. The generator is SplitMix64.
fn normal(seed: &mut u64) -> f32 {
    let mut sum = 0.0;
    for _ in 0..4 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        sum += ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32 - 0.5;
    }
    sum * 3f32.sqrt()
}
