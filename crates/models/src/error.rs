/// Why a checkpoint cannot become a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files.
    #[error(transparent)]
    Open(#[from] mlxr_weights::OpenError),
    /// The backend.
    #[error(transparent)]
    Compute(#[from] mlxr_compute::Error),
    /// A decoder of an unknown kind whose tensors fit no known pattern.
    #[error(
        "{path}: architecture `{arch}` is not known, and its tensors fit no known pattern: {missing}; known: {known}"
    )]
    Architecture {
        /// The checkpoint.
        path: String,
        /// What it calls itself.
        arch: String,
        /// What the generic decoder would have needed.
        missing: String,
        /// Names of the known architectures.
        known: String,
    },
    /// A decoder with parts that nothing here computes.
    #[error("{path}: {what}; this version cannot compute that for architecture `{arch}`: take another checkpoint")]
    Unsupported {
        /// The checkpoint.
        path: String,
        /// What it calls itself.
        arch: String,
        /// What was found, and what it would need.
        what: String,
    },
    /// A model that no decoder can run.
    #[error("{path}: `{arch}` is {what}, which does not write text token by token; choose a decoder")]
    Refused {
        /// The checkpoint.
        path: String,
        /// What it calls itself.
        arch: String,
        /// What it is.
        what: &'static str,
    },
    /// A tensor that the architecture needs.
    #[error(
        "{path}: no tensor for {role}: tried {tried}; the file is incomplete or of another architecture than `{arch}`"
    )]
    Missing {
        /// The checkpoint.
        path: String,
        /// What the tensor would be.
        role: String,
        /// Names that were looked for.
        tried: String,
        /// The architecture that was assumed.
        arch: String,
    },
    /// A conversion that cannot be.
    #[error("{path}: cannot be converted: {text}")]
    Convert {
        /// The checkpoint.
        path: String,
        /// Why.
        text: String,
    },
    /// A value in the metadata.
    #[error("{path}: {key}: found {found}, expected {expected}")]
    Config {
        /// The checkpoint.
        path: String,
        /// Name of the field, in GGUF metadata or `config.json`.
        key: String,
        /// What it says.
        found: String,
        /// What would be valid.
        expected: String,
    },
    /// A tensor whose shape contradicts the configuration.
    #[error(
        "{path}: tensor `{tensor}` is {found}, expected {expected}: the file is damaged or its configuration wrong"
    )]
    Shape {
        /// The checkpoint.
        path: String,
        /// Its name.
        tensor: String,
        /// Its shape.
        found: String,
        /// The shape that the configuration implies.
        expected: String,
    },
}
