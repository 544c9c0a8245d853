//! A tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file.

use super::added::Added;
use super::bpe::{Bpe, Fallback};
use super::build::{self, Frame};
use super::byte_level;
use super::charsmap::Normalizer;
use super::config::AddedToken;
use super::error::TokenError;
use super::ids::Ids;
use super::limits;
use super::plamo2::Plamo2;
use super::pre::{self, Pre, Splitter};
use super::roles;
use super::rwkv::{self, Rwkv};
use super::source::GgufVocab;
use super::spm::PatternBpe;
use super::symbols::{Symbols, Unit};
use super::tokenizer::{Decoding, Engine, Tokenizer};
use super::unigram::{Unigram, Unknown};
use super::vocab::{self, Kind, SpecialIds, Vocab};
use super::wordpiece::WordPiece;

const FILE: &str = "GGUF tokenizer.ggml";

/// A value of `tokenizer.ggml.model` and the defaults that come with it.
struct Model {
    name: &'static str,
    form: Form,
    /// bos, eos, unk, sep, pad, mask where the file does not say.
    ids: [Option<u32>; 6],
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

/// How token texts are written and how text becomes tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Spm,
    Bpe,
    WordPiece,
    Unigram,
    Rwkv,
    Plamo2,
    Ids,
}

/// The row that others inherit from.
const NO_DEFAULTS: Model =
    Model { name: "", form: Form::Ids, ids: [None; 6], add_bos: false, add_eos: false, add_space_prefix: false };

/// Source: llama.cpp `llama-vocab.cpp`, `llama_vocab::impl::load`.
const MODELS: &[Model] = &[
    Model {
        name: "llama",
        form: Form::Spm,
        ids: [Some(1), Some(2), Some(0), None, None, None],
        add_bos: true,
        add_space_prefix: true,
        ..NO_DEFAULTS
    },
    Model { name: "gpt2", form: Form::Bpe, ids: [Some(11), Some(11), None, None, None, None], ..NO_DEFAULTS },
    Model { name: "whitespace", form: Form::Bpe, ids: [Some(11), Some(11), None, None, None, None], ..NO_DEFAULTS },
    Model { name: "gemma4", form: Form::Bpe, ..NO_DEFAULTS },
    // Not a GGUF name: the pair `vocab.json` and `merges.txt`, see `gpt2.rs`.
    Model { name: super::gpt2::MODEL, form: Form::Bpe, ..NO_DEFAULTS },
    Model {
        name: "bert",
        form: Form::WordPiece,
        ids: [Some(101), None, Some(100), Some(102), Some(0), Some(103)],
        add_bos: true,
        ..NO_DEFAULTS
    },
    Model {
        name: "t5",
        form: Form::Unigram,
        ids: [None, Some(1), Some(2), None, Some(0), None],
        add_eos: true,
        add_space_prefix: true,
        ..NO_DEFAULTS
    },
    Model { name: "rwkv", form: Form::Rwkv, ..NO_DEFAULTS },
    Model { name: "plamo2", form: Form::Plamo2, ids: [Some(1), Some(2), Some(0), None, Some(3), None], ..NO_DEFAULTS },
    Model { name: "test", ..NO_DEFAULTS },
    Model { name: "none", ..NO_DEFAULTS },
    Model { name: "no_vocab", ..NO_DEFAULTS },
    Model { name: "", ..NO_DEFAULTS },
];

/// Builds the tokenizer. `marks`, by id, say which tokens swallow white space; GGUF itself cannot.
///
/// # Errors
/// An unknown `model` or `pre`; arrays of different lengths; a missing array; a limit passed.
pub(super) fn tokenizer(mut source: GgufVocab, marks: &[AddedToken]) -> Result<Tokenizer, TokenError> {
    let Some(model) = MODELS.iter().find(|m| m.name == source.model) else {
        let known: Vec<_> =
            MODELS.iter().map(|m| m.name).filter(|n| !n.is_empty() && *n != super::gpt2::MODEL).collect();
        return Err(TokenError::Unsupported {
            file: FILE,
            field: "model",
            found: source.model,
            known: known.join(", "),
        });
    };
    check_arrays(&source)?;
    if model.form == Form::Ids {
        return ids_only(&source);
    }
    if source.tokens.is_empty() {
        let help = "the file has no vocabulary: convert the model again, or give a tokenizer.json";
        return Err(TokenError::Missing { file: FILE, field: "tokens", help });
    }
    let pre = if model.form == Form::Bpe { pre_row(model, &source)? } else { None };
    for (i, text) in source.tokens.iter_mut().enumerate() {
        if text.is_empty() {
            *text = format!("[EMPTY_{i}]").into_bytes();
        }
    }
    let mut vocab = vocabulary(model.form, pre, &source)?;
    let (special, ends) = special_ids(model, pre, &source, &mut vocab);
    let frame = frame(model, pre, &source, &special);
    let by_model = strip_rule(&source);
    let strip = |id: u32, name: &[u8]| match marks.binary_search_by_key(&id, |t| t.id) {
        Ok(i) => Some((marks[i].lstrip, marks[i].rstrip)),
        Err(_) => Some(by_model(name)),
    };
    let added = Added::new(&vocab, strip)?;
    let engine = engine(model, pre, &source, &vocab, &special)?;
    let space_prefix = source.add_space_prefix.unwrap_or(model.add_space_prefix);
    let decoding = Decoding {
        strip_first_space: space_prefix || model.form == Form::WordPiece,
        clean_spaces: pre.is_some_and(|p| p.clean_spaces) || model.form == Form::WordPiece,
    };
    Ok(Tokenizer::new(build::Parts { vocab, added, engine, special, ends, frame, decoding }))
}

fn check_arrays(source: &GgufVocab) -> Result<(), TokenError> {
    let n = source.tokens.len();
    limits::check("tokens of the vocabulary", n, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
    limits::check("merges", source.merges.len(), limits::MAX_MERGES, "MAX_MERGES")?;
    vocab::check_total(source.tokens.iter().chain(&source.merges).map(Vec::len))?;
    for (field, len) in [("scores", source.scores.len()), ("token_type", source.types.len())] {
        if len != 0 && len < n {
            let found = format!("{len} entries for {n} tokens");
            return Err(TokenError::malformed(
                FILE,
                field,
                found,
                "each token needs an entry: convert the model again",
            ));
        }
    }
    Ok(())
}

fn pre_row(model: &Model, source: &GgufVocab) -> Result<Option<&'static Pre>, TokenError> {
    let name = if model.name == "gemma4" { "gemma4" } else { source.pre.as_deref().unwrap_or("default") };
    pre::find(name).map(Some).ok_or_else(|| TokenError::Unsupported {
        file: FILE,
        field: "pre",
        found: name.to_string(),
        known: pre::names().collect::<Vec<_>>().join(", "),
    })
}

/// The texts, what they decode to, and their kinds.
fn vocabulary(form: Form, pre: Option<&Pre>, source: &GgufVocab) -> Result<Vocab, TokenError> {
    let byte_level = pre.is_some_and(|p| p.byte_level);
    let unescape_spaces = match form {
        Form::Spm | Form::WordPiece | Form::Unigram => true,
        Form::Bpe => pre.is_some_and(|p| p.escape_spaces),
        _ => false,
    };
    let mut vocab = Vocab::default();
    for (i, name) in source.tokens.iter().enumerate() {
        let kind = source.types.get(i).map_or(Kind::Normal, |&t| Kind::from_gguf(t));
        let plain = matches!(kind, Kind::Normal | Kind::Unused);
        let bytes = match kind {
            Kind::Byte => build::byte_of(name).map_or_else(|| name.clone(), |b| vec![b]),
            _ if form == Form::Rwkv => rwkv::unescape(name),
            _ if plain && byte_level => {
                let text = std::str::from_utf8(name).ok();
                text.and_then(byte_level::decode).unwrap_or_else(|| name.clone())
            }
            _ if plain && unescape_spaces => build::unescape_spaces(name),
            _ => name.clone(),
        };
        vocab.push(name, &bytes, kind)?;
    }
    Ok(vocab)
}

fn special_ids(model: &Model, pre: Option<&Pre>, source: &GgufVocab, vocab: &mut Vocab) -> (SpecialIds, Vec<u32>) {
    let valid = |id: Option<u32>| id.filter(|&id| (id as usize) < vocab.len());
    let [bos, eos, unk, sep, pad, mask] = model.ids;
    let bos = bos.filter(|_| !pre.is_some_and(|p| p.no_bos));
    let ids = &source.ids;
    let or = |file: Option<u32>, default: Option<u32>| valid(file).or(valid(default));
    let mut special = SpecialIds {
        bos: or(ids.bos, bos),
        eos: or(ids.eos, eos),
        eot: valid(ids.eot),
        eom: valid(ids.eom),
        unk: or(ids.unk, unk),
        sep: or(ids.sep, sep),
        pad: or(ids.pad, pad),
        mask: or(ids.mask, mask),
        cls: valid(ids.cls),
        fim_pre: valid(ids.fim_pre),
        fim_suf: valid(ids.fim_suf),
        fim_mid: valid(ids.fim_mid),
        fim_pad: valid(ids.fim_pad),
        fim_rep: valid(ids.fim_rep),
        fim_sep: valid(ids.fim_sep),
    };
    let ends = roles::assign(vocab, &mut special, &source.eog, roles::Named::Any);
    (special, ends)
}

fn frame(model: &Model, pre: Option<&Pre>, source: &GgufVocab, special: &SpecialIds) -> Frame {
    let force_bos = pre.is_some_and(|p| p.force_bos);
    let default_bos = model.add_bos || pre.is_some_and(|p| p.add_bos);
    let add_bos = source.add_bos.unwrap_or(default_bos) || force_bos;
    let add_eos = source.add_eos.unwrap_or(model.add_eos);
    if model.form == Form::WordPiece {
        let first = special.bos.or(special.cls);
        return Frame {
            before: first.into_iter().collect(),
            after: special.sep.filter(|_| source.add_sep.unwrap_or(true)).into_iter().collect(),
        };
    }
    Frame {
        before: special.bos.filter(|_| add_bos).into_iter().collect(),
        after: special.eos.filter(|_| add_eos).into_iter().collect(),
    }
}

/// Which tokens swallow white space next to them: nothing in GGUF says so, but these models need it.
fn strip_rule(source: &GgufVocab) -> impl Fn(&[u8]) -> (bool, bool) {
    let pre = source.pre.clone().unwrap_or_default();
    let name = source.model_name.to_lowercase();
    let left: &[u8] = if ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|p| pre.contains(p))
        || ["nomic-bert-moe", "jina-bert-v3"].iter().any(|a| source.architecture.contains(a))
    {
        b"<mask>"
    } else if name.contains("modern-bert") {
        b"[MASK]"
    } else {
        b""
    };
    let phi3 = left.is_empty() && (name.contains("phi-3") || name.contains("phi3"));
    move |token| {
        let keeps = matches!(token, b"<unk>" | b"<s>" | b"<|endoftext|>");
        (!left.is_empty() && token == left, phi3 && !keeps)
    }
}

fn engine(
    model: &Model,
    pre: Option<&Pre>,
    source: &GgufVocab,
    vocab: &Vocab,
    special: &SpecialIds,
) -> Result<Engine, TokenError> {
    let space_prefix = source.add_space_prefix.unwrap_or(model.add_space_prefix);
    match (model.form, pre) {
        (Form::Bpe, Some(pre)) => pattern_bpe(model, pre, source, vocab, special),
        (Form::Spm, _) => {
            let mut normalizer = Normalizer::new(&[])?;
            normalizer.add_space_prefix = space_prefix;
            build::spm(vocab, &source.scores, normalizer, special.unk).map(Engine::Spm)
        }
        (Form::Unigram, _) => {
            let mut normalizer = Normalizer::new(&source.precompiled_charsmap)?;
            normalizer.add_space_prefix = space_prefix;
            normalizer.merge_spaces = source.remove_extra_whitespaces.unwrap_or(false);
            let unknown = special.unk.unwrap_or(0);
            let unigram =
                Unigram::new(vocab, &source.scores, normalizer, Unknown { id: unknown, bytes: Vec::new() }, |_| 0.0)?;
            Ok(Engine::Unigram(unigram))
        }
        (Form::WordPiece, _) => {
            let lower = source.lowercase.unwrap_or(true);
            let strip = source.strip_accents.unwrap_or(lower);
            let unknown = special.unk.unwrap_or(0);
            Ok(Engine::WordPiece(WordPiece::new(vocab, unknown, lower, strip)?))
        }
        (Form::Rwkv, _) => {
            let tokens: Vec<Vec<u8>> = source.tokens.iter().map(|t| rwkv::unescape(t)).collect();
            Ok(Engine::Rwkv(Rwkv::new(&tokens, special.unk)?))
        }
        (Form::Plamo2, _) => {
            let bytes = build::byte_tokens(vocab);
            let bytes: Option<Vec<u32>> = bytes.into_iter().collect();
            let bytes = bytes.ok_or(TokenError::Missing {
                file: FILE,
                field: "tokens",
                help: "PLaMo 2 needs a byte token `<0x00>` to `<0xFF>` for each byte",
            })?;
            Ok(Engine::Plamo2(Plamo2::new(vocab, &source.scores, bytes)?))
        }
        (Form::Bpe | Form::Ids, _) => {
            Err(TokenError::Missing { file: FILE, field: "tokens", help: "this tokenizer kind has no engine" })
        }
    }
}

fn pattern_bpe(
    model: &Model,
    pre: &Pre,
    source: &GgufVocab,
    vocab: &Vocab,
    special: &SpecialIds,
) -> Result<Engine, TokenError> {
    let decode = |text: &[u8]| -> Option<Vec<u8>> {
        if !pre.byte_level {
            return Some(text.to_vec());
        }
        byte_level::decode(std::str::from_utf8(text).ok()?)
    };
    let mut symbols = Symbols::new(vocab.len());
    for (id, name, kind) in vocab.iter() {
        if kind.is_text()
            && let Some(text) = decode(name)
        {
            symbols.token(&text, id);
        }
    }
    let unit = if pre.byte_level { Unit::Byte } else { Unit::Char };
    let merges = if source.merges.is_empty() && pre.names.contains(&"kimi-k2") {
        // Kimi's files come from tiktoken: a token's id is its rank.
        symbols.merges_of_vocab(unit, |id| id)?
    } else if source.merges.is_empty() {
        let help = "a `gpt2` vocabulary needs its merges: convert the model again";
        return Err(TokenError::Missing { file: FILE, field: "merges", help });
    } else {
        let pairs = source.merges.iter().map(|line| {
            let (left, right) = build::merge_pair(line);
            (decode(left).unwrap_or_default(), decode(right).unwrap_or_default())
        });
        symbols.merges_of_list(pairs)?
    };
    let bytes = match unit {
        Unit::Byte => (0..=255_u8).map(|b| symbols.get(&[b]).filter(|&id| (id as usize) < vocab.len())).collect(),
        Unit::Char => build::byte_tokens(vocab),
    };
    let fallback = Fallback { bytes, unknown: special.unk.filter(|_| unit == Unit::Char) };
    let bpe = Bpe::new(symbols, merges, (unit, vocab.len()), fallback, pre.whole_words);
    let sticky = if pre.escape_spaces { bpe.sticky_chars() } else { Vec::new() };
    let white_space = model.name == "whitespace";
    Ok(Engine::Bpe(PatternBpe {
        escape_spaces: pre.escape_spaces,
        whole_newlines: pre.whole_newlines,
        sticky,
        lowercase: white_space && source.lowercase.unwrap_or(false),
        drop_white_space: white_space,
        ..PatternBpe::new(bpe, Splitter::new(pre.rules)?)
    }))
}

fn ids_only(source: &GgufVocab) -> Result<Tokenizer, TokenError> {
    let n = source.vocab_size.map_or(source.tokens.len(), |n| n as usize).max(source.tokens.len());
    limits::check("tokens of the vocabulary", n, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
    if n == 0 {
        let help = "a model without texts still needs a vocabulary size (`<arch>.vocab_size`)";
        return Err(TokenError::Missing { file: FILE, field: "tokens", help });
    }
    let valid = |id: Option<u32>| id.filter(|&id| (id as usize) < n);
    let special = SpecialIds {
        bos: valid(source.ids.bos),
        eos: valid(source.ids.eos),
        unk: valid(source.ids.unk),
        pad: valid(source.ids.pad),
        ..SpecialIds::default()
    };
    let mut vocab = Vocab::default();
    for id in 0..n {
        let text = format!("<{id}>");
        vocab.push(text.as_bytes(), text.as_bytes(), Kind::Normal)?;
    }
    let frame = Frame {
        before: special.bos.filter(|_| source.add_bos.unwrap_or(false)).into_iter().collect(),
        after: special.eos.filter(|_| source.add_eos.unwrap_or(false)).into_iter().collect(),
    };
    let ends = special.eos.into_iter().collect();
    let added = Added::new(&vocab, |_, _| Some((false, false)))?;
    let decoding = Decoding { strip_first_space: false, clean_spaces: false };
    let engine = Engine::Ids(Ids::new(n));
    Ok(Tokenizer::new(build::Parts { vocab, added, engine, special, ends, frame, decoding }))
}
