//! The vocabulary: what each id is called in the file, what it stands for in text, and its kind.

use super::arena::{Arena, TextMap};
use super::error::TokenError;
use super::limits;

/// What a token is for. The numbers are those of GGUF's `token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Normal = 1,
    /// Stands for text that the vocabulary cannot write.
    Unknown = 2,
    /// Structure, such as the begin of a text; never written by a user.
    Control = 3,
    /// Text that is cut out before all other splitting.
    UserDefined = 4,
    /// A hole in the vocabulary.
    Unused = 5,
    /// One byte, where text falls back to bytes.
    Byte = 6,
}

impl Kind {
    /// From GGUF's `token_type`; anything unknown is `Normal`.
    pub fn from_gguf(number: i32) -> Kind {
        match number {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }

    /// Whether merging may produce such a token from plain text.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Kind::Normal | Kind::UserDefined | Kind::Unused)
    }

    /// Whether `decode` leaves it out when asked to skip special tokens.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Kind::Unknown | Kind::Control)
    }
}

/// The ids with a role. `None` where the model has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of a text.
    pub bos: Option<u32>,
    /// End of a text.
    pub eos: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    /// End of a message that awaits a tool.
    pub eom: Option<u32>,
    /// Text outside the vocabulary.
    pub unk: Option<u32>,
    /// Separates two texts (encoders).
    pub sep: Option<u32>,
    /// Fills a batch.
    pub pad: Option<u32>,
    /// A masked position (encoders).
    pub mask: Option<u32>,
    /// Starts an encoder's input.
    pub cls: Option<u32>,
    /// Infill: the text before the hole follows.
    pub fim_pre: Option<u32>,
    /// Infill: the text after the hole follows.
    pub fim_suf: Option<u32>,
    /// Infill: the hole's text follows.
    pub fim_mid: Option<u32>,
    /// Infill: padding.
    pub fim_pad: Option<u32>,
    /// Infill: a repository's name follows.
    pub fim_rep: Option<u32>,
    /// Infill: separates files.
    pub fim_sep: Option<u32>,
}

/// Ids, their names in the file, their bytes in text and their kinds.
#[derive(Debug, Clone, Default)]
pub(super) struct Vocab {
    names: TextMap,
    by_id: Arena,
    bytes: Arena,
    kinds: Vec<Kind>,
}

impl Vocab {
    /// Appends the next id. `name` is the text in the file, `bytes` what it decodes to.
    pub fn push(&mut self, name: &[u8], bytes: &[u8], kind: Kind) -> Result<(), TokenError> {
        let id = self.kinds.len();
        limits::check("tokens of the vocabulary", id + 1, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
        for text in [name, bytes] {
            limits::check("bytes of a token", text.len(), limits::MAX_TOKEN_BYTES, "MAX_TOKEN_BYTES")?;
        }
        self.names.insert(name, id as u32);
        self.by_id.push(name);
        self.bytes.push(bytes);
        self.kinds.push(kind);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The first id of that name.
    pub fn id(&self, name: &[u8]) -> Option<u32> {
        self.names.get(name)
    }

    pub fn name(&self, id: u32) -> Option<&[u8]> {
        self.by_id.get(id)
    }

    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id)
    }

    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    pub fn set_kind(&mut self, id: u32, kind: Kind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// All ids with name, bytes and kind.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8], Kind)> {
        let kinds = self.kinds.iter().enumerate();
        kinds.filter_map(|(i, &kind)| Some((i as u32, self.by_id.get(i as u32)?, kind)))
    }
}

/// Refuses a vocabulary whose texts together are too large, before any is copied.
pub(super) fn check_total(lens: impl Iterator<Item = usize>) -> Result<(), TokenError> {
    let total = lens.fold(0usize, usize::saturating_add);
    limits::check("bytes of all tokens", total, limits::MAX_VOCAB_BYTES, "MAX_VOCAB_BYTES")
}
