//! A model that would be computed as something else is refused, with words that say what was found.

use std::path::PathBuf;

use mlxr_compute::DType;
use mlxr_compute::scalar::Scalar;
use mlxr_models::{Arena, LoadOptions};
use mlxr_weights::gguf::{Entry, Metadata, Value, Writer};

/// Width of the models here; their other dimensions differ from it, so that none can pass for another.
const D_MODEL: usize = 8;
const D_FF: usize = 12;
const N_VOCAB: usize = 10;

/// A LLaMA of one layer with weights of one eighth, and what a case makes of it.
struct Tiny {
    name: &'static str,
    arch: &'static str,
    /// Keys below `{arch}.`, besides those of a LLaMA.
    keys: Vec<(&'static str, Value)>,
    /// Tensors besides those of a LLaMA.
    more: Vec<(&'static str, Vec<usize>)>,
    /// A tensor that is left out.
    without: &'static str,
}

impl Tiny {
    fn new(name: &'static str, arch: &'static str) -> Tiny {
        Tiny { name, arch, keys: Vec::new(), more: Vec::new(), without: "" }
    }

    fn key(mut self, key: &'static str, value: Value) -> Tiny {
        self.keys.push((key, value));
        self
    }

    fn tensor(mut self, name: &'static str, shape: &[usize]) -> Tiny {
        self.more.push((name, shape.to_vec()));
        self
    }

    fn without(mut self, name: &'static str) -> Tiny {
        self.without = name;
        self
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(&self.path());
        metadata.set("general.architecture", Value::Str(self.arch.into()));
        let number = |n: usize| Value::U32(n as u32);
        let keys = [
            ("block_count", number(1)),
            ("context_length", number(64)),
            ("embedding_length", number(D_MODEL)),
            ("feed_forward_length", number(D_FF)),
            ("attention.head_count", number(2)),
            ("attention.head_count_kv", number(1)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ];
        for (key, value) in keys.iter().chain(&self.keys) {
            metadata.set(&format!("{}.{key}", self.arch), value.clone());
        }
        metadata
    }

    fn entries(&self) -> Vec<Entry> {
        let d_kv = D_MODEL / 2;
        let shapes: [(&str, &[usize]); 12] = [
            ("token_embd.weight", &[N_VOCAB, D_MODEL]),
            ("output_norm.weight", &[D_MODEL]),
            ("output.weight", &[N_VOCAB, D_MODEL]),
            ("blk.0.attn_norm.weight", &[D_MODEL]),
            ("blk.0.attn_q.weight", &[D_MODEL, D_MODEL]),
            ("blk.0.attn_k.weight", &[d_kv, D_MODEL]),
            ("blk.0.attn_v.weight", &[d_kv, D_MODEL]),
            ("blk.0.attn_output.weight", &[D_MODEL, D_MODEL]),
            ("blk.0.ffn_norm.weight", &[D_MODEL]),
            ("blk.0.ffn_gate.weight", &[D_FF, D_MODEL]),
            ("blk.0.ffn_up.weight", &[D_FF, D_MODEL]),
            ("blk.0.ffn_down.weight", &[D_MODEL, D_FF]),
        ];
        let own = shapes.iter().map(|(name, shape)| (*name, shape.to_vec()));
        let all = own.chain(self.more.iter().cloned()).filter(|(name, _)| *name != self.without);
        all.map(|(name, shape)| Entry { name: name.to_owned(), dtype: DType::F32, shape }).collect()
    }

    fn path(&self) -> PathBuf {
        std::env::temp_dir().join(format!("mlxr-models-{}-{}.gguf", self.name, std::process::id()))
    }

    /// Writes the file, loads it and removes it; the error's words, if any.
    fn load(&self) -> Result<(), String> {
        let (path, entries) = (self.path(), self.entries());
        let mut writer = Writer::create(&path, &self.metadata(), &entries).expect("the file can be written");
        for entry in &entries {
            let n: usize = entry.shape.iter().product();
            writer.push(&0.125f32.to_le_bytes().repeat(n)).expect("the tensor fits");
        }
        writer.finish().expect("the file is whole");
        let checkpoint = mlxr_weights::open(&path).expect("the file opens");
        let options = LoadOptions { arena: Arena::Tokens(64), ..LoadOptions::default() };
        let loaded = mlxr_models::load(&checkpoint, Scalar, &options, &mut |_| ());
        std::fs::remove_file(&path).expect("the file can be removed");
        loaded.map(|_| ()).map_err(|e| e.to_string())
    }
}

/// What each error must say.
fn cases() -> Vec<(Tiny, &'static str)> {
    let flag = |on: u32| Value::U32(on);
    vec![
        (
            Tiny::new("refact", "refact").key("expert_count", flag(2)).key("expert_used_count", flag(2)),
            "it has 2 experts, which no model of this architecture has",
        ),
        (Tiny::new("diffusion", "dream"), "`dream` is a diffusion model, which does not write text token by token"),
        (Tiny::new("encoder", "bert"), "`bert` is an encoder"),
        (Tiny::new("loops", "llama").key("num_loops", flag(2)), "`llama.num_loops` is 2, which needs layers that run"),
        (
            Tiny::new("clamps", "llama").key("swiglu_clamp_exp", Value::F32(7.0)),
            "`llama.swiglu_clamp_exp` is 7, which needs clamped activations",
        ),
        (
            Tiny::new("causal", "llama").key("attention.causal", Value::Bool(false)),
            "`llama.attention.causal` is 0, which needs attention that sees later tokens",
        ),
        (
            Tiny::new("leftover", "llama").tensor("blk.0.hc_attn_fn.weight", &[D_MODEL]),
            "1 tensors of its layers are not understood, such as `blk.0.hc_attn_fn.weight`",
        ),
        (Tiny::new("missing", "llama").without("blk.0.ffn_down.weight"), "no tensor for"),
        (
            Tiny::new("unknown", "invented").without("blk.0.attn_norm.weight"),
            "architecture `invented` is not known, and its tensors fit no known pattern: no a norm before attention",
        ),
        (
            Tiny::new("strange", "invented").tensor("blk.0.hc_attn_fn.weight", &[D_MODEL]),
            "architecture `invented` is not known",
        ),
    ]
}

#[test]
fn what_is_not_understood_is_refused() {
    for (tiny, says) in cases() {
        let error = tiny.load().expect_err(tiny.name);
        assert!(error.contains(says), "{}: {error}", tiny.name);
        assert!(error.contains(&tiny.path().display().to_string()), "{}: the file is named: {error}", tiny.name);
    }
}

/// The same files without what made them strange load, under a known name and an unknown one, and neutral values of the
/// refused keys change nothing.
#[test]
fn what_is_understood_loads() {
    let neutral =
        Tiny::new("neutral", "llama").key("num_loops", Value::U32(1)).key("attention.causal", Value::Bool(true));
    for tiny in
        [Tiny::new("plain", "llama"), Tiny::new("plain-refact", "refact"), Tiny::new("generic", "invented"), neutral]
    {
        tiny.load().unwrap_or_else(|e| panic!("{}: {e}", tiny.name));
    }
}
