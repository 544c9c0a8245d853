//! SentencePiece's normalizer: a map of character sequences, and what becomes of spaces.
//!
//! ```text
//! precompiled_charsmap   u32 n | n bytes: double array of u32 units | replacement texts, each ends in 0
//! unit                   bit 31 + low 31 bits: value (offset of a replacement)   bit 8: has a value
//!                        bits 10..31: offset to the children, << 8 if bit 9      bits 0..8 + 31: label
//! ```
//! Source: SentencePiece `src/normalizer.cc`; the array is Darts-clone's (`darts.h`).

use super::error::TokenError;

/// Normalizes text before SentencePiece's models see it.
#[derive(Debug, Clone, Default)]
pub(super) struct Normalizer {
    charsmap: Charsmap,
    /// A space goes before the text.
    pub add_space_prefix: bool,
    /// The space goes after the text instead.
    pub space_as_suffix: bool,
    /// Runs of spaces become one; those at the ends go.
    pub merge_spaces: bool,
    /// Spaces stay spaces instead of becoming `▁`.
    pub keep_spaces: bool,
}

impl Normalizer {
    /// `charsmap` may be empty: then characters stay as they are.
    ///
    /// # Errors
    /// A damaged map.
    pub fn new(charsmap: &[u8]) -> Result<Normalizer, TokenError> {
        Ok(Normalizer { charsmap: Charsmap::new(charsmap)?, ..Normalizer::default() })
    }

    /// The text as the model sees it.
    pub fn normalize(&self, text: &str) -> String {
        let space = if self.keep_spaces { ' ' } else { '▁' };
        let mut out = String::with_capacity(text.len() + text.len() / 2 + 4);
        let prefix = self.add_space_prefix && !self.space_as_suffix;
        if !self.merge_spaces {
            if prefix {
                out.push(space);
            }
            self.charsmap.apply(text, &mut |c| out.push(if c == ' ' { space } else { c }));
        } else {
            // A word brings the space before it along, so that the ends of the text have none.
            let mut pending = prefix;
            self.charsmap.apply(text, &mut |c| {
                if c == ' ' {
                    pending |= !out.is_empty();
                    return;
                }
                if pending {
                    out.push(space);
                }
                pending = false;
                out.push(c);
            });
        }
        if self.add_space_prefix && self.space_as_suffix && !out.is_empty() {
            out.push(space);
        }
        out
    }
}

/// Longest match of character sequences, each with a replacement.
#[derive(Debug, Clone, Default)]
struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    fn new(bytes: &[u8]) -> Result<Charsmap, TokenError> {
        if bytes.is_empty() {
            return Ok(Charsmap::default());
        }
        let bad = |at: &str, found: String| {
            TokenError::malformed(
                "precompiled_charsmap",
                at,
                found,
                "the normalizer map is damaged: get the file again",
            )
        };
        let Some((head, rest)) = bytes.split_at_checked(4) else {
            return Err(bad("length", format!("{} bytes, expected at least 4", bytes.len())));
        };
        let n = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((array, texts)) = rest.split_at_checked(n) else {
            return Err(bad("array", format!("{n} bytes promised, {} present", rest.len())));
        };
        if !n.is_multiple_of(4) {
            return Err(bad("array", format!("{n} bytes, expected a multiple of 4")));
        }
        let units = array.chunks_exact(4).map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]])).collect();
        let replacements = std::str::from_utf8(texts)
            .map_err(|e| bad("replacements", format!("no UTF-8 at byte {}", e.valid_up_to())))?;
        Ok(Charsmap { units, replacements: replacements.to_string() })
    }

    fn apply(&self, text: &str, each: &mut impl FnMut(char)) {
        if self.units.is_empty() {
            text.chars().for_each(each);
            return;
        }
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            match self.longest(rest) {
                Some((len, replacement)) if rest.is_char_boundary(len) => {
                    replacement.chars().for_each(&mut *each);
                    rest = &rest[len..];
                }
                _ => {
                    each(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
    }

    /// The longest key that starts `text`, as its length and its replacement. Work is bounded by the
    /// longest key: damaged arrays end the walk at their border.
    fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let mut node = offset(*self.units.first()?);
        let mut best = None;
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            if byte == 0 {
                break;
            }
            node ^= byte as usize;
            let unit = *self.units.get(node)?;
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = self.units.get(node).map(|u| (u & 0x7fff_ffff) as usize);
                let text = value.and_then(|v| self.replacements.get(v..)).unwrap_or_default();
                best = Some((i + 1, text.split('\0').next().unwrap_or_default()));
            }
        }
        best
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::*;

    #[test]
    fn spaces_follow_the_flags() {
        let check = |prefix, merge, suffix, text: &str, want: &str| {
            let n = Normalizer {
                add_space_prefix: prefix,
                merge_spaces: merge,
                space_as_suffix: suffix,
                ..Normalizer::default()
            };
            assert_eq!(n.normalize(text), want, "{text:?}");
        };
        check(true, false, false, " a  b ", "▁▁a▁▁b▁");
        check(true, true, false, " a  b ", "▁a▁b");
        check(false, true, false, " a  b ", "a▁b");
        check(true, true, true, " a  b ", "a▁b▁");
        check(true, true, false, "   ", "");
        check(false, false, false, "", "");
    }

    #[test]
    fn damaged_maps_are_errors_and_loops_end() {
        for bytes in [&[1_u8, 0][..], &[8, 0, 0, 0, 1], &[3, 0, 0, 0, 1, 2, 3], &[0, 0, 0, 0, 0xff]] {
            assert!(Normalizer::new(bytes).is_err(), "{bytes:?}");
        }
        let all_ones = [&[16, 0, 0, 0][..], &[0xff; 16], b"x\0"].concat();
        assert_eq!(Normalizer::new(&all_ones).unwrap().normalize("abc"), "abc");
    }
}
