//! Checkpoints that other programs have quantized, as input: each matrix becomes what its format's definition says.

use std::collections::BTreeMap;
use std::path::Path;

use mlxr_compute::DType;
use mlxr_mlx::{Kernels, Mlx, Precision, find};
use mlxr_models::convert::{self, Form};
use mlxr_tools::convert::{folder, gguf};
use mlxr_weights::safetensors::{Entry, Writer};
use serde_json::{Value, json};

use crate::common::{Temp, logits, logits_on, nmse};

const D_MODEL: usize = 64;
const D_FF: usize = 128;
const N_VOCAB: usize = 96;
const N_LAYER: usize = 2;
const GROUP: usize = 32;

/// How a matrix is packed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Packing {
    /// Bits, whether columns are out of order, whether all zeros are the middle.
    Gptq(usize, bool, bool),
    Awq,
    /// With a scale for each tile of 32 x 32, or one for all.
    Fp8(bool),
    /// With absmax in f32, or quantized itself.
    Nf4(bool),
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn next(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    /// A number that f16 has exactly, of about this size.
    fn near(&mut self, size: f32) -> f32 {
        size * (1.0 + self.next(64) as f32 / 64.0)
    }
}

/// The tensors of a file.
#[derive(Default)]
struct File(Vec<(Entry, Vec<u8>)>);

impl File {
    fn push(&mut self, name: String, dtype: DType, shape: &[usize], bytes: Vec<u8>) {
        self.0.push((Entry { name, dtype, shape: shape.to_vec() }, bytes));
    }

    fn floats(&mut self, name: String, shape: &[usize], numbers: &[f32]) {
        self.push(name, DType::F32, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
    }

    fn halves(&mut self, name: String, shape: &[usize], numbers: &[f32]) {
        let mut bytes = Vec::new();
        mlxr_compute::quant::encode(DType::F16, numbers, None, &mut bytes).expect("numbers that f16 has");
        self.push(name, DType::F16, shape, bytes);
    }

    fn words(&mut self, name: String, shape: &[usize], words: &[u32]) {
        self.push(name, DType::I32, shape, words.iter().flat_map(|x| x.to_le_bytes()).collect());
    }
}

/// Codes of `bits` bits, a stream of words.
fn stream(codes: impl Iterator<Item = usize>, bits: usize) -> Vec<u32> {
    let (mut words, mut at) = (Vec::new(), 0);
    for code in codes {
        for bit in 0..bits {
            if at % 32 == 0 {
                words.push(0);
            }
            *words.last_mut().expect("there is one") |= ((code >> bit & 1) as u32) << (at % 32);
            at += 1;
        }
    }
    words
}

/// The value of an e4m3 code. Source: arXiv:2209.05433, section 3.
fn e4m3(code: usize) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 15, (code & 7) as f32);
    let size = match exponent {
        0 => mantissa / 8.0 * (-6f32).exp2(),
        e => (1.0 + mantissa / 8.0) * (e as f32 - 7.0).exp2(),
    };
    if code & 128 > 0 { -size } else { size }
}

/// A matrix that is to be packed.
struct Packer<'a> {
    file: &'a mut File,
    random: &'a mut Random,
    stem: String,
    shape: [usize; 2],
    /// About as large as a weight; a power of two.
    size: f32,
}

impl Packer<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.stem)
    }

    fn codes(&mut self, n: usize, top: usize) -> Vec<usize> {
        (0..n).map(|_| self.random.next(top)).collect()
    }

    fn scales(&mut self, n: usize, size: f32) -> Vec<f32> {
        (0..n).map(|_| self.random.near(size)).collect()
    }

    /// The weights by row and column.
    fn weights(&self, weight: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let [n_out, n_in] = self.shape;
        (0..n_out).flat_map(|o| (0..n_in).map(move |i| (o, i))).map(|(o, i)| weight(o, i)).collect()
    }

    fn pack(&mut self, packing: Packing) -> Vec<f32> {
        match packing {
            Packing::Gptq(bits, disordered, middle) => self.gptq(bits, disordered, middle),
            Packing::Awq => self.awq(),
            Packing::Fp8(tiled) => self.fp8(tiled),
            Packing::Nf4(nested) => self.nf4(nested),
        }
    }

    fn gptq(&mut self, bits: usize, disordered: bool, middle: bool) -> Vec<f32> {
        let ([n_out, n_in], top) = (self.shape, 1 << bits);
        let n_group = n_in / GROUP;
        let codes = self.codes(n_out * n_in, top); // [n_out, n_in]
        let zeros = self.codes(n_group * n_out, top - 1).into_iter().map(|z| if middle { top / 2 } else { z + 1 });
        let zeros: Vec<usize> = zeros.collect();
        let scales = self.scales(n_group * n_out, self.size / top as f32);
        let group = |i: usize| if disordered { (i * 7 + 3) % n_in / GROUP } else { i / GROUP };
        let per_word = 32 / bits;
        let mut qweight = vec![0u32; n_in / per_word * n_out];
        for (o, i) in (0..n_out).flat_map(|o| (0..n_in).map(move |i| (o, i))) {
            qweight[i / per_word * n_out + o] |= (codes[o * n_in + i] << (i % per_word * bits)) as u32;
        }
        self.file.words(self.name("qweight"), &[n_in / per_word, n_out], &qweight);
        // Version 1 stores zeros less one.
        let qzeros = stream(zeros.iter().map(|z| z - 1), bits);
        self.file.words(self.name("qzeros"), &[n_group, n_out * bits / 32], &qzeros);
        self.file.halves(self.name("scales"), &[n_group, n_out], &scales);
        self.file.words(self.name("g_idx"), &[n_in], &(0..n_in).map(|i| group(i) as u32).collect::<Vec<_>>());
        self.weights(|o, i| {
            let g = group(i) * n_out + o;
            scales[g] * (codes[o * n_in + i] as f32 - zeros[g] as f32)
        })
    }

    fn awq(&mut self) -> Vec<f32> {
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let [n_out, n_in] = self.shape;
        let n_group = n_in / GROUP;
        let (codes, zeros) = (self.codes(n_in * n_out, 16), self.codes(n_group * n_out, 16)); // [n_in, n_out]
        let scales = self.scales(n_group * n_out, self.size / 16.0);
        let words = |codes: &[usize]| {
            let word = |eight: &[usize]| (0..8).fold(0, |w, n| w | (eight[ORDER[n]] as u32) << (4 * n));
            codes.chunks_exact(8).map(word).collect::<Vec<u32>>()
        };
        self.file.words(self.name("qweight"), &[n_in, n_out / 8], &words(&codes));
        self.file.words(self.name("qzeros"), &[n_group, n_out / 8], &words(&zeros));
        self.file.halves(self.name("scales"), &[n_group, n_out], &scales);
        self.weights(|o, i| {
            let g = i / GROUP * n_out + o;
            scales[g] * (codes[i * n_out + o] as f32 - zeros[g] as f32)
        })
    }

    fn fp8(&mut self, tiled: bool) -> Vec<f32> {
        let [n_out, n_in] = self.shape;
        let codes: Vec<usize> = self.codes(n_out * n_in, 240).into_iter().map(|c| c % 120 + c / 120 * 128).collect();
        let tiles = if tiled { [n_out.div_ceil(GROUP), n_in.div_ceil(GROUP)] } else { [1, 1] };
        let scales = self.scales(tiles[0] * tiles[1], self.size / 256.0);
        let bytes = codes.iter().map(|c| *c as u8).collect();
        self.file.push(self.name("weight"), DType::F8E4M3, &[n_out, n_in], bytes);
        let shape: &[usize] = if tiled { &tiles } else { &[] };
        self.file.floats(self.name(if tiled { "weight_scale_inv" } else { "weight_scale" }), shape, &scales);
        let tile = |o: usize, i: usize| if tiled { o / GROUP * tiles[1] + i / GROUP } else { 0 };
        self.weights(|o, i| e4m3(codes[o * n_in + i]) * scales[tile(o, i)])
    }

    fn nf4(&mut self, nested: bool) -> Vec<f32> {
        const BLOCK: usize = 64;
        const NESTED: usize = 16;
        const OFFSET: f32 = 0.125;
        let [n_out, n_in] = self.shape;
        let codes = self.codes(n_out * n_in, 16);
        let map: Vec<f32> = (0..16).map(|q| (q as f32 - 7.0) / 8.0).collect();
        let n_block = codes.len() / BLOCK;
        let bytes = codes.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
        self.file.push(self.name("weight"), DType::U8, &[codes.len() / 2, 1], bytes);
        self.file.floats(self.name("weight.quant_map"), &[16], &map);
        let mut state = json!({"quant_type": "nf4", "blocksize": BLOCK, "dtype": "float32", "shape": [n_out, n_in]});
        let absmax = if nested {
            let outer = self.scales(n_block.div_ceil(NESTED), self.size);
            let values: Vec<f32> = (0..256).map(|c| c as f32 / 256.0).collect();
            let codes = self.codes(n_block, 256);
            let bytes = codes.iter().map(|c| *c as u8).collect();
            self.file.push(self.name("weight.absmax"), DType::U8, &[n_block], bytes);
            self.file.floats(self.name("weight.nested_absmax"), &[outer.len()], &outer);
            self.file.floats(self.name("weight.nested_quant_map"), &[256], &values);
            state["nested_blocksize"] = NESTED.into();
            state["nested_offset"] = OFFSET.into();
            codes.iter().enumerate().map(|(k, c)| values[*c] * outer[k / NESTED] + OFFSET).collect()
        } else {
            let absmax = self.scales(n_block, self.size);
            self.file.floats(self.name("weight.absmax"), &[n_block], &absmax);
            absmax
        };
        let state = state.to_string().into_bytes();
        self.file.push(self.name("weight.quant_state.bitsandbytes__nf4"), DType::U8, &[state.len()], state);
        codes.iter().enumerate().map(|(i, q)| map[*q] * absmax[i / BLOCK]).collect()
    }
}

fn quantization(packing: Packing) -> Value {
    match packing {
        Packing::Gptq(bits, disordered, _) => {
            json!({"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": disordered})
        }
        Packing::Awq => json!({"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}),
        Packing::Fp8(true) => json!({"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]}),
        Packing::Fp8(false) => json!({"quant_method": "fp8"}),
        Packing::Nf4(_) => json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
    }
}

/// Writes a model whose linear layers are packed so; the weights of each.
fn model(folder: &Path, packing: Packing) -> BTreeMap<String, Vec<f32>> {
    let mut random = Random(7);
    let mut file = File::default();
    let mut weights = BTreeMap::new();
    let plain =
        |random: &mut Random, n: usize| (0..n).map(|_| (random.next(256) as f32 - 128.0) / 128.0).collect::<Vec<f32>>();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        file.floats(name.into(), &[N_VOCAB, D_MODEL], &plain(&mut random, N_VOCAB * D_MODEL));
    }
    file.floats("model.norm.weight".into(), &[D_MODEL], &vec![1.0; D_MODEL]);
    for i in 0..N_LAYER {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            let ones: Vec<f32> = plain(&mut random, D_MODEL).iter().map(|x| 1.0 + x / 4.0).collect();
            file.floats(format!("model.layers.{i}.{norm}.weight"), &[D_MODEL], &ones);
        }
        for (name, shape) in [
            ("self_attn.q_proj", [D_MODEL, D_MODEL]),
            ("self_attn.k_proj", [D_MODEL / 2, D_MODEL]),
            ("self_attn.v_proj", [D_MODEL / 2, D_MODEL]),
            ("self_attn.o_proj", [D_MODEL, D_MODEL]),
            ("mlp.gate_proj", [D_FF, D_MODEL]),
            ("mlp.up_proj", [D_FF, D_MODEL]),
            ("mlp.down_proj", [D_MODEL, D_FF]),
        ] {
            let stem = format!("model.layers.{i}.{name}");
            let size = (-(shape[1].ilog2() as f32 / 2.0).ceil()).exp2();
            let (file, random) = (&mut file, &mut random);
            let values = Packer { file, random, stem: stem.clone(), shape, size }.pack(packing);
            weights.insert(stem, values);
        }
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D_MODEL,
        "intermediate_size": D_FF, "num_hidden_layers": N_LAYER, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": N_VOCAB, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        "quantization_config": quantization(packing),
    });
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("it can be written");
    let entries: Vec<Entry> = file.0.iter().map(|(entry, _)| entry.clone()).collect();
    let mut writer = Writer::create(&folder.join("model.safetensors"), &[], &entries).expect("it can be written");
    file.0.iter().for_each(|(_, bytes)| writer.push(bytes).expect("it can be written"));
    writer.finish().expect("it is whole");
    weights
}

/// The weights of a stem of a checkpoint.
fn weights(path: &Path, stem: &str) -> Vec<f32> {
    let checkpoint = mlxr_weights::open(path).expect("it was written");
    let matrix = checkpoint.matrix(stem).expect("it is whole").expect("it is there");
    let mut weights = vec![0.0; matrix.n_out * matrix.n_in];
    matrix.decode_rows(0, matrix.n_out, &mut weights);
    weights
}

const PACKINGS: [Packing; 9] = [
    Packing::Gptq(4, false, false),
    Packing::Gptq(4, false, true),
    Packing::Gptq(4, true, false),
    Packing::Gptq(8, false, true),
    Packing::Awq,
    Packing::Fp8(true),
    Packing::Fp8(false),
    Packing::Nf4(false),
    Packing::Nf4(true),
];

/// Stems in a GGUF file of matrices whose rows lie as they did.
const AS_THEY_ARE: [(&str, &str); 5] = [
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

#[test]
fn as_gguf_they_have_the_values_of_their_definition() {
    let temp = Temp::new("inputs-gguf");
    let (source, out) = (temp.0.join("source"), temp.0.join("model.gguf"));
    for packing in PACKINGS {
        let want = model(&source, packing);
        for (stem, values) in &want {
            assert!(weights(&source, stem) == *values, "{packing:?}: {stem} is loaded otherwise");
        }
        let before = logits(&source).expect("a model");
        let rows = [
            (gguf::Type::Of(DType::F32), 0.0, 1e-12),
            (gguf::Type::Of(DType::F16), 5e-4, 1e-6),
            (gguf::Type::Of(DType::Q8_0), 5e-3, 1e-3),
            (gguf::Type::Keep(DType::Q8_0), 5e-3, 1e-3),
        ];
        for (kind, near, limit) in rows {
            let checkpoint = mlxr_weights::open(&source).expect("a folder");
            let plan = convert::plan(&checkpoint, Form::Gguf).expect("a plan");
            let report = gguf::write(&checkpoint, plan, (&out, kind, 2), &[], &mut |_| ()).expect("it is written");
            for (i, (hf, stem)) in (0..N_LAYER).flat_map(|i| AS_THEY_ARE.map(|names| (i, names))) {
                let values = &want[&format!("model.layers.{i}.{hf}")];
                let got = weights(&out, &format!("blk.{i}.{stem}"));
                let largest = values.iter().fold(0f32, |a, b| a.max(b.abs()));
                let off = got.iter().zip(values).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
                assert!(off <= near * largest, "{packing:?} {kind:?} {stem} {i}: off by {off} of {largest}");
            }
            let error = nmse(&logits(&out).expect("a model"), &before);
            assert!(error < limit, "{packing:?} {kind:?}: nmse {error:.1e} {:?}", report.tensors);
            let exact = report.tensors.keys().any(|text| text.starts_with("gptq") && text.ends_with("-> q4_0, exact"));
            let repacks = packing == Packing::Gptq(4, false, true) && kind == gguf::Type::Keep(DType::Q8_0);
            assert_eq!(exact, repacks, "{packing:?} {kind:?}: {:?}", report.tensors);
        }
        std::fs::remove_dir_all(&source).expect("it is there");
    }
}

#[test]
fn as_folders_they_have_the_values_of_their_definition() {
    let temp = Temp::new("inputs-folder");
    let (source, out) = (temp.0.join("source"), temp.0.join("out"));
    for packing in PACKINGS {
        let want = model(&source, packing);
        let before = logits(&source).expect("a model");
        let f32 = folder::Scheme::Plain(Some(DType::F32));
        // MLX has the codes of GPTQ and AWQ, but for act-order; and here f16 has all products of zeros and scales.
        let repacks = matches!(packing, Packing::Gptq(_, false, _) | Packing::Awq);
        let (near, limit) = if repacks { (0.0, 1e-12) } else { (1.5e-1, 5e-2) };
        let rows = [
            (Form::HuggingFace, f32, 0.0, 1e-12),
            (Form::Mlx, f32, 0.0, 1e-12),
            (Form::Mlx, folder::Scheme::MlxKeep, near, limit),
        ];
        for (form, scheme, near, limit) in rows {
            let checkpoint = mlxr_weights::open(&source).expect("a folder");
            let plan = convert::plan(&checkpoint, form).expect("a plan");
            let how = (out.as_path(), scheme, N_LAYER, 2);
            let report = folder::write(&checkpoint, plan, how, &[], None, &mut |_| ()).expect("it is written");
            for (stem, values) in &want {
                let largest = values.iter().fold(0f32, |a, b| a.max(b.abs()));
                let off = weights(&out, stem).iter().zip(values).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
                assert!(off <= near * largest, "{packing:?} {scheme:?} {stem}: off by {off} of {largest}");
            }
            let error = nmse(&logits(&out).expect("a model"), &before);
            assert!(error < limit, "{packing:?} {form:?} {scheme:?}: nmse {error:.1e} {:?}", report.tensors);
            let exact = |text: &String| text.contains("-bit g") && text.contains("-> mlx") && text.ends_with(", exact");
            let repacked = report.tensors.keys().any(exact);
            assert_eq!(repacked, repacks && scheme == folder::Scheme::MlxKeep, "{packing:?}: {:?}", report.tensors);
            std::fs::remove_dir_all(&out).expect("it is there");
        }
        std::fs::remove_dir_all(&source).expect("it is there");
    }
}

#[test]
fn mlx_computes_with_codes_of_gptq_and_awq() {
    let Some(folder) = std::env::var_os("MLXR_MLX_DIR").map(std::path::PathBuf::from) else {
        eprintln!("SKIPPED: run `cargo xtask mlx` and set MLXR_MLX_DIR to target/mlx to test the MLX backend");
        return;
    };
    let temp = Temp::new("inputs-mlx");
    let source = temp.0.join("source");
    for packing in PACKINGS {
        model(&source, packing);
        let want = logits(&source).expect("a model");
        for (precision, limit) in [(Precision::Full, 1e-9), (Precision::Half, 1e-2)] {
            let device = find::open(find::places(None, Some(&folder))).expect("MLXR_MLX_DIR names a folder with MLX");
            let backend = Mlx::new(device, precision, Kernels::Mlx, Box::new(|_| ()));
            let error = nmse(&logits_on(backend, &source).expect("a model"), &want);
            eprintln!("{packing:?} {precision:?}: nmse {error:.1e}");
            assert!(error < limit, "{packing:?} {precision:?}: nmse {error:.1e}");
        }
        std::fs::remove_dir_all(&source).expect("it is there");
    }
}
