//! From a checkpoint to a [`Decoder`]: reads every tensor through the name table, checks its shape, hands it to the
//! backend.

use std::ops::Range;

use mlxr_compute::op::{Experts, Linear, Norm};
use mlxr_compute::{Backend, DType, Encoding, MatrixData};
use mlxr_weights::{Checkpoint, Kind};

use crate::LoadError;
use crate::arch::Arch;
use crate::config::{self, Config};
use crate::decoder::Decoder;
use crate::hyper::Hyper;
use crate::layer::Layer;
use crate::names::{Names, Role};
use crate::table;

/// Reads tensors for one backend.
pub(crate) struct Loader<'a, B: Backend> {
    pub checkpoint: &'a Checkpoint,
    pub names: Names,
    pub arch: &'a Arch,
    pub arch_name: String,
    pub hyper: Hyper,
    pub backend: &'a mut B,
    pub config: Config<'a>,
    /// Second mixers of layers so far.
    pub n_second: usize,
}

/// A matrix of the file with the bias and scale that go with it, before a backend takes it.
pub(crate) struct Raw {
    pub matrix: MatrixData,
    pub bias: Option<Vec<f32>>,
    pub scale: f32,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// Everything but the KV store.
    ///
    /// # Errors
    /// If a tensor is missing, or has a shape that the configuration contradicts.
    pub fn decoder(mut self, progress: &mut dyn FnMut(f32)) -> Result<(Decoder<B>, Hyper), LoadError> {
        let embed = self.raw(Role::Embed, 0)?.matrix;
        let n_vocab = embed.n_out;
        self.expect(&embed, [n_vocab, self.hyper.d_model])?;
        let output = match self.optional(Role::Output, 0)? {
            Some(raw) if self.config.flag(config::TIED) != Some(true) => raw,
            _ => Raw { matrix: embed.clone(), bias: None, scale: 1.0 },
        };
        self.expect(&output.matrix, [n_vocab, self.hyper.d_model])?;
        self.divisors()?;
        let embed = self.backend.matrix(std::slice::from_ref(&embed))?;
        let positions = self.optional(Role::PosEmbed, 0)?;
        if let Some(raw) = &positions {
            self.hyper.n_ctx = self.hyper.n_ctx.min(raw.matrix.n_out);
        }
        let positions = positions.map(|raw| self.backend.matrix(&[raw.matrix])).transpose()?;
        let plain = Norm { kind: self.hyper.norm, weight: None, bias: None, eps: self.hyper.eps };
        let embed_norm = if self.arch.embed_norm_plain { Some(plain) } else { self.norm(Role::EmbedNorm, 0)? };
        let n_layer = self.hyper.n_layer;
        let mut layers: Vec<Layer<B>> = Vec::with_capacity(n_layer);
        for i in 0..n_layer {
            progress(i as f32 / n_layer as f32);
            layers.push(self.layer(i)?);
        }
        let output_norm = match self.norm(Role::OutputNorm, 0)? {
            Some(norm) => norm,
            None => self.plain_norm(Role::OutputNorm, 0)?,
        };
        let (output, output_norm) = (self.linear(output)?, Some(output_norm));
        progress(1.0);
        self.nothing_left(0..n_layer)?;
        let (join, spoken) = (None, None);
        let decoder = Decoder { embed, positions, embed_norm, join, layers, output_norm, output, spoken, n_vocab };
        Ok((decoder, self.hyper))
    }

    /// Layers must have no other tensors than those that were understood.
    pub(crate) fn nothing_left(&self, layers: Range<usize>) -> Result<(), LoadError> {
        let unused = self.names.unused(self.checkpoint, layers, self.arch.harmless);
        let Some(first) = unused.first() else { return Ok(()) };
        let missing = format!("{} tensors of its layers are not understood, such as `{first}`", unused.len());
        let (path, arch) = (self.path(), self.arch_name.clone());
        if !std::ptr::eq(self.arch, table::GENERIC) {
            return Err(LoadError::Unsupported { path, arch, what: missing });
        }
        let known = table::known(self.checkpoint.kind == Kind::Gguf);
        Err(LoadError::Architecture { path, arch, missing, known })
    }

    pub(crate) fn unsupported(&self, what: String) -> LoadError {
        LoadError::Unsupported { path: self.path(), arch: self.arch_name.clone(), what }
    }

    /// GGUF keeps llama3's and longrope's divisors as tensors.
    fn divisors(&mut self) -> Result<(), LoadError> {
        let long = self.hyper.n_ctx > self.hyper.rope.original;
        for role in [Role::RopeFreqs, if long { Role::RopeLong } else { Role::RopeShort }] {
            let Some((stem, numbers)) = self.vector(role, 0, "")? else { continue };
            if numbers.len() != self.hyper.rope.n_rot / 2 {
                let found = format!("{} numbers", numbers.len());
                return Err(self.shape_error(&stem, found, format!("{} numbers", self.hyper.rope.n_rot / 2)));
            }
            self.hyper.rope.divisors = numbers;
            return Ok(());
        }
        Ok(())
    }

    /// The matrix of a role that must be there.
    pub fn raw(&self, role: Role, i: usize) -> Result<Raw, LoadError> {
        self.optional(role, i)?.ok_or_else(|| self.missing(role, i))
    }

    /// The matrix of a role.
    pub fn optional(&self, role: Role, i: usize) -> Result<Option<Raw>, LoadError> {
        let Some(stem) = self.names.find(role, i) else { return Ok(None) };
        let Some(mut matrix) = self.checkpoint.matrix(&stem)? else { return Ok(None) };
        if self.arch.transposed && self.checkpoint.kind == Kind::HuggingFace && stem.contains("c_") {
            matrix = transpose(&matrix)?;
        }
        let gguf = self.checkpoint.kind == Kind::Gguf;
        let bias = match gguf && self.arch.no_bias.contains(&role) {
            true => None,
            false => self.checkpoint.vector(&format!("{stem}.bias"))?.map(|(_, b)| b),
        };
        let scale = self.scale(&stem, role, &matrix)?;
        // Where a file has both, the scale multiplies the biased product (the feed-forward only).
        let ffn = matches!(role, Role::FfnGate | Role::FfnUp | Role::FfnDown);
        let bias = bias.map(|b| if ffn { b.into_iter().map(|x| x * scale).collect() } else { b });
        Ok(Some(Raw { matrix, bias, scale }))
    }

    fn scale(&self, stem: &str, role: Role, matrix: &MatrixData) -> Result<f32, LoadError> {
        let ffn =
            matches!(role, Role::FfnGate | Role::FfnUp | Role::FfnDown | Role::ShGate | Role::ShUp | Role::ShDown);
        let applies = !self.arch.no_scale.contains(&role) && (!ffn || self.arch.ffn_scales)
            || matrix.encoding == Encoding::Blocks(DType::NVFP4);
        if !applies || self.checkpoint.kind != Kind::Gguf {
            return Ok(1.0);
        }
        Ok(self.checkpoint.vector(&format!("{stem}.scale"))?.and_then(|(_, s)| s.first().copied()).unwrap_or(1.0))
    }

    /// A small parameter: stem + `suffix`.
    pub fn vector(&self, role: Role, i: usize, suffix: &str) -> Result<Option<(String, Vec<f32>)>, LoadError> {
        let Some(stem) = self.names.find(role, i) else { return Ok(None) };
        let found = self.checkpoint.vector(&format!("{stem}{suffix}"))?;
        Ok(found.map(|(_, numbers)| (stem, numbers)))
    }

    /// Gives a matrix to the backend.
    pub fn linear(&mut self, raw: Raw) -> Result<Linear<B>, LoadError> {
        if let Some(bias) = &raw.bias
            && bias.len() != raw.matrix.n_out
        {
            let found = format!("{} numbers", bias.len());
            return Err(self.shape_error(&format!("{}.bias", raw.matrix.name), found, raw.matrix.n_out.to_string()));
        }
        let bias = raw.bias.map(|b| self.backend.tensor([1, b.len()], &b));
        Ok(Linear { matrix: self.backend.matrix(&[raw.matrix])?, bias, scale: raw.scale })
    }

    /// A matrix of a role, of this shape, given to the backend.
    pub fn need(&mut self, role: Role, i: usize, shape: [usize; 2]) -> Result<Linear<B>, LoadError> {
        let raw = self.raw(role, i)?;
        self.expect(&raw.matrix, shape)?;
        self.linear(raw)
    }

    /// Rows of a matrix, with their biases.
    pub fn take(&self, raw: &Raw, rows: impl IntoIterator<Item = usize>) -> Result<Raw, LoadError> {
        let rows: Vec<usize> = rows.into_iter().collect();
        let matrix = raw.matrix.take_rows(&rows)?;
        let bias = raw.bias.as_ref().map(|b| rows.iter().map(|&r| b[r]).collect());
        Ok(Raw { matrix, bias, scale: raw.scale })
    }

    /// A norm, or `None` when the checkpoint has none of that role.
    pub fn norm(&mut self, role: Role, i: usize) -> Result<Option<Norm<B>>, LoadError> {
        let found = self.vector(role, i, ".weight")?.map_or_else(|| self.vector(role, i, ""), |found| Ok(Some(found)));
        let Some((stem, mut weight)) = found? else { return Ok(None) };
        let whole = match self.checkpoint.kind {
            Kind::Gguf => true,
            Kind::Mlx => self.arch.mlx_norm_whole,
            Kind::HuggingFace => false,
        };
        if self.arch.norm_plus_one && !whole {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        let bias = self.checkpoint.vector(&format!("{stem}.bias"))?.map(|(_, b)| b);
        if bias.as_ref().is_some_and(|b| b.len() != weight.len()) {
            return Err(self.shape_error(&format!("{stem}.bias"), "another length".into(), weight.len().to_string()));
        }
        Ok(Some(self.make_norm(&weight, bias.as_deref())))
    }

    /// A norm of `n` numbers that must be there.
    pub fn need_norm(&mut self, role: Role, i: usize, n: usize) -> Result<Norm<B>, LoadError> {
        let norm = self.norm(role, i)?.ok_or_else(|| self.missing(role, i))?;
        let found = norm.weight.as_ref().map_or(0, |w| self.backend.shape(w)[1]);
        if found != n {
            return Err(self.shape_error(&format!("{role:?} of layer {i}"), found.to_string(), n.to_string()));
        }
        Ok(norm)
    }

    /// A norm from numbers. Norms of phimoe have biases, so they are layer norms but for the name of their epsilon.
    pub fn make_norm(&mut self, weight: &[f32], bias: Option<&[f32]>) -> Norm<B> {
        Norm {
            kind: self.hyper.norm,
            weight: Some(self.backend.tensor([1, weight.len()], weight)),
            bias: bias.map(|b| self.backend.tensor([1, b.len()], b)),
            eps: self.hyper.eps,
        }
    }

    /// The experts of a role, stacked or one tensor each, with their biases and scales.
    pub fn experts(&mut self, role: Role, i: usize, shape: [usize; 2]) -> Result<Option<Experts<B>>, LoadError> {
        let Some(stem) = self.names.find(role, i) else { return Ok(None) };
        let n_expert = self.hyper.moe.n_expert;
        let matrices = if stem.contains("{e}") {
            let one = |e: usize| {
                let stem = stem.replace("{e}", &e.to_string());
                self.checkpoint.matrix(&stem)?.ok_or_else(|| self.missing(role, i))
            };
            (0..n_expert).map(one).collect::<Result<Vec<_>, _>>()?
        } else {
            self.checkpoint.experts(&stem)?.ok_or_else(|| self.missing(role, i))?
        };
        if matrices.len() != n_expert {
            return Err(self.shape_error(&stem, format!("{} experts", matrices.len()), format!("{n_expert} experts")));
        }
        let matrices = self.arrange(role, matrices)?;
        for matrix in &matrices {
            self.expect(matrix, shape)?;
        }
        let nvfp4 = matrices[0].encoding == Encoding::Blocks(DType::NVFP4);
        let scale = match self.checkpoint.vector(&format!("{stem}.scale"))? {
            Some((_, s)) if s.len() == n_expert && (self.arch.ffn_scales || nvfp4) => s,
            _ => Vec::new(),
        };
        let bias = self.expert_bias(role, &stem, [n_expert, shape[0]])?;
        Ok(Some(Experts { matrix: self.backend.experts(&matrices)?, bias, scale }))
    }

    /// Hugging Face files may hold experts transposed, and gate and up by turns: as `[n_out, n_in]`, gate then up.
    pub(crate) fn arrange(&self, role: Role, mut matrices: Vec<MatrixData>) -> Result<Vec<MatrixData>, LoadError> {
        let plain = |m: &MatrixData| matches!(m.encoding, Encoding::Blocks(dtype) if dtype.block() == 1);
        let stacked = self.checkpoint.kind == Kind::HuggingFace && role != Role::ExpGate && role != Role::ExpUp;
        if self.arch.experts_transposed && stacked && matrices.iter().all(plain) {
            matrices = matrices.iter().map(transpose).collect::<Result<_, _>>()?;
        }
        if self.by_turns(role) {
            matrices = matrices.iter().map(|m| m.take_rows(&turns(m.n_out))).collect::<Result<_, _>>()?;
        }
        Ok(matrices)
    }

    fn by_turns(&self, role: Role) -> bool {
        role == Role::ExpGateUp && self.arch.experts_by_turns && self.checkpoint.kind != Kind::Gguf
    }

    fn expert_bias(
        &mut self,
        role: Role,
        stem: &str,
        [n_expert, n_out]: [usize; 2],
    ) -> Result<Option<B::Tensor>, LoadError> {
        for name in [format!("{stem}.bias"), format!("{stem}_bias")] {
            let Some((_, mut bias)) = self.checkpoint.vector(&name)? else { continue };
            if bias.len() != n_expert * n_out {
                return Err(self.shape_error(&name, format!("{} numbers", bias.len()), format!("{n_expert}x{n_out}")));
            }
            if self.by_turns(role) {
                let order = turns(n_out);
                bias = bias.chunks_exact(n_out).flat_map(|b| order.iter().map(|&r| b[r])).collect();
            }
            return Ok(Some(self.backend.tensor([n_expert, n_out], &bias)));
        }
        Ok(None)
    }

    /// An error unless the matrix has this shape.
    pub fn expect(&self, matrix: &MatrixData, [n_out, n_in]: [usize; 2]) -> Result<(), LoadError> {
        if [matrix.n_out, matrix.n_in] == [n_out, n_in] {
            return Ok(());
        }
        let found = format!("{}x{}", matrix.n_out, matrix.n_in);
        Err(self.shape_error(&matrix.name, found, format!("{n_out}x{n_in}")))
    }

    pub fn shape_error(&self, tensor: &str, found: String, expected: String) -> LoadError {
        LoadError::Shape { path: self.path(), tensor: tensor.to_owned(), found, expected }
    }

    pub fn missing(&self, role: Role, i: usize) -> LoadError {
        LoadError::Missing {
            path: self.path(),
            role: format!("{role:?} of layer {i}"),
            tried: self.names.candidates(role, i).join(", "),
            arch: self.arch_name.clone(),
        }
    }

    fn path(&self) -> String {
        self.checkpoint.path().display().to_string()
    }
}

/// Rows 0, 2, 4, ... then 1, 3, 5, ...
fn turns(n: usize) -> Vec<usize> {
    (0..n).step_by(2).chain((1..n).step_by(2)).collect()
}

/// A matrix stored `[n_in, n_out]` as `[n_out, n_in]`: plain numbers keep their type, others become f32.
pub(crate) fn transpose(matrix: &MatrixData) -> Result<MatrixData, LoadError> {
    let (rows, cols) = (matrix.n_out, matrix.n_in);
    let (dtype, source) = match matrix.encoding {
        Encoding::Blocks(dtype) if dtype.block() == 1 => (dtype, matrix.parts[0].clone()),
        _ => {
            let mut numbers = vec![0.0f32; rows * cols];
            matrix.decode_rows(0, rows, &mut numbers);
            (DType::F32, numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into())
        }
    };
    let size = dtype.block_bytes();
    let mut bytes = Vec::with_capacity(source.len());
    for c in 0..cols {
        for r in 0..rows {
            bytes.extend_from_slice(&source[(r * cols + c) * size..][..size]);
        }
    }
    Ok(MatrixData::blocks(&matrix.name, [cols, rows], dtype, bytes.into())?)
}
