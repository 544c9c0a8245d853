//! What a step costs besides the model: planning, sampling, telling. `cargo run --release -p mlxr-engine --example step_bench`
//!
//! A runner that computes nothing gives 32 sequences the same logits of 128 256 normal numbers in each step. The engine's
//! part of a real step is this time over the model's.

use std::sync::mpsc;

use mlxr_engine::sampler::{Params, Rng};
use mlxr_engine::{Config, Engine, Parts, Request, Runner, TokenEvent, TokenId};
use mlxr_testing::{Scripted, n_logits};

const N_VOCAB: usize = 128_256;
const N_SEQ: usize = 32;
const N_TOKEN: usize = 400;

fn main() {
    let mut rng = Rng::new(1);
    let mut normal = || (0..4).map(|_| rng.next_unit() as f32 - 0.5).sum::<f32>() * 6.0;
    let logits: Vec<f32> = (0..N_SEQ * N_VOCAB).map(|_| normal()).collect();
    let rows = [
        ("greedy", Params::greedy()),
        ("defaults", Params::default()),
        ("temperature alone", Params { temperature: 0.8, ..Params::neutral() }),
    ];
    for (name, params, gives_maxima) in
        [false, true].iter().flat_map(|gives| rows.clone().map(|(name, p)| (name, p, *gives)))
    {
        let logits = logits.clone();
        let mut runner = Scripted::new(N_VOCAB, N_SEQ, move |batch, out| {
            out.extend_from_slice(&logits[..n_logits(batch) * N_VOCAB]);
        });
        runner.gives_maxima = gives_maxima;
        let runner: Box<dyn Runner> = Box::new(runner);
        let config = Config { max_draft: 0, ..Config::default() };
        let engine = Engine::spawn(Parts::from(runner), config).expect("valid limits");
        let (ended, end) = mpsc::channel();
        let tickets: Vec<_> = (0..N_SEQ as TokenId)
            .map(|i| {
                let ended = ended.clone();
                let sink = move |event| {
                    if let TokenEvent::Finished { .. } = event {
                        // The main thread waits for all.
                        let _ = ended.send(());
                    }
                };
                let request = Request { params: params.clone(), ..Request::new(vec![i; 40], N_TOKEN) };
                engine.submit(request, Box::new(sink)).expect("a valid request")
            })
            .collect();
        (0..N_SEQ).for_each(|_| end.recv().expect("all end"));
        let stats = engine.stats();
        let own = stats.busy.saturating_sub(stats.computing);
        let maxima = if gives_maxima { "with maxima" } else { "without maxima" };
        let us = own.as_secs_f64() * 1e6 / stats.n_step as f64;
        println!("{name:17} {us:.0} us a step of {N_SEQ} sequences, {maxima} of the model");
        drop(tickets);
        engine.shutdown();
    }
}
