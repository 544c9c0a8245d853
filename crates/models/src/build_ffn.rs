//! Feed-forwards from their tensors.

use mlxr_compute::Backend;
use mlxr_compute::op::Linear;

use crate::LoadError;
use crate::arch::Beside;
use crate::layer::{Dense, Ffn, MoeFfn};
use crate::load::{Loader, Raw};
use crate::names::Role;

/// Projections around experts, and the width between them.
type Around<B> = ([Linear<B>; 2], usize);

impl<B: Backend> Loader<'_, B> {
    pub(crate) fn ffn(&mut self, i: usize) -> Result<Ffn<B>, LoadError> {
        if self.hyper.moe.n_expert > 0 && self.arch.no_experts {
            let what = format!("it has {} experts, which no model of this architecture has", self.hyper.moe.n_expert);
            return Err(self.unsupported(what));
        }
        if self.hyper.moe.n_expert > 0 && self.names.find(Role::Router, i).is_some() {
            return Ok(Ffn::Moe(Box::new(self.moe(i)?)));
        }
        let roles = [Role::FfnGate, Role::FfnUp, Role::FfnDown];
        let has = self.names.find(Role::FfnUp, i).is_some() || self.names.find(Role::FfnGateUp, i).is_some();
        let recurrent = self.hyper.ssm.is_some() || self.arch.single_part;
        if !has && recurrent {
            return Ok(Ffn::None);
        }
        Ok(Ffn::Dense(Box::new(self.dense(roles, i)?)))
    }

    fn dense(&mut self, [gate, up, down]: [Role; 3], i: usize) -> Result<Dense<B>, LoadError> {
        let d_model = self.hyper.d_model;
        let mut down_raw = self.raw(down, i)?;
        let [gate_factor, down_factor] = self.hyper.factors.ffn;
        down_raw.scale *= down_factor;
        let d_ff = down_raw.matrix.n_in;
        self.expect(&down_raw.matrix, [d_model, d_ff])?;
        let fused = if gate == Role::FfnGate { self.optional(Role::FfnGateUp, i)? } else { None };
        let up_raw = match fused {
            Some(raw) => raw,
            None => self.raw(up, i)?,
        };
        // Phi 3, GLM 4: gate and up in one matrix, the gate first.
        let (gate, up) = if up_raw.matrix.n_out == 2 * d_ff {
            let halves = [self.take(&up_raw, 0..d_ff)?, self.take(&up_raw, d_ff..2 * d_ff)?];
            let [g, u] = halves;
            (Some(self.linear(g)?), self.linear(u)?)
        } else {
            let gate = self.optional(gate, i)?;
            if let Some(raw) = &gate {
                self.expect(&raw.matrix, [d_ff, d_model])?;
            }
            self.expect(&up_raw.matrix, [d_ff, d_model])?;
            let scaled = gate.map(|raw| Raw { scale: raw.scale * gate_factor, ..raw });
            (scaled.map(|raw| self.linear(raw)).transpose()?, self.linear(up_raw)?)
        };
        let sub_norm = if down == Role::FfnDown { self.norm(Role::FfnSubNorm, i)? } else { None };
        let sub_scale = if down == Role::FfnDown { self.vector(Role::FfnActScale, i, ".scales")? } else { None };
        let sub_scale = match sub_scale {
            Some((stem, s)) if s.len() != d_ff => {
                return Err(self.shape_error(&stem, s.len().to_string(), d_ff.to_string()));
            }
            found => found.map(|(_, s)| s.iter().map(|x| 1.0 / x).collect::<Vec<_>>()),
        };
        let sub_scale = sub_scale.map(|s| self.backend.tensor([1, d_ff], &s));
        Ok(Dense { gate, up, down: self.linear(down_raw)?, sub_norm, sub_scale, act: self.hyper.act })
    }

    fn moe(&mut self, i: usize) -> Result<MoeFfn<B>, LoadError> {
        let (d_model, n_expert) = (self.hyper.d_model, self.hyper.moe.n_expert);
        if !self.named() && !self.hyper.moe.stated {
            return Err(self.unsupported("it has experts and does not say how tokens choose them".to_owned()));
        }
        let router = self.need(Role::Router, i, [n_expert, d_model])?;
        let d_ff = self.expert_width(i)?;
        let latent = self.around(i, d_model)?;
        let width = latent.as_ref().map_or(d_model, |(_, width)| *width);
        let merged = self.names.find(Role::ExpGateUp, i).is_some();
        let (gate, up) = if merged {
            (None, self.experts(Role::ExpGateUp, i, [2 * d_ff, width])?)
        } else {
            (self.experts(Role::ExpGate, i, [d_ff, width])?, self.experts(Role::ExpUp, i, [d_ff, width])?)
        };
        let down = self.experts(Role::ExpDown, i, [width, d_ff])?.ok_or_else(|| self.missing(Role::ExpDown, i))?;
        let select = self.vector(Role::SelectBias, i, "")?.or(self.vector(Role::SelectBias, i, ".bias")?);
        let select_bias = match select {
            Some((stem, b)) if b.len() != n_expert => {
                return Err(self.shape_error(&stem, b.len().to_string(), n_expert.to_string()));
            }
            found => found.map(|(_, b)| self.backend.tensor([1, n_expert], &b)),
        };
        let beside = [Role::FfnGate, Role::FfnUp, Role::FfnDown];
        let dense = match self.arch.beside {
            Beside::Unknown => false,
            Beside::Unused => {
                beside.iter().for_each(|&role| drop(self.names.find(role, i)));
                false
            }
            Beside::Added => self.names.find(Role::FfnDown, i).is_some(),
        };
        let beside = dense.then_some(beside);
        let roles = [Role::ShGate, Role::ShUp, Role::ShDown];
        let roles = self.names.find(Role::ShDown, i).is_some().then_some(roles).or(beside);
        let shared = roles.map(|roles| self.dense(roles, i)).transpose()?;
        let shared_router = self.optional(Role::ShRouter, i)?.map(|raw| self.linear(raw)).transpose()?;
        Ok(MoeFfn {
            router,
            select_bias,
            gate,
            up: up.ok_or_else(|| self.missing(Role::ExpUp, i))?,
            merged,
            down,
            act: self.hyper.act,
            weight_input: self.arch.weight_input,
            shared,
            latent: latent.map(|(linears, _)| linears),
            early: self.arch.router_early,
            mean: self.arch.shared_mean,
            shared_router,
        })
    }

    /// Projections around the experts, and the width between them.
    fn around(&mut self, i: usize, d_model: usize) -> Result<Option<Around<B>>, LoadError> {
        let Some(down) = self.optional(Role::LatentDown, i)?.filter(|_| self.named()) else { return Ok(None) };
        let width = down.matrix.n_out;
        self.expect(&down.matrix, [width, d_model])?;
        let up = self.need(Role::LatentUp, i, [d_model, width])?;
        Ok(Some(([self.linear(down)?, up], width)))
    }

    /// Width of an expert, from its down projection.
    fn expert_width(&self, i: usize) -> Result<usize, LoadError> {
        let stem = self.names.find(Role::ExpDown, i).ok_or_else(|| self.missing(Role::ExpDown, i))?;
        let first = if stem.contains("{e}") {
            self.checkpoint.matrix(&stem.replace("{e}", "0"))?
        } else {
            self.checkpoint.experts(&stem)?.and_then(|e| e.into_iter().next())
        };
        let first = first.map(|m| self.arrange(Role::ExpDown, vec![m])).transpose()?;
        first.and_then(|m| m.first().map(|m| m.n_in)).ok_or_else(|| self.missing(Role::ExpDown, i))
    }
}
