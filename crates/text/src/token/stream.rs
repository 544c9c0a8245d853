//! Ids to text while they come: never half a character.

use super::tokenizer::Tokenizer;
use std::sync::Arc;

/// Turns a sequence of ids into text, piece by piece. What all pieces and the flush give together is
/// what [`Tokenizer::decode`] gives for all ids.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// No token has printed yet, so that a space which encoding put there is to be taken away.
    first: bool,
    /// Bytes that may become a character.
    pending: Vec<u8>,
    text: String,
}

impl Detokenizer {
    /// For the ids of a text from its beginning.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Detokenizer {
        Detokenizer { tokenizer, skip_special, first: true, pending: Vec::new(), text: String::new() }
    }

    /// For ids that go on after other text: their first space is kept.
    pub fn continuing(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Detokenizer {
        Detokenizer { first: false, ..Detokenizer::new(tokenizer, skip_special) }
    }

    /// The text that `id` completes; often one word, empty while a character is incomplete.
    ///
    /// Bytes that can no longer become UTF-8 give U+FFFD at once.
    pub fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        if self.skip_special && self.tokenizer.is_special(id) {
            return &self.text;
        }
        let bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        self.pending.extend_from_slice(self.tokenizer.without_first_space(bytes, self.first));
        self.first = false;
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            self.text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let end = done + chunk.valid().len() + invalid.len();
            if !invalid.is_empty() {
                if end == self.pending.len() && may_complete(invalid) {
                    done = end - invalid.len();
                    break;
                }
                self.text.push(char::REPLACEMENT_CHARACTER);
            }
            done = end;
        }
        self.pending.drain(..done);
        &self.text
    }

    /// What is left when no more ids come: an incomplete character becomes U+FFFD.
    pub fn flush(&mut self) -> &str {
        self.text.clear();
        self.text.push_str(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
        &self.text
    }
}

/// Whether more bytes can make these, which are the longest broken end of a text, a character.
fn may_complete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}
