//! `mlx-run quant`.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use mlxr_compute::DType;
use mlxr_tools::quantize::{self, Inputs, Output, Planned, RECIPES, Recipe, Source};
use mlxr_weights::{Checkpoint, Kind, Metadata};

use super::calibrate::{self, Text};
use super::{print_table, quant_options, size_text};
use crate::args::QuantArgs;
use crate::{CliError, backend, load};

/// The recipes, for `--help`.
pub fn recipes() -> String {
    let line = |recipe: &Recipe| format!("  {:<10} {}", recipe.name, recipe.about);
    format!("Recipes:\n{}", RECIPES.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// Writes the model with the recipe's types.
///
/// # Errors
/// If the model is no GGUF file, an option is not understood, importance is missing, or a file cannot be written.
pub fn run(args: &QuantArgs) -> Result<(), CliError> {
    let (model, checkpoint) = load::open(&args.model, &args.folder)?;
    if checkpoint.kind != Kind::Gguf {
        let text = format!("{} is no GGUF file: make one by `mlx-run convert` first", model.path.display());
        return Err(CliError::Usage(text));
    }
    let options = quant_options::options(args)?;
    let source = Source::new(&checkpoint, &quant_options::edits(args)?)?;
    let mut imatrix = quant_options::imatrix(args)?;
    let important = imatrix.is_some() || args.calibrate.is_some();
    let planned = quantize::plan(&source, &options, important)?;
    if args.dry_run {
        return print_plan(&planned, important);
    }
    let out = match &args.out_recipe[..] {
        [out, _] => PathBuf::from(out),
        _ => default_out(&model.path, options.recipe),
    };
    let n_thread = backend::n_thread(args.threads)?;
    let mut products = None;
    if let Some(file) = &args.calibrate {
        let text = Text { file, chunks: args.calibrate_chunks, threads: args.threads };
        let compensated = |t: &&Planned| t.shape.len() == 2 && t.from != t.to && t.name.starts_with("blk.");
        let columns = planned.iter().filter(compensated).map(Planned::n_in);
        let (made, recording) = calibrate::record(&checkpoint, (&args.model, &args.folder), text, columns)?;
        imatrix = Some(imatrix.unwrap_or(made));
        products = Some(recording);
    }
    let file = args.imatrix.as_deref().or(args.calibrate.as_deref());
    let inputs = Inputs { imatrix: imatrix.as_ref().zip(file), products: products.as_ref() };
    let output = Output { path: &out, keep_split: args.keep_split, n_thread };
    write(&checkpoint, (&source.meta, &planned), options.recipe, output, inputs)
}

fn write(
    checkpoint: &Checkpoint,
    (meta, planned): (&Metadata, &[Planned]),
    recipe: &Recipe,
    output: Output<'_>,
    inputs: Inputs<'_>,
) -> Result<(), CliError> {
    let start = Instant::now();
    let total: usize = planned.iter().map(Planned::bytes).sum();
    let bar = progress(total);
    quantize::run(checkpoint, (meta, planned), recipe, output, inputs, &mut |tensor, n| {
        bar.set_message(tensor.name.clone());
        bar.inc(n as u64);
    })?;
    bar.finish_and_clear();
    report_fallbacks(planned);
    let [before, after] = sizes(planned);
    eprintln!(
        "{}: {} -> {} ({:.2} bits a weight) in {:.1} s",
        output.path.display(),
        size_text(before as u64),
        size_text(after as u64),
        bits(after, planned),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A bar on standard error, where somebody looks.
fn progress(total: usize) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let text = "{wide_bar} {bytes}/{total_bytes} {eta} {msg}";
    ProgressBar::new(total as u64).with_style(ProgressStyle::with_template(text).expect("a valid template"))
}

/// `model-f16.gguf` as Q4_K_M is `model-Q4_K_M.gguf`, beside it.
fn default_out(model: &Path, recipe: &Recipe) -> PathBuf {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy();
    let precise = ["f32", "f16", "bf16"];
    let base = stem.rsplit_once(['-', '.']).filter(|(_, last)| precise.iter().any(|p| last.eq_ignore_ascii_case(p)));
    model.with_file_name(format!("{}-{}.gguf", base.map_or(&*stem, |(base, _)| base), recipe.name))
}

/// Bytes of all tensors before and after.
fn sizes(planned: &[Planned]) -> [usize; 2] {
    let before = planned.iter().filter_map(|t| t.from.bytes_of(t.elements())).sum();
    [before, planned.iter().map(Planned::bytes).sum()]
}

fn bits(bytes: usize, planned: &[Planned]) -> f64 {
    8.0 * bytes as f64 / planned.iter().map(Planned::elements).sum::<usize>().max(1) as f64
}

fn report_fallbacks(planned: &[Planned]) {
    let mut kinds: Vec<((usize, DType, DType), usize)> = Vec::new();
    for tensor in planned.iter().filter(|t| t.wanted != t.to) {
        let kind = (tensor.n_in(), tensor.wanted, tensor.to);
        match kinds.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, n)) => *n += 1,
            None => kinds.push((kind, 1)),
        }
    }
    for ((n_in, wanted, to), n) in kinds {
        let (block, wanted, to) = (wanted.block(), wanted.name(), to.name());
        eprintln!("note: {n} tensors have rows of {n_in}, no multiple of {wanted}'s {block}: they are {to}");
    }
}

fn print_plan(planned: &[Planned], imatrix: bool) -> Result<(), CliError> {
    let mut rows = Vec::new();
    for tensor in planned {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let size = |dtype: DType| size_text(dtype.bytes_of(tensor.elements()).unwrap_or(0) as u64);
        let change = if tensor.from == tensor.to { "" } else { "->" };
        let after = if tensor.from == tensor.to {
            ["", ""].map(str::to_owned)
        } else {
            [tensor.to.name().to_owned(), size(tensor.to)]
        };
        let [to, to_size] = after;
        let from = tensor.from.name().to_owned();
        rows.push(vec![
            tensor.name.clone(),
            shape.join(" x "),
            from,
            size(tensor.from),
            change.to_owned(),
            to,
            to_size,
        ]);
    }
    print_table(&rows)?;
    report_fallbacks(planned);
    let [before, after] = sizes(planned);
    writeln!(
        stdout(),
        "{} ({:.2} bits a weight) -> {} ({:.2} bits a weight)",
        size_text(before as u64),
        bits(before, planned),
        size_text(after as u64),
        bits(after, planned)
    )?;
    if !imatrix && planned.iter().any(|t| t.needs_importance) {
        eprintln!("note: this needs an importance matrix: make one by `mlx-run imatrix`, give it by --imatrix");
    }
    Ok(())
}
