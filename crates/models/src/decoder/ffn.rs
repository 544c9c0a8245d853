//! The feed-forward of a layer: dense, or a mixture of experts.

use mlxr_compute::Backend;
use mlxr_compute::op::{Act, Moe, Norm};

use super::Pass;
use crate::layer::{Dense, Ffn, MoeFfn};

impl<B: Backend> Ffn<B> {
    /// What is computed before the residual is needed: the inner activations of a dense part, the output of a mixture.
    pub(super) fn begin(
        &self,
        pass: &mut Pass<'_, B>,
        x: &B::Tensor,
        norm: Option<&Norm<B>>,
        routed: Option<B::Tensor>,
    ) -> Option<B::Tensor> {
        match self {
            Ffn::None => None,
            Ffn::Dense(dense) => Some(dense.inner(pass, x, norm)),
            Ffn::Moe(moe) => Some(moe.output(pass, x, norm, routed)),
        }
    }

    /// The router's logits, where it reads what the layer reads.
    pub(super) fn route_early(&self, pass: &mut Pass<'_, B>, x: &B::Tensor) -> Option<B::Tensor> {
        let Ffn::Moe(moe) = self else { return None };
        if !moe.early {
            return None;
        }
        let [logits] = pass.backend.linears(x, None, [&moe.router]);
        Some(logits)
    }

    /// `residual + factor * ffn`.
    pub(super) fn finish(
        &self,
        pass: &mut Pass<'_, B>,
        begun: Option<B::Tensor>,
        factor: f32,
        residual: B::Tensor,
    ) -> B::Tensor {
        match (self, begun) {
            (Ffn::Dense(dense), Some(inner)) => pass.backend.linear_add(&inner, &dense.down, factor, residual),
            (_, Some(out)) if factor != 1.0 => {
                let out = pass.backend.scale(out, factor);
                pass.backend.add(residual, &out)
            }
            (_, Some(out)) => pass.backend.add(residual, &out),
            (_, None) => residual,
        }
    }

    /// The feed-forward without its residual, or `None` when the layer has none.
    pub(super) fn output(&self, pass: &mut Pass<'_, B>, begun: Option<B::Tensor>) -> Option<B::Tensor> {
        match (self, begun) {
            (Ffn::Dense(dense), Some(inner)) => {
                let [out] = pass.backend.linears(&inner, None, [&dense.down]);
                Some(out)
            }
            (_, begun) => begun,
        }
    }
}

impl<B: Backend> Dense<B> {
    fn inner(&self, pass: &mut Pass<'_, B>, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let b = &mut *pass.backend;
        let inner = match &self.gate {
            Some(gate) => b.gate_up(x, norm, gate, &self.up, self.act),
            None => {
                let [up] = b.linears(x, norm, [&self.up]);
                b.act(up, self.act)
            }
        };
        let inner = match &self.sub_scale {
            Some(scale) => b.mul(inner, scale),
            None => inner,
        };
        match &self.sub_norm {
            Some(norm) => b.norm(&inner, norm),
            None => inner,
        }
    }
}

impl<B: Backend> MoeFfn<B> {
    fn output(
        &self,
        pass: &mut Pass<'_, B>,
        x: &B::Tensor,
        norm: Option<&Norm<B>>,
        routed: Option<B::Tensor>,
    ) -> B::Tensor {
        let normed = norm.map(|norm| pass.backend.norm(x, norm));
        let x = normed.as_ref().unwrap_or(x);
        let logits = routed.unwrap_or_else(|| {
            let [logits] = pass.backend.linears(x, None, [&self.router]);
            logits
        });
        let routing = &pass.hyper.moe;
        let moe = Moe {
            gating: routing.gating,
            select_bias: self.select_bias.as_ref(),
            groups: routing.groups,
            n_used: routing.n_used,
            normalize: routing.normalize,
            scale: routing.scale,
            weight_input: self.weight_input,
            act: self.act,
            gate: self.gate.as_ref(),
            up: &self.up,
            merged: self.merged,
            down: &self.down,
        };
        let out = match &self.latent {
            None => pass.backend.moe(x, &logits, &moe),
            Some([down, up]) => {
                let [narrow] = pass.backend.linears(x, None, [down]);
                let out = pass.backend.moe(&narrow, &logits, &moe);
                let [wide] = pass.backend.linears(&out, None, [up]);
                wide
            }
        };
        let Some(shared) = &self.shared else { return out };
        let inner = shared.inner(pass, x, None);
        let [mut always] = pass.backend.linears(&inner, None, [&shared.down]);
        if let Some(router) = &self.shared_router {
            let [gate] = pass.backend.linears(x, None, [router]);
            let gate = pass.backend.act(gate, Act::Sigmoid);
            always = pass.backend.mul(always, &gate);
        }
        let sum = pass.backend.add(out, &always);
        if self.mean == 1.0 { sum } else { pass.backend.scale(sum, self.mean) }
    }
}
