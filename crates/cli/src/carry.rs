//! What goes with a model's tensors: tokenizer, chat template, generation defaults, name, what its card says.

use mlxr_text::token::{GgufVocab, Source, to_gguf, to_hf};
use mlxr_weights::gguf::{Array, Strings, Value};
use mlxr_weights::{Checkpoint, Kind};
use serde_json::Map;

use crate::CliError;
use crate::defaults::KEYS;
use crate::vocab::PREFIX;
use crate::{card, template, vocab};

/// GGUF metadata beside the model's own, and notes on what changes.
pub struct Extras {
    /// Keys and values.
    pub pairs: Vec<(String, Value)>,
    /// A line each.
    pub notes: Vec<String>,
}

/// The metadata of a checkpoint of `n_vocab` logits that a GGUF file keeps. `tokenizer`: whether it must have one.
///
/// # Errors
/// If a file is damaged, or GGUF has no tokenizer of this kind.
pub fn for_gguf(checkpoint: &Checkpoint, n_vocab: usize, tokenizer: bool) -> Result<Extras, CliError> {
    let mut extras = Extras { pairs: vec![("general.name".into(), Value::Str(name(checkpoint)))], notes: Vec::new() };
    extras.pairs.extend(card::metadata(checkpoint)?);
    match vocabulary(checkpoint, n_vocab) {
        Ok((vocab, exact)) => {
            if !exact {
                extras.notes.push("the tokenizer: GGUF cuts some texts otherwise".into());
            }
            extras.pairs.extend(keys(&vocab));
        }
        Err(error) if tokenizer => return Err(error),
        Err(error) => {
            extras.notes.push(format!("no tokenizer: {error}"));
            extras.pairs.push((format!("{PREFIX}model"), Value::Str("none".into())));
        }
    }
    if let Some(source) = template::own(checkpoint)? {
        extras.pairs.push(("tokenizer.chat_template".into(), Value::Str(source)));
    }
    let defaults = checkpoint.json("generation_config.json")?;
    for (_, json, gguf) in KEYS.iter().filter(|(_, json, gguf)| !json.is_empty() && !gguf.is_empty()) {
        let Some(value) = defaults.as_ref().and_then(|d| d.get(*json)) else { continue };
        let value = match value.as_i64() {
            Some(whole) if *json == "top_k" => Value::I32(whole as i32),
            _ => match value.as_f64() {
                Some(number) => Value::F32(number as f32),
                None => continue,
            },
        };
        extras.pairs.push((format!("general.sampling.{gguf}"), value));
    }
    Ok(extras)
}

/// Side files beside a folder's `config.json` and tensors, and notes on what changes.
pub struct SideFiles {
    /// Names and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// A line each.
    pub notes: Vec<String>,
}

/// The side files of a checkpoint: a folder's own, or those that say what a GGUF file's metadata says. `tokenizer`:
/// whether there must be one.
///
/// # Errors
/// If a file is damaged, or the tokenizer is of a kind that `tokenizer.json` cannot hold.
pub fn for_folder(checkpoint: &Checkpoint, tokenizer: bool) -> Result<SideFiles, CliError> {
    let mut side = SideFiles { files: Vec::new(), notes: Vec::new() };
    if checkpoint.kind != Kind::Gguf {
        let written = |name: &str| name == "config.json" || name.contains(".safetensors");
        let text = |name: &str| {
            let ends = [".json", ".txt", ".model", ".jinja", ".tiktoken", ".md", ".py"];
            ends.iter().any(|end| name.ends_with(end)) || name.starts_with("LICENSE")
        };
        for name in checkpoint.files().iter().filter(|name| !written(name) && text(name)) {
            if let Some(bytes) = checkpoint.file(name)? {
                side.files.push((name.clone(), bytes.to_vec()));
            }
        }
        return Ok(side);
    }
    let Source::Gguf(vocab) = vocab::source(checkpoint)? else { return Ok(side) };
    let error = |error| CliError::Tokenizer { path: checkpoint.path().to_owned(), error };
    let json = |value: &serde_json::Value| serde_json::to_vec_pretty(value).expect("a value is JSON");
    match to_hf(&vocab).map_err(error) {
        Ok(files) => {
            if !files.exact {
                side.notes.push("the tokenizer: tokenizer.json cuts some texts otherwise".into());
            }
            side.files.push(("tokenizer.json".into(), json(&files.tokenizer)));
            side.files.push(("tokenizer_config.json".into(), json(&files.config)));
        }
        Err(error) if tokenizer => return Err(error),
        Err(error) => side.notes.push(format!("no tokenizer: {error}")),
    }
    if let Some(source) = template::own(checkpoint)? {
        side.files.push(("chat_template.jinja".into(), source.into_bytes()));
    }
    let mut defaults = Map::new();
    for (_, name, gguf) in KEYS.iter().filter(|(_, json, gguf)| !json.is_empty() && !gguf.is_empty()) {
        if let Ok(Some(number)) = checkpoint.meta().get::<f32>(&format!("general.sampling.{gguf}")) {
            let short: f64 = number.to_string().parse().unwrap_or(f64::from(number));
            let whole = short.fract() == 0.0 && *name == "top_k";
            defaults.insert((*name).to_owned(), if whole { (short as i64).into() } else { short.into() });
        }
    }
    side.files.extend(card::write(checkpoint.meta()).map(|text| (card::NAME.into(), text.into_bytes())));
    if !defaults.is_empty() {
        side.files.push(("generation_config.json".into(), json(&defaults.into())));
    }
    Ok(side)
}

/// The name of a model: what its files say, or that of its folder.
fn name(checkpoint: &Checkpoint) -> String {
    let said = match checkpoint.kind {
        Kind::Gguf => checkpoint.meta().get::<&str>("general.name").ok().flatten().map(str::to_owned),
        Kind::HuggingFace | Kind::Mlx => None,
    };
    let path = checkpoint.path().canonicalize().unwrap_or_else(|_| checkpoint.path().to_owned());
    said.unwrap_or_else(|| path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned()))
}

fn vocabulary(checkpoint: &Checkpoint, n_vocab: usize) -> Result<(GgufVocab, bool), CliError> {
    let error = |error| CliError::Tokenizer { path: checkpoint.path().to_owned(), error };
    let built = vocab::tokenizer(checkpoint)?;
    let found = to_gguf(&vocab::source(checkpoint)?, &built, n_vocab).map_err(error)?;
    Ok((found.vocab, found.exact))
}

/// The keys of a tokenizer.
fn keys(vocab: &GgufVocab) -> Vec<(String, Value)> {
    let strings = |texts: &[Vec<u8>]| {
        let mut strings = Strings::new();
        texts.iter().for_each(|text| strings.push(text));
        Value::Array(Array::Str(strings))
    };
    let ids = &vocab.ids;
    let text = |text: &str| Some(Value::Str(text.to_owned()));
    let id = |id: Option<u32>| id.map(Value::U32);
    let flag = |flag: Option<bool>| flag.map(Value::Bool);
    let map = |bytes: &[u8]| (!bytes.is_empty()).then(|| Value::Array(Array::U8(bytes.to_vec())));
    let rows = [
        ("model", text(&vocab.model)),
        ("pre", text(vocab.pre.as_deref().unwrap_or("default"))),
        ("tokens", Some(strings(&vocab.tokens))),
        ("scores", (!vocab.scores.is_empty()).then(|| Value::Array(Array::F32(vocab.scores.clone())))),
        ("token_type", (!vocab.types.is_empty()).then(|| Value::Array(Array::I32(vocab.types.clone())))),
        ("merges", (!vocab.merges.is_empty()).then(|| strings(&vocab.merges))),
        ("bos_token_id", id(ids.bos)),
        ("eos_token_id", id(ids.eos)),
        ("eot_token_id", id(ids.eot)),
        ("eom_token_id", id(ids.eom)),
        ("unknown_token_id", id(ids.unk)),
        ("seperator_token_id", id(ids.sep)),
        ("padding_token_id", id(ids.pad)),
        ("mask_token_id", id(ids.mask)),
        ("cls_token_id", id(ids.cls)),
        ("fim_pre_token_id", id(ids.fim_pre)),
        ("fim_suf_token_id", id(ids.fim_suf)),
        ("fim_mid_token_id", id(ids.fim_mid)),
        ("fim_pad_token_id", id(ids.fim_pad)),
        ("fim_rep_token_id", id(ids.fim_rep)),
        ("fim_sep_token_id", id(ids.fim_sep)),
        ("eog_token_ids", (!vocab.eog.is_empty()).then(|| Value::Array(Array::U32(vocab.eog.clone())))),
        ("add_bos_token", flag(vocab.add_bos)),
        ("add_eos_token", flag(vocab.add_eos)),
        ("add_sep_token", flag(vocab.add_sep)),
        ("add_space_prefix", flag(vocab.add_space_prefix)),
        ("remove_extra_whitespaces", flag(vocab.remove_extra_whitespaces)),
        ("precompiled_charsmap", map(&vocab.precompiled_charsmap)),
        ("normalizer.lowercase", flag(vocab.lowercase)),
        ("normalizer.strip_accents", flag(vocab.strip_accents)),
    ];
    rows.into_iter().filter_map(|(key, value)| Some((format!("{PREFIX}{key}"), value?))).collect()
}
