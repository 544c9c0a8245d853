//! Development tasks: `cargo xtask --help`.

mod gpu_kernels;
mod kernels;
mod mlx;
mod random_model;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

/// Development tasks of MLXR.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Checks what compilers do not: dependency list, file and function sizes, where `unsafe` stands.
    Tidy,
    /// Checks the compiled hot kernels: the intended instructions, no accumulators in memory (x86-64, needs binutils).
    Kernels {
        /// A release build.
        #[arg(default_value = "target/release/mlx-run")]
        binary: String,
    },
    /// Writes a GGUF of a real model's shapes with random weights, for benchmarks.
    RandomModel {
        /// Shape; an unknown one lists all.
        #[arg(long, default_value = "llama-3.2-1b")]
        shape: String,
        /// Type of the matrices, or q4_k_m or q5_k_m.
        #[arg(long, default_value = "q4_k_m")]
        types: String,
        /// A GGUF file whose tokenizer the model gets, of as many tokens; without one it takes no text.
        #[arg(long)]
        vocab: Option<PathBuf>,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Prepares MLX for development in target/mlx: the PyPI package and mlx-c compiled against it.
    Mlx {
        /// PyPI package instead of this system's (mlx-cpu, on a Mac mlx-metal), such as mlx-cuda-12.
        #[arg(long)]
        package: Option<String>,
    },
    /// Writes our kernels as a CUDA program with its launches; after it ran, judges its outputs.
    GpuKernels {
        /// Where `kernels.cu` and `in` are written, and `out` is read: `nvcc -o kernels kernels.cu && ./kernels in out`.
        folder: PathBuf,
        /// Judge `out` instead.
        #[arg(long)]
        judge: bool,
        /// Launches of an 8B model's shapes, to be timed, instead of small random ones.
        #[arg(long)]
        large: bool,
        /// Only launches of kernels in whose names this is.
        #[arg(long, default_value = "")]
        only: String,
        /// Where the random numbers begin.
        #[arg(long, default_value = "1")]
        seed: u64,
    },
    /// Makes golden files anew with Python and an independent implementation; lists the recipes without a name.
    Golden {
        /// A recipe of xtask/golden, without `.py`.
        recipe: Option<String>,
        /// Python interpreter that has what the recipe's header names.
        #[arg(long, default_value = "python3")]
        python: PathBuf,
        /// Passed to the recipe.
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let result = match Args::parse().task {
        Task::Tidy => tidy::run(root),
        Task::Kernels { binary } => kernels::run(&binary).map(|text| println!("{text}")),
        Task::RandomModel { shape, types, vocab, out } => random_model::run(&shape, &types, vocab.as_deref(), &out),
        Task::Mlx { package } => mlx::run(root, package.as_deref()),
        Task::GpuKernels { folder, judge, large, only, seed } => gpu_kernels::run(&folder, judge, (large, &only), seed),
        Task::Golden { recipe, python, args } => golden(root, recipe.as_deref(), &python, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn golden(root: &Path, recipe: Option<&str>, python: &Path, args: &[String]) -> Result<(), String> {
    let folder = root.join("xtask/golden");
    let Some(recipe) = recipe else {
        let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut names: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        names.retain(|p| p.extension().is_some_and(|e| e == "py"));
        names.sort();
        for path in names {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let title = text.lines().next().unwrap_or_default().trim_matches('"');
            println!("{:20} {title}", path.file_stem().unwrap_or_default().to_string_lossy());
        }
        return Ok(());
    };
    let script = folder.join(format!("{recipe}.py"));
    let status = Command::new(python).arg(&script).args(args).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", script.display())),
        Err(e) => Err(format!("{}: {e}; give an interpreter with --python", python.display())),
    }
}
