//! Cutting text into words before merging ("pre-tokenizing").
//!
//! | file         | what                                                       |
//! |--------------|------------------------------------------------------------|
//! | `pattern.rs` | one pattern, compiled to an automaton that never backtracks |
//! | `split.rs`   | a list of rules, applied one inside the other               |
//! | `table.rs`   | the rules of each `tokenizer.ggml.pre` name                 |

mod pattern;
mod split;
mod table;

pub(super) use split::Rule;
pub(super) use split::Splitter;
pub(super) use table::{Pre, find, names, rows};
