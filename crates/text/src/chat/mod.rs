//! Chat templates: messages to prompt text, and what the model writes back to content, reasoning and tool calls.
//!
//! | module | idea |
//! |---|---|
//! | [`template`] | a compiled template, its environment and errors |
//! | [`conversation`] | what is rendered |
//! | [`capability`] | what a template supports, found out by trial |
//! | [`sources`] | the templates that a model ships, by name |
//! | [`builtin`] | templates for families that ship none |
//! | [`parse`] | what a model writes back |
//! | [`limits`] | what a template may use |
//! | `source`, `json`, `methods` | where Jinja2 in `transformers` differs from minijinja |

pub mod builtin;
pub mod capability;
pub mod conversation;
mod json;
pub mod limits;
mod methods;
pub mod parse;
mod source;
pub mod sources;
pub mod template;

pub use capability::Capabilities;
pub use conversation::{Conversation, Message, ToolCall};
pub use limits::Limits;
pub use parse::{CallSyntax, Delta, Format, OutputParser, ParsedCall, Piece, Reads};
pub use sources::TemplateSources;
pub use template::{ChatTemplate, Specials, TemplateError};
