//! Checked little-endian reading of a GGUF header.

use std::path::Path;

use super::value::{ARRAY, Array, Strings, TYPE_NAMES, Value};
use crate::error::{DAMAGED, printable};
use crate::{Limits, OpenError};

/// A place in a GGUF header. Every read is checked against the end of the file and `max_header_bytes`.
pub(super) struct Cursor<'a> {
    pub path: &'a Path,
    pub limits: &'a Limits,
    bytes: &'a [u8],
    at: usize,
}

macro_rules! numbers {
    ($($name:ident: $t:ident)*) => {$(
        pub fn $name(&mut self, what: &str) -> Result<$t, OpenError> {
            let bytes = self.take(size_of::<$t>() as u64, what)?;
            Ok($t::from_le_bytes(bytes.try_into().expect("take returns as many bytes as asked for")))
        }
    )*};
}

impl<'a> Cursor<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8], limits: &'a Limits) -> Cursor<'a> {
        Cursor { path, limits, bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes that may still be read.
    pub fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], OpenError> {
        if n > self.left() {
            return Err(self.truncated(n, what));
        }
        let end = self.at + n as usize;
        let max = self.limits.max_header_bytes;
        if end as u64 > max {
            return Err(OpenError::limit(self.path, "size of the header", end as u64, "max_header_bytes", max));
        }
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    numbers! { u8: u8 i8: i8 u16: u16 i16: i16 u32: u32 i32: i32 u64: u64 i64: i64 f32: f32 f64: f64 }

    fn truncated(&self, need: u64, what: &str) -> OpenError {
        let (path, what) = (self.path.to_owned(), what.to_owned());
        OpenError::Truncated { path, what, at: self.at as u64, need, left: self.left() }
    }

    /// Checks a count of things of at least `size` bytes each against a limit and the bytes that are left.
    pub fn count(&self, n: u64, size: u64, what: &str, (limit, max): (&'static str, u64)) -> Result<usize, OpenError> {
        if n > max {
            return Err(OpenError::limit(self.path, what, n, limit, max));
        }
        let need = n.saturating_mul(size);
        if need > self.left() {
            return Err(self.truncated(need, what));
        }
        Ok(n as usize)
    }

    pub fn string(&mut self, what: &str) -> Result<&'a [u8], OpenError> {
        let n = self.u64(what)?;
        if n > self.limits.max_string {
            let what = format!("length of {what}");
            return Err(OpenError::limit(self.path, what, n, "max_string", self.limits.max_string));
        }
        self.take(n, what)
    }

    /// The name of a key or tensor: UTF-8, not empty.
    pub fn name(&mut self, what: &str) -> Result<&'a str, OpenError> {
        let bytes = self.string(what)?;
        match std::str::from_utf8(bytes) {
            Ok("") => Err(OpenError::file(self.path, format!("{what} is empty"), "a name", DAMAGED)),
            Ok(name) => Ok(name),
            Err(_) => {
                let found = format!("{what} \"{}\" is not UTF-8", printable(bytes));
                Err(OpenError::file(self.path, found, "UTF-8", DAMAGED))
            }
        }
    }

    /// A metadata value: its type, then its bytes.
    pub fn value(&mut self, key: &str) -> Result<Value, OpenError> {
        let what = format!("value of key `{}`", printable(key.as_bytes()));
        let kind = self.u32(&what)?;
        Ok(match kind {
            0 => Value::U8(self.u8(&what)?),
            1 => Value::I8(self.i8(&what)?),
            2 => Value::U16(self.u16(&what)?),
            3 => Value::I16(self.i16(&what)?),
            4 => Value::U32(self.u32(&what)?),
            5 => Value::I32(self.i32(&what)?),
            6 => Value::F32(self.f32(&what)?),
            7 => Value::Bool(self.boolean(key, &what)?),
            8 => {
                let bytes = self.string(&what)?;
                match std::str::from_utf8(bytes) {
                    Ok(s) => Value::Str(s.to_owned()),
                    Err(_) => Value::RawStr(bytes.to_vec()),
                }
            }
            ARRAY => Value::Array(self.array(key, &what, 1)?),
            10 => Value::U64(self.u64(&what)?),
            11 => Value::I64(self.i64(&what)?),
            12 => Value::F64(self.f64(&what)?),
            _ => return Err(self.bad_type(key, kind)),
        })
    }

    fn bad_type(&self, key: &str, kind: u32) -> OpenError {
        let expected = format!("one of 0 to {}", TYPE_NAMES.len() - 1);
        OpenError::key(self.path, &printable(key.as_bytes()), [format!("value type {kind}"), expected], DAMAGED)
    }

    fn boolean(&mut self, key: &str, what: &str) -> Result<bool, OpenError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            n => {
                let found = [format!("bool {n}"), "0 or 1".to_owned()];
                Err(OpenError::key(self.path, &printable(key.as_bytes()), found, DAMAGED))
            }
        }
    }

    fn array(&mut self, key: &str, what: &str, depth: u64) -> Result<Array, OpenError> {
        if depth > self.limits.max_nesting {
            let what = format!("nesting of arrays in {what}");
            return Err(OpenError::limit(self.path, what, depth, "max_nesting", self.limits.max_nesting));
        }
        let kind = self.u32(what)?;
        let n = self.u64(what)?;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            ARRAY => 12,
            _ => return Err(self.bad_type(key, kind)),
        };
        let n = self.count(n, size, &format!("array in {what}"), ("max_array", self.limits.max_array))?;
        if kind == 8 {
            let mut strings = Strings::new();
            for _ in 0..n {
                strings.push(self.string(what)?);
            }
            return Ok(Array::Str(strings));
        }
        if kind == ARRAY {
            return (0..n).map(|_| self.array(key, what, depth + 1)).collect::<Result<_, _>>().map(Array::Array);
        }
        if kind == 7 {
            return (0..n).map(|_| self.boolean(key, what)).collect::<Result<_, _>>().map(Array::Bool);
        }
        let bytes = self.take(n as u64 * size, what)?;
        Ok(numeric_array(kind, bytes))
    }
}

/// Decodes an array of a numeric type. `bytes` is a whole number of elements.
fn numeric_array(kind: u32, bytes: &[u8]) -> Array {
    fn all<const N: usize, T>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&c| from(c)).collect()
    }
    match kind {
        0 => Array::U8(bytes.to_vec()),
        1 => Array::I8(all(bytes, i8::from_le_bytes)),
        2 => Array::U16(all(bytes, u16::from_le_bytes)),
        3 => Array::I16(all(bytes, i16::from_le_bytes)),
        4 => Array::U32(all(bytes, u32::from_le_bytes)),
        5 => Array::I32(all(bytes, i32::from_le_bytes)),
        6 => Array::F32(all(bytes, f32::from_le_bytes)),
        10 => Array::U64(all(bytes, u64::from_le_bytes)),
        11 => Array::I64(all(bytes, i64::from_le_bytes)),
        12 => Array::F64(all(bytes, f64::from_le_bytes)),
        _ => unreachable!("the caller has matched the type"),
    }
}
