//! Mixtures of experts: routing, the feed-forward of experts in blocks, and their sum.

use mlxr_compute::op::{Experts, Gating, Moe, SPARSE_MIXER_SPAN};

use super::Own;
use super::blocks::{self, BLOCKS_LAYOUT, Chosen};
use super::form::{self, Form, Of};
use crate::backend::Mlx;
use crate::ffi::{Array, Device};
use crate::kernel::Instance;
use crate::moe::{finished, hidden};
use crate::tensor::Tensor;

/// Lanes of a wave, of which each keeps a chosen expert and adds up a group.
const LANES: usize = 32;
/// Experts of a lane of `route`, at most.
const MAX_EACH: usize = 16;

/// The constants E, GATING, BIAS, GROUPED and NORMALIZE of `route`; `None` of what it does not compute.
pub(crate) fn route_constants<B: mlxr_compute::Backend + ?Sized>(
    n_expert: usize,
    moe: &Moe<'_, B>,
) -> Option<[u32; 5]> {
    let (each, n_group) = (n_expert.div_ceil(LANES), moe.groups.map_or(1, |groups| groups.0));
    let gating = match moe.gating {
        Gating::Softmax => 0,
        Gating::Sigmoid => 1,
        Gating::SoftmaxOfChosen => 2,
        Gating::SparseMixer => 3,
    };
    let fits = each <= MAX_EACH && moe.n_used <= LANES && n_group <= LANES;
    let [bias, grouped, normalize] = [moe.select_bias.is_some(), moe.groups.is_some(), moe.normalize].map(u32::from);
    fits.then_some([each as u32, gating, bias, grouped, normalize])
}

/// The chosen experts of each token, best first, and their weights: `[n_tok, n_used]` each; `None` where no kernel chooses so.
pub(crate) fn route(own: &Own, d: &Device, logits: &Tensor, moe: &Moe<'_, Mlx>) -> Option<(Array, Array)> {
    let [n_tok, n_expert] = logits.shape;
    let constants = route_constants(n_expert, moe)?;
    let (n_group, n_group_used) = moe.groups.unwrap_or((1, 1));
    let factors = own.floats(d, &[moe.scale, SPARSE_MIXER_SPAN]);
    let sizes = own.sizes(d, &[n_expert, moe.n_used, n_group, n_group_used]);
    let bias = moe.select_bias.map_or(&factors, |bias| &bias.array);
    let shape: &[usize] = &[n_tok, moe.n_used];
    let instance = Instance::new("route", &constants, "float");
    let inputs = [&logits.array, bias, &factors, &sizes];
    let [experts, weights] = own.launch(d, instance, &inputs, &[shape, shape], [n_tok, 1, 1]);
    Some((experts, weights))
}

/// `down(act(gate(x)) * up(x))` of each token's experts, neighbours: `[n_tok * n_used, n_out]`; `None` where these are not in blocks.
pub(crate) fn feed_forward(
    own: &Own,
    d: &Device,
    x: &Tensor,
    (experts, weights): (&Array, &Array),
    moe: &Moe<'_, Mlx>,
) -> Option<Array> {
    let coded = |e: &&Experts<Mlx>| e.matrix.parts[0].blocks.is_some();
    if ![Some(moe.up), Some(moe.down), moe.gate].iter().flatten().all(coded) {
        return None;
    }
    let ([n_tok, n_in], n_used) = (x.shape, moe.n_used);
    let n = n_tok * n_used;
    let experts = d.reshape(experts, &[n]);
    let order = blocks::shared(n, moe.up.matrix.n_matrix).then(|| d.argsort(&experts));
    let chosen = Chosen { experts, order, n_product: n };
    let finished = |e: &Experts<Mlx>, y| finished(d, e, y, &chosen.experts);
    let apply = |e: &Experts<Mlx>, form: (&Form, usize)| {
        let [y, _] = blocks::experts(own, d, form, (&e.matrix, None), &chosen);
        finished(e, y)
    };
    let halved = |x: &Array, shape: [usize; 2], of: Of<'_>| Form::of(own, d, (x, shape), of, BLOCKS_LAYOUT);
    let (form, share) = if moe.weight_input {
        let x = d.multiply(&d.reshape(&x.array, &[n_tok, 1, n_in]), &d.reshape(weights, &[n_tok, n_used, 1]));
        (halved(&x, [n, n_in], Of::Rows), 1)
    } else {
        (halved(&x.array, x.shape, Of::Rows), n_used)
    };
    let form = (&form, share);
    let (gate, up) = match moe.gate {
        Some(gate) if blocks::alike(&gate.matrix, &moe.up.matrix) => {
            let [y, z] = blocks::experts(own, d, form, (&gate.matrix, Some(&moe.up.matrix)), &chosen);
            (Some(finished(gate, y)), finished(moe.up, z))
        }
        gate => (gate.map(|gate| apply(gate, form)), apply(moe.up, form)),
    };
    let n_ff = moe.down.matrix.n_in;
    let gated = match &gate {
        Some(gate) => Some((gate, [n_ff, 0])),
        None => moe.merged.then_some((&up, [2 * n_ff, n_ff])),
    };
    let hidden = match gated {
        Some((gate, from)) if form::glu(moe.act).is_some() => halved(gate, [n, n_ff], Of::Gate(moe.act, &up, from)),
        _ => halved(&hidden(d, moe, gate.as_ref(), &up), [n, n_ff], Of::Rows),
    };
    Some(apply(moe.down, (&hidden, 1)))
}

/// What the experts of tokens made `[n_tok * n_used, n_out]`, weighted and summed: `[n_tok, n_out]`.
pub(crate) fn sum(own: &Own, d: &Device, (y, weights): (&Array, &Array), n_used: usize, shape: [usize; 2]) -> Array {
    let [n_tok, n_out] = shape;
    let (instance, sizes) = (Instance::new("experts_sum", &[], "float"), own.sizes(d, &[n_used, n_out]));
    let [out] = own.launch(d, instance, &[y, weights, &sizes], &[&shape], [n_out.div_ceil(256), n_tok, 1]);
    out
}
