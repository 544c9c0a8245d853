//! Offline jobs on a model: logits and perplexity for comparison, speed for the record. Ids only, over
//! [`mlxr_engine::Runner`].
//!
//! | module       | what                                                                  |
//! |--------------|-----------------------------------------------------------------------|
//! | `logits`     | logits after every token of a prompt, in the format of the fixtures    |
//! | `perplexity` | perplexity over a text, divergence from a base                         |
//! | `bench`      | tokens a second of prompts and of (batched) decoding                   |
//! | `compare`    | the same beside a peer, by turns                                       |
//! | `bandwidth`  | bytes a second that this machine reads from memory                     |

pub mod bandwidth;
pub mod bench;
pub mod compare;
mod error;
pub mod logits;
pub mod perplexity;

pub use error::ToolError;
