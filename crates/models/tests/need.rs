//! What a model is said to take is what loading it takes.

use std::path::{Path, PathBuf};

use mlxr_compute::op::KvType;
use mlxr_compute::scalar::Scalar;
use mlxr_engine::runner::Runner;
use mlxr_models::{Arena, LoadOptions};

/// The golden checkpoints of a folder; a recurrent state for each is saved at most once.
fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of golden checkpoints");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "gguf")).collect()
}

#[test]
fn a_models_need_is_what_loading_takes() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let fixtures = std::env::var_os("MLXR_FIXTURES").map(|folder| PathBuf::from(folder).join("arch"));
    if fixtures.is_none() {
        eprintln!("SKIPPED in part: set MLXR_FIXTURES to the folder of fixtures to check GGUF files, too");
    }
    let folders = [Some(here.join("hf")), Some(here.join("mlx")), fixtures];
    let mut n = 0;
    for path in folders.into_iter().flatten().flat_map(|folder| checkpoints(&folder)) {
        let name = path.display();
        for kv_type in [KvType::F16, KvType::Q8] {
            let options = LoadOptions { n_ctx: Some(48), arena: Arena::Tokens(64), n_slot: 2, kv_type };
            let checkpoint = mlxr_weights::open(&path).expect("a golden checkpoint opens");
            let need = mlxr_models::need(&checkpoint, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            let model =
                mlxr_models::load(&checkpoint, Scalar, &options, &mut |_| ()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let info = model.info();
            assert_eq!(need.page_bytes, info.page_bytes as u64, "{name}: bytes of a page");
            assert_eq!(need.logits_bytes, 4 * info.n_vocab as u64, "{name}: bytes of logits");
            assert_eq!(need.state_bytes > 0, info.recurrent, "{name}: whether there are recurrent states");
            let mut state = Vec::new();
            if info.recurrent {
                model.export_state(mlxr_engine::runner::StateId(0), &mut state);
            }
            assert_eq!(need.state_bytes, state.len() as u64, "{name}: bytes of a recurrent state");
            assert!(need.token_bytes >= 4 * info.d_model as u64, "{name}: bytes of a token");
            n += 1;
        }
    }
    assert!(n >= 140, "golden checkpoints are missing: {n}");
}
