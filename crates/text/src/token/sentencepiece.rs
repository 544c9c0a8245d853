//! SentencePiece's `tokenizer.model`: a protobuf with pieces, scores and a normalizer.
//!
//! ```text
//! ModelProto      1 pieces*   2 trainer_spec   3 normalizer_spec
//! SentencePiece   1 text      2 score f32      3 type (1 normal .. 6 byte, as GGUF's)
//! trainer_spec    3 model_type (1 unigram, 2 bpe)  24 treat_whitespace_as_suffix  35 byte_fallback
//!                 40 unk_id  41 bos_id  42 eos_id  43 pad_id
//! normalizer_spec 2 precompiled_charsmap  3 add_dummy_prefix  4 remove_extra_whitespaces  5 escape_whitespaces
//! ```
//! Source: `sentencepiece_model.proto`.

use super::added::Added;
use super::build::{self, Frame, Parts};
use super::charsmap::Normalizer;
use super::config::{self, AddedToken};
use super::error::TokenError;
use super::limits;
use super::protobuf::{Fields, Value};
use super::roles;
use super::source::Config;
use super::spm::Frozen;
use super::tokenizer::{Decoding, Engine, Tokenizer};
use super::unigram::{Unigram, Unknown};
use super::vocab::{Kind, SpecialIds, Vocab};

const FILE: &str = "tokenizer.model";
const HELP: &str = "expected a SentencePiece model: is the download complete?";

/// The file's contents.
#[derive(Debug)]
struct Model {
    pieces: Vec<(String, f32, Kind)>,
    model_type: u64,
    byte_fallback: bool,
    space_as_suffix: bool,
    /// unk, bos, eos, pad.
    ids: [Option<u32>; 4],
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

/// What another form of the model needs beside its vocabulary.
pub(super) struct Pieces {
    /// Whether pieces are merged by their scores; else the cut with the highest sum is the text's.
    pub merges: bool,
    pub scores: Vec<f32>,
    pub add_space_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub charsmap: Vec<u8>,
}

/// Scores and normalizer of a model.
///
/// # Errors
/// As [`tokenizer`].
pub(super) fn pieces(bytes: &[u8], config: &Config) -> Result<Pieces, TokenError> {
    let model = Model::read(bytes)?;
    let (_, scores) = vocabulary(&model, &config::added_tokens(config)?)?;
    Ok(Pieces {
        merges: model.model_type == BPE,
        scores,
        add_space_prefix: config::flag(config, "add_prefix_space").unwrap_or(model.add_dummy_prefix),
        remove_extra_whitespaces: model.remove_extra_whitespaces,
        charsmap: model.charsmap,
    })
}

const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

/// Builds the tokenizer.
///
/// # Errors
/// A damaged file, a model type other than unigram and BPE, a limit passed.
pub(super) fn tokenizer(bytes: &[u8], config: &Config) -> Result<Tokenizer, TokenError> {
    limits::check(FILE, bytes.len(), limits::MAX_FILE_BYTES, "MAX_FILE_BYTES")?;
    let model = Model::read(bytes)?;
    let added = config::added_tokens(config)?;
    let (mut vocab, scores) = vocabulary(&model, &added)?;
    let valid = |id: Option<u32>| id.filter(|&id| (id as usize) < vocab.len());
    let [unk, bos, eos, pad] = model.ids.map(valid);
    let mut special = SpecialIds { unk, bos, eos, pad, ..SpecialIds::default() };
    let named_ends = config::roles(config, &vocab, &mut special);
    let ends = roles::assign(&mut vocab, &mut special, &named_ends, roles::Named::Marked);
    let strip = |id: u32, _: &[u8]| {
        let token = added.iter().find(|t| t.id == id);
        let piece = (id as usize) < model.pieces.len();
        match token {
            Some(t) => Some((t.lstrip, t.rstrip)),
            // SentencePiece looks for its own user-defined pieces after normalizing.
            None if piece && vocab.kind(id) == Some(Kind::UserDefined) => None,
            None => Some((false, false)),
        }
    };
    let mut normalizer = Normalizer::new(&model.charsmap)?;
    normalizer.add_space_prefix = config::flag(config, "add_prefix_space").unwrap_or(model.add_dummy_prefix);
    normalizer.merge_spaces = model.remove_extra_whitespaces;
    normalizer.space_as_suffix = model.space_as_suffix;
    normalizer.keep_spaces = !model.escape_whitespaces;
    let strip_first_space = normalizer.add_space_prefix && !normalizer.space_as_suffix;
    let engine = if model.model_type == BPE {
        let mut spm = build::spm(&vocab, &scores, normalizer, unk)?;
        spm.frozen = Frozen::new(&vocab, |id| (id as usize) < model.pieces.len())?;
        Engine::Spm(spm)
    } else {
        let bytes: Option<Vec<u32>> = build::byte_tokens(&vocab).into_iter().collect();
        let bytes = bytes.filter(|_| model.byte_fallback).unwrap_or_default();
        let normal = model.pieces.iter().filter(|(_, _, kind)| *kind == Kind::Normal);
        let best = normal.map(|(_, score, _)| f64::from(*score)).fold(f64::NEG_INFINITY, f64::max);
        let user_score = |len: usize| if best.is_finite() { len as f64 * best - 0.1 } else { 0.0 };
        let unknown = Unknown { id: unk.unwrap_or(0), bytes };
        Engine::Unigram(Unigram::new(&vocab, &scores, normalizer, unknown, user_score)?)
    };
    let frame = Frame {
        // Llama's and Gemma's configurations leave the flag out and mean yes; T5 has no begin token.
        before: special.bos.filter(|_| config::flag(config, "add_bos_token").unwrap_or(true)).into_iter().collect(),
        after: special
            .eos
            .filter(|_| config::flag(config, "add_eos_token").unwrap_or(special.bos.is_none()))
            .into_iter()
            .collect(),
    };
    let added = Added::new(&vocab, strip)?;
    let decoding = Decoding { strip_first_space, clean_spaces: false };
    Ok(Tokenizer::new(Parts { vocab, added, engine, special, ends, frame, decoding }))
}

/// The model's pieces, then the tokens that the configuration adds; `[n_vocab]` scores.
fn vocabulary(model: &Model, added: &[AddedToken]) -> Result<(Vocab, Vec<f32>), TokenError> {
    let mut vocab = Vocab::default();
    let mut scores = Vec::new();
    for (text, score, kind) in &model.pieces {
        let name = text.as_bytes();
        match kind {
            Kind::Byte => {
                let bytes = build::byte_of(name).map_or_else(|| name.to_vec(), |b| vec![b]);
                vocab.push(name, &bytes, *kind)?;
            }
            Kind::Control | Kind::Unknown => vocab.push(name, name, *kind)?,
            _ => vocab.push(name, &build::unescape_spaces(name), *kind)?,
        }
        scores.push(*score);
    }
    for token in added {
        let kind = if token.special { Kind::Control } else { Kind::UserDefined };
        if (token.id as usize) < model.pieces.len() {
            if vocab.name(token.id) == Some(token.text.as_bytes()) && vocab.kind(token.id) != Some(Kind::Unknown) {
                vocab.set_kind(token.id, kind);
            }
            continue;
        }
        while vocab.len() < token.id as usize {
            vocab.push(b"", b"", Kind::Unused)?;
        }
        vocab.push(token.text.as_bytes(), token.text.as_bytes(), kind)?;
    }
    scores.resize(vocab.len(), 0.0);
    Ok((vocab, scores))
}

impl Model {
    fn read(bytes: &[u8]) -> Result<Model, TokenError> {
        let mut model = Model {
            pieces: Vec::new(),
            model_type: UNIGRAM,
            byte_fallback: false,
            space_as_suffix: false,
            ids: [Some(0), Some(1), Some(2), None],
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        for field in Fields::new(bytes) {
            match field.map_err(|at| damaged(format!("byte {at}"), "no protobuf field"))? {
                (1, Value::Bytes(piece)) => model.piece(piece)?,
                (2, Value::Bytes(spec)) => model.trainer(spec)?,
                (3, Value::Bytes(spec)) => model.normalizer(spec)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(damaged("pieces", "none"));
        }
        if !matches!(model.model_type, UNIGRAM | BPE) {
            return Err(TokenError::Unsupported {
                file: FILE,
                field: "trainer_spec.model_type",
                found: model.model_type.to_string(),
                known: "1 (unigram), 2 (BPE)".to_string(),
            });
        }
        Ok(model)
    }

    fn piece(&mut self, message: &[u8]) -> Result<(), TokenError> {
        let at = format!("piece {}", self.pieces.len());
        limits::check("tokens of the vocabulary", self.pieces.len() + 1, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
        let (mut text, mut score, mut kind) = (String::new(), 0.0, Kind::Normal);
        for field in Fields::new(message) {
            match field.map_err(|byte| damaged(format!("{at}, byte {byte}"), "no protobuf field"))? {
                (1, Value::Bytes(bytes)) => {
                    let found = std::str::from_utf8(bytes).map_err(|_| damaged(at.clone(), "text that is no UTF-8"))?;
                    text = found.to_string();
                }
                (2, Value::Fixed32(bytes)) => score = f32::from_le_bytes(bytes),
                (3, Value::Number(n)) => kind = Kind::from_gguf(i32::try_from(n).unwrap_or(1)),
                _ => {}
            }
        }
        self.pieces.push((text, score, kind));
        Ok(())
    }

    fn trainer(&mut self, message: &[u8]) -> Result<(), TokenError> {
        for field in Fields::new(message) {
            // Ids are signed, -1 for none, and so are far above any vocabulary when read as unsigned.
            match field.map_err(|at| damaged(format!("trainer_spec, byte {at}"), "no protobuf field"))? {
                (3, Value::Number(n)) => self.model_type = n,
                (24, Value::Number(n)) => self.space_as_suffix = n != 0,
                (35, Value::Number(n)) => self.byte_fallback = n != 0,
                (field @ 40..=43, Value::Number(n)) => self.ids[field as usize - 40] = u32::try_from(n).ok(),
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, message: &[u8]) -> Result<(), TokenError> {
        for field in Fields::new(message) {
            match field.map_err(|at| damaged(format!("normalizer_spec, byte {at}"), "no protobuf field"))? {
                (2, Value::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Value::Number(n)) => self.add_dummy_prefix = n != 0,
                (4, Value::Number(n)) => self.remove_extra_whitespaces = n != 0,
                (5, Value::Number(n)) => self.escape_whitespaces = n != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn damaged(at: impl Into<String>, found: &str) -> TokenError {
    TokenError::malformed(FILE, at, found, HELP)
}
