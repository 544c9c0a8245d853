//! Offline jobs on a model: logits and perplexity for comparison, speed for the record, quantization, conversion. Those
//! that run a model see ids only, over [`mlxr_engine::Runner`].
//!
//! | module       | what                                                                  |
//! |--------------|-----------------------------------------------------------------------|
//! | `logits`     | logits after every token of a prompt, in the format of the fixtures    |
//! | `perplexity` | perplexity over a text, divergence from a base                         |
//! | `bench`      | tokens a second of prompts and of (batched) decoding                   |
//! | `clients`    | tokens a second of many clients at once, through the engine            |
//! | `compare`    | the same beside a peer, by turns                                       |
//! | `imatrix`    | importance matrices of a text                                          |
//! | `quantize`   | a GGUF file with other types, by llama-quantize's recipes              |
//! | `convert`    | a checkpoint in another form and type                                 |

pub mod bench;
pub mod clients;
pub mod compare;
pub mod convert;
mod error;
pub mod imatrix;
pub mod logits;
pub mod perplexity;
pub mod quantize;

pub use error::ToolError;
