//! One answer: its tokens to text, stop strings, and the parts of what the model says.

use std::collections::VecDeque;
use std::sync::Arc;

use mlxr_engine::{FinishReason, Logprob, PromptLogprob, TokenEvent, TokenId, Usage};
use mlxr_text::chat::{Delta, Format, OutputParser};
use mlxr_text::token::{Detokenizer, StopStrings, Tokenizer};

use crate::Error;
use crate::app::Model;
use crate::generate::{Event, Finish, TokenLogprob};
use crate::job::Job;
use crate::prompt::Ready;

/// The state of an answer.
pub(crate) struct Choice {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: StopStrings,
    /// `None`: all text is content.
    parser: Option<(OutputParser, &'static Format)>,
    one_call: bool,
    tokens: Vec<TokenId>,
    logprobs: Vec<TokenLogprob>,
    /// Of the prompt, until it is read.
    prompt: Vec<TokenLogprob>,
    n_call: usize,
    /// The stop string that was met.
    stop: Option<String>,
    usage: Usage,
}

impl Choice {
    pub(crate) fn new(model: &Arc<Model>, job: &Job, ready: &Ready) -> Choice {
        let tokenizer = model.tokenizer.clone();
        // Special tokens are left out here, one by one, since a format's marks may be special tokens.
        let detokenizer = match ready.continues {
            true => Detokenizer::continuing(tokenizer.clone(), false),
            false => Detokenizer::new(tokenizer.clone(), false),
        };
        let parser =
            ready.format.map(|(format, reads)| (OutputParser::new(format, reads).with_tools(&ready.tools), format));
        Choice {
            tokenizer,
            detokenizer,
            stops: StopStrings::new(job.stop.iter().map(String::as_str)),
            parser,
            one_call: ready.one_call,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            prompt: Vec::new(),
            n_call: 0,
            stop: None,
            usage: Usage { n_prompt: ready.tokens.len(), ..Usage::default() },
        }
    }

    pub(crate) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Handles what the engine says; returns whether the answer ended.
    pub(crate) fn take(&mut self, choice: usize, event: TokenEvent, out: &mut VecDeque<Event>) -> Result<bool, Error> {
        if !matches!(event, TokenEvent::Prompt(_)) && !self.prompt.is_empty() {
            out.push_back(Event::Read { choice, logprobs: std::mem::take(&mut self.prompt) });
        }
        match event {
            TokenEvent::Prompt(PromptLogprob { token, logprob, rank, top }) => {
                let read = self.logprob(token, (logprob, Some(rank).filter(|rank| *rank > 0)), &top);
                self.prompt.push(read);
                Ok(false)
            }
            TokenEvent::Token { token, logprob, top } => {
                let (deltas, ends) = self.token(token, logprob, &top);
                let logprobs = if deltas.is_empty() { Vec::new() } else { std::mem::take(&mut self.logprobs) };
                if !deltas.is_empty() {
                    out.push_back(Event::Grown { choice, deltas, logprobs });
                }
                if ends {
                    self.end(choice, Vec::new(), Finish::Stop, out);
                }
                Ok(ends)
            }
            TokenEvent::Finished { reason, usage } => {
                self.usage = usage;
                let finish = match reason {
                    FinishReason::Stop(_) | FinishReason::Complete => Finish::Stop,
                    FinishReason::Length => Finish::Length,
                    FinishReason::Cancelled => return Err(Error::Model("the sequence was cancelled".to_owned())),
                    FinishReason::Error(message) => return Err(Error::Model(message)),
                };
                let deltas = self.rest();
                self.end(choice, deltas, finish, out);
                Ok(true)
            }
        }
    }

    /// What a token adds, and whether the answer ends with it.
    fn token(&mut self, token: TokenId, logprob: Option<f32>, top: &[Logprob]) -> (Vec<Delta>, bool) {
        self.tokens.push(token);
        self.usage.n_generated += 1;
        if logprob.is_some() {
            let said = self.logprob(token, (logprob, None), top);
            self.logprobs.push(said);
        }
        if self.tokenizer.is_special(token) && !self.is_mark(token) {
            return (Vec::new(), false);
        }
        let text = self.detokenizer.push(token);
        let stopped = self.stops.push(text);
        let mut deltas = Vec::new();
        self.parse(&stopped.text, &mut deltas);
        let mut ends = stopped.stop.is_some();
        self.stop = stopped.stop;
        if ends {
            self.finish_parser(&mut deltas);
        }
        if self.one_call
            && let Some(first) = deltas.iter().position(|delta| matches!(delta, Delta::Call(_)))
        {
            deltas.truncate(first + 1);
            ends = true;
        }
        self.count_calls(&deltas);
        (deltas, ends)
    }

    fn logprob(&self, token: TokenId, (logprob, rank): (Option<f32>, Option<usize>), top: &[Logprob]) -> TokenLogprob {
        let bytes = |token| self.tokenizer.token_bytes(token).unwrap_or_default().to_vec();
        let top = top.iter().map(|top| (top.token, bytes(top.token), top.logprob)).collect();
        TokenLogprob { token, bytes: bytes(token), logprob, rank, top }
    }

    fn is_mark(&self, token: TokenId) -> bool {
        let Some((_, format)) = &self.parser else { return false };
        self.tokenizer
            .token_bytes(token)
            .is_some_and(|bytes| std::str::from_utf8(bytes).is_ok_and(|text| format.is_mark(text)))
    }

    /// What was held back, when no more tokens come.
    fn rest(&mut self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        let tail = self.detokenizer.flush().to_owned();
        let stopped = self.stops.push(&tail);
        let held = if stopped.stop.is_none() { self.stops.flush() } else { String::new() };
        self.stop = stopped.stop;
        let text = stopped.text + &held;
        self.parse(&text, &mut deltas);
        self.finish_parser(&mut deltas);
        self.count_calls(&deltas);
        deltas
    }

    fn parse(&mut self, text: &str, out: &mut Vec<Delta>) {
        match &mut self.parser {
            Some((parser, _)) => parser.push(text, out),
            None if text.is_empty() => {}
            None => out.push(Delta::Content(text.to_owned())),
        }
    }

    fn finish_parser(&mut self, out: &mut Vec<Delta>) {
        if let Some((parser, _)) = &mut self.parser {
            parser.finish(out);
        }
    }

    fn count_calls(&mut self, deltas: &[Delta]) {
        self.n_call += deltas.iter().filter(|delta| matches!(delta, Delta::Call(_))).count();
    }

    fn end(&mut self, choice: usize, deltas: Vec<Delta>, finish: Finish, out: &mut VecDeque<Event>) {
        let logprobs = std::mem::take(&mut self.logprobs);
        if !deltas.is_empty() || !logprobs.is_empty() {
            out.push_back(Event::Grown { choice, deltas, logprobs });
        }
        let finish = if self.n_call > 0 && finish == Finish::Stop { Finish::ToolCalls } else { finish };
        out.push_back(Event::Ended { choice, finish, stop: self.stop.take(), usage: self.usage });
    }
}
