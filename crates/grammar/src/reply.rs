//! A whole reply as one grammar: reasoning, then content or calls.
//!
//! ```text
//! start:  (<think> thought)? (content | calls)           thought: text up to </think>
//! start:  analysis? (<|channel|>final<|message|> content | calls)        where a reply is made of channels
//! ```

use std::fmt::Write;
use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use mlxr_text::chat::{Format, Reads};
use mlxr_text::token::Tokenizer;
use serde_json::json;

use crate::calls::Calls;
use crate::limits::{GrammarError, Limits, Source, check_schema};
use crate::schema::enforced;
use crate::{gbnf, lark};

/// What a reply may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reasoning {
    /// Nothing.
    No,
    /// Reasoning that the prompt has begun, up to the mark.
    Open {
        /// Mark of its end.
        close: &'static str,
    },
    /// Reasoning between two marks, if the model likes.
    Maybe {
        /// Mark of its begin.
        open: &'static str,
        /// Mark of its end.
        close: &'static str,
    },
    /// The reply is made of harmony's channels, the first of which may be the analysis.
    Channels,
}

impl Reasoning {
    /// What a reply to `prompt` may begin with, by how it will be read.
    pub fn after(prompt: &str, format: &Format, reads: Reads) -> Reasoning {
        let (open, close) = format.think_marks();
        match reads {
            _ if format.has_channels() => Reasoning::Channels,
            Reads { reasoning: false, .. } => Reasoning::No,
            Reads { in_reasoning: true, .. } => Reasoning::Open { close },
            // The prompt has it, since it was asked for none.
            _ if prompt.trim_end().ends_with(close) => Reasoning::No,
            _ => Reasoning::Maybe { open, close },
        }
    }
}

/// What a reply may be.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What comes first.
    pub reasoning: Reasoning,
    /// The content; `None`: calls only.
    pub content: Option<Content>,
    /// Calls in place of the content, or after a free one.
    pub calls: Option<Calls>,
}

/// What the content may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Any text.
    Free,
    /// What this allows.
    Bound(Source),
}

/// A grammar of several parts.
pub(crate) struct Written {
    pub(crate) grammar: TopLevelGrammar,
    /// Each part's field in the request, in the order of the grammars after the first.
    pub(crate) fields: Vec<String>,
}

impl Reply {
    /// Content alone.
    pub fn of(source: Source) -> Reply {
        Reply { reasoning: Reasoning::No, content: Some(Content::Bound(source)), calls: None }
    }

    pub(crate) fn write(&self, tokenizer: &Arc<Tokenizer>, limits: &Limits) -> Result<Written, GrammarError> {
        let mut writer = Writer { tokenizer, limits, rules: String::new(), parts: Vec::new(), fields: Vec::new() };
        let channels = self.reasoning == Reasoning::Channels;
        let final_channel = |content: String, writer: &Writer<'_>| match channels {
            true => format!("{} \"final\" {} {content}", writer.mark("<|channel|>"), writer.mark("<|message|>")),
            false => content,
        };
        let content = match &self.content {
            None => None,
            Some(Content::Free) => {
                writer.raw("TEXT: /(?s:.)+/");
                Some(final_channel("TEXT?".into(), &writer))
            }
            Some(Content::Bound(source)) => {
                let body = writer.part("body", "", source)?;
                Some(final_channel(body, &writer))
            }
        };
        if let Some(calls) = &self.calls {
            calls.check(limits)?;
            calls.write(&mut writer)?;
        }
        let reply = match (content, &self.calls, &self.content) {
            (Some(_), Some(calls), Some(Content::Free)) if !channels => writer.text_then_calls(calls)?,
            (Some(content), Some(_), _) => format!("{content} | calls"),
            (Some(content), None, _) => content,
            (None, _, _) => "calls".to_owned(),
        };
        writer.rule("reply", &reply);
        let before = writer.reasoning(self.reasoning);
        writer.rule("start", &format!("{before} reply"));
        let main = GrammarWithLexer { name: Some("reply".into()), ..GrammarWithLexer::from_lark(writer.rules) };
        let grammars = std::iter::once(main).chain(writer.parts).collect();
        Ok(Written { grammar: TopLevelGrammar { grammars, max_tokens: None }, fields: writer.fields })
    }
}

/// Collects rules and parts.
pub(crate) struct Writer<'a> {
    tokenizer: &'a Arc<Tokenizer>,
    limits: &'a Limits,
    rules: String,
    parts: Vec<GrammarWithLexer>,
    fields: Vec<String>,
}

impl Writer<'_> {
    pub(crate) fn raw(&mut self, line: &str) {
        self.rules.push_str(line);
        self.rules.push('\n');
    }

    pub(crate) fn rule(&mut self, name: &str, body: &str) {
        let _ = writeln!(self.rules, "{name}: {body}");
    }

    pub(crate) fn control(&self, mark: &str) -> Option<String> {
        lark::control(self.tokenizer, mark)
    }

    fn mark(&self, mark: &str) -> String {
        lark::mark(self.tokenizer, mark)
    }

    /// A part with rules of its own; returns how to refer to it. `field`: where the request has it.
    pub(crate) fn part(&mut self, name: &str, field: &str, source: &Source) -> Result<String, GrammarError> {
        source.check(self.limits)?;
        if self.parts.iter().any(|part| part.name.as_deref() == Some(name)) {
            return Ok(format!("@{name}"));
        }
        let invalid = |message| GrammarError::Invalid { what: source.what(), message };
        let grammar = match source {
            Source::Json => GrammarWithLexer::from_json_schema(enforced(json!({"type": "object"}))),
            Source::Schema(schema) => {
                check_schema(source.what(), schema, self.limits)?;
                GrammarWithLexer::from_json_schema(enforced(schema.clone()))
            }
            Source::Regex(text) => GrammarWithLexer::from_lark(format!("start: {}", whole_regex(text))),
            Source::Choice(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| lark::literal(text)).collect();
                GrammarWithLexer::from_lark(format!("start: TEXT\nTEXT: {}", texts.join(" | ")))
            }
            Source::Lark(text) => GrammarWithLexer::from_lark(text.clone()),
            Source::Gbnf(text) => GrammarWithLexer::from_lark(gbnf::to_lark(text).map_err(invalid)?),
        };
        self.parts.push(GrammarWithLexer { name: Some(name.to_owned()), ..grammar });
        self.fields.push(field.to_owned());
        Ok(format!("@{name}"))
    }

    /// What comes before the reply.
    fn reasoning(&mut self, reasoning: Reasoning) -> String {
        match reasoning {
            Reasoning::No => String::new(),
            Reasoning::Open { close } => {
                self.thought(close);
                "thought".to_owned()
            }
            Reasoning::Maybe { open, close } => {
                self.thought(close);
                format!("({} thought)?", self.mark(open))
            }
            Reasoning::Channels => {
                let [channel, message, start] = ["<|channel|>", "<|message|>", "<|start|>"].map(|mark| self.mark(mark));
                let text = self.up_to("inner", "<|end|>");
                self.rule("analysis", &format!("{channel} \"analysis\" {message} {text} {start} \"assistant\""));
                "analysis?".to_owned()
            }
        }
    }

    /// The rule `thought`: text up to a mark, and the newlines after.
    fn thought(&mut self, close: &'static str) {
        self.raw("SPACE: /\\n{1,2}/");
        let text = self.up_to("before", close);
        self.rule("thought", &format!("{text} SPACE?"));
    }

    /// Any text up to a mark, and the mark. `name`: of the rule for the text.
    fn up_to(&mut self, name: &str, mark: &str) -> String {
        match self.control(mark) {
            Some(token) => {
                let name = name.to_uppercase();
                self.raw(&format!("{name}: /(?s:.)+/"));
                format!("{name}? {token}")
            }
            None => {
                self.raw(&format!("{name}[suffix={}]: /(?s:.)*/", lark::literal(mark)));
                name.to_owned()
            }
        }
    }

    /// Free text that may end in calls.
    fn text_then_calls(&mut self, calls: &Calls) -> Result<String, GrammarError> {
        if calls.begins_with_token(self) {
            return Ok("TEXT? calls?".to_owned());
        }
        let Some(mark) = calls.text_mark(self) else {
            // Content that begins as a call does is one.
            self.raw("OTHER: /[^{](?s:.)*/");
            return Ok("OTHER | calls".to_owned());
        };
        // A lexeme cannot be left in its middle: text up to the mark is one, text without the mark another.
        calls.write_opened(self)?;
        let mark = lark::literal(mark);
        self.raw(&format!("OTHER: /(?s:.)+/ & ~(/(?s:.)*/ {mark} /(?s:.)*/)"));
        self.raw(&format!("before_call[suffix={mark}]: /(?s:.)*/"));
        Ok("OTHER | before_call opened".to_owned())
    }
}

/// A regular expression that matches a whole text anyway, without the marks that say so.
fn whole_regex(text: &str) -> String {
    let text = text.strip_prefix('^').unwrap_or(text);
    let n_slash = text.strip_suffix('$').map(|rest| rest.len() - rest.trim_end_matches('\\').len());
    let text = if n_slash.is_some_and(|n| n % 2 == 0) { &text[..text.len() - 1] } else { text };
    if text.is_empty() { "\"\"".to_owned() } else { lark::regex(text) }
}
