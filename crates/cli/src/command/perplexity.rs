//! `mlx-run perplexity`: figures as llama.cpp's `llama-perplexity` prints them.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use mlxr_engine::Runner;
use mlxr_models::{Arena, LoadOptions};
use mlxr_text::token::{Encode, Tokenizer};
use mlxr_tools::perplexity::logits_file::Header;
use mlxr_tools::perplexity::{self, Divergence, Estimate, Options, Percentile, Perplexity, Progress};
use mlxr_weights::{AtomicFile, Checkpoint};
use serde::Serialize;

use crate::CliError;
use crate::args::{KvTypeName, PerplexityArgs};
use crate::backend::{self, BackendChoice};
use crate::{load, vocab};

/// Tokens of a window, as llama-perplexity has them.
const DEFAULT_CTX: usize = 512;

/// Measures and prints.
///
/// # Errors
/// If the model does not load, or the text or the base's file cannot be read or does not fit the model.
pub fn run(args: &PerplexityArgs) -> Result<(), CliError> {
    let (_, checkpoint) = load::open(&args.model, &args.folder)?;
    let tokenizer = vocab::tokenizer(&checkpoint)?;
    let n_thread = backend::n_thread(args.load.threads)?;
    let options = Options {
        bos: tokenizer.bos().filter(|_| tokenizer.add_bos()),
        n_thread,
        max_chunks: args.chunks.map_or(usize::MAX, |n| n as usize),
    };
    match (&args.kl_divergence_base, &args.file) {
        (Some(base), _) => divergence(args, &checkpoint, base, &options),
        (None, Some(file)) => of_text(args, &checkpoint, (file, &tokenizer), &options),
        (None, None) => Err(CliError::Usage("give a text by --file or a base by --kl-divergence-base".into())),
    }
}

fn of_text(
    args: &PerplexityArgs,
    checkpoint: &Checkpoint,
    (file, tokenizer): (&Path, &Tokenizer),
    options: &Options,
) -> Result<(), CliError> {
    let bytes = std::fs::read(file).map_err(CliError::file(file))?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|error| CliError::Usage(format!("{}: it is not UTF-8: {error}", file.display())))?;
    let tokens = tokenizer.encode(&text, Encode { add_special: true, parse_special: false })?;
    let n_ctx = args.load.ctx.unwrap_or(DEFAULT_CTX);
    let mut runner = runner(args, checkpoint, n_ctx)?;
    let (bar, mut save) = (Bar::new(), args.save_all_logits.as_deref().map(AtomicFile::create).transpose()?);
    let mut show = |progress| bar.show(progress);
    let out = save.as_mut().map(|file| file as &mut dyn Write);
    let found = perplexity::perplexity(runner.as_mut(), (&tokens, n_ctx), options, out, &mut show)?;
    if let Some(save) = save {
        save.finish()?;
    }
    bar.finish();
    print(args, &found, |found| perplexity_rows(found, "PPL"))
}

fn divergence(args: &PerplexityArgs, checkpoint: &Checkpoint, base: &Path, options: &Options) -> Result<(), CliError> {
    let open = || -> Result<(BufReader<File>, u64), CliError> {
        let file = File::open(base).map_err(CliError::file(base))?;
        let n_byte = file.metadata().map_err(CliError::file(base))?.len();
        Ok((BufReader::with_capacity(1 << 20, file), n_byte))
    };
    let (mut file, n_byte) = open()?;
    let n_ctx = Header::read(&mut file, n_byte)?.n_ctx;
    if let Some(asked) = args.load.ctx.filter(|asked| *asked != n_ctx) {
        let text = format!("--ctx is {asked}, and {} has windows of {n_ctx}: leave --ctx out", base.display());
        return Err(CliError::Usage(text));
    }
    let mut runner = runner(args, checkpoint, n_ctx)?;
    let bar = Bar::new();
    let (mut file, n_byte) = open()?;
    let mut show = |progress| bar.show(progress);
    let found = perplexity::divergence(runner.as_mut(), (&mut file, n_byte), options, &mut show)?;
    bar.finish();
    print(args, &found, divergence_rows)
}

fn runner(args: &PerplexityArgs, checkpoint: &Checkpoint, n_ctx: usize) -> Result<Box<dyn Runner>, CliError> {
    let choice = BackendChoice::new(args.load.backend, args.load.threads, args.load.isa.as_deref())?;
    let kv_type = args.load.kv_type.unwrap_or(KvTypeName::F32).kv_type();
    let arena = Arena::Tokens(n_ctx);
    let options = LoadOptions { n_ctx: Some(n_ctx), arena, n_slot: 1, kv_type };
    Ok(backend::load(checkpoint, &choice, &options, &mut |_| ())?.0)
}

/// Windows done and the perplexity so far, where somebody looks.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        if !io::stderr().is_terminal() {
            return Bar(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{pos}/{len} windows {wide_bar} {eta} left, PPL {msg}");
        Bar(ProgressBar::new(0).with_style(style.expect("a valid template")))
    }

    fn show(&self, progress: Progress) {
        self.0.set_length(progress.n_chunk as u64);
        self.0.set_position(progress.n_done as u64);
        self.0.set_message(format!("{:.4}", progress.ppl));
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a, T> {
    model: &'a str,
    #[serde(flatten)]
    found: &'a T,
}

fn print<T: Serialize>(args: &PerplexityArgs, found: &T, rows: fn(&T) -> Vec<String>) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    if args.json {
        let text = serde_json::to_string_pretty(&Report { model: &args.model, found }).expect("a report is JSON");
        return Ok(writeln!(out, "{text}")?);
    }
    for row in rows(found) {
        writeln!(out, "{row}")?;
    }
    Ok(())
}

fn perplexity_rows(found: &Perplexity, name: &str) -> Vec<String> {
    let tokens = format!("{} tokens in {} windows of {}", found.n_token, found.n_chunk, found.n_ctx);
    vec![row(name, found.ppl, 6), format!("{:<28} {tokens}", "scored")]
}

fn divergence_rows(found: &Divergence) -> Vec<String> {
    let percent = |e: Estimate| Estimate { value: 100.0 * e.value, error: 100.0 * e.error };
    let mut rows = perplexity_rows(&found.perplexity, "PPL(Q)");
    rows.extend([
        row("PPL(base)", found.ppl_base, 6),
        format!("{:<28} {:>10.2} %", "cor(ln PPL(Q), ln PPL(base))", 100.0 * found.ln_ppl_correlation),
        row("ln(PPL(Q)/PPL(base))", found.ln_ppl_ratio, 6),
        row("PPL(Q)/PPL(base)", found.ppl_ratio, 6),
        row("PPL(Q)-PPL(base)", found.ppl_difference, 6),
        row("mean KLD", found.kld, 6),
    ]);
    rows.extend(percentile_rows("KLD", &found.kld_percentiles, 1.0, ""));
    rows.push(row("mean Δp, %", percent(found.delta_p), 3));
    rows.push(row("RMS Δp, %", percent(found.delta_p_rms), 3));
    rows.extend(percentile_rows("Δp", &found.delta_p_percentiles, 100.0, " %"));
    rows.push(row("same top p, %", percent(found.same_top), 3));
    rows
}

fn row(name: &str, figure: Estimate, digits: usize) -> String {
    format!("{name:<28} {:>10.digits$} ± {:.digits$}", figure.value, figure.error)
}

fn percentile_rows(name: &str, found: &[Percentile], factor: f64, unit: &str) -> Vec<String> {
    let line = |p: &Percentile| {
        let part = match p.percent {
            0.0 => "minimum".to_owned(),
            50.0 => "median".to_owned(),
            100.0 => "maximum".to_owned(),
            percent => format!("{percent} %"),
        };
        format!("{:<28} {:>10.6}{unit}", format!("{part} {name}"), factor * p.value)
    };
    found.iter().map(line).collect()
}
