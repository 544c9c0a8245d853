//! `tokenizer.json` and `tokenizer_config.json` from the metadata of a GGUF file.

use serde_json::{Map, Value, json};

use super::super::error::TokenError;
use super::super::pre::{self, Rule};
use super::super::source::{Config, GgufVocab, Source};
use super::super::tokenizer::Tokenizer;
use super::super::vocab::Kind;
use super::{agree, merges, pieces};

/// The files of a folder.
#[derive(Debug)]
pub struct HfFiles {
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`, without a chat template.
    pub config: Value,
    /// Whether a difficult text gets the same ids as before.
    pub exact: bool,
}

/// The files that tokenize as `vocab` does.
///
/// # Errors
/// If the vocabulary is damaged or of a kind that merges nothing.
pub fn to_hf(vocab: &GgufVocab) -> Result<HfFiles, TokenError> {
    let built = Tokenizer::from_source(Source::Gguf(vocab.clone()))?;
    let tokenizer = match vocab.model.as_str() {
        "gpt2" => byte_level(vocab, &built)?,
        "llama" => by_scores(vocab, &built),
        "t5" => file(&built, pieces::unigram_to_hf(vocab, &built)),
        "bert" => {
            let mut file = file(&built, pieces::wordpiece_to_hf(vocab, &built));
            let ids = built.special_ids();
            file["post_processor"] =
                around(&built, [ids.bos.or(ids.cls), ids.sep.filter(|_| vocab.add_sep != Some(false))]);
            file
        }
        other => {
            return Err(TokenError::Unsupported {
                file: "GGUF tokenizer.ggml",
                field: "model",
                found: other.to_owned(),
                known: "gpt2, llama, t5, bert".to_owned(),
            });
        }
    };
    let config = config(&built);
    let bytes = tokenizer.to_string().into_bytes();
    let side = Config { tokenizer_config: Some(config.clone()), ..Config::default() };
    let again = Tokenizer::from_source(Source::HuggingFace { tokenizer_json: bytes, config: side })?;
    Ok(HfFiles { exact: agree(&built, &again)?, tokenizer, config })
}

/// Ids with their names as text and their kinds.
fn names(built: &Tokenizer) -> impl Iterator<Item = (u32, String, Kind)> {
    (0..built.n_vocab() as u32).filter_map(|id| {
        let name = String::from_utf8_lossy(built.token_name(id)?).into_owned();
        Some((id, name, built.kind(id)?))
    })
}

fn added(built: &Tokenizer) -> Vec<Value> {
    let special = |kind: Kind| matches!(kind, Kind::Control | Kind::Unknown);
    let marked = names(built).filter(|(_, _, kind)| special(*kind) || *kind == Kind::UserDefined);
    let token = |(id, name, kind): (u32, String, Kind)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special(kind)})
    };
    marked.map(token).collect()
}

fn vocabulary(built: &Tokenizer) -> Map<String, Value> {
    names(built).map(|(id, name, _)| (name, id.into())).collect()
}

/// What goes around a text.
fn post_processor(built: &Tokenizer) -> Value {
    around(built, [built.bos().filter(|_| built.add_bos()), built.eos().filter(|_| built.add_eos())])
}

/// These tokens around a text.
fn around(built: &Tokenizer, ids: [Option<u32>; 2]) -> Value {
    let named = |id: Option<u32>| {
        let id = id?;
        Some((String::from_utf8_lossy(built.token_name(id)?).into_owned(), id))
    };
    let [bos, eos] = ids.map(named);
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |(name, _): &(String, u32)| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let row = |texts: &[&str]| -> Vec<Value> {
        let around = |t: &&str| [bos.as_ref().map(special), Some(text(t)), eos.as_ref().map(special)];
        texts.iter().flat_map(around).flatten().collect()
    };
    let tokens: Map<String, Value> = bos
        .iter()
        .chain(&eos)
        .map(|(name, id)| (name.clone(), json!({"id": name, "ids": [id], "tokens": [name]})))
        .collect();
    json!({"type": "TemplateProcessing", "single": row(&["A"]), "pair": row(&["A", "B"]), "special_tokens": tokens})
}

fn file(built: &Tokenizer, [normalizer, pre_tokenizer, decoder, model]: [Value; 4]) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added(built),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor(built),
        "decoder": decoder, "model": model,
    })
}

fn bpe(vocab: Map<String, Value>, merges: Vec<Value>, [fallback, whole_words]: [bool; 2], unk: Value) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": fallback, "byte_fallback": fallback, "ignore_merges": whole_words,
        "vocab": vocab, "merges": merges,
    })
}

fn byte_level(vocab: &GgufVocab, built: &Tokenizer) -> Result<Value, TokenError> {
    let name = vocab.pre.as_deref().unwrap_or("default");
    let row = pre::find(name).filter(|row| row.byte_level).ok_or_else(|| TokenError::Unsupported {
        file: "GGUF tokenizer.ggml",
        field: "pre",
        found: name.to_owned(),
        known: pre::names().collect::<Vec<_>>().join(", "),
    })?;
    let step = |rule: &Rule| match rule {
        Rule::Split(pattern) | Rule::ThreesFromEnd(pattern) => {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
        }
    };
    let level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let mut steps: Vec<Value> = row.rules.iter().map(step).collect();
    steps.push(level(false));
    let pair = |merge: &Vec<u8>| -> Value { String::from_utf8_lossy(merge).into_owned().into() };
    let merges = vocab.merges.iter().map(pair).collect();
    let model = bpe(vocabulary(built), merges, [false, row.whole_words], Value::Null);
    let pre = json!({"type": "Sequence", "pretokenizers": steps});
    Ok(file(built, [Value::Null, pre, level(true), model]))
}

fn by_scores(vocab: &GgufVocab, built: &Tokenizer) -> Value {
    let all: Vec<(u32, String, Kind)> = names(built).collect();
    let text = |kind: &Kind| matches!(kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
    let scored: Vec<(&str, f32)> = all
        .iter()
        .filter(|(_, _, kind)| text(kind))
        .map(|(id, name, _)| (name.as_str(), vocab.scores.get(*id as usize).copied().unwrap_or(0.0)))
        .collect();
    let merges = merges::of_scores(&scored).into_iter().map(|(l, r)| json!([l, r])).collect();
    let prefix = vocab.add_space_prefix.unwrap_or(true);
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", "▁")];
    let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unk = built.special_ids().unk.and_then(|id| built.token_name(id));
    let unk = unk.map_or(Value::Null, |name| String::from_utf8_lossy(name).into_owned().into());
    let model = bpe(vocabulary(built), merges, [true, false], unk);
    let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
    file(built, [normalizer, Value::Null, json!({"type": "Sequence", "decoders": decoders}), model])
}

fn config(built: &Tokenizer) -> Value {
    let mut config = Map::new();
    let ids = built.special_ids();
    let roles = [
        ("bos", ids.bos),
        ("eos", ids.eos),
        ("unk", ids.unk),
        ("pad", ids.pad),
        ("sep", ids.sep),
        ("cls", ids.cls),
        ("mask", ids.mask),
    ];
    for (name, id) in roles {
        if let Some(text) = id.and_then(|id| built.token_name(id)) {
            config.insert(format!("{name}_token"), String::from_utf8_lossy(text).into_owned().into());
        }
    }
    config.insert("add_bos_token".into(), built.add_bos().into());
    config.insert("add_eos_token".into(), built.add_eos().into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.into()
}
