//! What `config.json` says about quantization.
//!
//! Sources: mlx-lm `utils.py` (`quantization`), transformers `utils/quantization_config.py`, AutoGPTQ and GPTQModel
//! `quantize_config.json`, compressed-tensors `config/base.py`.

use std::path::{Path, PathBuf};

use mlxr_compute::matrix::MlxFloat;
use serde_json::Value;

use crate::OpenError;
use crate::fields::Fields;

/// The quantization of a folder.
#[derive(Debug, Clone)]
pub(crate) struct Quantization {
    /// The file that says so.
    pub path: PathBuf,
    pub scheme: Scheme,
}

#[derive(Debug, Clone)]
pub(crate) enum Scheme {
    /// `config.json` has no quantization block.
    Plain,
    Mlx(Mlx),
    Gptq(Gptq),
    /// AWQ in the layout `gemm`.
    Awq,
    /// bitsandbytes: every tensor carries its own description.
    Bnb,
    Fp8(Fp8),
    /// compressed-tensors: each tensor's names and types tell its format.
    Compressed,
    /// MXFP4 as in the checkpoints of gpt-oss.
    Mxfp4,
}

impl Scheme {
    /// Its name in messages and summaries.
    pub fn name(&self) -> &'static str {
        match self {
            Scheme::Plain => "no quantization",
            Scheme::Mlx(_) => "mlx",
            Scheme::Gptq(_) => "gptq",
            Scheme::Awq => "awq",
            Scheme::Bnb => "bitsandbytes",
            Scheme::Fp8(_) => "fp8",
            Scheme::Compressed => "compressed-tensors",
            Scheme::Mxfp4 => "mxfp4",
        }
    }
}

/// How MLX packs a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MlxMode {
    Affine { bits: u8, group: u16 },
    Float(MlxFloat),
}

/// MLX's `quantization` block.
#[derive(Debug, Clone)]
pub(crate) struct Mlx {
    pub default: MlxMode,
    /// Path of a module, and its mode; `None`: not quantized.
    pub overrides: Vec<(String, Option<MlxMode>)>,
}

impl Mlx {
    /// The mode of the module at `stem`; `None`: not quantized.
    pub fn mode(&self, stem: &str) -> Option<MlxMode> {
        let found = self.overrides.iter().find(|(path, _)| path == stem);
        found.map_or(Some(self.default), |(_, mode)| *mode)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gptq {
    /// Group size, if the config names one for all layers; `Some(0)`: one group.
    pub group: Option<u32>,
    /// Bits, if the config names them for all layers.
    pub bits: Option<u8>,
    pub zero_plus_one: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fp8 {
    /// Rows and columns of a scale's tile, if the config names them.
    pub tile: Option<[u32; 2]>,
}

/// Names of `quant_method`, and how each is read. Everything else is refused.
type Reader = fn(&Fields<'_>) -> Result<Scheme, OpenError>;
const METHODS: [(&str, Reader); 9] = [
    ("gptq", gptq),
    ("awq", awq),
    ("auto-round", auto_round),
    ("bitsandbytes", |_| Ok(Scheme::Bnb)),
    ("fp8", fp8),
    ("fbgemm_fp8", |_| Ok(Scheme::Fp8(Fp8 { tile: None }))),
    ("compressed-tensors", compressed_tensors),
    ("modelopt", modelopt),
    ("mxfp4", |_| Ok(Scheme::Mxfp4)),
];

/// Reads the quantization of a `config.json`. MLX writes `quantization` (and a copy as `quantization_config`),
/// others `quantization_config`, at the top or, for models with vision, in `text_config`.
pub(crate) fn parse(path: &Path, config: &Value) -> Result<Quantization, OpenError> {
    let scheme = scheme(&Fields::new(path, config)?)?;
    Ok(Quantization { path: path.to_owned(), scheme })
}

fn scheme(config: &Fields<'_>) -> Result<Scheme, OpenError> {
    if let Some(block) = config.object("quantization")? {
        return mlx(&block).map(Scheme::Mlx);
    }
    let Some(block) = config.object("quantization_config")? else {
        return match config.object("text_config")? {
            Some(text) if text.value("quantization_config").or(text.value("quantization")).is_some() => scheme(&text),
            _ => Ok(Scheme::Plain),
        };
    };
    match block.str("quant_method")? {
        Some(method) => match METHODS.iter().find(|(name, _)| *name == method) {
            Some((_, read)) => read(&block),
            None => {
                let known: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
                Err(block.error("quant_method", format!("\"{method}\""), known.join(", ")))
            }
        },
        None if block.value("group_size").is_some() && block.value("bits").is_some() => mlx(&block).map(Scheme::Mlx),
        None => Err(block.error("quant_method", "no such field", "the name of a method")),
    }
}

fn mlx(block: &Fields<'_>) -> Result<Mlx, OpenError> {
    let default = mlx_mode(block)?;
    let mut overrides = Vec::new();
    for (key, value) in block.iter() {
        match value {
            Value::Object(_) => {
                let inner = block.object(key)?.expect("it is an object");
                overrides.push((key.to_owned(), Some(mlx_mode(&inner)?)));
            }
            Value::Bool(on) if key.contains('.') || !*on => overrides.push((key.to_owned(), on.then_some(default))),
            _ => {}
        }
    }
    Ok(Mlx { default, overrides })
}

fn mlx_mode(block: &Fields<'_>) -> Result<MlxMode, OpenError> {
    /// mode, and for the float modes: kind, bits, group.
    const FLOATS: [(&str, MlxFloat, u64, u64); 3] =
        [("mxfp4", MlxFloat::Mxfp4, 4, 32), ("mxfp8", MlxFloat::Mxfp8, 8, 32), ("nvfp4", MlxFloat::Nvfp4, 4, 16)];
    let mode = block.str("mode")?.unwrap_or("affine");
    let (bits, group) = (block.u64("bits")?, block.u64("group_size")?);
    if let Some((_, kind, bits_of, group_of)) = FLOATS.iter().find(|f| f.0 == mode) {
        for (key, found, expected) in [("bits", bits, bits_of), ("group_size", group, group_of)] {
            if let Some(found) = found.filter(|n| n != expected) {
                return Err(block.error(key, found.to_string(), format!("{expected} for mode {mode}")));
            }
        }
        return Ok(MlxMode::Float(*kind));
    }
    if mode != "affine" {
        return Err(block.error("mode", format!("\"{mode}\""), "affine, mxfp4, mxfp8 or nvfp4"));
    }
    let (bits, group) = (bits.unwrap_or(4), group.unwrap_or(64)); // the defaults of `mx.quantize`
    if !matches!(bits, 2..=6 | 8) {
        return Err(block.error("bits", bits.to_string(), "2, 3, 4, 5, 6 or 8"));
    }
    if !matches!(group, 32 | 64 | 128) {
        return Err(block.error("group_size", group.to_string(), "32, 64 or 128"));
    }
    Ok(MlxMode::Affine { bits: bits as u8, group: group as u16 })
}

fn gptq(block: &Fields<'_>) -> Result<Scheme, OpenError> {
    let bits = block.u64("bits")?;
    if !matches!(bits, None | Some(2 | 3 | 4 | 8)) {
        return Err(block.error("bits", format!("{}", bits.unwrap_or(0)), "2, 3, 4 or 8"));
    }
    let group = match block.i64("group_size")? {
        None => None,
        Some(-1) => Some(0),
        Some(n) => match u32::try_from(n) {
            Ok(n) if n > 0 => Some(n),
            _ => return Err(block.error("group_size", n.to_string(), "at least 1, or -1 for one group")),
        },
    };
    let zero_plus_one = match block.str("checkpoint_format")? {
        None | Some("gptq" | "marlin") => true,
        Some("gptq_v2") => false,
        Some(other) => return Err(block.error("checkpoint_format", format!("\"{other}\""), "gptq or gptq_v2")),
    };
    if block.str("checkpoint_format")? == Some("marlin") || block.bool("is_marlin_format")? == Some(true) {
        return Err(block.error("checkpoint_format", "marlin, a layout for one GPU", "gptq or gptq_v2"));
    }
    // GPTQModel's per-layer rules: the parts' shapes tell bits and groups.
    let uniform = block.value("dynamic").is_none();
    let bits = bits.map(|b| b as u8).filter(|_| uniform);
    Ok(Scheme::Gptq(Gptq { group: group.filter(|_| uniform), bits, zero_plus_one }))
}

fn awq(block: &Fields<'_>) -> Result<Scheme, OpenError> {
    if let Some(bits) = block.u64("bits")?.or(block.u64("w_bit")?)
        && bits != 4
    {
        return Err(block.error("bits", bits.to_string(), "4"));
    }
    match block.str("version")?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("gemm") => Ok(Scheme::Awq),
        Some(other) => Err(block.error("version", format!("\"{other}\""), "gemm")),
    }
}

fn auto_round(block: &Fields<'_>) -> Result<Scheme, OpenError> {
    match block.str("packing_format")? {
        None | Some("auto_round:auto_gptq" | "auto_gptq") => gptq(block),
        Some("auto_round:auto_awq" | "auto_round:awq") => awq(block),
        Some(other) => Err(block.error("packing_format", format!("\"{other}\""), "auto_round:auto_gptq")),
    }
}

fn fp8(block: &Fields<'_>) -> Result<Scheme, OpenError> {
    let Some(list) = block.list("weight_block_size")? else { return Ok(Scheme::Fp8(Fp8 { tile: None })) };
    let side = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
    match list.iter().map(side).collect::<Option<Vec<_>>>().as_deref() {
        Some(&[rows, cols]) => Ok(Scheme::Fp8(Fp8 { tile: Some([rows, cols]) })),
        _ => Err(block.error("weight_block_size", Value::from(list).to_string(), "[rows, columns]")),
    }
}

fn compressed_tensors(block: &Fields<'_>) -> Result<Scheme, OpenError> {
    const FORMATS: [&str; 8] = [
        "float-quantized",
        "naive-quantized",
        "int-quantized",
        "pack-quantized",
        "mxfp4-pack-quantized",
        "mxfp8-quantized",
        "mixed-precision",
        "dense",
    ];
    match block.str("format")? {
        Some(format) if FORMATS.contains(&format) => Ok(Scheme::Compressed),
        other => {
            let found = other.map_or("no such field".to_owned(), |f| format!("\"{f}\""));
            Err(block.error("format", found, FORMATS.join(", ")))
        }
    }
}

fn modelopt(block: &Fields<'_>) -> Result<Scheme, OpenError> {
    match block.str("quant_algo")? {
        Some("FP8") => Ok(Scheme::Fp8(Fp8 { tile: None })),
        other => {
            let found = other.map_or("no such field".to_owned(), |f| format!("\"{f}\""));
            Err(block.error("quant_algo", found, "FP8"))
        }
    }
}
