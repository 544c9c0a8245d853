//! Mixers with a state: state spaces, gated delta nets, short convolutions.

use super::recipe::{Part, Recipe};
use super::tensors::Maker;
use super::{Form, attention, target_arch};
use crate::LoadError;
use crate::hyper::DeltaShape;
use crate::names::Role;

/// Targets of what mixes tokens in a layer, which its tensors tell as they tell it to loading.
pub(super) fn targets(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    let has = |role| maker.source.names.find(role, i).is_some();
    if has(Role::ShortConvIn) {
        return short_conv(maker, i);
    }
    if has(Role::DeltaConvQ) {
        return each_channel(maker, i);
    }
    if has(Role::DeltaBetaAlpha) || has(Role::DeltaBeta) {
        return delta(maker, i);
    }
    if has(Role::SsmX) {
        mamba(maker, i)?;
    } else if has(Role::SsmIn) {
        mamba2(maker, i)?;
    }
    attention::targets(maker, i)
}

fn short_conv(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    maker.matrix(Role::ShortConvIn, i)?;
    maker.matrix(Role::ShortConvOut, i)?;
    let n_conv = maker.source.hyper.n_short_conv.unwrap_or(1);
    filter(maker, (Role::ShortConv, i), n_conv, None)
}

/// A convolution's filter and bias, its channels in `order`.
fn filter(
    maker: &mut Maker<'_>,
    (role, i): (Role, usize),
    n_conv: usize,
    order: Option<&[usize]>,
) -> Result<(), LoadError> {
    let source = maker.source;
    let Some(from) = source.names.find(role, i) else { return Ok(()) };
    let to = maker.stem(role, i, &from)?;
    let (_, weight) = source.checkpoint.vector(&format!("{from}.weight"))?.ok_or_else(|| source.missing(role, i))?;
    let n = weight.len() / n_conv.max(1);
    let weight = ordered(weight, n_conv, order);
    let apart = matches!(role, Role::DeltaConvQ | Role::DeltaConvK | Role::DeltaConvV);
    let shape = match maker.to {
        Form::Gguf if apart => vec![1, n, 1, n_conv],
        Form::Gguf => vec![n, n_conv],
        Form::HuggingFace => vec![n, 1, n_conv],
        Form::Mlx => vec![n, n_conv, 1],
    };
    maker.push_numbers(role, format!("{to}.weight"), shape, weight);
    if let Some((shape, bias)) = source.checkpoint.vector(&format!("{from}.bias"))? {
        maker.push_numbers(role, format!("{to}.bias"), shape, ordered(bias, 1, order));
    }
    Ok(())
}

/// Rows of `n` numbers in another order.
fn ordered(numbers: Vec<f32>, n: usize, order: Option<&[usize]>) -> Vec<f32> {
    match order {
        Some(order) => order.iter().flat_map(|&r| numbers[r * n..(r + 1) * n].iter().copied()).collect(),
        None => numbers,
    }
}

/// The factors of a decay, which Hugging Face files store as logarithms of their magnitude.
fn decays(maker: &mut Maker<'_>, i: usize, shape: [Vec<usize>; 2], order: Option<&[usize]>) -> Result<(), LoadError> {
    let Some(small) = maker.small(Role::SsmA, i, [&[""], &[""]])? else { return Ok(()) };
    let (from_gguf, to_gguf) = (maker.source.form() == Form::Gguf, maker.to == Form::Gguf);
    let mut numbers = ordered(small.numbers, 1, order);
    if from_gguf != to_gguf {
        numbers.iter_mut().for_each(|a| *a = if to_gguf { -a.exp() } else { (-*a).ln() });
    }
    let [gguf, hf] = shape;
    let shape = match (from_gguf, to_gguf) {
        (false, false) => small.shape,
        (_, true) => gguf,
        (_, false) => hf,
    };
    maker.push_numbers(Role::SsmA, small.name, shape, numbers);
    Ok(())
}

/// A small parameter of one dimension, with another of 1 in GGUF where `column`.
fn vector(
    maker: &mut Maker<'_>,
    role: Role,
    i: usize,
    (column, order): (bool, Option<&[usize]>),
) -> Result<(), LoadError> {
    let Some(small) = maker.small(role, i, [&[""], &[""]])? else { return Ok(()) };
    let n = small.numbers.len();
    let shape = if column && maker.to == Form::Gguf { vec![n, 1] } else { vec![n] };
    maker.push_numbers(role, small.name, shape, ordered(small.numbers, 1, order));
    Ok(())
}

fn mamba(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    let s = maker.source.hyper.ssm.ok_or_else(|| maker.source.missing(Role::SsmIn, i))?;
    for role in [Role::SsmIn, Role::SsmX, Role::SsmDt, Role::SsmOut] {
        maker.matrix(role, i)?;
    }
    for role in [Role::SsmDtNorm, Role::SsmBNorm, Role::SsmCNorm] {
        maker.norm(role, i)?;
    }
    filter(maker, (Role::SsmConv, i), s.n_conv, None)?;
    let shape = vec![s.d_inner, s.d_state];
    decays(maker, i, [shape.clone(), shape], None)?;
    vector(maker, Role::SsmD, i, (false, None))
}

fn mamba2(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    let source = maker.source;
    let s = source.hyper.ssm.ok_or_else(|| source.missing(Role::SsmIn, i))?;
    let factors = maker.fold.factors;
    let widths = [s.d_inner, s.d_inner, s.n_group * s.d_state, s.n_group * s.d_state, s.n_head];
    if let Some(from) = source.names.find(Role::SsmIn, i) {
        let to = maker.stem(Role::SsmIn, i, &from)?;
        let whole = maker.part(Role::SsmIn, &from)?;
        let shape = maker.shape(&whole, Role::SsmIn, i)?;
        let mut at = 0;
        let mut parts = Vec::new();
        for (n, factor) in widths.into_iter().zip(factors.ssm_parts) {
            let scale = whole.scale * factors.ssm_in * factor;
            parts.push(Part { rows: Some((at..at + n).collect()), scale, ..whole.clone() });
            at += n;
        }
        if at != shape[0] {
            return Err(LoadError::Shape {
                path: source.checkpoint.path().display().to_string(),
                tensor: whole.stem,
                found: format!("{} rows", shape[0]),
                expected: format!("{at}"),
            });
        }
        let equal = parts.iter().all(|part| part.scale == parts[0].scale);
        let parts = if equal { vec![Part { scale: parts[0].scale, ..whole }] } else { parts };
        maker.renamed_parts(Role::SsmIn, (&from, &to), shape, parts)?;
    }
    maker.matrix(Role::SsmOut, i)?;
    filter(maker, (Role::SsmConv, i), s.n_conv, None)?;
    decays(maker, i, [vec![s.n_head, 1], vec![s.n_head]], None)?;
    vector(maker, Role::SsmD, i, (true, None))?;
    vector(maker, Role::SsmDtBias, i, (false, None))?;
    if let Some(from) = source.names.find(Role::SsmNorm, i)
        && let Some((_, weight)) = source.checkpoint.vector(&format!("{from}.weight"))?
    {
        let to = maker.stem(Role::SsmNorm, i, &from)?;
        let grouped = vec![s.n_group, weight.len() / s.n_group];
        let shape = if maker.to == Form::Gguf { grouped } else { vec![weight.len()] };
        maker.push_numbers(Role::SsmNorm, format!("{to}.weight"), shape, weight);
    }
    Ok(())
}

/// A delta net whose channels decay each for itself (Kimi).
fn each_channel(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    let source = maker.source;
    let d = source.hyper.delta.ok_or_else(|| source.missing(Role::DeltaConvQ, i))?;
    let qkv = [Role::AttnQ, Role::AttnK, Role::AttnV];
    match source.names.find(Role::AttnQkv, i) {
        None => qkv.into_iter().try_for_each(|role| maker.matrix(role, i))?,
        Some(fused) => {
            let n = maker.shape(&maker.part(Role::AttnQkv, &fused)?, Role::AttnQkv, i)?[0] / 3;
            for (p, role) in qkv.into_iter().enumerate() {
                let rows: Vec<(usize, usize)> = (p * n..(p + 1) * n).map(|r| (0, r)).collect();
                let to = maker.naming.stem(role, i).ok_or_else(|| maker.nameless(role, i))?;
                attention::push(maker, (role, i), &to, std::slice::from_ref(&fused), &rows)?;
            }
        }
    }
    for role in [Role::DeltaDecayA, Role::DeltaDecayB, Role::DeltaGateA, Role::DeltaGateB, Role::DeltaBeta] {
        maker.matrix(role, i)?;
    }
    for role in [Role::DeltaConvQ, Role::DeltaConvK, Role::DeltaConvV] {
        filter(maker, (role, i), d.n_conv, None)?;
    }
    let n = maker.small(Role::SsmA, i, [&[""], &[""]])?.map_or(0, |small| small.numbers.len());
    decays(maker, i, [vec![1, 1, n, 1], vec![1, 1, n, 1]], None)?;
    vector(maker, Role::SsmDtBias, i, (false, None))?;
    plain_norm(maker, i)
}

/// A delta net's norm, which is stored whole everywhere.
fn plain_norm(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    let source = maker.source;
    let Some(from) = source.names.find(Role::SsmNorm, i) else { return Ok(()) };
    let to = maker.stem(Role::SsmNorm, i, &from)?;
    let found = source.checkpoint.vector(&format!("{from}.weight"))?;
    let (shape, weight) = found.ok_or_else(|| source.missing(Role::SsmNorm, i))?;
    maker.push_numbers(Role::SsmNorm, format!("{to}.weight"), shape, weight);
    Ok(())
}

/// Rows of a delta net's projections: which matrix of the source, and which row of that.
struct Rows {
    stems: Vec<String>,
    q: Vec<(usize, usize)>,
    k: Vec<(usize, usize)>,
    /// Of the heads in the order of Hugging Face files: those of a key head one after another.
    v: Vec<Vec<(usize, usize)>>,
    z: Vec<Vec<(usize, usize)>>,
}

/// How the heads of a delta net lie.
#[derive(Clone, Copy)]
struct Heads {
    shape: DeltaShape,
    /// Heads of a key head.
    each: usize,
}

impl Heads {
    /// Where a head lies: after the others of its key head, or in turn with those of other key heads.
    fn place(self, tiled: bool, head: usize) -> usize {
        let n_key = self.shape.n_key_head;
        if tiled { head % self.each * n_key + head / self.each } else { head }
    }

    /// The heads in the order in which they lie.
    fn order(self, tiled: bool) -> Vec<usize> {
        let mut heads: Vec<usize> = (0..self.shape.n_head).collect();
        heads.sort_by_key(|&head| self.place(tiled, head));
        heads
    }

    /// Of rows of `n` for each head: from the order of the source to that of the target. `None` where it is the same.
    fn rows(self, from: bool, to: bool, n: usize) -> Option<Vec<usize>> {
        let row = |head: usize| self.place(from, head) * n..(self.place(from, head) + 1) * n;
        (from != to && self.each > 1).then(|| self.order(to).into_iter().flat_map(row).collect())
    }
}

fn rows(maker: &Maker<'_>, i: usize, heads: Heads, tiled: bool) -> Result<Rows, LoadError> {
    let source = maker.source;
    let DeltaShape { n_head, n_key_head, d_k, d_v, .. } = heads.shape;
    let key = n_key_head * d_k;
    let all = source.names.find(Role::SsmIn, i);
    if let Some(qkv) = source.names.find(Role::DeltaQkv, i) {
        // Files may hold both arrangements.
        let z = source.names.find(Role::DeltaGate, i).ok_or_else(|| source.missing(Role::DeltaGate, i))?;
        let head = |m: usize, from: usize, h: usize| {
            let place = from + heads.place(tiled, h) * d_v;
            (place..place + d_v).map(|r| (m, r)).collect::<Vec<_>>()
        };
        return Ok(Rows {
            stems: vec![qkv, z],
            q: (0..key).map(|r| (0, r)).collect(),
            k: (key..2 * key).map(|r| (0, r)).collect(),
            v: (0..n_head).map(|h| head(0, 2 * key, h)).collect(),
            z: (0..n_head).map(|h| head(1, 0, h)).collect(),
        });
    }
    // Groups of a key head: its q and k, then v and z of the heads that share it.
    let stride = 2 * d_k + 2 * heads.each * d_v;
    let part = |from: usize, n: usize| {
        (0..n_key_head).flat_map(move |g| (g * stride + from..g * stride + from + n).map(|r| (0, r)))
    };
    let head = |from: usize, h: usize| {
        let first = h / heads.each * stride + from + h % heads.each * d_v;
        (first..first + d_v).map(|r| (0, r)).collect::<Vec<_>>()
    };
    Ok(Rows {
        stems: vec![all.ok_or_else(|| source.missing(Role::SsmIn, i))?],
        q: part(0, d_k).collect(),
        k: part(d_k, d_k).collect(),
        v: (0..n_head).map(|h| head(2 * d_k, h)).collect(),
        z: (0..n_head).map(|h| head(2 * d_k + heads.each * d_v, h)).collect(),
    })
}

/// A gated delta net whose heads decay as a whole (Qwen). GGUF has q, k and v in one matrix and the gate in another;
/// Qwen3-Next's folders have all of a key head together. Where GGUF's key heads repeat in turn, heads are reordered.
fn delta(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    let source = maker.source;
    let shape = source.hyper.delta.ok_or_else(|| source.missing(Role::SsmConv, i))?;
    let DeltaShape { n_head, n_key_head, d_k, d_v, n_conv, .. } = shape;
    if n_key_head == 0 || n_head == 0 {
        return Err(source.missing(Role::SsmConv, i));
    }
    let heads = Heads { shape, each: n_head / n_key_head };
    let tiled = source.form() == Form::Gguf && source.arch.delta_tiled;
    let to_tiled = maker.to == Form::Gguf && target_arch(source, maker.to)?.delta_tiled;
    let both = source.names.find(Role::DeltaBetaAlpha, i);
    let found = rows(maker, i, heads, tiled)?;
    let stem = |role: Role, from: Option<&String>| match from {
        Some(from) => maker.stem(role, i, from),
        None => maker.naming.stem(role, i).ok_or_else(|| maker.nameless(role, i)),
    };
    let order = heads.order(to_tiled);
    if maker.to != Form::Gguf && both.is_some() {
        let to = stem(Role::SsmIn, found.stems.first().filter(|_| found.stems.len() == 1))?;
        let of = |list: &[Vec<(usize, usize)>], g: usize| list[g * heads.each..(g + 1) * heads.each].concat();
        let group = |g: usize| {
            let keys = g * d_k..(g + 1) * d_k;
            [found.q[keys.clone()].to_vec(), found.k[keys].to_vec(), of(&found.v, g), of(&found.z, g)].concat()
        };
        let all: Vec<_> = (0..n_key_head).flat_map(group).collect();
        attention::push(maker, (Role::SsmIn, i), &to, &found.stems, &all)?;
    } else {
        let own = |p: usize| found.stems.get(p).filter(|_| found.stems.len() == 2);
        let (to_qkv, to_z) = (stem(Role::DeltaQkv, own(0))?, stem(Role::DeltaGate, own(1))?);
        let of = |list: &[Vec<(usize, usize)>]| order.iter().flat_map(|&h| list[h].clone()).collect::<Vec<_>>();
        let qkv = [found.q.clone(), found.k.clone(), of(&found.v)].concat();
        attention::push(maker, (Role::DeltaQkv, i), &to_qkv, &found.stems, &qkv)?;
        attention::push(maker, (Role::DeltaGate, i), &to_z, &found.stems, &of(&found.z))?;
    }
    if both.is_some() {
        maker.matrix(Role::DeltaBetaAlpha, i)?;
    }
    let each_head = heads.rows(tiled, to_tiled, 1);
    for role in [Role::DeltaBeta, Role::DeltaAlpha].into_iter().filter(|_| both.is_none()) {
        let Some(from) = source.names.find(role, i) else { return Err(source.missing(role, i)) };
        let to = maker.stem(role, i, &from)?;
        let part = Part { rows: each_head.clone(), ..maker.part(role, &from)? };
        let shape = maker.shape(&part, role, i)?;
        maker.push_matrix(role, &to, shape, vec![part]);
    }
    let channels = heads.rows(tiled, to_tiled, d_v).map(|v| {
        let key = 2 * n_key_head * d_k;
        (0..key).chain(v.into_iter().map(|r| key + r)).collect::<Vec<usize>>()
    });
    filter(maker, (Role::SsmConv, i), n_conv, channels.as_deref())?;
    decays(maker, i, [vec![n_head], vec![n_head]], each_head.as_deref())?;
    vector(maker, Role::SsmDtBias, i, (false, each_head.as_deref()))?;
    plain_norm(maker, i)?;
    maker.matrix(Role::SsmOut, i)?;
    if let (Some(columns), Some(out)) = (heads.rows(tiled, to_tiled, d_v), maker.targets.last_mut())
        && let Recipe::Matrix(parts) = &mut out.recipe
    {
        parts.iter_mut().for_each(|part| part.columns = Some(columns.clone()));
    }
    Ok(())
}
