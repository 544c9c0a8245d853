//! How much an untrusted file may ask for.

/// Limits on model files. Every error that one of these causes names its field.
///
/// Counts in a file are also checked against the bytes that are left, so that no limit is ever allocated on trust.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a GGUF header (everything before the tensor data) or a safetensors header.
    pub max_header_bytes: u64,
    /// Tensors of a checkpoint, over all its files.
    pub max_tensors: u64,
    /// GGUF key-value pairs of a file.
    pub max_kv: u64,
    /// Bytes of a GGUF string, key or tensor name.
    pub max_string: u64,
    /// Elements of a GGUF array.
    pub max_array: u64,
    /// Dimensions of a tensor.
    pub max_dims: u64,
    /// Arrays within arrays in GGUF metadata.
    pub max_nesting: u64,
    /// Bytes of a side file: `config.json`, `tokenizer.json`, an index.
    pub max_side_file: u64,
    /// Elements of a tensor that is asked for as a vector of f32.
    pub max_vector: u64,
    /// Files of a folder.
    pub max_files: u64,
    /// Files that a checkpoint is split in.
    pub max_shards: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_header_bytes: 256 << 20,
            max_tensors: 1 << 20,
            max_kv: 1 << 16,
            max_string: 16 << 20,
            max_array: 1 << 24,
            max_dims: 8,
            max_nesting: 4,
            max_side_file: 256 << 20,
            max_vector: 1 << 28,
            max_files: 1 << 16,
            max_shards: 4096,
        }
    }
}
