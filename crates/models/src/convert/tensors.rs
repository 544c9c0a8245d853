//! The tensors of a whole checkpoint.

use mlxr_compute::op::RopePairs;

use super::recipe::{Part, Recipe, Target};
use super::{Form, Source, attention, ffn};
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
const MATRICES: [Role; 9] = [
    Role::AttnOut,
    Role::Router,
    Role::ShGate,
    Role::ShUp,
    Role::ShDown,
    Role::ShRouter,
    Role::QA,
    Role::QB,
    Role::KvA,
];

/// Small parameters of a layer: what follows the stem in GGUF, and in Hugging Face files.
const VECTORS: [(Role, &str, &[&str]); 5] = [
    (Role::Sinks, ".weight", &[""]),
    (Role::SelectBias, ".bias", &["", ".bias"]),
    (Role::SsmD, "", &[""]),
    (Role::SsmA, "", &[""]),
    (Role::SsmDtBias, "", &[""]),
];

/// Collects targets.
pub(super) struct Maker<'a> {
    pub source: &'a Source<'a>,
    pub to: Form,
    pub naming: &'a Naming,
    pub targets: Vec<Target>,
}

/// All tensors that a file of this form has.
pub(super) fn targets(source: &Source<'_>, to: Form, naming: &Naming) -> Result<Vec<Target>, LoadError> {
    let mut maker = Maker { source, to, naming, targets: Vec::new() };
    maker.matrix(Role::Embed, 0)?;
    maker.matrix(Role::PosEmbed, 0)?;
    maker.norm(Role::EmbedNorm, 0)?;
    maker.norm(Role::OutputNorm, 0)?;
    if source.config.flag(config::TIED) != Some(true) {
        maker.matrix(Role::Output, 0)?;
    }
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
        attention::targets(&mut maker, i)?;
        ffn::targets(&mut maker, i)?;
        maker.state_space(i)?;
        for (role, gguf, hf) in VECTORS {
            maker.vector(role, i, gguf, hf)?;
        }
    }
    Ok(maker.targets)
}

impl Maker<'_> {
    /// The stem that a role's tensor is written under: folders keep the stems that they had.
    pub fn stem(&self, role: Role, i: usize, from: &str) -> Result<String, LoadError> {
        if self.to != Form::Gguf && self.source.form() != Form::Gguf {
            return Ok(from.to_owned());
        }
        self.naming.stem(role, i).ok_or_else(|| self.nameless(role, i))
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

    /// A whole matrix from one stem to another.
    pub fn renamed(&mut self, role: Role, i: usize, from: &str, to: &str) -> Result<(), LoadError> {
        let part = self.part(role, from)?;
        let n = self.shape(&part, role, i)?;
        self.push_matrix(role, to, n, vec![part]);
        if let Some((_, bias)) = self.source.checkpoint.vector(&format!("{from}.bias"))? {
            self.push_numbers(role, format!("{to}.bias"), vec![bias.len()], bias);
        }
        Ok(())
    }

    /// A whole matrix of the source, `[n_out, n_in]`.
    pub fn part(&self, role: Role, stem: &str) -> Result<Part, LoadError> {
        let (arch, form) = (self.source.arch, self.source.form());
        let conv1d = arch.transposed && form == Form::HuggingFace && stem.contains("c_");
        Ok(Part { transposed: conv1d, scale: self.scale(role, stem)?, ..Part::whole(stem) })
    }

    /// The factor that a GGUF file keeps beside a matrix.
    fn scale(&self, role: Role, stem: &str) -> Result<f32, LoadError> {
        if self.source.form() != Form::Gguf || role == Role::Embed {
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
        let stored = |form: Form| if self.source.arch.norm_plus_one && form != Form::Gguf { 1.0 } else { 0.0 };
        stored(self.source.form()) - stored(self.to)
    }

    fn norm(&mut self, role: Role, i: usize) -> Result<(), LoadError> {
        let Some(from) = self.source.names.find(role, i) else { return Ok(()) };
        let to = self.stem(role, i, &from)?;
        let shift = self.norm_shift();
        if let Some((shape, mut weight)) = self.source.checkpoint.vector(&format!("{from}.weight"))? {
            weight.iter_mut().for_each(|w| *w += shift);
            self.push_numbers(role, format!("{to}.weight"), shape, weight);
        }
        if let Some((shape, bias)) = self.source.checkpoint.vector(&format!("{from}.bias"))? {
            self.push_numbers(role, format!("{to}.bias"), shape, bias);
        }
        Ok(())
    }

    /// A small parameter; a state space layer's decay is a logarithm in Hugging Face files.
    fn vector(&mut self, role: Role, i: usize, gguf: &str, hf: &[&str]) -> Result<(), LoadError> {
        let (from_gguf, to_gguf) = (self.source.form() == Form::Gguf, self.to == Form::Gguf);
        let suffixes = if from_gguf { std::slice::from_ref(&gguf) } else { hf };
        let mut found = None;
        for (stem, suffix) in
            self.source.names.candidates(role, i).iter().flat_map(|s| suffixes.iter().map(move |x| (s, x)))
        {
            if let (None, Some((_, numbers))) = (&found, self.source.checkpoint.vector(&format!("{stem}{suffix}"))?) {
                self.source.names.mark(stem);
                self.source.names.mark(&format!("{stem}{suffix}"));
                found = Some((format!("{stem}{suffix}"), numbers));
            }
        }
        let Some((from, mut numbers)) = found else { return Ok(()) };
        if role == Role::SsmA && from_gguf != to_gguf {
            numbers.iter_mut().for_each(|a| *a = if to_gguf { -a.exp() } else { (-*a).ln() });
        }
        let name = match (to_gguf, from_gguf) {
            (false, false) => from,
            _ => {
                let stem = self.naming.stem(role, i).ok_or_else(|| self.nameless(role, i))?;
                format!("{stem}{}", if to_gguf { gguf } else { hf[0] })
            }
        };
        let column = to_gguf && matches!(role, Role::SsmA | Role::SsmD);
        let shape = if column { vec![numbers.len(), 1] } else { vec![numbers.len()] };
        self.push_numbers(role, name, shape, numbers);
        Ok(())
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

    fn state_space(&mut self, i: usize) -> Result<(), LoadError> {
        let Some(s) = self.source.hyper.ssm else { return Ok(()) };
        self.matrix(Role::SsmIn, i)?;
        self.matrix(Role::SsmOut, i)?;
        if let Some(from) = self.source.names.find(Role::SsmConv, i) {
            let to = self.stem(Role::SsmConv, i, &from)?;
            let weight = self.source.checkpoint.vector(&format!("{from}.weight"))?;
            let (_, weight) = weight.ok_or_else(|| self.source.missing(Role::SsmConv, i))?;
            let n_channel = weight.len() / s.n_conv;
            let shape = match self.to {
                Form::Gguf => vec![n_channel, s.n_conv],
                Form::HuggingFace => vec![n_channel, 1, s.n_conv],
                Form::Mlx => vec![n_channel, s.n_conv, 1],
            };
            self.push_numbers(Role::SsmConv, format!("{to}.weight"), shape, weight);
            if let Some((shape, bias)) = self.source.checkpoint.vector(&format!("{from}.bias"))? {
                self.push_numbers(Role::SsmConv, format!("{to}.bias"), shape, bias);
            }
        }
        if let Some(from) = self.source.names.find(Role::SsmNorm, i)
            && let Some((_, weight)) = self.source.checkpoint.vector(&format!("{from}.weight"))?
        {
            let to = self.stem(Role::SsmNorm, i, &from)?;
            let grouped = vec![s.n_group, weight.len() / s.n_group];
            let shape = if self.to == Form::Gguf { grouped } else { vec![weight.len()] };
            self.push_numbers(Role::SsmNorm, format!("{to}.weight"), shape, weight);
        }
        Ok(())
    }
}
