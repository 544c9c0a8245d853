//! Gate, up and down: split or fused; experts: a tensor each, stacked, fused, transposed, by turns.

use super::recipe::{Part, Recipe, Target};
use super::tensors::Maker;
use super::{Form, target_arch};
use crate::LoadError;
use crate::names::Role;

const EXPERTS: [Role; 3] = [Role::ExpGate, Role::ExpUp, Role::ExpDown];

/// Gate, up and down of what every token passes, and gate and up in one matrix where there is a role for it.
struct Dense {
    gate: Role,
    up: Role,
    down: Role,
    fused: Option<Role>,
}

const DENSE: Dense = Dense { gate: Role::FfnGate, up: Role::FfnUp, down: Role::FfnDown, fused: Some(Role::FfnGateUp) };
const SHARED: Dense = Dense { gate: Role::ShGate, up: Role::ShUp, down: Role::ShDown, fused: None };

/// Targets of a layer's feed-forward, without router.
pub(super) fn targets(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    if maker.source.hyper.moe.n_expert > 0 && maker.source.names.find(Role::Router, i).is_some() {
        dense(maker, i, &SHARED)?;
        return experts(maker, i);
    }
    dense(maker, i, &DENSE)
}

fn dense(maker: &mut Maker<'_>, i: usize, roles: &Dense) -> Result<(), LoadError> {
    let source = maker.source;
    maker.matrix(roles.down, i)?;
    let fused = roles.fused.and_then(|role| source.names.find(role, i));
    let [gate, up] = [roles.gate, roles.up].map(|role| source.names.find(role, i));
    let (from_gguf, to_gguf) = (source.form() == Form::Gguf, maker.to == Form::Gguf);
    let keeps = to_gguf && target_arch(source, maker.to)?.gate_up;
    let Some(up) = fused.clone().or(up) else { return Ok(()) };
    let part = maker.part(roles.up, &up)?;
    let [n_up, n_in] = maker.shape(&part, roles.up, i)?;
    let d_ff = match source.names.find(roles.down, i) {
        Some(down) => maker.shape(&maker.part(roles.down, &down)?, roles.down, i)?[1],
        None => n_up,
    };
    let both = gate.is_none() && n_up == 2 * d_ff;
    let apart = maker.to == Form::Mlx && maker.naming.lists_first(roles.gate);
    let style_fused = match roles.fused {
        _ if !from_gguf || to_gguf || apart => None,
        Some(role) => maker.naming.stem(role, i),
        // A style that lists no name for a shared expert's gate has it before up.
        None => {
            maker.naming.stem(roles.up, i).filter(|_| !maker.naming.lists(roles.gate) && maker.naming.lists(roles.up))
        }
    };
    match (gate, style_fused) {
        (Some(gate), Some(to)) => {
            let gate = maker.part(roles.gate, &gate)?;
            maker.push_matrix(roles.up, &to, [2 * n_up, n_in], vec![gate, part]);
        }
        (None, Some(to)) if both => maker.renamed(roles.up, i, &up, &to)?,
        (None, _) if both && (keeps || !from_gguf && !to_gguf && !apart) => {
            let to = maker.stem(roles.up, i, &up)?;
            maker.renamed(roles.up, i, &up, &to)?;
        }
        (None, _) if both => {
            let bias = maker.bias(roles.up, &up)?;
            for (role, from) in [(roles.gate, 0), (roles.up, d_ff)] {
                let to = maker.naming.stem(role, i).ok_or_else(|| maker.nameless(role, i))?;
                let rows = Some((from..from + d_ff).collect());
                maker.push_matrix(role, &to, [d_ff, n_in], vec![Part { rows, ..part.clone() }]);
                if let Some(bias) = &bias {
                    maker.push_numbers(role, format!("{to}.bias"), vec![d_ff], bias[from..from + d_ff].to_vec());
                }
            }
        }
        _ => {
            maker.matrix(roles.gate, i)?;
            maker.matrix(roles.up, i)?;
        }
    }
    Ok(())
}

/// Gate, up and down of all experts: a part each, `[n_out, n_in]`, and their biases.
struct Experts {
    parts: [Vec<Part>; 3],
    biases: [Option<Vec<f32>>; 3],
    d_ff: usize,
}

fn experts(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    let all = read(maker, i)?;
    let n_expert = maker.source.hyper.moe.n_expert;
    let d_model = outer_width(maker, i)?;
    let shapes = [[all.d_ff, d_model], [all.d_ff, d_model], [d_model, all.d_ff]];
    let merged = match maker.to {
        Form::HuggingFace => maker.naming.stem(Role::ExpGateUp, i),
        Form::Gguf | Form::Mlx => None,
    };
    if let Some(to) = merged {
        return write_merged(maker, i, &to, all);
    }
    for (p, role) in EXPERTS.into_iter().enumerate() {
        if all.parts[p].is_empty() {
            continue;
        }
        let own = maker.source.names.find(role, i).filter(|stem| stem.contains("{e}"));
        let to = match (maker.to, maker.source.form()) {
            (Form::Mlx, _) => maker.naming.mlx_experts(role, i),
            (Form::HuggingFace, Form::HuggingFace) if own.is_some() => own,
            (Form::Gguf | Form::HuggingFace, _) => maker.naming.stem(role, i),
        };
        let to = to.ok_or_else(|| maker.nameless(role, i))?;
        let [n_out, n_in] = shapes[p];
        if to.contains("{e}") {
            for (e, part) in all.parts[p].iter().enumerate() {
                maker.push_matrix(role, &to.replace("{e}", &e.to_string()), [n_out, n_in], vec![part.clone()]);
            }
            continue;
        }
        let stack = all.parts[p].iter().map(|part| vec![part.clone()]).collect();
        let (name, recipe) = (format!("{to}.weight"), Recipe::Stack(stack));
        maker.targets.push(Target {
            name,
            role,
            shape: vec![n_expert, n_out, n_in],
            recipe,
            order: None,
            transposed: false,
        });
        if let Some(bias) = &all.biases[p] {
            maker.push_numbers(role, format!("{to}.bias"), vec![n_expert, n_out], bias.clone());
        }
    }
    Ok(())
}

/// Gate and up as one stack, as gpt-oss, Llama 4 and Granite have them.
fn write_merged(maker: &mut Maker<'_>, i: usize, to: &str, all: Experts) -> Result<(), LoadError> {
    let (n_expert, arch) = (maker.source.hyper.moe.n_expert, maker.source.arch);
    let d_model = outer_width(maker, i)?;
    let (d_ff, transposed) = (all.d_ff, arch.experts_transposed);
    let down = maker.naming.stem(Role::ExpDown, i).ok_or_else(|| maker.nameless(Role::ExpDown, i))?;
    let suffix = if target_arch(maker.source, maker.to)?.experts_bare { "" } else { ".weight" };
    let [gates, ups, downs] = all.parts;
    let stack = gates.into_iter().zip(ups).map(|(gate, up)| vec![gate, up]).collect();
    let by_turns = arch.experts_by_turns.then(|| (0..d_ff).flat_map(|r| [r, d_ff + r]).collect::<Vec<usize>>());
    let place = |[n_out, n_in]: [usize; 2]| if transposed { [n_in, n_out] } else { [n_out, n_in] };
    let mut push = |role, name: String, [a, b]: [usize; 2], (stack, order)| {
        let (shape, recipe) = (vec![n_expert, a, b], Recipe::Stack(stack));
        maker.targets.push(Target { name, role, shape, recipe, order, transposed });
    };
    push(Role::ExpGateUp, format!("{to}{suffix}"), place([2 * d_ff, d_model]), (stack, by_turns));
    let stack = downs.into_iter().map(|part| vec![part]).collect();
    push(Role::ExpDown, format!("{down}{suffix}"), place([d_model, d_ff]), (stack, None));
    let [gate, up, down_bias] = all.biases;
    if let (Some(gate), Some(up)) = (gate, up) {
        let one = |(gate, up): (&[f32], &[f32])| -> Vec<f32> {
            if arch.experts_by_turns {
                gate.iter().zip(up).flat_map(|(g, u)| [*g, *u]).collect()
            } else {
                [gate, up].concat()
            }
        };
        let bias = gate.chunks_exact(d_ff).zip(up.chunks_exact(d_ff)).flat_map(one).collect();
        maker.push_numbers(Role::ExpGateUp, format!("{to}_bias"), vec![n_expert, 2 * d_ff], bias);
    }
    if let Some(bias) = down_bias {
        maker.push_numbers(Role::ExpDown, format!("{down}_bias"), vec![n_expert, d_model], bias);
    }
    Ok(())
}

/// The experts of the source, whatever its form.
fn read(maker: &Maker<'_>, i: usize) -> Result<Experts, LoadError> {
    let source = maker.source;
    let (d_model, n_expert) = (outer_width(maker, i)?, source.hyper.moe.n_expert);
    let down_stem = source.names.find(Role::ExpDown, i).ok_or_else(|| source.missing(Role::ExpDown, i))?;
    let merged = source.names.find(Role::ExpGateUp, i);
    let down = parts(maker, Role::ExpDown, &down_stem)?;
    let d_ff = width(maker, i, &down[0])?;
    let bias = |stem: &str, n: usize| -> Result<Option<Vec<f32>>, LoadError> {
        for name in [format!("{stem}.bias"), format!("{stem}_bias")] {
            if let Some((_, bias)) = source.checkpoint.vector(&name)?.filter(|(_, b)| b.len() == n_expert * n) {
                return Ok(Some(bias));
            }
        }
        Ok(None)
    };
    let down_bias = bias(&down_stem, d_model)?;
    let Some(stem) = merged else {
        let find = |role| source.names.find(role, i).ok_or_else(|| source.missing(role, i));
        let up = find(Role::ExpUp)?;
        let gate = source.names.find(Role::ExpGate, i);
        let gate_parts = gate.as_deref().map_or(Ok(Vec::new()), |stem| parts(maker, Role::ExpGate, stem))?;
        let gate_bias = gate.as_deref().map_or(Ok(None), |stem| bias(stem, d_ff))?;
        let biases = [gate_bias, bias(&up, d_ff)?, down_bias];
        return Ok(Experts { parts: [gate_parts, parts(maker, Role::ExpUp, &up)?, down], biases, d_ff });
    };
    let by_turns = source.arch.experts_by_turns && source.form() != Form::Gguf;
    let rows = |half: usize| -> Vec<usize> {
        if by_turns { (half..2 * d_ff).step_by(2).collect() } else { (half * d_ff..(half + 1) * d_ff).collect() }
    };
    let all = parts(maker, Role::ExpGateUp, &stem)?;
    let half = |h: usize| all.iter().map(|part| Part { rows: Some(rows(h)), ..part.clone() }).collect();
    let both = bias(&stem, 2 * d_ff)?;
    let half_bias = |h: usize| {
        let order = rows(h);
        both.as_ref().map(|b| b.chunks_exact(2 * d_ff).flat_map(|b| order.iter().map(|&r| b[r])).collect())
    };
    Ok(Experts { parts: [half(0), half(1), down], biases: [half_bias(0), half_bias(1), down_bias], d_ff })
}

/// What experts read and write: the model's width, or that of the projections around them.
fn outer_width(maker: &Maker<'_>, i: usize) -> Result<usize, LoadError> {
    match maker.source.names.find(Role::LatentDown, i) {
        None => Ok(maker.source.hyper.d_model),
        Some(stem) => Ok(maker.shape(&maker.part(Role::LatentDown, &stem)?, Role::LatentDown, i)?[0]),
    }
}

/// A part for each expert of a role.
fn parts(maker: &Maker<'_>, role: Role, stem: &str) -> Result<Vec<Part>, LoadError> {
    let source = maker.source;
    let n_expert = source.hyper.moe.n_expert;
    let scales = match source.form() {
        Form::Gguf => source.checkpoint.vector(&format!("{stem}.scale"))?.map(|(_, s)| s),
        Form::HuggingFace | Form::Mlx => None,
    };
    let scale = |e: usize| scales.as_ref().and_then(|s| s.get(e)).copied().unwrap_or(1.0);
    if stem.contains("{e}") {
        let part = |e: usize| Part { scale: scale(e), ..Part::whole(&stem.replace("{e}", &e.to_string())) };
        return Ok((0..n_expert).map(part).collect());
    }
    let stacked = source.form() == Form::HuggingFace && role != Role::ExpGate && role != Role::ExpUp;
    let mut transposed = false;
    if source.arch.experts_transposed && stacked {
        // Quantized experts lie as the product needs them.
        let dtype = [format!("{stem}.weight"), stem.to_owned()].iter().find_map(|n| source.checkpoint.tensor(n));
        transposed = dtype.is_some_and(|t| t.dtype.block() == 1);
    }
    let part = |e: usize| Part { expert: Some(e), transposed, scale: scale(e), ..Part::whole(stem) };
    Ok((0..n_expert).map(part).collect())
}

/// Columns of a down projection: the width of an expert.
fn width(maker: &Maker<'_>, i: usize, down: &Part) -> Result<usize, LoadError> {
    let missing = || maker.source.missing(Role::ExpDown, i);
    let matrix = match down.expert {
        None => maker.source.checkpoint.matrix(&down.stem)?.ok_or_else(missing)?,
        Some(e) => {
            let all = maker.source.checkpoint.experts(&down.stem)?;
            all.and_then(|all| all.into_iter().nth(e)).ok_or_else(missing)?
        }
    };
    Ok(if down.transposed { matrix.n_out } else { matrix.n_in })
}
