//! Which type each tensor gets, before anything is computed.

use mlxr_compute::{DType, quant};
use mlxr_weights::gguf::Metadata;
use regex_automata::meta::Regex;

use super::edit::{Source, layer_and_rest};
use super::recipe::{Recipe, Role, Site, choose, fallback, needs_importance};
use crate::ToolError;

/// What to make of a model.
#[derive(Debug)]
pub struct Options {
    /// Which type most tensors get, and which exceptions there are.
    pub recipe: &'static Recipe,
    /// Types of tensors whose name contains a match of the pattern; the first that matches counts.
    pub overrides: Vec<(Regex, DType)>,
    /// Type of the output matrix.
    pub output: Option<DType>,
    /// Type of the token embeddings.
    pub token_embd: Option<DType>,
    /// One type for all matrices, without the recipe's exceptions.
    pub pure: bool,
    /// Leave the output matrix as it is.
    pub leave_output: bool,
    /// Allow to encode again what is quantized already.
    pub requantize: bool,
}

impl Options {
    /// The recipe alone.
    #[must_use]
    pub fn new(recipe: &'static Recipe) -> Options {
        Options {
            recipe,
            overrides: Vec::new(),
            output: None,
            token_embd: None,
            pure: false,
            leave_output: false,
            requantize: false,
        }
    }

    fn overridden(&self, name: &str) -> Option<DType> {
        self.overrides.iter().find(|(pattern, _)| pattern.is_match(name)).map(|(_, dtype)| *dtype)
    }
}

/// What the recipes ask of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `general.architecture`.
    pub arch: String,
    /// Layers, those that predict further tokens included.
    pub n_layer: usize,
    /// Query heads of the first layer.
    pub n_head: usize,
    /// Key heads of the first layer.
    pub n_kv_head: usize,
    /// Experts of a layer, or 0.
    pub n_expert: usize,
}

impl Facts {
    /// Reads them from a GGUF file's metadata.
    ///
    /// # Errors
    /// If the architecture or the number of layers is missing, or a value is no number.
    pub fn read(meta: &Metadata) -> Result<Facts, ToolError> {
        let arch: &str = meta.need("general.architecture")?;
        let first = |key: &str| -> Result<usize, ToolError> {
            let key = format!("{arch}.{key}");
            let list = meta.per_layer::<u32>(&key, 1)?;
            Ok(list.and_then(|list| list.first().copied()).unwrap_or(0) as usize)
        };
        let n_layer: u32 = meta.need(&format!("{arch}.block_count"))?;
        let n_head = first("attention.head_count")?;
        let n_kv_head = match meta.value(&format!("{arch}.attention.head_count_kv")) {
            Some(_) => first("attention.head_count_kv")?,
            None => n_head,
        };
        let n_expert = first("expert_count")?;
        Ok(Facts { arch: arch.to_owned(), n_layer: n_layer as usize, n_head, n_kv_head, n_expert })
    }
}

/// A tensor and the type that it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Name in the result.
    pub name: String,
    /// Name in the checkpoint.
    pub source: String,
    /// Which of the checkpoint's files has it.
    pub file: usize,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its type now.
    pub from: DType,
    /// Its type in the result.
    pub to: DType,
    /// The type that it would have if its rows were whole blocks of that.
    pub wanted: DType,
    /// Whether the result is worthless without importance.
    pub needs_importance: bool,
}

impl Planned {
    /// Columns.
    #[must_use]
    pub fn n_in(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// How many numbers.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the result.
    ///
    /// # Panics
    /// If a row is not whole blocks, which a plan rules out.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.to.bytes_of(self.elements()).expect("planned types divide the rows")
    }
}

/// Parts of names of tensors that stay as they are: small ones, and those that steer.
/// Source: `tensor_allows_quantization`, llama.cpp `src/llama-quant.cpp`.
const KEPT: [&str; 36] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
    "token_types.weight",
];

/// Whether a tensor is quantized at all: matrices called `weight`, but for those that
/// steer or are small.
pub fn is_quantized(name: &str, shape: &[usize]) -> bool {
    let n_dim = shape.iter().position(|n| *n > 1).map_or(1, |outer| shape.len() - outer);
    n_dim >= 2
        && name.ends_with("weight")
        && name != "position_embd.weight"
        && !KEPT.iter().any(|part| name.contains(part))
}

/// Chooses a type for each of a model's tensors `(name, shape, type)`, which keep their order.
///
/// # Errors
/// If a type cannot be encoded.
pub fn choose_types(
    facts: &Facts,
    tensors: &[(&str, &[usize], DType)],
    options: &Options,
    imatrix: bool,
) -> Result<Vec<Planned>, ToolError> {
    let asked = [options.recipe.dtype, options.output, options.token_embd];
    let asked = asked.into_iter().flatten().chain(options.overrides.iter().map(|(_, dtype)| *dtype));
    if let Some(dtype) = asked.into_iter().find(|dtype| !quant::can_encode(*dtype)) {
        return Err(ToolError::Type { dtype: dtype.name() });
    }
    // The recipes count matrices of a role in this order.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (layer_of(tensors[i].0), tensors[i].0));
    let mut chooser = Chooser {
        facts,
        options,
        imatrix,
        tied: !tensors.iter().any(|t| Role::of(t.0) == Role::Output),
        n_value: tensors.iter().filter(|t| Role::of(t.0) == Role::AttnV).count(),
        seen: [0; 4],
    };
    let mut types = vec![(DType::F32, DType::F32); tensors.len()];
    for i in order {
        types[i] = chooser.types(tensors[i].0, tensors[i].1, tensors[i].2);
    }
    let planned = tensors.iter().zip(types).map(|(&(name, shape, from), (wanted, to))| {
        let needs_importance = to != from && needs_importance(name, to, options.recipe);
        let (name, shape) = (name.to_owned(), shape.to_vec());
        Planned { source: name.clone(), name, file: 0, shape, from, to, wanted, needs_importance }
    });
    Ok(planned.collect())
}

/// The types of the tensors of a model.
///
/// # Errors
/// As [`choose_types`], and if the metadata lacks what the recipes ask.
pub fn plan(source: &Source, options: &Options, imatrix: bool) -> Result<Vec<Planned>, ToolError> {
    let facts = Facts::read(&source.meta)?;
    let tensors: Vec<_> = source.tensors.iter().map(|t| (t.name.as_str(), &t.shape[..], t.dtype)).collect();
    let mut planned = choose_types(&facts, &tensors, options, imatrix)?;
    for (planned, tensor) in planned.iter_mut().zip(&source.tensors) {
        (planned.source, planned.file) = (tensor.source.clone(), tensor.file);
    }
    let again = |t: &&Planned| t.from != t.to && t.from.block() > 1 && !options.requantize;
    if let Some(tensor) = planned.iter().find(again) {
        return Err(ToolError::Requantize { tensor: tensor.name.clone(), from: tensor.from.name() });
    }
    Ok(planned)
}

/// Whether a matrix is looked up row by row instead of multiplied.
pub(super) fn is_embedding(name: &str) -> bool {
    Role::of(name) == Role::TokenEmbd
}

/// The layer in `blk.N.`, or -1.
fn layer_of(name: &str) -> i64 {
    layer_and_rest(name).map_or(-1, |(layer, _)| layer as i64)
}

/// Chooses, tensor by tensor.
struct Chooser<'a> {
    facts: &'a Facts,
    options: &'a Options,
    imatrix: bool,
    /// Whether the token embeddings are the output matrix, too.
    tied: bool,
    n_value: usize,
    /// Matrices so far: values, and down, gate and up of the feed-forward.
    seen: [usize; 4],
}

impl Chooser<'_> {
    /// The wanted type, and that after fitting it to the columns.
    fn types(&mut self, name: &str, shape: &[usize], from: DType) -> (DType, DType) {
        let options = self.options;
        let Some(dtype) = options.recipe.dtype else { return (from, from) };
        let kept = (options.leave_output && name == "output.weight") || self.kept_by_arch(name);
        if kept || !is_quantized(name, shape) {
            return (from, from);
        }
        let (role, named) = (Role::of(name), options.overridden(name));
        if let Some(dtype) = options.token_embd
            && role == Role::TokenEmbd
            && (named.is_none() || name == "token_embd.weight")
        {
            return (dtype, fallback(dtype, shape[shape.len() - 1]));
        }
        if let Some(dtype) = options.output
            && role == Role::Output
        {
            return (dtype, fallback(dtype, shape[shape.len() - 1]));
        }
        if dtype.block() == 1 {
            return (dtype, dtype);
        }
        let chosen = match named {
            Some(dtype) => dtype,
            None if options.pure => dtype,
            None => self.by_recipe(name, shape, role),
        };
        (chosen, fallback(chosen, shape[shape.len() - 1]))
    }

    fn by_recipe(&mut self, name: &str, shape: &[usize], role: Role) -> DType {
        let Facts { arch, n_layer, n_head, n_kv_head, n_expert } = self.facts;
        let dtype = self.options.recipe.dtype.expect("COPY chooses nothing");
        let keep8 = ["attn_q_a", "attn_q_b", "nextn.eh_proj"];
        if arch == "glm5-next" && keep8.iter().any(|part| name.contains(part)) {
            return DType::Q8_0;
        }
        let role = if role == Role::TokenEmbd && self.tied { Role::Output } else { role };
        if let Some(dtype) = self.options.output
            && role == Role::Output
        {
            return dtype;
        }
        let counter = [Role::AttnV, Role::FfnDown, Role::FfnGate, Role::FfnUp].iter().position(|r| *r == role);
        let nth = counter.map_or(0, |counter| self.seen[counter]);
        let in_name = layer_of(name);
        let by_name = *n_expert > 1 && role != Role::AttnV && in_name >= 0;
        let stacked = shape.len() >= 3 && shape[shape.len() - 3] > 1;
        let ffn = matches!(role, Role::FfnUp | Role::FfnGate | Role::FfnDown);
        let site = Site {
            falcon: arch == "falcon",
            role,
            nth,
            layer: if by_name { in_name as usize } else { nth },
            n_layer: if role == Role::AttnV { self.n_value } else { *n_layer },
            n_gqa: n_head.checked_div(*n_kv_head).unwrap_or(0),
            n_expert: *n_expert,
            is_70b: arch == "llama" && *n_layer == 80 && n_head != n_kv_head,
            is_experts: stacked && (arch != "bailingmoe3" || ffn),
            imatrix: self.imatrix,
            n_in: shape[shape.len() - 1],
        };
        let chosen = choose(self.options.recipe, dtype, &site);
        if let Some(counter) = counter {
            self.seen[counter] += 1;
        }
        chosen
    }

    /// Tensors that one architecture keeps besides [`KEPT`].
    fn kept_by_arch(&self, name: &str) -> bool {
        const GLM5: [&str; 14] = [
            "hc_",
            "indexer.attn_q_b",
            "indexer.attn_k",
            "indexer.proj",
            "indexer_compressor_gate",
            "indexer_compressor_ape",
            "ssm_f_a.weight",
            "ssm_f_b.weight",
            "ssm_g_a.weight",
            "ssm_g_b.weight",
            "ssm_beta.weight",
            "attn_kv_a_mqa.weight",
            "attn_k_b.weight",
            "attn_v_b.weight",
        ];
        self.facts.arch == "glm5-next" && GLM5.iter().any(|part| name.contains(part))
    }
}
