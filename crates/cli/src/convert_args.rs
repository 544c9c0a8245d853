//! The command line of `convert`.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::args::FolderArgs;

/// What `convert` writes matrices as in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConvertType {
    /// As they are; quantized ones that GGUF has no equal type for become q8_0
    Keep,
    /// 4 bytes a number
    F32,
    /// 2 bytes a number
    F16,
    /// 2 bytes a number, of the range of f32
    Bf16,
    /// 1 byte a number
    #[value(name = "q8_0")]
    Q8_0,
}

/// Whose conventions a folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FolderForm {
    /// mlx-lm's
    Mlx,
    /// Hugging Face's library's
    Hf,
}

/// A float format of MLX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MlxMode {
    /// 4 bits, a power of two for each 32
    Mxfp4,
    /// 8 bits, a power of two for each 32
    Mxfp8,
    /// 4 bits, a scale for each 16
    Nvfp4,
}

/// A mixed recipe of mlx-lm: usual bits, and those of down and value projections of some layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MixedRecipe {
    /// 2 and 6 bits
    #[value(name = "mixed_2_6")]
    Mixed26,
    /// 3 and 4 bits
    #[value(name = "mixed_3_4")]
    Mixed34,
    /// 3 and 6 bits
    #[value(name = "mixed_3_6")]
    Mixed36,
    /// 4 and 6 bits
    #[value(name = "mixed_4_6")]
    Mixed46,
}

/// `convert`.
#[derive(Debug, clap::Args)]
pub struct ConvertArgs {
    /// A .gguf file, a folder, or a name in the model folder
    pub model: String,
    /// What to write: a file that ends in .gguf, or a new folder
    pub out: PathBuf,
    /// Form of a folder
    #[arg(long, value_enum, default_value = "mlx", value_name = "FORM")]
    pub to: FolderForm,
    /// Type of matrices
    #[arg(long = "type", value_enum, default_value = "keep", value_name = "TYPE")]
    pub kind: ConvertType,
    /// Quantize to MLX's affine integers of so many bits: 2, 3, 4, 5, 6 or 8
    #[arg(long, value_name = "N", conflicts_with_all = ["mode", "recipe"])]
    pub bits: Option<u8>,
    /// Weights that share a scale of affine integers: 32, 64 or 128
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub group: u16,
    /// Quantize to one of MLX's float formats
    #[arg(long, value_enum, value_name = "MODE", conflicts_with = "recipe")]
    pub mode: Option<MlxMode>,
    /// Quantize to affine integers of two widths, the wider for what matters most
    #[arg(long, value_enum, value_name = "RECIPE")]
    pub recipe: Option<MixedRecipe>,
    /// With --bits, --mode or --recipe, run this text through the model first (GPTQ): later columns of a matrix make up for
    /// the rounding of earlier ones
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<PathBuf>,
    /// Most chunks of 512 tokens of that text
    #[arg(long, value_name = "N", default_value_t = 64, requires = "calibrate")]
    pub calibrate_chunks: usize,
    /// Leave the tokenizer out where the written form has none of its kind, instead of failing
    #[arg(long)]
    pub no_tokenizer: bool,
    /// Threads [default: the processors of this machine]
    #[arg(short, long, env = "MLXR_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}
