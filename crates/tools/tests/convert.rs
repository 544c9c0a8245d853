//! Golden checkpoints in another form: they compute what they did.

use std::path::{Path, PathBuf};

use mlxr_compute::DType;
use mlxr_compute::op::KvType;
use mlxr_compute::scalar::Scalar;
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::{Batch, PageId, Row, Runner, SeqId, Want};
use mlxr_models::LoadOptions;
use mlxr_models::convert::{self, Form};
use mlxr_tools::convert::gguf;

/// A folder that is removed in the end.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let path = std::env::temp_dir().join(format!("mlxr-convert-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Temp(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn golden(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/data").join(kind);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("golden checkpoints").map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// Logits after each of some tokens, by the definitions, or what went wrong.
fn logits(path: &Path) -> Result<Vec<f32>, String> {
    let options = LoadOptions { n_ctx: Some(48), kv_type: KvType::F32, kv_tokens: Some(64), ..LoadOptions::default() };
    let checkpoint = mlxr_weights::open(path).map_err(|e| e.to_string())?;
    let mut model = mlxr_models::load(&checkpoint, Scalar, &options, &mut |_| ()).map_err(|e| e.to_string())?;
    let mut batch = Batch::default();
    batch.tokens.extend((0..40).map(|i| (i * 7 + 3) % 90));
    let n_page = batch.tokens.len().div_ceil(PAGE_TOKENS);
    batch.pages.extend((0..n_page as u32).map(PageId));
    let (tokens, pages) = ((0, batch.tokens.len()), (0, n_page));
    batch.rows.push(Row { seq: SeqId(0), start: 0, tokens, pages, slot: 0, parents: None, want: Want::All });
    model.submit(&batch).map_err(|e| e.to_string())?;
    Ok(model.wait().map_err(|e| e.to_string())?.data.to_vec())
}

/// Squared error over squared magnitude.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
    error / want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()
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
    ("llama4", "growth of queries: None"),  // beyond 8192 tokens
    ("mistral", "windows: [Sliding"),       // GGUF's llama has none
    ("phimoe", "norms: Layer"),             // GGUF's phimoe norms by the root mean square
];

/// Golden checkpoints that are refused, and why: each is a limit of today.
const REFUSED: &[(&str, &str)] = &[
    ("afmoe", "GGUF has no architecture"),
    ("bamba", "GGUF has no architecture"),
    ("falcon-h1", "factors on parts"),
    ("falcon-mamba", "tensors of its layers"),
    ("granite-hybrid", "GGUF has no architecture"),
    ("granite-hybrid-dense", "GGUF has no architecture"),
    ("helium", "GGUF has no architecture"),
    ("hy-v3", "GGUF has no architecture"),
    ("jamba", "tensors of its layers"),
    ("kimi-linear", "delta nets"),
    ("lfm2", "short convolutions"),
    ("lfm2-moe", "short convolutions"),
    ("mamba", "tensors of its layers"),
    ("qwen3-5", "delta nets"),
    ("qwen3-5-moe", "delta nets"),
    ("qwen3-next", "delta nets"),
];

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
