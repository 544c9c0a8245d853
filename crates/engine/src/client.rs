//! One request inside the engine: its sampler, its counts, its sink.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::accept::{Kind, Others};
use crate::account::Account;
use crate::constraint::{Bound, ConstraintError, Progress};
use crate::metrics::Metrics;
use crate::request::{FinishReason, Request, Sink, TokenEvent, Usage};
use crate::sampler::{Guess, Logits, Rng, SampleError, Sampler, Scratch, likeliest, logprobs};
use crate::share::ClientId;
use crate::speculate::{Extent, Source, Speculator};
use crate::{Logprob, PromptLogprob, SeqId, TokenId};

/// A request whose sink hears `Finished` exactly once, even if the client is only dropped.
pub(crate) struct Client {
    sampler: Sampler,
    /// `None` when it has heard `Finished`.
    sink: Option<Sink>,
    max_tokens: usize,
    stop_tokens: Vec<TokenId>,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    /// Tokens of the prompt of which the sink has heard.
    n_read: usize,
    /// What it may say.
    pub bound: Option<Bound>,
    usage: Usage,
    times: Times,
    /// Sequences that continue the same prompt, until it is computed.
    pub forks: Vec<(SeqId, Client)>,
    /// Who asked.
    pub asked_by: ClientId,
    /// Where its draft in this step comes from.
    pub source: Option<Source>,
    /// The token that was looked up and not drafted, and how many tokens before it agreed.
    pub shadow: Option<(TokenId, usize)>,
    speculator: Option<Speculator>,
    /// The sampler's random numbers, for the tokens of a draft.
    ahead: Rng,
}

struct Times {
    arrived: Duration,
    started: Option<Duration>,
    first_token: Option<Duration>,
    last_token: Option<Duration>,
}

/// What sampling made of a sequence's logits.
#[derive(Debug)]
pub(crate) struct Sampled {
    pub token: TokenId,
    pub logprob: Option<f32>,
    pub top: Vec<Logprob>,
    /// The grammar allows nothing more.
    pub is_last: bool,
}

/// Why no token could be chosen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChoiceError {
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

impl Client {
    /// `n_vocab`: logits of the model.
    pub fn new(request: &Request, sampler: Sampler, (sink, arrived): (Sink, Duration), n_vocab: usize) -> Client {
        Client {
            bound: request.grammar.as_ref().map(|grammar| Bound::new(grammar, n_vocab)),
            ahead: sampler.ahead(),
            sampler,
            sink: Some(sink),
            max_tokens: request.max_tokens,
            stop_tokens: request.stop_tokens.clone(),
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            n_read: 0,
            usage: Usage { n_prompt: request.tokens.len(), ..Usage::default() },
            times: Times { arrived, started: None, first_token: None, last_token: None },
            forks: Vec::new(),
            asked_by: request.client,
            source: None,
            shadow: None,
            speculator: None,
        }
    }

    /// Notes that a step computes something of the sequence. Returns whether it is the first.
    pub fn start(&mut self, n_cached: usize, now: Duration) -> bool {
        let is_first = self.times.started.is_none();
        if is_first {
            self.times.started = Some(now);
            self.usage.n_cached = n_cached;
        }
        is_first
    }

    pub fn n_prompt(&self) -> usize {
        self.usage.n_prompt
    }

    pub fn has_started(&self) -> bool {
        self.times.started.is_some()
    }

    /// Whether only the prompt was to be read.
    pub fn wants_tokens(&self) -> bool {
        self.max_tokens > 0
    }

    /// Tokens that it may still generate.
    pub fn n_left(&self) -> usize {
        self.max_tokens.saturating_sub(self.usage.n_generated)
    }

    /// How many of the largest logits it and its forks need; `None` for all.
    pub fn n_best(&self) -> Option<usize> {
        let needs_all = self.bound.is_some() || self.logprobs.is_some() || self.prompt_logprobs.is_some();
        let own = self.sampler.n_best().filter(|_| !needs_all);
        self.forks.iter().map(|(_, fork)| fork.n_best()).fold(own, |most, n| Some(most?.max(n?)))
    }

    /// Its drafting, begun for a sequence of `n_token` tokens after what others showed.
    pub fn speculate(&mut self, n_token: usize, others: &Others, (step, each): (f64, f64)) -> &mut Speculator {
        // Few answers are longer, and those may make it grow.
        const ANSWER: usize = 2048;
        let (kind, max_tokens) = (self.kind(), self.max_tokens);
        let n_read = self.usage.n_prompt - self.usage.n_cached;
        self.speculator.get_or_insert_with(|| {
            let mut new = Speculator::new(n_token + max_tokens.min(ANSWER), kind, others);
            new.account.begin(n_read as f64 * each, step);
            new
        })
    }

    /// How its tokens come about.
    pub fn kind(&self) -> Kind {
        match (self.sampler.is_greedy(), &self.bound) {
            (true, _) => Kind::Greedy,
            (false, Some(_)) => Kind::Likeliest,
            (false, None) => Kind::Drawn,
        }
    }

    /// Its drafting, if it was begun.
    pub fn speculator(&mut self) -> Option<&mut Speculator> {
        self.speculator.as_mut()
    }

    /// What a model reads of it before it drafts.
    pub fn reads(&self) -> Extent {
        self.speculator.as_ref().map_or(Extent::Rest, |speculator| speculator.reads)
    }

    /// The account of its drafts, if they were begun.
    pub fn account(&self) -> Option<&Account> {
        self.speculator.as_ref().map(|speculator| &speculator.account)
    }

    /// Tells the sink how likely the token after the one at `at` was, if it is the prompt's and it has not heard of it.
    pub fn read(&mut self, scratch: &mut Scratch, (logits, tokens): (Logits<'_>, &[TokenId]), at: usize) {
        let (Some(n_top), Some(sink)) = (self.prompt_logprobs, &mut self.sink) else { return };
        if self.n_read == 0 {
            sink(TokenEvent::Prompt(PromptLogprob { token: tokens[0], logprob: None, rank: 0, top: Vec::new() }));
            self.n_read = 1;
        }
        if at + 1 == self.n_read && self.n_read < self.usage.n_prompt {
            let token = tokens[at + 1];
            let (logprob, top) = logprobs(scratch, logits, token, n_top);
            let rank = 1 + logits.all.iter().filter(|logit| **logit > logits.all[token as usize]).count();
            sink(TokenEvent::Prompt(PromptLogprob { token, logprob: Some(logprob), rank, top }));
            self.n_read += 1;
        }
    }

    /// Chooses the token after `history`.
    pub fn sample(
        &mut self,
        scratch: &mut Scratch,
        logits: Logits<'_>,
        history: &[TokenId],
    ) -> Result<Sampled, ChoiceError> {
        let mask = self.bound.as_mut().map(Bound::allowed).transpose()?;
        let token = self.sampler.sample(scratch, logits, history, mask)?;
        let is_last = match &mut self.bound {
            Some(bound) if !self.stop_tokens.contains(&token) => bound.push(token)? == Progress::Complete,
            _ => false,
        };
        let asked = self.logprobs.map(|n_top| logprobs(scratch, logits, token, n_top));
        let (logprob, top) = asked.map_or((None, Vec::new()), |(chosen, top)| (Some(chosen), top));
        Ok(Sampled { token, logprob, top, is_last })
    }

    /// Whether the sequence ends with a token that comes after `n_more` tokens of which the sink has not heard.
    pub fn ends_with(&self, sampled: &Sampled, n_more: usize) -> bool {
        let is_full = self.usage.n_generated + n_more + 1 >= self.max_tokens;
        sampled.is_last || is_full || self.stop_tokens.contains(&sampled.token)
    }

    /// A draft begins.
    pub fn begin_draft(&mut self) {
        self.ahead = self.sampler.ahead();
    }

    /// The next token of a draft by a model with these logits.
    pub fn draft(&mut self, scratch: &mut Scratch, logits: &[f32]) -> Guess {
        match (&mut self.bound, self.sampler.is_greedy()) {
            (Some(bound), _) => bound.draft(logits),
            (None, true) => likeliest(scratch, logits.into()),
            (None, false) => self.sampler.guess(&mut self.ahead, scratch, logits),
        }
    }

    /// Tells the sink of a token, unless it is a stop token. Returns why the sequence ends, if it does.
    pub fn take(&mut self, sampled: Sampled, now: Duration, metrics: &Metrics) -> Option<FinishReason> {
        let Sampled { token, logprob, top, is_last } = sampled;
        if let (Some((shadow, agree)), Some(speculator)) = (self.shadow.take(), &mut self.speculator) {
            speculator.compared(Source::Lookup(agree), 0, shadow == token);
        }
        match self.times.last_token.replace(now) {
            None => metrics.time_to_first_token_seconds.observe_time(now.saturating_sub(self.times.arrived)),
            Some(last) => metrics.inter_token_latency_seconds.observe_time(now.saturating_sub(last)),
        }
        self.times.first_token.get_or_insert(now);
        self.usage.n_generated += 1;
        if self.stop_tokens.contains(&token) {
            return Some(FinishReason::Stop(token));
        }
        if let Some(sink) = &mut self.sink {
            sink(TokenEvent::Token { token, logprob, top });
        }
        match is_last {
            true => Some(FinishReason::Complete),
            false => (self.usage.n_generated >= self.max_tokens).then_some(FinishReason::Length),
        }
    }

    /// Tells the sink that the sequence ended.
    pub fn finish(mut self, reason: FinishReason, now: Duration, metrics: &Metrics) {
        let started = self.times.started.unwrap_or(now);
        let first = self.times.first_token.unwrap_or(now);
        self.usage.queue = started.saturating_sub(self.times.arrived);
        self.usage.prefill = first.saturating_sub(started);
        self.usage.decode = now.saturating_sub(first);
        metrics.finished(&reason, &self.usage, self.max_tokens);
        self.tell(reason);
    }

    /// Drops the client without telling its sink.
    pub fn forget(mut self) {
        self.sink = None;
        self.forks.drain(..).for_each(|(_, fork)| fork.forget());
    }

    fn tell(&mut self, reason: FinishReason) {
        if let Some(mut sink) = self.sink.take() {
            let usage = self.usage;
            // A sink that panics must not take other sequences with it, nor abort while the engine unwinds.
            drop(catch_unwind(AssertUnwindSafe(move || sink(TokenEvent::Finished { reason, usage }))));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tell(FinishReason::Error("the model stopped running".into()));
    }
}
