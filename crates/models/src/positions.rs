//! What positions mean in a model: windows, rotation, growth of queries.

use mlxr_compute::op::Window;

use crate::LoadError;
use crate::arch::{Arch, NoRope, Temperature, WindowLayers, WindowRope};
use crate::config::{self, Config};
use crate::hyper::Mla;
use crate::rope::{self, RopeSpec, Scaling};

pub(crate) fn windows(config: &Config<'_>, arch: &Arch, n_layer: usize) -> Result<Vec<Window>, LoadError> {
    let n = config.count(config::WINDOW)?.unwrap_or(0);
    if n == 0 || config.flag(config::USE_WINDOW) == Some(false) || arch.window == WindowLayers::None {
        return Ok(vec![Window::Full; n_layer]);
    }
    if config.texts(config::LAYER_TYPES).is_none()
        && config.flags(config::WINDOW_PATTERN, n_layer)?.is_none()
        && matches!(arch.window, WindowLayers::PeriodIn(_, l) if l != n_layer)
    {
        return Ok(vec![Window::Full; n_layer]);
    }
    let n = u32::try_from(n).map_err(|_| config.error(config::WINDOW, n, "less than 2^32"))?;
    let sized = |windowed: bool| match (windowed, arch.window) {
        (false, _) => Window::Full,
        (true, WindowLayers::Chunked(_)) => Window::Chunked(n),
        (true, _) => Window::Sliding(n),
    };
    if let Some(types) = config.texts(config::LAYER_TYPES).filter(|t| t.len() == n_layer) {
        return Ok(types.iter().map(|t| sized(*t != "full_attention")).collect());
    }
    if let Some(list) = config.flags(config::WINDOW_PATTERN, n_layer)? {
        return Ok(list.into_iter().map(sized).collect());
    }
    let period = match arch.window {
        WindowLayers::Period(p) | WindowLayers::Chunked(p) | WindowLayers::PeriodIn(p, _) => {
            config.count(config::WINDOW_PATTERN)?.unwrap_or(p)
        }
        _ => 0,
    };
    if let WindowLayers::PeriodFirst(p) = arch.window {
        let p = config.count(config::WINDOW_PATTERN)?.unwrap_or(p).max(1);
        return Ok((0..n_layer).map(|i| sized(i % p != 0)).collect());
    }
    Ok((0..n_layer).map(|i| sized(period == 0 || i % period < period - 1)).collect())
}

pub(crate) fn rotating(config: &Config<'_>, arch: &Arch, window: &[Window]) -> Result<Vec<bool>, LoadError> {
    let n_layer = window.len();
    if let Some(list) = config.flags(config::NO_ROPE_LAYERS, n_layer)? {
        return Ok(list); // 1: the layer rotates
    }
    Ok(match arch.no_rope {
        NoRope::Never => vec![true; n_layer],
        NoRope::Always => vec![false; n_layer],
        NoRope::ButDepth(depth) => vec![n_layer == depth; n_layer],
        NoRope::ByConfig(default) => {
            let said = config.text(config::POSITION_KIND).map(|kind| kind == "rope");
            vec![said.or(config.flag(config::ROPE_ON)).unwrap_or(default || !config.is_json()); n_layer]
        }
        NoRope::FirstOf(_) if window.iter().all(|w| *w == Window::Full) => vec![true; n_layer],
        NoRope::FirstOf(n) => (0..n_layer).map(|i| i % n != 0).collect(),
        NoRope::FullSparse => {
            let dense = config.count(config::N_DENSE)?.unwrap_or(0);
            window.iter().enumerate().map(|(i, w)| *w != Window::Full || i < dense).collect()
        }
        NoRope::Full if window.iter().all(|w| *w == Window::Full) => vec![true; n_layer],
        NoRope::Full => window.iter().map(|w| *w != Window::Full).collect(),
        NoRope::Every(n) => {
            let n = config.count(config::NO_ROPE_STEP)?.unwrap_or(n).max(1);
            (0..n_layer).map(|i| (i + 1) % n != 0).collect()
        }
    })
}

pub(crate) fn rope_spec(
    config: &Config<'_>,
    arch: &Arch,
    [d_k, trained, n_ctx]: [usize; 3],
    mla: Option<Mla>,
) -> Result<RopeSpec, LoadError> {
    let n_rot = match mla {
        Some(m) => m.d_rope,
        None => {
            let part = config.f32(config::PARTIAL_ROTARY)?.map(|f| (f * d_k as f32) as usize);
            config.count(config::N_ROT)?.filter(|&n| n > 0).or(part).unwrap_or(d_k)
        }
    };
    if n_rot > d_k || !n_rot.is_multiple_of(2) {
        return Err(config.error(config::N_ROT, n_rot, &format!("an even number up to {d_k}")));
    }
    let base = config.nonzero(config::ROPE_BASE)?.unwrap_or(10000.0);
    let original = config.count(config::ROPE_ORIGINAL)?.filter(|&n| n > 0).unwrap_or(trained);
    let (scaling, mscale, attn_scale) = rope::scaling(config, n_rot, n_ctx, original)?;
    // The factor on scores belongs to latent attention.
    let attn_scale = if mla.is_some() { attn_scale } else { 1.0 };
    let window_base = config.nonzero(config::ROPE_BASE_WINDOW)?;
    let (base_window, scale_window) = match arch.window_rope {
        WindowRope::Same => (window_base.unwrap_or(base), true),
        WindowRope::Plain(default) => (window_base.unwrap_or(if default == 0.0 { base } else { default }), false),
    };
    let original = if matches!(scaling, Scaling::Ntk(_)) { trained } else { original };
    let divisors = Vec::new();
    let n_window = config.count(config::ROPE_N_WINDOW)?.filter(|&n| n > 0 && n.is_multiple_of(2) && n <= d_k);
    let n_rot_window = n_window.unwrap_or(n_rot);
    Ok(RopeSpec {
        n_rot,
        n_rot_window,
        base,
        base_window,
        scale_window,
        scaling,
        original,
        mscale,
        attn_scale,
        divisors,
    })
}

/// A sparse attention's indexer chooses among more tokens than it keeps; up to as many it keeps all, which is full
/// attention: the context ends there.
pub(crate) fn limited(config: &Config<'_>, n_ctx: usize) -> Result<usize, LoadError> {
    let block = config.count(config::INDEX_BLOCK)?.unwrap_or(1).max(1);
    let kept = config.count(config::INDEX_TOP_K)?.filter(|&n| n > 0);
    Ok(kept.map_or(n_ctx, |n| n_ctx.min(n.saturating_mul(block))))
}

pub(crate) fn temperature(config: &Config<'_>, arch: &Arch) -> Result<Option<Temperature>, LoadError> {
    if config.flag(config::TEMPERATURE_ON) == Some(false) {
        return Ok(None);
    }
    let base = Temperature { scale: 0.0, floor: 0.0, offset: 0.0, unrotated: false };
    let base = arch.temperature.unwrap_or(base);
    let scale = config.nonzero(config::TEMPERATURE)?.unwrap_or(base.scale);
    let floor = match config.nonzero(config::TEMPERATURE_FLOOR)? {
        None if scale != 0.0 && base.floor == 0.0 => config.nonzero(config::ROPE_ORIGINAL)?.unwrap_or(0.0),
        given => given.unwrap_or(base.floor),
    };
    if scale != 0.0 && floor < 1.0 {
        return Err(config.error(config::TEMPERATURE_FLOOR, floor, "a positive number of positions"));
    }
    Ok((scale != 0.0).then_some(Temperature { scale, floor, ..base }))
}
