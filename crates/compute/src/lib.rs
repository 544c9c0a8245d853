//! Number formats and the operations of a decoder; the scalar definitions and the CPU backend.
//!
//! | module | what |
//! |---|---|
//! | [`bytes`] | a shared read-only slice of a mapped file |
//! | [`dtype`] | element and block types with their sizes, one table row each |
//! | [`matrix`] | a weight matrix as it lies in a file: encoding, shape, parts |
//! | [`quant`] | the definition of every encoding: bytes to f32 |
//! | [`op`] | what the operations of a decoder block take besides tensors |
//! | [`backend`] | the trait that every backend implements |
//! | [`check`] | preconditions that every backend asserts |
//! | [`scalar`] | the definition of every operation, as a backend |
//! | [`recorder`] | a backend that adds up what each matrix is multiplied with |
//! | [`conformance`] | whether a backend computes what the definitions say |
//! | [`cpu`] | the fast CPU backend |
//!
//! GLOSSARY. *page*: `page_tokens` consecutive positions of one sequence in the KV arena. *row*: the tokens of
//! one sequence in one batch. *slot*: where a sequence keeps its recurrent state. *token* index: place in the
//! batch; *position*: place in the sequence.

pub mod backend;
pub mod bytes;
pub mod check;
pub mod conformance;
pub mod cpu;
pub mod dtype;
mod error;
pub mod matrix;
pub mod op;
pub mod quant;
pub mod recorder;
pub mod scalar;

pub use backend::{Backend, attend_apart};
pub use bytes::{Bytes, Owner};
pub use dtype::DType;
pub use error::Error;
pub use matrix::{Encoding, MatrixData};
