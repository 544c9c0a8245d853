//! Golden checkpoints in another form: they compute what they did.

use std::path::{Path, PathBuf};

use mlxr_compute::{DType, Encoding};
use mlxr_models::convert::{self, Form};
use mlxr_tools::convert::{folder, gguf};

use crate::common::{Temp, logits, nmse};

fn golden(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/data").join(kind);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("golden checkpoints").map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// Converts to GGUF and compares logits.
fn to_gguf(path: &Path, out: &Path, kind: gguf::Type) -> Result<(f64, mlxr_tools::convert::Report), String> {
    let checkpoint = mlxr_weights::open(path).map_err(|e| e.to_string())?;
    let plan = convert::plan(&checkpoint, Form::Gguf).map_err(|e| e.to_string())?;
    let report = gguf::write(&checkpoint, plan, (out, kind, 2), &[], &mut |_| ()).map_err(|e| e.to_string())?;
    Ok((nmse(&logits(out)?, &logits(path)?), report))
}

/// What GGUF cannot say of a golden checkpoint, so that its logits change.
const LOSSY: &[(&str, &str)] = &[
    ("llama-dynamic", "rope scaling: Ntk"), // within the original context, nothing changes
    ("cwm", "windows: [Full"),              // GGUF's llama has none
    ("falcon-mamba", "epsilon of norms"),   // of which GGUF has one
    ("llama4", "growth of queries: None"),  // beyond 8192 tokens
    ("mistral", "windows: [Sliding"),       // GGUF's llama has none
    ("phimoe", "norms: Layer"),             // GGUF's phimoe norms by the root mean square
];

/// Golden checkpoints that GGUF has no architecture for, and what the error says.
const REFUSED: &[(&str, &str)] =
    &[("flex-olmo", "GGUF has no architecture for `FlexOlmo"), ("gptj", "GGUF has no architecture for `GPTJ")];

#[test]
fn hugging_face_checkpoints_keep_their_logits_as_gguf() {
    let temp = Temp::new("hf-gguf");
    let mut failures = Vec::new();
    for path in golden("hf") {
        let (name, out) = (name(&path), temp.0.join("model.gguf"));
        match to_gguf(&path, &out, gguf::Type::Of(DType::F32)) {
            Err(error) => {
                let known = REFUSED.iter().any(|(refused, why)| *refused == name && error.contains(why));
                if !known || out.exists() {
                    failures.push(format!("{name}: {error}"));
                }
            }
            Ok((error, report)) => {
                eprintln!("{name}: nmse {error:.2e} {:?}", report.notes);
                let note = LOSSY.iter().find(|(lossy, _)| *lossy == name).map(|(_, note)| *note);
                let told = report.notes.iter().any(|n| note.is_some_and(|note| n.contains(note)));
                if !(error < 1e-9 && report.notes.is_empty() || told) {
                    failures.push(format!("{name}: nmse {error:.2e}, {:?}", report.notes));
                }
                std::fs::remove_file(&out).expect("it was written");
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn mlx_checkpoints_keep_their_logits_as_gguf() {
    let temp = Temp::new("mlx-gguf");
    let mut failures = Vec::new();
    for path in golden("mlx") {
        let (name, out) = (name(&path), temp.0.join("model.gguf"));
        // Every value of MLX's formats is an f32; kept in type, a part becomes q8_0.
        for (kind, limit) in [(gguf::Type::Of(DType::F32), 1e-9), (gguf::Type::Keep(DType::Q8_0), 2e-2)] {
            match to_gguf(&path, &out, kind) {
                Err(error) => failures.push(format!("{name}: {error}")),
                Ok((error, report)) => {
                    eprintln!("{name}: {kind:?} nmse {error:.2e} {:?} {:?}", report.notes, report.tensors);
                    let lossy = name.starts_with("phimoe") && report.notes.iter().any(|n| n.contains("norms: Layer"));
                    if !(error < limit && report.notes.is_empty() || lossy) {
                        failures.push(format!("{name}: {kind:?} nmse {error:.2e}, {:?}", report.notes));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Converts to a folder and compares logits.
fn to_folder(path: &Path, out: &Path, form: Form, scheme: folder::Scheme) -> Result<(f64, Vec<String>), String> {
    let _ = std::fs::remove_dir_all(out);
    let checkpoint = mlxr_weights::open(path).map_err(|e| e.to_string())?;
    let plan = convert::plan(&checkpoint, form).map_err(|e| e.to_string())?;
    let report =
        folder::write(&checkpoint, plan, (out, scheme, 8, 2), &[], None, &mut |_| ()).map_err(|e| e.to_string())?;
    Ok((nmse(&logits(out)?, &logits(path)?), report.notes))
}

const AFFINE_8: Encoding = Encoding::MlxAffine { bits: 8, group: 32, scale: DType::F32 };

#[test]
fn folders_keep_their_logits_in_another_form() {
    let temp = Temp::new("folders");
    let out = temp.0.join("out");
    let f32 = folder::Scheme::Plain(Some(DType::F32));
    let affine = folder::Scheme::Mlx { encoding: AFFINE_8, high: None };
    let rows = [
        ("hf", Form::HuggingFace, f32, 1e-12),
        ("hf", Form::Mlx, affine, 6e-2),
        ("mlx", Form::HuggingFace, f32, 1e-12),
        ("mlx", Form::Mlx, folder::Scheme::MlxKeep, 1e-12),
    ];
    let mut failures = Vec::new();
    for (kind, form, scheme, limit) in rows {
        for path in golden(kind) {
            let name = name(&path);
            match to_folder(&path, &out, form, scheme) {
                Ok((error, notes)) if error <= limit && notes.is_empty() => {}
                Ok((error, notes)) => failures.push(format!("{name} to {form:?}: nmse {error:.2e} {notes:?}")),
                Err(error) if error.contains("cannot be converted") && REFUSED.iter().any(|(no, _)| *no == name) => {}
                Err(error) => failures.push(format!("{name} to {form:?}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Classes that share a GGUF architecture with another, which is what they come back as.
const OTHERS: &[(&str, &str)] = &[
    ("cwm", "LlamaForCausalLM"),
    ("glm4-moe-lite", "DeepseekV3ForCausalLM"),
    ("helium", "LlamaForCausalLM"),
    ("mistral", "LlamaForCausalLM"),
    ("solar-open", "Glm4MoeForCausalLM"),
];

#[test]
fn gguf_files_come_back_under_their_names_with_their_logits() {
    let temp = Temp::new("back");
    let (file, out) = (temp.0.join("model.gguf"), temp.0.join("out"));
    let mut failures = Vec::new();
    for path in golden("hf") {
        let name = name(&path);
        if to_gguf(&path, &file, gguf::Type::Of(DType::F32)).is_err() {
            continue; // refused, as another test says
        }
        let plain = folder::Scheme::Plain(Some(DType::F32));
        match to_folder(&file, &out, Form::HuggingFace, plain) {
            Err(error) => failures.push(format!("{name}: {error}")),
            Ok((error, notes)) => {
                let names = |path: &Path| {
                    let checkpoint = mlxr_weights::open(path).expect("it was written");
                    let mut names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
                    names.sort();
                    names
                };
                let (got, want) = (names(&out), names(&path));
                let missing: Vec<_> = want.iter().filter(|n| !got.contains(n)).collect();
                let extra: Vec<_> = got.iter().filter(|n| !want.contains(n)).collect();
                let named = missing.is_empty() && extra.is_empty();
                let told = name == "phimoe" && notes.iter().any(|n| n.contains("norms: Rms"));
                if !(error < 1e-9 && notes.is_empty() && named || told) {
                    failures.push(format!("{name}: nmse {error:.2e} {notes:?} missing {missing:?} extra {extra:?}"));
                }
                failures.extend(class(&path, &out, &name));
            }
        }
        let told = |notes: &[String]| name == "phimoe" && notes.iter().any(|n| n.contains("norms: Rms"));
        match to_folder(&file, &out, Form::Mlx, plain) {
            Ok((error, notes)) if error < 1e-9 && notes.is_empty() || told(&notes) => {}
            other => failures.push(format!("{name} for MLX: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// What is wrong with the class that a folder says it is of.
fn class(before: &Path, after: &Path, name: &str) -> Option<String> {
    let said = |path: &Path, field: &str| {
        let text = std::fs::read_to_string(path.join("config.json")).expect("a configuration");
        let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config[field].clone()
    };
    let field = |field: &str| (said(before, field), said(after, field));
    let ((want, got), (want_type, got_type)) = (field("architectures"), field("model_type"));
    match OTHERS.iter().find(|(other, _)| *other == name) {
        Some((_, class)) => (got[0] != *class).then(|| format!("{name}: class {got}, expected {class}")),
        None => (want != got || want_type != got_type)
            .then(|| format!("{name}: {got} {got_type}, expected {want} {want_type}")),
    }
}
