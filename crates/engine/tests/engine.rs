//! The engine on a model that can be checked.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Fake, Fault, collect, continuation, greedy, next_token, spawn, submit};
use mlxr_engine::sampler::{Params, Rng};
use mlxr_engine::{
    Batch, ClientId, Config, Engine, FinishReason, Parts, Request, Runner, Sink, SubmitError, TokenEvent, TokenId,
};
use mlxr_testing::{Scripted, n_logits};

#[test]
fn every_request_gets_its_own_text_however_they_share_the_arena() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut rng = Rng::new(seed);
        let mut below = |n: usize| (rng.next_u64() % n as u64) as usize;
        let config = Config { step_tokens: 8 + below(40), max_running: 1 + below(8), ..Config::default() };
        let (n_page, n_slot) = (10 + below(20), 1 + below(6));
        let fake = if below(3) == 0 { Fake::recurrent(n_page, n_slot) } else { Fake::new(n_page) };
        let engine = spawn(fake, config);
        let mut requests = Vec::new();
        for _ in 0..30 {
            let family = below(3) as TokenId;
            let prompt: Vec<TokenId> = (0..1 + below(70)).map(|at| (family + at as TokenId * 3) % 50).collect();
            let n = 1 + below(60);
            requests.push((prompt.clone(), n, submit(&engine, greedy(prompt, n))));
        }
        for (prompt, n, (_ticket, events)) in requests {
            let (tokens, reason, usage) = collect(&events);
            assert_eq!((tokens, reason), (continuation(&prompt, n), FinishReason::Length));
            assert_eq!((usage.n_prompt, usage.n_generated), (prompt.len(), n));
        }
        engine.shutdown();
        let stats = engine.stats();
        assert_eq!((stats.running, stats.waiting, stats.pages_used), (0, 0, 0), "{stats:?}");
        assert_eq!(stats.pages_free + stats.pages_cached, n_page);
    }
}

#[test]
fn a_stop_token_ends_a_sequence_and_is_not_reported() {
    let engine = spawn(Fake::new(32), Config::default());
    let prompt = vec![1, 2, 3];
    let text = continuation(&prompt, 20);
    let at = (1..20).find(|i| !text[..*i].contains(&text[*i])).expect("a token that is new");
    let (_ticket, events) = submit(&engine, Request { stop_tokens: vec![text[at]], ..greedy(prompt, 100) });
    let (tokens, reason, usage) = collect(&events);
    assert_eq!((tokens.as_slice(), reason), (&text[..at], FinishReason::Stop(text[at])));
    assert_eq!(usage.n_generated, at + 1);
}

#[test]
fn the_context_ends_a_sequence() {
    let engine = spawn(Fake::new(32), Config { max_context: 40, ..Config::default() });
    let (_ticket, events) = submit(&engine, greedy(vec![5; 30], 1000));
    let (tokens, reason, _) = collect(&events);
    assert_eq!((tokens.len(), reason), (11, FinishReason::Length), "the last token need not be stored");
}

#[test]
fn a_conversation_does_not_read_its_past_again() {
    let engine = spawn(Fake::new(64), Config::default());
    let mut history: Vec<TokenId> = (0..40).collect();
    let (_ticket, events) = submit(&engine, greedy(history.clone(), 30));
    history.extend(collect(&events).0);
    history.extend([1, 2, 3]);
    let (_ticket, events) = submit(&engine, greedy(history.clone(), 5));
    let (tokens, _, usage) = collect(&events);
    // 69 of 70 tokens were stored, in four whole pages.
    assert_eq!((usage.n_cached, usage.n_prompt), (64, 73));
    assert_eq!(tokens, continuation(&history, 5));
}

#[test]
fn logprobs_come_when_asked_for() {
    let engine = spawn(Fake::new(32), Config::default());
    let (_ticket, events) = submit(&engine, Request { logprobs: Some(3), ..greedy(vec![1], 2) });
    let want = 5.0 - (5f32.exp() + 49.0).ln();
    let TokenEvent::Token { token, logprob, top } = events.recv().expect("a token") else { panic!("no token") };
    assert!((logprob.expect("asked for") - want).abs() < 1e-5);
    assert_eq!((top.len(), top[0].token), (3, token));
}

#[test]
fn a_prompts_logprobs_come_for_every_token_and_choice() {
    let prompt: Vec<TokenId> = (0..150).map(|at| if at % 3 == 0 { at % 50 } else { 7 }).collect();
    for (n_page, step_tokens) in [(64, 512), (64, 40), (26, 40)] {
        let config = Config { step_tokens, max_running: 8, ..Config::default() };
        let engine = spawn(Fake::new(n_page), config);
        // It is cached, and computed all the same; others run beside it.
        let (_first, first) = submit(&engine, greedy(prompt.clone(), 40));
        first.recv().expect("a token");
        let request = Request { prompt_logprobs: Some(2), ..greedy(prompt.clone(), 30) };
        let (sinks, choices): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let (sender, events) = mpsc::channel();
                (Box::new(move |event| drop(sender.send(event))) as Sink, events)
            })
            .unzip();
        let _tickets = engine.submit_all(request, sinks).expect("a valid request");
        for events in choices {
            let told: Vec<_> = events.iter().collect();
            let read: Vec<_> = told
                .iter()
                .map_while(|event| if let TokenEvent::Prompt(read) = event { Some(read) } else { None })
                .collect();
            assert_eq!(read.iter().map(|read| read.token).collect::<Vec<_>>(), prompt);
            assert_eq!((read[0].logprob, read[0].rank, read[0].top.len()), (None, 0, 0));
            for (at, read) in read.iter().enumerate().skip(1) {
                let likeliest = next_token(&prompt[..at]);
                let hit = likeliest == prompt[at];
                let want = if hit { 5.0 } else { 0.0 } - (5f32.exp() + 49.0).ln();
                assert!((read.logprob.expect("all but the first have one") - want).abs() < 1e-5, "token {at}");
                assert_eq!((read.rank, read.top.len(), read.top[0].token), (if hit { 1 } else { 2 }, 2, likeliest));
            }
            let said = told.iter().filter_map(|event| match event {
                TokenEvent::Token { token, .. } => Some(*token),
                _ => None,
            });
            assert_eq!(said.collect::<Vec<_>>(), continuation(&prompt, 30));
            let Some(TokenEvent::Finished { usage, .. }) = told.last() else { panic!("no end") };
            assert_eq!(usage.n_cached, 0);
        }
        assert_eq!(collect(&first).0.len(), 39);
    }
}

/// An engine whose steps wait for the test.
fn gated(mut fake: Fake, config: Config) -> (Engine, Sender<()>) {
    let (open, gate) = mpsc::channel();
    fake.gate = Some(gate);
    (spawn(fake, config), open)
}

#[test]
fn cancelling_and_dropping_a_ticket_free_the_sequence() {
    let (engine, open) = gated(Fake::new(32), Config::default());
    let (first, first_events) = submit(&engine, greedy(vec![1; 20], 1000));
    let (second, second_events) = submit(&engine, greedy(vec![2; 20], 1000));
    open.send(()).expect("it waits");
    first_events.recv().expect("a token");
    first.cancel();
    drop(second);
    for _ in 0..3 {
        let _ = open.send(());
    }
    assert_eq!(collect(&first_events).1, FinishReason::Cancelled);
    assert_eq!(collect(&second_events).1, FinishReason::Cancelled);
    drop(open);
    engine.shutdown();
    assert_eq!((engine.stats().running, engine.stats().pages_used), (0, 0));
}

#[test]
fn a_queue_has_a_limit_and_cancelling_makes_room() {
    let config = Config { max_running: 1, step_tokens: 8, max_queue: 2, ..Config::default() };
    let (engine, open) = gated(Fake::new(32), config);
    let (_running, events) = submit(&engine, greedy(vec![1], 2));
    open.send(()).expect("it waits");
    events.recv().expect("a token: the first request has started");
    let (_a, _a_events) = submit(&engine, greedy(vec![2], 1));
    let (b, b_events) = submit(&engine, greedy(vec![3], 1));
    let refused = engine.submit(greedy(vec![4], 1), Box::new(|_| panic!("a refused request hears nothing")));
    assert!(matches!(refused.expect_err("the queue is full"), SubmitError::QueueFull { limit: 2, retry_s: 1.. }));
    b.cancel();
    open.send(()).expect("it waits");
    collect(&b_events);
    submit(&engine, greedy(vec![4], 1));
    for _ in 0..20 {
        let _ = open.send(());
    }
}

#[test]
fn a_client_has_a_limit_of_its_own() {
    let (engine, open) = gated(Fake::new(32), Config { max_client: 2, ..Config::default() });
    let of = |client| Request { client: ClientId(client), ..greedy(vec![1], 1) };
    let (_a, a_events) = submit(&engine, of(1));
    let (_b, _b_events) = submit(&engine, of(1));
    let refused = engine.submit(of(1), Box::new(|_| panic!("a refused request hears nothing")));
    assert!(matches!(refused.expect_err("two of this client"), SubmitError::ClientFull { limit: 2, retry_s: 1.. }));
    let (_c, _c_events) = submit(&engine, of(2));
    for _ in 0..4 {
        let _ = open.send(());
    }
    collect(&a_events);
    let (_d, _d_events) = submit(&engine, of(1));
    drop(open);
}

#[test]
fn a_broken_model_fails_its_requests_and_refuses_others() {
    let cases = [
        (Fault::Error(2), "the device is gone"),
        (Fault::Panic(2), "it panicked: index out of bounds"),
        (Fault::TooFewLogits(2), "the model returned fewer logits than were asked for"),
    ];
    for (fault, want) in cases {
        let mut fake = Fake::new(32);
        fake.fault = fault;
        let config = Config { max_running: 2, ..Config::default() };
        let (engine, open) = gated(fake, config);
        let sinks: Vec<_> = (0..4).map(|i| submit(&engine, greedy(vec![i], 50))).collect();
        for _ in 0..2 {
            // The engine may have stopped before it waits a second time.
            let _ = open.send(());
        }
        for (_ticket, events) in &sinks {
            // A request that was still on its way when the engine stopped hears only that.
            let reason = collect(events).1;
            let FinishReason::Error(text) = reason else { panic!("{reason:?}") };
            assert!(text == want || text == "the model stopped running", "{text}");
        }
        let refused = engine.submit(greedy(vec![1], 1), Box::new(|_| ())).expect_err("dead");
        assert_eq!(refused, SubmitError::Dead(want.into()));
        engine.shutdown();
    }
}

#[test]
fn logits_that_are_no_numbers_end_the_sequence_and_not_the_engine() {
    let mut fake = Fake::new(32);
    fake.fault = Fault::NotANumber(2);
    let engine = spawn(fake, Config::default());
    let (_ticket, events) = submit(&engine, greedy(vec![1], 9));
    let (tokens, reason, _) = collect(&events);
    assert_eq!(tokens.len(), 1);
    let FinishReason::Error(text) = reason else { panic!("{reason:?}") };
    assert!(text.starts_with("the model computed no usable logits"), "{text}");
    let (_ticket, events) = submit(&engine, greedy(vec![1], 9));
    assert_eq!(collect(&events).0, continuation(&[1], 9));
}

#[test]
fn a_request_out_of_bounds_is_refused_with_its_reason() {
    let engine = spawn(Fake::new(2), Config::default());
    let cases: [(Request, &str); 6] = [
        (greedy(vec![], 1), "the prompt has no tokens: give at least one, such as the beginning-of-sequence token"),
        (
            greedy(vec![1; 33], 1),
            "the prompt has 33 tokens and the context 32: shorten the prompt or raise the context",
        ),
        (greedy(vec![50], 1), "`tokens` has token 50, and the vocabulary 50 tokens"),
        (
            Request { params: Params { logit_bias: vec![(99, 1.0)], ..Params::greedy() }, ..greedy(vec![1], 1) },
            "`logit_bias` has token 99, and the vocabulary 50 tokens",
        ),
        (Request { logprobs: Some(500), ..greedy(vec![1], 1) }, "`logprobs` is 500, the limit 128"),
        (
            Request { params: Params { top_p: 2.0, ..Params::greedy() }, ..greedy(vec![1], 1) },
            "`top_p` is 2, expected a number from 0 to 1",
        ),
    ];
    for (request, want) in cases {
        let error = engine.submit(request, Box::new(|_| ())).expect_err(want);
        assert_eq!(error.to_string(), want);
    }
    let error = Engine::spawn(Fake::new(9).parts(), Config { step_tokens: 0, ..Config::default() }).expect_err("0");
    assert_eq!(error.to_string(), "engine limit `step_tokens` is 0, expected at least 9");
}

#[test]
fn a_request_without_tokens_to_generate_only_reads_its_prompt() {
    let engine = spawn(Fake::new(32), Config::default());
    let (_ticket, events) = submit(&engine, greedy(vec![1; 20], 0));
    let (tokens, reason, usage) = collect(&events);
    assert_eq!((tokens.len(), reason, usage.n_generated), (0, FinishReason::Length, 0));
    assert_eq!(engine.stats().pages_cached, 1);
}

#[test]
fn choices_of_a_prompt_share_it() {
    for (n_running, is_recurrent) in [(8, false), (2, false), (4, true)] {
        let fake = if is_recurrent { Fake::recurrent(32, 8) } else { Fake::new(32) };
        let engine = spawn(fake, Config { max_running: n_running, ..Config::default() });
        let prompt: Vec<TokenId> = (0..40).collect();
        let (sender, events) = mpsc::channel();
        let sinks = (0..5).map(|i| {
            let sender = sender.clone();
            Box::new(move |event| drop(sender.send((i, event)))) as Sink
        });
        let params = Params { seed: Some(3), temperature: 4.0, ..Params::neutral() };
        let request = Request { params, ..Request::new(prompt.clone(), 30) };
        let tickets = engine.submit_all(request, sinks.collect()).expect("a valid request");
        drop(sender);
        let mut texts = vec![Vec::new(); 5];
        let mut n_end = 0;
        for (i, event) in events {
            match event {
                TokenEvent::Prompt(_) => panic!("nobody asked for the prompt's logprobs"),
                TokenEvent::Token { token, .. } => texts[i].push(token),
                TokenEvent::Finished { reason, usage } => {
                    assert_eq!((reason, usage.n_prompt, usage.n_generated), (FinishReason::Length, 40, 30));
                    n_end += 1;
                }
            }
        }
        assert_eq!((n_end, tickets.len()), (5, 5));
        // Each choice is what its seed gives alone.
        for (i, text) in texts.iter().enumerate() {
            let params = Params { seed: Some(3 + i as u64), temperature: 4.0, ..Params::neutral() };
            let (_ticket, events) = submit(&engine, Request { params, ..Request::new(prompt.clone(), 30) });
            assert_eq!(collect(&events).0, *text, "choice {i}");
        }
        engine.shutdown();
        let stats = engine.stats();
        assert_eq!((stats.running, stats.waiting, stats.pages_used), (0, 0, 0));
        assert!(
            is_recurrent || n_running < 8 || stats.n_prompt < 40 + 5 * 16,
            "the prompt was computed again: {stats:?}"
        );
    }
}

#[test]
fn choices_outlive_the_one_that_reads_their_prompt() {
    for cancelled in 0..3 {
        let (engine, open) = gated(Fake::new(32), Config { step_tokens: 32, ..Config::default() });
        let (sender, events) = mpsc::channel();
        let sinks = (0..3).map(|i| {
            let sender = sender.clone();
            Box::new(move |event| drop(sender.send((i, event)))) as Sink
        });
        let mut tickets = engine.submit_all(greedy(vec![1; 50], 4), sinks.collect()).expect("a valid request");
        drop(sender);
        drop(tickets.remove(cancelled));
        for _ in 0..12 {
            let _ = open.send(());
        }
        let mut ends = vec![None; 3];
        for (i, event) in events {
            if let TokenEvent::Finished { reason, .. } = event {
                assert_eq!(ends[i].replace(reason), None);
            }
        }
        for (i, end) in ends.into_iter().enumerate() {
            assert_eq!(end, Some(if i == cancelled { FinishReason::Cancelled } else { FinishReason::Length }));
        }
        drop(open);
        engine.shutdown();
        assert_eq!(engine.stats().pages_used, 0);
    }
}

#[test]
fn requests_with_different_salts_share_nothing() {
    let engine = spawn(Fake::new(64), Config::default());
    let cached = |salt: &[u8]| {
        let (_ticket, events) = submit(&engine, Request { salt: salt.to_vec(), ..greedy(vec![1; 40], 1) });
        collect(&events).2.n_cached
    };
    assert_eq!([b"a", b"b", b"a"].map(|salt| cached(salt)), [0, 0, 32]);
}

#[test]
fn usage_tells_where_the_time_went() {
    let now = Arc::new(AtomicU64::new(0));
    let clock = {
        let now = now.clone();
        Arc::new(move || Duration::from_millis(now.load(Ordering::SeqCst)))
    };
    let (open, gate) = mpsc::channel();
    let mut fake = Fake::new(32);
    fake.gate = Some(gate);
    let engine = Engine::spawn_with_clock(fake.parts(), Config::default(), clock).expect("valid limits");
    let (sender, events) = mpsc::channel();
    // The sink moves the clock: 5 ms after each token.
    let sink = {
        let now = now.clone();
        move |event| {
            now.fetch_add(5, Ordering::SeqCst);
            drop(sender.send(event));
        }
    };
    let _ticket = engine.submit(greedy(vec![1], 3), Box::new(sink)).expect("a valid request");
    (0..3).for_each(|_| open.send(()).expect("it waits"));
    let usage = collect(&events).2;
    assert_eq!([usage.queue, usage.prefill, usage.decode], [0, 0, 15].map(Duration::from_millis));
}

#[test]
fn steps_in_which_kernels_were_compiled_teach_the_pace_nothing() {
    // By how many steps say that they compiled: tokens of the step after a first one that took a minute.
    for (n_compiled, expect) in [(0, 32), (1, 128)] {
        let (now, steps) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (took, made) = (now.clone(), steps.clone());
        let mut runner = Scripted::new(64, 1, move |batch: &Batch, logits: &mut Vec<f32>| {
            let mut made = made.lock().expect("no one panicked");
            took.fetch_add(if made.is_empty() { 60_000 } else { 1 }, Ordering::SeqCst);
            made.push(batch.tokens.len());
            logits.resize(64 * n_logits(batch), 0.0);
        });
        runner.n_compiled = n_compiled;
        let parts = Parts::from(Box::new(runner) as Box<dyn Runner>);
        let clock = Arc::new(move || Duration::from_millis(now.load(Ordering::SeqCst)));
        let config = Config { step_tokens: 512, ..Config::default() };
        let engine = Engine::spawn_with_clock(parts, config, clock).expect("valid limits");
        let (_ticket, events) = submit(&engine, greedy(vec![1; 600], 1));
        collect(&events);
        assert_eq!(steps.lock().expect("no one panicked")[..2], [128, expect]);
    }
}
