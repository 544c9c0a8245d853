//! `mlx-run show`.

use mlxr_models::{LoadOptions, architecture};
use mlxr_registry::Form;
use mlxr_text::chat::ChatTemplate;
use mlxr_text::token::Tokenizer;
use mlxr_weights::{Checkpoint, Kind};

use super::{print_table, size_text};
use crate::CliError;
use crate::args::{BackendName, ShowArgs};
use crate::placement::{self, Memory};
use crate::{defaults, load, setting, template, vocab};

/// Prints what a model is.
///
/// # Errors
/// If its files are damaged.
pub fn run(args: &ShowArgs) -> Result<(), CliError> {
    let (model, checkpoint) = load::open(&args.model, &args.folder)?;
    if args.tensors {
        return Ok(print_table(&tensors(&checkpoint))?);
    }
    if args.metadata {
        return Ok(print_table(&metadata(&checkpoint)?)?);
    }
    let place = match model.form {
        Form::Embedded => "inside this program".to_owned(),
        Form::Gguf | Form::Folder => model.path.display().to_string(),
    };
    let mut rows = vec![
        pair("name", model.name),
        pair("path", place),
        pair("size", size_text(model.size_bytes)),
        pair("form", form(checkpoint.kind)),
    ];
    rows.extend(weights(&checkpoint)?);
    rows.extend(memory(&checkpoint));
    match vocab::tokenizer(&checkpoint) {
        Ok(tokenizer) => {
            let template = template::template(&checkpoint, &tokenizer, None)?;
            rows.extend(text(&tokenizer, template.as_ref()));
        }
        Err(error) => rows.push(pair("tokenizer", format!("unusable: {error}"))),
    }
    let settings = defaults::settings(&checkpoint, &mut |text| eprintln!("warning: {text}"))?;
    rows.extend(setting::recommended(&settings).map(|row| pair(row.name, (row.get)(&settings))));
    Ok(print_table(&rows)?)
}

fn pair(name: &str, value: impl ToString) -> Vec<String> {
    vec![name.to_owned(), value.to_string()]
}

fn form(kind: Kind) -> &'static str {
    match kind {
        Kind::Gguf => "GGUF",
        Kind::HuggingFace => "Hugging Face folder",
        Kind::Mlx => "MLX folder",
    }
}

/// Architecture, and how many bytes are of which type.
fn weights(checkpoint: &Checkpoint) -> Result<Vec<Vec<String>>, CliError> {
    let summary = checkpoint.summary()?;
    let types = summary.types.iter();
    let types = types.map(|row| format!("{}: {} of {}", row.name, row.n_tensor, size_text(row.bytes)));
    Ok(vec![
        pair("architecture", architecture(checkpoint)),
        pair("parameters", count_text(summary.n_parameter)),
        pair("context", load::own_context(checkpoint)?.map_or("not told".to_owned(), |n| format!("{n} tokens"))),
        pair("tensors", types.collect::<Vec<_>>().join(", ")),
    ])
}

/// What it takes of memory, and where it would run alone.
fn memory(checkpoint: &Checkpoint) -> Vec<Vec<String>> {
    let placed = || -> Result<Vec<Vec<String>>, CliError> {
        let sizes = placement::sizes(checkpoint, &LoadOptions::default())?;
        let asked = placement::Asked { backend: BackendName::Auto, n_running: 1, ..placement::Asked::default() };
        let placed = placement::place(&sizes, &asked, &placement::machine(asked.backend, Memory::Left)?);
        let name = if placed.backend == BackendName::Auto { BackendName::Mlx } else { placed.backend };
        let why = placed.refusal.as_ref().map_or(String::new(), |why| format!("; not on the GPU: {why}"));
        Ok(vec![pair("memory", sizes), pair("runs on", format!("{}: {placed}{why}", name.text()))])
    };
    placed().unwrap_or_else(|error| vec![pair("memory", format!("not known: {error}"))])
}

/// `1.1 B`, `260 k`.
pub fn count_text(n: u64) -> String {
    let (value, unit) = match n {
        0..1_000_000 => (n as f64 / 1e3, "k"),
        1_000_000..1_000_000_000 => (n as f64 / 1e6, "M"),
        _ => (n as f64 / 1e9, "B"),
    };
    if value < 99.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

fn text(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Vec<Vec<String>> {
    let name = |id: Option<u32>| {
        let name = id.and_then(|id| Some((id, tokenizer.token_name(id)?)));
        name.map_or("none".to_owned(), |(id, name)| format!("{} ({id})", String::from_utf8_lossy(name)))
    };
    let ends: Vec<String> = tokenizer.eog_ids().iter().map(|id| name(Some(*id))).collect();
    let mut rows = vec![
        pair("vocabulary", format!("{} tokens", tokenizer.n_vocab())),
        pair("begin token", name(tokenizer.bos())),
        pair("end tokens", ends.join(", ")),
    ];
    let Some(template) = template else {
        rows.push(pair("template", "none: a base model, which continues text (--raw)"));
        return rows;
    };
    let can = template.capabilities();
    let abilities = [("system", can.system), ("tools", can.tools), ("thinking", can.reasons)];
    let names: Vec<&str> = abilities.iter().filter(|(_, can)| *can).map(|(name, _)| *name).collect();
    rows.push(pair("template", format!("{} characters; {}", template.source().len(), names.join(", "))));
    rows
}

fn tensors(checkpoint: &Checkpoint) -> Vec<Vec<String>> {
    let row = |tensor: &mlxr_weights::TensorInfo| {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        vec![tensor.name.clone(), tensor.dtype.name().to_owned(), shape.join(" x "), size_text(tensor.bytes as u64)]
    };
    checkpoint.tensors().iter().map(row).collect()
}

fn metadata(checkpoint: &Checkpoint) -> Result<Vec<Vec<String>>, CliError> {
    Ok(checkpoint.summary()?.metadata.into_iter().map(|(key, value)| vec![key, value]).collect())
}
