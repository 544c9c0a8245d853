//! Why an offline job stopped.

use std::path::PathBuf;

use mlxr_engine::RunError;

/// Why an offline job stopped.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A conversion.
    #[error(transparent)]
    Load(Box<mlxr_models::LoadError>),
    /// An encoding.
    #[error(transparent)]
    Compute(#[from] mlxr_compute::Error),
    /// A file or folder to write.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The model failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// More tokens than the model's context or arena holds.
    #[error("{found} tokens are needed and the model holds {limit}: ask for fewer, or raise --ctx")]
    TooLong {
        /// Needed.
        found: usize,
        /// Held.
        limit: usize,
    },
    /// An activation that is not finite.
    #[error("the inputs of `{tensor}` are not finite: the model or its file is damaged")]
    NotFinite {
        /// The matrix.
        tensor: String,
    },
    /// Too many sequences at once.
    #[error("{found} sequences at once are needed and the model holds {limit}: ask for fewer columns")]
    TooWide {
        /// Needed.
        found: usize,
        /// Held.
        limit: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {token} is not in the vocabulary of {n_vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// The engine did not start.
    #[error(transparent)]
    Spawn(#[from] mlxr_engine::SpawnError),
    /// The engine refused a request.
    #[error(transparent)]
    Submit(#[from] mlxr_engine::SubmitError),
    /// A reply ended before its length.
    #[error("a reply stopped: {reason}")]
    Stopped {
        /// What the engine says.
        reason: String,
    },
    /// Nothing to do.
    #[error("no tokens: give at least one")]
    Empty,
    /// A text of too few tokens.
    #[error(
        "the text has {found} tokens and {expected} are needed for windows of {n_ctx}: give a longer text, or --ctx"
    )]
    ShortText {
        /// Given.
        found: usize,
        /// Needed.
        expected: usize,
        /// Tokens of a window.
        n_ctx: usize,
    },
    /// A window that scores nothing.
    #[error("a window of {found} tokens scores none: ask for at least 3")]
    Window {
        /// Tokens of a window.
        found: usize,
    },
    /// A file of logits that is not one.
    #[error("the file of logits: {0}")]
    LogitsFile(String),
    /// The file of logits could not be read.
    #[error("cannot read the file of logits: {0}")]
    Read(std::io::Error),
    /// A peer in a comparison.
    #[error("{program}: {message}")]
    Peer {
        /// Its executable or name.
        program: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A model's files.
    #[error(transparent)]
    Open(#[from] mlxr_weights::OpenError),
    /// A type that is read but not written.
    #[error("{dtype} cannot be encoded: choose another type")]
    Type {
        /// The type.
        dtype: &'static str,
    },
    /// Layers to leave out that are not there, or all of them.
    #[error("layer {layer} cannot be left out of {n_layer}: name some of 0 to {}, not all", n_layer.saturating_sub(1))]
    Prune {
        /// The last that was named.
        layer: usize,
        /// How many there are.
        n_layer: usize,
    },
    /// A quantized tensor would be quantized again.
    #[error(
        "tensor `{tensor}` is {from} already, and quantizing it again loses more: start from the unquantized model, or \
         add --allow-requantize"
    )]
    Requantize {
        /// Its name.
        tensor: String,
        /// Its type.
        from: &'static str,
    },
    /// A type that is worthless without an importance matrix.
    #[error(
        "tensor `{tensor}` as {dtype} needs an importance matrix, which has no entry for it: make one by `mlx-run \
         imatrix` and give it by --imatrix, or choose a larger type"
    )]
    NoImportance {
        /// Its name.
        tensor: String,
        /// The type that it was to get.
        dtype: &'static str,
    },
    /// Importance of another model.
    #[error("{path}: `{tensor}` has {found} columns of importance, expected {expected}: make it of this model", path = path.display())]
    Importance {
        /// The importance matrix.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Columns there.
        found: usize,
        /// Columns of the tensor, of all experts.
        expected: usize,
    },
    /// Weights that a type cannot hold.
    #[error("tensor `{tensor}`: {error}")]
    Encode {
        /// Its name.
        tensor: String,
        /// What is wrong.
        error: mlxr_compute::Error,
    },
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Write(#[from] std::io::Error),
}

impl From<mlxr_models::LoadError> for ToolError {
    fn from(error: mlxr_models::LoadError) -> ToolError {
        ToolError::Load(Box::new(error))
    }
}
