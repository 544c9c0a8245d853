//! RWKV's "world" tokenizer: the longest token at each position, over bytes.
//!
//! GGUF writes the tokens with escapes: `\t`, `\n`, `\r`, `\xNN`, and a backslash before itself.
//! Source: BlinkDL's `rwkv_vocab_v20230424`, `TRIE_TOKENIZER`.

use super::error::TokenError;
use super::trie::Trie;

/// A vocabulary of byte strings.
#[derive(Debug)]
pub(super) struct Rwkv {
    trie: Trie,
    /// For a byte that starts no token; `None` drops it.
    unknown: Option<u32>,
}

impl Rwkv {
    /// `tokens`: unescaped bytes by id.
    ///
    /// # Errors
    /// A vocabulary beyond the limits.
    pub fn new(tokens: &[Vec<u8>], unknown: Option<u32>) -> Result<Rwkv, TokenError> {
        let entries = tokens.iter().enumerate().map(|(id, text)| (text.as_slice(), id as u32));
        Ok(Rwkv { trie: Trie::new(entries.collect())?, unknown })
    }

    /// Appends the ids of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let len = match self.trie.prefixes(rest).last() {
                Some((len, id)) => {
                    out.push(id);
                    len
                }
                None => {
                    out.extend(self.unknown);
                    1
                }
            };
            rest = &rest[len..];
        }
    }
}

/// The bytes that an escaped token stands for. Broken escapes stand for themselves.
pub(super) fn unescape(token: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(token.len());
    let mut rest = token;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let Some((&escaped, after)) = (if byte == b'\\' { rest.split_first() } else { None }) else {
            out.push(byte);
            continue;
        };
        rest = after;
        out.push(match escaped {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'x' => match hex(after) {
                Some(value) => {
                    rest = &after[2..];
                    value
                }
                None => b'x',
            },
            other => other,
        });
    }
    out
}

/// The value of two hexadecimal digits at the start of `text`.
pub(super) fn hex(text: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(text.get(..2)?).ok()?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::*;

    #[test]
    fn escapes_stand_for_bytes() {
        let check = |token: &str, want: &[u8]| assert_eq!(unescape(token.as_bytes()), want, "{token}");
        check(r"a\n\t\r\\", b"a\n\t\r\\");
        check(r"\xe4\xBD\x0a", b"\xe4\xbd\n");
        check(r"\x4", b"x4");
        check("\\", b"\\");
    }

    #[test]
    fn the_longest_token_wins() {
        let tokens = ["", "a", "ab", "abc", "b"].map(|t| t.as_bytes().to_vec());
        let rwkv = Rwkv::new(&tokens, Some(0)).unwrap();
        let mut out = Vec::new();
        rwkv.encode("abcab?b", &mut out);
        assert_eq!(out, [3, 2, 0, 4]);
    }
}
