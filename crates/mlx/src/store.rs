//! Pages of keys and values, and recurrent slots, of every layer.
//!
//! ```text
//! data    [n_page * page_tokens, n_kv_head, d]   f32, f16, bf16, or i8
//! scales  [n_page * page_tokens, n_kv_head, 1]   f32, with i8
//! conv    [n_slot, conv]   ssm [n_slot, ssm]     f32
//! ```
//!
//! An append is a scatter of rows. MLX scatters in place when nothing else holds the array: the store replaces its own
//! handle, so a step that repeats takes no new memory for it.

use mlxr_compute::Error;
use mlxr_compute::check::{KvHeads, check_page, check_places, check_slot};
use mlxr_compute::op::{KvSpec, KvType, LayerState, Seqs};

use crate::ffi::{Array, Device, Dtype};
use crate::plan::Plan;
use crate::tensor::Tensor;

/// The store.
pub struct Kv {
    pub(crate) spec: KvSpec,
    pub(crate) layers: Vec<Layer>,
}

/// What a layer keeps.
pub(crate) enum Layer {
    /// Keys, and values where they are not part of the keys.
    Kv(Stored, Option<Stored>),
    /// The convolution's and the scan's states.
    Recurrent { conv: Array, ssm: Array },
    /// Nothing.
    None,
}

/// Keys or values of all pages.
pub(crate) struct Stored {
    pub(crate) data: Array,
    /// f32, where `data` are codes.
    pub(crate) scales: Option<Array>,
    /// Heads and dimensions.
    pub(crate) heads: [usize; 2],
}

impl Kv {
    /// An empty store.
    ///
    /// # Errors
    /// If it does not fit in MLX's memory.
    pub(crate) fn new(device: &Device, spec: &KvSpec) -> Result<Kv, Error> {
        assert!(spec.page_tokens > 0, "kv: pages of no tokens");
        if spec.dtype == KvType::Q4 {
            return Err(Error::KvType { backend: "mlx", dtype: spec.dtype });
        }
        let place = spec.n_page.checked_mul(spec.page_tokens);
        let sizes = spec.layers.iter().map(|l| layer_bytes(l, place.unwrap_or(usize::MAX), spec));
        let bytes = sizes.fold(0u64, u64::saturating_add);
        device.reserve("the store of keys, values and states", bytes)?;
        let Some(n_place) = place.filter(|&n| n <= i32::MAX as usize) else {
            return Err(Error::Memory { what: "the store of keys, values and states", bytes });
        };
        let stored = |n_kv_head: usize, d: usize| {
            let (data, scales) = match spec.dtype {
                KvType::F32 => (Dtype::F32, false),
                KvType::F16 => (Dtype::F16, false),
                KvType::BF16 => (Dtype::BF16, false),
                KvType::Q8 | KvType::Q4 => (Dtype::I8, true),
            };
            let zeros = |d: usize, dtype| device.zeros(&[n_place, n_kv_head, d], dtype);
            Stored { data: zeros(d, data), scales: scales.then(|| zeros(1, Dtype::F32)), heads: [n_kv_head, d] }
        };
        let layer = |state: &LayerState| match *state {
            LayerState::Kv { n_kv_head, d_k, d_v, .. } => {
                Layer::Kv(stored(n_kv_head, d_k), (d_v > 0).then(|| stored(n_kv_head, d_v)))
            }
            LayerState::Recurrent { conv, ssm } => Layer::Recurrent {
                conv: device.zeros(&[spec.n_slot, conv], Dtype::F32),
                ssm: device.zeros(&[spec.n_slot, ssm], Dtype::F32),
            },
            LayerState::None => Layer::None,
        };
        let kv = Kv { layers: spec.layers.iter().map(layer).collect(), spec: spec.clone() };
        device.eval(&kv.arrays())?;
        Ok(kv)
    }

    /// Every array, to evaluate.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        let mut arrays = Vec::new();
        for layer in &self.layers {
            match layer {
                Layer::Kv(k, v) => {
                    for stored in std::iter::once(k).chain(v) {
                        arrays.push(&stored.data);
                        arrays.extend(&stored.scales);
                    }
                }
                Layer::Recurrent { conv, ssm } => arrays.extend([conv, ssm]),
                Layer::None => {}
            }
        }
        arrays
    }

    /// Stores `[keys, values]` of the batch's tokens.
    pub(crate) fn append(
        &mut self,
        device: &Device,
        plan: &mut Plan,
        layer: usize,
        [k, v]: [Option<&Tensor>; 2],
        seqs: &Seqs<'_>,
    ) {
        let heads = KvHeads::of(&self.spec, layer);
        let k = k.expect("a batch has keys");
        heads.check_append(k.shape, v.map(|v| v.shape));
        seqs.check(k.shape[0], &self.spec);
        let places = plan.places(device, seqs, self.spec.page_tokens);
        let Layer::Kv(keys, values) = &mut self.layers[layer] else {
            unreachable!("KvHeads::of has checked the layer")
        };
        keys.scatter(device, &places, k);
        if let (Some(values), Some(v)) = (values, v) {
            values.scatter(device, &places, v);
        }
    }

    /// The recurrent states of a layer.
    pub(crate) fn recurrent(&mut self, layer: usize) -> [&mut Array; 2] {
        match &mut self.layers[layer] {
            Layer::Recurrent { conv, ssm } => [conv, ssm],
            _ => panic!("layer {layer} keeps no recurrent state but {:?}", self.spec.layers[layer]),
        }
    }

    /// All page-wise arrays.
    fn paged(&mut self) -> Vec<&mut Array> {
        let mut arrays = Vec::new();
        for layer in &mut self.layers {
            if let Layer::Kv(k, v) = layer {
                for stored in std::iter::once(k).chain(v) {
                    arrays.push(&mut stored.data);
                    arrays.extend(&mut stored.scales);
                }
            }
        }
        arrays
    }

    pub(crate) fn copy_page(&mut self, device: &Device, from: u32, to: u32) {
        let n_page = self.spec.n_page;
        assert!((from as usize) < n_page && (to as usize) < n_page, "copy_page: {from} to {to} of {n_page}");
        let n = self.spec.page_tokens;
        for array in self.paged() {
            copy_rows(device, array, [from as usize * n, to as usize * n, n]);
        }
    }

    /// Copies what is stored of the token at `from`, page and place in it, over that of the token at `to`.
    pub(crate) fn copy_token(&mut self, device: &Device, from: (u32, usize), to: (u32, usize)) {
        check_places(&self.spec, from, to);
        let n = self.spec.page_tokens;
        let [from, to] = [from, to].map(|(page, place)| page as usize * n + place);
        for array in self.paged() {
            copy_rows(device, array, [from, to, 1]);
        }
    }

    pub(crate) fn copy_slot(&mut self, device: &Device, from: usize, to: usize) {
        let n_slot = self.spec.n_slot;
        assert!(from < n_slot && to < n_slot, "copy_slot: {from} to {to} of {n_slot}");
        for layer in &mut self.layers {
            if let Layer::Recurrent { conv, ssm } = layer {
                copy_rows(device, conv, [from, to, 1]);
                copy_rows(device, ssm, [from, to, 1]);
            }
        }
    }

    /// Appends the states of a slot. Where the device fails they stay short, and `import_slot` refuses them.
    pub(crate) fn export_slot(&self, device: &Device, slot: usize, out: &mut Vec<u8>) {
        assert!(slot < self.spec.n_slot, "export_slot: {slot} of {}", self.spec.n_slot);
        for layer in &self.layers {
            let Layer::Recurrent { conv, ssm } = layer else { continue };
            for array in [conv, ssm].into_iter().filter(|array| array_bytes(array) > 0) {
                let rows = row_slice(device, array, slot, 1);
                if device.read(&rows, |bytes| out.extend_from_slice(bytes)).is_err() {
                    return;
                }
            }
        }
    }

    /// Overwrites the states of a slot.
    pub(crate) fn import_slot(&mut self, device: &Device, slot: usize, bytes: &[u8]) -> Result<(), Error> {
        let n_slot = self.spec.n_slot;
        assert!(slot < n_slot, "import_slot: {slot} of {n_slot}");
        let states = self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Recurrent { conv, ssm } => Some([conv, ssm]),
            _ => None,
        });
        let states: Vec<&mut Array> = states.flatten().filter(|array| array_bytes(array) > 0).collect();
        check_slot(bytes.len(), states.iter().map(|array| array_bytes(array) / n_slot).sum())?;
        let mut rest = bytes;
        for array in states {
            let (mine, next) = rest.split_at(array_bytes(array) / n_slot);
            let mut shape = array.shape();
            shape[0] = 1;
            let rows = device.from_slice(mine, &shape, array.dtype());
            update_rows(device, array, &rows, slot, 1);
            rest = next;
        }
        device.check()
    }

    /// Appends a page: of each layer, keys, their scales, values, their scales. Where the device fails the page stays
    /// short, and `import_page` refuses it.
    pub(crate) fn export_page(&self, device: &Device, page: u32, out: &mut Vec<u8>) {
        assert!((page as usize) < self.spec.n_page, "export_page: {page} of {}", self.spec.n_page);
        let n = self.spec.page_tokens;
        // Copied on the device: MLX's CUDA build moves a whole array to the host's memory when a slice of it is read.
        let places: Vec<u32> = (0..n).map(|i| (page as usize * n + i) as u32).collect();
        let places = device.from_slice(&places, &[n], Dtype::U32);
        for layer in &self.layers {
            let Layer::Kv(k, v) = layer else { continue };
            for array in std::iter::once(k).chain(v).flat_map(|s| std::iter::once(&s.data).chain(&s.scales)) {
                let rows = device.take(array, &places, 0);
                if device.read(&rows, |bytes| out.extend_from_slice(bytes)).is_err() {
                    return;
                }
            }
        }
    }

    /// Overwrites a page.
    pub(crate) fn import_page(&mut self, device: &Device, page: u32, bytes: &[u8]) -> Result<(), Error> {
        let (n_page, n) = (self.spec.n_page, self.spec.page_tokens);
        assert!((page as usize) < n_page, "import_page: {page} of {n_page}");
        let expected = self.paged().iter().map(|a| array_bytes(a) / n_page).sum();
        check_page(bytes.len(), expected)?;
        let mut at = 0;
        for array in self.paged() {
            let mut shape = array.shape();
            let size = array_bytes(array) / n_page;
            shape[0] = n;
            let rows = device.from_slice(&bytes[at..at + size], &shape, array.dtype());
            update_rows(device, array, &rows, page as usize * n, n);
            at += size;
        }
        device.check()
    }
}

impl Stored {
    /// Writes rows `x` `[n_tok, n_kv_head * d]` at `places`.
    fn scatter(&mut self, device: &Device, places: &Array, x: &Tensor) {
        let [n_kv_head, d] = self.heads;
        let x = device.reshape(&x.array, &[x.shape[0], 1, n_kv_head, d]);
        let x = match &mut self.scales {
            None => device.astype(&x, self.data.dtype()),
            Some(scales) => {
                let scale = device.divide(&device.max_last(&device.abs(&x)), &device.scalar(127.0));
                let zero = device.equal(&scale, &device.scalar(0.0));
                let inverse = device.divide(&device.scalar(1.0), &scale);
                let inverse = device.select(&zero, &device.scalar(0.0), &inverse);
                *scales = device.scatter(scales, places, &scale);
                device.astype(&device.round(&device.multiply(&x, &inverse)), Dtype::I8)
            }
        };
        self.data = device.scatter(&self.data, places, &x);
    }

    /// Keys or values at `places` `[n]`, as `dtype`: `[n_kv_head, n, d]`.
    pub(crate) fn gather(&self, device: &Device, places: &Array, dtype: Dtype) -> Array {
        let x = device.astype(&device.take(&self.data, places, 0), dtype);
        let x = match &self.scales {
            Some(scales) => device.multiply(&x, &device.take(scales, places, 0)),
            None => x,
        };
        device.transpose(&x, &[1, 0, 2])
    }
}

fn array_bytes(array: &Array) -> usize {
    array.shape().iter().product::<usize>() * array.dtype().size()
}

fn row_slice(device: &Device, array: &Array, first: usize, n: usize) -> Array {
    let shape = array.shape();
    let (mut from, mut to) = (vec![0; shape.len()], shape);
    (from[0], to[0]) = (first, first + n);
    device.slice(array, &from, &to)
}

fn update_rows(device: &Device, array: &mut Array, rows: &Array, first: usize, n: usize) {
    let shape = array.shape();
    let (mut from, mut to) = (vec![0; shape.len()], shape);
    (from[0], to[0]) = (first, first + n);
    *array = device.slice_update(array, rows, &from, &to);
}

/// Copies `n` rows from row `from` to row `to`.
fn copy_rows(device: &Device, array: &mut Array, [from, to, n]: [usize; 3]) {
    let rows = row_slice(device, array, from, n);
    update_rows(device, array, &rows, to, n);
}

/// Bytes that a layer keeps for `n_place` tokens.
fn layer_bytes(layer: &LayerState, n_place: usize, spec: &KvSpec) -> u64 {
    let number = match spec.dtype {
        KvType::F32 => 4,
        KvType::F16 | KvType::BF16 => 2,
        KvType::Q8 | KvType::Q4 => 1,
    };
    let scale = if spec.dtype == KvType::Q8 { 4 } else { 0 };
    let width = |n: usize, d: usize| if d == 0 { 0 } else { n as u64 * (d as u64 * number + scale) };
    match *layer {
        LayerState::Kv { n_kv_head, d_k, d_v, .. } => {
            (width(n_kv_head, d_k) + width(n_kv_head, d_v)).saturating_mul(n_place as u64)
        }
        LayerState::Recurrent { conv, ssm } => (spec.n_slot as u64).saturating_mul(4 * (conv + ssm) as u64),
        LayerState::None => 0,
    }
}
