//! What `mlx-run quant` is asked, read and checked.

use mlxr_compute::{DType, quant};
use mlxr_tools::quantize::{Edits, Options, RECIPES, Recipe};
use mlxr_weights::gguf::Value;
use mlxr_weights::imatrix::Imatrix;
use regex_automata::meta::Regex;

use crate::CliError;
use crate::args::QuantArgs;

/// What the recipes are told.
///
/// # Errors
/// If a name or pattern is not understood.
pub fn options(args: &QuantArgs) -> Result<Options, CliError> {
    let name = args.out_recipe.last().map_or("", String::as_str);
    let recipe = Recipe::find(name).ok_or_else(|| {
        let names: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        CliError::Usage(format!("no recipe `{name}`: there are {}", names.join(", ")))
    })?;
    let mut overrides = args.tensor_type.iter().map(|text| tensor_type(text)).collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = &args.tensor_type_file {
        let text = std::fs::read_to_string(path).map_err(CliError::file(path))?;
        for entry in text.split_whitespace() {
            let inside = |error| CliError::Usage(format!("{}: {error}", path.display()));
            overrides.push(tensor_type(entry).map_err(inside)?);
        }
    }
    Ok(Options {
        overrides,
        output: args.output_tensor_type.as_deref().map(dtype).transpose()?,
        token_embd: args.token_embedding_type.as_deref().map(dtype).transpose()?,
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        requantize: args.allow_requantize,
        ..Options::new(recipe)
    })
}

/// `REGEX=TYPE`.
fn tensor_type(text: &str) -> Result<(Regex, DType), CliError> {
    let Some((pattern, name)) = text.rsplit_once('=') else {
        return Err(CliError::Usage(format!("--tensor-type `{text}`: expected REGEX=TYPE, such as attn_v=q8_0")));
    };
    let regex = Regex::new(pattern)
        .map_err(|error| CliError::Usage(format!("--tensor-type `{pattern}` is no regular expression: {error}")))?;
    Ok((regex, dtype(name)?))
}

fn dtype(name: &str) -> Result<DType, CliError> {
    DType::from_name(name).filter(|dtype| quant::can_encode(*dtype)).ok_or_else(|| {
        let types = mlxr_compute::dtype::TYPES.iter().filter(|row| quant::can_encode(row.dtype));
        let names: Vec<&str> = types.map(|row| row.name).collect();
        CliError::Usage(format!("no type `{name}` that can be written: there are {}", names.join(", ")))
    })
}

/// The importance matrix, of the tensors for which it is to be used.
///
/// # Errors
/// If it cannot be read.
pub fn imatrix(args: &QuantArgs) -> Result<Option<Imatrix>, CliError> {
    let Some(path) = &args.imatrix else { return Ok(None) };
    let mut imatrix = Imatrix::read(path)?;
    let any = |list: &[String], name: &str| list.iter().any(|part| name.contains(part.as_str()));
    imatrix.entries.retain(|name, _| {
        let included = args.include_weights.is_empty() || any(&args.include_weights, name);
        included && !any(&args.exclude_weights, name)
    });
    Ok(Some(imatrix))
}

/// What is changed besides types.
///
/// # Errors
/// If metadata to set is not understood.
pub fn edits(args: &QuantArgs) -> Result<Edits, CliError> {
    let set = args.override_kv.iter().map(|text| pair(text)).collect::<Result<_, _>>()?;
    Ok(Edits { set, prune: args.prune_layers.iter().copied().collect() })
}

/// `KEY=TYPE:VALUE`. Integers are u32, as llama-quantize writes them, or i32 and i64 where they must be.
fn pair(text: &str) -> Result<(String, Value), CliError> {
    let expected = |what: &str| CliError::Usage(format!("--override-kv `{text}`: expected {what}"));
    let parts = text.split_once('=').and_then(|(key, rest)| Some((key, rest.split_once(':')?)));
    let Some((key, (kind, value))) = parts.filter(|(key, _)| !key.is_empty()) else {
        return Err(expected("KEY=TYPE:VALUE, such as general.name=str:Small"));
    };
    let value = match kind {
        "int" => {
            let number: i64 = value.parse().map_err(|_| expected("an integer after `int:`"))?;
            match (u32::try_from(number), i32::try_from(number)) {
                (Ok(number), _) => Value::U32(number),
                (_, Ok(number)) => Value::I32(number),
                _ => Value::I64(number),
            }
        }
        "float" => Value::F32(value.parse().map_err(|_| expected("a number after `float:`"))?),
        "bool" => Value::Bool(value.parse().map_err(|_| expected("true or false after `bool:`"))?),
        "str" => Value::Str(value.to_owned()),
        _ => return Err(expected("the type int, float, bool or str")),
    };
    Ok((key.to_owned(), value))
}
