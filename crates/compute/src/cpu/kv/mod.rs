//! Pages of keys and values, laid out for `attention`, and recurrent states.
//!
//! A page is cut into strips, one a KV head. `lanes` is `page_tokens` rounded up to 16.
//!
//! ```text
//! keys     [d_k, lanes]          a vector holds 16 tokens, so that scores need no sums across a vector
//! values   [page_tokens, width]  width: d_v rounded up to 16; a row a token
//! scales   [n_group, lanes] f32  after keys and after values, for KvType::Q8 (one group) and KvType::Q4
//! ```

mod direct;
mod strips;

pub(super) use direct::{Part, Parts};
pub(super) use strips::{Source, Strips};

use super::tensor::Tensor;
use super::vector::{Kernels, LANES};
use super::{Pool, pool::Worker};
use crate::Error;
use crate::check::{KvHeads, check_page, check_places, check_slot};
use crate::op::{KvSpec, LayerState, SeqRow, Seqs};

/// What memory is asked for.
const STORE: &str = "the store of keys, values and states";
/// Numbers below which appending is left to one thread.
const ALONE: usize = 16 * 1024;

/// Keys, values and recurrent states of all layers.
pub struct Kv {
    pub(super) spec: KvSpec,
    layers: Vec<Layer>,
}

/// What a layer keeps.
enum Layer {
    Kv {
        heads: KvHeads,
        keys: Strips,
        values: Strips,
    },
    /// `conv`: `[n_slot, conv]`, `ssm`: `[n_slot, ssm]`.
    Recurrent {
        conv: Box<[f32]>,
        ssm: Box<[f32]>,
    },
    None,
}

impl Kv {
    /// An empty store. Memory is taken when it is first written.
    ///
    /// # Errors
    /// If the system has no room.
    pub fn new(spec: &KvSpec) -> Result<Kv, Error> {
        assert!(spec.page_tokens > 0, "kv: pages of no tokens");
        let lanes = spec.page_tokens.next_multiple_of(LANES);
        let layer = |(i, state): (usize, &LayerState)| -> Result<Layer, Error> {
            Ok(match *state {
                LayerState::Kv { .. } => {
                    let heads = KvHeads::of(spec, i);
                    let n_strip = product(spec.n_page, heads.n_kv_head)?;
                    let keys = Strips::new(spec.dtype, n_strip, [heads.d_k, lanes], [lanes, heads.d_k])?;
                    let width = heads.d_v.next_multiple_of(LANES);
                    let values = Strips::new(spec.dtype, n_strip, [spec.page_tokens, width], [lanes, heads.d_v])?;
                    Layer::Kv { heads, keys, values }
                }
                LayerState::Recurrent { conv, ssm } => Layer::Recurrent {
                    conv: zeros(product(spec.n_slot, conv)?)?,
                    ssm: zeros(product(spec.n_slot, ssm)?)?,
                },
                LayerState::None => Layer::None,
            })
        };
        let layers = spec.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?;
        Ok(Kv { spec: spec.clone(), layers })
    }

    /// Heads, keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> (KvHeads, &Strips, &Strips) {
        match &self.layers[layer] {
            Layer::Kv { heads, keys, values } => (*heads, keys, values),
            _ => panic!("layer {layer} keeps no keys and values but {:?}", self.spec.layers[layer]),
        }
    }

    /// The states of convolution and scan of all slots of a layer.
    pub(super) fn recurrent(&mut self, layer: usize) -> (&mut [f32], &mut [f32]) {
        match &mut self.layers[layer] {
            Layer::Recurrent { conv, ssm } => (conv, ssm),
            _ => panic!("layer {layer} keeps no recurrent state but {:?}", self.spec.layers[layer]),
        }
    }

    /// Stores keys and values of the batch's tokens.
    pub(super) fn append(
        &mut self,
        (kernels, pool): (Kernels, &Pool),
        layer: usize,
        (k, v): (&Tensor, Option<&Tensor>),
        seqs: &Seqs<'_>,
    ) -> Result<(), Error> {
        let spec = &self.spec;
        seqs.check(k.shape[0], spec);
        let Layer::Kv { heads, keys, values } = &mut self.layers[layer] else {
            panic!("layer {layer} keeps no keys and values but {:?}", spec.layers[layer]);
        };
        let heads = *heads;
        heads.check_append(k.shape, v.map(|v| v.shape));
        let page_tokens = spec.page_tokens;
        let (keys, values) = (keys.writer(), values.writer());
        let write = |row: &SeqRow, page: usize, head: usize| {
            let strip = seqs.pages[row.pages.0 + page] as usize * heads.n_kv_head + head;
            let slots = (page * page_tokens).max(row.start)..((page + 1) * page_tokens).min(row.start + row.n_tok);
            for slot in slots {
                let (token, place) = (row.first + slot - row.start, slot % page_tokens);
                let key = &k.row(token)[head * heads.d_k..][..heads.d_k];
                // SAFETY: pages of a batch are distinct (each belongs to one row, `place` differs within it), and
                // each strip is written by one thread.
                unsafe { keys.column(kernels, strip, place, key) };
                if let Some(v) = v {
                    let value = &v.row(token)[head * heads.d_v..][..heads.d_v];
                    // SAFETY: as above.
                    unsafe { values.row(kernels, strip, place, value) };
                }
            }
        };
        let pages = |row: &SeqRow| row.start / page_tokens..(row.start + row.n_tok).div_ceil(page_tokens);
        if k.data.len() <= ALONE {
            for row in seqs.rows.iter().filter(|r| r.n_tok > 0) {
                pages(row).for_each(|page| (0..heads.n_kv_head).for_each(|head| write(row, page, head)));
            }
            return Ok(());
        }
        // Two rows may share a page only by a programmer's error; sharing out heads keeps even that free of races.
        pool.run(heads.n_kv_head, |_: &Worker<'_>, head| {
            for row in seqs.rows.iter().filter(|r| r.n_tok > 0) {
                pages(row).for_each(|page| write(row, page, head));
            }
        })
    }

    /// Copies page `from` over page `to`.
    pub(super) fn copy_page(&mut self, from: u32, to: u32) {
        let n_page = self.spec.n_page;
        assert!((from as usize) < n_page && (to as usize) < n_page, "copy_page: {from} to {to} of {n_page}");
        for part in self.pages() {
            let size = part.len() / n_page;
            part.copy_within(from as usize * size..(from as usize + 1) * size, to as usize * size);
        }
    }

    /// Copies keys and values of the token at `from`, page and place in it, over those of the token at `to`.
    pub(super) fn copy_token(&mut self, from: (u32, usize), to: (u32, usize)) {
        check_places(&self.spec, from, to);
        for layer in &mut self.layers {
            let Layer::Kv { heads, keys, values } = layer else { continue };
            for head in 0..heads.n_kv_head {
                let strip = |(page, place): (u32, usize)| (page as usize * heads.n_kv_head + head, place);
                keys.copy_column(strip(from), strip(to));
                values.copy_row(strip(from), strip(to));
            }
        }
    }

    /// Copies the states of slot `from` over slot `to`.
    pub(super) fn copy_slot(&mut self, from: usize, to: usize) {
        let n_slot = self.spec.n_slot;
        assert!(from < n_slot && to < n_slot, "copy_slot: {from} to {to} of {n_slot}");
        for layer in &mut self.layers {
            if let Layer::Recurrent { conv, ssm } = layer {
                for part in [conv, ssm] {
                    let size = part.len() / n_slot;
                    part.copy_within(from * size..(from + 1) * size, to * size);
                }
            }
        }
    }

    /// Appends the states of a slot.
    pub(super) fn export_slot(&self, slot: usize, out: &mut Vec<u8>) {
        let n_slot = self.spec.n_slot;
        assert!(slot < n_slot, "export_slot: {slot} of {n_slot}");
        for layer in &self.layers {
            let Layer::Recurrent { conv, ssm } = layer else { continue };
            for part in [conv, ssm] {
                let size = part.len() / n_slot;
                out.extend(part[slot * size..][..size].iter().flat_map(|x| x.to_le_bytes()));
            }
        }
    }

    /// Overwrites the states of a slot.
    ///
    /// # Errors
    /// If `bytes` are not states of this store.
    pub(super) fn import_slot(&mut self, slot: usize, bytes: &[u8]) -> Result<(), Error> {
        let n_slot = self.spec.n_slot;
        assert!(slot < n_slot, "import_slot: {slot} of {n_slot}");
        let states = self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Recurrent { conv, ssm } => Some([conv, ssm]),
            _ => None,
        });
        let states: Vec<&mut Box<[f32]>> = states.flatten().collect();
        check_slot(bytes.len(), states.iter().map(|part| part.len() / n_slot * size_of::<f32>()).sum())?;
        let mut numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        for part in states {
            let size = part.len() / n_slot;
            part[slot * size..][..size].iter_mut().zip(&mut numbers).for_each(|(x, n)| *x = n);
        }
        Ok(())
    }

    /// Appends a page: of each layer, the strips of keys, then those of values.
    pub(super) fn export_page(&self, page: u32, out: &mut Vec<u8>) {
        assert!((page as usize) < self.spec.n_page, "export_page: {page} of {}", self.spec.n_page);
        for layer in &self.layers {
            if let Layer::Kv { keys, values, .. } = layer {
                for part in [keys.bytes(), values.bytes()] {
                    let size = part.len() / self.spec.n_page;
                    out.extend_from_slice(&part[page as usize * size..][..size]);
                }
            }
        }
    }

    /// Overwrites a page.
    ///
    /// # Errors
    /// If `bytes` is not a page of this store.
    pub(super) fn import_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), Error> {
        let n_page = self.spec.n_page;
        assert!((page as usize) < n_page, "import_page: {page} of {n_page}");
        check_page(bytes.len(), self.pages().map(|p| p.len() / n_page).sum())?;
        let mut rest = bytes;
        for part in self.pages() {
            let (mine, next) = rest.split_at(part.len() / n_page);
            part[page as usize * mine.len()..][..mine.len()].copy_from_slice(mine);
            rest = next;
        }
        Ok(())
    }

    /// The bytes of all pages: of each layer, keys, then values.
    fn pages(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let kv = self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Kv { keys, values, .. } => Some([keys.bytes_mut(), values.bytes_mut()]),
            _ => None,
        });
        kv.flatten()
    }
}

fn product(a: usize, b: usize) -> Result<usize, Error> {
    a.checked_mul(b).ok_or(Error::Memory { what: STORE, bytes: u64::MAX })
}

/// `n` zeros, which take memory when they are first written.
fn zeros<T: bytemuck::Zeroable>(n: usize) -> Result<Box<[T]>, Error> {
    let bytes = (n as u64).saturating_mul(size_of::<T>() as u64);
    bytemuck::try_zeroed_slice_box(n).map_err(|()| Error::Memory { what: STORE, bytes })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::op::KvType;

    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        let pages: usize = statm.split(' ').nth(1).expect("resident pages").parse().expect("a number");
        pages * 4096
    }

    #[test]
    fn a_store_takes_memory_when_it_is_written() {
        let layer = LayerState::Kv { n_kv_head: 8, d_k: 128, d_v: 128, d_latent: 0 };
        let mut spec =
            KvSpec { layers: vec![layer; 4], page_tokens: 16, n_page: 1 << 14, n_slot: 1, dtype: KvType::F16 };
        let before = resident();
        for n_page in [1 << 14, 1 << 20] {
            spec.n_page = n_page; // 4 GiB, 256 GiB
            let kv = Kv::new(&spec).expect("address space");
            assert!(kv.layer(3).1.bytes()[..64].iter().all(|&b| b == 0));
            let taken = resident().saturating_sub(before);
            // Other tests run beside; an emulator of processors keeps half a percent of the addresses as its notes.
            let limit = (256 << 20).max(n_page * 256 * 1024 / 100);
            assert!(taken < limit, "{n_page} empty pages take {taken} bytes");
        }
    }
}
