//! A backend that passes every operation on to another one and adds up the squares of what each matrix is multiplied
//! with: what an importance matrix is made of.
//!
//! A matrix is known by the name that its [`MatrixData`] had. Normalization, scales and biases that others fuse with a
//! product are operations of their own here, and a mixture of experts is computed expert by expert, so that the inputs of
//! each are at hand: results agree with the inner backend's within rounding.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::op::{Act, Attention, Delta, Experts, KvSpec, Linear, Moe, Norm, Rope, Seqs, Ssm};
use crate::scalar::route;
use crate::{Backend, Error, MatrixData};

/// Squares of the inputs of one matrix, or of the matrices of all experts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InputSquares {
    /// Squares summed over the rows, `[n_matrix, n_in]`.
    pub squares: Vec<f64>,
    /// Rows of each matrix. One number for matrices that all see every row.
    pub counts: Vec<u64>,
}

/// What to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The squares of each input.
    Squares,
    /// Those, and the products of every two inputs of each matrix but experts': `n_in^2` numbers each.
    Products,
}

/// What was recorded; shared with the [`Recorder`], which a model takes with it.
#[derive(Debug, Clone)]
pub struct Recording(Arc<Mutex<Sums>>);

#[derive(Debug)]
struct Sums {
    record: Record,
    /// By the matrix's name.
    squares: BTreeMap<String, InputSquares>,
    /// `[n_in, n_in]`, the part on and above the diagonal, by the names of the matrices that share their input.
    products: BTreeMap<Vec<String>, Arc<Vec<f32>>>,
}

impl Recording {
    /// The squares that were recorded so far.
    pub fn squares(&self) -> BTreeMap<String, InputSquares> {
        self.lock().squares.clone()
    }

    /// Sums of the products of every two inputs of a matrix, `[n_in, n_in]`, of which the part on and above the diagonal
    /// is set; `None` if they were not recorded.
    pub fn products(&self, name: &str) -> Option<Arc<Vec<f32>>> {
        let sums = self.lock();
        let mut of_name = sums.products.iter().filter(|(names, _)| names.iter().any(|other| other == name));
        let (_, first) = of_name.next()?;
        let mut all = first.clone();
        // A matrix that is used with one group of others here and with another there.
        for (_, more) in of_name {
            Arc::make_mut(&mut all).iter_mut().zip(more.iter()).for_each(|(sum, x)| *sum += x);
        }
        Some(all)
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds the products of rows of `x`, which the matrices `names` share.
    fn add_products(&self, names: &[String], x: &[f32], n_in: usize) {
        let mut sums = self.lock();
        if sums.record != Record::Products || names.is_empty() {
            return;
        }
        let products = sums.products.entry(names.to_vec()).or_default();
        let products = Arc::get_mut(products).expect("products are taken when the model has run");
        products.resize(n_in * n_in, 0.0);
        for row in x.chunks_exact(n_in) {
            for (i, a) in row.iter().enumerate() {
                let out = &mut products[i * n_in + i..(i + 1) * n_in];
                out.iter_mut().zip(&row[i..]).for_each(|(out, b)| *out += a * b);
            }
        }
    }

    /// Adds rows of `x` to matrix `k` of `n` that `name` stands for.
    fn add(&self, name: &str, x: &[f32], n_in: usize, (k, n): (usize, usize)) {
        let mut all = self.lock();
        let sums = all.squares.entry(name.to_owned()).or_default();
        sums.squares.resize(n * n_in, 0.0);
        sums.counts.resize(n, 0);
        sums.counts[k] += (x.len() / n_in) as u64;
        let squares = &mut sums.squares[k * n_in..][..n_in];
        for row in x.chunks_exact(n_in) {
            squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        }
    }
}

/// Records for the backend `B`.
pub struct Recorder<B: Backend> {
    inner: B,
    recording: Recording,
}

/// A matrix of the inner backend, or those of all experts, and the names of its parts.
pub struct Matrix<B: Backend> {
    /// One, or one of each expert; without bias and scale.
    linears: Vec<Linear<B>>,
    /// Those of a head's matrices, together, for [`Backend::head_linear`].
    names: Vec<String>,
    n_in: usize,
    n_out: usize,
}

impl<B: Backend> Recorder<B> {
    /// Records what `inner` computes.
    pub fn new(inner: B, record: Record) -> (Recorder<B>, Recording) {
        let (squares, products) = (BTreeMap::new(), BTreeMap::new());
        let recording = Recording(Arc::new(Mutex::new(Sums { record, squares, products })));
        (Recorder { inner, recording: recording.clone() }, recording)
    }

    fn wrap(&mut self, parts: &[MatrixData]) -> Result<Linear<B>, Error> {
        Ok(Linear { matrix: self.inner.matrix(parts)?, bias: None, scale: 1.0 })
    }

    fn numbers(&mut self, x: &B::Tensor) -> Vec<f32> {
        let mut out = Vec::new();
        self.inner.read(x, &mut out).expect("a tensor that was just computed can be read");
        out
    }

    fn record(&mut self, x: &B::Tensor, names: impl IntoIterator<Item = String>) {
        let n_in = self.inner.shape(x)[1];
        let numbers = self.numbers(x);
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        names.dedup();
        names.iter().for_each(|name| self.recording.add(name, &numbers, n_in, (0, 1)));
        self.recording.add_products(&names, &numbers, n_in);
    }

    /// `x` normalized, or `None` where there is no norm.
    fn normed(&mut self, x: &B::Tensor, norm: Option<&Norm<Self>>) -> Option<B::Tensor> {
        norm.map(|norm| self.norm(x, norm))
    }

    fn apply(&mut self, x: &B::Tensor, linear: &Linear<Self>) -> B::Tensor {
        let [y] = self.inner.linears(x, None, [&linear.matrix.linears[0]]);
        let y = if linear.scale == 1.0 { y } else { self.inner.scale(y, linear.scale) };
        match &linear.bias {
            Some(bias) => self.inner.add(y, bias),
            None => y,
        }
    }

    /// `scale * (W x) + bias` of one expert, recorded.
    fn apply_expert(&mut self, x: &B::Tensor, experts: &Experts<Self>, e: usize) -> B::Tensor {
        let matrix = &experts.matrix;
        let numbers = self.numbers(x);
        let k = (e, matrix.linears.len());
        matrix.names.iter().for_each(|name| self.recording.add(name, &numbers, matrix.n_in, k));
        let [y] = self.inner.linears(x, None, [&matrix.linears[e]]);
        let scale = experts.scale.get(e).copied().unwrap_or(1.0);
        let y = if scale == 1.0 { y } else { self.inner.scale(y, scale) };
        let Some(bias) = &experts.bias else { return y };
        let bias = self.inner.rows(bias, &[e]);
        self.inner.add(y, &bias)
    }

    /// `down(act(gate(x)) * up(x))` of one expert.
    fn feed_forward(&mut self, x: &B::Tensor, moe: &Moe<'_, Self>, e: usize) -> B::Tensor {
        let up = self.apply_expert(x, moe.up, e);
        let hidden = match moe.gate {
            Some(gate) => {
                let gate = self.apply_expert(x, gate, e);
                self.inner.glu(gate, &up, moe.act)
            }
            None if moe.merged => {
                let n = self.inner.shape(&up)[1];
                let [gate, up] = [(0, n / 2), (n / 2, n)].map(|(from, to)| self.inner.columns(&up, from, to));
                self.inner.glu(gate, &up, moe.act)
            }
            None => self.inner.act(up, moe.act),
        };
        self.apply_expert(&hidden, moe.down, e)
    }
}

/// `out[row] += factor * y[i]` for `(row, factor)` number `i`.
fn scatter(out: &mut [f32], n_out: usize, y: &[f32], places: &[(usize, f32)]) {
    for ((row, factor), y) in places.iter().zip(y.chunks_exact(n_out)) {
        out[row * n_out..][..n_out].iter_mut().zip(y).for_each(|(out, y)| *out += factor * y);
    }
}

impl<B: Backend> Backend for Recorder<B> {
    type Tensor = B::Tensor;
    type Matrix = Matrix<B>;
    type Kv = B::Kv;

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn matrix(&mut self, parts: &[MatrixData]) -> Result<Matrix<B>, Error> {
        let names = parts.iter().map(|part| part.name.clone()).collect();
        let n_out = parts.iter().map(|part| part.n_out).sum();
        Ok(Matrix { linears: vec![self.wrap(parts)?], names, n_in: parts[0].n_in, n_out })
    }

    fn experts(&mut self, experts: &[MatrixData]) -> Result<Matrix<B>, Error> {
        let mut names: Vec<String> = experts.iter().map(|part| part.name.clone()).collect();
        names.dedup();
        let (n_in, n_out) = (experts[0].n_in, experts[0].n_out);
        let linears = experts.iter().map(|part| self.wrap(std::slice::from_ref(part))).collect::<Result<_, _>>()?;
        Ok(Matrix { linears, names, n_in, n_out })
    }

    fn tensor(&mut self, shape: [usize; 2], data: &[f32]) -> B::Tensor {
        self.inner.tensor(shape, data)
    }

    fn kv(&mut self, spec: &KvSpec) -> Result<B::Kv, Error> {
        self.inner.kv(spec)
    }

    fn embed(&mut self, table: &Matrix<B>, ids: &[u32]) -> B::Tensor {
        self.inner.embed(&table.linears[0].matrix, ids)
    }

    fn linears<const N: usize>(
        &mut self,
        x: &B::Tensor,
        norm: Option<&Norm<Self>>,
        linears: [&Linear<Self>; N],
    ) -> [B::Tensor; N] {
        let normed = self.normed(x, norm);
        let x = normed.as_ref().unwrap_or(x);
        self.record(x, linears.iter().flat_map(|linear| linear.matrix.names.clone()));
        linears.map(|linear| self.apply(x, linear))
    }

    fn linear_add(&mut self, x: &B::Tensor, linear: &Linear<Self>, factor: f32, residual: B::Tensor) -> B::Tensor {
        self.record(x, linear.matrix.names.clone());
        let y = self.apply(x, linear);
        let y = self.inner.scale(y, factor);
        self.inner.add(residual, &y)
    }

    fn gate_up(
        &mut self,
        x: &B::Tensor,
        norm: Option<&Norm<Self>>,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        act: Act,
    ) -> B::Tensor {
        let [gate, up] = self.linears(x, norm, [gate, up]);
        self.inner.glu(gate, &up, act)
    }

    fn head_linear(&mut self, x: &B::Tensor, w: &Matrix<B>) -> B::Tensor {
        let ([n_tok, _], n_head) = (self.inner.shape(x), w.linears.len());
        let mut out = vec![0.0; n_tok * n_head * w.n_out];
        for (h, linear) in w.linears.iter().enumerate() {
            let part = self.inner.columns(x, h * w.n_in, (h + 1) * w.n_in);
            let numbers = self.numbers(&part);
            w.names.iter().for_each(|name| self.recording.add(name, &numbers, w.n_in, (h, n_head)));
            let [y] = self.inner.linears(&part, None, [linear]);
            let y = self.numbers(&y);
            for (t, y) in y.chunks_exact(w.n_out).enumerate() {
                out[(t * n_head + h) * w.n_out..][..w.n_out].copy_from_slice(y);
            }
        }
        self.inner.tensor([n_tok, n_head * w.n_out], &out)
    }

    fn moe(&mut self, x: &B::Tensor, logits: &B::Tensor, moe: &Moe<'_, Self>) -> B::Tensor {
        let ([n_tok, _], n_expert) = (self.inner.shape(x), moe.up.matrix.linears.len());
        let bias = moe.select_bias.map(|bias| self.numbers(bias));
        let logits = self.numbers(logits);
        let mut places: Vec<Vec<(usize, f32)>> = vec![Vec::new(); n_expert];
        for (t, logits) in logits.chunks_exact(n_expert).enumerate() {
            for (e, weight) in route(logits, moe, bias.as_deref()) {
                places[e].push((t, weight));
            }
        }
        let n_out = moe.down.matrix.n_out;
        let mut out = vec![0.0; n_tok * n_out];
        for (e, mut places) in places.into_iter().enumerate().filter(|(_, places)| !places.is_empty()) {
            let tokens: Vec<usize> = places.iter().map(|(t, _)| *t).collect();
            let mut rows = self.inner.rows(x, &tokens);
            if moe.weight_input {
                let weights: Vec<f32> = places.iter().map(|(_, weight)| *weight).collect();
                let weights = self.inner.tensor([weights.len(), 1], &weights);
                rows = self.inner.mul(rows, &weights);
                places.iter_mut().for_each(|(_, weight)| *weight = 1.0);
            }
            let y = self.feed_forward(&rows, moe, e);
            let y = self.numbers(&y);
            scatter(&mut out, n_out, &y, &places);
        }
        self.inner.tensor([n_tok, n_out], &out)
    }

    fn norm(&mut self, x: &B::Tensor, norm: &Norm<Self>) -> B::Tensor {
        let mut y = self.inner.norm(x, &Norm { kind: norm.kind, weight: None, bias: None, eps: norm.eps });
        if let Some(weight) = &norm.weight {
            y = self.inner.mul(y, weight);
        }
        match &norm.bias {
            Some(bias) => self.inner.add(y, bias),
            None => y,
        }
    }

    fn head_norm(&mut self, x: B::Tensor, n_head: usize, norm: &Norm<Self>) -> B::Tensor {
        let plain = Norm { kind: norm.kind, weight: None, bias: None, eps: norm.eps };
        let mut y = self.inner.head_norm(x, n_head, &plain);
        let n_col = self.inner.shape(&y)[1];
        // One row for all heads, repeated where the parameter is of one head.
        let row = |recorder: &mut Self, parameter: &B::Tensor| {
            let numbers = recorder.numbers(parameter);
            let row: Vec<f32> = numbers.iter().copied().cycle().take(n_col).collect();
            recorder.inner.tensor([1, n_col], &row)
        };
        if let Some(weight) = &norm.weight {
            let weight = row(self, weight);
            y = self.inner.mul(y, &weight);
        }
        if let Some(bias) = &norm.bias {
            let bias = row(self, bias);
            y = self.inner.add(y, &bias);
        }
        y
    }

    fn rope(&mut self, x: B::Tensor, n_head: usize, positions: &[i32], rope: &Rope) -> B::Tensor {
        self.inner.rope(x, n_head, positions, rope)
    }

    fn add(&mut self, a: B::Tensor, b: &B::Tensor) -> B::Tensor {
        self.inner.add(a, b)
    }

    fn mul(&mut self, a: B::Tensor, b: &B::Tensor) -> B::Tensor {
        self.inner.mul(a, b)
    }

    fn scale(&mut self, x: B::Tensor, factor: f32) -> B::Tensor {
        self.inner.scale(x, factor)
    }

    fn act(&mut self, x: B::Tensor, act: Act) -> B::Tensor {
        self.inner.act(x, act)
    }

    fn glu(&mut self, gate: B::Tensor, up: &B::Tensor, act: Act) -> B::Tensor {
        self.inner.glu(gate, up, act)
    }

    fn softcap(&mut self, x: B::Tensor, cap: f32) -> B::Tensor {
        self.inner.softcap(x, cap)
    }

    fn columns(&mut self, x: &B::Tensor, from: usize, to: usize) -> B::Tensor {
        self.inner.columns(x, from, to)
    }

    fn concat_heads(&mut self, a: &B::Tensor, b: &B::Tensor, n_head: usize, n_head_b: usize) -> B::Tensor {
        self.inner.concat_heads(a, b, n_head, n_head_b)
    }

    fn rows(&mut self, x: &B::Tensor, indices: &[usize]) -> B::Tensor {
        self.inner.rows(x, indices)
    }

    fn kv_append(&mut self, kv: &mut B::Kv, layer: usize, k: &B::Tensor, v: Option<&B::Tensor>, seqs: &Seqs<'_>) {
        self.inner.kv_append(kv, layer, k, v, seqs);
    }

    fn attention(
        &mut self,
        q: &B::Tensor,
        kv: &B::Kv,
        layer: usize,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> B::Tensor {
        let Attention { n_head, scale, window, softcap, sinks, alibi, causal } = *attention;
        let attention = Attention { n_head, scale, window, softcap, sinks, alibi, causal };
        self.inner.attention(q, kv, layer, &attention, seqs)
    }

    fn conv(
        &mut self,
        kv: &mut B::Kv,
        layer: usize,
        x: &B::Tensor,
        weight: &B::Tensor,
        bias: Option<&B::Tensor>,
        seqs: &Seqs<'_>,
    ) -> B::Tensor {
        self.inner.conv(kv, layer, x, weight, bias, seqs)
    }

    fn ssm_scan(
        &mut self,
        kv: &mut B::Kv,
        layer: usize,
        ssm: &Ssm,
        input_dt_a: [&B::Tensor; 3],
        seqs: &Seqs<'_>,
    ) -> B::Tensor {
        self.inner.ssm_scan(kv, layer, ssm, input_dt_a, seqs)
    }

    fn delta_scan(
        &mut self,
        kv: &mut B::Kv,
        layer: usize,
        delta: &Delta,
        inputs: [&B::Tensor; 5],
        seqs: &Seqs<'_>,
    ) -> B::Tensor {
        self.inner.delta_scan(kv, layer, delta, inputs, seqs)
    }

    fn copy_page(&mut self, kv: &mut B::Kv, from: u32, to: u32) {
        self.inner.copy_page(kv, from, to);
    }

    fn copy_token(&mut self, kv: &mut B::Kv, from: (u32, usize), to: (u32, usize)) {
        self.inner.copy_token(kv, from, to);
    }

    fn export_page(&self, kv: &B::Kv, page: u32, out: &mut Vec<u8>) {
        self.inner.export_page(kv, page, out);
    }

    fn import_page(&mut self, kv: &mut B::Kv, page: u32, bytes: &[u8]) -> Result<(), Error> {
        self.inner.import_page(kv, page, bytes)
    }

    fn copy_slot(&mut self, kv: &mut B::Kv, from: usize, to: usize) {
        self.inner.copy_slot(kv, from, to);
    }

    fn export_slot(&self, kv: &B::Kv, slot: usize, out: &mut Vec<u8>) {
        self.inner.export_slot(kv, slot, out);
    }

    fn import_slot(&mut self, kv: &mut B::Kv, slot: usize, bytes: &[u8]) -> Result<(), Error> {
        self.inner.import_slot(kv, slot, bytes)
    }

    fn start(&mut self, kv: &B::Kv) -> Result<(), Error> {
        self.inner.start(kv)
    }

    fn read(&mut self, x: &B::Tensor, out: &mut Vec<f32>) -> Result<(), Error> {
        self.inner.read(x, out)
    }

    fn read_best(&mut self, x: &B::Tensor, n_best: usize, out: &mut Vec<f32>) -> Result<(), Error> {
        self.inner.read_best(x, n_best, out)
    }

    fn view<'a>(
        &mut self,
        x: &'a B::Tensor,
        n_best: Option<usize>,
        copy: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], Error> {
        self.inner.view(x, n_best, copy)
    }

    fn maxima(&mut self, x: &B::Tensor, block: usize, out: &mut Vec<f32>) -> bool {
        self.inner.maxima(x, block, out)
    }

    fn shape(&self, x: &B::Tensor) -> [usize; 2] {
        self.inner.shape(x)
    }
}
