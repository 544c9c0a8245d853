//! Python's methods of strings, lists and dicts, which templates call.
//!
//! Most come from `minijinja_contrib::pycompat`. Here are those it lacks, and guards in front of those whose result
//! can be much larger than what they are given; what a guard lets pass is paid for with fuel before it is made.
//! Methods that change a list or dict (`append`, `pop`, `update`) are missing on purpose: the sandbox of
//! `transformers` refuses them.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Widest field of `format`, `center`, `ljust`, `rjust` and `zfill`.
const WIDTH: usize = 4096;

/// Calls `method` of `value`.
pub(crate) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => match value.as_str() {
            Some(text) => string(state, value, text, method, args),
            None => Err(Error::from(ErrorKind::UnknownMethod)),
        },
        ValueKind::Seq => sequence(state, value, method, args),
        ValueKind::Map => map(state, value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn string(state: &mut State, value: &Value, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    state.consume_fuel(1 + text.len() as u64 / 64)?;
    match method {
        "replace" => check_replace(state, text, args)?,
        "join" => check_join(state, text, args)?,
        "format" => check_format(text)?,
        // A piece takes more memory than its bytes, so the pieces are paid for before they are made.
        "split" | "rsplit" => {
            let n = match args.first().and_then(Value::as_str) {
                Some(separator) if !separator.is_empty() => text.matches(separator).count(),
                _ => text.split_whitespace().count(),
            };
            state.consume_fuel(n as u64)?;
            if method == "rsplit" {
                return rsplit(text, args);
            }
        }
        "splitlines" => state.consume_fuel(text.matches('\n').count() as u64)?,
        "removeprefix" => return with_text(args, |part| text.strip_prefix(part).unwrap_or(text).into()),
        "removesuffix" => return with_text(args, |part| text.strip_suffix(part).unwrap_or(text).into()),
        "partition" => {
            return with_text(args, |part| triple(text.split_once(part).map(|(a, b)| (a, part, b)), (text, "", "")));
        }
        "rpartition" => {
            return with_text(args, |part| triple(text.rsplit_once(part).map(|(a, b)| (a, part, b)), ("", "", text)));
        }
        "index" => {
            let found = pycompat::unknown_method_callback(state, value, "find", args)?;
            if found == Value::from(-1) {
                return Err(Error::new(ErrorKind::InvalidOperation, "index: substring not found"));
            }
            return Ok(found);
        }
        "casefold" => return Ok(text.to_lowercase().into()),
        "swapcase" => return Ok(swap_case(text).into()),
        "center" | "ljust" | "rjust" | "zfill" => return justify(text, method, args),
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

fn sequence(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "copy" => from_args::<()>(args).map(|()| value.clone()),
        "count" => {
            state.consume_fuel(value.len().unwrap_or(0) as u64)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            for (index, item) in value.try_iter()?.checked().enumerate() {
                state.consume_fuel(1)?;
                if item? == *what {
                    return Ok(index.into());
                }
            }
            Err(Error::new(ErrorKind::InvalidOperation, format!("index: {what} is not in the list")))
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn map(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "copy" => from_args::<()>(args).map(|()| value.clone()),
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn with_text(args: &[Value], make: impl FnOnce(&str) -> Value) -> Result<Value, Error> {
    let (part,): (&str,) = from_args(args)?;
    Ok(make(part))
}

fn triple(parts: Option<(&str, &str, &str)>, whole: (&str, &str, &str)) -> Value {
    let (a, b, c) = parts.unwrap_or(whole);
    Value::from(minijinja::value::Tuple::from([Value::from(a), Value::from(b), Value::from(c)]))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (part, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.filter(|&n| n >= 0).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut parts: Vec<&str> = match part {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator")),
        Some(part) => text.rsplitn(most.saturating_add(1), part).collect(),
        None => {
            let (mut rest, mut parts) = (text.trim(), Vec::new());
            while parts.len() < most && !rest.is_empty() {
                let Some(space) = rest.rfind(char::is_whitespace) else { break };
                let word = rest[space..].trim_start();
                parts.push(word);
                rest = rest[..space].trim_end();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
            parts
        }
    };
    parts.reverse();
    Ok(Value::from_iter(parts))
}

fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}

fn justify(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let width = usize::try_from(width).unwrap_or(0);
    if width > WIDTH {
        return Err(too_wide(method));
    }
    let fill = fill.unwrap_or(if method == "zfill" { "0" } else { " " });
    let pad = width.saturating_sub(text.chars().count());
    // CPython puts the odd one of `center` to the left when the width is odd.
    let left = match method {
        "ljust" => 0,
        "center" => pad / 2 + (pad & width & 1),
        _ => pad,
    };
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) if method == "zfill" => (&text[..1], digits),
        _ => ("", text),
    };
    Ok(format!("{sign}{}{digits}{}", fill.repeat(left), fill.repeat(pad - left)).into())
}

fn too_wide(method: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{method}: a width above {WIDTH}"))
}

fn check_replace(state: &State, text: &str, args: &[Value]) -> Result<(), Error> {
    let (old, new, count): (&str, &str, Option<i32>) = from_args(args)?;
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let found = count.and_then(|count| usize::try_from(count).ok()).map_or(found, |count| count.min(found));
    state.consume_fuel((text.len() as u64 + found as u64 * new.len() as u64) / 64)
}

fn check_join(state: &State, text: &str, args: &[Value]) -> Result<(), Error> {
    let (values,): (&Value,) = from_args(args)?;
    for item in values.try_iter()?.checked() {
        let item = item?;
        let Some(part) = item.as_str() else {
            let text = format!("join: an item of type {} is no string", item.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, text));
        };
        state.consume_fuel(1 + (text.len() + part.len()) as u64 / 64)?;
    }
    Ok(())
}

/// Refuses widths in `{:...}` that are large, or that are fields themselves.
fn check_format(text: &str) -> Result<(), Error> {
    let (mut in_field, mut in_spec, mut number) = (false, false, 0_usize);
    for c in text.chars() {
        match c {
            '{' if in_spec => return Err(Error::new(ErrorKind::InvalidOperation, "format: a field as width")),
            '{' => in_field = !in_field, // `{{` is a brace
            ':' => in_spec = in_field,
            '}' => (in_field, in_spec) = (false, false),
            _ => {}
        }
        number = c.to_digit(10).map_or(0, |digit| number.saturating_mul(10).saturating_add(digit as usize));
        if in_spec && number > WIDTH {
            return Err(too_wide("format"));
        }
    }
    Ok(())
}
