//! The operations of [`crate::Backend`] on this CPU. Each computes at once; a failure is kept for `read`.

use std::sync::Arc;

use super::attention::{Features, Planner};
use super::elementwise::{Activate, Arithmetic, Compute, Maxima, Normalize};
use super::kv::Kv;
use super::linear::{Context, Lists};
use super::matmul::{Activations, PackedMatrix};
use super::moe::Router;
use super::shared::Shared;
use super::tensor::{Memory, Tensor};
use super::vector::{Kernels, LANES};
use super::{Isa, Pool, recurrent, rope};
use crate::op::{Act, Attention, Delta, KvSpec, Linear, Moe, Norm, Rope, Seqs, Ssm};
use crate::{Backend, Error, MatrixData};

/// Numbers below which one thread computes all: waking the others takes longer.
const ALONE: usize = 16 * 1024;

/// The fast CPU backend.
///
/// A result depends neither on the number of threads nor on the other rows of a batch.
pub struct Cpu {
    kernels: Kernels,
    pool: Arc<Pool>,
    memory: Memory,
    activations: Activations,
    lists: Lists,
    router: Router,
    planner: Planner,
    tables: rope::Tables,
    error: Option<Error>,
}

impl Cpu {
    /// A backend that computes with `isa` in the threads of `pool`.
    ///
    /// # Errors
    /// If this machine lacks `isa`.
    pub fn new(pool: Arc<Pool>, isa: Isa) -> Result<Cpu, Error> {
        let message = || format!("this machine cannot run `{isa}`; choose another instruction set");
        let kernels = Kernels::new(isa).ok_or_else(|| Error::Device { backend: "cpu", message: message() })?;
        Ok(Cpu {
            kernels,
            pool,
            memory: Memory::default(),
            activations: Activations::new(isa),
            lists: Lists::default(),
            router: Router::default(),
            planner: Planner::default(),
            tables: rope::Tables::default(),
            error: None,
        })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// The threads.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn context(&mut self) -> Context<'_> {
        let Cpu { kernels, pool, memory, activations, .. } = self;
        Context { kernels: *kernels, pool, memory, activations }
    }

    /// Zeros in place of a result that could not be computed; `read` will say why.
    fn or_zeros(&mut self, result: Result<Tensor, Error>, shape: [usize; 2]) -> Tensor {
        result.unwrap_or_else(|error| {
            self.keep(error);
            let mut zeros = self.memory.tensor(shape);
            zeros.data.fill(0.0);
            zeros
        })
    }

    /// Keeps the first failure.
    fn keep(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// Runs `f` for each part of `x` of `size` numbers, in parallel when there is enough to do.
    fn parts(&mut self, x: &mut [f32], size: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        if x.is_empty() {
            return;
        }
        if x.len() <= ALONE {
            x.chunks_mut(size).enumerate().for_each(|(i, part)| f(i, part));
            return;
        }
        let (n, shared) = (x.len(), Shared::new(x));
        let result = self.pool.run(n.div_ceil(size), |_, i| {
            // SAFETY: each item has its own part.
            f(i, unsafe { shared.part(i * size, size.min(n - i * size)) });
        });
        if let Err(error) = result {
            self.keep(error);
        }
    }

    /// `op` on all numbers of `a`; `b` gives the part of the other numbers that lies at a place.
    fn compute<'b>(&mut self, a: &mut Tensor, b: impl Fn(usize, usize) -> Arithmetic<'b> + Sync) {
        let kernels = self.kernels;
        let size = 256 * LANES;
        self.parts(&mut a.data, size, |i, a| {
            let with = b(i * size, a.len());
            kernels.run(Compute { a, with });
        });
    }

    /// Every head of every row of `x` normalized into `out`.
    fn normalize(&mut self, x: &Tensor, n_head: usize, norm: &Norm<Cpu>) -> Tensor {
        let n_col = x.shape[1];
        assert!(n_head > 0 && n_col.is_multiple_of(n_head), "norm: rows of {n_col} in {n_head} heads");
        let d_head = n_col / n_head;
        let fits = |p: &Tensor| p.shape == [1, d_head] || p.shape == [n_head, d_head];
        let parameters = || [norm.weight.as_ref(), norm.bias.as_ref()].into_iter().flatten();
        assert!(parameters().all(fits), "norm: a weight or bias does not fit {n_head} heads of {d_head}");
        let mut out = self.memory.tensor(x.shape);
        let kernels = self.kernels;
        self.parts(&mut out.data, n_col, |token, out| {
            for (head, (out, x)) in out.chunks_exact_mut(d_head).zip(x.row(token).chunks_exact(d_head)).enumerate() {
                let parameter = |p: &'_ Tensor| if p.shape[0] == 1 { 0 } else { head };
                let weight = norm.weight.as_ref().map(|w| w.row(parameter(w)));
                let bias = norm.bias.as_ref().map(|b| b.row(parameter(b)));
                kernels.run(Normalize { x, out, kind: norm.kind, eps: norm.eps, weight, bias });
            }
        });
        out
    }

    /// The rows normalized, if there is a norm.
    fn normed(&mut self, x: &Tensor, norm: Option<&Norm<Cpu>>) -> Option<Tensor> {
        norm.map(|norm| self.normalize(x, 1, norm))
    }

    /// Rows of `n_col` numbers, each made of pieces of other rows.
    fn gather(&mut self, shape: [usize; 2], f: impl Fn(usize, &mut [f32]) + Sync) -> Tensor {
        let mut out = self.memory.tensor(shape);
        self.parts(&mut out.data, shape[1].max(1), f);
        out
    }
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Matrix = PackedMatrix;
    type Kv = Kv;

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn matrix(&mut self, parts: &[MatrixData]) -> Result<PackedMatrix, Error> {
        PackedMatrix::new(parts, self.isa())
    }

    fn experts(&mut self, experts: &[MatrixData]) -> Result<PackedMatrix, Error> {
        PackedMatrix::experts(experts, self.isa())
    }

    fn prepare(&mut self, matrix: &PackedMatrix) -> Result<(), Error> {
        matrix.pack(&self.pool)
    }

    fn tensor(&mut self, shape: [usize; 2], data: &[f32]) -> Tensor {
        assert_eq!(data.len(), shape[0] * shape[1], "tensor: shape {shape:?} does not fit the numbers given");
        let mut tensor = self.memory.tensor(shape);
        tensor.data.copy_from_slice(data);
        tensor
    }

    fn kv(&mut self, spec: &KvSpec) -> Result<Kv, Error> {
        Kv::new(spec)
    }

    fn embed(&mut self, table: &PackedMatrix, ids: &[u32]) -> Tensor {
        let mut out = self.memory.tensor([ids.len(), table.n_in()]);
        if let Err(error) = table.embed(&self.pool, ids, &mut out.data) {
            self.keep(error);
        }
        out
    }

    fn linears<const N: usize>(
        &mut self,
        x: &Tensor,
        norm: Option<&Norm<Self>>,
        linears: [&Linear<Self>; N],
    ) -> [Tensor; N] {
        let normed = self.normed(x, norm);
        let x = normed.as_ref().unwrap_or(x);
        self.context().linears(x, linears).unwrap_or_else(|error| {
            self.keep(error);
            linears.map(|l| {
                let mut zeros = self.memory.tensor([x.shape[0], l.matrix.n_out()]);
                zeros.data.fill(0.0);
                zeros
            })
        })
    }

    fn linear_add(&mut self, x: &Tensor, linear: &Linear<Self>, factor: f32, residual: Tensor) -> Tensor {
        let shape = residual.shape;
        let result = self.context().linear_add(x, linear, factor, residual);
        self.or_zeros(result, shape)
    }

    fn gate_up(
        &mut self,
        x: &Tensor,
        norm: Option<&Norm<Self>>,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        act: Act,
    ) -> Tensor {
        let normed = self.normed(x, norm);
        let x = normed.as_ref().unwrap_or(x);
        let result = self.context().gate_up(x, gate, up, act);
        self.or_zeros(result, [x.shape[0], gate.matrix.n_out()])
    }

    fn head_linear(&mut self, x: &Tensor, w: &PackedMatrix) -> Tensor {
        let Cpu { kernels, pool, memory, activations, lists, .. } = self;
        let result = Context { kernels: *kernels, pool, memory, activations }.head_linear(x, w, lists);
        self.or_zeros(result, [x.shape[0], w.n_expert() * w.n_out()])
    }

    fn moe(&mut self, x: &Tensor, logits: &Tensor, moe: &Moe<'_, Self>) -> Tensor {
        let Cpu { kernels, pool, memory, activations, router, .. } = self;
        let result = router.moe(Context { kernels: *kernels, pool, memory, activations }, x, logits, moe);
        self.or_zeros(result, [x.shape[0], moe.down.matrix.n_out()])
    }

    fn norm(&mut self, x: &Tensor, norm: &Norm<Self>) -> Tensor {
        self.normalize(x, 1, norm)
    }

    fn head_norm(&mut self, x: Tensor, n_head: usize, norm: &Norm<Self>) -> Tensor {
        self.normalize(&x, n_head, norm)
    }

    fn rope(&mut self, mut x: Tensor, n_head: usize, positions: &[i32], rope: &Rope) -> Tensor {
        let [n_tok, n_col] = x.shape;
        assert_eq!(positions.len(), n_tok, "rope: positions and rows differ in number");
        assert!(n_head > 0 && n_col.is_multiple_of(n_head), "rope: rows of {n_col} in {n_head} heads");
        let (d_head, n_pair) = (n_col / n_head, rope.freqs.len());
        assert!(rope.offset + 2 * n_pair <= d_head, "rope: {n_pair} pairs from {} in heads of {d_head}", rope.offset);
        if n_tok == 0 || n_pair == 0 {
            return x;
        }
        let mut tables = std::mem::take(&mut self.tables);
        let table = tables.get(&self.memory, rope, positions);
        let kernels = self.kernels;
        self.parts(&mut x.data, n_col, |token, x| kernels.run(table.rotate(token, x, d_head)));
        self.tables = tables;
        x
    }

    fn add(&mut self, mut a: Tensor, b: &Tensor) -> Tensor {
        let [n_row, n_col] = a.shape;
        if b.shape == a.shape {
            self.compute(&mut a, |at, n| Arithmetic::Add(&b.data[at..][..n]));
            return a;
        }
        assert_eq!(b.shape, [1, n_col], "add: {:?} to {:?}", b.shape, [n_row, n_col]);
        let kernels = self.kernels;
        self.parts(&mut a.data, n_col.max(1), |_, a| kernels.run(Compute { a, with: Arithmetic::Add(&b.data) }));
        a
    }

    fn mul(&mut self, mut a: Tensor, b: &Tensor) -> Tensor {
        let [n_row, n_col] = a.shape;
        let kernels = self.kernels;
        if b.shape == a.shape {
            self.compute(&mut a, |at, n| Arithmetic::Mul(&b.data[at..][..n]));
        } else if b.shape == [1, n_col] {
            self.parts(&mut a.data, n_col.max(1), |_, a| kernels.run(Compute { a, with: Arithmetic::Mul(&b.data) }));
        } else {
            assert_eq!(b.shape, [n_row, 1], "mul: {:?} by {:?}", [n_row, n_col], b.shape);
            self.parts(&mut a.data, n_col.max(1), |i, a| {
                kernels.run(Compute { a, with: Arithmetic::Scale(b.data[i]) });
            });
        }
        a
    }

    fn scale(&mut self, mut x: Tensor, factor: f32) -> Tensor {
        self.compute(&mut x, |_, _| Arithmetic::Scale(factor));
        x
    }

    fn act(&mut self, mut x: Tensor, act: Act) -> Tensor {
        let one = !matches!(act, Act::SwigluOai { .. });
        assert!(one, "SwigluOai is no function of one number: use it with a gate and an up");
        let kernels = self.kernels;
        self.parts(&mut x.data, 256 * LANES, |_, x| kernels.run(Activate { x, up: None, act }));
        x
    }

    fn glu(&mut self, mut gate: Tensor, up: &Tensor, act: Act) -> Tensor {
        assert_eq!(gate.shape, up.shape, "glu: gate and up differ in shape");
        let (kernels, size) = (self.kernels, 256 * LANES);
        self.parts(&mut gate.data, size, |i, x| {
            let up = Some(&up.data[i * size..][..x.len()]);
            kernels.run(Activate { x, up, act });
        });
        gate
    }

    fn softcap(&mut self, mut x: Tensor, cap: f32) -> Tensor {
        self.compute(&mut x, |_, _| Arithmetic::Softcap(cap));
        x
    }

    fn columns(&mut self, x: &Tensor, from: usize, to: usize) -> Tensor {
        assert!(from <= to && to <= x.shape[1], "columns: {from}..{to} of {}", x.shape[1]);
        self.gather([x.shape[0], to - from], |i, out| out.copy_from_slice(&x.row(i)[from..to]))
    }

    fn concat_heads(&mut self, a: &Tensor, b: &Tensor, n_head: usize, n_head_b: usize) -> Tensor {
        let ([n_tok, n_a], [n_tok_b, n_b]) = (a.shape, b.shape);
        assert_eq!(n_tok, n_tok_b, "concat_heads: the tensors differ in rows");
        assert!(n_head > 0 && n_a.is_multiple_of(n_head), "concat_heads: rows of {n_a} in {n_head} heads");
        assert!([1, n_head].contains(&n_head_b), "concat_heads: {n_head_b} heads to each of {n_head}");
        assert!(n_b.is_multiple_of(n_head_b), "concat_heads: rows of {n_b} in {n_head_b} heads");
        let (d_a, d_b) = (n_a / n_head, n_b / n_head_b);
        self.gather([n_tok, n_head * (d_a + d_b)], |i, out| {
            let (a, b) = (a.row(i), b.row(i));
            for (h, out) in out.chunks_exact_mut(d_a + d_b).enumerate() {
                let h_b = if n_head_b == 1 { 0 } else { h };
                out[..d_a].copy_from_slice(&a[h * d_a..][..d_a]);
                out[d_a..].copy_from_slice(&b[h_b * d_b..][..d_b]);
            }
        })
    }

    fn rows(&mut self, x: &Tensor, indices: &[usize]) -> Tensor {
        let n_row = x.shape[0];
        indices.iter().for_each(|&i| assert!(i < n_row, "rows: row {i} of {n_row}"));
        self.gather([indices.len(), x.shape[1]], |i, out| out.copy_from_slice(x.row(indices[i])))
    }

    fn kv_append(&mut self, kv: &mut Kv, layer: usize, k: &Tensor, v: Option<&Tensor>, seqs: &Seqs<'_>) {
        if let Err(error) = kv.append((self.kernels, &self.pool), layer, (k, v), seqs) {
            self.keep(error);
        }
    }

    fn attention(
        &mut self,
        q: &Tensor,
        kv: &Kv,
        layer: usize,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> Tensor {
        let (heads, ..) = kv.layer(layer);
        heads.check_attention(q.shape, attention, |t| t.shape);
        let Attention { n_head, scale, window, softcap, causal, .. } = *attention;
        let (sinks, alibi) = (attention.sinks.map(|t| &*t.data), attention.alibi.map(|t| &*t.data));
        let features = Features { n_head, scale, window, softcap, sinks, alibi, causal };
        let Cpu { kernels, pool, memory, planner, .. } = self;
        let result = planner.attention((*kernels, pool, memory), (q, kv, layer), features, seqs);
        self.or_zeros(result, [q.shape[0], n_head * heads.d_out()])
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
        let with = (self.kernels, &*self.pool, &self.memory);
        let result = recurrent::conv(with, (kv, layer), x, (weight, bias), seqs);
        self.or_zeros(result, x.shape)
    }

    fn ssm_scan(&mut self, kv: &mut Kv, layer: usize, ssm: &Ssm, inputs: [&Tensor; 3], seqs: &Seqs<'_>) -> Tensor {
        let with = (self.kernels, &*self.pool, &self.memory);
        let result = recurrent::ssm_scan(with, (kv, layer), ssm, inputs, seqs);
        self.or_zeros(result, [inputs[0].shape[0], ssm.n_head * ssm.d_head])
    }

    fn delta_scan(
        &mut self,
        kv: &mut Kv,
        layer: usize,
        delta: &Delta,
        inputs: [&Tensor; 5],
        seqs: &Seqs<'_>,
    ) -> Tensor {
        let with = (self.kernels, &*self.pool, &self.memory);
        let result = recurrent::delta_scan(with, (kv, layer), delta, inputs, seqs);
        self.or_zeros(result, inputs[2].shape)
    }

    fn copy_page(&mut self, kv: &mut Kv, from: u32, to: u32) {
        kv.copy_page(from, to);
    }

    fn copy_token(&mut self, kv: &mut Kv, from: (u32, usize), to: (u32, usize)) {
        kv.copy_token(from, to);
    }

    fn export_page(&self, kv: &Kv, page: u32, out: &mut Vec<u8>) {
        kv.export_page(page, out);
    }

    fn import_page(&mut self, kv: &mut Kv, page: u32, bytes: &[u8]) -> Result<(), Error> {
        kv.import_page(page, bytes)
    }

    fn copy_slot(&mut self, kv: &mut Kv, from: usize, to: usize) {
        kv.copy_slot(from, to);
    }

    fn export_slot(&self, kv: &Kv, slot: usize, out: &mut Vec<u8>) {
        kv.export_slot(slot, out);
    }

    fn import_slot(&mut self, kv: &mut Kv, slot: usize, bytes: &[u8]) -> Result<(), Error> {
        kv.import_slot(slot, bytes)
    }

    fn read(&mut self, x: &Tensor, out: &mut Vec<f32>) -> Result<(), Error> {
        match self.error.take() {
            Some(error) => Err(error),
            None => {
                out.extend_from_slice(&x.data);
                Ok(())
            }
        }
    }

    fn view<'a>(&mut self, x: &'a Tensor, _: Option<usize>, _: &'a mut Vec<f32>) -> Result<&'a [f32], Error> {
        self.error.take().map_or(Ok(&x.data), Err)
    }

    fn maxima(&mut self, x: &Tensor, block: usize, out: &mut Vec<f32>) -> bool {
        let ([n_row, n_col], kernels) = (x.shape, self.kernels);
        let n = n_col.div_ceil(block);
        out.resize(n_row * n, 0.0);
        if x.data.len() <= ALONE {
            out.chunks_mut(n.max(1)).enumerate().for_each(|(i, out)| kernels.run(Maxima { x: x.row(i), block, out }));
            return true;
        }
        let out = Shared::new(out);
        let result = self.pool.run(n_row, |_, i| {
            // SAFETY: each item has its own part.
            kernels.run(Maxima { x: x.row(i), block, out: unsafe { out.part(i * n, n) } });
        });
        if let Err(error) = result {
            self.keep(error);
        }
        true
    }

    fn shape(&self, x: &Tensor) -> [usize; 2] {
        x.shape
    }
}
