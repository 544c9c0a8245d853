//! The pre-tokenizer of each `tokenizer.ggml.pre` name.
//!
//! Names and patterns are facts of the models' own `tokenizer.json` files and of llama.cpp's
//! `llama-vocab.cpp`. Where llama.cpp only approximates a model's pattern (its engine knows neither
//! `(?i:`, nor upper and lower case beyond ASCII, nor possessive quantifiers), the model's own stands.

use super::split::Rule::{self, Split, ThreesFromEnd};

/// One pre-tokenizer and the defaults that come with its name.
#[derive(Debug, Clone, Copy)]
pub struct Pre {
    /// Values of `tokenizer.ggml.pre`.
    pub names: &'static [&'static str],
    /// How words are cut.
    pub rules: &'static [Rule],
    /// A word that is a token is that token, whatever the merges say.
    pub whole_words: bool,
    /// `add_bos_token` where the file does not say.
    pub add_bos: bool,
    /// `decode_clean` takes spaces before punctuation away.
    pub clean_spaces: bool,
    /// Tokens are written in GPT-2's byte characters; otherwise in UTF-8 with `▁` for a space.
    pub byte_level: bool,
    /// Spaces become `▁` before merging.
    pub escape_spaces: bool,
    /// A run of line feeds that is a token is that token.
    pub whole_newlines: bool,
    /// There is no begin token where the file names none.
    pub no_bos: bool,
    /// The begin token is added even if the file says no.
    pub force_bos: bool,
}

/// The row that others inherit from.
const BASE: Pre = Pre {
    names: &[],
    rules: GPT2,
    whole_words: false,
    add_bos: false,
    clean_spaces: true,
    byte_level: true,
    escape_spaces: false,
    whole_newlines: false,
    no_bos: false,
    force_bos: false,
};

const GPT2_WORDS: Rule = Split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)");
const GPT2: &[Rule] = &[GPT2_WORDS];
const DIGITS_GPT2: &[Rule] = &[Split(r"\p{N}"), GPT2_WORDS];
const DEFAULT: &[Rule] = &[Split(r"[\p{P}\$\+<=>\^~\|]+"), GPT2_WORDS, Split(r"\p{N}+"), Split("[0-9][0-9][0-9]")];
const FALCON: &[Rule] = &[Split(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2_WORDS, Split("[0-9][0-9][0-9]")];
const LLAMA3: &[Rule] = &[Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];
const JAIS2: &[Rule] = &[Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
)];
const QWEN2_WORDS: Rule = Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN2: &[Rule] = &[QWEN2_WORDS];
const LAGUNA: &[Rule] = &[NEWLINES_WORDS, QWEN2_WORDS];
const QWEN35: &[Rule] = &[Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];
const UFAKZEKA: &[Rule] =
    &[Split(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")];
const MINICPM5: &[Rule] = &[
    Split(r"\p{N}{1,3}"),
    Split(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];
const SEED_CODER: &[Rule] = &[Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
)];
const BAILING: &[Rule] =
    &[Split(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")];
const EXAONE_MOE: &[Rule] = &[Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
)];
const DEEPSEEK_LLM: &[Rule] = &[
    Split("[\r\n]"),
    Split(
        r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+",
    ),
    Split(r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+"),
    Split(r"\s+$"),
    Split(r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+"),
    Split(r"\p{N}+"),
];
const DEEPSEEK_CODER: &[Rule] = &[
    Split("[\r\n]"),
    Split(r"\s?\p{L}+"),
    Split(r"\s?\p{P}+"),
    Split(r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+"),
    Split(r"\p{N}"),
];
const DEEPSEEK3_WORDS: Rule = Split(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
);
const DEEPSEEK3: &[Rule] =
    &[Split(r"\p{N}{1,3}"), Split(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"), DEEPSEEK3_WORDS];
const SPARK: &[Rule] = &[
    Split(r"\p{N}{1,3}"),
    Split(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"),
    Split(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##,
    ),
    Split(r"\p{N}"),
];
const AFMOE: &[Rule] = &[
    ThreesFromEnd(r"\p{N}+"),
    Split(
        r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{8C48}-\u{FAFF}\u{3040}-\u{309F}\u{30A0}-\u{30FF}\u{FF65}-\u{FF9F}\u{2F00}-\u{2FDF}\u{E40}-\u{E7F}\u{E80}-\u{EFF}\u{1780}-\u{17FF}\u{1000}-\u{109F}\u{AA60}-\u{AA7F}\u{A9E0}-\u{A9FF}\u{AC00}-\u{D7AF}\u{1100}-\u{11FF}]+",
    ),
    DEEPSEEK3_WORDS,
];
const YOUTU: &[Rule] = &[
    Split(
        r"[\u{AC00}-\u{D7A3}\u{3131}-\u{318E}]+|[\u{FF01}\u{2026}\u{201C}\u{201D}\u{2018}\u{2019}\u{2014}\u{FF1A}\u{FF1B}\u{FF0C}\u{3001}-\u{303F}\u{FE30}-\u{FE4F}]+|[\u{3105}-\u{312F}]+|[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+",
    ),
    Split(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];
const TEKKEN: &[Rule] = &[Split(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];
const GPT4O_WORDS: Rule = Split(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT4O: &[Rule] = &[GPT4O_WORDS];
const TINY_AYA: &[Rule] = &[ThreesFromEnd(r"\d+\b"), GPT4O_WORDS];
const SUPERBPE: &[Rule] = &[ThreesFromEnd(r"\p{N}+")];
const KIMI_K2: &[Rule] = &[Split(
    r"\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];
const BLOOM_WORDS: Rule = Split(r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+");
const BLOOM: &[Rule] = &[BLOOM_WORDS];
const VIKING: &[Rule] = &[BLOOM_WORDS, Split(r"\p{N}")];
const CHAMELEON: &[Rule] = &[
    Split("<sentinel:[0-9]+>"),
    Split("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
    Split(r"([\t\n]|    |  )"),
    Split(r"\p{N}"),
    Split(r"[\p{P}!-/:-@\[-`{-~]"),
    GPT2_WORDS,
];
const NEWLINES_WORDS: Rule = Split(r"[^\n]+|[\n]+");
const NEWLINES: &[Rule] = &[NEWLINES_WORDS];
const WHITESPACE: &[Rule] = &[Split(r"\S+")];

/// As `BASE`, and `decode_clean` leaves spaces alone.
const EXACT: Pre = Pre { clean_spaces: false, ..BASE };
/// SentencePiece's manner in a BPE file: UTF-8 and `▁`, no words but lines.
const LINES: Pre = Pre { rules: NEWLINES, byte_level: false, escape_spaces: true, ..BASE };

/// Every known name.
const TABLE: &[Pre] = &[
    Pre { names: &["default", ""], rules: DEFAULT, ..BASE },
    Pre {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        rules: LLAMA3,
        whole_words: true,
        add_bos: true,
        ..BASE
    },
    Pre { names: &["minicpm5"], rules: MINICPM5, whole_words: true, ..BASE },
    Pre { names: &["deepseek-llm"], rules: DEEPSEEK_LLM, ..EXACT },
    Pre { names: &["deepseek-coder"], rules: DEEPSEEK_CODER, ..EXACT },
    Pre { names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], rules: DEEPSEEK3, ..EXACT },
    Pre { names: &["spark2_5"], rules: SPARK, ..EXACT },
    Pre { names: &["youtu"], rules: YOUTU, whole_words: true, ..EXACT },
    Pre { names: &["falcon"], rules: FALCON, ..BASE },
    Pre { names: &["starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"], rules: DIGITS_GPT2, ..BASE },
    Pre { names: &["command-r", "smollm"], rules: DIGITS_GPT2, ..EXACT },
    Pre {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
        rules: GPT2,
        ..BASE
    },
    Pre { names: &["trillion", "granite-docling"], rules: GPT2, ..EXACT },
    Pre { names: &["jais-2"], rules: JAIS2, ..BASE },
    Pre { names: &["gemma4", "granite-embed-multi-311m"], whole_newlines: true, force_bos: true, ..LINES },
    Pre { names: &["sarvam-moe"], clean_spaces: false, ..LINES },
    Pre { names: &["whitespace"], rules: WHITESPACE, byte_level: false, ..BASE },
    Pre { names: &["stablelm2"], rules: QWEN2, ..BASE },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2"],
        rules: QWEN2,
        ..EXACT
    },
    Pre { names: &["megrez"], rules: QWEN2, ..BASE },
    Pre { names: &["qwen35"], rules: QWEN35, ..EXACT },
    Pre { names: &["dbrx", "smaug-bpe"], rules: LLAMA3, ..BASE },
    Pre { names: &["chatglm-bpe"], rules: LLAMA3, no_bos: true, ..BASE },
    Pre { names: &["glm4", "glm5"], rules: LLAMA3, no_bos: true, whole_words: true, ..BASE },
    Pre { names: &["poro-chat"], rules: BLOOM, ..EXACT },
    Pre { names: &["bloom", "gpt3-finnish"], rules: BLOOM, ..BASE },
    Pre { names: &["viking"], rules: VIKING, ..EXACT },
    Pre { names: &["tekken"], rules: TEKKEN, whole_words: true, add_bos: true, ..EXACT },
    Pre { names: &["chameleon"], rules: CHAMELEON, add_bos: true, ..EXACT },
    Pre { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], rules: GPT4O, ..EXACT },
    Pre { names: &["granite-embed-multi-97m"], rules: GPT4O, whole_words: true, ..EXACT },
    Pre { names: &["tiny_aya", "cohere2moe"], rules: TINY_AYA, ..EXACT },
    Pre { names: &["kimi-k2"], rules: KIMI_K2, ..EXACT },
    Pre { names: &["superbpe"], rules: SUPERBPE, ..EXACT },
    Pre { names: &["bailingmoe", "bailingmoe2", "llada-moe"], rules: BAILING, ..EXACT },
    Pre { names: &["seed-coder"], rules: SEED_CODER, ..EXACT },
    Pre { names: &["ufakzeka"], rules: UFAKZEKA, ..EXACT },
    Pre { names: &["afmoe"], rules: AFMOE, ..EXACT },
    Pre { names: &["laguna"], rules: LAGUNA, ..EXACT },
    Pre { names: &["exaone-moe"], rules: EXAONE_MOE, ..BASE },
];

/// The row of a name.
pub fn find(name: &str) -> Option<&'static Pre> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

/// Every row.
pub fn rows() -> impl Iterator<Item = &'static Pre> {
    TABLE.iter()
}

/// Every known name, for messages and documentation.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|row| row.names).copied().filter(|n| !n.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::super::Splitter;

    #[test]
    fn every_row_compiles_and_its_pieces_are_the_text() {
        let text =
            "Hello, WORLD's 12345678 été\n\n  \t漢字かな가나다 ＡＢ <sentinel:12> IMGIMGABZ “q” ١٢٣٤ e\u{301}x  ";
        for row in super::TABLE {
            let splitter = Splitter::new(row.rules).unwrap_or_else(|e| panic!("{:?}: {e}", row.names));
            let mut joined = String::new();
            let mut n = 0;
            splitter
                .split(text, &mut |piece| {
                    assert!(!piece.is_empty(), "{:?}", row.names);
                    joined += piece;
                    n += 1;
                    Ok(())
                })
                .unwrap();
            assert_eq!(joined, text, "{:?}", row.names);
            assert!(n > 1, "{:?}", row.names);
        }
    }

    #[test]
    fn names_are_unique_and_cover_llama_cpp() {
        let mut names: Vec<_> = super::names().collect();
        assert!(names.len() >= 87, "{}", names.len());
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}
