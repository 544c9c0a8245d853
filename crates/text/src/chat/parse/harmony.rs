//! The format of gpt-oss: an answer is a row of messages, each with a channel and perhaps a recipient.
//!
//! ```text
//! <|channel|>analysis<|message|>thought<|end|><|start|>assistant<|channel|>final<|message|>answer<|return|>
//! <|channel|>commentary to=functions.name <|constrain|>json<|message|>{...}<|call|>
//! ```
//! Source: the harmony format's documentation of OpenAI.

use super::stream::overlap;
use super::{Delta, ParsedCall};

const MESSAGE: &str = "<|message|>";
const ENDS: [&str; 4] = ["<|end|>", "<|return|>", "<|call|>", "<|start|>"];

#[derive(Debug, Default)]
enum State {
    /// Before `<|message|>`: the header collects in `held`.
    #[default]
    Header,
    Content,
    Reasoning,
    /// The arguments of a call of the named function collect in `held`.
    Call(String),
}

/// The parser's state.
#[derive(Debug, Default)]
pub(crate) struct Harmony {
    state: State,
    held: String,
}

impl Harmony {
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<Delta>) {
        while self.step(out) {}
        let rest = std::mem::take(&mut self.held);
        match &self.state {
            // No channel was ever named: the model wrote plain text.
            State::Header if !rest.contains("<|") => emit(&State::Content, &rest, out),
            State::Header => {}
            state => emit(state, &rest, out),
        }
    }

    fn step(&mut self, out: &mut Vec<Delta>) -> bool {
        if let State::Header = self.state {
            let Some(at) = self.held.find(MESSAGE) else { return false };
            self.state = state_of(&self.held[..at]);
            self.held.drain(..at + MESSAGE.len());
            return true;
        }
        let found = ENDS.iter().filter_map(|end| Some((self.held.find(end)?, end.len()))).min();
        if let Some((at, length)) = found {
            let rest = self.held.split_off(at + length);
            let text = std::mem::replace(&mut self.held, rest);
            emit(&self.state, &text[..at], out);
            self.state = State::Header;
            return true;
        }
        if !matches!(self.state, State::Call(_)) {
            let keep = ENDS.iter().map(|end| overlap(&self.held, end)).max().unwrap_or(0);
            let rest = self.held.split_off(self.held.len() - keep);
            let text = std::mem::replace(&mut self.held, rest);
            emit(&self.state, &text, out);
        }
        false
    }
}

/// The state that the header of a message begins.
fn state_of(header: &str) -> State {
    if let Some((_, after)) = header.split_once("to=") {
        let name = after.split(|c: char| c.is_whitespace() || c == '<').next().unwrap_or("");
        return State::Call(name.strip_prefix("functions.").unwrap_or(name).to_owned());
    }
    let channel = header.split_once("<|channel|>").map_or("final", |(_, after)| after);
    // Commentary without a recipient is a preamble that the user is meant to see.
    if channel.trim_start().starts_with("analysis") { State::Reasoning } else { State::Content }
}

fn emit(state: &State, text: &str, out: &mut Vec<Delta>) {
    if text.is_empty() {
        return;
    }
    out.push(match state {
        State::Reasoning => Delta::Reasoning(text.to_owned()),
        State::Header | State::Content => Delta::Content(text.to_owned()),
        State::Call(name) => Delta::Call(ParsedCall { name: name.clone(), arguments: text.trim().to_owned() }),
    });
}
