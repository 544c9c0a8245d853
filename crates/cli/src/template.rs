//! Where a checkpoint keeps its chat template.
//!
//! | file               | place                                                                       |
//! |--------------------|------------------------------------------------------------------------------|
//! | GGUF               | `tokenizer.chat_template`                                                     |
//! | folder             | `chat_template.jinja`, `tokenizer_config.json`, `chat_template.json`, in turn |
//! | neither            | a built-in one for the architecture and the vocabulary                        |

use std::path::Path;

use mlxr_models::architecture;
use mlxr_text::chat::{ChatTemplate, Specials, builtin};
use mlxr_text::token::Tokenizer;
use mlxr_weights::{Checkpoint, Kind, OpenError};
use serde_json::Value;

use crate::CliError;

/// The chat template of a checkpoint, or the one `asked` for (a file, or the name of a built-in one). `None` if the model
/// has none and none is built in for it.
///
/// # Errors
/// If a file cannot be read or the template is none.
pub fn template(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    asked: Option<&str>,
) -> Result<Option<ChatTemplate>, CliError> {
    let source = match asked {
        Some(asked) => Some(named(asked)?),
        None => own(checkpoint)?.or_else(|| {
            let has = |token: &str| tokenizer.token_id(token).is_some();
            Some(builtin::detect(&architecture(checkpoint), &has)?.source())
        }),
    };
    let Some(source) = source else { return Ok(None) };
    Ok(Some(ChatTemplate::new(&source, specials(tokenizer))?))
}

fn named(asked: &str) -> Result<String, CliError> {
    if let Some(row) = builtin::named(asked) {
        return Ok(row.source());
    }
    std::fs::read_to_string(asked).map_err(CliError::file(Path::new(asked)))
}

/// The template that a checkpoint holds.
///
/// # Errors
/// If a file cannot be read.
pub fn own(checkpoint: &Checkpoint) -> Result<Option<String>, OpenError> {
    if checkpoint.kind == Kind::Gguf {
        return Ok(checkpoint.meta().get::<&str>("tokenizer.chat_template")?.map(str::to_owned));
    }
    if let Some(bytes) = checkpoint.file("chat_template.jinja")? {
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    for file in ["tokenizer_config.json", "chat_template.json"] {
        let json = checkpoint.json(file)?;
        if let Some(source) = json.as_ref().and_then(|json| json.get("chat_template")).and_then(default_of) {
            return Ok(Some(source));
        }
    }
    Ok(None)
}

/// A template, or the one called `default` of a list of `{name, template}`.
fn default_of(value: &Value) -> Option<String> {
    match value {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => {
            let row = list.iter().find(|row| row.get("name").and_then(Value::as_str) == Some("default"));
            Some(row.or(list.first())?.get("template")?.as_str()?.to_owned())
        }
        _ => None,
    }
}

fn specials(tokenizer: &Tokenizer) -> Specials {
    let name = |id: Option<u32>| Some(String::from_utf8_lossy(tokenizer.token_name(id?)?).into_owned());
    let ids = tokenizer.special_ids();
    let others = [("unk_token", ids.unk), ("pad_token", ids.pad), ("sep_token", ids.sep), ("cls_token", ids.cls)];
    let others = others.into_iter().filter_map(|(key, id)| Some((key.to_owned(), name(id)?)));
    Specials { bos: name(ids.bos), eos: name(ids.eos), others: others.collect() }
}
