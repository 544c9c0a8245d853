//! The binaries `mlx-run` and `mlxrd`: the composition root, and the only place that reads the environment.
//!
//! | module       | what                                                                    |
//! |--------------|-------------------------------------------------------------------------|
//! | `args`       | the command line                                                         |
//! | `convert_args` | the command line of `convert`                                          |
//! | `command`    | one file a command                                                       |
//! | `chat`       | the interactive conversation                                             |
//! | `load`       | a name to a checkpoint, a tokenizer, a template, a running engine        |
//! | `vocab`      | which files of a checkpoint make its tokenizer                           |
//! | `template`   | where a checkpoint keeps its chat template                               |
//! | `defaults`   | what a checkpoint says about sampling                                    |
//! | `catalog`    | the models of the model folder, for the server                          |
//! | `limits`     | limits of one model of a server                                          |
//! | `carry`      | tokenizer, template and defaults of a checkpoint for another's files     |
//! | `backend`    | which backend runs a model                                               |
//! | `placement`  | where a model runs and how much memory it gets there                     |
//! | `setting`    | everything that can be set for a reply, a row each                       |
//! | `generate`   | a prompt to a stream of text                                             |
//! | `interrupt`  | Ctrl-C stops a reply, or the program                                      |
//!
//! GLOSSARY: a *setting* is a sampling parameter or a limit of a reply; a *reply* is what one prompt generates.

pub mod args;
mod backend;
mod card;
mod carry;
mod catalog;
mod chat;
mod command;
mod convert_args;
mod defaults;
mod error;
mod generate;
mod interrupt;
mod limits;
mod load;
mod memory;
mod placement;
mod setting;
mod template;
mod translate;
mod vocab;

pub use error::CliError;

use args::{Cli, Command};
use interrupt::Interrupt;

/// Runs the command line. Returns the exit code; errors are printed.
#[must_use]
pub fn run(cli: Cli) -> u8 {
    let result = match cli.command {
        Command::Run(args) => command::run::run(args, &Interrupt::install()),
        Command::Serve(args) => command::serve::run(&args),
        Command::List(args) => command::list::run(&args),
        Command::Show(args) => command::show::run(&args),
        Command::Tokenize(args) => command::tokenize::run(&args),
        Command::Template(args) => command::template::run(&args),
        Command::Bench(args) => command::bench::run(&args),
        Command::Logits(args) => command::logits::run(&args),
        Command::Convert(args) => command::convert::run(&args),
        Command::Doctor(args) => command::doctor::run(&args),
        Command::Perplexity(args) => command::perplexity::run(&args),
        Command::Imatrix(args) => command::imatrix::run(&args),
        Command::Quant(args) => command::quant::run(&args),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            if let Some(text) = error.text() {
                eprintln!("error: {text}");
            }
            error.code()
        }
    }
}
