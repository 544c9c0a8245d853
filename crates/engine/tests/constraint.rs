//! What a grammar allows is said and nothing else, with drafts and without.

mod common;

use std::sync::Arc;

use common::{Fake, N_VOCAB, collect, next_token, submit};
use mlxr_engine::constraint::{Constraint, ConstraintError, Grammar, Progress, SharedGrammar};
use mlxr_engine::sampler::{Mask, Params};
use mlxr_engine::{Config, Draft, Engine, FinishReason, Parts, Request, Runner, TokenId};

const STOP: TokenId = 49;

/// A grammar over ids: at each place a set of tokens, at some places one.
#[derive(Clone, Copy)]
struct Steps {
    /// Nothing comes after so many tokens.
    n: usize,
    /// From here on the stop token may come too.
    may_stop: usize,
    /// Fails here.
    fails: usize,
}

struct Walk {
    steps: Steps,
    pushed: Vec<TokenId>,
}

/// Three places of four have a choice, and then comes a run of forced tokens.
fn allows(at: usize, token: TokenId) -> bool {
    match at % 12 {
        0..=7 => token as usize % 5 == at % 5,
        _ => token as usize == at * 7 % 40,
    }
}

impl Grammar for Steps {
    fn begin(&self) -> Box<dyn Constraint> {
        Box::new(Walk { steps: *self, pushed: Vec::new() })
    }
}

impl Constraint for Walk {
    fn allowed(&mut self, mask: &mut Mask) -> Result<(), ConstraintError> {
        let at = self.pushed.len();
        if at == self.steps.fails {
            return Err(ConstraintError("it is too long".into()));
        }
        mask.clear();
        (0..STOP).filter(|token| allows(at, *token)).for_each(|token| mask.allow(token));
        if at >= self.steps.may_stop {
            mask.allow(STOP);
        }
        Ok(())
    }

    fn push(&mut self, token: TokenId) -> Result<Progress, ConstraintError> {
        assert!(token == STOP || allows(self.pushed.len(), token), "{token} at {}", self.pushed.len());
        self.pushed.push(token);
        Ok(if self.pushed.len() >= self.steps.n { Progress::Complete } else { Progress::Open })
    }

    fn pop(&mut self, n: usize) -> Result<(), ConstraintError> {
        self.pushed.truncate(self.pushed.len() - n);
        Ok(())
    }

    fn n_allowed(&mut self, tokens: &[TokenId]) -> usize {
        let from = self.pushed.len();
        tokens.iter().enumerate().take_while(|(i, token)| allows(from + i, **token)).count()
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) {
        out.clear();
        let places = self.pushed.len()..self.steps.n;
        out.extend(places.take_while(|at| at % 12 > 7).map(|at| (at * 7 % 40) as TokenId));
    }
}

/// What greedy decoding says under the grammar, by definition.
fn said(prompt: &[TokenId], steps: Steps, max_tokens: usize) -> (Vec<TokenId>, FinishReason) {
    let mut tokens = prompt.to_vec();
    for at in 0..max_tokens {
        if at == steps.n {
            return (tokens.split_off(prompt.len()), FinishReason::Complete);
        }
        let next = next_token(&tokens);
        let is_allowed = if next == STOP { at >= steps.may_stop } else { allows(at, next) };
        let lowest = (0..STOP).find(|token| allows(at, *token)).expect("a set has tokens");
        tokens.push(if is_allowed { next } else { lowest });
        if tokens.last() == Some(&STOP) {
            tokens.pop();
            return (tokens.split_off(prompt.len()), FinishReason::Stop(STOP));
        }
    }
    let reason = if max_tokens == steps.n { FinishReason::Complete } else { FinishReason::Length };
    (tokens.split_off(prompt.len()), reason)
}

fn engine(max_draft: usize, draft: bool) -> Engine {
    let fake = |_| Box::new(Fake::new(64)) as Box<dyn Runner>;
    let parts =
        Parts { runner: fake(()), draft: draft.then_some(()).map(fake).map(Draft::from), disk: None, held: None };
    Engine::spawn(parts, Config { max_draft, ..Config::default() }).expect("valid limits")
}

fn request(steps: Steps, params: Params, max_tokens: usize) -> Request {
    let grammar = Some(SharedGrammar(Arc::new(steps)));
    Request { grammar, params, stop_tokens: vec![STOP], ..Request::new(vec![3, 1, 4, 1, 5], max_tokens) }
}

const MEANS: [(usize, bool); 4] = [(0, false), (3, false), (16, false), (16, true)];

#[test]
fn only_what_is_allowed_is_said_and_the_end_is_told() {
    let never = usize::MAX;
    let mut n_stop = 0;
    let rows = [
        (Steps { n: 60, may_stop: never, fails: never }, 200),
        (Steps { n: 60, may_stop: never, fails: never }, 60),
        (Steps { n: 60, may_stop: never, fails: never }, 33),
        (Steps { n: 400, may_stop: 5, fails: never }, 400),
    ];
    for (steps, max_tokens) in rows {
        let want = said(&[3, 1, 4, 1, 5], steps, max_tokens);
        n_stop += usize::from(want.1 == FinishReason::Stop(STOP));
        let mut n_step = Vec::new();
        for (max_draft, draft) in MEANS {
            let engine = engine(max_draft, draft);
            let (_ticket, events) = submit(&engine, request(steps, Params::greedy(), max_tokens));
            let (tokens, reason, usage) = collect(&events);
            assert_eq!((&tokens, &reason), (&want.0, &want.1), "drafts of {max_draft}, by a model: {draft}");
            assert_eq!(usage.n_generated, tokens.len() + usize::from(reason == FinishReason::Stop(STOP)));
            n_step.push(engine.stats().n_step);
            engine.shutdown();
            assert_eq!(engine.stats().pages_used, 0);
        }
        // Runs of four forced tokens take a step less each, at least.
        assert!(want.0.len() < 20 || n_step[2] + 3 <= n_step[0], "{n_step:?}");
        assert!(n_step[3] <= n_step[0], "{n_step:?}");
    }
    assert!(n_stop > 0, "no row ends by the stop token");
}

#[test]
fn the_same_seed_gives_the_same_text_with_drafts_and_without() {
    let steps = Steps { n: 90, may_stop: 70, fails: usize::MAX };
    for seed in 0..20 {
        let params = Params { temperature: 1.5, seed: Some(seed), top_k: 20, repeat_penalty: 1.1, ..Params::neutral() };
        let texts = MEANS.map(|(max_draft, draft)| {
            let engine = engine(max_draft, draft);
            let (_ticket, events) = submit(&engine, request(steps, params.clone(), 100));
            let (tokens, reason, _) = collect(&events);
            (tokens, reason)
        });
        assert!(texts.iter().all(|text| *text == texts[0]), "seed {seed}: {texts:?}");
    }
}

#[test]
fn choices_are_bound_each_by_itself() {
    let steps = Steps { n: 30, may_stop: usize::MAX, fails: usize::MAX };
    let params = Params { temperature: 2.0, seed: Some(1), ..Params::neutral() };
    let engine = engine(16, false);
    let (senders, all): (Vec<_>, Vec<_>) = (0..3).map(|_| std::sync::mpsc::channel()).unzip();
    let sinks = senders.into_iter().map(|sender| Box::new(move |event| drop(sender.send(event))) as _).collect();
    let _tickets = engine.submit_all(request(steps, params, 50), sinks).expect("a valid request");
    let texts: Vec<_> = all.iter().map(collect).collect();
    for (tokens, reason, _) in &texts {
        assert_eq!((tokens.len(), reason), (30, &FinishReason::Complete));
        assert!(tokens.iter().enumerate().all(|(at, token)| allows(at, *token)));
    }
    assert_ne!(texts[0].0, texts[1].0);
}

#[test]
fn a_constraint_that_fails_ends_its_sequence_and_no_other() {
    let engine = engine(16, true);
    let steps = Steps { n: 60, may_stop: usize::MAX, fails: 7 };
    let (_bad, bad) = submit(&engine, request(steps, Params::greedy(), 60));
    let (_good, good) = submit(&engine, request(Steps { fails: usize::MAX, ..steps }, Params::greedy(), 60));
    let (tokens, reason, _) = collect(&bad);
    let message = "the constraint of the output failed: it is too long";
    assert_eq!((tokens.len(), reason), (7, FinishReason::Error(message.into())));
    assert_eq!(collect(&good).1, FinishReason::Complete);
    assert!(N_VOCAB > STOP as usize);
}
