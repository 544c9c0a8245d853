//! Both jobs on a model that checks what it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::{Batch, PageId, Runner, RunnerInfo, Want};
use mlxr_testing::Scripted;
use mlxr_tools::bench::{self, Test};
use mlxr_tools::logits;

const N_VOCAB: usize = 8;

/// Logits of token `t` at position `i` are `10 t + i`, in every place. `n_step` counts its steps.
fn fake(n_step: &Arc<AtomicUsize>) -> impl Runner {
    let (n_step, mut stored) = (n_step.clone(), [0; 4]);
    let mut runner = Scripted::new(N_VOCAB, 1, move |batch: &Batch, logits: &mut Vec<f32>| {
        n_step.fetch_add(1, Ordering::SeqCst);
        let mut pages: Vec<PageId> = Vec::new();
        for row in &batch.rows {
            let tokens = &batch.tokens[row.tokens.0..row.tokens.1];
            assert!(row.start == 0 || stored[row.slot] == row.start, "a gap in the sequence");
            stored[row.slot] = row.start + tokens.len();
            assert_eq!(row.pages.1 - row.pages.0, (row.start + tokens.len()).div_ceil(PAGE_TOKENS));
            pages.extend(&batch.pages[row.pages.0..row.pages.1]);
            let last = tokens.len() - 1;
            for (i, token) in tokens.iter().enumerate() {
                if row.want == Want::All || (row.want == Want::Last && i == last) {
                    logits.extend([(*token * 10) as f32 + (row.start + i) as f32; N_VOCAB]);
                }
            }
        }
        pages.sort_unstable();
        assert!(pages.is_sorted_by(|a, b| a < b), "two sequences share a page");
        assert!(pages.iter().all(|page| page.0 < 80));
    });
    let info = RunnerInfo { n_ctx: 600, n_page: 80, n_slot: 4, page_bytes: 1, recurrent: true, ..runner.info.clone() };
    runner.info = info;
    runner
}

#[test]
fn logits_are_written_in_the_format_of_the_fixtures() {
    let tokens: Vec<u32> = (0..600).map(|i| i % 7).collect();
    let mut out = Vec::new();
    logits::write(&mut fake(&Arc::default()), &tokens, &mut out).expect("it fits");
    let word = |i: usize| i32::from_le_bytes(out[i * 4..i * 4 + 4].try_into().expect("four bytes"));
    assert_eq!((word(0), word(1)), (600, N_VOCAB as i32));
    assert_eq!(out.len(), 8 + 600 * 4 + 600 * N_VOCAB * 4);
    for (i, token) in tokens.iter().enumerate() {
        assert_eq!(word(2 + i), *token as i32);
        let logit = f32::from_bits(word(2 + 600 + i * N_VOCAB) as u32);
        assert_eq!(logit, (token * 10) as f32 + i as f32);
    }
}

#[test]
fn logits_of_bad_tokens_are_refused() {
    let rows: [(&[u32], &str); 3] = [
        (&[], "no tokens: give at least one"),
        (&[1, 8], "token 8 is not in the vocabulary of 8"),
        (&[0; 601], "601 tokens are needed and the model holds 600: ask for fewer, or raise --ctx"),
    ];
    for (tokens, want) in rows {
        let error = logits::write(&mut fake(&Arc::default()), tokens, &mut Vec::new()).expect_err(want);
        assert_eq!(error.to_string(), want);
    }
}

#[test]
fn a_test_makes_the_steps_it_says() {
    // Depth in whole steps, then the prompt or the decoded tokens; twice, since the first run does not count.
    let rows = [
        (Test { n_prompt: 100, n_gen: 0, n_depth: 0, n_seq: 1 }, 1),
        (Test { n_prompt: 50, n_gen: 0, n_depth: 520, n_seq: 1 }, 3),
        (Test { n_prompt: 0, n_gen: 9, n_depth: 0, n_seq: 1 }, 9),
        (Test { n_prompt: 0, n_gen: 9, n_depth: 33, n_seq: 4 }, 4 + 9),
    ];
    for (test, n_step) in rows {
        let n_made = Arc::default();
        let samples = bench::run(&mut fake(&n_made), &test, 1).expect("it fits");
        assert_eq!((n_made.load(Ordering::SeqCst), samples.samples_ns.len()), (2 * n_step, 1), "{test:?}");
        let n_token = (test.n_prompt + test.n_gen) * test.n_seq;
        let want = n_token as f64 / (samples.samples_ns[0] as f64 / 1e9);
        assert!((samples.avg_ts / want - 1.0).abs() < 1e-6);
    }
    let error = bench::run(&mut fake(&Arc::default()), &Test { n_prompt: 0, n_gen: 9, n_depth: 0, n_seq: 5 }, 1);
    assert_eq!(
        error.expect_err("four slots").to_string(),
        "5 sequences at once are needed and the model holds 4: ask for fewer columns"
    );
}
