//! The streaming parser.

use serde_json::Value;

use super::call::Texts;
use super::harmony::Harmony;
use super::{Body, Delta, Format, Marks, call};

/// Bytes that a call may have before it is given up and shown as text.
const CALL_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space was written yet.
    Start,
    Content,
    Reasoning,
    Call(Marks),
    /// The answer began with `{`: it may be a call.
    BareJson,
}

/// What is looked for in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    /// Calls of tools: tools were offered. Without, their marks are text.
    pub calls: bool,
    /// Reasoning: the model may think. Without, its marks are text.
    pub reasoning: bool,
    /// The prompt ends within the reasoning; see [`Format::begins_in_reasoning`].
    pub in_reasoning: bool,
    /// Reasoning comes first or not at all: marks within the content are text.
    pub reasoning_first: bool,
}

/// Tells content, reasoning and calls apart in text that comes in pieces.
#[derive(Debug)]
pub struct OutputParser {
    format: &'static Format,
    reads_calls: bool,
    reads_reasoning: bool,
    reasoning_first: bool,
    state: State,
    /// Text that is not given out yet.
    held: String,
    harmony: Harmony,
    /// White space that comes next follows a mark, and belongs to the format.
    trims: bool,
    texts: Texts,
}

impl OutputParser {
    /// A parser for an answer.
    pub fn new(format: &'static Format, reads: Reads) -> OutputParser {
        let in_reasoning = reads.reasoning && reads.in_reasoning;
        OutputParser {
            format,
            reads_calls: reads.calls,
            reads_reasoning: reads.reasoning,
            reasoning_first: reads.reasoning_first,
            state: if in_reasoning { State::Reasoning } else { State::Start },
            held: String::new(),
            harmony: Harmony::default(),
            trims: in_reasoning,
            texts: Texts::default(),
        }
    }

    /// Reads calls of these tools, in OpenAI's shape: their schemas tell texts from numbers where the format does not.
    #[must_use]
    pub fn with_tools(mut self, tools: &[Value]) -> OutputParser {
        self.texts = Texts::of(tools);
        self
    }

    /// Takes the next piece of the answer and appends what it completes to `out`.
    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        if self.format.harmony {
            return self.harmony.push(text, out);
        }
        self.held.push_str(text);
        while self.step(out) {}
    }

    /// Ends the answer: what is held is given out.
    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        if self.format.harmony {
            return self.harmony.finish(out);
        }
        while self.step(out) {}
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Reasoning => self.emit(rest.trim_end(), out),
            State::Content | State::Start => self.emit(&rest, out),
            State::Call(marks) => self.end_call(marks, &rest, "", out),
            State::BareJson => match call::parse(Body::Json, &rest, &self.texts) {
                Some(calls) => out.extend(calls.into_iter().map(Delta::Call)),
                None => self.emit(&rest, out),
            },
        }
    }

    /// Handles one thing at the start of `held`; false when more text is needed.
    fn step(&mut self, out: &mut Vec<Delta>) -> bool {
        match self.state {
            State::Start => {
                let text = self.held.trim_start();
                if text.is_empty() {
                    return false;
                }
                let bare = self.reads_calls && self.format.bare_json && text.starts_with('{');
                self.state = if bare { State::BareJson } else { State::Content };
                true
            }
            State::Content => self.step_content(out),
            State::Reasoning => self.step_reasoning(out),
            State::Call(marks) => self.step_call(marks, out),
            State::BareJson => {
                if self.held.len() > CALL_BYTES {
                    self.state = State::Content;
                    return true;
                }
                false
            }
        }
    }

    fn step_content(&mut self, out: &mut Vec<Delta>) -> bool {
        let think = self.reads_reasoning.then_some(self.format.think.0);
        let calls = if self.reads_calls { self.format.calls } else { &[] };
        let skip = if self.reads_calls { self.format.skip } else { &[] };
        let marks = think.into_iter().chain(calls.iter().map(|marks| marks.open)).chain(skip.iter().copied());
        let Some((at, mark)) = marks.filter_map(|mark| Some((self.held.find(mark)?, mark))).min_by_key(|found| found.0)
        else {
            let marks = think.into_iter().chain(calls.iter().map(|marks| marks.open)).chain(skip.iter().copied());
            self.release(marks.collect(), self.reads_calls, out);
            return false;
        };
        let rest = self.held.split_off(at + mark.len());
        let text = std::mem::replace(&mut self.held, rest);
        // White space between the text and a call belongs to the format.
        self.emit(text[..at].trim_end(), out);
        self.trims = true;
        if think == Some(mark) {
            self.state = State::Reasoning;
        } else if let Some(marks) = calls.iter().find(|marks| marks.open == mark) {
            self.state = State::Call(*marks);
        }
        true
    }

    fn step_reasoning(&mut self, out: &mut Vec<Delta>) -> bool {
        let close = self.format.think.1;
        let Some(at) = self.held.find(close) else {
            self.release(vec![close], true, out);
            return false;
        };
        let rest = self.held.split_off(at + close.len());
        let text = std::mem::replace(&mut self.held, rest);
        self.emit(text[..at].trim_end(), out);
        self.trims = true;
        self.state = State::Start;
        true
    }

    fn step_call(&mut self, marks: Marks, out: &mut Vec<Delta>) -> bool {
        let found = if marks.close.is_empty() { None } else { self.held.find(marks.close) };
        match found {
            Some(at) => {
                let rest = self.held.split_off(at + marks.close.len());
                let text = std::mem::replace(&mut self.held, rest);
                self.end_call(marks, &text[..at], marks.close, out);
                self.trims = true;
                self.state = State::Content;
                true
            }
            None if self.held.len() > CALL_BYTES => {
                let text = format!("{}{}", marks.open, std::mem::take(&mut self.held));
                self.emit(&text, out);
                self.state = State::Content;
                true
            }
            None => false,
        }
    }

    /// Gives out a finished call; one that cannot be read is shown as it was written.
    fn end_call(&mut self, marks: Marks, text: &str, close: &str, out: &mut Vec<Delta>) {
        match call::parse(marks.body, text, &self.texts) {
            Some(calls) => out.extend(calls.into_iter().map(Delta::Call)),
            None => {
                self.state = State::Content;
                self.emit(&format!("{}{text}{close}", marks.open), out);
            }
        }
    }

    /// Gives out what cannot be the beginning of one of `marks`; with `holds_space`, nor white space at the end.
    fn release(&mut self, marks: Vec<&str>, holds_space: bool, out: &mut Vec<Delta>) {
        let mut keep = marks.into_iter().map(|mark| overlap(&self.held, mark)).max().unwrap_or(0);
        if holds_space {
            keep = self.held.len() - self.held[..self.held.len() - keep].trim_end().len();
        }
        let rest = self.held.split_off(self.held.len() - keep);
        let text = std::mem::replace(&mut self.held, rest);
        self.emit(&text, out);
    }

    fn emit(&mut self, text: &str, out: &mut Vec<Delta>) {
        let text = if self.trims { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.trims = false;
        out.push(match self.state {
            State::Reasoning => Delta::Reasoning(text.to_owned()),
            _ => {
                self.reads_reasoning &= !self.reasoning_first;
                Delta::Content(text.to_owned())
            }
        });
    }
}

/// Bytes at the end of `text` that are a proper beginning of `mark`.
pub(super) fn overlap(text: &str, mark: &str) -> usize {
    let most = text.len().min(mark.len().saturating_sub(1));
    (1..=most)
        .rev()
        .find(|&n| mark.is_char_boundary(n) && text.as_bytes().ends_with(&mark.as_bytes()[..n]))
        .unwrap_or(0)
}
