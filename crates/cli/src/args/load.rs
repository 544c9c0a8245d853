//! How a model is loaded.

use std::num::NonZeroUsize;

use clap::ValueEnum;

use crate::memory::parse_size;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// MLX on a Mac that has it, else the processor
    Auto,
    /// The processor
    Cpu,
    /// The processor, by the definitions: slow, for comparison
    Scalar,
    /// Apple's GPU, through MLX
    Mlx,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvTypeName {
    /// 4 bytes a number
    F32,
    /// 2 bytes a number
    F16,
    /// 2 bytes a number
    Bf16,
    /// 1 byte a number
    #[value(alias = "q8_0")]
    Q8,
    /// 5 bits a number: loses more than the others
    #[value(alias = "q4_0")]
    Q4,
}

/// How a model is loaded.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// What computes
    #[arg(long, value_enum, default_value = "auto", help_heading = "Loading")]
    pub backend: BackendName,
    /// Threads [default: the processors of this machine]
    #[arg(short, long, env = "MLXR_THREADS", value_name = "N", help_heading = "Loading")]
    pub threads: Option<usize>,
    /// Instruction set of the processor [default: the best that it has; for `logits` the best that rounds nothing to bf16]
    #[arg(long, value_name = "NAME", help_heading = "Loading")]
    pub isa: Option<String>,
    /// How keys and values are stored [default: f16; f32 for `logits` and `perplexity`]
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Loading")]
    pub kv_type: Option<KvTypeName>,
    /// Most tokens of a conversation [default: the model's own limit; for `logits` as many as are given]
    #[arg(short, long, value_name = "N", help_heading = "Loading")]
    pub ctx: Option<usize>,
    /// Memory for keys and values, which all conversations share, such as 4GiB [default: half of what is left]
    #[arg(long, env = "MLXR_KV_MEMORY", value_name = "SIZE", value_parser = parse_size, help_heading = "Loading")]
    pub kv_memory: Option<u64>,
    /// Most tokens of all conversations that are computed in one step, such as a chunk of a prompt [default: 512, fewer where
    /// memory is short]
    #[arg(long, value_name = "N", help_heading = "Loading")]
    pub step_tokens: Option<NonZeroUsize>,
    /// A small model that drafts tokens, which the model verifies many at once, best of the same vocabulary; a
    /// folder with an EAGLE layer or Medusa heads for it; `mtp`: the model's own layers for further tokens
    #[arg(long, value_name = "MODEL", help_heading = "Speculation")]
    pub draft: Option<String>,
    /// Most tokens drafted at once, by the draft model or from what was said before; 0 for none
    #[arg(long, default_value_t = 16, value_name = "N", help_heading = "Speculation")]
    pub draft_max: usize,
    /// Draft a second token where the draft model is not sure, and verify both, and guesses where nothing else is drafted
    /// (lookahead): as likely texts, but not always the same ones
    #[arg(long, help_heading = "Speculation")]
    pub draft_trees: bool,
    /// Tokens that all conversations together may keep, in place of --kv-memory
    #[arg(long, value_name = "N", conflicts_with = "kv_memory", help_heading = "Loading")]
    pub kv_tokens: Option<usize>,
}
