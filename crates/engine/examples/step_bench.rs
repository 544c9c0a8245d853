//! What a step costs besides the model: planning, sampling, telling. `cargo run --release -p mlxr-engine --example step_bench`
//!
//! A runner that computes nothing gives 32 sequences the same logits of 128 256 normal numbers in each step. The engine's
//! part of a real step is this time over the model's.

use std::sync::mpsc;

use mlxr_engine::sampler::{Params, Rng};
use mlxr_engine::{
    Batch, Config, Engine, Outputs, PageId, Parts, Request, RunError, Runner, RunnerInfo, TokenEvent, TokenId,
};

const N_VOCAB: usize = 128_256;
const N_SEQ: usize = 32;
const N_TOKEN: usize = 400;

struct Idle {
    logits: Vec<f32>,
    n_row: usize,
}

impl Runner for Idle {
    fn info(&self) -> RunnerInfo {
        RunnerInfo {
            n_vocab: N_VOCAB,
            d_model: 1,
            n_ctx: 4096,
            n_page: 4096,
            n_slot: usize::MAX,
            page_bytes: 64,
            recurrent: false,
            n_saved: 0,
            window: None,
        }
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunError> {
        self.n_row = batch.rows.len();
        Ok(())
    }

    fn wait(&mut self) -> Result<Outputs<'_>, RunError> {
        Ok(Outputs { data: &self.logits[..self.n_row * N_VOCAB], n_vocab: N_VOCAB, d_model: 1 })
    }

    fn copy_page(&mut self, _: PageId, _: PageId) {}
    fn export_page(&self, _: PageId, _: &mut Vec<u8>) {}
    fn import_page(&mut self, _: PageId, _: &[u8]) -> Result<(), RunError> {
        Ok(())
    }
}

fn main() {
    let mut rng = Rng::new(1);
    let mut normal = || (0..4).map(|_| rng.next_unit() as f32 - 0.5).sum::<f32>() * 6.0;
    let logits: Vec<f32> = (0..N_SEQ * N_VOCAB).map(|_| normal()).collect();
    let rows = [("greedy", Params::greedy()), ("defaults", Params::default())];
    for (name, params) in rows {
        let runner: Box<dyn Runner> = Box::new(Idle { logits: logits.clone(), n_row: 0 });
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
        println!("{name:10} {:.0} us a step of {N_SEQ} sequences", own.as_secs_f64() * 1e6 / stats.n_step as f64);
        drop(tickets);
        engine.shutdown();
    }
}
