//! Merges of vocabularies that do not list them.

use std::collections::HashMap;

/// Merges of ranked tokens (tiktoken): what each token's bytes were before their last merge, best rank first. Tokens of
/// one byte, and those that lower ranks do not build, have none.
pub fn of_ranks<'t>(tokens: &[(u32, &'t [u8])]) -> Vec<(&'t [u8], &'t [u8])> {
    let ranks: HashMap<&[u8], u32> = tokens.iter().map(|(rank, bytes)| (*bytes, *rank)).collect();
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable_by_key(|(rank, _)| *rank);
    sorted.iter().filter_map(|(rank, bytes)| last_merge(bytes, *rank, &ranks)).collect()
}

/// Merges bytes below `limit` as long as there are; the two parts that are left, if they are two.
fn last_merge<'t>(bytes: &'t [u8], limit: u32, ranks: &HashMap<&[u8], u32>) -> Option<(&'t [u8], &'t [u8])> {
    let mut ends: Vec<usize> = (0..=bytes.len()).collect();
    loop {
        let pairs = ends.windows(3).enumerate();
        let ranked = pairs.filter_map(|(i, w)| ranks.get(&bytes[w[0]..w[2]]).map(|rank| (*rank, i)));
        match ranked.filter(|(rank, _)| *rank < limit).min() {
            Some((_, i)) => {
                ends.remove(i + 1);
            }
            None => break,
        }
    }
    let [_, middle, _] = ends.as_slice() else { return None };
    Some(bytes.split_at(*middle))
}

/// Merges of scored pieces (SentencePiece): every pair of pieces that make a piece, best score first.
pub fn of_scores<'t>(tokens: &[(&'t str, f32)]) -> Vec<(&'t str, &'t str)> {
    let known: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, (text, _))| (*text, i)).collect();
    let mut found = Vec::new();
    for (id, (text, score)) in tokens.iter().enumerate() {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(l), Some(r)) = (known.get(left), known.get(right)) {
                found.push(((*score, id), (left, right), [*l, *r]));
            }
        }
    }
    // As transformers' SentencePieceExtractor: by score, then by the parts' ids.
    found
        .sort_by(|(a, _, a_parts), (b, _, b_parts)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a_parts.cmp(b_parts)));
    found.into_iter().map(|(_, pair, _)| pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_scores_give_their_merges() {
        let tokens: Vec<(u32, &[u8])> = vec![(0, b"a"), (1, b"b"), (2, b"ab"), (3, b"abab"), (4, b"xyz")];
        assert_eq!(of_ranks(&tokens), [(&b"a"[..], &b"b"[..]), (b"ab", b"ab")]);
        let tokens = [("a", -3.0), ("b", -4.0), ("ab", -1.0), ("aab", -0.5)];
        assert_eq!(of_scores(&tokens), [("a", "ab"), ("a", "b")]);
    }
}
