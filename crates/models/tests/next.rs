//! A model's own layer for further tokens drafts for it: texts are those without it, token by token.

mod drafting;

use std::path::Path;
use std::sync::atomic::Ordering;

use mlxr_compute::DType;
use mlxr_compute::op::KvType;
use mlxr_compute::scalar::Scalar;
use mlxr_engine::{Config, Draft, Engine, Parts, Reads, TokenId};
use mlxr_models::{Arena, LoadOptions, load, load_next};
use mlxr_testing::Temp;
use mlxr_weights::gguf::{Entry, Metadata, Value, Writer};

use drafting::texts_of_five;

/// Texts of five sequences at once, and how many tokens were drafted for them.
fn texts(folder: &Path, temperature: f32, max_draft: usize) -> (Vec<Vec<TokenId>>, u64) {
    let options = LoadOptions { kv_type: KvType::F32, arena: Arena::Tokens(1024), ..LoadOptions::default() };
    let checkpoint = mlxr_weights::open(folder).expect("a checkpoint");
    let runner = Box::new(load(&checkpoint, Scalar, &options, &mut |_| ()).expect("the model loads"));
    let next = load_next(&checkpoint, Scalar, &options).expect("the layer loads").expect("it is there");
    let draft = Some(Draft { runner: Box::new(next), reads: Reads::Hidden(Vec::new()) });
    let config = Config { max_draft, ..Config::default() };
    let engine = Engine::spawn(Parts { runner, draft, disk: None, held: None }, config).expect("valid limits");
    let texts = texts_of_five(&engine, (temperature, 60), |at, i| 3 + (at * 5 + i) % 90);
    let n_draft = engine.metrics().spec_decode_num_draft_tokens.load(Ordering::Relaxed);
    engine.shutdown();
    (texts, n_draft)
}

#[test]
fn texts_are_the_same_with_drafts_of_the_models_own_layer() {
    for name in ["deepseek-v3-mtp", "glm4-moe-mtp"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mtp").join(name);
        for temperature in [0.0, 1.0] {
            let (want, none) = texts(&folder, temperature, 0);
            let (found, n_draft) = texts(&folder, temperature, 8);
            assert_eq!((none, want.iter().all(|text| text.len() == 60)), (0, true));
            assert!(found == want && n_draft > 0, "{name} at {temperature}: {n_draft} drafted");
        }
    }
}

/// Names in GGUF of a Hugging Face file's tensors, of the model and of a layer.
const ROOT: [[&str; 2]; 3] = [
    ["model.embed_tokens.weight", "token_embd.weight"],
    ["model.norm.weight", "output_norm.weight"],
    ["lm_head.weight", "output.weight"],
];
const LAYER: [[&str; 2]; 25] = [
    ["input_layernorm.weight", "attn_norm.weight"],
    ["post_attention_layernorm.weight", "post_attention_norm.weight"],
    ["self_attn.q_proj.weight", "attn_q.weight"],
    ["self_attn.k_proj.weight", "attn_k.weight"],
    ["self_attn.v_proj.weight", "attn_v.weight"],
    ["self_attn.o_proj.weight", "attn_output.weight"],
    ["self_attn.q_norm.weight", "attn_q_norm.weight"],
    ["self_attn.k_norm.weight", "attn_k_norm.weight"],
    ["mlp.gate_proj.weight", "ffn_gate.weight"],
    ["mlp.up_proj.weight", "ffn_up.weight"],
    ["mlp.down_proj.weight", "ffn_down.weight"],
    ["mlp.gate.weight", "ffn_gate_inp.weight"],
    ["mlp.gate.e_score_correction_bias", "exp_probs_b.bias"],
    ["mlp.experts.N.gate_proj.weight", "ffn_gate_exps.weight"],
    ["mlp.experts.N.up_proj.weight", "ffn_up_exps.weight"],
    ["mlp.experts.N.down_proj.weight", "ffn_down_exps.weight"],
    ["mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"],
    ["mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"],
    ["mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"],
    ["eh_proj.weight", "nextn.eh_proj.weight"],
    ["enorm.weight", "nextn.enorm.weight"],
    ["hnorm.weight", "nextn.hnorm.weight"],
    ["shared_head.norm.weight", "nextn.shared_head_norm.weight"],
    ["shared_head.head.weight", "nextn.shared_head_head.weight"],
    ["embed_tokens.weight", "nextn.embed_tokens.weight"],
];
const N_LAYER: usize = 3;
const N_EXPERT: usize = 4;

/// What GGUF says of it.
fn metadata(path: &Path) -> Metadata {
    let mut metadata = Metadata::new(path);
    metadata.set("general.architecture", Value::Str("glm4moe".into()));
    let counts = [
        ("block_count", N_LAYER),
        ("nextn_predict_layers", 1),
        ("context_length", 128),
        ("embedding_length", 32),
        ("feed_forward_length", 48),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("rope.dimension_count", 8),
        ("leading_dense_block_count", 1),
        ("expert_count", N_EXPERT),
        ("expert_used_count", 2),
        ("expert_shared_count", 1),
        ("expert_feed_forward_length", 32),
        ("expert_group_count", 1),
        ("expert_group_used_count", 1),
        ("expert_gating_func", 2),
        ("vocab_size", 96),
    ];
    for (key, n) in counts {
        metadata.set(&format!("glm4moe.{key}"), Value::U32(n as u32));
    }
    let numbers =
        [("attention.layer_norm_rms_epsilon", 1e-5), ("rope.freq_base", 10_000.0), ("expert_weights_scale", 1.5)];
    for (key, number) in numbers {
        metadata.set(&format!("glm4moe.{key}"), Value::F32(number));
    }
    metadata.set("glm4moe.expert_weights_norm", Value::Bool(true));
    metadata
}

/// Writes a Hugging Face checkpoint of that architecture as llama.cpp's converter does, in f32.
fn to_gguf(folder: &Path, path: &Path) {
    let checkpoint = mlxr_weights::open(folder).expect("a checkpoint");
    let layers = (0..N_LAYER)
        .flat_map(|i| LAYER.map(|[from, to]| (format!("model.layers.{i}.{from}"), format!("blk.{i}.{to}"))));
    let root = ROOT.map(|[from, to]| (from.to_owned(), to.to_owned()));
    let mut tensors = Vec::new();
    let mut n_read = 0;
    for (from, to) in root.into_iter().chain(layers) {
        let experts = if from.contains(".N.") { N_EXPERT } else { 1 };
        let names = (0..experts).map(|i| from.replace(".N.", &format!(".{i}.")));
        let parts: Vec<_> = names.filter_map(|name| checkpoint.vector(&name).expect("it is read")).collect();
        let Some((shape, _)) = parts.first() else { continue };
        n_read += parts.len();
        let stack = if experts > 1 { vec![experts] } else { vec![] };
        let entry = Entry { name: to, dtype: DType::F32, shape: [&stack[..], shape].concat() };
        tensors.push((entry, parts.iter().flat_map(|(_, numbers)| numbers.clone()).collect::<Vec<f32>>()));
    }
    assert_eq!(n_read, checkpoint.tensors().len(), "every tensor has a name in GGUF");
    let entries: Vec<Entry> = tensors.iter().map(|(entry, _)| entry.clone()).collect();
    let mut writer = Writer::create(path, &metadata(path), &entries).expect("it can be written");
    for (_, numbers) in &tensors {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        writer.push(&bytes).expect("it can be written");
    }
    writer.finish().expect("it is whole");
}

#[test]
fn the_same_layer_drafts_from_gguf() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mtp/glm4-moe-mtp");
    let home = Temp::new("next");
    let file = home.0.join("model.gguf");
    to_gguf(&folder, &file);
    for temperature in [0.0, 1.0] {
        let (want, n_draft) = texts(&folder, temperature, 8);
        assert_eq!(texts(&file, temperature, 0), (want.clone(), 0));
        let (found, of_gguf) = texts(&file, temperature, 8);
        assert!(
            found == want && n_draft > 0 && of_gguf > 0,
            "at {temperature}: {of_gguf} drafted, {n_draft} from the folder"
        );
    }
}
