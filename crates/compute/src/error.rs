/// Why a backend could not take a weight or run an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A weight's bytes do not fit its declared shape and encoding.
    #[error("tensor `{tensor}`: {part} holds {found} bytes, its shape and type need {expected}: the file is damaged")]
    Size {
        /// Name of the tensor in its file.
        tensor: String,
        /// Which part of it (`weights`, `scales`, ...).
        part: &'static str,
        /// Bytes present.
        found: usize,
        /// Bytes that shape and encoding need.
        expected: usize,
    },
    /// A shape that the encoding cannot have, such as a row that is no multiple of the block.
    #[error("tensor `{tensor}`: {found}, expected {expected}")]
    Shape {
        /// Name of the tensor in its file.
        tensor: String,
        /// What the file says.
        found: String,
        /// What would be valid.
        expected: String,
    },
    /// This backend has no kernel for the encoding.
    #[error("tensor `{tensor}`: backend `{backend}` cannot run {encoding}; convert the model or use another backend")]
    Unsupported {
        /// Name of the tensor in its file.
        tensor: String,
        /// Name of the backend.
        backend: &'static str,
        /// The encoding, as [`crate::Encoding`] prints it.
        encoding: String,
    },
    /// This backend does not store keys and values so.
    #[error("backend `{backend}` does not store keys and values as {dtype:?}: choose another type or backend")]
    KvType {
        /// Name of the backend.
        backend: &'static str,
        /// The type.
        dtype: crate::op::KvType,
    },
    /// Weights that a type cannot hold.
    #[error("cannot encode as {dtype}: {found}, expected {expected}")]
    Encode {
        /// Name of the type.
        dtype: &'static str,
        /// What was given.
        found: String,
        /// What would be valid.
        expected: &'static str,
    },
    /// The memory for the arena or the weights could not be had.
    #[error("out of memory: {what} needs {bytes} bytes; choose a smaller context, fewer pages or a smaller model")]
    Memory {
        /// What was to be allocated.
        what: &'static str,
        /// Its size.
        bytes: u64,
    },
    /// The device failed.
    #[error("backend `{backend}`: {message}")]
    Device {
        /// Name of the backend.
        backend: &'static str,
        /// What the device said.
        message: String,
    },
}
