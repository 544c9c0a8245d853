//! Every fixture opens, and every tensor of it can be read.

#![allow(clippy::unwrap_used)] // tests

use std::path::{Path, PathBuf};

use mlxr_weights::{Checkpoint, Kind, open};

/// The fixtures, or `None`, said loudly, where they are absent.
fn fixtures() -> Option<PathBuf> {
    let folder = std::env::var_os("MLXR_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: set MLXR_FIXTURES to the folder of the fixtures to run this test");
    }
    folder
}

fn ggufs(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
    paths.sort();
    paths
}

#[test]
fn every_architecture_opens_and_all_its_tensors_read() {
    let Some(root) = fixtures() else { return };
    let paths = ggufs(&root.join("arch"));
    assert!(paths.len() >= 20, "{} models in arch/", paths.len());
    for path in paths {
        let model = open(&path).unwrap();
        assert_eq!(model.kind, Kind::Gguf);
        let arch: &str = model.meta().need("general.architecture").unwrap();
        let n_layer: usize = model.meta().need(&format!("{arch}.block_count")).unwrap();
        assert!((1..100).contains(&n_layer), "{}: {n_layer} layers", path.display());
        read_all(&model);
    }
}

/// Reads every tensor by the method that its shape calls for.
fn read_all(model: &Checkpoint) {
    assert!(model.names().next().is_some());
    for tensor in model.tensors() {
        let name = &tensor.name;
        assert_eq!(model.bytes(name).unwrap().len(), tensor.bytes, "{name}");
        match tensor.shape[..] {
            [n_out, n_in] => {
                let matrix = model.matrix(name).unwrap().unwrap();
                assert_eq!([matrix.n_out, matrix.n_in], [n_out, n_in], "{name}");
            }
            [n_expert, n_out, n_in] => {
                let experts = model.experts(name).unwrap().unwrap();
                assert_eq!(experts.len(), n_expert, "{name}");
                assert_eq!([experts[0].n_out, experts[0].n_in], [n_out, n_in], "{name}");
                let whole = model.bytes(name).unwrap();
                let last = &experts[n_expert - 1].parts[0];
                assert!(std::ptr::eq(&whole[whole.len() - last.len()..], &last[..]), "{name} was copied");
            }
            _ => {
                let (shape, numbers) = model.vector(name).unwrap().unwrap();
                assert_eq!(shape, tensor.shape);
                assert_eq!(numbers.len(), tensor.elements());
                assert!(numbers.iter().all(|x| x.is_finite()), "{name}");
            }
        }
    }
}

#[test]
fn every_vocabulary_opens() {
    let Some(root) = fixtures() else { return };
    let paths = ggufs(&root.join("vocab"));
    assert!(paths.len() >= 8, "{} files in vocab/", paths.len());
    for path in paths {
        let model = open(&path).unwrap();
        assert_eq!(model.names().count(), 0, "{}", path.display());
        let tokens: &mlxr_weights::gguf::Strings = model.meta().need("tokenizer.ggml.tokens").unwrap();
        assert!(tokens.len() > 1000, "{}", path.display());
    }
}

#[test]
fn the_same_model_in_three_formats() {
    let Some(root) = fixtures() else { return };
    let root = root.join("stories260k");
    let gguf = open(&root.join("stories260K-f32.gguf")).unwrap();
    let hf = open(&root.join("hf")).unwrap();
    let mlx = open(&root.join("mlx-4bit")).unwrap();
    assert_eq!([gguf.kind, hf.kind, mlx.kind], [Kind::Gguf, Kind::HuggingFace, Kind::Mlx]);
    read_all(&gguf);
    read_all(&hf);
    let decoded = |model: &Checkpoint, stem: &str| {
        let matrix = model.matrix(stem).unwrap().unwrap();
        let mut out = vec![0.0; matrix.n_out * matrix.n_in];
        matrix.decode_rows(0, matrix.n_out, &mut out);
        (matrix, out)
    };
    let mut n_packed = 0;
    for (name, hf_name) in [("attn_v", "self_attn.v_proj"), ("ffn_down", "mlp.down_proj"), ("ffn_up", "mlp.up_proj")] {
        for layer in 0..5 {
            let stem = format!("model.layers.{layer}.{hf_name}");
            let (_, exact) = decoded(&hf, &stem);
            assert_eq!(decoded(&gguf, &format!("blk.{layer}.{name}")).1, exact, "{stem}");
            let (matrix, packed) = decoded(&mlx, &stem);
            n_packed += usize::from(matrix.parts.len() == 3);
            let error: f32 = exact.iter().zip(&packed).map(|(a, b)| (a - b) * (a - b)).sum();
            let power: f32 = exact.iter().map(|a| a * a).sum();
            let tolerance = if matrix.parts.len() == 3 { 0.02 } else { 0.0 };
            assert!(error <= tolerance * power, "{stem}: relative error {} of {}", error / power, matrix.encoding);
        }
    }
    assert!((1..15).contains(&n_packed), "some layers are packed and some are not: {n_packed} of 15");
    assert_eq!(hf.vector("model.norm.weight").unwrap(), gguf.vector("output_norm.weight").unwrap());
    assert_eq!(hf.config().unwrap()["model_type"], "llama");
    assert!(hf.file("tokenizer.json").unwrap().unwrap().starts_with(b"{"));
    assert!(mlx.json("tokenizer_config.json").unwrap().unwrap().is_object());
    assert!(hf.file("chat_template.jinja").unwrap().is_none());
    assert!(hf.file("../hf/config.json").unwrap().is_none());
    assert!(gguf.file("config.json").unwrap().is_none());
}

#[test]
fn summaries() {
    let Some(root) = fixtures() else { return };
    let summary = |name: &str| open(&root.join("stories260k").join(name)).unwrap().summary().unwrap();
    let (gguf, hf, mlx) = (summary("stories260K-f32.gguf"), summary("hf"), summary("mlx-4bit"));
    let total = 292_800; // as the index of the MLX checkpoint says: the output matrix counted
    assert_eq!([hf.n_parameter, mlx.n_parameter], [total; 2]);
    assert_eq!(gguf.architecture.as_deref(), Some("llama"));
    assert_eq!(hf.architecture.as_deref(), Some("LlamaForCausalLM"));
    assert_eq!(mlx.bytes, 400_768, "total_size of the index");
    assert_eq!(mlx.types.iter().map(|t| t.bytes).sum::<u64>(), mlx.bytes);
    let names: Vec<&str> = mlx.types.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["f32", "mlx 4-bit g32"]);
    assert_eq!(hf.types.len(), 1);
    assert_eq!(hf.metadata[0], ("architectures".to_owned(), "a list of 1".to_owned()));
    let name = gguf.metadata.iter().find(|(key, _)| key == "general.architecture").unwrap();
    assert_eq!(name.1, "string \"llama\"");
    let n_gguf = if gguf.n_tensor == hf.n_tensor { total } else { total - 512 * 64 };
    assert_eq!(gguf.n_parameter, n_gguf, "the output matrix may be shared with the embeddings");
}
