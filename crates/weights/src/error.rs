//! Why a model's files cannot be opened or read.

use std::path::{Path, PathBuf};

/// Why a checkpoint, or a tensor of it, cannot be had. Each message names the file, the place in it, what was found,
/// what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}; check that the path is right and may be accessed")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `open`, `map`, `read`, ...
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file ends before what it announces.
    #[error(
        "{path}: {what} needs {need} bytes at byte {at}, {left} are left: the download is incomplete, fetch it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Where it starts.
        at: u64,
        /// Its size, as the file announces it.
        need: u64,
        /// Bytes from `at` to the end.
        left: u64,
    },
    /// A count or size exceeds a limit.
    #[error("{path}: {what} is {found}, `{limit}` is {max}; raise that limit if the file is to be trusted")]
    Limit {
        /// The file.
        path: PathBuf,
        /// What is too large.
        what: String,
        /// Its value in the file.
        found: u64,
        /// Field of [`crate::Limits`].
        limit: &'static str,
        /// Its value.
        max: u64,
    },
    /// Something about the file as a whole.
    #[error("{path}: found {found}, expected {expected}; {hint}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the file holds.
        found: String,
        /// What would be valid.
        expected: String,
        /// What to do.
        hint: &'static str,
    },
    /// A field of the metadata, of `config.json`, or of an index.
    #[error("{path}: `{key}`: found {found}, expected {expected}; {hint}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Name of the field.
        key: String,
        /// What the file holds.
        found: String,
        /// What would be valid.
        expected: String,
        /// What to do.
        hint: &'static str,
    },
    /// A tensor.
    #[error("{path}: tensor `{tensor}`: found {found}, expected {expected}; {hint}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What the file holds.
        found: String,
        /// What would be valid.
        expected: String,
        /// What to do.
        hint: &'static str,
    },
    /// A matrix whose parts do not fit together.
    #[error("{path}: {source}")]
    Matrix {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        source: mlxr_compute::Error,
    },
}

/// What to do about a file that contradicts itself.
pub(crate) const DAMAGED: &str = "the file is damaged: fetch or convert it again";
/// What to do about a file of a kind that is not known here.
pub(crate) const CONVERT: &str = "convert the model to a supported type";

impl OpenError {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
        move |source| OpenError::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn file(path: &Path, found: impl Into<String>, expected: impl Into<String>, hint: &'static str) -> Self {
        OpenError::File { path: path.to_owned(), found: found.into(), expected: expected.into(), hint }
    }

    pub(crate) fn key(path: &Path, key: &str, [found, expected]: [String; 2], hint: &'static str) -> Self {
        OpenError::Key { path: path.to_owned(), key: key.to_owned(), found, expected, hint }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, [found, expected]: [String; 2], hint: &'static str) -> Self {
        OpenError::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), found, expected, hint }
    }

    pub(crate) fn limit(path: &Path, what: impl Into<String>, found: u64, limit: &'static str, max: u64) -> Self {
        OpenError::Limit { path: path.to_owned(), what: what.into(), found, limit, max }
    }
}

/// A name from an untrusted file, fit to be printed: control characters escaped, cut at 100 characters.
pub(crate) fn printable(name: &[u8]) -> String {
    const MAX: usize = 100;
    let text = String::from_utf8_lossy(&name[..name.len().min(4 * MAX)]);
    let mut out: String = text.escape_debug().take(MAX).collect();
    if name.len() > 4 * MAX || text.chars().count() > MAX {
        out.push_str("...");
    }
    out
}
