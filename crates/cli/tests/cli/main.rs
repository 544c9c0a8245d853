//! The real binaries: their commands, their terminal, their server.

mod commands;
mod common;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod terminal;
