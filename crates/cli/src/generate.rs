//! A prompt to a stream of text.

use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use mlxr_engine::constraint::SharedGrammar;
use mlxr_engine::sampler::MAX_BREAKERS;
use mlxr_engine::{FinishReason, Request, TokenEvent, TokenId, Usage};
use mlxr_grammar::{Content, Reasoning};
use mlxr_text::chat::{ChatTemplate, Delta, Format, OutputParser, Reads};
use mlxr_text::token::{Detokenizer, Encode, StopStrings, Tokenizer};

use crate::CliError;
use crate::interrupt::Interrupt;
use crate::load::{Loaded, Structure};
use crate::setting::Settings;

/// What a reply hears while it waits.
#[derive(Debug)]
pub enum Message {
    /// The engine.
    Event(TokenEvent),
    /// Ctrl-C.
    Interrupted,
}

/// What to continue.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// Whether the reply begins a text of its own, so that a space which encoding would have put there is left out.
    pub begins_text: bool,
    /// How to tell thought and content apart; `None`: all is content.
    pub format: Option<(&'static Format, Reads)>,
    /// What the reply may begin with, where it is constrained.
    pub reasoning: Reasoning,
}

/// A piece of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text for the user.
    Content(&'a str),
    /// Thought that comes before it.
    Reasoning(&'a str),
}

/// Takes the pieces of a reply as they come.
pub type Print<'a> = dyn FnMut(Piece) -> io::Result<()> + 'a;

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model said so, or a stop text came.
    Stop,
    /// The limit or the context is reached.
    Length,
    /// Ctrl-C.
    Interrupted,
}

/// A reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What was said.
    pub content: String,
    /// What was thought before.
    pub reasoning: String,
    /// Why it ended.
    pub end: End,
    /// What it cost.
    pub usage: Usage,
    /// From the request until the first piece.
    pub first_text: Duration,
}

impl Prompt {
    /// A text to continue as it is.
    ///
    /// # Errors
    /// If it cannot be encoded, or there is nothing to begin with.
    pub fn raw(tokenizer: &Tokenizer, text: &str) -> Result<Prompt, CliError> {
        let mut tokens = tokenizer.encode(text, Encode::PROMPT)?;
        // An end token that the tokenizer puts last would end the reply before it begins.
        if tokenizer.add_eos() && tokens.last().copied() == tokenizer.eos() {
            tokens.pop();
        }
        if tokens.is_empty() {
            let none = || CliError::Usage("the model has no token to begin with: give a prompt".into());
            tokens.push(tokenizer.bos().or(tokenizer.eos()).ok_or_else(none)?);
        }
        Ok(Prompt { tokens, begins_text: text.is_empty(), format: None, reasoning: Reasoning::No })
    }

    /// A conversation that `template` has rendered as `text`. Models that want a begin token get it, if the template does
    /// not print it.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn rendered(tokenizer: &Tokenizer, template: &ChatTemplate, text: &str) -> Result<Prompt, CliError> {
        let mut tokens = tokenizer.encode(text, Encode::TEMPLATE)?;
        tokenizer.begin(&mut tokens);
        let format = Format::detect(template.source());
        let reasoning = template.capabilities().reasons;
        let reads = Reads { reasoning, in_reasoning: format.begins_in_reasoning(text), ..Reads::default() };
        let reasoning = Reasoning::after(text, format, reads);
        Ok(Prompt { tokens, begins_text: false, format: Some((format, reads)), reasoning })
    }
}

/// Generates a reply and hands its pieces to `print` as they come. Ctrl-C ends it.
///
/// # Errors
/// If the request is refused, the model fails, or `print` does.
pub fn generate(
    loaded: &Loaded,
    mut prompt: Prompt,
    settings: &Settings,
    interrupt: &Interrupt,
    print: &mut Print,
) -> Result<Reply, CliError> {
    let grammar = loaded.structure.as_ref().map(|structure| bound(structure, &mut prompt)).transpose()?;
    let (sender, messages) = mpsc::channel();
    let _guard = interrupt.to(sender.clone());
    let mut reader = Reader::new(&loaded.tokenizer, &prompt, settings, print);
    let request = Request { grammar, ..request(&loaded.tokenizer, prompt, settings) };
    let sink = Box::new(move |event| {
        // A reply that has failed to print listens no more.
        let _ = sender.send(Message::Event(event));
    });
    let ticket = loaded.engine.submit(request, sink)?;
    let mut ended: Option<End> = None;
    for message in &messages {
        match message {
            Message::Interrupted => {
                ticket.cancel();
                ended = ended.or(Some(End::Interrupted));
            }
            Message::Event(TokenEvent::Token { token, .. }) if ended.is_none() => {
                if reader.push(token)? {
                    ticket.cancel();
                    ended = Some(End::Stop);
                }
            }
            Message::Event(TokenEvent::Token { .. } | TokenEvent::Prompt(_)) => {}
            Message::Event(TokenEvent::Finished { reason, usage }) => {
                let end = ended.map_or_else(|| end(reason), Ok)?;
                return reader.finish(end, usage);
            }
        }
    }
    Err(CliError::Failed("the model stopped without a word".into()))
}

/// The grammar of a reply, which is then read as the grammar allows.
fn bound(structure: &Structure, prompt: &mut Prompt) -> Result<SharedGrammar, CliError> {
    if let Some((_, reads)) = &mut prompt.format {
        reads.reasoning_first = true;
    }
    let content = Some(Content::Bound(structure.source.clone()));
    let reply = mlxr_grammar::Reply { reasoning: prompt.reasoning, content, calls: None };
    Ok(SharedGrammar(structure.grammars.compile(&reply)?))
}

/// Tokens to the pieces of a reply.
struct Reader<'a> {
    tokenizer: Arc<Tokenizer>,
    text: Detokenizer,
    stops: StopStrings,
    parser: Option<(OutputParser, &'static Format)>,
    print: &'a mut Print<'a>,
    start: Instant,
    first_text: Option<Duration>,
    content: String,
    reasoning: String,
}

impl<'a> Reader<'a> {
    fn new(tokenizer: &Arc<Tokenizer>, prompt: &Prompt, settings: &Settings, print: &'a mut Print<'a>) -> Reader<'a> {
        let shared = tokenizer.clone();
        // Special tokens are left out one by one, since a format's marks may be special tokens.
        let text = match prompt.begins_text {
            true => Detokenizer::new(shared, false),
            false => Detokenizer::continuing(shared, false),
        };
        Reader {
            tokenizer: tokenizer.clone(),
            text,
            stops: StopStrings::new(settings.stop.iter().cloned()),
            parser: prompt.format.map(|(format, reads)| (OutputParser::new(format, reads), format)),
            print,
            start: Instant::now(),
            first_text: None,
            content: String::new(),
            reasoning: String::new(),
        }
    }

    /// Takes a token. Returns whether a stop text came.
    fn push(&mut self, token: TokenId) -> io::Result<bool> {
        if self.tokenizer.is_special(token) && !self.is_mark(token) {
            return Ok(false);
        }
        let found = self.stops.push(self.text.push(token));
        self.parse(&found.text)?;
        Ok(found.stop.is_some())
    }

    fn is_mark(&self, token: TokenId) -> bool {
        let name = self.tokenizer.token_name(token).and_then(|name| std::str::from_utf8(name).ok());
        self.parser.as_ref().zip(name).is_some_and(|((_, format), name)| format.is_mark(name))
    }

    fn parse(&mut self, text: &str) -> io::Result<()> {
        let mut deltas = Vec::new();
        match &mut self.parser {
            Some((parser, _)) => parser.push(text, &mut deltas),
            None => deltas.push(Delta::Content(text.to_owned())),
        }
        self.emit(deltas)
    }

    fn emit(&mut self, deltas: Vec<Delta>) -> io::Result<()> {
        for delta in deltas {
            let piece = match &delta {
                Delta::Content(text) => Piece::Content(text),
                Delta::Reasoning(text) => Piece::Reasoning(text),
                // No tools are offered here, and their marks are text then.
                Delta::Call(_) => continue,
            };
            match piece {
                Piece::Content("") | Piece::Reasoning("") => continue,
                Piece::Content(text) => self.content.push_str(text),
                Piece::Reasoning(text) => self.reasoning.push_str(text),
            }
            self.first_text.get_or_insert_with(|| self.start.elapsed());
            (self.print)(piece)?;
        }
        Ok(())
    }

    /// Gives out what was held back.
    fn finish(mut self, end: End, usage: Usage) -> Result<Reply, CliError> {
        // After a stop text nothing comes out of `stops` any more.
        let rest = self.stops.push(self.text.flush());
        let held = if rest.stop.is_none() { self.stops.flush() } else { String::new() };
        self.parse(&(rest.text + &held))?;
        let mut deltas = Vec::new();
        if let Some((parser, _)) = &mut self.parser {
            parser.finish(&mut deltas);
        }
        self.emit(deltas)?;
        let first_text = self.first_text.unwrap_or_default();
        Ok(Reply { content: self.content, reasoning: self.reasoning, end, usage, first_text })
    }
}

fn end(reason: FinishReason) -> Result<End, CliError> {
    match reason {
        FinishReason::Stop(_) | FinishReason::Complete => Ok(End::Stop),
        FinishReason::Length => Ok(End::Length),
        FinishReason::Cancelled => Ok(End::Interrupted),
        FinishReason::Error(text) => Err(CliError::Failed(text)),
    }
}

fn request(tokenizer: &Tokenizer, prompt: Prompt, settings: &Settings) -> Request {
    let mut params = settings.params.clone();
    if params.dry.multiplier > 0.0 {
        params.dry.breakers = breakers(tokenizer, &settings.breakers);
    }
    let stop_tokens = tokenizer.eog_ids().to_vec();
    Request { params, stop_tokens, ..Request::new(prompt.tokens, settings.max_tokens) }
}

/// The tokens that hold one of `texts`, each a sequence breaker, and the texts as sequences of several tokens.
fn breakers(tokenizer: &Tokenizer, texts: &[String]) -> Vec<Vec<TokenId>> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    let holds = |bytes: &[u8]| texts.iter().any(|text| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
    let single = (0..tokenizer.n_vocab() as TokenId).filter(|id| tokenizer.token_bytes(*id).is_some_and(holds));
    let encoded =
        texts.iter().filter_map(|text| tokenizer.encode(text, Encode::PLAIN).ok()).filter(|ids| ids.len() > 1);
    encoded.chain(single.map(|id| vec![id])).take(MAX_BREAKERS).collect()
}
