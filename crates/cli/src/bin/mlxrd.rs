//! `mlxrd`: the server, as `mlx-run serve` starts it.

use std::process::ExitCode;

use clap::Parser;
use mlxr_cli::args::{Cli, Command, Daemon};

fn main() -> ExitCode {
    let Daemon { serve } = Daemon::parse();
    ExitCode::from(mlxr_cli::run(Cli { command: Command::Serve(serve) }))
}
