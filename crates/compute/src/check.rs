//! Preconditions that every backend asserts the same way: do pages, rows and shapes fit each other?
//!
//! All of them are programmer errors: model code has checked a file's shapes, the engine its page tables.

use crate::op::{Attention, Delta, KvSpec, LayerState, SeqRow, Seqs, Ssm, Window};
use crate::{Backend, Error};

/// The heads of a layer that keeps keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvHeads {
    /// Heads of keys and values.
    pub n_kv_head: usize,
    /// Dimensions of a key.
    pub d_k: usize,
    /// Dimensions of a stored value; 0: the value is the first `d_latent` dimensions of the key.
    pub d_v: usize,
    /// See `d_v`.
    pub d_latent: usize,
}

impl KvHeads {
    /// The heads of `layer`.
    ///
    /// # Panics
    /// If the layer keeps no keys and values.
    pub fn of(spec: &KvSpec, layer: usize) -> KvHeads {
        assert!(layer < spec.layers.len(), "layer {layer} of a store of {}", spec.layers.len());
        let LayerState::Kv { n_kv_head, d_k, d_v, d_latent } = spec.layers[layer] else {
            panic!("layer {layer} keeps no keys and values but {:?}", spec.layers[layer]);
        };
        assert!(
            d_v > 0 || (1..=d_k).contains(&d_latent),
            "layer {layer}: values are {d_latent} dimensions of keys of {d_k}"
        );
        KvHeads { n_kv_head, d_k, d_v, d_latent }
    }

    /// Dimensions of a value, stored or part of the key.
    pub fn d_out(&self) -> usize {
        if self.d_v == 0 { self.d_latent } else { self.d_v }
    }

    /// Asserts the shapes of keys and values to store.
    pub fn check_append(&self, k: [usize; 2], v: Option<[usize; 2]>) {
        assert_eq!(k[1], self.n_kv_head * self.d_k, "kv_append: keys do not fit {self:?}");
        match v {
            Some(v) => assert_eq!(v, [k[0], self.n_kv_head * self.d_v], "kv_append: values do not fit {self:?}"),
            None => assert_eq!(self.d_v, 0, "kv_append: values are missing"),
        }
        assert!(v.is_none() || self.d_v > 0, "kv_append: values are part of the keys, but some were given");
    }

    /// Asserts the shapes that attention takes; `shape` tells a tensor's.
    pub fn check_attention<B: Backend + ?Sized>(
        &self,
        q: [usize; 2],
        attention: &Attention<'_, B>,
        shape: impl Fn(&B::Tensor) -> [usize; 2],
    ) {
        let n_head = attention.n_head;
        assert_eq!(q[1], n_head * self.d_k, "attention: queries do not fit {n_head} heads of {self:?}");
        assert!(n_head.is_multiple_of(self.n_kv_head), "attention: {n_head} heads over {self:?}");
        for parameter in [attention.sinks, attention.alibi].into_iter().flatten() {
            assert_eq!(shape(parameter), [1, n_head], "attention: sinks or slopes of {n_head} heads");
        }
        let some_window = !matches!(attention.window, Window::Sliding(0) | Window::Chunked(0));
        assert!(some_window, "attention: a window of no tokens");
    }
}

impl Seqs<'_> {
    /// Asserts that the rows cover the batch's `n_tok` tokens and have the pages that they need.
    pub fn check(&self, n_tok: usize, spec: &KvSpec) {
        self.check_rows(n_tok);
        for row in self.rows {
            let (from, to) = row.pages;
            assert!(from <= to && to <= self.pages.len(), "seqs: pages {from}..{to} of {}", self.pages.len());
            let (need, have) = ((row.start + row.n_tok).div_ceil(spec.page_tokens), to - from);
            assert!(need <= have, "seqs: {} tokens need {need} pages, the row has {have}", row.start + row.n_tok);
            for &page in &self.pages[from..from + need] {
                assert!((page as usize) < spec.n_page, "seqs: page {page} of {}", spec.n_page);
            }
        }
    }

    /// Asserts that the rows cover the batch and have slots, and that none is a tree, which a recurrence cannot follow.
    pub fn check_recurrent(&self, n_tok: usize, n_slot: usize) {
        self.check_rows(n_tok);
        for row in self.rows {
            assert!(row.slot < n_slot, "seqs: slot {} of {n_slot}", row.slot);
            assert!(!row.tree, "seqs: a recurrent layer cannot compute a token tree");
        }
    }

    fn check_rows(&self, n_tok: usize) {
        assert_eq!(self.positions.len(), n_tok, "seqs: positions and tokens differ in number");
        let mut next = 0;
        for row in self.rows {
            assert_eq!(row.first, next, "seqs: the rows do not follow each other");
            next += row.n_tok;
            if row.tree {
                self.check_tree(row);
            }
        }
        assert_eq!(next, n_tok, "seqs: the rows do not cover the batch");
    }

    fn check_tree(&self, row: &SeqRow) {
        assert!(self.parents.len() >= row.first + row.n_tok, "seqs: a tree without parents");
        for (i, &parent) in self.parents[row.first..][..row.n_tok].iter().enumerate() {
            assert!((-1..i as i32).contains(&parent), "seqs: token {i} of a tree has parent {parent}");
        }
    }
}

impl Ssm {
    /// Asserts the shapes of `[input, dt, a]`.
    pub fn check(&self, [input, dt, a]: [[usize; 2]; 3]) {
        let Ssm { n_head, d_head, d_state, n_group } = *self;
        assert!(n_group > 0 && n_head.is_multiple_of(n_group), "ssm_scan: {n_head} heads in {n_group} groups");
        assert_eq!(input[1], n_head * d_head + 2 * n_group * d_state, "ssm_scan: the input does not fit {self:?}");
        assert_eq!(dt, [input[0], n_head], "ssm_scan: dt does not fit {self:?}");
        assert!(a == [n_head, 1] || a == [n_head, d_state], "ssm_scan: a {a:?} does not fit {self:?}");
    }
}

impl Delta {
    /// Asserts the shapes of `[q, k, v, decay, beta]`.
    pub fn check(&self, [q, k, v, decay, beta]: [[usize; 2]; 5]) {
        let Delta { n_head, n_key_head, d_k, d_v, .. } = *self;
        let n_tok = q[0];
        assert!(n_key_head > 0 && n_head.is_multiple_of(n_key_head), "delta_scan: the heads of {self:?}");
        assert_eq!([q, k], [[n_tok, n_key_head * d_k]; 2], "delta_scan: q and k do not fit {self:?}");
        assert_eq!(v, [n_tok, n_head * d_v], "delta_scan: v does not fit {self:?}");
        let (head, channel) = ([n_tok, n_head], [n_tok, n_head * d_k]);
        assert!(decay == head || decay == channel, "delta_scan: a decay {decay:?} does not fit {self:?}");
        assert_eq!(beta, head, "delta_scan: beta does not fit {self:?}");
    }

    /// The key head of a head.
    pub fn key_head(&self, head: usize) -> usize {
        if self.tiled { head % self.n_key_head } else { head / (self.n_head / self.n_key_head) }
    }
}

/// Whether the bytes of exported recurrent states have this store's size.
///
/// # Errors
/// Names both sizes.
pub fn check_slot(found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Size { tensor: "recurrent states".to_owned(), part: "slot", found, expected })
}

/// Whether two tokens, by page and place in it, lie in a store.
pub fn check_places(spec: &KvSpec, from: (u32, usize), to: (u32, usize)) {
    for (page, place) in [from, to] {
        let (n_page, n_place) = (spec.n_page, spec.page_tokens);
        assert!(
            (page as usize) < n_page && place < n_place,
            "place {place} of page {page}: {n_page} pages of {n_place}"
        );
    }
}

/// Whether the bytes of an exported page have this store's size.
///
/// # Errors
/// Names both sizes.
pub fn check_page(found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Size { tensor: "page of keys and values".to_owned(), part: "page", found, expected })
}
