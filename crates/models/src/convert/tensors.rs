//! The tensors of a whole checkpoint.

use mlxr_compute::op::RopePairs;

use super::recipe::{Part, Recipe, Target};
use super::{Fold, Form, Source, ffn, indexer, recurrent, target_arch};
use crate::LoadError;
use crate::arch::Norms;
use crate::config;
use crate::names::Role;
use crate::rope::Scaling;
use crate::style::Naming;

/// Norms, which some Hugging Face files store less one. One name may stand for another norm elsewhere.
const NORMS: [Role; 4] = [Role::AttnNorm2, Role::AttnSubNorm, Role::FfnSubNorm, Role::QANorm];
/// Norms before the blocks, and after them.
const PRE_NORMS: [Role; 2] = [Role::AttnNorm, Role::FfnNorm];
const POST_NORMS: [Role; 2] = [Role::PostAttnNorm, Role::PostFfnNorm];

/// Matrices of a layer that all forms store alike.
const MATRICES: [Role; 8] =
    [Role::AttnOut, Role::Router, Role::ShRouter, Role::LatentDown, Role::LatentUp, Role::QA, Role::QB, Role::KvA];

/// Small parameters of a layer: what follows the stem in GGUF, and in Hugging Face files.
const VECTORS: [(Role, [&[&str]; 2]); 2] =
    [(Role::Sinks, [&[".weight"], &[""]]), (Role::SelectBias, [&[".bias", ""], &["", ".bias"]])];

/// Collects targets.
pub(super) struct Maker<'a> {
    pub source: &'a Source<'a>,
    pub to: Form,
    pub naming: &'a Naming,
    pub fold: Fold,
    /// Roles that are written under their stem alone.
    pub bare: &'static [Role],
    pub targets: Vec<Target>,
}

/// A small parameter with the name that it gets.
pub(super) struct Small {
    pub name: String,
    pub shape: Vec<usize>,
    pub numbers: Vec<f32>,
}

/// All tensors that a file of this form has.
pub(super) fn targets(source: &Source<'_>, to: Form, naming: &Naming, fold: Fold) -> Result<Vec<Target>, LoadError> {
    let bare: &'static [Role] = if to == Form::Gguf { target_arch(source, to)?.bare } else { &[] };
    let mut maker = Maker { source, to, naming, fold, bare, targets: Vec::new() };
    maker.matrix(Role::Embed, 0)?;
    maker.matrix(Role::PosEmbed, 0)?;
    maker.norm(Role::EmbedNorm, 0)?;
    maker.norm(Role::OutputNorm, 0)?;
    maker.output()?;
    maker.divisors()?;
    for i in 0..source.hyper.n_layer {
        let pre = PRE_NORMS.into_iter().filter(|_| source.arch.norms != Norms::Post);
        let post = POST_NORMS.into_iter().filter(|_| source.arch.norms != Norms::Pre);
        for role in pre.chain(post).chain(NORMS) {
            maker.norm(role, i)?;
        }
        for role in MATRICES {
            maker.matrix(role, i)?;
        }
        maker.norm(Role::KvANorm, i)?;
        indexer::targets(&mut maker, i)?;
        recurrent::targets(&mut maker, i)?;
        ffn::targets(&mut maker, i)?;
        for (role, suffixes) in VECTORS {
            if let Some(small) = maker.small(role, i, suffixes)? {
                let n = small.numbers.len();
                let row = role == Role::SelectBias && target_arch(source, to)?.select_bias_row;
                let shape = match (source.form(), to) {
                    (_, Form::Gguf) => vec![n],
                    (Form::Gguf, _) if row => vec![1, n],
                    (Form::Gguf, _) => vec![n],
                    _ => small.shape,
                };
                maker.push_numbers(role, small.name, shape, small.numbers);
            }
        }
    }
    Ok(maker.targets)
}

impl Maker<'_> {
    /// The stem that a role's tensor is written under: folders keep the stems that they had.
    pub fn stem(&self, role: Role, i: usize, from: &str) -> Result<String, LoadError> {
        if self.to != Form::Gguf && self.source.form() != Form::Gguf && !self.renames(role) {
            return Ok(from.to_owned());
        }
        self.naming.stem(role, i).ok_or_else(|| self.nameless(role, i))
    }

    /// Whether MLX folders have a name of their own for a role.
    fn renames(&self, role: Role) -> bool {
        self.to == Form::Mlx && self.naming.lists_first(role)
    }

    /// The error for a role that the written form has no name for.
    pub fn nameless(&self, role: Role, i: usize) -> LoadError {
        LoadError::Convert {
            path: self.source.checkpoint.path().display().to_string(),
            text: format!("{role:?} of layer {i} has no name in {:?} files", self.to),
        }
    }

    /// A whole matrix, with its bias.
    pub fn matrix(&mut self, role: Role, i: usize) -> Result<(), LoadError> {
        let Some(from) = self.source.names.find(role, i) else { return Ok(()) };
        let to = self.stem(role, i, &from)?;
        self.renamed(role, i, &from, &to)
    }

    /// The projection to logits: embeddings of models that share them are written again where a factor goes into one
    /// of both.
    fn output(&mut self) -> Result<(), LoadError> {
        let source = self.source;
        let tied = source.config.flag(config::TIED) == Some(true) || source.names.find(Role::Output, 0).is_none();
        if !tied {
            return self.matrix(Role::Output, 0);
        }
        if self.fold.embed == self.fold.logits {
            return Ok(());
        }
        let Some(from) = source.names.find(Role::Embed, 0) else { return Ok(()) };
        let to = self.naming.stem(Role::Output, 0).ok_or_else(|| self.nameless(Role::Output, 0))?;
        self.renamed(Role::Output, 0, &from, &to)
    }

    /// A whole matrix from one stem to another.
    pub fn renamed(&mut self, role: Role, i: usize, from: &str, to: &str) -> Result<(), LoadError> {
        let part = self.part(role, from)?;
        let n = self.shape(&part, role, i)?;
        self.renamed_parts(role, (from, to), n, vec![part])
    }

    /// All parts of a matrix, with its bias.
    pub fn renamed_parts(
        &mut self,
        role: Role,
        (from, to): (&str, &str),
        shape: [usize; 2],
        parts: Vec<Part>,
    ) -> Result<(), LoadError> {
        self.push_matrix(role, to, shape, parts);
        if let Some(bias) = self.bias(role, from)? {
            self.push_numbers(role, format!("{to}.bias"), vec![bias.len()], bias);
        }
        Ok(())
    }

    /// The bias of a matrix that is added to its product.
    pub fn bias(&self, role: Role, from: &str) -> Result<Option<Vec<f32>>, LoadError> {
        let unused = self.source.form() == Form::Gguf && self.source.arch.no_bias.contains(&role);
        Ok(self.source.checkpoint.vector(&format!("{from}.bias"))?.filter(|_| !unused).map(|(_, bias)| bias))
    }

    /// A whole matrix of the source, `[n_out, n_in]`.
    pub fn part(&self, role: Role, stem: &str) -> Result<Part, LoadError> {
        let (arch, form) = (self.source.arch, self.source.form());
        let conv1d = arch.transposed && form == Form::HuggingFace && stem.contains("c_");
        let scale = self.scale(role, stem)? * self.fold.factor(role);
        Ok(Part { transposed: conv1d, scale, ..Part::whole(stem) })
    }

    /// The factor that a GGUF file keeps beside a matrix.
    fn scale(&self, role: Role, stem: &str) -> Result<f32, LoadError> {
        if self.source.form() != Form::Gguf || role == Role::Embed || self.source.arch.no_scale.contains(&role) {
            return Ok(1.0);
        }
        let found = self.source.checkpoint.vector(&format!("{stem}.scale"))?;
        Ok(found.and_then(|(_, s)| s.first().copied()).unwrap_or(1.0))
    }

    /// Rows and columns of a whole part.
    pub fn shape(&self, part: &Part, role: Role, i: usize) -> Result<[usize; 2], LoadError> {
        let matrix = self.source.checkpoint.matrix(&part.stem)?.ok_or_else(|| self.source.missing(role, i))?;
        let [n_out, n_in] = [matrix.n_out, matrix.n_in];
        Ok(if part.transposed { [n_in, n_out] } else { [n_out, n_in] })
    }

    /// Adds a matrix `[n_out, n_in]`, which GPT-2's Hugging Face files store the other way.
    pub fn push_matrix(&mut self, role: Role, stem: &str, [n_out, n_in]: [usize; 2], parts: Vec<Part>) {
        let transposed = self.source.arch.transposed && self.to == Form::HuggingFace && stem.contains("c_");
        let shape = if transposed { vec![n_in, n_out] } else { vec![n_out, n_in] };
        let (name, recipe) = (format!("{stem}.weight"), Recipe::Matrix(parts));
        self.targets.push(Target { name, role, shape, recipe, order: None, transposed });
    }

    /// Adds numbers.
    pub fn push_numbers(&mut self, role: Role, name: String, shape: Vec<usize>, numbers: Vec<f32>) {
        self.targets.push(Target {
            name,
            role,
            shape,
            recipe: Recipe::Numbers(numbers),
            order: None,
            transposed: false,
        });
    }

    /// What to add to the norm weights of the source.
    pub fn norm_shift(&self) -> f32 {
        let arch = self.source.arch;
        let less_one = |form: Form| match form {
            Form::Gguf => false,
            Form::HuggingFace => arch.norm_plus_one,
            Form::Mlx => arch.norm_plus_one && !arch.mlx_norm_whole,
        };
        f32::from(u8::from(less_one(self.source.form()))) - f32::from(u8::from(less_one(self.to)))
    }

    /// A norm, with its bias.
    pub fn norm(&mut self, role: Role, i: usize) -> Result<(), LoadError> {
        let Some(from) = self.source.names.find(role, i) else { return Ok(()) };
        let to = self.stem(role, i, &from)?;
        let shift = self.norm_shift();
        if let Some((shape, mut weight)) = self.source.checkpoint.vector(&from)? {
            weight.iter_mut().for_each(|w| *w += shift);
            let suffix = if self.bare.contains(&role) { "" } else { ".weight" };
            self.push_numbers(role, format!("{to}{suffix}"), shape, weight);
        }
        if let Some((shape, bias)) = self.source.checkpoint.vector(&format!("{from}.bias"))? {
            self.push_numbers(role, format!("{to}.bias"), shape, bias);
        }
        Ok(())
    }

    /// A small parameter, by what may follow the stem in GGUF and in Hugging Face files.
    pub fn small(&self, role: Role, i: usize, [gguf, hf]: [&[&str]; 2]) -> Result<Option<Small>, LoadError> {
        let (from_gguf, to_gguf) = (self.source.form() == Form::Gguf, self.to == Form::Gguf);
        let suffixes = if from_gguf { gguf } else { hf };
        let mut found = None;
        for (stem, suffix) in
            self.source.names.candidates(role, i).iter().flat_map(|s| suffixes.iter().map(move |x| (s, x)))
        {
            let name = format!("{stem}{suffix}");
            let there = found.is_none() && self.source.checkpoint.tensor(&name).is_some();
            if let Some(numbers) = if there { self.source.checkpoint.vector(&name)? } else { None } {
                self.source.names.mark(stem);
                self.source.names.mark(&name);
                found = Some((name, numbers));
            }
        }
        let Some((from, (shape, numbers))) = found else { return Ok(None) };
        let name = match (to_gguf, from_gguf) {
            (false, false) if !self.renames(role) => from,
            _ => {
                let stem = self.naming.stem(role, i).ok_or_else(|| self.nameless(role, i))?;
                let suffix = match to_gguf {
                    true if self.bare.contains(&role) => "",
                    true => gguf[0],
                    false => hf[0],
                };
                format!("{stem}{suffix}")
            }
        };
        Ok(Some(Small { name, shape, numbers }))
    }

    /// GGUF keeps llama3's and longrope's divisors as tensors.
    fn divisors(&mut self) -> Result<(), LoadError> {
        if self.to != Form::Gguf {
            return Ok(());
        }
        let rope = &self.source.hyper.rope;
        let mut push = |role: Role, numbers: Vec<f32>| {
            let stem = self.naming.stem(role, 0).expect("GGUF has a name for each role of divisors");
            self.push_numbers(role, format!("{stem}.weight"), vec![numbers.len()], numbers);
        };
        match &rope.scaling {
            Scaling::Llama3 { .. } => {
                let plain = crate::rope::RopeSpec { scaling: Scaling::None, ..rope.clone() };
                let freqs = |spec: &crate::rope::RopeSpec| spec.rope(false, 0, RopePairs::HalfSplit).freqs;
                let divisors = freqs(&plain).iter().zip(freqs(rope)).map(|(plain, scaled)| plain / scaled).collect();
                push(Role::RopeFreqs, divisors);
            }
            Scaling::Long { short, long } if !long.is_empty() => {
                push(Role::RopeLong, long.clone());
                push(Role::RopeShort, short.clone());
            }
            _ => {}
        }
        Ok(())
    }
}
