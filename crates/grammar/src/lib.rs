//! What a model may say: JSON that fits a schema, a regular expression, one of some texts, a grammar, calls of tools.
//!
//! ```text
//! Source ─ limits.rs ─ gbnf.rs ─┐
//! Calls  ─ calls.rs             ├ reply.rs ─ compile.rs ─ Compiled ─ running.rs: engine::constraint
//! Tokenizer ─ vocabulary.rs ────┘
//! ```
//! The masks are made by `llguidance`: an Earley parser over lexemes that are derivatives of regular expressions, run over
//! a trie of the vocabulary. A reply is one grammar: reasoning, then what the request asks for.

mod calls;
mod compile;
mod gbnf;
mod lark;
mod limits;
mod reply;
mod running;
mod schema;
mod vocabulary;

pub use calls::{Calls, Tool};
pub use compile::{Compiled, Grammars};
pub use gbnf::to_lark as gbnf_to_lark;
pub use limits::{GrammarError, Limits, Source};
pub use reply::{Content, Reasoning, Reply};
