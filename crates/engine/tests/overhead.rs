//! A step allocates nothing after warm-up: allocators take locks and time, and buffers that come and go break up memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use mlxr_engine::sampler::Params;
use mlxr_engine::{Batch, Config, Engine, Parts, Request, Runner, TokenEvent, TokenId, Want};
use mlxr_testing::{Counting, Scripted};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

const N_VOCAB: usize = 1000;
const N_SEQ: usize = 32;
const N_TOKEN: usize = 1900;

/// Counts up from the last token, over a few of them, once all requests have come: making them allocates. Notes what the
/// allocator had given at each step.
fn counting(
    given: Arc<Vec<AtomicU64>>,
    n_step: Arc<AtomicUsize>,
    all_came: Arc<AtomicBool>,
) -> impl FnMut(&Batch, &mut Vec<f32>) + Send {
    move |batch, logits| {
        while !all_came.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        given[n_step.fetch_add(1, Ordering::SeqCst)].store(ALLOCATOR.given(), Ordering::SeqCst);
        for row in &batch.rows {
            let tokens = &batch.tokens[row.tokens.0..row.tokens.1];
            let wanted = match row.want {
                Want::Last => &tokens[tokens.len() - 1..],
                Want::All => tokens,
                _ => &[],
            };
            for token in wanted {
                let first = logits.len();
                logits.resize(first + N_VOCAB, 0.0);
                logits[first + (*token as usize * 7 + 3) % 31] = 9.0;
            }
        }
    }
}

#[test]
fn steps_allocate_nothing_after_warm_up() {
    for max_draft in [0, 16] {
        let given: Arc<Vec<AtomicU64>> = Arc::new((0..4 * N_TOKEN).map(|_| AtomicU64::new(0)).collect());
        let (n_step, first_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
        let all_came = Arc::new(AtomicBool::new(false));
        let mut runner = Scripted::new(N_VOCAB, 1024, counting(given.clone(), n_step.clone(), all_came.clone()));
        runner.gives_maxima = true;
        let config = Config { max_running: N_SEQ, max_draft, ..Config::default() };
        let engine = Engine::spawn(Parts::from(Box::new(runner) as Box<dyn Runner>), config).expect("valid limits");
        let n_left = Arc::new(AtomicUsize::new(N_SEQ));
        let tickets: Vec<_> = (0..N_SEQ)
            .map(|i| {
                let prompt: Vec<TokenId> = (0..40 + i).map(|at| (at % 31) as TokenId).collect();
                let params = Params { repeat_penalty: 1.0001, ..Params::greedy() };
                let (n_left, n_step, first_end) = (n_left.clone(), n_step.clone(), first_end.clone());
                let sink = move |event| {
                    if matches!(event, TokenEvent::Finished { .. }) {
                        first_end.fetch_min(n_step.load(Ordering::SeqCst), Ordering::SeqCst);
                        n_left.fetch_sub(1, Ordering::SeqCst);
                    }
                };
                let request = Request { params, ..Request::new(prompt, N_TOKEN) };
                engine.submit(request, Box::new(sink)).expect("a valid request")
            })
            .collect();
        all_came.store(true, Ordering::SeqCst);
        // A channel would allocate when it is waited for, which is counted too.
        while n_left.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        engine.shutdown();
        drop(tickets);
        // The first steps read prompts, try lengths of drafts and make memory; then sequences end.
        let to = first_end.load(Ordering::SeqCst) - 2;
        let from = to / 2;
        let n = given[to].load(Ordering::SeqCst) - given[from].load(Ordering::SeqCst);
        assert!(to - from > 5, "too few steps: {to}");
        assert_eq!(n, 0, "allocations in {} steps of {N_SEQ} sequences, drafts of {max_draft}", to - from);
    }
}
