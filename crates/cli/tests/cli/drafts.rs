//! What was trained to draft for a model, by its folder on the command line, as the daemon takes it.

use std::path::Path;

use mlxr_compute::DType;
use mlxr_weights::safetensors::{Entry, Writer};
use serde_json::{Value, json};

use crate::common::{Temp, fixtures, mlx_run};
use crate::daemon::Daemon;

/// Of the stories' model.
const D_MODEL: usize = 64;
const D_FF: usize = 172;
const D_KV: usize = 32;
const N_VOCAB: usize = 512;

/// A tensor's name and shape, and its numbers by row and column.
type Tensor = (&'static str, [usize; 2], fn(usize, usize) -> f32);

/// Writes a checkpoint: matrices, and vectors where a shape has one row of norms.
fn write(folder: &Path, config: &Value, tensors: &[Tensor]) {
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("it can be written");
    let entry = |(name, [n_row, n_col], _): &Tensor| {
        let shape = if *n_row == 1 { vec![*n_col] } else { vec![*n_row, *n_col] };
        Entry { name: (*name).to_owned(), dtype: DType::F32, shape }
    };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    let mut writer = Writer::create(&folder.join("model.safetensors"), &[], &entries).expect("it can be written");
    for (_, [n_row, n_col], number) in tensors {
        let numbers = (0..n_row * n_col).map(|i| number(i / n_col, i % n_col));
        writer.push(&numbers.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()).expect("it can be written");
    }
    writer.finish().expect("it is whole");
}

fn zero(_: usize, _: usize) -> f32 {
    0.0
}

fn one(_: usize, _: usize) -> f32 {
    1.0
}

/// The embedding, of an embedding and a hidden state.
fn first(row: usize, col: usize) -> f32 {
    f32::from(u8::from(row == col))
}

/// What an EAGLE layer says of itself.
fn config(class: &str) -> Value {
    json!({
        "architectures": [class], "model_type": "llama", "hidden_act": "silu", "hidden_size": D_MODEL,
        "intermediate_size": D_FF, "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 4,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "vocab_size": N_VOCAB,
    })
}

/// An EAGLE layer that hands the embedding on.
fn eagle(folder: &Path) {
    let tensors: [Tensor; 9] = [
        ("fc.weight", [D_MODEL, 2 * D_MODEL], first),
        ("layers.0.self_attn.q_proj.weight", [D_MODEL, D_MODEL], zero),
        ("layers.0.self_attn.k_proj.weight", [D_KV, D_MODEL], zero),
        ("layers.0.self_attn.v_proj.weight", [D_KV, D_MODEL], zero),
        ("layers.0.self_attn.o_proj.weight", [D_MODEL, D_MODEL], zero),
        ("layers.0.mlp.gate_proj.weight", [D_FF, D_MODEL], zero),
        ("layers.0.mlp.up_proj.weight", [D_FF, D_MODEL], zero),
        ("layers.0.mlp.down_proj.weight", [D_MODEL, D_FF], zero),
        ("layers.0.post_attention_layernorm.weight", [1, D_MODEL], one),
    ];
    write(folder, &config("LlamaForCausalLM"), &tensors);
}

/// An EAGLE 3 layer that hands on what comes to the first of three layers.
fn eagle_3(folder: &Path) {
    let tensors: [Tensor; 13] = [
        ("fc.weight", [D_MODEL, 3 * D_MODEL], first),
        ("midlayer.self_attn.q_proj.weight", [D_MODEL, 2 * D_MODEL], zero),
        ("midlayer.self_attn.k_proj.weight", [D_KV, 2 * D_MODEL], zero),
        ("midlayer.self_attn.v_proj.weight", [D_KV, 2 * D_MODEL], zero),
        ("midlayer.self_attn.o_proj.weight", [D_MODEL, D_MODEL], zero),
        ("midlayer.mlp.gate_proj.weight", [D_FF, D_MODEL], zero),
        ("midlayer.mlp.up_proj.weight", [D_FF, D_MODEL], zero),
        ("midlayer.mlp.down_proj.weight", [D_MODEL, D_FF], zero),
        ("midlayer.input_layernorm.weight", [1, D_MODEL], one),
        ("midlayer.hidden_norm.weight", [1, D_MODEL], one),
        ("midlayer.post_attention_layernorm.weight", [1, D_MODEL], one),
        ("norm.weight", [1, D_MODEL], one),
        ("lm_head.weight", [N_VOCAB, D_MODEL], first),
    ];
    let mut config = config("LlamaForCausalLMEagle3");
    config["eagle_aux_hidden_state_layer_ids"] = json!([1, 2, 4]);
    write(folder, &config, &tensors);
}

/// Two Medusa heads for a model of so many tokens.
fn medusa(folder: &Path, n_vocab: usize) {
    let tensors: [Tensor; 4] = [
        ("medusa_head.0.0.linear.weight", [D_MODEL, D_MODEL], zero),
        ("medusa_head.0.1.weight", [n_vocab, D_MODEL], first),
        ("medusa_head.1.0.linear.weight", [D_MODEL, D_MODEL], zero),
        ("medusa_head.1.1.weight", [n_vocab, D_MODEL], first),
    ];
    write(folder, &json!({"medusa_num_heads": 2, "medusa_num_layers": 1}), &tensors);
}

#[test]
fn folders_of_heads_and_models_draft_for_the_daemon() {
    let Some(fixtures) = fixtures() else { return };
    let (home, models) = (Temp::new("drafts"), fixtures.join("stories260k"));
    let story = std::fs::read_to_string(models.join("greedy-200.txt")).expect("text");
    let folder = |name: &str| home.0.join(name);
    eagle(&folder("eagle"));
    eagle_3(&folder("eagle-3"));
    medusa(&folder("medusa"), N_VOCAB);
    // So few tokens repeat nothing that could be looked up: what is drafted comes from the folder.
    let body = |model: &str| json!({"model": model, "prompt": "", "temperature": 0, "max_tokens": 16});
    let path = |name: &str| folder(name).to_str().expect("text").to_owned();
    let drafts = [None, Some(path("eagle")), Some(path("eagle-3")), Some(path("medusa")), Some("hf".to_owned())];
    for (draft, model) in drafts.iter().flat_map(|draft| [(draft, "stories260K-f32"), (draft, "hf")]) {
        let flags: Vec<&str> = draft.iter().flat_map(|draft| ["--draft", draft]).collect();
        let daemon = Daemon::start_with(&home, &models, &[&["--no-disk", "--kv-type", "f32"], &flags[..]].concat());
        let text = daemon.post("/v1/completions", &body(model))["choices"][0]["text"].to_string();
        let text = text.trim_matches('"');
        assert!(text.len() > 20 && story.starts_with(text), "{draft:?} for {model}: {text}");
        let [drafted, accepted] =
            ["draft", "accepted"].map(|name| daemon.count(&format!("vllm:spec_decode_num_{name}_tokens_total")));
        assert_eq!(drafted > 0.0, draft.is_some(), "{draft:?} for {model}: {drafted} drafted");
        // A model is always right about itself.
        assert!(draft.as_deref() != Some("hf") || accepted == drafted, "{accepted} of {drafted}");
    }
}

#[test]
fn heads_that_do_not_fit_are_refused_by_name() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("misfits");
    medusa(&home.0.join("medusa"), N_VOCAB / 2);
    let rows = [
        (home.file("medusa"), "medusa_head.0.1.weight"),
        (home.file("nothing"), "nothing"),
        ("mtp".to_owned(), "no layers that predict further tokens"),
    ];
    let model = fixtures.join("stories260k/hf").to_str().expect("text").to_owned();
    for (draft, want) in rows {
        let args = ["run", &model, "--raw", "--max-tokens", "2", "--draft", &draft, "Once"];
        let output = mlx_run(&home, &args).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(want), "{draft}: {stderr}");
    }
}
