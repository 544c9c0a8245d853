//! `mlx-run`: run, serve and inspect local language models.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(mlxr_cli::run(mlxr_cli::args::Cli::parse()))
}
