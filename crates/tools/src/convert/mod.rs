//! A checkpoint in another form and type, written tensor by tensor: the plan is [`mlxr_models::convert`]'s, the types
//! are chosen here.
//!
//! | module | what |
//! |---|---|
//! | `gguf` | a GGUF file |
//! | `folder` | a folder as Hugging Face or mlx-lm write it |
//! | `encode` | a matrix in another type, on several threads |
//! | `calibrated` | MLX's formats, rounded so that a text's activations change least |

mod calibrated;
mod encode;
pub mod folder;
pub mod gguf;

use std::collections::BTreeMap;

pub use calibrated::Calibration;

/// How far a conversion is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Tensors written.
    pub n_done: usize,
    /// Tensors to write.
    pub n_tensor: usize,
    /// The tensor that is being written.
    pub name: &'a str,
}

/// What was done.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Weights and other numbers.
    pub n_parameter: u64,
    /// How many tensors have which type, and whether they are of the source's values.
    pub tensors: BTreeMap<String, usize>,
    /// What the written file cannot say or does not have, a line each.
    pub notes: Vec<String>,
}

/// Whether a matrix was written with the source's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Every weight has the source's value.
    Exact,
    /// Weights were rounded to another type.
    Rounded,
    /// Weights were rounded so that products with a text's activations change least.
    Calibrated,
}

impl Report {
    pub(crate) fn count(&mut self, from: &str, to: &str, change: Change) {
        let text = match change {
            _ if from == to => to.to_owned(),
            Change::Exact => format!("{from} -> {to}, exact"),
            Change::Rounded => format!("{from} -> {to}, rounded"),
            Change::Calibrated => format!("{from} -> {to}, calibrated"),
        };
        *self.tensors.entry(text).or_default() += 1;
    }
}
