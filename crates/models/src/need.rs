//! What a model takes, computed from its configuration and the names of its tensors, before anything of it is loaded.

use mlxr_compute::op::{KvSpec, LayerState};
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_weights::Checkpoint;

use crate::LoadError;
use crate::config::{self, Config};
use crate::hyper::{Hyper, depth};
use crate::model::{page_bytes, state_bytes};
use crate::names::{Names, Role};
use crate::open::{LoadOptions, describe};
use crate::table;

/// Widths that a layer has of each token at once: what came in, its norm, the sum, and what attention gives back.
const STREAMS: u64 = 4;
/// The gate, what it is multiplied with, and the product.
const GATED: u64 = 3;
const NUMBER_BYTES: u64 = size_of::<f32>() as u64;

/// What a model takes beside its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Bytes of keys and values of a page, all layers.
    pub page_bytes: u64,
    /// Bytes of a sequence's recurrent states, all layers; 0 where it has none.
    pub state_bytes: u64,
    /// Bytes that a token of a step takes while a layer is computed, at most.
    pub token_bytes: u64,
    /// Bytes of the logits of a token.
    pub logits_bytes: u64,
    /// Bytes in the file of embeddings that give the logits too, and that a backend may hold twice; 0 where they do not.
    pub tied_bytes: u64,
}

/// What a model takes that is loaded with these options.
///
/// # Errors
/// As [`crate::load`], as far as the configuration goes.
pub fn need(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Need, LoadError> {
    let (arch_name, names, arch) = describe(checkpoint)?;
    let config = Config::new(checkpoint, &arch_name).with_defaults(arch.defaults);
    let hyper = Hyper::of_layers(&config, arch, options.n_ctx, depth(&config)?)?;
    let named = !std::ptr::eq(arch, table::GENERIC);
    let layers: Vec<LayerState> =
        (0..hyper.n_layer).flat_map(|i| states((&names, named, arch.single_part), &hyper, i)).collect();
    let recurrent = layers.iter().any(|layer| matches!(layer, LayerState::Recurrent { .. }));
    let state_bytes = if recurrent { state_bytes(&layers) as u64 } else { 0 };
    let spec = KvSpec { layers, page_tokens: PAGE_TOKENS, n_page: 1, n_slot: 0, dtype: options.kv_type };
    let count = |key| Ok::<_, LoadError>(config.count(key)?.unwrap_or(0));
    // Experts that a token does not use take no memory for it.
    let d_ff = count(config::D_FF)?.max(hyper.moe.n_used.max(1) * count(config::D_FF_EXPERT)?);
    let heads = |n: &[usize], d: usize| n.iter().max().map_or(0, |n| n * d);
    let attends = heads(&hyper.n_head, hyper.d_k) + heads(&hyper.n_kv_head, hyper.d_k + hyper.d_v);
    let scans = hyper.ssm.map_or(0, |s| 2 * s.d_inner) + hyper.delta.map_or(0, |d| 3 * d.n_head * d.d_v);
    let widths = STREAMS * hyper.d_model as u64 + (GATED * d_ff as u64).max((attends + scans) as u64);
    let embed = names.find(Role::Embed, 0).and_then(|stem| checkpoint.tensor(&format!("{stem}.weight")));
    let tied = names.find(Role::Output, 0).is_none() || config.flag(config::TIED) == Some(true);
    Ok(Need {
        page_bytes: page_bytes(&spec) as u64,
        state_bytes,
        token_bytes: NUMBER_BYTES * widths,
        logits_bytes: NUMBER_BYTES * embed.map_or_else(|| count(config::N_VOCAB), |table| Ok(table.shape[0]))? as u64,
        tied_bytes: embed.filter(|_| tied).map_or(0, |table| table.bytes as u64),
    })
}

/// What a layer keeps, by the tensors that it has: one state, or two where attention and a scan stand beside each other.
fn states((names, named, single_part): (&Names, bool, bool), hyper: &Hyper, i: usize) -> Vec<LayerState> {
    let has = |role| named && names.find(role, i).is_some();
    let attention = has(Role::AttnQ) || has(Role::AttnQkv);
    let kv = LayerState::Kv { n_kv_head: hyper.n_kv_head[i], d_k: hyper.d_k, d_v: hyper.d_v, d_latent: 0 };
    let scan = |n_channel: usize, n_conv: usize, ssm: usize| LayerState::Recurrent {
        conv: n_channel * n_conv.saturating_sub(1),
        ssm,
    };
    if has(Role::ShortConvIn) {
        return vec![scan(hyper.d_model, hyper.n_short_conv.unwrap_or(1), 0)];
    }
    if let Some(d) = hyper.delta.filter(|_| has(Role::DeltaBetaAlpha) || has(Role::DeltaBeta)) {
        return vec![scan(2 * d.n_key_head * d.d_k + d.n_head * d.d_v, d.n_conv, d.n_head * d.d_v * d.d_k)];
    }
    if let Some(s) = hyper.ssm {
        if has(Role::SsmX) {
            return vec![scan(s.d_inner, s.n_conv, s.d_inner * s.d_state)];
        }
        if has(Role::SsmIn) {
            let mamba2 = scan(s.d_inner + 2 * s.n_group * s.d_state, s.n_conv, s.d_inner * s.d_state);
            return if attention { vec![kv, mamba2] } else { vec![mamba2] };
        }
    }
    match hyper.mla {
        Some(mla) => {
            let (d_k, d_latent) = (mla.kv_rank + mla.d_rope, mla.kv_rank);
            vec![LayerState::Kv { n_kv_head: 1, d_k, d_v: 0, d_latent }]
        }
        None if !attention && single_part => vec![LayerState::None],
        None => vec![kv],
    }
}
