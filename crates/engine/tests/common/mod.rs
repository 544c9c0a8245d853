//! A model that can be checked: its next token depends on every token that it finds in the sequence's pages, so that a page
//! that is lost, shared wrongly or overwritten changes the text.

#![allow(dead_code, unreachable_pub)] // Each test binary uses a part.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver};

use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::sampler::{Params, Rng};
use mlxr_engine::{
    Batch, Config, Engine, FinishReason, Outputs, PageId, Parts, Request, RunError, Runner, RunnerInfo, StateId,
    Ticket, TokenEvent, TokenId, Usage, Want,
};

pub const N_VOCAB: usize = 50;
/// Tokens that an exported state has room for.
const MAX_STATE: usize = 512;

/// What the fake does wrong, and in which step.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    Error(usize),
    Panic(usize),
    NotANumber(usize),
    TooFewLogits(usize),
}

pub struct Fake {
    pub info: RunnerInfo,
    pub arena: Vec<[TokenId; PAGE_TOKENS]>,
    /// Recurrent state of a slot: the tokens seen.
    pub slots: HashMap<usize, Vec<TokenId>>,
    pub saved: Vec<Vec<TokenId>>,
    pub logits: Vec<f32>,
    pub n_step: usize,
    pub fault: Fault,
    /// Each step waits for a word, so that a test decides when it ends; `None` never waits.
    pub gate: Option<Receiver<()>>,
}

/// The token after `tokens`, by a hash of all of them.
pub fn next_token(tokens: &[TokenId]) -> TokenId {
    let seed = tokens.iter().fold(7u64, |hash, token| hash.wrapping_mul(31).wrapping_add(u64::from(*token) + 1));
    (Rng::new(seed).next_u64() % N_VOCAB as u64) as TokenId
}

/// `n` tokens after a prompt.
pub fn continuation(prompt: &[TokenId], n: usize) -> Vec<TokenId> {
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        tokens.push(next_token(&tokens));
    }
    tokens.split_off(prompt.len())
}

impl Fake {
    pub fn new(n_page: usize) -> Fake {
        let info = RunnerInfo {
            n_vocab: N_VOCAB,
            d_model: 1,
            n_ctx: 4096,
            n_page,
            n_slot: usize::MAX,
            page_bytes: 4 * PAGE_TOKENS,
            recurrent: false,
            n_saved: 0,
            window: None,
        };
        let arena = vec![[TokenId::MAX; PAGE_TOKENS]; n_page];
        Fake {
            info,
            arena,
            slots: HashMap::new(),
            saved: vec![],
            logits: vec![],
            n_step: 0,
            fault: Fault::None,
            gate: None,
        }
    }

    /// As an engine wants it.
    pub fn parts(self) -> Parts {
        Parts::from(Box::new(self) as Box<dyn Runner>)
    }

    pub fn recurrent(n_page: usize, n_slot: usize) -> Fake {
        let mut fake = Fake::new(n_page);
        (fake.info.recurrent, fake.info.n_slot, fake.info.n_saved) = (true, n_slot, n_slot);
        fake.saved = vec![vec![]; n_slot];
        fake
    }
}

/// The tokens of a tree up to the one at `i`, as indices in the row.
fn line(parents: &[i32], i: usize) -> Vec<usize> {
    let parent = |i: &usize| usize::try_from(parents[*i]).ok();
    let mut line: Vec<usize> = std::iter::successors(Some(i), parent).collect();
    line.reverse();
    line
}

impl Runner for Fake {
    fn info(&self) -> RunnerInfo {
        self.info.clone()
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunError> {
        self.n_step += 1;
        match self.fault {
            Fault::Error(step) if step == self.n_step => return Err(RunError::Backend("the device is gone".into())),
            Fault::Panic(step) if step == self.n_step => panic!("index out of bounds"),
            _ => {}
        }
        self.logits.clear();
        for row in &batch.rows {
            let new = &batch.tokens[row.tokens.0..row.tokens.1];
            let pages = &batch.pages[row.pages.0..row.pages.1];
            for (at, token) in (row.start..).zip(new) {
                self.arena[pages[at / PAGE_TOKENS].0 as usize][at % PAGE_TOKENS] = *token;
            }
            let n = row.start + new.len();
            let mut tokens: Vec<TokenId> =
                (0..n).map(|at| self.arena[pages[at / PAGE_TOKENS].0 as usize][at % PAGE_TOKENS]).collect();
            if self.info.recurrent {
                assert!(row.slot < self.info.n_slot);
                let state = self.slots.entry(row.slot).or_default();
                if row.start == 0 {
                    state.clear();
                }
                assert_eq!(state.len(), row.start, "the slot holds another state");
                state.extend(new);
                tokens.clone_from(state);
            }
            let first = match row.want {
                Want::Last => n - 1,
                Want::All => row.start,
                _ => n,
            };
            for at in first..n {
                let begin = self.logits.len();
                self.logits.resize(begin + N_VOCAB, 0.0);
                let line = row.parents.map(|(from, _)| line(&batch.parents[from..], at - row.start));
                let seen = match &line {
                    None => &tokens[..=at],
                    Some(line) => {
                        let line = line.iter().map(|i| new[*i]);
                        &[&tokens[..row.start], &line.collect::<Vec<_>>()].concat()
                    }
                };
                self.logits[begin + next_token(seen) as usize] = 5.0;
            }
        }
        match self.fault {
            Fault::NotANumber(step) if step == self.n_step => self.logits.fill(f32::NAN),
            Fault::TooFewLogits(step) if step == self.n_step => self.logits.clear(),
            _ => {}
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Outputs<'_>, RunError> {
        if let Some(gate) = &self.gate {
            gate.recv().expect("the test holds the other end");
        }
        Ok(Outputs { data: &self.logits, n_vocab: N_VOCAB, d_model: 1, maxima: &[] })
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.arena[to.0 as usize] = self.arena[from.0 as usize];
    }

    fn copy_token(&mut self, from: (PageId, usize), to: (PageId, usize)) {
        self.arena[to.0.0 as usize][to.1] = self.arena[from.0.0 as usize][from.1];
    }

    fn export_page(&self, page: PageId, out: &mut Vec<u8>) {
        out.extend(self.arena[page.0 as usize].iter().flat_map(|token| token.to_le_bytes()));
    }

    fn import_page(&mut self, page: PageId, bytes: &[u8]) -> Result<(), RunError> {
        let tokens = bytes.chunks(4).map(|b| TokenId::from_le_bytes([b[0], b[1], b[2], b[3]]));
        self.arena[page.0 as usize].iter_mut().zip(tokens).for_each(|(to, token)| *to = token);
        Ok(())
    }

    fn save_state(&mut self, slot: usize, state: StateId) {
        self.saved[state.0 as usize] = self.slots[&slot].clone();
    }

    fn restore_state(&mut self, slot: usize, state: StateId) {
        self.slots.insert(slot, self.saved[state.0 as usize].clone());
    }

    fn export_state(&self, state: StateId, out: &mut Vec<u8>) {
        let saved = &self.saved[state.0 as usize];
        out.extend((saved.len() as u32).to_le_bytes());
        let padded = saved.iter().copied().chain(std::iter::repeat(0)).take(MAX_STATE);
        out.extend(padded.flat_map(TokenId::to_le_bytes));
    }

    fn import_state(&mut self, state: StateId, bytes: &[u8]) -> Result<(), RunError> {
        let mut words = bytes.chunks(4).map(|b| TokenId::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let n = words.next().expect("a length") as usize;
        self.saved[state.0 as usize] = words.take(n).collect();
        Ok(())
    }
}

pub fn spawn(fake: Fake, config: Config) -> Engine {
    Engine::spawn(fake.parts(), config).expect("valid limits")
}

pub fn greedy(tokens: Vec<TokenId>, max_tokens: usize) -> Request {
    Request { params: Params::greedy(), ..Request::new(tokens, max_tokens) }
}

pub fn submit(engine: &Engine, request: Request) -> (Ticket, Receiver<TokenEvent>) {
    let (sender, events) = mpsc::channel();
    let sink = Box::new(move |event| drop(sender.send(event)));
    (engine.submit(request, sink).expect("a valid request"), events)
}

/// Everything that a sink hears until it is dropped, which must end in `Finished`.
pub fn collect(events: &Receiver<TokenEvent>) -> (Vec<TokenId>, FinishReason, Usage) {
    let mut tokens = Vec::new();
    let mut end = None;
    for event in events.iter() {
        assert_eq!(end, None, "an event after the end: {event:?}");
        match event {
            TokenEvent::Prompt(_) => assert!(tokens.is_empty(), "a prompt is told of before the reply"),
            TokenEvent::Token { token, .. } => tokens.push(token),
            TokenEvent::Finished { reason, usage } => end = Some((reason, usage)),
        }
    }
    let (reason, usage) = end.expect("a sink hears how it ended");
    (tokens, reason, usage)
}
