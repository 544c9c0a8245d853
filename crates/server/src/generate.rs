//! A job on a model: prompts are rendered and encoded, sequences submitted, tokens turned into an event stream.
//!
//! ```text
//! Job ─ prompt.rs: template, encode ─ Engine::submit ─┐
//! Event ─ choice.rs: stop strings, content/reasoning/calls ─ Detokenizer ─ TokenEvent ─┘   (one Choice for each)
//! ```
//!
//! Dropping a [`Generation`] frees its sequences.

use std::sync::Arc;
use std::time::Instant;

use mlxr_engine::constraint::SharedGrammar;
use mlxr_engine::{Request, Sink, Ticket, TokenEvent, TokenId, Usage};
use mlxr_text::chat::Delta;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::Error;
use crate::app::Model;
use crate::choice::Choice;
use crate::job::Job;
use crate::prompt::{self, Bound};
use crate::tenant::Permit;

/// A token of an answer or a prompt and how likely it was.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// Its bytes; not always whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    /// How many tokens were likelier, and one, where that is known: of prompts.
    pub rank: Option<usize>,
    /// The likeliest tokens with their bytes and logprobs.
    pub top: Vec<(TokenId, Vec<u8>, f32)>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop string.
    Stop,
    /// It reached its most tokens, or the context.
    Length,
    /// The model called tools.
    ToolCalls,
}

/// What happens to a choice.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Its prompt was read, if its logprobs were asked for.
    Read {
        /// Which choice.
        choice: usize,
        /// All tokens of the prompt.
        logprobs: Vec<TokenLogprob>,
    },
    /// It grew. Either list may be empty, but not both.
    Grown {
        /// Which choice.
        choice: usize,
        /// What it grew by.
        deltas: Vec<Delta>,
        /// The tokens since the last event, if logprobs were asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// It ended.
    Ended {
        /// Which choice.
        choice: usize,
        /// Why.
        finish: Finish,
        /// The stop string that ended it, if one did.
        stop: Option<String>,
        /// What it cost.
        usage: Usage,
    },
}

/// Sequences that answer a job.
pub struct Generation {
    choices: Vec<Choice>,
    /// `None` once ended. Dropping a ticket cancels its sequence.
    tickets: Vec<Option<Ticket>>,
    receiver: UnboundedReceiver<(usize, TokenEvent)>,
    ready: std::collections::VecDeque<Event>,
    prompts: Vec<Vec<TokenId>>,
    n: usize,
    permit: Option<Permit>,
}

impl Generation {
    /// Submits all choices of `job`.
    ///
    /// Rendering and encoding take time: call it where blocking is allowed.
    ///
    /// # Errors
    /// If a prompt cannot be made, or the engine refuses a sequence. Then none is left running.
    pub fn start(model: &Arc<Model>, job: &Job) -> Result<Generation, Error> {
        let permit = job.tenant.as_ref().map(|tenant| tenant.admit(Instant::now())).transpose()?;
        let params = job.sampling.params(&model.defaults, &model.tokenizer)?;
        // The channel is bounded by the context: a sequence cannot make more tokens than that.
        let (sender, receiver) = unbounded_channel();
        let mut generation = Generation {
            choices: Vec::new(),
            tickets: Vec::new(),
            receiver,
            ready: std::collections::VecDeque::new(),
            prompts: Vec::new(),
            n: job.n,
            permit,
        };
        for prompt in &job.prompts {
            let ready = prompt::prepare(model, job, prompt)?;
            let room =
                job.max_context.unwrap_or(usize::MAX).min(model.engine.n_ctx()).saturating_sub(ready.tokens.len());
            let mut request = Request::new(ready.tokens.clone(), job.max_tokens.unwrap_or(usize::MAX).min(room.max(1)));
            request.params = params.clone();
            (request.logprobs, request.prompt_logprobs) = (job.logprobs, job.prompt_logprobs);
            (request.client, request.priority) = (job.client, job.priority);
            request.salt = job.salt.clone().into_bytes();
            request.grammar = ready.bound.as_ref().map(|bound| grammar(model, bound)).transpose()?.flatten();
            if !job.ignore_eos {
                request.stop_tokens = model.tokenizer.eog_ids().to_vec();
            }
            let first = generation.choices.len();
            let sinks = (first..first + job.n).map(|index| {
                let sender = sender.clone();
                Box::new(move |event| {
                    // Nobody listens any more: then the ticket is dropped too, and the sequence ends.
                    let _ = sender.send((index, event));
                }) as Sink
            });
            let tickets = model.engine.submit_all(request, sinks.collect())?;
            generation.tickets.extend(tickets.into_iter().map(Some));
            generation.choices.extend((0..job.n).map(|_| Choice::new(model, job, &ready)));
            generation.prompts.push(ready.tokens);
        }
        Ok(generation)
    }

    /// Tokens of the prompts of `job`, none of which is submitted.
    ///
    /// # Errors
    /// If a prompt cannot be made.
    pub fn count(model: &Arc<Model>, job: &Job) -> Result<usize, Error> {
        job.prompts.iter().map(|prompt| Ok(prompt::prepare(model, job, prompt)?.tokens.len())).sum()
    }

    /// Tokens of the prompt of a choice.
    pub fn prompt(&self, choice: usize) -> &[TokenId] {
        &self.prompts[choice / self.n]
    }

    /// Tokens of all prompts together.
    pub fn n_prompt(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }

    /// Choices, over all prompts.
    pub fn n_choice(&self) -> usize {
        self.choices.len()
    }

    /// Tokens that a choice consists of so far, without those that a stop string cut off.
    pub fn tokens(&self, choice: usize) -> &[TokenId] {
        self.choices[choice].tokens()
    }

    /// The next event; `None` after all choices ended.
    ///
    /// # Errors
    /// If the model failed.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.tickets.iter().all(Option::is_none) {
                return None;
            }
            let received = self.receiver.recv().await;
            if let Err(error) = self.take(received) {
                return Some(Err(error));
            }
        }
    }

    /// As [`Generation::next`], outside of an async runtime.
    ///
    /// # Errors
    /// If the model failed.
    pub fn next_blocking(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.tickets.iter().all(Option::is_none) {
                return None;
            }
            let received = self.receiver.blocking_recv();
            if let Err(error) = self.take(received) {
                return Some(Err(error));
            }
        }
    }

    /// Ends all choices; what they hold back is lost.
    pub fn cancel(&mut self) {
        (0..self.choices.len()).filter(|choice| self.tickets[*choice].is_some()).for_each(|choice| self.pay(choice));
        self.tickets.fill_with(|| None);
        self.ready.clear();
    }

    /// Charges an ended choice; a prompt's tokens go with its first choice.
    fn pay(&self, choice: usize) {
        if let Some(permit) = &self.permit {
            let n_prompt = if choice.is_multiple_of(self.n) { self.prompt(choice).len() } else { 0 };
            permit.pay(n_prompt + self.tokens(choice).len());
        }
    }

    fn take(&mut self, received: Option<(usize, TokenEvent)>) -> Result<(), Error> {
        let Some((index, event)) = received else {
            self.cancel();
            return Err(Error::Model("it stopped running".to_owned()));
        };
        // A sequence that met a stop string goes on until the engine hears of it; what it says then is not heard.
        if self.tickets[index].is_none() {
            return Ok(());
        }
        match self.choices[index].take(index, event, &mut self.ready) {
            Ok(true) => {
                self.tickets[index] = None;
                self.pay(index);
            }
            Ok(false) => {}
            Err(error) => {
                self.cancel();
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The compiled grammar of an answer; `None` where nothing can be enforced and the request did not ask for it.
fn grammar(model: &Model, bound: &Bound) -> Result<Option<SharedGrammar>, Error> {
    let compile =
        |reply| model.grammars().and_then(|grammars| grammars.compile(reply)).map(|compiled| SharedGrammar(compiled));
    match compile(&bound.reply) {
        Ok(compiled) => return Ok(Some(compiled)),
        Err(error) if bound.asked => return Err(Error::Grammar { param: bound.param.clone(), error }),
        Err(error) => tracing::warn!(model = %model.card.name, %error, "calls of tools are not held to their schemas"),
    }
    let told = |error| tracing::warn!(model = %model.card.name, %error, "nor to the tools' names");
    Ok(compile(&bound.names()).map_err(told).ok())
}
