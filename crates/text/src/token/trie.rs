//! A byte trie over a vocabulary, for engines that look for tokens at a position.

use super::error::TokenError;
use super::limits;

/// Nodes in breadth-first order of a sorted vocabulary. A node's edges are adjacent and sorted by byte.
#[derive(Debug, Clone, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// Byte on the edge to node `i + 1` (every node but the root has one edge to it).
    labels: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Children are nodes `first..first + n`.
    first: u32,
    n: u16,
    value: u32,
}

/// No token ends here.
const NONE: u32 = u32::MAX;

impl Trie {
    /// From texts with values. Of equal texts the last one's value stands; empty texts are left out.
    ///
    /// # Errors
    /// More bytes than `limits::MAX_VOCAB_BYTES`.
    pub fn new(mut entries: Vec<(&[u8], u32)>) -> Result<Trie, TokenError> {
        let total = entries.iter().map(|(t, _)| t.len()).sum();
        limits::check("bytes of all tokens", total, limits::MAX_VOCAB_BYTES, "MAX_VOCAB_BYTES")?;
        entries.retain(|(text, _)| !text.is_empty());
        entries.sort_by(|a, b| a.0.cmp(b.0));
        let mut trie = Trie { nodes: vec![Node { first: 0, n: 0, value: NONE }], labels: Vec::new() };
        // Each item: a node, and the range of entries that share its `depth` bytes.
        let mut level = vec![(0_usize, 0..entries.len())];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for (node, range) in level {
                let shorter = entries[range.clone()].iter().take_while(|(t, _)| t.len() == depth).count();
                if shorter > 0 {
                    trie.nodes[node].value = entries[range.start + shorter - 1].1;
                }
                trie.nodes[node].first = trie.nodes.len() as u32;
                let mut start = range.start + shorter;
                while start < range.end {
                    let byte = entries[start].0[depth];
                    let len = entries[start..range.end].partition_point(|(t, _)| t[depth] <= byte);
                    trie.nodes[node].n += 1;
                    trie.labels.push(byte);
                    next.push((trie.nodes.len(), start..start + len));
                    trie.nodes.push(Node { first: 0, n: 0, value: NONE });
                    start += len;
                }
            }
            level = next;
            depth += 1;
        }
        Ok(trie)
    }

    /// Every entry that starts `text`, shortest first: its length and value.
    pub fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = self.nodes.first();
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                node = self.child(node?, *text.get(at)?);
                at += 1;
                let value = node?.value;
                if value != NONE {
                    return Some((at, value));
                }
            }
        })
    }

    fn child(&self, node: &Node, byte: u8) -> Option<&Node> {
        let first = node.first as usize;
        let labels = self.labels.get(first.checked_sub(1)?..first - 1 + node.n as usize)?;
        let i = labels.binary_search(&byte).ok()?;
        self.nodes.get(first + i)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::Trie;

    #[test]
    fn prefixes_come_shortest_first() {
        let trie = Trie::new(vec![(b"ab", 1), (b"a", 0), (b"abcd", 2), (b"b", 3), (b"", 9), (b"b", 4)]).unwrap();
        let check = |text: &str, want: &[(usize, u32)]| {
            assert_eq!(trie.prefixes(text.as_bytes()).collect::<Vec<_>>(), want, "{text:?}");
        };
        check("abcde", &[(1, 0), (2, 1), (4, 2)]);
        check("bx", &[(1, 4)]);
        check("x", &[]);
        check("", &[]);
        assert_eq!(Trie::default().prefixes(b"a").count(), 0);
    }
}
