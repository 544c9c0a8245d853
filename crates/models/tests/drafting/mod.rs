//! What tests of drafts share.

use std::sync::mpsc;

use mlxr_engine::sampler::Params;
use mlxr_engine::{Engine, Request, TokenEvent, TokenId};

/// Texts of five sequences at once, the `i`-th of which begins with `10 + 7 * i` tokens, `token(at, i)` each.
pub fn texts_of_five(
    engine: &Engine,
    (temperature, max_tokens): (f32, usize),
    token: impl Fn(u32, u32) -> TokenId,
) -> Vec<Vec<TokenId>> {
    let ask = |i: u32| {
        let (tell, hear) = mpsc::channel();
        let params = Params { temperature, seed: Some(u64::from(i)), ..Params::neutral() };
        let prompt = (0..10 + 7 * i).map(|at| token(at, i)).collect();
        let request = Request { params, ..Request::new(prompt, max_tokens) };
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
    asked.iter().map(|(_, hear)| text(hear)).collect()
}
