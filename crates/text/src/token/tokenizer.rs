//! The tokenizer that the rest of the program sees.

use super::added::{Added, Part};
use super::build::{Frame, Parts};
use super::clean;
use super::error::TokenError;
use super::hf::Hf;
use super::hf_native::HfNative;
use super::ids::Ids;
use super::limits;
use super::merge::Scratch;
use super::plamo2::Plamo2;
use super::rwkv::Rwkv;
use super::source::Source;
use super::spm::{PatternBpe, Spm};
use super::unigram::Unigram;
use super::vocab::{Kind, SpecialIds, Vocab};
use super::wordpiece::WordPiece;

/// How a text becomes ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encode {
    /// Put the model's begin (and end) tokens around the text.
    pub add_special: bool,
    /// Read control tokens such as `<|im_start|>` where the text spells them. Off for a user's own words.
    pub parse_special: bool,
}

impl Encode {
    /// A user's words: nothing added, nothing parsed.
    pub const PLAIN: Encode = Encode { add_special: false, parse_special: false };
    /// A rendered chat template: it spells its special tokens itself.
    pub const TEMPLATE: Encode = Encode { add_special: false, parse_special: true };
    /// A prompt to continue.
    pub const PROMPT: Encode = Encode { add_special: true, parse_special: true };
}

/// Strings to token ids and back. Built once per model and shared: every method takes `&self`.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    added: Added,
    engine: Engine,
    special: SpecialIds,
    ends: Vec<u32>,
    frame: Frame,
    decoding: Decoding,
}

/// The kinds of tokenizers.
#[derive(Debug)]
pub(super) enum Engine {
    Bpe(PatternBpe),
    Spm(Spm),
    Unigram(Unigram),
    WordPiece(WordPiece),
    Rwkv(Rwkv),
    Plamo2(Plamo2),
    Ids(Ids),
    Hf(Box<Hf>),
    HfNative(Box<HfNative>),
}

impl Engine {
    /// Appends the ids of a part of a text that holds no added token.
    fn encode(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<(), TokenError> {
        match self {
            Engine::Bpe(bpe) => bpe.encode(text, scratch, out)?,
            Engine::Spm(spm) => spm.encode(text, scratch, out),
            Engine::Unigram(unigram) => unigram.encode(text, out),
            Engine::WordPiece(words) => words.encode(text, out),
            Engine::Rwkv(rwkv) => rwkv.encode(text, out),
            Engine::Plamo2(plamo) => plamo.encode(text, out),
            Engine::Ids(ids) => ids.encode(text, out),
            Engine::Hf(hf) => hf.encode(text, false, out)?,
            Engine::HfNative(native) => native.encode(text, false, scratch, out)?,
        }
        Ok(())
    }
}

/// What decoding does beyond joining the tokens' bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Decoding {
    /// Encoding put a space before the text: decoding takes it away.
    pub strip_first_space: bool,
    /// The model's tokenizer is said to leave spaces before punctuation.
    pub clean_spaces: bool,
}

impl Tokenizer {
    /// Builds a tokenizer from the contents of a model's files.
    ///
    /// # Errors
    /// A malformed or unsupported file; the message names the field and what was found.
    pub fn from_source(source: Source) -> Result<Tokenizer, TokenError> {
        match source {
            Source::Gguf(vocab) => super::gguf::tokenizer(vocab, &[]),
            Source::HuggingFace { tokenizer_json, config } => super::hf::tokenizer(&tokenizer_json, &config),
            Source::SentencePiece { model, config } => super::sentencepiece::tokenizer(&model, &config),
            Source::Tiktoken { ranks, pattern, special, config } => {
                super::tiktoken::tokenizer(&ranks, &pattern, special, &config)
            }
            Source::Tekken { json } => super::tekken::tokenizer(&json),
            Source::Bpe { vocab_json, merges_txt, pre, config } => {
                super::gpt2::tokenizer(&vocab_json, &merges_txt, &pre, &config)
            }
        }
    }

    pub(super) fn new(parts: Parts) -> Tokenizer {
        let Parts { vocab, added, engine, special, ends, frame, decoding } = parts;
        Tokenizer { vocab, added, engine, special, ends, frame, decoding }
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// A text longer than [`limits::MAX_TEXT_BYTES`], or one on which the model's own (backtracking)
    /// split pattern gives up.
    pub fn encode(&self, text: &str, how: Encode) -> Result<Vec<u32>, TokenError> {
        limits::check("text to encode", text.len(), limits::MAX_TEXT_BYTES, "MAX_TEXT_BYTES")?;
        let mut out = Vec::with_capacity(text.len() / 3 + 4);
        if how.add_special {
            out.extend(&self.frame.before);
        }
        self.encode_text(text, how.parse_special, &mut Scratch::default(), &mut out)?;
        if how.add_special {
            out.extend(&self.frame.after);
        }
        Ok(out)
    }

    /// Pairs of symbols that encoding `text` looks at: its cost without the clock, for tests.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    #[doc(hidden)]
    pub fn merge_work(&self, text: &str) -> Result<u64, TokenError> {
        let mut scratch = Scratch::default();
        self.encode_text(text, false, &mut scratch, &mut Vec::new())?;
        Ok(scratch.work)
    }

    fn encode_text(
        &self,
        text: &str,
        parse_special: bool,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenError> {
        // These two have their own rules on added tokens.
        match &self.engine {
            Engine::Hf(hf) => return hf.encode(text, parse_special, out),
            Engine::HfNative(native) => return native.encode(text, parse_special, scratch, out),
            _ => {}
        }
        for part in self.added.cut(text, parse_special) {
            match part {
                Part::Token(id) => out.push(id),
                Part::Text(text) => self.engine.encode(text, scratch, out)?,
            }
        }
        Ok(())
    }

    /// The text of `ids`; ids outside the vocabulary give nothing. Exactly what a
    /// [`super::Detokenizer`] prints for the same ids.
    ///
    /// `skip_special` leaves control tokens out. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let bytes = self.decode_bytes(ids, skip_special);
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(broken) => String::from_utf8_lossy(broken.as_bytes()).into_owned(),
        }
    }

    /// [`Tokenizer::decode`], then spaces before punctuation taken away if the model's tokenizer asks
    /// for that (`clean_up_tokenization_spaces`). Not for code, nor where the text must come back.
    pub fn decode_clean(&self, ids: &[u32], skip_special: bool) -> String {
        let text = self.decode(ids, skip_special);
        if self.decoding.clean_spaces { clean::clean_spaces(&text) } else { text }
    }

    /// The bytes of `ids`, as [`Tokenizer::decode`] has them before it makes them UTF-8.
    pub fn decode_bytes(&self, ids: &[u32], skip_special: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut first = true;
        for &id in ids {
            if skip_special && self.is_special(id) {
                continue;
            }
            let bytes = self.token_bytes(id).unwrap_or_default();
            out.extend_from_slice(self.without_first_space(bytes, first));
            first = false;
        }
        out
    }

    /// `bytes` of a token; without its leading space if it is the first of a text and encoding put it there.
    pub(super) fn without_first_space<'b>(&self, bytes: &'b [u8], first: bool) -> &'b [u8] {
        let strip = first && self.decoding.strip_first_space;
        bytes.strip_prefix(b" ").filter(|_| strip).unwrap_or(bytes)
    }

    /// The bytes that one token adds to a text. `None` outside the vocabulary.
    ///
    /// A control token's bytes are its name. A token need not be whole characters.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocab.bytes(id)
    }

    /// The name of a token in the file, e.g. `▁the` or `Ġthe`. `None` outside the vocabulary.
    pub fn token_name(&self, id: u32) -> Option<&[u8]> {
        self.vocab.name(id)
    }

    /// What a token is for. `None` outside the vocabulary.
    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.vocab.kind(id)
    }

    /// The id of a token by its name in the file.
    pub fn token_id(&self, name: &str) -> Option<u32> {
        self.vocab.id(name.as_bytes())
    }

    /// Number of ids.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// Whether `decode` leaves this token out when it skips special tokens.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocab.kind(id).is_some_and(Kind::is_special)
    }

    /// Whether this token ends a generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// All tokens that end a generation, sorted.
    pub fn eog_ids(&self) -> &[u32] {
        &self.ends
    }

    /// The ids with a role.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.special
    }

    /// The begin token.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The end token.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// The token that ends a turn.
    pub fn eot(&self) -> Option<u32> {
        self.special.eot
    }

    /// The token that fills a batch.
    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// The infill tokens (prefix, suffix, middle), if the model has all three.
    pub fn fim(&self) -> Option<[u32; 3]> {
        Some([self.special.fim_pre?, self.special.fim_suf?, self.special.fim_mid?])
    }

    /// Puts the begin token before the tokens of a rendered conversation, if the model wants one and the template has
    /// not printed it.
    pub fn begin(&self, tokens: &mut Vec<u32>) {
        if let Some(bos) = self.bos().filter(|bos| self.add_bos() && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
    }

    /// Whether `add_special` puts the begin token (or whatever starts a text) first.
    pub fn add_bos(&self) -> bool {
        !self.frame.before.is_empty()
    }

    /// Whether `add_special` puts the end token (or whatever ends a text) last.
    pub fn add_eos(&self) -> bool {
        !self.frame.after.is_empty()
    }
}
