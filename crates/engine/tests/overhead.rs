//! A step allocates nothing after warm-up: allocators take locks and time, and buffers that come and go break up memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;

use mlxr_engine::sampler::Params;
use mlxr_engine::{
    Batch, Config, Engine, Outputs, PageId, Parts, Request, RunError, Runner, RunnerInfo, TokenEvent, TokenId, Want,
};
use mlxr_testing::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

const N_VOCAB: usize = 1000;
const N_SEQ: usize = 32;
const N_TOKEN: usize = 600;

/// Counts up from the last token, over a few of them; notes what the allocator had given at each step.
struct Cheap {
    logits: Vec<f32>,
    given: Arc<Vec<AtomicU64>>,
    n_step: usize,
}

impl Runner for Cheap {
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
        self.given[self.n_step].store(ALLOCATOR.given(), Ordering::SeqCst);
        self.n_step += 1;
        self.logits.clear();
        for row in &batch.rows {
            let tokens = &batch.tokens[row.tokens.0..row.tokens.1];
            let wanted = match row.want {
                Want::Last => &tokens[tokens.len() - 1..],
                Want::All => tokens,
                _ => &[],
            };
            for token in wanted {
                let first = self.logits.len();
                self.logits.resize(first + N_VOCAB, 0.0);
                self.logits[first + (*token as usize * 7 + 3) % 31] = 9.0;
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Outputs<'_>, RunError> {
        Ok(Outputs { data: &self.logits, n_vocab: N_VOCAB, d_model: 1 })
    }

    fn copy_page(&mut self, _: PageId, _: PageId) {}
    fn export_page(&self, _: PageId, _: &mut Vec<u8>) {}
    fn import_page(&mut self, _: PageId, _: &[u8]) -> Result<(), RunError> {
        Ok(())
    }
}

#[test]
fn steps_allocate_nothing_after_warm_up() {
    for max_draft in [0, 16] {
        let given: Arc<Vec<AtomicU64>> = Arc::new((0..4 * N_TOKEN).map(|_| AtomicU64::new(0)).collect());
        let runner = Cheap { logits: Vec::with_capacity(N_VOCAB * 1024), given: given.clone(), n_step: 0 };
        let config = Config { max_running: N_SEQ, max_draft, ..Config::default() };
        let engine = Engine::spawn(Parts::from(Box::new(runner) as Box<dyn Runner>), config).expect("valid limits");
        let (ended, end) = mpsc::channel();
        let n_left = Arc::new(AtomicUsize::new(N_SEQ));
        let tickets: Vec<_> = (0..N_SEQ)
            .map(|i| {
                let prompt: Vec<TokenId> = (0..40 + i).map(|at| (at % 31) as TokenId).collect();
                let params = Params { repeat_penalty: 1.0001, ..Params::greedy() };
                let (ended, n_left) = (ended.clone(), n_left.clone());
                let sink = move |event| {
                    if matches!(event, TokenEvent::Finished { .. }) && n_left.fetch_sub(1, Ordering::SeqCst) == 1 {
                        ended.send(()).expect("the test waits");
                    }
                };
                let request = Request { params, ..Request::new(prompt, N_TOKEN) };
                engine.submit(request, Box::new(sink)).expect("a valid request")
            })
            .collect();
        end.recv().expect("all end");
        let n_step = engine.stats().n_step as usize;
        engine.shutdown();
        drop(tickets);
        // The first steps read prompts and make memory; in the last ones sequences end.
        let (from, to) = (n_step / 3, n_step * 2 / 3);
        let n = given[to].load(Ordering::SeqCst) - given[from].load(Ordering::SeqCst);
        assert!(to - from > 5, "too few steps: {n_step}");
        assert_eq!(n, 0, "allocations in {} steps of {N_SEQ} sequences, drafts of {max_draft}", to - from);
    }
}
