//! What a tokenizer is made from: the contents of the files, already read.
//!
//! This crate opens no file. The caller (which knows GGUF, safetensors folders and the registry)
//! passes bytes, JSON values and metadata arrays.

use serde_json::Value;

use super::vocab::SpecialIds;

/// One tokenizer, in one of the forms that models ship.
#[derive(Debug)]
pub enum Source {
    /// `tokenizer.json` of the Hugging Face `tokenizers` library.
    HuggingFace {
        /// The bytes of `tokenizer.json`.
        tokenizer_json: Vec<u8>,
        /// `tokenizer_config.json` and friends.
        config: Config,
    },
    /// `tokenizer.model` of SentencePiece (a protobuf; unigram or BPE).
    SentencePiece {
        /// The bytes of `tokenizer.model`.
        model: Vec<u8>,
        /// `tokenizer_config.json` and friends.
        config: Config,
    },
    /// A tiktoken rank file: a line each of base64 bytes and rank.
    Tiktoken {
        /// The bytes of the rank file (`*.tiktoken`, `tiktoken.model`, `qwen.tiktoken`).
        ranks: Vec<u8>,
        /// The split pattern: a regular expression, or a name of [`super::pre_tokenizer_names`] such as
        /// `llama-bpe`, `gpt-4o` or `kimi-k2`.
        pattern: String,
        /// Special tokens and their ids; those of `config.tokenizer_config.added_tokens_decoder` are added.
        special: Vec<(String, u32)>,
        /// `tokenizer_config.json` and friends.
        config: Config,
    },
    /// `tekken.json` of Mistral.
    Tekken {
        /// The bytes of `tekken.json`.
        json: Vec<u8>,
    },
    /// GPT-2's pair `vocab.json` and `merges.txt`.
    Bpe {
        /// The bytes of `vocab.json`: token text to id.
        vocab_json: Vec<u8>,
        /// The bytes of `merges.txt`: one pair a line, best first.
        merges_txt: Vec<u8>,
        /// The name of the pre-tokenizer as in GGUF's `tokenizer.ggml.pre`; `gpt-2` if in doubt.
        pre: String,
        /// `tokenizer_config.json` and friends.
        config: Config,
    },
    /// The `tokenizer.ggml.*` metadata of a GGUF file.
    Gguf(GgufVocab),
}

/// The JSON files that lie beside a tokenizer in a Hugging Face folder. All optional.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Value>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<Value>,
    /// `added_tokens.json`: text to id.
    pub added_tokens: Option<Value>,
    /// `generation_config.json`: its `eos_token_id` joins the end-of-generation set.
    pub generation_config: Option<Value>,
    /// `config.json`: its `bos_token_id`, `eos_token_id` are used where nothing else says.
    pub model_config: Option<Value>,
}

/// The `tokenizer.ggml.*` keys of a GGUF file, without the prefix. Absent keys stay `None` or empty.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `model`: `llama`, `gpt2`, `bert`, `t5`, `rwkv`, `gemma4`, `plamo2`, `none`, `no_vocab`, `test`.
    pub model: String,
    /// `pre`: the pre-tokenizer of `gpt2` models.
    pub pre: Option<String>,
    /// `tokens`: the texts, index = id. Not always UTF-8 in the wild.
    pub tokens: Vec<Vec<u8>>,
    /// `scores`, `[tokens]` or empty. (i32 arrays are to be converted.)
    pub scores: Vec<f32>,
    /// `token_type`, `[tokens]` or empty: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// `merges`: `left right`, best first.
    pub merges: Vec<Vec<u8>>,
    /// `precompiled_charsmap`: SentencePiece's normalizer.
    pub precompiled_charsmap: Vec<u8>,
    /// The `*_token_id` keys; `unk`, `sep` and `pad` are spelled `unknown`, `seperator` and `padding` there.
    pub ids: SpecialIds,
    /// `eog_token_ids` where a file lists more ends of generation.
    pub eog: Vec<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_sep_token`.
    pub add_sep: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`.
    pub remove_extra_whitespaces: Option<bool>,
    /// `normalizer.lowercase` (WordPiece).
    pub lowercase: Option<bool>,
    /// `normalizer.strip_accents` (WordPiece).
    pub strip_accents: Option<bool>,
    /// `general.name`, or empty: Phi-3's special tokens swallow the space after them.
    pub model_name: String,
    /// `general.architecture`, or empty: `<mask>` of two encoders swallows the space before it.
    pub architecture: String,
    /// Size of the vocabulary where there are no tokens (`<arch>.vocab_size` or the embedding's rows).
    pub vocab_size: Option<u32>,
}
