//! `mlx-run imatrix`.

use std::io::{IsTerminal, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use mlxr_compute::recorder::{Record, Recording};
use mlxr_models::{Arena, LoadOptions};
use mlxr_text::token::Encode;
use mlxr_tools::imatrix::{self, Text};
use mlxr_weights::imatrix::Imatrix;
use mlxr_weights::{Checkpoint, Kind};

use crate::CliError;
use crate::args::{ImatrixArgs, KvTypeName};
use crate::backend::{self, BackendChoice};
use crate::{load, vocab};

/// Tokens of a chunk unless --ctx says.
const CHUNK: usize = 512;

/// Writes the importance matrix of a text.
///
/// # Errors
/// If the model is no GGUF file or does not load, the text is not UTF-8 or too short, or a file cannot be written.
pub fn run(args: &ImatrixArgs) -> Result<(), CliError> {
    let (model, checkpoint) = load::open(&args.model, &args.folder)?;
    if checkpoint.kind != Kind::Gguf {
        let text = format!("{} is no GGUF file: make one by `mlx-run convert` first", model.path.display());
        return Err(CliError::Usage(text));
    }
    let start = Instant::now();
    let (made, _) = record(&checkpoint, args, Record::Squares)?;
    made.write(&args.out)?;
    eprintln!(
        "{}: {} matrices, {} chunks of {} tokens in {:.1} s",
        args.out.display(),
        made.entries.len(),
        made.chunk_count,
        made.chunk_size,
        start.elapsed().as_secs_f64()
    );
    let unseen = |sums: &mlxr_weights::imatrix::Sums| sums.counts.iter().filter(|n| **n == 0).count();
    for (name, sums) in made.entries.iter().filter(|(_, sums)| unseen(sums) > 0) {
        eprintln!(
            "note: {name}: no token reached {} of {} experts; a longer text may",
            unseen(sums),
            sums.counts.len()
        );
    }
    Ok(())
}

/// Runs the text through the model; gives the importance matrix, and all that was recorded.
///
/// # Errors
/// As [`run`].
pub fn record(checkpoint: &Checkpoint, args: &ImatrixArgs, record: Record) -> Result<(Imatrix, Recording), CliError> {
    let tokenizer = vocab::tokenizer(checkpoint)?;
    let bytes = std::fs::read(&args.file).map_err(CliError::file(&args.file))?;
    let text = String::from_utf8(bytes)
        .map_err(|error| CliError::Usage(format!("{} is not UTF-8: {error}", args.file.display())))?;
    let tokens = tokenizer.encode(&text, Encode { add_special: true, parse_special: args.parse_special })?;
    // A model that begins texts with a token begins every chunk with it.
    let begin = tokenizer.encode("", Encode { add_special: true, parse_special: false })?.first().copied();
    let begin = begin.filter(|begin| tokenizer.bos() == Some(*begin));
    let choice = BackendChoice::new(args.load.backend, args.load.threads, args.load.isa.as_deref())?;
    let kv_type = args.load.kv_type.unwrap_or(KvTypeName::F16).kv_type();
    let n_chunk = args.load.ctx.unwrap_or(CHUNK);
    let options = LoadOptions { n_ctx: None, arena: Arena::Tokens(n_chunk), n_slot: 1, kv_type };
    let (mut runner, recording) = backend::load_recording(checkpoint, &choice, &options, record)?;
    let bar = progress();
    let limit = args.chunks.unwrap_or(usize::MAX);
    let text = Text { tokens: &tokens, begin, n_chunk, limit, output: args.process_output };
    let mut made = imatrix::collect(runner.as_mut(), &recording, text, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    made.datasets.push(args.file.display().to_string());
    Ok((made, recording))
}

/// A bar on standard error, where somebody looks.
fn progress() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} chunk {pos} of {len} {eta}").expect("a valid template");
    ProgressBar::new(0).with_style(style)
}
