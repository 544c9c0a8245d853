//! A model's own layer for further tokens drafts for it: texts are those without it, token by token.

mod drafting;

use std::path::Path;
use std::sync::atomic::Ordering;

use mlxr_compute::op::KvType;
use mlxr_compute::scalar::Scalar;
use mlxr_engine::{Config, Draft, Engine, Parts, Reads, TokenId};
use mlxr_models::{Arena, LoadOptions, load, load_next};

use drafting::texts_of_five;

/// Texts of five sequences at once, and how many tokens were drafted for them.
fn texts(folder: &Path, temperature: f32, max_draft: usize) -> (Vec<Vec<TokenId>>, u64) {
    let options = LoadOptions { kv_type: KvType::F32, arena: Arena::Tokens(1024), ..LoadOptions::default() };
    let checkpoint = mlxr_weights::open(folder).expect("a checkpoint");
    let runner = Box::new(load(&checkpoint, Scalar, &options, &mut |_| ()).expect("the model loads"));
    let next = load_next(&checkpoint, Scalar, &options).expect("the layer loads").expect("it is there");
    let draft = Some(Draft { runner: Box::new(next), reads: Reads::Hidden });
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
