//! A model's own layer for further tokens drafts for it: texts are those without it, token by token.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use mlxr_compute::op::KvType;
use mlxr_compute::scalar::Scalar;
use mlxr_engine::sampler::Params;
use mlxr_engine::{Config, Draft, Engine, Parts, Reads, Request, TokenEvent, TokenId};
use mlxr_models::{Arena, LoadOptions, load, load_next};

/// Texts of five sequences at once, and how many tokens were drafted for them.
fn texts(folder: &Path, temperature: f32, max_draft: usize) -> (Vec<Vec<TokenId>>, u64) {
    let options = LoadOptions { kv_type: KvType::F32, arena: Arena::Tokens(1024), ..LoadOptions::default() };
    let checkpoint = mlxr_weights::open(folder).expect("a checkpoint");
    let runner = Box::new(load(&checkpoint, Scalar, &options, &mut |_| ()).expect("the model loads"));
    let next = load_next(&checkpoint, Scalar, &options).expect("the layer loads").expect("it is there");
    let draft = Some(Draft { runner: Box::new(next), reads: Reads::Hidden });
    let config = Config { max_draft, ..Config::default() };
    let engine = Engine::spawn(Parts { runner, draft, disk: None, held: None }, config).expect("valid limits");
    let ask = |i: u32| {
        let (tell, hear) = mpsc::channel();
        let params = Params { temperature, seed: Some(u64::from(i)), ..Params::neutral() };
        let request = Request { params, ..Request::new((0..10 + 7 * i).map(|at| 3 + (at * 5 + i) % 90).collect(), 60) };
        let sink = Box::new(move |event| drop(tell.send(event)));
        (engine.submit(request, sink).expect("a valid request"), hear)
    };
    let asked: Vec<_> = (0..5).map(ask).collect();
    let text = |hear: &mpsc::Receiver<TokenEvent>| {
        let token = |event| match event {
            TokenEvent::Token { token, .. } => Some(token),
            _ => None,
        };
        hear.iter().filter_map(token).collect()
    };
    let texts = asked.iter().map(|(_, hear)| text(hear)).collect();
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
