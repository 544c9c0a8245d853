//! What `mlx-run quant` takes besides a recipe.

use std::path::Path;
use std::process::Stdio;

use mlxr_compute::DType;
use mlxr_weights::gguf::{Entry, Metadata, Value, Writer, shard_path};
use mlxr_weights::{Checkpoint, TensorInfo, open};

use crate::common::{Temp, fixtures, mlx_run, stdout, succeed};

const IMATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stories260k-64.imatrix.gguf");

fn model() -> Option<String> {
    let path = fixtures()?.join("stories260k/stories260K-f32.gguf");
    Some(path.to_str().expect("text").to_owned())
}

/// The model that `mlx-run quant ARGS MODEL OUT RECIPE` makes.
fn quantized(home: &Temp, args: &[&str], model: &str, recipe: &str) -> Checkpoint {
    let out = home.file("out.gguf");
    succeed(home, &[&["quant"], args, &[model, &out, recipe]].concat());
    open(Path::new(&out)).expect("a model")
}

fn types(model: &Checkpoint) -> Vec<(&str, DType)> {
    model.tensors().iter().map(|t| (t.name.as_str(), t.dtype)).collect()
}

fn type_of(model: &Checkpoint, name: &str) -> DType {
    model.tensor(name).expect("a tensor of that name").dtype
}

/// Writes the model as a set of two files, the second layer and what follows in the second; gives the first's path.
fn split(home: &Temp, model: &str) -> String {
    let model = open(Path::new(model)).expect("a model");
    let n = model.tensors().len();
    let halves = model.tensors().split_at(n / 3);
    let folder = Path::new(&home.file("x")).parent().expect("a folder").to_owned();
    for (no, tensors) in [halves.0, halves.1].into_iter().enumerate() {
        let path = shard_path(&folder, "set", no, 2);
        let mut meta = if no == 0 { model.meta().clone() } else { Metadata::new(&path) };
        meta.set("split.no", Value::U16(no as u16));
        meta.set("split.count", Value::U16(2));
        meta.set("split.tensors.count", Value::I32(n as i32));
        let entry = |t: &TensorInfo| Entry { name: t.name.clone(), dtype: t.dtype, shape: t.shape.clone() };
        let entries: Vec<Entry> = tensors.iter().map(entry).collect();
        let mut writer = Writer::create(&path, &meta, &entries).expect("a file");
        for tensor in tensors {
            writer.push(&model.bytes(&tensor.name).expect("there")).expect("written");
        }
        writer.finish().expect("written");
    }
    shard_path(&folder, "set", 0, 2).to_str().expect("text").to_owned()
}

#[test]
fn a_split_set_stays_split_if_asked() {
    let Some(model) = model() else { return };
    let home = Temp::new("quant-split");
    let set = split(&home, &model);
    let whole = quantized(&home, &[], &set, "Q8_0");
    let out = home.file("kept.gguf");
    succeed(&home, &["quant", "--keep-split", &set, &out, "Q8_0"]);
    assert!(!Path::new(&out).exists());
    let kept = open(Path::new(&home.file("kept-00001-of-00002.gguf"))).expect("a set");
    assert_eq!(types(&kept), types(&whole));
    for tensor in whole.tensors() {
        assert_eq!(*kept.bytes(&tensor.name).expect("there"), *whole.bytes(&tensor.name).expect("there"));
    }
    assert_eq!(kept.tensors().iter().map(|t| t.file).max(), Some(1));
    assert_eq!(whole.meta().value("split.count"), None);
    // A file alone stays one.
    let alone = quantized(&home, &["--keep-split"], &model, "Q8_0");
    assert_eq!(types(&alone), types(&whole));
}

#[test]
fn metadata_is_set_and_layers_are_left_out() {
    let Some(model) = model() else { return };
    let home = Temp::new("quant-edit");
    let args = ["--override-kv", "general.name=str:Small", "--override-kv", "llama.context_length=int:256"];
    let more = ["--override-kv", "x.y=bool:true", "--override-kv", "x.z=float:0.5", "--override-kv", "x.n=int:-1"];
    let edited = quantized(&home, &[&args[..], &more, &["--prune-layers", "3,1"]].concat(), &model, "Q8_0");
    let meta = edited.meta();
    assert_eq!(meta.value("general.name"), Some(&Value::Str("Small".into())));
    assert_eq!(meta.value("llama.context_length"), Some(&Value::U32(256)));
    assert_eq!(meta.value("llama.block_count"), Some(&Value::U32(3)));
    assert_eq!(meta.value("x.y"), Some(&Value::Bool(true)));
    assert_eq!(meta.value("x.z"), Some(&Value::F32(0.5)));
    assert_eq!(meta.value("x.n"), Some(&Value::I32(-1)));
    let whole = quantized(&Temp::new("quant-edit-whole"), &[], &model, "Q8_0");
    for (layer, source) in [(0, 0), (1, 2), (2, 4)] {
        let [name, source] = [layer, source].map(|layer| format!("blk.{layer}.ffn_down.weight"));
        assert_eq!(*edited.bytes(&name).expect("there"), *whole.bytes(&source).expect("there"), "{name}");
    }
    assert!(edited.tensor("blk.3.ffn_down.weight").is_none());
    let args = ["run", &home.file("out.gguf"), "--raw", "--temperature", "0", "--max-tokens", "4", "Once upon a time"];
    assert!(!stdout(&succeed(&home, &args)).is_empty());
}

#[test]
fn types_of_tensors_come_from_a_file_after_the_command_line() {
    let Some(model) = model() else { return };
    let home = Temp::new("quant-types");
    let file = home.file("types.txt");
    std::fs::write(&file, "attn_k=q5_0\nattn_v=q4_1 ffn_down=q8_0\n").expect("a file");
    let made = quantized(&home, &["--tensor-type-file", &file, "--tensor-type", "attn_v=f16"], &model, "Q4_0");
    for (name, dtype) in [
        ("blk.0.attn_k.weight", DType::Q5_0),
        ("blk.0.attn_v.weight", DType::F16),
        ("blk.0.ffn_up.weight", DType::Q4_0),
    ] {
        assert_eq!(type_of(&made, name), dtype, "{name}");
    }
}

#[test]
fn the_exceptions_of_a_recipe_are_lifted_or_others_made() {
    let Some(model) = model() else { return };
    let home = Temp::new("quant-pure");
    let source = open(Path::new(&model)).expect("a model");
    // Rows of 172 are no whole blocks.
    let whole = |t: &&TensorInfo| t.shape.len() == 2 && t.shape[1].is_multiple_of(32);
    let matrices: Vec<&str> = source.tensors().iter().filter(whole).map(|t| t.name.as_str()).collect();
    let excepted = |made: &Checkpoint| -> Vec<&str> {
        matrices.iter().copied().filter(|name| type_of(made, name) != DType::Q4_0).collect()
    };
    assert!(matrices.len() > 30);
    assert_eq!(excepted(&quantized(&home, &[], &model, "Q4_0")), ["output.weight"]);
    let pure = quantized(&home, &["--pure"], &model, "Q4_0");
    assert_eq!(excepted(&pure), [""; 0]);
    assert_eq!(type_of(&pure, "blk.0.attn_norm.weight"), DType::F32);
    assert_eq!(type_of(&pure, "blk.0.ffn_down.weight"), DType::F16, "as without");
    let args = ["run", &home.file("out.gguf"), "--raw", "--temperature", "0", "--max-tokens", "4", "Once upon a time"];
    assert!(!stdout(&succeed(&home, &args)).is_empty());
    let embeddings = quantized(&home, &["--pure", "--token-embedding-type", "q5_1"], &model, "Q4_0");
    assert_eq!(type_of(&embeddings, "token_embd.weight"), DType::Q5_1);
    assert_eq!(type_of(&embeddings, "blk.0.attn_v.weight"), DType::Q4_0);
    let named = quantized(&home, &["--pure", "--tensor-type", "ffn_gate=q8_0"], &model, "Q4_0");
    assert_eq!(type_of(&named, "blk.2.ffn_gate.weight"), DType::Q8_0);
    assert_eq!(type_of(&named, "blk.2.ffn_up.weight"), DType::Q4_0);
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let Some(model) = model() else { return };
    let home = Temp::new("quant-pipe");
    let mut child = mlx_run(&home, &["quant", "--dry-run", &model, "Q4_0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn importance_is_used_for_the_tensors_that_are_named() {
    let Some(model) = model() else { return };
    let home = Temp::new("quant-importance");
    let bytes = |args: &[&str]| -> [Vec<u8>; 2] {
        let made = quantized(&home, args, &model, "Q4_0");
        ["blk.1.attn_k.weight", "blk.1.ffn_up.weight"].map(|name| made.bytes(name).expect("there").to_vec())
    };
    let none = bytes(&[]);
    let all = bytes(&["--imatrix", IMATRIX]);
    assert!(none[0] != all[0] && none[1] != all[1]);
    let included = bytes(&["--imatrix", IMATRIX, "--include-weights", "attn_k"]);
    assert!(included[0] == all[0] && included[1] == none[1]);
    let excluded = bytes(&["--imatrix", IMATRIX, "--exclude-weights", "attn_k", "--exclude-weights", "attn_v"]);
    assert!(excluded[0] == none[0] && excluded[1] == all[1]);
}

#[test]
fn options_that_are_not_understood_are_refused() {
    let Some(model) = model() else { return };
    let home = Temp::new("quant-options-refused");
    let (out, file) = (home.file("out.gguf"), home.file("types.txt"));
    std::fs::write(&file, "attn_k=q9").expect("a file");
    let rows: [(&[&str], &str); 9] = [
        (&["--prune-layers", "5"], "layer 5 cannot be left out of 5"),
        (&["--prune-layers", "0,1,2,3,4"], "not all"),
        (&["--override-kv", "general.name"], "expected KEY=TYPE:VALUE"),
        (&["--override-kv", "a=int:x"], "expected an integer"),
        (&["--override-kv", "a=list:x"], "expected the type int, float, bool or str"),
        (&["--tensor-type-file", &file], "no type `q9`"),
        (&["--tensor-type-file", "/no/such/file"], "/no/such/file"),
        (&["--include-weights", "attn_k"], "--imatrix"),
        (&["--imatrix", IMATRIX, "--include-weights", "a", "--exclude-weights", "b"], "cannot be used with"),
    ];
    for (args, want) in rows {
        let output = mlx_run(&home, &[&["quant"], args, &[&model, &out, "Q4_0"]].concat()).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(want), "{args:?}: {stderr}");
        assert!(!Path::new(&out).exists(), "{args:?}");
    }
}
