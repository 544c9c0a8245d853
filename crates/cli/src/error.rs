//! Why a command stopped, and with which exit code.

use std::io;
use std::path::PathBuf;

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// No such model.
    #[error(transparent)]
    Registry(#[from] mlxr_registry::RegistryError),
    /// The model's files.
    #[error(transparent)]
    Open(#[from] mlxr_weights::OpenError),
    /// The model.
    #[error(transparent)]
    Load(#[from] mlxr_models::LoadError),
    /// The backend.
    #[error(transparent)]
    Compute(#[from] mlxr_compute::Error),
    /// The tokenizer.
    #[error("{path}: {error}")]
    Tokenizer {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        error: mlxr_text::token::TokenError,
    },
    /// MLX.
    #[error(transparent)]
    Mlx(#[from] mlxr_mlx::OpenError),
    /// A text that cannot be encoded.
    #[error(transparent)]
    Encode(#[from] mlxr_text::token::TokenError),
    /// The chat template.
    #[error(transparent)]
    Template(#[from] mlxr_text::chat::TemplateError),
    /// The reply cannot be constrained as asked.
    #[error(transparent)]
    Grammar(#[from] mlxr_grammar::GrammarError),
    /// The engine did not start.
    #[error(transparent)]
    Spawn(#[from] mlxr_engine::SpawnError),
    /// The engine refused a request.
    #[error(transparent)]
    Submit(#[from] mlxr_engine::SubmitError),
    /// An offline job failed.
    #[error(transparent)]
    Tool(#[from] mlxr_tools::ToolError),
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Standard input or output.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// The model failed while it replied.
    #[error("{0}")]
    Failed(String),
    /// The server.
    #[error(transparent)]
    Serve(#[from] mlxr_server::ServeError),
    /// The terminal.
    #[error("the terminal cannot be read: {0}")]
    Terminal(#[from] rustyline::error::ReadlineError),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// The exit code: 2 for a wrong command line, 130 after Ctrl-C, else 1; 0 if nobody reads the output any more.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            CliError::Usage(_) => 2,
            CliError::Interrupted => 130,
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => 1,
        }
    }

    /// What to tell the user, if anything.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            CliError::Interrupted => None,
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            error => Some(error.to_string()),
        }
    }

    /// An error of a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CliError {
        let path = path.into();
        |error| CliError::File { path, error }
    }
}
