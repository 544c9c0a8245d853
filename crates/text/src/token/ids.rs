//! A vocabulary without texts: random-weight test models.
//!
//! Ids print as `<id>` and are read back from that. Other text gives one id for every five bytes, a
//! function of those bytes, so that any prompt runs (llama.cpp's `test` vocabulary does the same).

/// Bytes of text for one id.
const CHUNK_BYTES: usize = 5;

/// The engine.
#[derive(Debug)]
pub(super) struct Ids {
    n_vocab: u64,
}

impl Ids {
    /// `n_vocab` is at least 1.
    pub fn new(n_vocab: usize) -> Ids {
        Ids { n_vocab: n_vocab.max(1) as u64 }
    }

    /// Appends the ids of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let (mut start, mut at) = (0, 0);
        while let Some(found) = text[at..].find('<') {
            let open = at + found;
            at = open + 1;
            if let Some((id, len)) = self.written(&text.as_bytes()[open..]) {
                self.hash(&text[start..open], out);
                out.push(id);
                (start, at) = (open + len, open + len);
            }
        }
        self.hash(&text[start..], out);
    }

    /// An id written as `<id>` at the start of `text`, and how long that is.
    fn written(&self, text: &[u8]) -> Option<(u32, usize)> {
        let close = text.iter().take(12).position(|&b| b == b'>')?;
        let digits = std::str::from_utf8(text.get(1..close)?).ok()?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let id: u32 = digits.parse().ok()?;
        (u64::from(id) < self.n_vocab).then_some((id, close + 1))
    }

    fn hash(&self, text: &str, out: &mut Vec<u32>) {
        for chunk in text.as_bytes().chunks(CHUNK_BYTES) {
            let hash = chunk.iter().fold(0_u64, |h, &b| h * 31 + u64::from(b));
            out.push((hash % self.n_vocab) as u32);
        }
    }
}
