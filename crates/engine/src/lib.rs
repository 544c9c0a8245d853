//! Who runs next and which page dies. Ids only: no tensor, no text.
//!
//! ```text
//! engine    the handle: submit, cancel, stats        step      the loop: events, plan, compute, sample, tell
//! request   what a client asks and hears             client    one request inside the loop
//! schedule  which tokens a step computes             sequence  a sequence inside the schedule
//! share     which client is next                     sampler/  a token from logits
//! pages     free, in use, cached                     prefix    which page holds which prefix
//! runner    the contract with a model                pace      how many tokens a step may have
//! speculate how many tokens to draft                 lookup    drafts from the sequence itself
//! draft     drafts from a small model                times     how long steps take
//! disk/     pages in files                           offload   which pages go there and come back
//! metrics   what is counted                          sampling  tokens of a step
//! constraint what a sequence may say                 propose   the draft of a sequence
//! translate a draft model's own tokens              reading   what a draft model has read
//! accept    how often drafts are right                account   what drafts may cost
//! features  hidden states that a draft model reads   models    the model and what drafts for it
//! length    how long a draft pays                    lookahead drafts from guesses
//! ```
//! GLOSSARY: a *sequence* is a request's tokens; a *step* computes a *batch* of *rows*, one a sequence; a *page* holds the
//! keys and values of 16 tokens; a *prefix* is whole pages of tokens from a sequence's start.

mod accept;
mod account;
mod client;
pub mod constraint;
pub mod disk;
mod draft;
pub mod engine;
mod features;
mod length;
mod limits;
mod lookahead;
mod lookup;
pub mod metrics;
mod models;
mod offload;
mod pace;
pub mod pages;
pub mod prefix;
mod propose;
mod reading;
pub mod request;
pub mod runner;
pub mod sampler;
mod sampling;
pub mod schedule;
pub mod sequence;
pub mod share;
mod shared;
mod speculate;
mod step;
mod times;
mod translate;

pub use engine::{Config, Draft, Engine, Parts, Reads, SpawnError, Ticket};
pub use request::{FinishReason, Logprob, PromptLogprob, Request, Sink, Stats, SubmitError, TokenEvent, Usage};
pub use runner::{Batch, Outputs, PageId, Row, RunError, Runner, RunnerInfo, SeqId, StateId, TokenId, Want};
pub use share::ClientId;
pub use translate::Translate;
