//! The trait that every backend implements: the operations of a decoder block.
//!
//! A tensor is `[n_row, n_col]` f32, a row a token. Operations may be eager (CPU) or lazy (MLX): nothing is certain to
//! have run until [`Backend::read`]. Shapes that do not fit are programmer errors and panic; model code checks a file's
//! shapes when it loads. Tensors return their memory to the backend when dropped, so a step that repeats allocates
//! nothing. The definition of each operation is [`crate::scalar`].

use crate::op::{Act, Attention, Delta, Experts, KvSpec, Linear, Moe, Norm, Rope, Seqs, Ssm};
use crate::{Error, MatrixData};

/// The operations of a decoder, over tensors that only the backend can see into.
pub trait Backend {
    /// An activation or a small parameter: f32 `[n_row, n_col]`.
    type Tensor;
    /// A weight matrix, or the matrices of all experts, in the backend's own layout.
    type Matrix;
    /// Keys, values and recurrent states of all layers of a model.
    type Kv;

    /// Name in `--backend` and messages.
    fn name(&self) -> &'static str;

    // --- loading -----------------------------------------------------------------------------------------------

    /// The matrices `parts` stacked along rows: `[sum of n_out, n_in]`. Keeps the mapped bytes where no repack exists.
    ///
    /// # Errors
    /// If the parts disagree in `n_in`, or the backend cannot run the encoding.
    fn matrix(&mut self, parts: &[MatrixData]) -> Result<Self::Matrix, Error>;

    /// The matrices of the experts of a layer, `[n_expert, n_out, n_in]`; all have one shape.
    ///
    /// # Errors
    /// Like [`Backend::matrix`].
    fn experts(&mut self, experts: &[MatrixData]) -> Result<Self::Matrix, Error>;

    /// Does now for all of `matrix` what is otherwise done when an expert is first used.
    ///
    /// # Errors
    /// If the memory cannot be had.
    fn prepare(&mut self, matrix: &Self::Matrix) -> Result<(), Error> {
        let _ = matrix;
        Ok(())
    }

    /// Whether kernels were compiled since this was last asked: the time of what ran since then is not what it takes again.
    fn compiled(&mut self) -> bool {
        false
    }

    /// A tensor from numbers, row after row.
    fn tensor(&mut self, shape: [usize; 2], data: &[f32]) -> Self::Tensor;

    /// An empty store for keys, values and recurrent states.
    ///
    /// # Errors
    /// If the memory cannot be had.
    fn kv(&mut self, spec: &KvSpec) -> Result<Self::Kv, Error>;

    // --- linear ------------------------------------------------------------------------------------------------

    /// Rows `ids` of `table` `[n_vocab, d]`: `[n_ids, d]`.
    fn embed(&mut self, table: &Self::Matrix, ids: &[u32]) -> Self::Tensor;

    /// Each of `linears` applied to the same rows (normalized first, if `norm` is given): `[n_tok, n_out]` each.
    fn linears<const N: usize>(
        &mut self,
        x: &Self::Tensor,
        norm: Option<&Norm<Self>>,
        linears: [&Linear<Self>; N],
    ) -> [Self::Tensor; N];

    /// `residual + factor * linear(x)`: `[n_tok, n_out]`.
    fn linear_add(
        &mut self,
        x: &Self::Tensor,
        linear: &Linear<Self>,
        factor: f32,
        residual: Self::Tensor,
    ) -> Self::Tensor;

    /// `act(gate(x)) * up(x)` of the (normalized) rows: `[n_tok, d_ff]`.
    fn gate_up(
        &mut self,
        x: &Self::Tensor,
        norm: Option<&Norm<Self>>,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        act: Act,
    ) -> Self::Tensor;

    /// One matrix a head: `x` `[n_tok, n_head * d_in]`, `w` `[n_head, d_out, d_in]` from [`Backend::experts`], result
    /// `[n_tok, n_head * d_out]`.
    fn head_linear(&mut self, x: &Self::Tensor, w: &Self::Matrix) -> Self::Tensor;

    /// Mixture of experts of rows `x` `[n_tok, d]` with router `logits` `[n_tok, n_expert]`: `[n_tok, d]`.
    fn moe(&mut self, x: &Self::Tensor, logits: &Self::Tensor, moe: &Moe<'_, Self>) -> Self::Tensor;

    // --- rows --------------------------------------------------------------------------------------------------

    /// Every row normalized.
    fn norm(&mut self, x: &Self::Tensor, norm: &Norm<Self>) -> Self::Tensor;

    /// Every head of every row normalized: `x` `[n_tok, n_head * d_head]`.
    fn head_norm(&mut self, x: Self::Tensor, n_head: usize, norm: &Norm<Self>) -> Self::Tensor;

    /// Every head of every row rotated: `x` `[n_tok, n_head * d_head]`, `positions` `[n_tok]`.
    fn rope(&mut self, x: Self::Tensor, n_head: usize, positions: &[i32], rope: &Rope) -> Self::Tensor;

    /// `a + b`; `b` may have one row, which is added to every row.
    fn add(&mut self, a: Self::Tensor, b: &Self::Tensor) -> Self::Tensor;

    /// `a * b`, element by element; `b` may have one row, or one column.
    fn mul(&mut self, a: Self::Tensor, b: &Self::Tensor) -> Self::Tensor;

    /// `x * factor`.
    fn scale(&mut self, x: Self::Tensor, factor: f32) -> Self::Tensor;

    /// `act(x)`, element by element.
    fn act(&mut self, x: Self::Tensor, act: Act) -> Self::Tensor;

    /// `act(gate) * up`, element by element.
    fn glu(&mut self, gate: Self::Tensor, up: &Self::Tensor, act: Act) -> Self::Tensor;

    /// `cap * tanh(x / cap)`.
    fn softcap(&mut self, x: Self::Tensor, cap: f32) -> Self::Tensor;

    /// Columns `from..to`: `[n_row, to - from]`.
    fn columns(&mut self, x: &Self::Tensor, from: usize, to: usize) -> Self::Tensor;

    /// Per head, `a` `[n_tok, n_head * d_a]` followed by `b` `[n_tok, n_head_b * d_b]`: `[n_tok, n_head * (d_a + d_b)]`.
    /// `n_head_b` is `n_head`, or 1: then `b` is repeated for each head.
    fn concat_heads(&mut self, a: &Self::Tensor, b: &Self::Tensor, n_head: usize, n_head_b: usize) -> Self::Tensor;

    /// Rows `indices`: `[indices.len(), n_col]`.
    fn rows(&mut self, x: &Self::Tensor, indices: &[usize]) -> Self::Tensor;

    // --- state -------------------------------------------------------------------------------------------------

    /// Stores keys `[n_tok, n_kv_head * d_k]` and values `[n_tok, n_kv_head * d_v]` of the batch's tokens. `v` is
    /// `None` when values are part of the keys.
    fn kv_append(
        &mut self,
        kv: &mut Self::Kv,
        layer: usize,
        k: &Self::Tensor,
        v: Option<&Self::Tensor>,
        seqs: &Seqs<'_>,
    );

    /// Attention of `q` `[n_tok, n_head * d_k]` (rotated, not scaled) over what `layer` has stored, this batch's tokens
    /// included: `[n_tok, n_head * d_v]`.
    ///
    /// `out[i,h] = sum_j softmax_j(scale * q[i,h] . k[j,h/g]) * v[j,h/g]`, `g = n_head / n_kv_head`.
    fn attention(
        &mut self,
        q: &Self::Tensor,
        kv: &Self::Kv,
        layer: usize,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> Self::Tensor;

    /// Queries and keys rotated where `rope` says, keys and values stored, then attention: `[rope, kv_append, attention]` of
    /// `[q, k, v]` in one, which backends may do in fewer passes.
    fn attend(
        &mut self,
        qkv: [Self::Tensor; 3],
        kv: &mut Self::Kv,
        layer: usize,
        rope: Option<&Rope>,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> Self::Tensor {
        attend_apart(self, qkv, (kv, layer), rope, attention, seqs)
    }

    /// [`Backend::linears`] of queries, keys and values and [`Backend::attend`] in one, which backends may do in fewer passes.
    fn linears_attend(
        &mut self,
        (x, norm): (&Self::Tensor, Option<&Norm<Self>>),
        linears: [&Linear<Self>; 3],
        (kv, layer): (&mut Self::Kv, usize),
        rope: Option<&Rope>,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> Self::Tensor {
        let qkv = self.linears(x, norm, linears);
        self.attend(qkv, kv, layer, rope, attention, seqs)
    }

    /// Causal depthwise convolution over each row's tokens, its past taken from and left in the state of `layer`:
    /// `x` `[n_tok, n_channel]`, `weight` `[n_channel, n_kernel]` (last column: the current token), `bias`
    /// `[1, n_channel]`.
    fn conv(
        &mut self,
        kv: &mut Self::Kv,
        layer: usize,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        seqs: &Seqs<'_>,
    ) -> Self::Tensor;

    /// Selective state space scan over each row's tokens, its state taken from and left in the state of `layer`.
    ///
    /// `input_dt_a` is `[input, dt, a]`. `input` holds, per token, `x` `[n_head, d_head]`, then `b` and `c` `[n_group, d_state]` each. `dt`
    /// `[n_tok, n_head]` (bias added, softplus applied), `a` `[n_head, 1]` or `[n_head, d_state]`. With
    /// `h[s] = h[s] * exp(dt * a[s]) + dt * b[s] * x`, the result is `sum_s h[s] * c[s]`: `[n_tok, n_head * d_head]`.
    /// Source: Mamba-2, arXiv:2405.21060, section 3.
    fn ssm_scan(
        &mut self,
        kv: &mut Self::Kv,
        layer: usize,
        ssm: &Ssm,
        input_dt_a: [&Self::Tensor; 3],
        seqs: &Seqs<'_>,
    ) -> Self::Tensor;

    /// Gated delta rule over each row's tokens, its state `S` `[n_head, d_v, d_k]` taken from and left in the state of
    /// `layer`: a memory that is corrected by what it lacks.
    ///
    /// `inputs` is `[q, k, v, decay, beta]`: `q`, `k` `[n_tok, n_key_head * d_k]`, `v` `[n_tok, n_head * d_v]`, `decay`
    /// `[n_tok, n_head]` or `[n_tok, n_head * d_k]` (a logarithm, at most 0), `beta` `[n_tok, n_head]`. For each head
    /// `S = S * exp(decay)`, `S = S + beta * (v - S k) k^T`, and the result is `S q`: `[n_tok, n_head * d_v]`.
    /// Source: Gated DeltaNet, arXiv:2412.06464, equation 10; a decay for each channel: Kimi Linear, arXiv:2510.26692.
    fn delta_scan(
        &mut self,
        kv: &mut Self::Kv,
        layer: usize,
        delta: &Delta,
        inputs: [&Self::Tensor; 5],
        seqs: &Seqs<'_>,
    ) -> Self::Tensor;

    /// Copies page `from` over page `to`, all layers.
    fn copy_page(&mut self, kv: &mut Self::Kv, from: u32, to: u32);

    /// Copies keys and values of the token at `from` over those of the token at `to`, all layers: page and place in it.
    fn copy_token(&mut self, kv: &mut Self::Kv, from: (u32, usize), to: (u32, usize));

    /// Appends the bytes of a page, all layers, to `out`. The layout is the backend's own.
    fn export_page(&self, kv: &Self::Kv, page: u32, out: &mut Vec<u8>);

    /// Overwrites a page with bytes of [`Backend::export_page`].
    ///
    /// # Errors
    /// If `bytes` has another length than this store's pages.
    fn import_page(&mut self, kv: &mut Self::Kv, page: u32, bytes: &[u8]) -> Result<(), Error>;

    /// Copies the recurrent states of slot `from` over slot `to`, all layers.
    fn copy_slot(&mut self, kv: &mut Self::Kv, from: usize, to: usize);

    /// Appends the bytes of a slot's recurrent states, all layers, to `out`: f32 in little endian, of each layer first the
    /// convolution's, then the scan's. Where the device fails they stay short.
    fn export_slot(&self, kv: &Self::Kv, slot: usize, out: &mut Vec<u8>);

    /// Overwrites the recurrent states of a slot with bytes of [`Backend::export_slot`].
    ///
    /// # Errors
    /// If `bytes` has another length than this store's states.
    fn import_slot(&mut self, kv: &mut Self::Kv, slot: usize, bytes: &[u8]) -> Result<(), Error>;

    // --- results -----------------------------------------------------------------------------------------------

    /// Begins to compute what is due of the state of all layers, where operations are lazy. Called once at the end of a
    /// step, before anything is read; a step of which nothing is read would not run otherwise.
    ///
    /// # Errors
    /// If the device failed.
    fn start(&mut self, _kv: &Self::Kv) -> Result<(), Error> {
        Ok(())
    }

    /// Begins to compute what [`Backend::view`] of `x` will return.
    ///
    /// # Errors
    /// If the device failed.
    fn prefetch(&mut self, x: &mut Self::Tensor, n_best: Option<usize>) -> Result<(), Error> {
        let _ = (x, n_best);
        Ok(())
    }

    // --- the next step, built while the device computes this one -----------------------------------------------

    /// Begins to build a step like the last one, of which only the rows and positions are known: its ids and pages are
    /// given to [`Backend::resume`]. Returns whether operations are lazy and the last step did only what can be built so.
    fn begin_ahead(&mut self) -> bool {
        false
    }

    /// The step is built. Nothing of it is computed before [`Backend::resume`], and operations on stores may come first.
    fn end_ahead(&mut self) {}

    /// The step that was built has its turn, with these ids and pages; its tensors may be read. False where it cannot, as when
    /// a store was changed or too many pages came: the step must be built anew then, and its tensors dropped.
    fn resume(&mut self, ids: &[u32], seqs: &Seqs<'_>) -> bool {
        let _ = (ids, seqs);
        false
    }

    /// The step that was built will not have its turn.
    fn forget(&mut self) {}

    /// Computes what is due and appends the numbers of `x`, row after row, to `out`.
    ///
    /// # Errors
    /// If the device failed.
    fn read(&mut self, x: &Self::Tensor, out: &mut Vec<f32>) -> Result<(), Error>;

    /// [`Backend::read`] of which only the `n_best` largest numbers of each row are needed: the others may be minus infinity.
    ///
    /// # Errors
    /// If the device failed.
    fn read_best(&mut self, x: &Self::Tensor, n_best: usize, out: &mut Vec<f32>) -> Result<(), Error> {
        let _ = n_best;
        self.read(x, out)
    }

    /// Computes what is due and returns the numbers of `x`, row after row: where they lie, if the processor can reach them
    /// there, else in `copy`, which is overwritten. Of each row only the `n_best` largest are needed, or all: the others may
    /// be minus infinity.
    ///
    /// # Errors
    /// If the device failed.
    fn view<'a>(
        &mut self,
        x: &'a Self::Tensor,
        n_best: Option<usize>,
        copy: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], Error> {
        copy.clear();
        match n_best {
            Some(n_best) => self.read_best(x, n_best, copy)?,
            None => self.read(x, copy)?,
        }
        Ok(copy)
    }

    /// Overwrites `out` with the largest number of each `block` of a row of `x`, the last one of which may be shorter:
    /// `[n_row, n_col / block]`, rounded up. NaN counts as minus infinity. Returns whether it did: where it would not be
    /// faster than for whoever reads `x`, it need not.
    fn maxima(&mut self, x: &Self::Tensor, block: usize, out: &mut Vec<f32>) -> bool {
        let _ = (x, block, out);
        false
    }

    /// Rows and columns of a tensor.
    fn shape(&self, x: &Self::Tensor) -> [usize; 2];
}

/// [`Backend::attend`], one operation after the other.
pub fn attend_apart<B: Backend + ?Sized>(
    backend: &mut B,
    [q, k, v]: [B::Tensor; 3],
    (kv, layer): (&mut B::Kv, usize),
    rope: Option<&Rope>,
    attention: &Attention<'_, B>,
    seqs: &Seqs<'_>,
) -> B::Tensor {
    let (n_col, n_col_k) = (backend.shape(&q)[1], backend.shape(&k)[1]);
    let (mut q, mut k) = (q, k);
    if let Some(rope) = rope {
        let n_kv_head = n_col_k * attention.n_head / n_col;
        q = backend.rope(q, attention.n_head, seqs.positions, rope);
        k = backend.rope(k, n_kv_head, seqs.positions, rope);
    }
    backend.kv_append(kv, layer, &k, Some(&v), seqs);
    backend.attention(&q, kv, layer, attention, seqs)
}

/// Experts that share a matrix layout; a helper for model code.
impl<B: Backend> Experts<B> {
    /// Experts without bias or scale.
    pub fn plain(matrix: B::Matrix) -> Experts<B> {
        Experts { matrix, bias: None, scale: Vec::new() }
    }
}
