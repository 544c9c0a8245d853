//! What a model's configuration says of layers that are not all alike: which attend, which keep a state, which have
//! experts.

use mlxr_weights::gguf::{Array, Value};

use serde_json::{Map, Value as Json};

use super::Source;
use super::metadata::Writer;
use super::recipe::Target;
use crate::config;
use crate::hyper::{DeltaShape, Hyper};
use crate::names::Role;

/// Which layers have a target that `wanted` wants.
pub(super) fn layers(n_layer: usize, targets: &[Target], wanted: impl Fn(&Target) -> bool) -> Vec<bool> {
    let mut layers = vec![false; n_layer];
    for target in targets.iter().filter(|t| wanted(t)) {
        let number = target.name.split('.').find_map(|part| part.parse::<usize>().ok());
        if let Some(layer) = number.and_then(|i| layers.get_mut(i)) {
            *layer = true;
        }
    }
    layers
}

/// Which layers have experts.
pub(super) fn experts(n_layer: usize, targets: &[Target]) -> Vec<bool> {
    layers(n_layer, targets, |t| t.role == Role::Router)
}

/// Which layers attend: those with an output of attention that is none of a delta net.
pub(super) fn attending(n_layer: usize, targets: &[Target]) -> Vec<bool> {
    let outputs = layers(n_layer, targets, |t| t.role == Role::AttnOut);
    let nets = layers(n_layer, targets, |t| t.role == Role::DeltaConvQ);
    outputs.into_iter().zip(nets).map(|(output, net)| output && !net).collect()
}

/// Which layers keep a state and do not attend.
pub(super) fn recurrent(n_layer: usize, targets: &[Target]) -> Vec<bool> {
    let states = [Role::SsmConv, Role::ShortConv, Role::DeltaConvQ];
    let states = layers(n_layer, targets, |t| states.contains(&t.role));
    states.into_iter().zip(attending(n_layer, targets)).map(|(state, attends)| state && !attends).collect()
}

/// Whether a list of layers, rather than counts of heads, says which keep a state.
fn listed(hyper: &Hyper) -> bool {
    hyper.delta.is_some_and(|delta| !delta.each_channel)
}

/// Heads of keys and values of each layer, none where a layer does not attend.
pub(super) fn kv_heads(hyper: &Hyper, heads: &[usize], targets: &[Target]) -> Vec<usize> {
    let attends = attending(hyper.n_layer, targets);
    heads.iter().zip(attends).map(|(n, attends)| if attends || listed(hyper) { *n } else { 0 }).collect()
}

/// The layers of which every so many-th attends and the others keep a state, if it is so.
pub(super) fn interval(recurrent: &[bool]) -> Option<usize> {
    let first = recurrent.iter().position(|r| !r)? + 1;
    let fits = recurrent.iter().enumerate().all(|(i, r)| *r == ((i + 1) % first != 0));
    fits.then_some(first)
}

/// Writes what GGUF says of states.
pub(super) fn metadata(writer: &mut Writer<'_>, source: &Source<'_>, targets: &[Target]) {
    let hyper = writer.hyper;
    if let Some(n) = hyper.n_short_conv {
        writer.count(config::SHORT_CONV, n);
    }
    let rank = targets.iter().find(|t| t.role == Role::SsmDt).and_then(|t| t.shape.get(1)).copied();
    if let Some(s) = hyper.ssm.filter(|_| hyper.delta.is_none()) {
        writer.count(config::SSM_CONV, s.n_conv);
        writer.count(config::SSM_INNER, s.d_inner);
        writer.count(config::SSM_STATE, s.d_state);
        writer.count(config::SSM_HEADS, rank.unwrap_or(s.n_head));
        if rank.is_none() {
            writer.count(config::SSM_GROUPS, s.n_group);
        } else if !targets.iter().any(|t| t.role == Role::SsmDtNorm) {
            let normed = source.arch.ssm_normed || source.config.flag(config::SSM_NORMED) == Some(true);
            writer.set(config::SSM_NORMED, Value::Bool(normed));
        }
    }
    let Some(DeltaShape { n_conv, n_head, n_key_head, d_k, d_v, each_channel, bound }) = hyper.delta else { return };
    writer.count(config::DELTA_CONV, n_conv);
    if each_channel {
        writer.count(config::KDA_D_HEAD, d_k);
        if let Some(bound) = bound {
            writer.set(config::KDA_SAFE, Value::Bool(true));
            writer.set(config::KDA_BOUND, Value::F32(bound));
        }
        return;
    }
    writer.count(config::DELTA_HEADS, n_head);
    writer.count(config::DELTA_KEY_HEADS, n_key_head);
    writer.count(config::DELTA_D_K, d_k);
    writer.count(config::SSM_INNER, d_v * n_head);
    let recurrent = recurrent(hyper.n_layer, targets);
    if let Some(n) = interval(&recurrent) {
        writer.count(config::FULL_INTERVAL, n);
    }
    writer.set(config::RECURRENT, Value::Array(Array::Bool(recurrent)));
}

/// What states are, as far as the configuration of `want` says it.
pub(super) fn state(want: &Hyper, h: &Hyper) -> String {
    // A rank stands where the number of heads does; GGUF has the widths of delta nets under the names of state spaces.
    let ssm = h.ssm.filter(|_| want.delta.is_none()).map(|s| (s.n_conv, s.d_inner, s.d_state, s.n_group));
    let delta = h.delta.filter(|_| want.delta.is_some()).map(|d| match d.each_channel {
        true => (d.n_conv, 0, 0, d.d_k, d.d_v, d.bound),
        false => (d.n_conv, d.n_head, d.n_key_head, d.d_k, d.d_v, d.bound),
    });
    format!("{ssm:?} {delta:?} {:?}", h.n_short_conv)
}

/// What GGUF cannot say of states.
pub(super) fn losses(source: &Source<'_>) -> Vec<String> {
    let (config, hyper) = (&source.config, &source.hyper);
    let mut losses = Vec::new();
    let eps = config.nonzero(config::SSM_EPS).ok().flatten().filter(|_| source.arch.ssm_normed);
    if let Some(eps) = eps.filter(|eps| *eps != hyper.eps) {
        losses.push(format!("epsilon of norms in state spaces: {eps}, read back as {}", hyper.eps));
    }
    let norms = (0..hyper.n_layer).any(|i| source.names.find(Role::SsmNorm, i).is_some());
    if hyper.delta.is_none() && norms && config.flag(config::SSM_NORM_FIRST) == Some(true) {
        losses.push("norms of state spaces: before the gate, read back as after it".into());
    }
    losses
}

/// Sets a field under every name that a class has for it.
fn set(fields: &mut Map<String, Json>, names: &[&str], value: impl Into<Json>) {
    let value = value.into();
    fields.extend(names.iter().map(|name| ((*name).to_owned(), value.clone())));
}

/// What `config.json` says of states and of layers that are not all alike.
pub(super) fn json(fields: &mut Map<String, Json>, hyper: &Hyper, targets: &[Target]) {
    layers_json(fields, hyper, targets);
    if let Some(n) = hyper.n_short_conv {
        set(fields, &["conv_L_cache"], n);
        set(fields, &["block_auto_adjust_ff_dim"], false);
    }
    if let Some(d) = hyper.delta {
        set(fields, &["linear_conv_kernel_dim"], d.n_conv);
        if d.each_channel {
            let rows = targets.iter().find(|t| t.role == Role::DeltaBeta).map_or(0, |t| t.shape[0]);
            set(fields, &["linear_head_dim"], d.d_k);
            set(fields, &["linear_num_heads"], rows);
            return;
        }
        set(fields, &["linear_key_head_dim"], d.d_k);
        set(fields, &["linear_value_head_dim"], d.d_v);
        set(fields, &["linear_num_key_heads"], d.n_key_head);
        set(fields, &["linear_num_value_heads"], d.n_head);
        return;
    }
    let Some(s) = hyper.ssm else { return };
    set(fields, &["conv_kernel", "mamba_d_conv"], s.n_conv);
    set(fields, &["state_size", "mamba_d_state", "ssm_state_size"], s.d_state);
    set(fields, &["expand", "mamba_expand"], s.d_inner / hyper.d_model.max(1));
    set(fields, &["mamba_d_ssm"], s.d_inner);
    if let Some(rank) = targets.iter().find(|t| t.role == Role::SsmDt).and_then(|t| t.shape.get(1)) {
        set(fields, &["time_step_rank", "mamba_dt_rank"], *rank);
        if !attending(hyper.n_layer, targets).contains(&true) {
            set(fields, &["intermediate_size"], s.d_inner);
        }
        return;
    }
    set(fields, &["n_groups", "mamba_n_groups"], s.n_group);
    set(fields, &["mamba_n_heads", "mamba_num_heads"], s.n_head);
    let d_head = s.d_inner / s.n_head.max(1);
    set(fields, &["mamba_d_head", "mamba_head_dim"], d_head);
    set(fields, &["mamba_rms_norm"], targets.iter().any(|t| t.role == Role::SsmNorm));
    set(fields, &["mamba_norm_before_gate"], false);
    if !attending(hyper.n_layer, targets).contains(&true) {
        set(fields, &["num_heads"], s.n_head);
        set(fields, &["head_dim"], d_head);
    }
}

/// What `config.json` says of what each layer is.
fn layers_json(fields: &mut Map<String, Json>, hyper: &Hyper, targets: &[Target]) {
    let n_layer = hyper.n_layer;
    let (attends, recurrent) = (attending(n_layer, targets), recurrent(n_layer, targets));
    let experts = experts(n_layer, targets);
    if experts.contains(&true) {
        let leading = experts.iter().position(|e| *e).unwrap_or(0);
        set(fields, &["first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"], leading);
        set(fields, &["moe_layer_end_index"], experts.iter().rposition(|e| *e).unwrap_or(0));
        let kinds: Vec<&str> = experts.iter().map(|e| if *e { "sparse" } else { "dense" }).collect();
        set(fields, &["mlp_layer_types"], kinds);
    }
    if !recurrent.contains(&true) || !attends.contains(&true) {
        return;
    }
    let state = if hyper.n_short_conv.is_some() { "conv" } else { "linear_attention" };
    let kinds: Vec<&str> = recurrent.iter().map(|r| if *r { state } else { "full_attention" }).collect();
    set(fields, &["layer_types"], kinds);
    if let Some(n) = interval(&recurrent) {
        set(fields, &["full_attention_interval"], n);
    }
    for (names, list) in [
        (["attn_layer_period", "attn_layer_offset"], &attends),
        (["expert_layer_period", "expert_layer_offset"], &experts),
    ] {
        if let Some((step, first)) = steps(list) {
            set(fields, &names[..1], step);
            set(fields, &names[1..], first);
        }
    }
    set(fields, &["attn_layer_indices"], (0..n_layer).filter(|i| attends[*i]).collect::<Vec<usize>>());
    // Where a layer has one part only, all are listed.
    if (0..n_layer).any(|i| !attends[i] && !recurrent[i]) {
        let parts = (0..n_layer).map(|i| match (attends[i], recurrent[i], experts[i]) {
            (true, ..) => "full_attention",
            (_, true, _) => "linear_attention",
            (_, _, true) => "moe",
            _ => "mlp",
        });
        set(fields, &["layers_block_type"], parts.collect::<Vec<&str>>());
    }
}

/// Every how many layers the list has one, and which is the first, if it is so.
pub(super) fn steps(list: &[bool]) -> Option<(usize, usize)> {
    let first = list.iter().position(|x| *x)?;
    let next = list[first + 1..].iter().position(|x| *x).map_or(list.len(), |n| n + 1);
    list.iter().enumerate().all(|(i, x)| *x == (i >= first && (i - first) % next == 0)).then_some((next, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_by_turns_are_told_by_a_step() {
        let list = |text: &str| text.chars().map(|c| c == 'x').collect::<Vec<bool>>();
        for (layers, expect) in [
            (".x.x.x", Some((2, 1))),
            ("x..x..", Some((3, 0))),
            ("...x", Some((4, 3))),
            ("..xx", Some((1, 2))),
            (".x..x.x", None),
            ("....", None),
        ] {
            assert_eq!(steps(&list(layers)), expect, "{layers}");
        }
        for (layers, expect) in [("xxx.xxx.", Some(4)), ("x.x.", Some(2)), ("xx", None), ("x.xx", None), (".x", None)] {
            assert_eq!(interval(&list(layers)), expect, "{layers}");
        }
    }
}
