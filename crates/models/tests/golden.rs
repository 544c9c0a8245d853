//! Every architecture against golden logits of independent implementations: llama.cpp in f32 for GGUF, `transformers`
//! for Hugging Face files.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mlxr_compute::{DType, Encoding};
use mlxr_mlx::kernel::blocks::{self, BLOCKS};
use mlxr_mlx::kernel::source::Platform;

/// The folder of fixtures, or `None` with a loud word.
fn fixtures() -> Option<PathBuf> {
    let folder = std::env::var_os("MLXR_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: set MLXR_FIXTURES to the folder of fixtures to run the golden tests");
    }
    folder
}

/// The part of the checkpoints that `MLXR_GOLDEN_PART` says, all without it: `1/8` is every eighth from the first. Several
/// processes share them so on a GPU, where MLX compiles kernels for each shape of a model.
fn part(paths: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    let text = std::env::var("MLXR_GOLDEN_PART").unwrap_or_else(|_| "1/1".to_owned());
    let (i, n) = text.split_once('/').expect("MLXR_GOLDEN_PART is such as 1/8");
    let [i, n] = [i, n].map(|number| number.parse::<usize>().expect("MLXR_GOLDEN_PART is such as 1/8"));
    paths.iter().skip(i - 1).step_by(n)
}

/// The entries of a folder, sorted.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_gguf_fixture_matches_its_golden_logits() {
    let Some(folder) = fixtures() else { return };
    let mut files = entries(&folder.join("arch"));
    files.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
    assert!(files.len() >= 23, "fixtures are missing: {files:?}");
    let failures: Vec<String> =
        part(&files).flat_map(|path| common::compare(path, &path.with_extension("logits"), [1e-6, 1e-6])).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_hugging_face_class_matches_transformers() {
    let folders = entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf"));
    assert!(folders.len() >= 40, "golden checkpoints are missing: {folders:?}");
    let failures: Vec<String> =
        part(&folders).flat_map(|path| common::compare(path, &path.join("golden.logits"), [1e-8, 1e-8])).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// mlx-lm itself is off by up to 1.0e-3 where it rounds the inputs of packed matrices to 8 bits as the CPU backend does.
#[test]
fn every_mlx_checkpoint_matches_mlx_lm() {
    let folders = entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mlx"));
    assert!(folders.len() >= 30, "golden checkpoints are missing: {folders:?}");
    let failures: Vec<String> =
        part(&folders).flat_map(|path| common::compare(path, &path.join("golden.logits"), [1e-6, 2e-3])).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// On CUDA, where they compute with all that is packed with scales of 16 bits.
#[test]
fn each_of_our_kernels_for_formats_of_mlx_has_a_golden_checkpoint() {
    let mut proven = BTreeSet::new();
    for path in entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mlx")) {
        for matrix in mlxr_weights::open(&path).and_then(|checkpoint| checkpoint.stored()).expect("a checkpoint") {
            if !matches!(matrix.encoding, Encoding::Blocks(_) | Encoding::MlxAffine { scale: DType::F32, .. }) {
                let multiplier = blocks::multiplier(Platform::Cuda, matrix.encoding, matrix.n_col, matrix.stacked);
                proven.insert(
                    multiplier.unwrap_or_else(|| panic!("{}: {} is left to MLX", path.display(), matrix.encoding)),
                );
            }
        }
    }
    let of_mlx = BLOCKS.iter().filter(|row| row.is_mlx()).map(|row| row.name);
    assert_eq!(proven, of_mlx.chain(["affine_tiles"]).collect());
}

#[test]
fn eagle_3_layers_match_their_definition() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let folders = entries(&data.join("eagle3"));
    assert!(folders.len() >= 2, "golden checkpoints are missing: {folders:?}");
    let compare = |path: &PathBuf| common::compare_eagle(path, &data.join("hf/llama"), 1e-8);
    let failures: Vec<String> = folders.iter().flat_map(compare).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn layers_that_predict_further_tokens_match_their_definition() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let folders = entries(&data.join("mtp"));
    assert!(folders.len() >= 2, "golden checkpoints are missing: {folders:?}");
    let large = folders.iter().flat_map(|path| common::compare(path, &path.join("golden.logits"), [1e-8, 1e-8]));
    let next = folders.iter().flat_map(|path| common::compare_next(path, 1e-8));
    let failures: Vec<String> = large.chain(next).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let without = mlxr_weights::open(&data.join("hf/llama")).expect("a checkpoint");
    let model = mlxr_models::load_next(&without, mlxr_compute::scalar::Scalar, &mlxr_models::LoadOptions::default());
    assert!(model.expect("it opens").is_none(), "a model without such layers has none");
}
