//! The command line.

mod load;
mod quant;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use crate::convert_args::{ConvertArgs, ConvertType, FolderForm, MixedRecipe, MlxMode};
pub use load::{BackendName, KvTypeName, LoadArgs};
pub use quant::QuantArgs;

use mlxr_tools::clients::Client;

use crate::limits::ModelLimits;
use crate::memory::parse_size;
use crate::setting::SettingArgs;

/// Run, serve and inspect local language models.
#[derive(Debug, Parser)]
#[command(name = "mlx-run", version, about)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The server, as `mlx-run serve` starts it.
#[derive(Debug, Parser)]
#[command(name = "mlxrd", version, about)]
pub struct Daemon {
    /// Where and what to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// A command of `mlx-run`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Chat with a model, or answer one prompt
    Run(RunArgs),
    /// Serve models to OpenAI and Ollama clients
    Serve(ServeArgs),
    /// List the models of the model folder and the built-in ones
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show what a model is
    Show(ShowArgs),
    /// Turn text into token ids
    Tokenize(TokenizeArgs),
    /// Render a conversation as the model sees it
    Template(TemplateArgs),
    /// Measure tokens a second, as llama-bench does
    Bench(BenchArgs),
    /// Write the logits after every token of a prompt
    Logits(LogitsArgs),
    /// Write a model in another form and type
    Convert(ConvertArgs),
    /// Check what this machine's backends compute
    Doctor(DoctorArgs),
    /// Measure perplexity over a text, or divergence from a base model, as llama-perplexity does
    Perplexity(PerplexityArgs),
    /// Make an importance matrix of a text, for `quant`
    Imatrix(ImatrixArgs),
    /// Make a smaller GGUF file of a GGUF file, as llama-quantize does
    Quant(QuantArgs),
}

/// `mlx-run doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Where the random numbers begin
    #[arg(long, default_value = "1", value_name = "N")]
    pub seed: u64,
    /// Only operations whose name contains this
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
}

/// Where models are.
#[derive(Debug, Clone, clap::Args)]
pub struct FolderArgs {
    /// Folder of models that can be given by name [default: ~/.mlxr/models]
    #[arg(long, env = "MLXR_MODELS", value_name = "DIR")]
    pub models: Option<PathBuf>,
}

/// `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// A .gguf file, a folder, a name in the model folder, or a built-in model
    #[arg(default_value = mlxr_embedded::SMALL.name)]
    pub model: String,
    /// Answer this and end; without it, chat. Standard input, if piped, is added to it
    pub prompt: Option<String>,
    /// Continue the prompt as text, without a chat template
    #[arg(long)]
    pub raw: bool,
    /// Print token counts and speed to standard error
    #[arg(long, short)]
    pub verbose: bool,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Let the model think first, or not (--think=false), where it can be told
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub think: Option<bool>,
    /// Chat template: a file, or the name of a built-in one
    #[arg(long, value_name = "FILE|NAME")]
    pub template: Option<String>,
    /// Reply in JSON: any object, or what fits the JSON schema in a file
    #[arg(long, value_name = "json|FILE")]
    pub format: Option<String>,
    /// Reply as the grammar in a file allows: GBNF, or Lark where it has no `::=`
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    pub grammar: Option<PathBuf>,
    /// Loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Settings.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// `serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// A model to serve besides the built-in ones and those of the model folder: a .gguf file or a folder
    pub model: Option<String>,
    /// Address to listen on
    #[arg(long, env = "MLXR_HOST", default_value = "127.0.0.1:11434", value_name = "ADDRESS:PORT")]
    pub host: String,
    /// Port to listen on, in place of that of --host; 0 for any that is free
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Most sequences that a model computes at once
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub parallel: usize,
    /// Most requests that wait for a model
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub queue: usize,
    /// Most requests of one client (`user`), waiting or running; 0 for no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub client_limit: usize,
    /// Milliseconds from a token of a reply to the next, where the machine allows it, while prompts are read beside it
    #[arg(long, default_value_t = 80, value_name = "MS")]
    pub token_time: u64,
    /// Folder of computed keys and values, which survive a restart [default: ~/.mlxr/kv]
    #[arg(long, env = "MLXR_DISK", value_name = "DIR", help_heading = "Disk")]
    pub disk: Option<PathBuf>,
    /// Keep nothing on disk
    #[arg(long, conflicts_with = "disk", help_heading = "Disk")]
    pub no_disk: bool,
    /// Most that is kept on disk
    #[arg(long, default_value = "8GiB", value_name = "SIZE", value_parser = parse_size, help_heading = "Disk")]
    pub disk_size: u64,
    /// Most that is written to disk in a day
    #[arg(long, default_value = "32GiB", value_name = "SIZE", value_parser = parse_size, help_heading = "Disk")]
    pub disk_writes: u64,
    /// Most models loaded at once
    #[arg(long, default_value_t = 3, value_name = "N", help_heading = "Models")]
    pub max_models: usize,
    /// Memory of all loaded models, weights and conversations [default: nine tenths of what is left at the start]
    #[arg(long, env = "MLXR_MEMORY", value_name = "SIZE", value_parser = parse_size, help_heading = "Models")]
    pub memory: Option<u64>,
    /// A model that is loaded at the start and never unloaded; may be given again
    #[arg(long, value_name = "NAME", help_heading = "Models")]
    pub pin: Vec<String>,
    /// Limits of one model: parallel, queue, client, ctx, kv-memory, draft; may be given again
    #[arg(long, value_name = "NAME:KEY=VALUE,..", help_heading = "Models")]
    pub limit: Vec<ModelLimits>,
    /// Seconds that a model stays loaded after its last use; -1 for ever
    #[arg(long, env = "MLXR_KEEP_ALIVE", default_value_t = 300.0, value_name = "S", allow_negative_numbers = true)]
    pub keep_alive: f64,
    /// Web pages that may use the server besides local ones, such as `https://chat.example`; `*` for all
    #[arg(long, env = "MLXR_ORIGINS", value_delimiter = ',', value_name = "ORIGIN,..")]
    pub origins: Vec<String>,
    /// Names under which the server may be reached besides local ones
    #[arg(long, env = "MLXR_HOSTS", value_delimiter = ',', value_name = "NAME,..")]
    pub hosts: Vec<String>,
    /// JSON of who may use the server, by which keys and how much; see docs/server.md [default: everyone]
    #[arg(long, env = "MLXR_TENANTS", value_name = "FILE")]
    pub tenants: Option<PathBuf>,
    /// Chat template: a file, or the name of a built-in one
    #[arg(long, value_name = "FILE|NAME")]
    pub template: Option<String>,
    /// Loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// A .gguf file, a folder, a name in the model folder, or a built-in model
    pub model: String,
    /// List the tensors
    #[arg(long)]
    pub tensors: bool,
    /// List the metadata of a GGUF file, or config.json
    #[arg(long)]
    pub metadata: bool,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `tokenize`.
#[derive(Debug, clap::Args)]
pub struct TokenizeArgs {
    /// A .gguf file, a folder, a name in the model folder, or a built-in model
    #[arg(short, long)]
    pub model: String,
    /// The text; without it and --file, standard input
    #[arg(conflicts_with = "file")]
    pub text: Option<String>,
    /// Read the text from this file
    #[arg(short, long)]
    pub file: Option<PathBuf>,
    /// Cut the text here into several; \n, \t, \r and \\ stand for what they usually do. One at the very end adds no text
    #[arg(long, value_name = "S")]
    pub separator: Option<String>,
    /// Print one JSON array of ids for each text
    #[arg(long)]
    pub json: bool,
    /// Add the special tokens that the model wants around a text
    #[arg(long)]
    pub add_special: bool,
    /// Read names of special tokens in the text as these tokens
    #[arg(long)]
    pub parse_special: bool,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `template`.
#[derive(Debug, clap::Args)]
pub struct TemplateArgs {
    /// A .gguf file, a folder, a name in the model folder, or a built-in model
    #[arg(short, long)]
    pub model: String,
    /// What the user says
    #[arg(conflicts_with = "messages")]
    pub prompt: Option<String>,
    /// A JSON file of messages (`[{"role": ..., "content": ...}]`), or `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
    /// A JSON file of tools, as OpenAI's API has them
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Let the model think first, or not (--think=false), where it can be told
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub think: Option<bool>,
    /// Do not begin the assistant's message
    #[arg(long)]
    pub no_generation_prompt: bool,
    /// Print the template itself
    #[arg(long)]
    pub source: bool,
    /// Another template: a file, or the name of a built-in one
    #[arg(long, value_name = "FILE|NAME")]
    pub template: Option<String>,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// A .gguf file, a folder, a name in the model folder, or a built-in model
    #[arg(short, long)]
    pub model: String,
    /// Tokens of a prompt; 0 for no such test
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512", value_name = "N,..")]
    pub n_prompt: Vec<usize>,
    /// Tokens to decode; 0 for no such test
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "128", value_name = "N,..")]
    pub n_gen: Vec<usize>,
    /// Tokens that are there before
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0", value_name = "N,..")]
    pub n_depth: Vec<usize>,
    /// Sequences that are decoded at once
    #[arg(short = 'b', long, value_delimiter = ',', default_value = "1", value_name = "N,..")]
    pub batch: Vec<usize>,
    /// Clients that ask at once, each a prompt and the length of its reply in tokens: continuous batching
    #[arg(long, value_delimiter = ',', value_name = "N:M,..", conflicts_with = "compare")]
    pub clients: Vec<Client>,
    /// Threads [default: the processors of this machine]
    #[arg(short = 't', long, value_delimiter = ',', value_name = "N,..")]
    pub threads: Vec<usize>,
    /// Times that each test is repeated
    #[arg(short = 'r', long, default_value_t = 5, value_name = "N")]
    pub repetitions: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Run llama.cpp's llama-bench on the same file by turns with this program, once for each repetition, and print the
    /// ratios of the medians
    #[arg(long, value_name = "llama.cpp=PATH", conflicts_with = "batch")]
    pub compare: Option<String>,
    /// What computes
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendName,
    /// Instruction set of the processor [default: the best that it has]
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,
    /// How keys and values are stored
    #[arg(long, value_enum, default_value = "f16", value_name = "TYPE")]
    pub kv_type: KvTypeName,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `imatrix`.
#[derive(Debug, clap::Args)]
pub struct ImatrixArgs {
    /// A .gguf file, or a name in the model folder
    #[arg(short, long)]
    pub model: String,
    /// The text, of the kind that the model will see: some hundred thousand words are plenty
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// The importance matrix to write, as llama-imatrix does (GGUF)
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Most chunks of the text; a chunk has --ctx tokens, 512 by default [default: all]
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,
    /// Record the output matrix, too
    #[arg(long)]
    pub process_output: bool,
    /// Read names of special tokens in the text as these tokens
    #[arg(long)]
    pub parse_special: bool,
    /// Loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `logits`.
#[derive(Debug, clap::Args)]
pub struct LogitsArgs {
    /// A .gguf file, a folder, a name in the model folder, or a built-in model
    #[arg(short, long)]
    pub model: String,
    /// Token ids
    #[arg(long, value_delimiter = ',', required = true, value_name = "ID,..")]
    pub tokens: Vec<u32>,
    /// File to write: i32 n, i32 v, n ids, n*v f32 logits, little-endian
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `perplexity`.
#[derive(Debug, clap::Args)]
pub struct PerplexityArgs {
    /// A .gguf file, a folder, or a name in the model folder
    #[arg(short, long)]
    pub model: String,
    /// The text
    #[arg(short, long, value_name = "FILE", required_unless_present = "kl_divergence_base")]
    pub file: Option<PathBuf>,
    /// Most windows [default: all of the text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Write the model's probabilities of every token to this file, to compare others with
    #[arg(long, value_name = "FILE", conflicts_with = "kl_divergence_base")]
    pub save_all_logits: Option<PathBuf>,
    /// Compare with the probabilities of this file, which holds the text too
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub kl_divergence_base: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Model folder.
    #[command(flatten)]
    pub folder: FolderArgs,
}
