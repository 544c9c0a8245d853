//! The operations of a decoder as a graph of MLX's operations.
//!
//! Nothing runs until [`Backend::read`] or [`Backend::start`]. Tensors are f32; weights keep their packing.

use mlxr_compute::op::{Act, Attention, Delta, KvSpec, KvType, Linear, Moe, Norm, Rope, Seqs, Ssm};
use mlxr_compute::{Backend, DType, Encoding, Error, MatrixData};

use crate::ahead::Ahead;
use crate::choice::{Kernels, Precision};
use crate::ffi::{Array, Device, Dtype, Kind};
use crate::kernel::blocks::Reads;
use crate::matrix::{self, Matrix, Prepared};
use crate::own::attend::Qkv;
use crate::own::product::Three;
use crate::own::{Own, attend, best, product};
use crate::plan::Plan;
use crate::rows::Periods;
use crate::store::Kv;
use crate::tensor::Tensor;
use crate::{NAME, attention, moe, recurrent, rows};

/// The backend.
pub struct Mlx {
    pub(crate) device: Device,
    pub(crate) own: Option<Own>,
    precision: Precision,
    pub(crate) plan: Plan,
    pub(crate) periods: Periods,
    /// The `done` of the last append by our kernels: the store's arrays do not tell, as it writes into them.
    appended: Option<Array>,
    ahead: Ahead,
    warn: Box<dyn FnMut(&str) + Send>,
    warned: Vec<String>,
}

impl Mlx {
    /// A backend on a device. `warn` hears once of each encoding that has to be decoded when it is loaded. Our kernels
    /// compute in half precision, on GPUs.
    pub fn new(device: Device, precision: Precision, kernels: Kernels, warn: Box<dyn FnMut(&str) + Send>) -> Mlx {
        let wanted = kernels == Kernels::Own && precision == Precision::Half;
        let own = device.platform().filter(|_| wanted).map(Own::new);
        Mlx {
            device,
            own,
            precision,
            plan: Plan::default(),
            periods: Periods::default(),
            appended: None,
            ahead: Ahead::default(),
            warn,
            warned: Vec::new(),
        }
    }

    /// What computes.
    pub fn kind(&self) -> Kind {
        self.device.kind()
    }

    /// The matrices in formats that these kernels compute with; `stacked` ones are those of experts or heads.
    fn prepare(&mut self, data: &[MatrixData], stacked: bool) -> Result<Vec<Prepared>, Error> {
        let platform = self.own.as_ref().map(Own::reads_as);
        let reads = if stacked { Reads::experts(platform) } else { Reads::dense(platform) };
        let mut prepared = Vec::with_capacity(data.len());
        for data in data {
            let matrix = matrix::prepare(data, self.precision, reads)?;
            let encoding = data.encoding.to_string();
            if matrix.decoded && !self.warned.contains(&encoding) {
                let (now, were) = (matrix.data.bytes() as f64, data.bytes() as f64);
                (self.warn)(&format!(
                    "MLX has no kernel for {encoding}: its matrices are decoded to {} and take {:.1} times the memory",
                    matrix.data.encoding,
                    now / were
                ));
                self.warned.push(encoding);
            }
            prepared.push(matrix);
        }
        let prepared = if stacked { prepared } else { matrix::few_in_f32(prepared, reads)? };
        self.device.reserve("a model's weights", prepared.iter().map(Prepared::device_bytes).sum())?;
        Ok(prepared)
    }

    fn linear(&self, x: &Array, linear: &Linear<Mlx>) -> Array {
        self.finished(linear.matrix.product(self.own.as_ref(), &self.device, x), linear)
    }

    /// `scale * y + bias`.
    fn finished(&self, mut y: Array, linear: &Linear<Mlx>) -> Array {
        let d = &self.device;
        if linear.scale != 1.0 {
            y = d.multiply(&y, &d.scalar(linear.scale));
        }
        match &linear.bias {
            Some(bias) => d.add(&y, &bias.array),
            None => y,
        }
    }

    /// The linears' results, each by our kernels where they can.
    fn products<const N: usize>(&self, x: &Tensor, norm: Option<&Norm<Mlx>>, linears: [&Linear<Mlx>; N]) -> [Array; N] {
        let rows = self.own.as_ref().and_then(|own| Some((own, product::Rows::of((own, &self.device), x, norm)?)));
        if let (Some((own, rows)), [a, b, c]) = (&rows, &linears[..])
            && let Some(three) = Three::new(own, rows, [&a.matrix, &b.matrix, &c.matrix])
        {
            let mut made = three.products(own, &self.device, rows).into_iter();
            return linears.map(|l| self.finished(made.next().expect("an array for each of three"), l));
        }
        let mut normed = None;
        linears.map(|l| {
            let own = rows.as_ref().and_then(|(own, rows)| product::product(own, &self.device, rows, &l.matrix, None));
            match own {
                Some(y) => self.finished(y, l),
                None => self.linear(normed.get_or_insert_with(|| self.normed(x, norm)), l),
            }
        })
    }

    /// Attention by our kernels, which the caller has asked.
    fn own_attend(
        &mut self,
        qkv: Qkv<'_>,
        (kv, layer): (&mut Kv, usize),
        how: (Option<&Rope>, &Attention<'_, Mlx>),
        seqs: &Seqs<'_>,
    ) -> Tensor {
        self.plan.update(seqs);
        let (plan, before) = (&mut self.plan, self.appended.take());
        let own = self.own.as_ref().expect("the caller has asked our kernels");
        let step = attend::Step { plan, seqs, before };
        let (out, appended) = attend::attend(own, &self.device, step, qkv, (kv, layer), how);
        self.appended = Some(appended);
        out
    }

    /// Waits for the appends of our kernels: MLX's operations on the store do not know of them.
    fn settle(&mut self) {
        self.ahead.forget();
        if let Some(appended) = self.appended.take() {
            self.device.settle(&appended);
        }
    }

    /// The rows normalized, if there is a norm.
    fn normed(&self, x: &Tensor, norm: Option<&Norm<Mlx>>) -> Array {
        norm.map_or_else(|| x.array.clone(), |norm| rows::norm(&self.device, x, 1, norm).array)
    }
}

impl Backend for Mlx {
    type Tensor = Tensor;
    type Matrix = Matrix;
    type Kv = Kv;

    fn name(&self) -> &'static str {
        NAME
    }

    fn matrix(&mut self, parts: &[MatrixData]) -> Result<Matrix, Error> {
        let prepared = self.prepare(parts, false)?;
        Matrix::stacked(&self.device, &prepared)
    }

    fn experts(&mut self, experts: &[MatrixData]) -> Result<Matrix, Error> {
        let mut prepared = matrix::agreed(self.prepare(experts, true)?);
        // Experts of several formats, and on the processor, where MLX gathers only f32: all as plain numbers.
        let mixed = prepared.iter().any(|p| !p.like(&prepared[0]));
        let plain = prepared.iter().any(|p| matches!(p.data.encoding, Encoding::Blocks(_)));
        if mixed || plain && self.kind() == Kind::Cpu {
            let plain = |expert: &MatrixData| Ok(Prepared::plain(expert.to_blocks(DType::F32)?));
            prepared = experts.iter().map(plain).collect::<Result<_, Error>>()?;
        }
        Matrix::experts(&self.device, &prepared)
    }

    fn compiled(&mut self) -> bool {
        self.own.as_ref().is_some_and(|own| own.compiled(&mut *self.warn))
    }

    fn tensor(&mut self, shape: [usize; 2], data: &[f32]) -> Tensor {
        assert_eq!(data.len(), shape[0] * shape[1], "tensor: shape {shape:?} does not fit the numbers given");
        Tensor::new(self.device.from_slice(data, &shape, Dtype::F32), shape)
    }

    fn kv(&mut self, spec: &KvSpec) -> Result<Kv, Error> {
        Kv::new(&self.device, spec)
    }

    fn embed(&mut self, table: &Matrix, ids: &[u32]) -> Tensor {
        let last = ids.iter().max().copied().unwrap_or(0) as usize;
        assert!(last < table.n_out, "embed: id {last} of a table of {} rows", table.n_out);
        let indices = self.device.from_slice(ids, &[ids.len()], Dtype::U32);
        self.ahead.embeds(&indices);
        Tensor::new(table.rows(self.own.as_ref(), &self.device, &indices), [ids.len(), table.n_in])
    }

    fn linears<const N: usize>(
        &mut self,
        x: &Tensor,
        norm: Option<&Norm<Self>>,
        linears: [&Linear<Self>; N],
    ) -> [Tensor; N] {
        let mut arrays = self.products(x, norm, linears).into_iter();
        linears.map(|l| {
            let array = arrays.next().expect("an array for each linear");
            Tensor::new(array, [x.shape[0], l.matrix.n_out])
        })
    }

    fn linear_add(&mut self, x: &Tensor, linear: &Linear<Self>, factor: f32, residual: Tensor) -> Tensor {
        assert_eq!(
            [x.shape[0], linear.matrix.n_out],
            residual.shape,
            "linear_add: product and residual differ in shape"
        );
        if let (Some(own), true) = (&self.own, factor == 1.0 && linear.scale == 1.0 && linear.bias.is_none()) {
            let rows = product::Rows::new(x, None);
            let residual = Some(&residual.array);
            let sum = rows.and_then(|rows| product::product(own, &self.device, &rows, &linear.matrix, residual));
            if let Some(array) = sum {
                return Tensor::new(array, [x.shape[0], linear.matrix.n_out]);
            }
        }
        let [mut y] = self.products(x, None, [linear]);
        if factor != 1.0 {
            y = self.device.multiply(&y, &self.device.scalar(factor));
        }
        Tensor::new(self.device.add(&residual.array, &y), residual.shape)
    }

    fn gate_up(
        &mut self,
        x: &Tensor,
        norm: Option<&Norm<Self>>,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        act: Act,
    ) -> Tensor {
        let shape = [x.shape[0], gate.matrix.n_out];
        let plain = [gate, up].iter().all(|l| l.scale == 1.0 && l.bias.is_none());
        if let (Some(own), true) = (&self.own, plain) {
            let matrices = [&gate.matrix, &up.matrix];
            let rows = product::Rows::new(x, norm);
            if let Some((array, form)) = rows.and_then(|rows| product::gated(own, &self.device, &rows, matrices, act)) {
                return Tensor { form, ..Tensor::new(array, shape) };
            }
        }
        let [gate_rows, up_rows] = self.products(x, norm, [gate, up]);
        Tensor::new(rows::glu(&self.device, &gate_rows, &up_rows, act), shape)
    }

    fn head_linear(&mut self, x: &Tensor, w: &Matrix) -> Tensor {
        let [n_tok, n_col] = x.shape;
        assert_eq!(n_col, w.n_matrix * w.n_in, "head_linear: rows of {n_col}, {} heads of {}", w.n_matrix, w.n_in);
        let y = w.of_heads(self.own.as_ref(), &self.device, &x.array, n_tok);
        Tensor::new(y, [n_tok, w.n_matrix * w.n_out])
    }

    fn moe(&mut self, x: &Tensor, logits: &Tensor, moe: &Moe<'_, Self>) -> Tensor {
        moe::moe(self.own.as_ref(), &self.device, x, logits, moe)
    }

    fn norm(&mut self, x: &Tensor, norm: &Norm<Self>) -> Tensor {
        rows::norm(&self.device, x, 1, norm)
    }

    fn head_norm(&mut self, x: Tensor, n_head: usize, norm: &Norm<Self>) -> Tensor {
        rows::norm(&self.device, &x, n_head, norm)
    }

    fn rope(&mut self, x: Tensor, n_head: usize, positions: &[i32], rope: &Rope) -> Tensor {
        rows::rope(self, &x, n_head, positions, rope)
    }

    fn add(&mut self, a: Tensor, b: &Tensor) -> Tensor {
        assert!(b.shape == a.shape || b.shape == [1, a.shape[1]], "add: {:?} to {:?}", b.shape, a.shape);
        Tensor::new(self.device.add(&a.array, &b.array), a.shape)
    }

    fn mul(&mut self, a: Tensor, b: &Tensor) -> Tensor {
        let [n_row, n_col] = a.shape;
        let fits = [[n_row, n_col], [1, n_col], [n_row, 1]].contains(&b.shape);
        assert!(fits, "mul: {:?} by {:?}", a.shape, b.shape);
        Tensor::new(self.device.multiply(&a.array, &b.array), a.shape)
    }

    fn scale(&mut self, x: Tensor, factor: f32) -> Tensor {
        Tensor::new(self.device.multiply(&x.array, &self.device.scalar(factor)), x.shape)
    }

    fn act(&mut self, x: Tensor, act: Act) -> Tensor {
        Tensor::new(rows::act(&self.device, &x.array, act), x.shape)
    }

    fn glu(&mut self, gate: Tensor, up: &Tensor, act: Act) -> Tensor {
        assert_eq!(gate.shape, up.shape, "glu: gate and up differ in shape");
        Tensor::new(rows::glu(&self.device, &gate.array, &up.array, act), gate.shape)
    }

    fn softcap(&mut self, x: Tensor, cap: f32) -> Tensor {
        Tensor::new(rows::softcap(&self.device, &x.array, cap), x.shape)
    }

    fn columns(&mut self, x: &Tensor, from: usize, to: usize) -> Tensor {
        assert!(from <= to && to <= x.shape[1], "columns: {from}..{to} of {}", x.shape[1]);
        let array = self.device.slice(&x.array, &[0, from], &[x.shape[0], to]);
        Tensor::new(array, [x.shape[0], to - from])
    }

    fn concat_heads(&mut self, a: &Tensor, b: &Tensor, n_head: usize, n_head_b: usize) -> Tensor {
        rows::concat_heads(&self.device, a, b, n_head, n_head_b)
    }

    fn rows(&mut self, x: &Tensor, indices: &[usize]) -> Tensor {
        assert!(indices.iter().all(|&i| i < x.shape[0]), "rows: {indices:?} of {}", x.shape[0]);
        let rows: Vec<u32> = indices.iter().map(|&i| i as u32).collect();
        let rows = self.device.from_slice(&rows, &[rows.len()], Dtype::U32);
        Tensor::new(self.device.take(&x.array, &rows, 0), [indices.len(), x.shape[1]])
    }

    fn kv_append(&mut self, kv: &mut Kv, layer: usize, k: &Tensor, v: Option<&Tensor>, seqs: &Seqs<'_>) {
        self.ahead.stores();
        self.settle();
        self.plan.update(seqs);
        kv.append(&self.device, &mut self.plan, layer, [Some(k), v], seqs);
    }

    fn attention(
        &mut self,
        q: &Tensor,
        kv: &Kv,
        layer: usize,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> Tensor {
        self.ahead.stores();
        self.settle();
        self.plan.update(seqs);
        attention::attention(&self.device, &mut self.plan, q, (kv, layer), attention, seqs)
    }

    fn attend(
        &mut self,
        [q, k, v]: [Tensor; 3],
        kv: &mut Kv,
        layer: usize,
        rope: Option<&Rope>,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> Tensor {
        if self.own.is_some() && attend::fits(kv, layer, rope, attention, seqs) {
            return self.own_attend(Qkv::Made([&q, &k, &v]), (kv, layer), (rope, attention), seqs);
        }
        mlxr_compute::attend_apart(self, [q, k, v], (kv, layer), rope, attention, seqs)
    }

    fn linears_attend(
        &mut self,
        (x, norm): (&Tensor, Option<&Norm<Self>>),
        linears: [&Linear<Self>; 3],
        (kv, layer): (&mut Kv, usize),
        rope: Option<&Rope>,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> Tensor {
        let plain = kv.spec.dtype == KvType::F16 && linears.iter().all(|l| l.scale == 1.0 && l.bias.is_none());
        if let (Some(own), true) = (&self.own, plain && attend::fits(kv, layer, rope, attention, seqs)) {
            let rows = product::Rows::new(x, norm);
            let three = rows.and_then(|rows| Some((Three::new(own, &rows, linears.map(|l| &l.matrix))?, rows)));
            if let Some((three, rows)) =
                three.filter(|(three, _)| three.rotates(linears[0].matrix.n_out / attention.n_head, rope))
            {
                return self.own_attend(Qkv::From(&three, &rows), (kv, layer), (rope, attention), seqs);
            }
        }
        let qkv = self.linears(x, norm, linears);
        self.attend(qkv, kv, layer, rope, attention, seqs)
    }

    fn conv(
        &mut self,
        kv: &mut Kv,
        layer: usize,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        seqs: &Seqs<'_>,
    ) -> Tensor {
        self.ahead.stores();
        recurrent::conv(&self.device, (kv, layer), x, weight, bias, seqs)
    }

    fn ssm_scan(&mut self, kv: &mut Kv, layer: usize, ssm: &Ssm, inputs: [&Tensor; 3], seqs: &Seqs<'_>) -> Tensor {
        self.ahead.stores();
        recurrent::ssm_scan(&self.device, (kv, layer), ssm, inputs, seqs)
    }

    fn delta_scan(
        &mut self,
        kv: &mut Kv,
        layer: usize,
        delta: &Delta,
        inputs: [&Tensor; 5],
        seqs: &Seqs<'_>,
    ) -> Tensor {
        self.ahead.stores();
        recurrent::delta_scan(&self.device, (kv, layer), delta, inputs, seqs)
    }

    fn copy_page(&mut self, kv: &mut Kv, from: u32, to: u32) {
        self.settle();
        kv.copy_page(&self.device, from, to);
    }

    fn copy_token(&mut self, kv: &mut Kv, from: (u32, usize), to: (u32, usize)) {
        self.settle();
        kv.copy_token(&self.device, from, to);
    }

    fn export_page(&self, kv: &Kv, page: u32, out: &mut Vec<u8>) {
        if let Some(appended) = &self.appended {
            self.device.settle(appended);
        }
        kv.export_page(&self.device, page, out);
    }

    fn import_page(&mut self, kv: &mut Kv, page: u32, bytes: &[u8]) -> Result<(), Error> {
        self.settle();
        kv.import_page(&self.device, page, bytes)
    }

    fn copy_slot(&mut self, kv: &mut Kv, from: usize, to: usize) {
        self.ahead.forget();
        kv.copy_slot(&self.device, from, to);
    }

    fn export_slot(&self, kv: &Kv, slot: usize, out: &mut Vec<u8>) {
        kv.export_slot(&self.device, slot, out);
    }

    fn import_slot(&mut self, kv: &mut Kv, slot: usize, bytes: &[u8]) -> Result<(), Error> {
        self.ahead.forget();
        kv.import_slot(&self.device, slot, bytes)
    }

    fn start(&mut self, kv: &Kv) -> Result<(), Error> {
        self.ahead.ends();
        let mut arrays = kv.arrays();
        // It stays: the next step's first append comes after this one's last.
        arrays.extend(&self.appended);
        self.device.start(&arrays)
    }

    fn prefetch(&mut self, x: &mut Tensor, n_best: Option<usize>) -> Result<(), Error> {
        let best = |n| Some((n, best::best(self.own.as_ref()?, &self.device, x, n)?));
        x.best = n_best.and_then(best);
        self.device.start(&[x.best.as_ref().map_or(&x.array, |(_, best)| best)])
    }

    fn begin_ahead(&mut self) -> bool {
        self.own.is_some() && self.ahead.begin(&self.appended)
    }

    fn end_ahead(&mut self) {
        self.ahead.end(&self.plan, &mut self.appended);
    }

    fn resume(&mut self, ids: &[u32], seqs: &Seqs<'_>) -> bool {
        match self.ahead.resume(&self.device, ids, seqs) {
            Some(appended) => {
                self.appended = Some(appended);
                true
            }
            None => false,
        }
    }

    fn forget(&mut self) {
        self.ahead.forget();
    }

    fn read(&mut self, x: &Tensor, out: &mut Vec<f32>) -> Result<(), Error> {
        self.device.read(&x.array, |bytes| out.extend(bytemuck::pod_collect_to_vec::<u8, f32>(bytes)))
    }

    fn read_best(&mut self, x: &Tensor, n_best: usize, out: &mut Vec<f32>) -> Result<(), Error> {
        let found = match &x.best {
            Some((n, found)) if *n == n_best => Some(found.clone()),
            _ => self.own.as_ref().and_then(|own| best::best(own, &self.device, x, n_best)),
        };
        match found {
            Some(found) => self.device.read_made(&found, |bytes| best::spread(bytes, x.shape, out)),
            None => self.read(x, out),
        }
    }

    fn shape(&self, x: &Tensor) -> [usize; 2] {
        x.shape
    }
}
