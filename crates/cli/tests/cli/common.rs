//! The real binaries, run with a clean environment.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub use mlxr_testing::Temp;

/// The folder of fixtures, or `None` with a loud word.
pub fn fixtures() -> Option<PathBuf> {
    let folder = std::env::var_os("MLXR_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: set MLXR_FIXTURES to the folder of fixtures to run the tests of the command line");
    }
    folder
}

/// `mlx-run` with these arguments and nothing on standard input; `home` is its home folder.
pub fn mlx_run(home: &Temp, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-run"));
    command.args(args).env_clear().env("HOME", &home.0).stdin(Stdio::null());
    command
}

/// Runs `mlx-run` and returns its output, which must be a success.
pub fn succeed(home: &Temp, args: &[&str]) -> Output {
    let output = mlx_run(home, args).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mlx-run {args:?}: {}\n{stderr}", output.status);
    output
}

/// Standard output as text.
pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}
