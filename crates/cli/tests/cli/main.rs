//! The real binaries: their commands, their terminal, their server.

mod commands;
mod common;
mod convert;
mod daemon;
#[cfg(unix)]
mod drafts;
mod embedded;
mod grammar;
mod perplexity;
mod quant;
mod quant_options;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod terminal;
