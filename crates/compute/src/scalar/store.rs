//! Keys, values and recurrent states of all layers, each number as the store's type would round it.

use super::Tensor;
use crate::Error;
use crate::check::{KvHeads, check_page, check_places, check_slot};
use crate::op::{KvSpec, KvType, LayerState, Q4_GROUP, SeqRow, Seqs, q4_round, q4_scale};

/// Pages of keys and values, and recurrent slots, of every layer.
///
/// Numbers are kept as f32 but rounded to the store's type, so that the definition shows what the type costs.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) spec: KvSpec,
    layers: Vec<Layer>,
}

#[derive(Debug, Clone, Default)]
struct Layer {
    /// `[n_page, page_tokens, n_kv_head, d_k]`.
    k: Vec<f32>,
    /// `[n_page, page_tokens, n_kv_head, d_v]`.
    v: Vec<f32>,
    /// `[n_slot, conv]`.
    conv: Vec<f32>,
    /// `[n_slot, ssm]`.
    ssm: Vec<f32>,
}

impl Store {
    /// An empty store.
    pub(super) fn new(spec: &KvSpec) -> Result<Store, Error> {
        assert!(spec.page_tokens > 0, "kv: pages of no tokens");
        let layer = |state: &LayerState| -> Result<Layer, Error> {
            Ok(match *state {
                LayerState::Kv { n_kv_head, d_k, d_v, .. } => Layer {
                    k: zeros(&[spec.n_page, spec.page_tokens, n_kv_head, d_k])?,
                    v: zeros(&[spec.n_page, spec.page_tokens, n_kv_head, d_v])?,
                    ..Layer::default()
                },
                LayerState::Recurrent { conv, ssm } => {
                    Layer { conv: zeros(&[spec.n_slot, conv])?, ssm: zeros(&[spec.n_slot, ssm])?, ..Layer::default() }
                }
                LayerState::None => Layer::default(),
            })
        };
        let layers = spec.layers.iter().map(layer).collect::<Result<_, _>>()?;
        Ok(Store { spec: spec.clone(), layers })
    }

    /// Stores keys and values of the batch's tokens.
    pub(super) fn append(&mut self, layer: usize, k: &Tensor, v: Option<&Tensor>, seqs: &Seqs<'_>) {
        let heads = KvHeads::of(&self.spec, layer);
        heads.check_append(k.shape, v.map(|v| v.shape));
        seqs.check(k.shape[0], &self.spec);
        for row in seqs.rows {
            for i in 0..row.n_tok {
                let place = self.place(seqs, row, row.start + i);
                let Layer { k: keys, v: values, .. } = &mut self.layers[layer];
                write(self.spec.dtype, heads.d_k, k.row(row.first + i), &mut keys[place * k.shape[1]..]);
                if let Some(v) = v {
                    write(self.spec.dtype, heads.d_v, v.row(row.first + i), &mut values[place * v.shape[1]..]);
                }
            }
        }
    }

    /// Key and value of KV head `head` in KV slot `slot` of a row.
    pub(super) fn key_value(
        &self,
        layer: usize,
        seqs: &Seqs<'_>,
        row: &SeqRow,
        [slot, head]: [usize; 2],
    ) -> (&[f32], &[f32]) {
        let heads = KvHeads::of(&self.spec, layer);
        let Layer { k, v, .. } = &self.layers[layer];
        let at = self.place(seqs, row, slot) * heads.n_kv_head + head;
        let key = &k[at * heads.d_k..][..heads.d_k];
        let value = if heads.d_v == 0 { &key[..heads.d_latent] } else { &v[at * heads.d_v..][..heads.d_v] };
        (key, value)
    }

    /// Place of a KV slot of a row among the tokens of all pages.
    fn place(&self, seqs: &Seqs<'_>, row: &SeqRow, slot: usize) -> usize {
        let page = seqs.pages[row.pages.0 + slot / self.spec.page_tokens];
        page as usize * self.spec.page_tokens + slot % self.spec.page_tokens
    }

    /// The convolution's and the scan's state of a slot.
    pub(super) fn recurrent(&mut self, layer: usize, slot: usize) -> (&mut [f32], &mut [f32]) {
        let LayerState::Recurrent { conv, ssm } = self.spec.layers[layer] else {
            panic!("layer {layer} keeps no recurrent state but {:?}", self.spec.layers[layer]);
        };
        assert!(slot < self.spec.n_slot, "slot {slot} of {}", self.spec.n_slot);
        let layer = &mut self.layers[layer];
        (&mut layer.conv[slot * conv..][..conv], &mut layer.ssm[slot * ssm..][..ssm])
    }

    pub(super) fn copy_page(&mut self, from: u32, to: u32) {
        let n_page = self.spec.n_page;
        assert!((from as usize) < n_page && (to as usize) < n_page, "copy_page: {from} to {to} of {n_page}");
        for layer in &mut self.layers {
            copy_part(&mut layer.k, n_page, from as usize, to as usize);
            copy_part(&mut layer.v, n_page, from as usize, to as usize);
        }
    }

    pub(super) fn copy_token(&mut self, from: (u32, usize), to: (u32, usize)) {
        check_places(&self.spec, from, to);
        let n = self.spec.n_page * self.spec.page_tokens;
        let [from, to] = [from, to].map(|(page, place)| page as usize * self.spec.page_tokens + place);
        for layer in &mut self.layers {
            copy_part(&mut layer.k, n, from, to);
            copy_part(&mut layer.v, n, from, to);
        }
    }

    pub(super) fn copy_slot(&mut self, from: usize, to: usize) {
        let n_slot = self.spec.n_slot;
        assert!(from < n_slot && to < n_slot, "copy_slot: {from} to {to} of {n_slot}");
        for layer in &mut self.layers {
            copy_part(&mut layer.conv, n_slot, from, to);
            copy_part(&mut layer.ssm, n_slot, from, to);
        }
    }

    /// Appends the states of a slot.
    pub(super) fn export_slot(&self, slot: usize, out: &mut Vec<u8>) {
        let n_slot = self.spec.n_slot;
        assert!(slot < n_slot, "export_slot: {slot} of {n_slot}");
        for part in self.layers.iter().flat_map(|l| [&l.conv, &l.ssm]) {
            let size = part.len() / n_slot;
            out.extend(part[slot * size..][..size].iter().flat_map(|x| x.to_le_bytes()));
        }
    }

    /// Overwrites the states of a slot.
    pub(super) fn import_slot(&mut self, slot: usize, bytes: &[u8]) -> Result<(), Error> {
        let n_slot = self.spec.n_slot;
        assert!(slot < n_slot, "import_slot: {slot} of {n_slot}");
        let expected = self.layers.iter().map(|l| (l.conv.len() + l.ssm.len()) / n_slot * size_of::<f32>()).sum();
        check_slot(bytes.len(), expected)?;
        let mut numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        for part in self.layers.iter_mut().flat_map(|l| [&mut l.conv, &mut l.ssm]) {
            let size = part.len() / n_slot;
            part[slot * size..][..size].iter_mut().zip(&mut numbers).for_each(|(x, n)| *x = n);
        }
        Ok(())
    }

    /// Appends a page: of each layer, keys then values, f32 little endian.
    pub(super) fn export_page(&self, page: u32, out: &mut Vec<u8>) {
        assert!((page as usize) < self.spec.n_page, "export_page: {page} of {}", self.spec.n_page);
        for part in self.layers.iter().flat_map(|l| [&l.k, &l.v]) {
            let size = part.len() / self.spec.n_page;
            out.extend(part[page as usize * size..][..size].iter().flat_map(|x| x.to_le_bytes()));
        }
    }

    /// Overwrites a page.
    pub(super) fn import_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), Error> {
        let n_page = self.spec.n_page;
        assert!((page as usize) < n_page, "import_page: {page} of {n_page}");
        let expected = self.layers.iter().map(|l| (l.k.len() + l.v.len()) / n_page * size_of::<f32>()).sum::<usize>();
        check_page(bytes.len(), expected)?;
        let mut numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        for part in self.layers.iter_mut().flat_map(|l| [&mut l.k, &mut l.v]) {
            let size = part.len() / n_page;
            part[page as usize * size..][..size].iter_mut().zip(&mut numbers).for_each(|(x, n)| *x = n);
        }
        Ok(())
    }
}

fn zeros(shape: &[usize]) -> Result<Vec<f32>, Error> {
    let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let out_of_memory = || Error::Memory {
        what: "the store of keys, values and states",
        bytes: n.map_or(u64::MAX, |n| (n as u64).saturating_mul(4)),
    };
    let n = n.ok_or_else(out_of_memory)?;
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(n).map_err(|_| out_of_memory())?;
    zeros.resize(n, 0.0);
    Ok(zeros)
}

fn copy_part(all: &mut [f32], n: usize, from: usize, to: usize) {
    let size = all.len() / n;
    all.copy_within(from * size..(from + 1) * size, to * size);
}

/// Stores the heads of `row`, each of `d_head` numbers, at the start of `out`.
fn write(dtype: KvType, d_head: usize, row: &[f32], out: &mut [f32]) {
    for (from, to) in row.chunks_exact(d_head).zip(out.chunks_exact_mut(d_head)) {
        // Q8 stores `round(x / scale)`, halves to even, with `scale = max |x| / 127`.
        let scale = from.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (from, to) in from.chunks(Q4_GROUP).zip(to.chunks_mut(Q4_GROUP)) {
            let scale_q4 = q4_scale(from);
            for (&x, to) in from.iter().zip(to) {
                *to = match dtype {
                    KvType::F32 => x,
                    KvType::F16 => half::f16::from_f32(x).to_f32(),
                    KvType::BF16 => half::bf16::from_f32(x).to_f32(),
                    KvType::Q8 => (x * inverse).round_ties_even() * scale,
                    KvType::Q4 => q4_round(x, scale_q4) * scale_q4,
                };
            }
        }
    }
}
