//! `mlx-run convert`.

use std::io::{self, IsTerminal, Write, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use mlxr_compute::DType;
use mlxr_models::convert::{self, Form};
use mlxr_tools::convert::{Progress, Report, gguf};
use mlxr_weights::Kind;

use super::size_text;
use crate::CliError;
use crate::args::{ConvertArgs, ConvertType};
use crate::{backend, carry, load};

impl ConvertType {
    fn gguf(self) -> gguf::Type {
        match self {
            ConvertType::Keep => gguf::Type::Keep(DType::Q8_0),
            ConvertType::F32 => gguf::Type::Of(DType::F32),
            ConvertType::F16 => gguf::Type::Of(DType::F16),
            ConvertType::Bf16 => gguf::Type::Of(DType::BF16),
            ConvertType::Q8_0 => gguf::Type::Of(DType::Q8_0),
        }
    }
}

/// Converts, and says what changed.
///
/// # Errors
/// If the model is damaged, the written form cannot hold it, or a file cannot be written.
pub fn run(args: &ConvertArgs) -> Result<(), CliError> {
    let (_, checkpoint) = load::open(&args.model, &args.folder)?;
    let n_thread = backend::n_thread(args.threads)?;
    if args.out.extension().is_none_or(|e| e != "gguf") {
        return Err(CliError::Usage(format!("{}: name a file that ends in .gguf", args.out.display())));
    }
    if checkpoint.kind == Kind::Gguf {
        let text = "it is a GGUF file already: `mlx-run quant` changes its types";
        return Err(CliError::Usage(format!("{}: {text}", checkpoint.path().display())));
    }
    let start = Instant::now();
    let bar = bar();
    let plan = convert::plan(&checkpoint, Form::Gguf)?;
    let extras = carry::for_gguf(&checkpoint, plan.n_vocab(), !args.no_tokenizer)?;
    let how = (args.out.as_path(), args.kind.gguf(), n_thread);
    let mut report = gguf::write(&checkpoint, plan, how, &extras.pairs, &mut |p| show(&bar, p))?;
    bar.finish_and_clear();
    report.notes.extend(extras.notes);
    print(args, &report, start)
}

fn bar() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{pos}/{len} tensors {wide_bar} {eta} left, {msg}");
    ProgressBar::new(0).with_style(style.expect("a valid template"))
}

fn show(bar: &ProgressBar, progress: Progress<'_>) {
    bar.set_length(progress.n_tensor as u64);
    bar.set_position(progress.n_done as u64);
    bar.set_message(progress.name.to_owned());
}

fn print(args: &ConvertArgs, report: &Report, start: Instant) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    if args.json {
        let text = serde_json::to_string_pretty(report).expect("a report is JSON");
        return Ok(writeln!(out, "{text}")?);
    }
    for (what, n) in &report.tensors {
        writeln!(out, "{n:>6} tensors {what}")?;
    }
    let bits = report.bytes as f64 * 8.0 / report.n_parameter.max(1) as f64;
    let seconds = start.elapsed().as_secs_f64();
    let size = size_text(report.bytes);
    writeln!(out, "{}: {size}, {bits:.2} bits a weight, {seconds:.1} s", args.out.display())?;
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    Ok(())
}
