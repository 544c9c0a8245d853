//! Strings to token ids and back, chat templates, tool-call and reasoning parsers.
//!
//! | module  | what                                                                        |
//! |---------|-----------------------------------------------------------------------------|
//! | `token` | tokenizers from every file kind, streaming decode, stop strings             |
//! | `chat`  | chat templates, tool calls and reasoning in what a model writes             |
//!
//! This crate is a leaf: it knows ids and text, neither tensors nor requests.

pub mod chat;
pub mod token;
