//! What the JSON files beside a tokenizer say: added tokens, roles, ends of generation.

use super::error::TokenError;
use super::limits;
use super::source::Config;
use super::vocab::{SpecialIds, Vocab};
use serde_json::Value;

/// A token that a configuration adds to the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub id: u32,
    pub text: String,
    pub special: bool,
    pub lstrip: bool,
    pub rstrip: bool,
}

/// Fills the roles that the files name. Returns the ids that `generation_config.json` and
/// `config.json` name as ends.
pub(super) fn roles(config: &Config, vocab: &Vocab, special: &mut SpecialIds) -> Vec<u32> {
    let slots: [(&str, &mut Option<u32>); 7] = [
        ("bos_token", &mut special.bos),
        ("eos_token", &mut special.eos),
        ("unk_token", &mut special.unk),
        ("sep_token", &mut special.sep),
        ("pad_token", &mut special.pad),
        ("mask_token", &mut special.mask),
        ("cls_token", &mut special.cls),
    ];
    let named = [&config.tokenizer_config, &config.special_tokens_map];
    let numbered = [&config.generation_config, &config.model_config];
    for (role, slot) in slots {
        let names = named.into_iter().flatten().filter_map(|json| text_of(json.get(role)?));
        let by_name = names.filter_map(|name| vocab.id(name.as_bytes())).next();
        let key = format!("{role}_id");
        let ids = numbered.into_iter().flatten().flat_map(|json| ids_of(json.get(&key)));
        let by_id = ids.into_iter().find(|&id| (id as usize) < vocab.len());
        *slot = by_name.or(*slot).or(by_id);
    }
    let ends = numbered.into_iter().flatten().flat_map(|json| ids_of(json.get("eos_token_id")));
    ends.filter(|&id| (id as usize) < vocab.len()).collect()
}

/// Tokens of `added_tokens_decoder` (in `tokenizer_config.json`) and of `added_tokens.json`, by id.
///
/// # Errors
/// A key that is no id, or an id beyond the limit.
pub(super) fn added_tokens(config: &Config) -> Result<Vec<AddedToken>, TokenError> {
    let mut tokens = Vec::new();
    let decoder = config.tokenizer_config.as_ref().and_then(|c| c.get("added_tokens_decoder"));
    for (key, value) in decoder.and_then(Value::as_object).into_iter().flatten() {
        let file = "tokenizer_config.json";
        let help = "`added_tokens_decoder` maps ids to tokens";
        let id = key.parse().map_err(|_| TokenError::malformed(file, "added_tokens_decoder", key, help))?;
        let Some(text) = text_of(value) else {
            return Err(TokenError::malformed(file, format!("added_tokens_decoder.{key}"), "no `content`", help));
        };
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        let (special, lstrip, rstrip) = (flag("special"), flag("lstrip"), flag("rstrip"));
        tokens.push(AddedToken { id, text, special, lstrip, rstrip });
    }
    for (text, id) in config.added_tokens.as_ref().and_then(Value::as_object).into_iter().flatten() {
        let help = "`added_tokens.json` maps texts to ids";
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| TokenError::malformed("added_tokens.json", text, "no id", help))?;
        let special = text.starts_with('<') || text.starts_with('[');
        tokens.push(AddedToken { id, text: text.clone(), special, lstrip: false, rstrip: false });
    }
    tokens.sort_by_key(|t| t.id);
    tokens.dedup_by_key(|t| t.id);
    let largest = tokens.last().map_or(0, |t| t.id as usize);
    limits::check("id of an added token", largest, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
    Ok(tokens)
}

/// A flag of `tokenizer_config.json`.
pub(super) fn flag(config: &Config, name: &str) -> Option<bool> {
    config.tokenizer_config.as_ref()?.get(name)?.as_bool()
}

/// A token as text: a string, or an object with `content`.
fn text_of(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(text.to_string())
}

/// One id or a list of ids.
fn ids_of(value: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}
