//! The command line of `quant`.

use std::path::PathBuf;

use super::FolderArgs;

/// `quant`.
#[derive(Debug, clap::Args)]
#[command(after_help = crate::command::quant::recipes())]
pub struct QuantArgs {
    /// A .gguf file (or one of a split set), or a name in the model folder
    pub model: String,
    /// The file to write [default: MODEL-RECIPE.gguf], and the recipe (below)
    #[arg(value_names = ["OUT", "RECIPE"], num_args = 1..=2, required = true)]
    pub out_recipe: Vec<String>,
    /// Importance matrix, from `mlx-run imatrix` or llama-imatrix
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Use the importance matrix for tensors whose name contains this only; may be repeated
    #[arg(long, value_name = "NAME", requires = "imatrix", conflicts_with = "exclude_weights")]
    pub include_weights: Vec<String>,
    /// Do not use the importance matrix for tensors whose name contains this; may be repeated
    #[arg(long, value_name = "NAME", requires = "imatrix")]
    pub exclude_weights: Vec<String>,
    /// Run this text through the model first (GPTQ): later columns of a matrix make up for the rounding of earlier ones
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<PathBuf>,
    /// Most chunks of 512 tokens of that text
    #[arg(long, value_name = "N", default_value_t = 64, requires = "calibrate")]
    pub calibrate_chunks: usize,
    /// One type for tensors whose name matches; may be repeated, the first match counts
    #[arg(long, value_name = "REGEX=TYPE")]
    pub tensor_type: Vec<String>,
    /// The same from a file of such, one after another; they count after those of --tensor-type
    #[arg(long, value_name = "FILE")]
    pub tensor_type_file: Option<PathBuf>,
    /// Type of the output matrix
    #[arg(long, value_name = "TYPE")]
    pub output_tensor_type: Option<String>,
    /// Type of the token embeddings
    #[arg(long, value_name = "TYPE")]
    pub token_embedding_type: Option<String>,
    /// One type for all matrices, without the recipe's exceptions
    #[arg(long)]
    pub pure: bool,
    /// Leave the output matrix as it is
    #[arg(long)]
    pub leave_output_tensor: bool,
    /// Quantize again what is quantized already, which loses more than from the original
    #[arg(long)]
    pub allow_requantize: bool,
    /// Leave these layers out, numbered from 0
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub prune_layers: Vec<usize>,
    /// Set metadata; TYPE is int, float, bool or str; may be repeated
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    pub override_kv: Vec<String>,
    /// Write a split set as one of as many files, OUT-00001-of-0000N.gguf, instead of one file
    #[arg(long)]
    pub keep_split: bool,
    /// Print types and sizes, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Threads [default: the processors of this machine]
    #[arg(short, long, env = "MLXR_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}
