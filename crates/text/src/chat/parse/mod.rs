//! What a model writes back: content, reasoning and calls of tools, told apart while it streams.
//!
//! A [`Format`] is a row of [`FORMATS`]; the template shows which one the model was trained on. [`OutputParser`] holds
//! text back only while it may be the beginning of a mark.

mod call;
mod harmony;
mod stream;
mod syntax;

pub use call::ParsedCall;
pub use stream::{OutputParser, Reads};
pub use syntax::{CallSyntax, Piece};

/// A piece of the answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// Text for the user.
    Content(String),
    /// Thought that comes before the answer.
    Reasoning(String),
    /// A call of a tool, whole.
    Call(ParsedCall),
}

/// How the text between the marks of a call is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// `{"name": ..., "arguments": {...}}`, or a list of such.
    Json,
    /// `name{...}` or `name>{...}`, after the opening mark.
    NameThenJson,
    /// `<function=name><parameter=key>value</parameter>...</function>`.
    Xml,
    /// `function<｜tool▁sep｜>name` and a JSON block, or `name<｜tool▁sep｜>{...}`.
    DeepSeek,
}

/// Marks of a call. An empty `close` means the end of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) open: &'static str,
    pub(crate) close: &'static str,
    pub(crate) body: Body,
}

/// How a family of models writes reasoning and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Its name.
    pub name: &'static str,
    /// Texts of which each stands in the templates of the family.
    signs: &'static [&'static str],
    pub(crate) think: (&'static str, &'static str),
    pub(crate) calls: &'static [Marks],
    /// Marks that carry nothing, such as those around all calls.
    pub(crate) skip: &'static [&'static str],
    /// An answer that is one JSON object is a call.
    pub(crate) bare_json: bool,
    /// The answer is made of channels.
    pub(crate) harmony: bool,
}

const THINK: (&str, &str) = ("<think>", "</think>");
const TOOL_CALL: Marks = Marks { open: "<tool_call>", close: "</tool_call>", body: Body::Json };

/// The format of Hermes and most others, and what a model is told whose template knows no tools.
pub const HERMES: Format = Format {
    name: "hermes",
    signs: &["<tool_call>"],
    think: THINK,
    calls: &[TOOL_CALL],
    skip: &[],
    bare_json: false,
    harmony: false,
};

/// All formats. The first whose signs all stand in the template is taken.
pub const FORMATS: &[Format] = &[
    Format { name: "harmony", signs: &["<|channel|>", "<|message|>"], harmony: true, calls: &[], ..HERMES },
    Format {
        name: "qwen3-coder",
        signs: &["<function=", "<parameter="],
        calls: &[
            Marks { open: "<tool_call>", close: "</tool_call>", body: Body::Xml },
            Marks { open: "<function=", close: "</function>", body: Body::Xml },
        ],
        ..HERMES
    },
    Format {
        name: "functionary",
        signs: &["<function=", "</function>"],
        calls: &[Marks { open: "<function=", close: "</function>", body: Body::NameThenJson }],
        ..HERMES
    },
    Format {
        name: "mistral",
        signs: &["[TOOL_CALLS]"],
        think: ("[THINK]", "[/THINK]"),
        calls: &[Marks { open: "[TOOL_CALLS]", close: "", body: Body::NameThenJson }],
        ..HERMES
    },
    Format {
        name: "deepseek",
        signs: &["<｜tool▁call▁begin｜>"],
        calls: &[Marks {
            open: "<｜tool▁call▁begin｜>", close: "<｜tool▁call▁end｜>", body: Body::DeepSeek
        }],
        skip: &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
        ..HERMES
    },
    Format {
        name: "llama3",
        signs: &["<|start_header_id|>", "ipython"],
        calls: &[Marks { open: "<|python_tag|>", close: "", body: Body::Json }],
        bare_json: true,
        ..HERMES
    },
    HERMES,
];

impl Format {
    /// The format of the models for which the template with this source was written.
    pub fn detect(template: &str) -> &'static Format {
        let fits = |format: &&Format| format.signs.iter().all(|sign| template.contains(sign));
        FORMATS.iter().find(fits).unwrap_or(&HERMES)
    }

    /// Whether a special token with this text is a mark of the format, which the parser must see. Other special tokens
    /// are no part of an answer.
    pub fn is_mark(&self, token: &str) -> bool {
        const HARMONY: [&str; 7] =
            ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"];
        const MISTRAL: [&str; 2] = ["[ARGS]", "[CALL_ID]"];
        if self.harmony {
            return HARMONY.contains(&token);
        }
        let calls = || self.calls.iter().flat_map(|marks| [marks.open, marks.close]);
        let of_call = calls().chain(self.skip.iter().copied()).any(|mark| mark == token);
        of_call
            || token == self.think.0
            || token == self.think.1
            || MISTRAL.contains(&token)
            || token.starts_with("<｜tool▁")
    }

    /// Whether a prompt leaves the model in the middle of its reasoning.
    pub fn begins_in_reasoning(&self, prompt: &str) -> bool {
        !self.harmony && prompt.trim_end().ends_with(self.think.0)
    }
}
