//! Speculation changes how fast tokens come and nothing else.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Fake, N_VOCAB, collect, continuation, greedy, submit};
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::sampler::{Params, Rng};
use mlxr_engine::{
    Batch, Config, Draft, Engine, Outputs, PageId, Parts, Reads, Request, RunError, Runner, RunnerInfo, StateId,
    TokenId, Translate, Want,
};

/// A model whose logits are a fixed function of the last two tokens, so that its texts repeat themselves. Each step moves a
/// clock by what it would take: weights are dear, tokens cheap.
struct Markov {
    arena: Vec<[TokenId; PAGE_TOKENS]>,
    logits: Vec<f32>,
    now: Arc<AtomicU64>,
    /// Microseconds of a step and of each token.
    costs: (u64, u64),
    n_step: Arc<AtomicU64>,
    /// Rows that were trees.
    n_tree: Arc<AtomicU64>,
    /// How much this model's logits differ from the other one's.
    noise: f32,
    /// Whether its tokens are numbered from the other end.
    flips: bool,
    /// Whether it knows the token before a new one by the other model's hidden state only.
    reads_hidden: bool,
    /// How many tokens it says at once of the other model's last hidden state, where it does that.
    n_head: usize,
    /// The last two tokens after each new one.
    hidden: Vec<f32>,
    /// Recurrent states by slot, and saved ones: all tokens so far. `None`: the model has none.
    states: Option<(Slots, Vec<Vec<TokenId>>)>,
}

/// What each slot's state has seen.
type Slots = HashMap<usize, Vec<TokenId>>;

/// Slots of a recurrent model, and places for its states.
const N_SLOT: usize = 8;
const N_SAVED: usize = 12;

const N_TOKEN: usize = 12;

fn logits(tokens: &[TokenId], noise: f32, out: &mut Vec<f32>) {
    let last = tokens.iter().rev().take(2).fold(5u64, |hash, token| hash.wrapping_mul(31) + u64::from(*token) + 1);
    let mut rng = Rng::new(last);
    let mut other = Rng::new(last ^ 0xabcd);
    out.extend((0..N_TOKEN).map(|_| 4.0 * rng.next_unit() as f32 + noise * other.next_unit() as f32));
}

impl Markov {
    /// Logits of its heads: each goes on with what is likeliest before.
    fn say(&mut self, pair: TokenId) {
        let mut two = [pair / N_TOKEN as TokenId, pair % N_TOKEN as TokenId];
        for head in 0..=self.n_head {
            let mut all = Vec::new();
            logits(&two, self.noise, &mut all);
            let best = (0..N_TOKEN).max_by(|a, b| all[*a].total_cmp(&all[*b])).expect("some tokens");
            two = [two[1], best as TokenId];
            // The first is the token that is known already.
            if head > 0 {
                self.logits.extend(all);
            }
        }
    }
}

impl Runner for Markov {
    fn info(&self) -> RunnerInfo {
        RunnerInfo {
            n_vocab: N_TOKEN,
            d_model: 1,
            n_ctx: 4096,
            n_page: self.arena.len(),
            n_slot: if self.states.is_some() { N_SLOT } else { usize::MAX },
            page_bytes: 4 * PAGE_TOKENS,
            recurrent: self.states.is_some(),
            n_saved: if self.states.is_some() { N_SAVED } else { 0 },
            window: None,
        }
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunError> {
        self.logits.clear();
        self.hidden.clear();
        let reads = self.reads_hidden || self.n_head > 0;
        assert_eq!(batch.features.len(), if reads { batch.tokens.len() } else { 0 });
        self.n_step.fetch_add(1, Ordering::SeqCst);
        self.now.fetch_add(self.costs.0 + self.costs.1 * batch.tokens.len() as u64, Ordering::SeqCst);
        if self.n_head > 0 {
            batch.features.iter().for_each(|state| self.say(*state as TokenId));
            return Ok(());
        }
        for row in &batch.rows {
            let new = &batch.tokens[row.tokens.0..row.tokens.1];
            let pages = &batch.pages[row.pages.0..row.pages.1];
            for (at, token) in (row.start..).zip(new) {
                self.arena[pages[at / PAGE_TOKENS].0 as usize][at % PAGE_TOKENS] = *token;
            }
            let n = row.start + new.len();
            let mut stored: Vec<TokenId> =
                (0..n).map(|at| self.arena[pages[at / PAGE_TOKENS].0 as usize][at % PAGE_TOKENS]).collect();
            if self.flips {
                stored.iter_mut().for_each(|token| *token = flip(*token));
            }
            if let Some((slots, _)) = &mut self.states {
                assert!(row.parents.is_none(), "a state follows one line");
                let state = slots.entry(row.slot).or_default();
                state.truncate(if row.start == 0 { 0 } else { usize::MAX });
                assert_eq!(state[..], stored[..row.start], "the slot holds another state");
                state.extend(new);
            }
            let parents = row.parents.map(|(from, to)| &batch.parents[from..to]);
            self.n_tree.fetch_add(u64::from(parents.is_some()), Ordering::SeqCst);
            // Where the token before one of the row stands, which in a tree is its parent.
            let before = |i: usize| match parents.map(|parents| parents[i]) {
                Some(parent) if parent >= 0 => Some(row.start + parent as usize),
                Some(_) => row.start.checked_sub(1),
                None => (row.start + i).checked_sub(1),
            };
            for (i, new) in new.iter().enumerate() {
                let before = match self.reads_hidden {
                    true => batch.features[row.tokens.0 + i] as TokenId % N_TOKEN as TokenId,
                    false => before(i).map_or(0, |at| stored[at]),
                };
                self.hidden.push((before * N_TOKEN as TokenId + new) as f32);
            }
            let first = match row.want {
                Want::Last => n - 1,
                Want::All => row.start,
                _ => n,
            };
            for at in first..n {
                let begin = self.logits.len();
                match self.reads_hidden {
                    true => {
                        let pair = self.hidden[row.tokens.0 + at - row.start] as TokenId;
                        logits(&[pair / N_TOKEN as TokenId, pair % N_TOKEN as TokenId], self.noise, &mut self.logits);
                    }
                    false => {
                        let two = [before(at - row.start).map(|at| stored[at]), Some(stored[at])];
                        let two: Vec<TokenId> = two.into_iter().flatten().collect();
                        logits(&two, self.noise, &mut self.logits);
                    }
                }
                if self.flips {
                    self.logits[begin..].reverse();
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Outputs<'_>, RunError> {
        Ok(Outputs { data: &self.logits, n_vocab: N_TOKEN, d_model: 1, maxima: &[] })
    }

    fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.arena[to.0 as usize] = self.arena[from.0 as usize];
    }

    fn copy_token(&mut self, from: (PageId, usize), to: (PageId, usize)) {
        self.arena[to.0.0 as usize][to.1] = self.arena[from.0.0 as usize][from.1];
    }

    fn export_page(&self, _: PageId, _: &mut Vec<u8>) {}
    fn import_page(&mut self, _: PageId, _: &[u8]) -> Result<(), RunError> {
        Ok(())
    }
    fn save_state(&mut self, slot: usize, state: StateId) {
        let (slots, saved) = self.states.as_mut().expect("it is recurrent");
        saved[state.0 as usize].clone_from(&slots[&slot]);
    }
    fn restore_state(&mut self, slot: usize, state: StateId) {
        let (slots, saved) = self.states.as_mut().expect("it is recurrent");
        slots.insert(slot, saved[state.0 as usize].clone());
    }
}

/// A token as the model has it that numbers them from the other end.
fn flip(token: TokenId) -> TokenId {
    N_TOKEN as TokenId - 1 - token
}

/// Between the two.
struct Flip;

impl Translate for Flip {
    fn begin(&self, _: &mut Vec<TokenId>) {}

    fn begins_word(&self, token: TokenId) -> bool {
        token < 4
    }

    fn to_draft(&self, tokens: &[TokenId], out: &mut Vec<TokenId>) {
        out.extend(tokens.iter().copied().map(flip));
    }

    fn to_model(&self, tokens: &[TokenId], out: &mut Vec<TokenId>) {
        out.extend(tokens.iter().copied().map(flip));
    }
}

/// Engines on the same model, and what they did.
struct Bench {
    engine: Engine,
    now: Arc<AtomicU64>,
    n_step: Arc<AtomicU64>,
    n_tree: Arc<AtomicU64>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Drafts {
    None,
    Lookup,
    /// And guesses, where nothing else is drafted.
    Lookahead,
    /// The same on a recurrent model.
    Recurrent,
    Model,
    /// One that agrees with nothing.
    Stranger,
    /// One that has another vocabulary, and a few pages only.
    Translated,
    /// One that reads hidden states.
    Hidden,
    /// Heads on the last of them.
    Heads,
}

/// All that drafts.
const DRAFTS: [Drafts; 7] = [
    Drafts::Lookup,
    Drafts::Lookahead,
    Drafts::Recurrent,
    Drafts::Model,
    Drafts::Translated,
    Drafts::Hidden,
    Drafts::Heads,
];

fn bench(drafts: Drafts, costs: (u64, u64)) -> Bench {
    let [now, n_step, n_tree] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let flips = drafts == Drafts::Translated;
    let reads_hidden = drafts == Drafts::Hidden;
    let model = |(noise, is_draft, n_page), costs, n_step: &Arc<AtomicU64>| -> Box<dyn Runner> {
        let (now, n_step) = (now.clone(), n_step.clone());
        let states = (drafts == Drafts::Recurrent).then(|| (HashMap::new(), vec![vec![]; N_SAVED]));
        Box::new(Markov {
            arena: vec![[0; PAGE_TOKENS]; n_page],
            logits: vec![],
            now,
            costs,
            n_step,
            n_tree: n_tree.clone(),
            noise,
            flips: flips && is_draft,
            reads_hidden: reads_hidden && is_draft,
            n_head: if drafts == Drafts::Heads && is_draft { 4 } else { 0 },
            hidden: vec![],
            states,
        })
    };
    let reads = match drafts {
        Drafts::Model | Drafts::Stranger => Some(Reads::Tokens),
        Drafts::Translated => Some(Reads::Translated(Box::new(Flip))),
        Drafts::Hidden => Some(Reads::Hidden(Vec::new())),
        Drafts::Heads => Some(Reads::Heads(4)),
        _ => None,
    };
    let noise = if drafts == Drafts::Stranger { 40.0 } else { 0.8 };
    let draft = reads.map(|reads| Draft {
        runner: model((noise, true, if flips { 30 } else { 64 }), (costs.0 / 20, costs.1 / 20), &Arc::default()),
        reads,
    });
    let parts = Parts { runner: model((0.0, false, 64), costs, &n_step), draft, disk: None, held: None };
    let max_draft = if drafts == Drafts::None { 0 } else { 16 };
    let draft_trees = !matches!(drafts, Drafts::Lookup);
    let config = Config { max_draft, draft_trees, ..Config::default() };
    let clock = {
        let now = now.clone();
        Arc::new(move || Duration::from_micros(now.load(Ordering::SeqCst)))
    };
    Bench { engine: Engine::spawn_with_clock(parts, config, clock).expect("valid limits"), now, n_step, n_tree }
}

impl Bench {
    /// Texts of requests that run together, and the time they took.
    fn texts(&self, requests: &[Request]) -> (Vec<Vec<TokenId>>, u64) {
        let before = self.now.load(Ordering::SeqCst);
        let all: Vec<_> = requests.iter().map(|request| submit(&self.engine, request.clone())).collect();
        let texts = all.iter().map(|(_, events)| collect(events).0).collect();
        (texts, self.now.load(Ordering::SeqCst) - before)
    }
}

fn requests(n: usize, temperature: f32) -> Vec<Request> {
    let request = |i: usize| {
        let prompt = (0..20 + i).map(|at| ((at * 7 + i) % N_TOKEN) as TokenId).collect();
        let params = Params {
            temperature,
            seed: Some(i as u64),
            repeat_penalty: 1.05,
            presence_penalty: 0.1,
            top_k: 9,
            ..Params::neutral()
        };
        Request { params, ..Request::new(prompt, 150) }
    };
    (0..n).map(request).collect()
}

#[test]
fn the_same_seed_gives_the_same_text_with_drafts_and_without() {
    for temperature in [0.0, 0.5, 1.5] {
        let requests = requests(5, temperature);
        let (want, _) = bench(Drafts::None, (1000, 10)).texts(&requests);
        for drafts in DRAFTS {
            // Guesses for five sequences at once take tokens that cost almost nothing.
            let bench = bench(drafts, (1000, if drafts == Drafts::Lookahead { 1 } else { 10 }));
            assert_eq!(bench.texts(&requests).0, want, "{drafts:?} at temperature {temperature}");
            let metrics = bench.engine.metrics();
            let accepted = metrics.spec_decode_num_accepted_tokens.load(Ordering::Relaxed);
            let drafted = metrics.spec_decode_num_draft_tokens.load(Ordering::Relaxed);
            assert!(accepted > 2 && accepted <= drafted, "{drafts:?} at {temperature}: {accepted} of {drafted}");
            // A model that is not sure drafts two tokens for a place, and guesses are made, where the large one can take
            // some of them back; where nothing is left to guess at, they are not.
            let n_tree = bench.n_tree.load(Ordering::SeqCst);
            match drafts {
                Drafts::Translated => {}
                Drafts::None | Drafts::Lookup | Drafts::Recurrent => assert_eq!(n_tree, 0, "{drafts:?}"),
                _ => assert!(n_tree > 0, "{drafts:?} at {temperature}: no trees"),
            }
            bench.engine.shutdown();
            assert_eq!(bench.engine.stats().pages_used, 0);
        }
    }
}

#[test]
fn the_distribution_of_tokens_is_the_models() {
    // Pairs of tokens (the second given the first two) over many seeds, with drafts and without; chi-squared of the two.
    let counts = |drafts, seeds: std::ops::Range<u64>| {
        let bench = bench(drafts, (1000, 10));
        let mut counts: HashMap<(TokenId, TokenId), f64> = HashMap::new();
        for seed in seeds {
            let params = Params { temperature: 0.8, seed: Some(seed), ..Params::neutral() };
            let prompt = vec![1, 2, 3, 4, 1, 2, 3, 4, 1, 2];
            let (texts, _) = bench.texts(&[Request { params, ..Request::new(prompt, 40) }]);
            for pair in texts[0][20..].windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += 1.0;
            }
        }
        counts
    };
    let plain = counts(Drafts::None, 0..1500);
    for drafts in DRAFTS {
        let drafted = counts(drafts, 10_000..11_500);
        let keys = plain.iter().filter(|(_, n)| **n >= 50.0).map(|(key, _)| key);
        let terms: Vec<f64> = keys
            .map(|key| {
                let (a, b) = (plain[key], drafted.get(key).copied().unwrap_or(0.0));
                (a - b).powi(2) / (a + b)
            })
            .collect();
        let (sum, n) = (terms.iter().sum::<f64>(), terms.len() as f64);
        assert!(n > 30.0, "too few pairs are frequent: {n}");
        // Tokens of a text depend on each other, which widens the distribution: the limit is twice the usual one.
        let limit = n + 2.0 * 3.3 * (2.0 * n).sqrt();
        assert!(sum < limit, "{drafts:?}: chi-squared {sum:.0} of {n} pairs, at most {limit:.0}");
    }
}

#[test]
fn drafts_pay_where_weights_are_dear_and_cost_nothing_elsewhere() {
    // Long enough for what it takes to find out how long steps take.
    let requests =
        requests(1, 0.0).into_iter().map(|request| Request { max_tokens: 500, ..request }).collect::<Vec<_>>();
    // Time of a step, of a token; how much of the plain time is left, at most.
    let rows = [
        (1000, 10, Drafts::Lookup, 0.5),
        (1000, 10, Drafts::Lookahead, 0.5),
        (1000, 10, Drafts::Model, 0.7),
        (1000, 10, Drafts::Translated, 0.7),
        (1000, 10, Drafts::Hidden, 0.7),
        (1000, 10, Drafts::Heads, 0.7),
        (1000, 10, Drafts::Recurrent, 0.6),
        (0, 1000, Drafts::Lookup, 1.03),
        (0, 1000, Drafts::Lookahead, 1.03),
        (0, 1000, Drafts::Recurrent, 1.03),
        (0, 1000, Drafts::Model, 1.03),
        // These read a few tokens before each draft.
        (0, 1000, Drafts::Translated, 1.04),
        (0, 1000, Drafts::Hidden, 1.04),
        (0, 1000, Drafts::Heads, 1.04),
    ];
    for (step, token, drafts, limit) in rows {
        let (_, plain) = bench(Drafts::None, (step, token)).texts(&requests);
        let bench = bench(drafts, (step, token));
        let (_, took) = bench.texts(&requests);
        let part = took as f64 / plain as f64;
        assert!(part <= limit, "{drafts:?}, {step} us a step and {token} a token: {part:.2} of the plain time");
        assert!(bench.n_step.load(Ordering::SeqCst) > 0);
    }
}

#[test]
fn a_reply_takes_two_steps_and_a_fiftieth_longer_at_most() {
    let costs = (1000, 200);
    // Of one token.
    let step_us = costs.0 + costs.1;
    let [plain, stranger, model] = [Drafts::None, Drafts::Stranger, Drafts::Model].map(|drafts| bench(drafts, costs));
    let (mut n_drafted, mut saved_us) = (0, [0.0; 2]);
    for i in 0..90 {
        // Short and long prompts for short and long replies; drawn tokens, of which copies are seldom right.
        let (n_prompt, max_tokens) = ([4, 20, 60, 300][i % 4], [3, 5, 12, 60, 150][i % 5]);
        let mut rng = Rng::new(i as u64);
        let prompt = (0..n_prompt).map(|_| (rng.next_u64() % N_TOKEN as u64) as TokenId).collect();
        let params = Params { temperature: 1.0, seed: Some(i as u64), ..Params::neutral() };
        let request = [Request { params, ..Request::new(prompt, max_tokens) }];
        let (text, want) = plain.texts(&request);
        for (bench, saved_us) in [&stranger, &model].into_iter().zip(&mut saved_us) {
            let (found, took) = bench.texts(&request);
            *saved_us += want as f64 - took as f64;
            assert_eq!(found, text);
            // In the first ones it is found out how long steps take.
            let limit = 1.02 * want as f64 + 2.0 * step_us as f64;
            assert!(i < 8 || took as f64 <= limit, "{i}: {took} us of {want}, {n_prompt} tokens and {max_tokens}");
        }
        n_drafted = stranger.engine.metrics().spec_decode_num_draft_tokens.load(Ordering::Relaxed);
    }
    assert!(n_drafted > 90, "{n_drafted} tokens drafted");
    // What is told of it is true, to a tenth of a step a reply.
    for (bench, saved_us) in [&stranger, &model].into_iter().zip(saved_us) {
        let told_us = 1e6 * bench.engine.stats().saved_by_drafts;
        assert!((told_us - saved_us).abs() < 90.0 * 0.1 * step_us as f64, "{told_us} us and not {saved_us}");
    }
}

#[test]
fn a_model_that_reads_the_end_of_a_long_prompt_drafts_as_well() {
    // What comes depends on two tokens, so that a model that reads the last ones knows as much as one that reads all. Reading
    // all of such a prompt costs more than an account holds at first.
    let requests = (0..6).map(|i| {
        let mut rng = Rng::new(i);
        let prompt = (0..391 + i).map(|_| (rng.next_u64() % N_TOKEN as u64) as TokenId).collect();
        let params = Params { temperature: 1.0, seed: Some(i), ..Params::neutral() };
        [Request { params, ..Request::new(prompt, 60) }]
    });
    let [plain, model] = [Drafts::None, Drafts::Model].map(|drafts| bench(drafts, (1000, 200)));
    let (mut want_us, mut took_us) = (0, 0);
    for request in requests {
        let ((want, plain_us), (found, us)) = (plain.texts(&request), model.texts(&request));
        assert_eq!(found, want);
        (want_us, took_us) = (want_us + plain_us, took_us + us);
    }
    let metrics = model.engine.metrics();
    let accepted = metrics.spec_decode_num_accepted_tokens.load(Ordering::Relaxed);
    let drafted = metrics.spec_decode_num_draft_tokens.load(Ordering::Relaxed);
    let told = format!("{accepted} of {drafted} accepted, {took_us} us of {want_us}");
    assert!(2 * accepted > drafted && accepted > 120 && took_us < want_us, "{told}");
}

#[test]
fn guesses_pay_where_columns_are_cheap_and_text_does_not_repeat_itself() {
    // Drawn tokens, of which each depends on two before it: what followed the last time seldom follows again.
    let requests: Vec<Request> =
        requests(1, 0.6).into_iter().map(|request| Request { max_tokens: 600, ..request }).collect();
    // Microseconds of a step and of each token; what is left of the lesser time without trees, at most.
    for (costs, part) in [((1000, 1), 0.98), ((850, 150), 1.03), ((0, 1000), 1.03)] {
        let [(_, lookup), (_, lookahead)] =
            [Drafts::Lookup, Drafts::Lookahead].map(|drafts| bench(drafts, costs).texts(&requests));
        let (_, plain) = bench(Drafts::None, costs).texts(&requests);
        let told = format!("{costs:?}: {lookup} us with lookup, {lookahead} with guesses too, {plain} without");
        assert!((lookahead as f64) <= part * lookup.min(plain) as f64, "{told}");
    }
}

#[test]
fn text_that_does_not_repeat_is_not_drafted_in_vain() {
    // The fake's next token is a hash of everything before.
    let engine = Engine::spawn(Fake::new(64).parts(), Config::default()).expect("valid limits");
    let prompt: Vec<TokenId> = (0..40).map(|at| at % 7).collect();
    let (_ticket, events) = submit(&engine, greedy(prompt.clone(), 300));
    assert_eq!(collect(&events).0, continuation(&prompt, 300));
    let drafted = engine.metrics().spec_decode_num_draft_tokens.load(Ordering::Relaxed);
    assert!(drafted < 150, "{drafted} tokens were drafted of {N_VOCAB} that are equally likely");
}
