//! Which files of a checkpoint make its tokenizer.

use std::sync::Arc;

use mlxr_compute::Bytes;
use mlxr_text::token::{Config, GgufVocab, Source, SpecialIds, TokenError, Tokenizer};
use mlxr_weights::gguf::{Array, Strings};
use mlxr_weights::{Checkpoint, Kind, Metadata, OpenError};

use crate::CliError;

/// Builds the tokenizer of a checkpoint.
///
/// # Errors
/// If a file is damaged, of a kind that is not known, or there is none.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Arc<Tokenizer>, CliError> {
    let source = source(checkpoint)?;
    let error = |error: TokenError| CliError::Tokenizer { path: checkpoint.path().to_owned(), error };
    Ok(Arc::new(Tokenizer::from_source(source).map_err(error)?))
}

/// What the tokenizer of a checkpoint is made from.
///
/// # Errors
/// If a file is missing or damaged.
pub fn source(checkpoint: &Checkpoint) -> Result<Source, CliError> {
    match checkpoint.kind {
        Kind::Gguf => Ok(Source::Gguf(gguf(checkpoint.meta())?)),
        Kind::HuggingFace | Kind::Mlx => folder(checkpoint),
    }
}

/// Keys of a tokenizer in GGUF metadata begin so.
pub const PREFIX: &str = "tokenizer.ggml.";

/// Whether two models mean the same by every token. Vocabularies of one family may be padded to different sizes.
pub fn is_same(model: &Tokenizer, draft: &Tokenizer) -> bool {
    let n_vocab = model.n_vocab().min(draft.n_vocab());
    (0..n_vocab as u32).all(|id| model.token_bytes(id) == draft.token_bytes(id))
}

fn gguf(meta: &Metadata) -> Result<GgufVocab, OpenError> {
    let key = |name: &str| format!("{PREFIX}{name}");
    let strings = |name: &str| -> Result<Vec<Vec<u8>>, OpenError> {
        let list: Option<&Strings> = meta.get(&key(name))?;
        Ok(list.map(|list| list.iter().map(<[u8]>::to_vec).collect()).unwrap_or_default())
    };
    let flag = |name: &str| meta.get::<bool>(&key(name));
    let text = |name: &str| -> Result<String, OpenError> { Ok(meta.get::<&str>(name)?.unwrap_or_default().to_owned()) };
    let architecture = text("general.architecture")?;
    Ok(GgufVocab {
        model: meta.need::<&str>(&key("model"))?.to_owned(),
        pre: meta.get::<&str>(&key("pre"))?.map(str::to_owned),
        tokens: strings("tokens")?,
        scores: meta.list(&key("scores"))?.unwrap_or_default(),
        types: meta.list(&key("token_type"))?.unwrap_or_default(),
        merges: strings("merges")?,
        precompiled_charsmap: bytes(meta, &key("precompiled_charsmap"))?,
        ids: ids(meta)?,
        eog: meta.list(&format!("{PREFIX}eog_token_ids"))?.unwrap_or_default(),
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_sep: flag("add_sep_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        remove_extra_whitespaces: flag("remove_extra_whitespaces")?,
        lowercase: flag("normalizer.lowercase")?,
        strip_accents: flag("normalizer.strip_accents")?,
        model_name: text("general.name")?,
        vocab_size: meta.get(&format!("{architecture}.vocab_size"))?,
        architecture,
    })
}

/// An array of bytes, which files hold as `i8` or `u8`.
fn bytes(meta: &Metadata, key: &str) -> Result<Vec<u8>, OpenError> {
    let array: Option<&Array> = meta.get(key)?;
    let Some(array) = array else { return Ok(Vec::new()) };
    if let Some(bytes) = array.to_vec::<u8>() {
        return Ok(bytes);
    }
    let signed: Vec<i64> = meta.list(key)?.unwrap_or_default();
    Ok(signed.into_iter().map(|byte| byte as u8).collect())
}

fn ids(meta: &Metadata) -> Result<SpecialIds, OpenError> {
    let id = |names: &[&str]| -> Result<Option<u32>, OpenError> {
        for name in names {
            if let Some(id) = meta.get::<u32>(&format!("{PREFIX}{name}"))? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    };
    Ok(SpecialIds {
        bos: id(&["bos_token_id"])?,
        eos: id(&["eos_token_id"])?,
        eot: id(&["eot_token_id"])?,
        eom: id(&["eom_token_id"])?,
        unk: id(&["unknown_token_id"])?,
        sep: id(&["seperator_token_id", "separator_token_id"])?,
        pad: id(&["padding_token_id"])?,
        mask: id(&["mask_token_id"])?,
        cls: id(&["cls_token_id"])?,
        fim_pre: id(&["fim_pre_token_id", "prefix_token_id"])?,
        fim_suf: id(&["fim_suf_token_id", "suffix_token_id"])?,
        fim_mid: id(&["fim_mid_token_id", "middle_token_id"])?,
        fim_pad: id(&["fim_pad_token_id"])?,
        fim_rep: id(&["fim_rep_token_id"])?,
        fim_sep: id(&["fim_sep_token_id"])?,
    })
}

/// Files that make a tokenizer, the best first. `tokenizer.json` says everything; the others leave some to convention.
const FILES: &[(&str, Make)] = &[
    ("tokenizer.json", |bytes, config, _| Ok(Source::HuggingFace { tokenizer_json: bytes.to_vec(), config })),
    ("tekken.json", |bytes, _, _| Ok(Source::Tekken { json: bytes.to_vec() })),
    ("tokenizer.model", sentencepiece_or_ranks),
    ("spiece.model", |bytes, config, _| Ok(Source::SentencePiece { model: bytes.to_vec(), config })),
    ("qwen.tiktoken", |bytes, config, _| Ok(ranks(bytes, QWEN_PATTERN, config))),
    ("vocab.json", |bytes, config, checkpoint| {
        let merges = checkpoint.file("merges.txt")?;
        let merges = merges.ok_or_else(|| missing(checkpoint, "vocab.json without merges.txt"))?;
        let (vocab_json, merges_txt) = (bytes.to_vec(), merges.to_vec());
        Ok(Source::Bpe { vocab_json, merges_txt, pre: "gpt-2".to_owned(), config })
    }),
];

type Make = fn(&Bytes, Config, &Checkpoint) -> Result<Source, CliError>;

fn folder(checkpoint: &Checkpoint) -> Result<Source, CliError> {
    let config = Config {
        tokenizer_config: checkpoint.json("tokenizer_config.json")?,
        special_tokens_map: checkpoint.json("special_tokens_map.json")?,
        added_tokens: checkpoint.json("added_tokens.json")?,
        generation_config: checkpoint.json("generation_config.json")?,
        model_config: checkpoint.config().cloned(),
    };
    for (name, make) in FILES {
        if let Some(bytes) = checkpoint.file(name)? {
            return make(&bytes, config, checkpoint);
        }
    }
    Err(missing(checkpoint, "none of them"))
}

/// Llama 3's `tokenizer.model` holds tiktoken ranks: lines of base64, where SentencePiece's protobuf begins with byte 10.
fn sentencepiece_or_ranks(bytes: &Bytes, config: Config, _: &Checkpoint) -> Result<Source, CliError> {
    if bytes.first() == Some(&10) {
        return Ok(Source::SentencePiece { model: bytes.to_vec(), config });
    }
    Ok(ranks(bytes, LLAMA3_PATTERN, config))
}

/// Rank files do not hold their split pattern. Source: `tokenization_qwen.py` of Qwen 1.
const QWEN_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Source: `llama/tokenizer.py` of Llama 3.
const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn ranks(bytes: &Bytes, pattern: &str, config: Config) -> Source {
    Source::Tiktoken { ranks: bytes.to_vec(), pattern: pattern.to_owned(), special: Vec::new(), config }
}

fn missing(checkpoint: &Checkpoint, found: &str) -> CliError {
    let names: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
    let text = format!(
        "{}: no tokenizer: found {found}, expected one of {}: fetch the model's tokenizer files too",
        checkpoint.path().display(),
        names.join(", ")
    );
    CliError::Failed(text)
}
