//! What a client asks of the engine and what it hears back.
//!
//! ```text
//! Engine::submit(Request, Sink) -> Ticket      the sink hears Token* Finished, in this order, on the engine's thread
//! ```

use std::time::Duration;

use crate::TokenId;
use crate::constraint::SharedGrammar;
use crate::sampler::{ParamError, Params};
use crate::share::ClientId;

/// A sequence to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt; at least one token.
    pub tokens: Vec<TokenId>,
    /// How to choose tokens.
    pub params: Params,
    /// Most tokens to generate; the context ends a sequence too. 0 only reads the prompt.
    pub max_tokens: usize,
    /// Tokens that end the sequence and are not reported: the model's end-of-generation tokens, usually. Empty to ignore
    /// those.
    pub stop_tokens: Vec<TokenId>,
    /// `None`: no logprobs. `Some(n)`: the logprob of each token, and of the `n` most likely ones.
    pub logprobs: Option<usize>,
    /// As `logprobs`, of the prompt's tokens: all of them are computed then, whatever is cached.
    pub prompt_logprobs: Option<usize>,
    /// A request of higher priority is admitted first and preempted last; 0 is usual.
    pub priority: i32,
    /// Who asks: clients of one priority share the model fairly.
    pub client: ClientId,
    /// Requests with different salts share no pages: what changes keys and values besides tokens, such as an adapter or an
    /// image, or a secret that keeps clients apart. Usually empty.
    pub salt: Vec<u8>,
    /// What may be said; `None`: anything.
    pub grammar: Option<SharedGrammar>,
}

impl Request {
    /// A request with default parameters: no stop tokens, no logprobs, priority 0.
    #[must_use]
    pub fn new(tokens: Vec<TokenId>, max_tokens: usize) -> Request {
        Request {
            tokens,
            params: Params::default(),
            max_tokens,
            stop_tokens: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            priority: 0,
            client: ClientId::default(),
            salt: Vec::new(),
            grammar: None,
        }
    }
}

/// A token's logprob: the natural logarithm of its probability by the model's raw logits, before any sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logprob {
    /// The token.
    pub token: TokenId,
    /// At most 0; minus infinity if the model excludes the token.
    pub logprob: f32,
}

/// How likely a token of a prompt was after those before it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptLogprob {
    /// The token.
    pub token: TokenId,
    /// Its logprob; `None` for the first token, before which there is nothing.
    pub logprob: Option<f32>,
    /// How many tokens were likelier, and one; 0 for the first token.
    pub rank: usize,
    /// The most likely tokens, the likeliest first.
    pub top: Vec<Logprob>,
}

/// What a sequence's sink hears. After `Finished` it hears nothing more and is dropped.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenEvent {
    /// The prompt's next token was computed, if its logprobs were asked for.
    Prompt(PromptLogprob),
    /// A token was generated.
    Token {
        /// The token.
        token: TokenId,
        /// Its logprob, if asked for.
        logprob: Option<f32>,
        /// The most likely tokens, the likeliest first, if asked for.
        top: Vec<Logprob>,
    },
    /// The sequence ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
}

/// Why a sequence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// One of the request's stop tokens came; it was not reported as a token.
    Stop(TokenId),
    /// The grammar allows nothing more.
    Complete,
    /// `max_tokens` or the context is reached.
    Length,
    /// The client cancelled.
    Cancelled,
    /// The model failed, or no token could be chosen. Where the model failed, the engine takes no more requests.
    Error(String),
}

/// What a sequence cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens of the prompt that were not computed, since their pages were cached.
    pub n_cached: usize,
    /// Tokens generated, a stop token included.
    pub n_generated: usize,
    /// From submission until a step computed something of it.
    pub queue: Duration,
    /// From then until the first token was generated.
    pub prefill: Duration,
    /// From then until the end.
    pub decode: Duration,
}

/// Hears the events of one sequence, on the engine's thread: it must not block.
pub type Sink = Box<dyn FnMut(TokenEvent) + Send>;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No prompt.
    #[error("the prompt has no tokens: give at least one, such as the beginning-of-sequence token")]
    Empty,
    /// The prompt does not fit.
    #[error("the prompt has {found} tokens and the context {limit}: shorten the prompt or raise the context")]
    TooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Most tokens of a prompt: the context.
        limit: usize,
    },
    /// A token that the vocabulary lacks.
    #[error("`{field}` has token {token}, and the vocabulary {n_vocab} tokens")]
    Token {
        /// Where.
        field: &'static str,
        /// The token.
        token: TokenId,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A list of the request is over its limit.
    #[error("`{field}` is {found}, the limit {limit}")]
    Limit {
        /// Which.
        field: &'static str,
        /// Found.
        found: usize,
        /// Limit.
        limit: usize,
    },
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// Too many requests wait.
    #[error("{limit} requests wait already (max_queue): try again in {retry_s} s")]
    QueueFull {
        /// Most waiting requests.
        limit: usize,
        /// When there may be room, in seconds from now, by the pace of late.
        retry_s: u64,
    },
    /// The client has too many requests.
    #[error("this client has {limit} requests already (max_client): try again in {retry_s} s")]
    ClientFull {
        /// Most requests of a client that wait or run.
        limit: usize,
        /// When there may be room, in seconds from now, by the pace of late.
        retry_s: u64,
    },
    /// The engine has stopped.
    #[error("the model is not running any more: {0}")]
    Dead(String),
}

/// What the engine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// Sequences computing.
    pub running: usize,
    /// Sequences waiting.
    pub waiting: usize,
    /// Pages that running sequences hold.
    pub pages_used: usize,
    /// Pages that keep prefixes for later requests.
    pub pages_cached: usize,
    /// Pages that hold nothing.
    pub pages_free: usize,
    /// Steps made.
    pub n_step: u64,
    /// Prompt tokens computed.
    pub n_prompt: u64,
    /// Prompt tokens of requests that have begun.
    pub n_asked: u64,
    /// Of these, tokens found in cached pages.
    pub n_cached: u64,
    /// Tokens whose pages were read from disk.
    pub n_restored: u64,
    /// Tokens generated.
    pub n_generated: u64,
    /// Times that a sequence gave up its pages for another.
    pub n_preempted: u64,
    /// Time spent in steps.
    pub busy: Duration,
    /// Of that, time in which the model, and what drafts for it, computed: the rest is the engine's own.
    pub computing: Duration,
    /// Seconds that drafts saved sequences that ended, less what they cost, by what undisturbed steps take.
    pub saved_by_drafts: f64,
}
