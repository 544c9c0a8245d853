//! `mlx-run convert`.

use std::io::{self, IsTerminal, Write, stderr};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::recorder::Recording;
use mlxr_compute::{DType, Encoding};
use mlxr_models::convert::{self, Form, Plan};
use mlxr_models::names::Role;
use mlxr_tools::convert::folder::Scheme;
use mlxr_tools::convert::{Calibration, Progress, Report, folder, gguf};
use mlxr_weights::{Checkpoint, Kind};

use super::calibrate::{self, Text};
use super::size_text;
use crate::CliError;
use crate::args::{ConvertArgs, ConvertType, FolderForm, MixedRecipe, MlxMode};
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
        return to_folder(args, &checkpoint, n_thread);
    }
    if args.bits.is_some() || args.mode.is_some() || args.recipe.is_some() || args.calibrate.is_some() {
        let text = "--bits, --mode, --recipe and --calibrate are for MLX's formats: name a folder, or use `mlx-run quant` \
                    for GGUF's types";
        return Err(CliError::Usage(text.into()));
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

fn to_folder(args: &ConvertArgs, checkpoint: &Checkpoint, n_thread: usize) -> Result<(), CliError> {
    let start = Instant::now();
    let form = match args.to {
        FolderForm::Mlx => Form::Mlx,
        FolderForm::Hf => Form::HuggingFace,
    };
    let bar = bar();
    let plan = convert::plan(checkpoint, form)?;
    let extras = carry::for_folder(checkpoint, !args.no_tokenizer)?;
    let scheme = scheme(args, checkpoint)?;
    let n_layer = plan.n_layer();
    let recording = calibrate(args, checkpoint, &plan, scheme)?;
    let calibration = recording.as_ref().map(|recording| Calibration { recording, n_thread });
    let how = (args.out.as_path(), scheme, n_layer, n_thread);
    let mut report = folder::write(checkpoint, plan, how, &extras.files, calibration, &mut |p| show(&bar, p))?;
    bar.finish_and_clear();
    report.notes.extend(extras.notes);
    print(args, &report, start)
}

/// What the calibration text shows of the model, where there is one.
fn calibrate(
    args: &ConvertArgs,
    checkpoint: &Checkpoint,
    plan: &Plan,
    scheme: Scheme,
) -> Result<Option<Recording>, CliError> {
    let Some(file) = &args.calibrate else { return Ok(None) };
    if !matches!(scheme, Scheme::Mlx { .. }) {
        let text = "--calibrate guides rounding to MLX's formats: add --bits, --mode or --recipe";
        return Err(CliError::Usage(text.into()));
    }
    let text = Text { file, chunks: args.calibrate_chunks, threads: args.threads };
    let linear = plan.targets.iter().filter(|t| t.n_matrix() == 1 && t.shape.len() == 2 && t.role != Role::Embed);
    let columns = linear.map(|t| t.shape[1]);
    let (_, recording) = calibrate::record(checkpoint, (&args.model, &args.folder), text, columns)?;
    Ok(Some(recording))
}

/// What matrices of a folder become.
fn scheme(args: &ConvertArgs, checkpoint: &Checkpoint) -> Result<Scheme, CliError> {
    let quantizes = args.bits.is_some() || args.mode.is_some() || args.recipe.is_some();
    if quantizes && (args.to == FolderForm::Hf || args.kind != ConvertType::Keep) {
        let text = "--bits, --mode and --recipe are MLX's: leave --to and --type out";
        return Err(CliError::Usage(text.into()));
    }
    let plain = match args.kind {
        ConvertType::Keep => None,
        ConvertType::F32 => Some(DType::F32),
        ConvertType::F16 => Some(DType::F16),
        ConvertType::Bf16 => Some(DType::BF16),
        ConvertType::Q8_0 => return Err(CliError::Usage("q8_0 is GGUF's: name a file that ends in .gguf".into())),
    };
    // Scales have the type of the model's own numbers.
    let types = [DType::BF16, DType::F16, DType::F32];
    let own = checkpoint.tensors().iter().map(|t| t.dtype).find(|dtype| types.contains(dtype));
    let scale = if checkpoint.kind == Kind::Gguf { DType::F16 } else { own.unwrap_or(DType::BF16) };
    let affine = |bits: u8| -> Result<Encoding, CliError> {
        if !matches!(bits, 2..=6 | 8) || !matches!(args.group, 32 | 64 | 128) {
            let text = format!("--bits {bits} --group {}: expected 2 to 6 or 8, and 32, 64 or 128", args.group);
            return Err(CliError::Usage(text));
        }
        Ok(Encoding::MlxAffine { bits, group: args.group, scale })
    };
    let floats = |mode| match mode {
        MlxMode::Mxfp4 => MlxFloat::Mxfp4,
        MlxMode::Mxfp8 => MlxFloat::Mxfp8,
        MlxMode::Nvfp4 => MlxFloat::Nvfp4,
    };
    Ok(match (args.bits, args.mode, args.recipe) {
        (Some(bits), ..) => Scheme::Mlx { encoding: affine(bits)?, high: None },
        (_, Some(mode), _) => Scheme::Mlx { encoding: Encoding::MlxFloat(floats(mode)), high: None },
        (_, _, Some(recipe)) => {
            let (low, high) = match recipe {
                MixedRecipe::Mixed26 => (2, 6),
                MixedRecipe::Mixed34 => (3, 4),
                MixedRecipe::Mixed36 => (3, 6),
                MixedRecipe::Mixed46 => (4, 6),
            };
            Scheme::Mlx { encoding: affine(low)?, high: Some(affine(high)?) }
        }
        _ if args.to == FolderForm::Mlx && plain.is_none() => Scheme::MlxKeep,
        _ => Scheme::Plain(plain),
    })
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
