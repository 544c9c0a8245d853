//! Mixture of experts: which experts a token uses, with which weights, and their feed-forward.

use super::act::sigmoid;
use super::{Scalar, Tensor};
use crate::Backend;
use crate::op::{Act, Experts, Gating, Moe, SPARSE_MIXER_SPAN};

/// The experts' feed-forward of each row, weighted and summed.
pub(super) fn moe(x: &Tensor, logits: &Tensor, moe: &Moe<'_, Scalar>) -> Tensor {
    let n_expert = moe.up.matrix.n_matrix;
    assert_eq!(logits.shape, [x.shape[0], n_expert], "moe: router logits for {n_expert} experts");
    let mut out = Tensor::zeros([x.shape[0], moe.down.matrix.n_out]);
    for t in 0..x.shape[0] {
        for (expert, weight) in route(logits.row(t), moe, moe.select_bias.map(|bias| bias.data.as_slice())) {
            let (before, after) = if moe.weight_input { (weight, 1.0) } else { (1.0, weight) };
            let input: Vec<f32> = x.row(t).iter().map(|x| x * before).collect();
            let y = feed_forward(moe, expert, &input);
            out.row_mut(t).iter_mut().zip(y).for_each(|(out, y)| *out += after * y);
        }
    }
    out
}

/// The chosen experts of a token, best first, with their weights. `select_bias` are the numbers of the field of that name.
pub fn route<B: Backend>(logits: &[f32], moe: &Moe<'_, B>, select_bias: Option<&[f32]>) -> Vec<(usize, f32)> {
    assert!((1..=logits.len()).contains(&moe.n_used), "moe: {} of {} experts", moe.n_used, logits.len());
    let probabilities: Vec<f64> = match moe.gating {
        Gating::Softmax => softmax(logits.iter().map(|&l| f64::from(l)).collect()),
        Gating::Sigmoid => logits.iter().map(|&l| sigmoid(f64::from(l))).collect(),
        Gating::SoftmaxOfChosen | Gating::SparseMixer => logits.iter().map(|&l| f64::from(l)).collect(),
    };
    let bias = |e: usize| select_bias.map_or(0.0, |b| f64::from(b[e]));
    let mut merits: Vec<f64> = probabilities.iter().enumerate().map(|(e, p)| p + bias(e)).collect();
    if let Some((n_group, n_group_used)) = moe.groups {
        limit_groups(&mut merits, n_group, n_group_used);
    }
    let chosen = best(&merits, moe.n_used);
    let mut weights: Vec<f64> = chosen.iter().map(|&e| probabilities[e]).collect();
    if moe.gating == Gating::SoftmaxOfChosen {
        weights = softmax(weights);
    }
    if moe.gating == Gating::SparseMixer {
        weights = (0..chosen.len()).map(|i| share(&probabilities, &chosen[..i], chosen[i])).collect();
    }
    if moe.normalize {
        let sum = weights.iter().sum::<f64>().max(f64::from(f32::MIN_POSITIVE));
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    chosen.into_iter().zip(weights).map(|(e, w)| (e, (w * f64::from(moe.scale)) as f32)).collect()
}

/// What `expert` has of a softmax over those logits near its own that are not `taken`.
fn share(logits: &[f64], taken: &[usize], expert: usize) -> f64 {
    let max = logits[expert];
    let near = |l: f64| (max - l) / l.abs().max(max) <= f64::from(SPARSE_MIXER_SPAN);
    let left = logits.iter().enumerate().filter(|(e, l)| !taken.contains(e) && near(**l));
    1.0 / left.map(|(_, l)| (l - max).exp()).sum::<f64>()
}

fn softmax(x: Vec<f64>) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = x.iter().map(|x| (x - max).exp()).sum::<f64>();
    x.iter().map(|x| (x - max).exp() / sum).collect()
}

/// The `n` best places, best first, the lower place first where equal.
fn best(merits: &[f64], n: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..merits.len()).collect();
    places.sort_by(|&a, &b| merits[b].total_cmp(&merits[a]).then(a.cmp(&b)));
    places.truncate(n);
    places
}

/// Excludes the experts outside the groups whose two best sum highest.
fn limit_groups(merits: &mut [f64], n_group: usize, n_group_used: usize) {
    let n = merits.len();
    assert!(n_group > 0 && n.is_multiple_of(n_group), "moe: {n} experts in {n_group} groups");
    let sums: Vec<f64> = merits.chunks_exact(n / n_group).map(|g| best(g, 2).into_iter().map(|e| g[e]).sum()).collect();
    let kept = best(&sums, n_group_used);
    for (i, group) in merits.chunks_exact_mut(n / n_group).enumerate() {
        if !kept.contains(&i) {
            group.fill(f64::NEG_INFINITY);
        }
    }
}

/// `down(act(gate(x)) * up(x))` of one expert.
fn feed_forward(moe: &Moe<'_, Scalar>, expert: usize, x: &[f32]) -> Vec<f32> {
    let up = apply(moe.up, expert, x);
    let hidden: Vec<f32> = match moe.gate {
        Some(gate) => glu(&apply(gate, expert, x), &up, moe.act),
        None if moe.merged => {
            let (gate, up) = up.split_at(up.len() / 2);
            glu(gate, up, moe.act)
        }
        None => up.iter().map(|&u| moe.act.apply(u)).collect(),
    };
    apply(moe.down, expert, &hidden)
}

fn glu(gate: &[f32], up: &[f32], act: Act) -> Vec<f32> {
    assert_eq!(gate.len(), up.len(), "moe: gate and up differ in rows");
    gate.iter().zip(up).map(|(&g, &u)| act.glu(g, u)).collect()
}

/// `scale * (W x) + bias` of one expert.
fn apply(experts: &Experts<Scalar>, expert: usize, x: &[f32]) -> Vec<f32> {
    let scale = experts.scale.get(expert).copied().unwrap_or(1.0);
    let mut y = experts.matrix.apply(expert, x);
    y.iter_mut().for_each(|y| *y *= scale);
    if let Some(bias) = &experts.bias {
        assert_eq!(bias.shape, [experts.matrix.n_matrix, y.len()], "moe: the experts' bias has another shape");
        y.iter_mut().zip(bias.row(expert)).for_each(|(y, b)| *y += b);
    }
    y
}
