//! Latent attention from its tensors.

use mlxr_compute::{Backend, DType, MatrixData};

use crate::LoadError;
use crate::hyper::Mla;
use crate::layer::{Latent, LatentHeads, LatentQuery};
use crate::load::{Loader, Raw, transpose};
use crate::names::Role;

impl<B: Backend> Loader<'_, B> {
    pub(crate) fn latent(&mut self, i: usize, mla: Mla) -> Result<Latent<B>, LoadError> {
        let n_head = self.hyper.n_head[i];
        let (d_model, rank) = (self.hyper.d_model, mla.kv_rank);
        let q = if self.names.find(Role::QA, i).is_some() {
            let a = self.raw(Role::QA, i)?;
            let q_rank = a.matrix.n_out;
            self.expect(&a.matrix, [q_rank, d_model])?;
            let norm = self.need_norm(Role::QANorm, i, q_rank)?;
            LatentQuery::LowRank { a: self.linear(a)?, norm, b: self.latent_heads(Role::QB, i, mla, q_rank)? }
        } else {
            LatentQuery::Full(self.latent_heads(Role::AttnQ, i, mla, d_model)?)
        };
        let [k_b, v_b] = self.absorbed(i, mla)?;
        let kv_a = self.raw(Role::KvA, i)?;
        self.expect(&kv_a.matrix, [rank + mla.d_rope, d_model])?;
        let [latent, key] = [0..rank, rank..rank + mla.d_rope].map(|rows| self.take(&kv_a, rows));
        let rope = self.hyper.rotates[i].then(|| self.hyper.rope.rope(false, self.hyper.n_ctx, self.hyper.pairs));
        let gate = self.gate(i, [n_head, mla.d_v])?;
        Ok(Latent {
            q,
            kv_latent: self.linear(latent?)?,
            kv_key: self.linear(key?)?,
            kv_norm: self.need_norm(Role::KvANorm, i, rank)?,
            k_b: self.backend.experts(&k_b)?,
            v_b: self.backend.experts(&v_b)?,
            out: self.need(Role::AttnOut, i, [d_model, n_head * mla.d_v])?,
            temperature: self.hyper.temperature.is_some_and(|t| !t.unrotated || rope.is_none()),
            rope,
            n_head,
            gate,
        })
    }

    /// A query projection whose heads are `d_nope` rows of content and `d_rope` rotated rows.
    fn latent_heads(&mut self, role: Role, i: usize, mla: Mla, n_in: usize) -> Result<LatentHeads<B>, LoadError> {
        let (n_head, stride) = (self.hyper.n_head[i], mla.d_nope + mla.d_rope);
        let q = self.raw(role, i)?;
        self.expect(&q.matrix, [n_head * stride, n_in])?;
        let rows = |from: usize, n: usize| (0..n_head).flat_map(move |h| h * stride + from..h * stride + from + n);
        // A head that is rotated whole has a content of one zero.
        let content = match mla.d_nope {
            0 => Raw { matrix: zeros([n_head, n_in])?, bias: None, scale: 1.0 },
            n => self.take(&q, rows(0, n))?,
        };
        let rotated = self.take(&q, rows(mla.d_nope, mla.d_rope))?;
        Ok(LatentHeads { content: self.linear(content)?, rotated: self.linear(rotated)? })
    }

    /// A head's matrices `[kv_rank, d_nope]` and `[d_v, kv_rank]`: given, or cut from the joint `[d_nope + d_v, kv_rank]`.
    fn absorbed(&self, i: usize, mla: Mla) -> Result<[Vec<MatrixData>; 2], LoadError> {
        let n_head = self.hyper.n_head[i];
        let given = |role| -> Result<Option<Vec<MatrixData>>, LoadError> {
            let Some(stem) = self.names.find(role, i) else { return Ok(None) };
            // A file of one head may drop the dimension of heads.
            if self.checkpoint.tensor(&format!("{stem}.weight")).is_some_and(|t| t.shape.len() == 2) {
                return Ok(self.checkpoint.matrix(&stem)?.map(|m| vec![m]));
            }
            Ok(self.checkpoint.experts(&stem)?)
        };
        let (k_b, v_b) = match (given(Role::KB)?, given(Role::VB)?) {
            (Some(k_b), Some(v_b)) => {
                self.names.find(Role::KvB, i); // the joint matrix, which files may hold besides
                (k_b, v_b)
            }
            _ => {
                let joint = self.raw(Role::KvB, i)?.matrix;
                let stride = mla.d_nope + mla.d_v;
                self.expect(&joint, [n_head * stride, mla.kv_rank])?;
                let heads = 0..n_head;
                let rows = |h: usize, from: usize, n: usize| {
                    joint.take_rows(&(h * stride + from..h * stride + from + n).collect::<Vec<_>>())
                };
                let k = heads.clone().map(|h| match mla.d_nope {
                    0 => zeros([mla.kv_rank, 1]),
                    n => transpose(&rows(h, 0, n)?),
                });
                let k = k.collect::<Result<Vec<_>, LoadError>>()?;
                let v = heads.map(|h| Ok(rows(h, mla.d_nope, mla.d_v)?)).collect::<Result<Vec<_>, LoadError>>()?;
                (k, v)
            }
        };
        for (list, shape) in [(&k_b, [mla.kv_rank, mla.d_nope.max(1)]), (&v_b, [mla.d_v, mla.kv_rank])] {
            if list.len() != n_head {
                return Err(self.missing(Role::KB, i));
            }
            for matrix in list {
                self.expect(matrix, shape)?;
            }
        }
        Ok([k_b, v_b])
    }
}

fn zeros([n_out, n_in]: [usize; 2]) -> Result<MatrixData, LoadError> {
    let bytes: Vec<u8> = vec![0; n_out * n_in * size_of::<f32>()];
    Ok(MatrixData::blocks("zeros", [n_out, n_in], DType::F32, bytes.into())?)
}
