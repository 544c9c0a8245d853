//! Time to choose a token from a vocabulary of 152k, beside the naive version that sorts.
//!
//! `cargo run --release -p mlxr-engine --example sampler_bench`

use std::hint::black_box;
use std::time::Instant;

use mlxr_engine::TokenId;
use mlxr_engine::sampler::{Mirostat, MirostatVersion, Params, Rng, Sampler, Scratch, logprobs};

const N_VOCAB: usize = 151_936;
const N_RUN: usize = 200;

type Change = fn(&mut Params);

/// Rows: name, change of [`Params::neutral`].
const ROWS: &[(&str, Change)] = &[
    ("greedy", |p| p.temperature = 0.0),
    ("greedy, repeat penalty", |p| (p.temperature, p.repeat_penalty) = (0.0, 1.1)),
    ("defaults: top-k 40, top-p 0.95, min-p 0.05, t 0.8", |p| *p = Params::default()),
    ("defaults, repeat penalty, DRY", |p| {
        *p = Params { repeat_penalty: 1.1, ..Params::default() };
        p.dry.multiplier = 0.8;
    }),
    ("top-p 0.9 alone", |p| p.top_p = 0.9),
    ("min-p 0.05 alone", |p| p.min_p = 0.05),
    ("temperature 1, nothing else", |_| {}),
    ("top-n-sigma 1", |p| p.top_n_sigma = 1.0),
    ("typical 0.9", |p| p.typical_p = 0.9),
    ("mirostat 1", |p| p.mirostat = Mirostat { version: MirostatVersion::V1, ..Mirostat::default() }),
    ("mirostat 2", |p| p.mirostat = Mirostat { version: MirostatVersion::V2, ..Mirostat::default() }),
];

fn main() {
    let mut rng = Rng::new(1);
    // A bell of deviation 2 with a tail of likely tokens, roughly as a model's logits are.
    let bell = |rng: &mut Rng| ((0..6).map(|_| rng.next_unit()).sum::<f64>() - 3.0) * 2.8;
    let mut logits: Vec<f32> = (0..N_VOCAB).map(|_| bell(&mut rng) as f32).collect();
    for i in 0..60 {
        logits[(rng.next_u64() % N_VOCAB as u64) as usize] = 18.0 - i as f32 * 0.2;
    }
    let history: Vec<TokenId> = (0..2000).map(|_| (rng.next_u64() % 500) as TokenId).collect();
    let mut scratch = Scratch::default();
    for (name, change) in ROWS {
        let mut params = Params::neutral();
        change(&mut params);
        let mut sampler = Sampler::new(params, 1);
        report(name, || {
            let _ = black_box(sampler.sample(&mut scratch, black_box(&logits), &history, None));
        });
    }
    report("logprobs of the chosen token and 5 others", || drop(black_box(logprobs(&mut scratch, &logits, 1, 5))));
    report("naive: softmax and sort of the vocabulary", || {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let mut all: Vec<(TokenId, f32)> = (0..).zip(logits.iter().map(|x| (x - max).exp())).collect();
        all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
        black_box(all);
    });
}

/// Prints the median and the fastest time.
fn report(name: &str, mut run: impl FnMut()) {
    run();
    let mut micros: Vec<f64> = (0..N_RUN)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    println!("{name:50} {:8.1} us median {:8.1} us fastest", micros[N_RUN / 2], micros[0]);
}
