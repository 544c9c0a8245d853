//! q, k and v: split, fused and permuted; the joint and the absorbed projections of latent attention.

use mlxr_compute::op::RopePairs;

use super::recipe::{Part, Recipe, Target};
use super::tensors::Maker;
use super::{Form, target_arch};
use crate::LoadError;
use crate::arch::{Arch, Fused};
use crate::hyper::Mla;
use crate::names::Role;

/// A row of a projection: which matrix of the source, and which row of that.
type RowOf = (usize, usize);

/// Targets of a layer's attention, without its output.
pub(super) fn targets(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    let names = &maker.source.names;
    if names.find(Role::AttnOut, i).is_some() {
        maker.matrix(Role::AttnGate, i)?;
    }
    if let Some(mla) = maker.source.hyper.mla {
        maker.matrix(Role::AttnQ, i)?;
        return absorbed(maker, i, mla);
    }
    let fused = names.find(Role::AttnQkv, i);
    if fused.is_none() && names.find(Role::AttnQ, i).is_none() {
        return Ok(());
    }
    projections(maker, i, fused)?;
    let hyper = &maker.source.hyper;
    let heads = [(Role::QNorm, hyper.n_head[i]), (Role::KNorm, hyper.n_kv_head[i])];
    heads.into_iter().try_for_each(|(role, n_head)| head_norm(maker, role, i, n_head))
}

/// Which dimensions rotate together in a form.
fn pairs(arch: &Arch, form: Form) -> RopePairs {
    arch.pairs[usize::from(form != Form::Gguf)]
}

/// Rows of a head in another form's order: the source's row for each row of the target.
fn permutation(maker: &Maker<'_>) -> Result<Vec<usize>, LoadError> {
    let (source, d_k) = (maker.source, maker.source.hyper.d_k);
    let to = pairs(target_arch(source, maker.to)?, maker.to);
    let half = source.hyper.rope.n_rot / 2;
    let row = |r: usize| match (source.hyper.pairs, to) {
        _ if r >= 2 * half => r,
        (RopePairs::HalfSplit, RopePairs::Interleaved) => r / 2 + (r % 2) * half,
        (RopePairs::Interleaved, RopePairs::HalfSplit) => (r % half) * 2 + r / half,
        _ => r,
    };
    Ok((0..d_k).map(row).collect())
}

/// Where q, k and v begin in a fused matrix, and how they lie there.
fn fused_rows(grouped: bool, [n_head, n_kv, d_k, d_v]: [usize; 4]) -> [Vec<usize>; 3] {
    let groups = if grouped { n_kv } else { 1 };
    let sizes = [n_head * d_k / groups, n_kv * d_k / groups, n_kv * d_v / groups];
    let stride: usize = sizes.iter().sum();
    let starts = [0, sizes[0], sizes[0] + sizes[1]];
    [0, 1, 2].map(|p| {
        (0..groups).flat_map(|g| g * stride + starts[p]..g * stride + starts[p] + sizes[p]).collect::<Vec<usize>>()
    })
}

fn projections(maker: &mut Maker<'_>, i: usize, fused: Option<String>) -> Result<(), LoadError> {
    let source = maker.source;
    let (hyper, arch) = (&source.hyper, source.arch);
    let widths = [hyper.n_head[i], hyper.n_kv_head[i], hyper.d_k, hyper.d_v];
    let grouped = |form: Form| arch.qkv == Fused::Grouped && form != Form::Gguf;
    let roles = [Role::AttnQ, Role::AttnK, Role::AttnV];
    let stems: Vec<String> = match &fused {
        Some(stem) => vec![stem.clone()],
        None => {
            let stem = |role: &Role| source.names.find(*role, i).ok_or_else(|| source.missing(*role, i));
            roles.iter().map(stem).collect::<Result<_, _>>()?
        }
    };
    // Qwen3-Next: each head's query is followed by its gate.
    let n_query = widths[0] * widths[2];
    let gated = match &fused {
        Some(_) => false,
        None => maker.shape(&maker.part(Role::AttnQ, &stems[0])?, Role::AttnQ, i)?[0] == 2 * n_query,
    };
    let [mut q, mut k, v]: [Vec<RowOf>; 3] = match &fused {
        Some(_) => fused_rows(grouped(source.form()), widths).map(|rows| rows.into_iter().map(|r| (0, r)).collect()),
        None => {
            let n = [if gated { 2 * n_query } else { n_query }, widths[1] * widths[2], widths[1] * widths[3]];
            [0, 1, 2].map(|p| (0..n[p]).map(|r| (p, r)).collect())
        }
    };
    let order = permutation(maker)?;
    for (rows, gated) in [(&mut q, gated), (&mut k, false)] {
        let heads = rows.chunks_exact(hyper.d_k).enumerate();
        *rows = heads
            .flat_map(|(h, head)| {
                order.iter().enumerate().map(move |(at, &r)| head[if gated && h % 2 == 1 { at } else { r }])
            })
            .collect();
    }
    let written_fused = match (maker.to, source.form()) {
        (Form::Gguf, _) => fused.is_some() && !(arch.qkv == Fused::Grouped && arch.pairs[0] != arch.pairs[1]),
        (_, Form::Gguf) => maker.naming.stem(Role::AttnQkv, i).is_some(),
        _ => fused.is_some(),
    };
    if !written_fused {
        for (p, (role, rows)) in roles.into_iter().zip([q, k, v]).enumerate() {
            let from = stems.get(p).map_or("", String::as_str);
            let to = maker.stem(role, i, from)?;
            push(maker, (role, i), &to, &stems, &rows)?;
        }
        return Ok(());
    }
    let all: Vec<RowOf> = if grouped(maker.to) {
        let per = |rows: &Vec<RowOf>, g: usize| rows[g * rows.len() / widths[1]..][..rows.len() / widths[1]].to_vec();
        (0..widths[1]).flat_map(|g| [per(&q, g), per(&k, g), per(&v, g)].concat()).collect()
    } else {
        [q, k, v].concat()
    };
    let to = maker.stem(Role::AttnQkv, i, &stems[0])?;
    push(maker, (Role::AttnQkv, i), &to, &stems, &all)
}

/// Adds a projection of these rows of the source's matrices, with its bias.
pub(super) fn push(
    maker: &mut Maker<'_>,
    (role, i): (Role, usize),
    to: &str,
    stems: &[String],
    rows: &[RowOf],
) -> Result<(), LoadError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut n_in = 0;
    for run in rows.chunk_by(|a, b| a.0 == b.0) {
        let part = maker.part(role, &stems[run[0].0])?;
        let [n_out, width] = maker.shape(&part, role, i)?;
        n_in = width;
        let rows: Vec<usize> = run.iter().map(|(_, row)| *row).collect();
        if let Some(bad) = rows.iter().find(|row| **row >= n_out) {
            return Err(LoadError::Shape {
                path: maker.source.checkpoint.path().display().to_string(),
                tensor: part.stem,
                found: format!("{n_out} rows"),
                expected: format!("at least {}, as the configuration's heads need", bad + 1),
            });
        }
        let whole = rows.len() == n_out && rows.iter().enumerate().all(|(r, row)| r == *row);
        parts.push(Part { rows: (!whole).then_some(rows), ..part });
    }
    maker.push_matrix(role, to, [rows.len(), n_in], parts);
    let biases = stems.iter().map(|stem| maker.bias(role, stem));
    let biases: Vec<Option<Vec<f32>>> = biases.collect::<Result<_, _>>()?;
    if rows.iter().all(|(p, row)| biases[*p].as_ref().is_some_and(|b| b.len() > *row)) {
        let bias: Vec<f32> = rows.iter().map(|(p, row)| biases[*p].as_ref().map_or(0.0, |b| b[*row])).collect();
        maker.push_numbers(role, format!("{to}.bias"), vec![bias.len()], bias);
    }
    Ok(())
}

/// A norm of q or k: of each head alike, or with weights for each head, which some files keep in a tensor each.
fn head_norm(maker: &mut Maker<'_>, role: Role, i: usize, n_head: usize) -> Result<(), LoadError> {
    let source = maker.source;
    let Some(from) = source.names.find(role, i) else { return Ok(()) };
    let d_k = source.hyper.d_k;
    let (mut all, mut shape) = (Vec::new(), Vec::new());
    for h in 0..if from.contains("{e}") { n_head } else { 1 } {
        let name = format!("{}.weight", from.replace("{e}", &h.to_string()));
        let (one, numbers) = source.checkpoint.vector(&name)?.ok_or_else(|| source.missing(role, i))?;
        shape = one;
        all.extend(numbers);
    }
    let each = from.contains("{e}") || shape.len() > 1;
    let (order, shift) = (permutation(maker)?, maker.norm_shift());
    let shift = if each { 0.0 } else { shift };
    if all.len().is_multiple_of(d_k) {
        all = all.chunks_exact(d_k).flat_map(|head| order.iter().map(|&r| head[r] + shift)).collect();
    }
    let to = maker.stem(role, i, &from)?;
    if to.contains("{e}") {
        for (h, head) in all.chunks_exact(d_k).enumerate() {
            let name = format!("{}.weight", to.replace("{e}", &h.to_string()));
            maker.push_numbers(role, name, vec![d_k], head.to_vec());
        }
        return Ok(());
    }
    let shape = if each { vec![n_head, d_k] } else { vec![all.len()] };
    maker.push_numbers(role, format!("{to}.weight"), shape, all);
    if let Some((shape, bias)) = source.checkpoint.vector(&format!("{from}.bias"))? {
        maker.push_numbers(role, format!("{to}.bias"), shape, bias);
    }
    Ok(())
}

/// Latent attention's second projections: joint in Hugging Face files and some GGUF files, `[kv_rank, d_nope]` and
/// `[d_v, kv_rank]` for each head elsewhere.
fn absorbed(maker: &mut Maker<'_>, i: usize, mla: Mla) -> Result<(), LoadError> {
    let source = maker.source;
    let n_head = source.hyper.n_head[i];
    let stride = mla.d_nope + mla.d_v;
    let joint = source.names.find(Role::KvB, i);
    let split = source.names.find(Role::KB, i).zip(source.names.find(Role::VB, i));
    let (joint, split) = match (joint, split) {
        (_, Some(split)) => (None, Some(split)),
        (Some(joint), None) => (Some(joint), None),
        (None, None) => return Err(source.missing(Role::KvB, i)),
    };
    let arch = target_arch(source, maker.to)?;
    let keeps = match maker.to {
        Form::HuggingFace => true,
        Form::Gguf => arch.joint_kv_b,
        Form::Mlx => arch.mlx_joint_kv_b,
    };
    if keeps {
        if let Some(joint) = joint {
            let to = maker.stem(Role::KvB, i, &joint)?;
            return maker.renamed(Role::KvB, i, &joint, &to);
        }
        let (k, v) = split.expect("one of both is there");
        let one = |stem: &str, h: usize, transposed: bool| Part { expert: Some(h), transposed, ..Part::whole(stem) };
        let parts = (0..n_head).flat_map(|h| [one(&k, h, true), one(&v, h, false)]).collect();
        let to = maker.naming.stem(Role::KvB, i).ok_or_else(|| maker.nameless(Role::KvB, i))?;
        maker.push_matrix(Role::KvB, &to, [n_head * stride, mla.kv_rank], parts);
        return Ok(());
    }
    let rows = |h: usize, from: usize, n: usize| Some((h * stride + from..h * stride + from + n).collect());
    for (role, shape, from, n) in
        [(Role::KB, [mla.kv_rank, mla.d_nope], 0, mla.d_nope), (Role::VB, [mla.d_v, mla.kv_rank], mla.d_nope, mla.d_v)]
    {
        let part = |h: usize| match (&joint, &split) {
            (Some(joint), _) => Part { rows: rows(h, from, n), ..Part::whole(joint) },
            (None, Some((k, v))) => Part { expert: Some(h), ..Part::whole(if role == Role::KB { k } else { v }) },
            (None, None) => unreachable!("one of both is there"),
        };
        let stack = (0..n_head).map(|h| vec![part(h)]).collect();
        let to = maker.naming.stem(role, i).ok_or_else(|| maker.nameless(role, i))?;
        let transposed = role == Role::KB && joint.is_some();
        let shape = vec![n_head, shape[0], shape[1]];
        let (name, recipe) = (format!("{to}.weight"), Recipe::Stack(stack));
        maker.targets.push(Target { name, role, shape, recipe, order: None, transposed });
    }
    Ok(())
}
