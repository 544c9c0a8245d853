//! `mlx-run logits`.

use std::fs::File;
use std::io::BufWriter;

use mlxr_compute::cpu::Isa;
use mlxr_models::{Arena, LoadOptions};
use mlxr_tools::logits;

use crate::CliError;
use crate::args::{KvTypeName, LogitsArgs};
use crate::backend::{self, BackendChoice};
use crate::load;

/// Writes the logits after every token.
///
/// # Errors
/// If the model does not load, holds fewer tokens, or the file cannot be written.
pub fn run(args: &LogitsArgs) -> Result<(), CliError> {
    let (_, checkpoint) = load::open(&args.model, &args.folder)?;
    // They are to be compared with others' logits: nothing is rounded that need not be, and scaling of positions that
    // depends on the context is that of these tokens.
    let isa = args.load.isa.as_deref().unwrap_or(Isa::detect_f32().name());
    let choice = BackendChoice::new(args.load.backend, args.load.threads, Some(isa))?;
    let kv_type = args.load.kv_type.unwrap_or(KvTypeName::F32).kv_type();
    let arena = Arena::Tokens(args.load.kv_tokens.unwrap_or(0).max(args.tokens.len()));
    let n_ctx = Some(args.load.ctx.filter(|n| *n > 0).unwrap_or(args.tokens.len()));
    let options = LoadOptions { n_ctx, arena, n_slot: 1, kv_type };
    let (mut runner, _) = backend::load(&checkpoint, &choice, &options, &mut |_| ())?;
    let file = File::create(&args.out).map_err(CliError::file(&args.out))?;
    logits::write(runner.as_mut(), &args.tokens, &mut BufWriter::new(file))?;
    Ok(())
}
