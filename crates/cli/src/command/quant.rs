//! `mlx-run quant`.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use mlxr_compute::recorder::{Record, Recording};
use mlxr_compute::{DType, quant};
use mlxr_tools::quantize::{self, Inputs, Options, Planned, RECIPES, Recipe};
use mlxr_weights::imatrix::Imatrix;
use mlxr_weights::{Checkpoint, Kind};
use regex_automata::meta::Regex;

use super::{imatrix, print_table, size_text};
use crate::args::{BackendName, ImatrixArgs, LoadArgs, QuantArgs};
use crate::{CliError, backend, load};

/// Most memory for the products of inputs.
const CALIBRATION_BYTES: usize = 8 << 30;

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
    let options = options(args)?;
    let mut imatrix = args.imatrix.as_deref().map(Imatrix::read).transpose()?;
    let important = imatrix.is_some() || args.calibrate.is_some();
    let planned = quantize::plan(&checkpoint, &options, important)?;
    if args.dry_run {
        return print_plan(&planned, important);
    }
    let out = match &args.out_recipe[..] {
        [out, _] => PathBuf::from(out),
        _ => default_out(&model.path, options.recipe),
    };
    let n_thread = backend::n_thread(args.threads)?;
    let calibration = args.calibrate.as_deref().map(|file| calibrate(args, &checkpoint, &planned, file)).transpose()?;
    let mut products = None;
    if let Some((made, recording)) = calibration {
        imatrix = Some(imatrix.unwrap_or(made));
        products = Some(recording);
    }
    let source = args.imatrix.as_deref().or(args.calibrate.as_deref());
    let inputs = Inputs { imatrix: imatrix.as_ref().zip(source), products: products.as_ref() };
    write(&checkpoint, &planned, options.recipe, (&out, n_thread), inputs)
}

/// Runs a text through the model and records the products of the inputs of its matrices.
fn calibrate(
    args: &QuantArgs,
    checkpoint: &Checkpoint,
    planned: &[Planned],
    file: &Path,
) -> Result<(Imatrix, Recording), CliError> {
    let compensated = planned.iter().filter(|t| t.shape.len() == 2 && t.from != t.to && t.name.starts_with("blk."));
    // Sums and their factors; matrices that share their input share them, so this is more than it will be.
    let need: usize = compensated.map(|t| 2 * 4 * t.n_in() * t.n_in()).sum();
    if need > CALIBRATION_BYTES {
        let (need, limit) = (size_text(need as u64), size_text(CALIBRATION_BYTES as u64));
        let text = format!(
            "--calibrate needs up to {need} for the products of inputs, the limit is {limit}: use --imatrix instead"
        );
        return Err(CliError::Usage(text));
    }
    let load = LoadArgs {
        backend: BackendName::Cpu,
        threads: args.threads,
        isa: None,
        kv_type: None,
        ctx: None,
        kv_memory: None,
        kv_tokens: None,
        draft: None,
        draft_max: 0,
    };
    let text = ImatrixArgs {
        model: args.model.clone(),
        file: file.to_owned(),
        out: PathBuf::new(),
        chunks: Some(args.calibrate_chunks),
        process_output: false,
        parse_special: false,
        load,
        folder: args.folder.clone(),
    };
    imatrix::record(checkpoint, &text, Record::Products)
}

fn write(
    checkpoint: &Checkpoint,
    planned: &[Planned],
    recipe: &Recipe,
    (out, n_thread): (&Path, usize),
    inputs: Inputs<'_>,
) -> Result<(), CliError> {
    let start = Instant::now();
    let total: usize = planned.iter().map(Planned::bytes).sum();
    let bar = progress(total);
    quantize::run(checkpoint, planned, recipe, (out, n_thread), inputs, &mut |tensor, n| {
        bar.set_message(tensor.name.clone());
        bar.inc(n as u64);
    })?;
    bar.finish_and_clear();
    report_fallbacks(planned);
    let [before, after] = sizes(planned);
    eprintln!(
        "{}: {} -> {} ({:.2} bits a weight) in {:.1} s",
        out.display(),
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

fn options(args: &QuantArgs) -> Result<Options, CliError> {
    let name = args.out_recipe.last().map_or("", String::as_str);
    let recipe = Recipe::find(name).ok_or_else(|| {
        let names: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        CliError::Usage(format!("no recipe `{name}`: there are {}", names.join(", ")))
    })?;
    let overrides = args.tensor_type.iter().map(|text| tensor_type(text)).collect::<Result<_, _>>()?;
    Ok(Options {
        overrides,
        output: args.output_tensor_type.as_deref().map(dtype).transpose()?,
        token_embd: args.token_embedding_type.as_deref().map(dtype).transpose()?,
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        requantize: args.allow_requantize,
        ..Options::new(recipe)
    })
}

/// `REGEX=TYPE`.
fn tensor_type(text: &str) -> Result<(Regex, DType), CliError> {
    let Some((pattern, name)) = text.rsplit_once('=') else {
        return Err(CliError::Usage(format!("--tensor-type `{text}`: expected REGEX=TYPE, such as attn_v=q8_0")));
    };
    let regex = Regex::new(pattern)
        .map_err(|error| CliError::Usage(format!("--tensor-type `{pattern}` is no regular expression: {error}")))?;
    Ok((regex, dtype(name)?))
}

fn dtype(name: &str) -> Result<DType, CliError> {
    DType::from_name(name).filter(|dtype| quant::can_encode(*dtype)).ok_or_else(|| {
        let types = mlxr_compute::dtype::TYPES.iter().filter(|row| quant::can_encode(row.dtype));
        let names: Vec<&str> = types.map(|row| row.name).collect();
        CliError::Usage(format!("no type `{name}` that can be written: there are {}", names.join(", ")))
    })
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
    println!(
        "{} ({:.2} bits a weight) -> {} ({:.2} bits a weight)",
        size_text(before as u64),
        bits(before, planned),
        size_text(after as u64),
        bits(after, planned)
    );
    if !imatrix && planned.iter().any(|t| t.needs_importance) {
        eprintln!("note: this needs an importance matrix: make one by `mlx-run imatrix`, give it by --imatrix");
    }
    Ok(())
}
