//! What a template may use. Templates come with models, from anyone, so each resource has a bound.
//!
//! minijinja's fuel pays for instructions and for bytes made (one fuel is one instruction or 64 bytes), so that it
//! bounds time and memory at once; `methods` and `json` charge it for what they make before they make it. What fuel
//! does not see is the time of a few steps over long texts (`text[i]` counts characters), for which there is a clock; and
//! the stack: dropping or printing a value recurses as deep as the value is nested. Nesting grows
//! without bound only through namespaces, which `keep` prevents, and within the fuel by recursive macros, for which
//! the rendering thread's stack is sized.

use std::time::Duration;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// Name of the function that `source` wraps around values stored in namespaces.
pub(crate) const KEEP_FUNCTION: &str = "keep_in_namespace";

/// Bounds of a template. The defaults hold every published template with a factor of ten to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the template's source.
    pub source_bytes: usize,
    /// Instructions, and 64-byte units of data made, in one rendering.
    pub fuel: u64,
    /// Bytes of one rendering.
    pub output_bytes: usize,
    /// Bytes of all messages, tools and documents together, as JSON.
    pub input_bytes: usize,
    /// Depth of macro calls and recursive loops, in minijinja's units (a macro call costs about 5).
    pub recursion: usize,
    /// Time of one rendering. The thread is left to end on its own, and no other is started for the template until then.
    pub time: Duration,
    /// Stack of the rendering thread, reserved but not touched until used.
    pub stack_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            source_bytes: 512 << 10,
            fuel: 1_500_000,
            output_bytes: 16 << 20,
            input_bytes: 16 << 20,
            recursion: 250,
            time: Duration::from_secs(10),
            stack_bytes: 256 << 20,
        }
    }
}

/// Depth of lists and maps stored in a namespace.
const NAMESPACE_DEPTH: usize = 32;

/// Returns `value` as it may be stored in a namespace: not nested too deep, and no namespace itself.
///
/// An iterator becomes a list, since it could read the namespace that holds it.
pub(crate) fn keep(state: &mut State, value: Value) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter()?.checked() {
                state.consume_fuel(1)?;
                items.push(item?);
            }
            Value::from(items)
        }
        _ => value,
    };
    check_nesting(state, &value, NAMESPACE_DEPTH)?;
    Ok(value)
}

fn check_nesting(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidOperation, format!("a namespace cannot hold {what}")));
    match value.kind() {
        ValueKind::Seq if depth == 0 => refuse("lists or maps nested deeper than 32"),
        ValueKind::Map if depth == 0 => refuse("lists or maps nested deeper than 32"),
        ValueKind::Iterable => refuse("an iterator inside a list or map: make a list of it"),
        ValueKind::Seq => {
            for item in value.try_iter()?.checked() {
                state.consume_fuel(1)?;
                check_nesting(state, &item?, depth - 1)?;
            }
            Ok(())
        }
        ValueKind::Map => {
            let name = value.as_object().map_or("", |object| object.type_name());
            if name.contains("Namespace") || name.contains("Loop") {
                return refuse("a namespace or a loop");
            }
            for key in value.try_iter()?.checked() {
                state.consume_fuel(1)?;
                check_nesting(state, &value.get_item(&key?)?, depth - 1)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
