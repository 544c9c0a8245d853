//! GGUF metadata values.

/// A metadata value, typed as the file has it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the file's own types
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// A string of valid UTF-8.
    Str(String),
    /// A string whose bytes are not UTF-8, as they are.
    RawStr(Vec<u8>),
    Array(Array),
}

/// A metadata array: elements of one type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the file's own types
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Str(Strings),
    Array(Vec<Array>),
}

/// Number of a type in the file. Source: `enum gguf_type`, ggml `gguf.h`.
pub(crate) const TYPE_NAMES: [&str; 13] =
    ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"];

/// Number of `array` in [`TYPE_NAMES`].
pub(crate) const ARRAY: u32 = 9;

/// Many strings in one allocation. Bytes are as the file has them and need not be UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    /// No strings.
    pub fn new() -> Strings {
        Strings::default()
    }

    /// Appends one string.
    pub fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
    }

    /// How many strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of string `i`.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[start..end])
    }

    /// All strings in order, as bytes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Strings {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Strings {
        let mut strings = Strings::new();
        iter.into_iter().for_each(|s| strings.push(s.as_ref()));
        strings
    }
}

/// A single value without its width: what [`FromElement`] chooses from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Element<'a> {
    /// Any integer type.
    Int(i128),
    /// f32 or f64.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string's bytes.
    Str(&'a [u8]),
    /// An array.
    Array(&'a Array),
}

/// A Rust type that a metadata value can be read as, whatever integer or float width the writer chose.
pub trait FromElement<'a>: Sized {
    /// What a value must be, for messages.
    const EXPECTED: &'static str;

    /// The value, or `None` when it has another type or does not fit.
    fn from_element(element: Element<'a>) -> Option<Self>;
}

macro_rules! from_integer {
    ($($t:ident)*) => {$(
        impl FromElement<'_> for $t {
            const EXPECTED: &'static str = concat!("an integer that fits ", stringify!($t));

            fn from_element(element: Element<'_>) -> Option<$t> {
                match element {
                    Element::Int(i) => $t::try_from(i).ok(),
                    _ => None,
                }
            }
        }
    )*};
}
from_integer!(u8 i8 u16 i16 u32 i32 u64 i64 usize);

impl FromElement<'_> for f64 {
    const EXPECTED: &'static str = "a number";

    fn from_element(element: Element<'_>) -> Option<f64> {
        match element {
            Element::Float(f) => Some(f),
            Element::Int(i) => Some(i as f64),
            _ => None,
        }
    }
}

impl FromElement<'_> for f32 {
    const EXPECTED: &'static str = "a number";

    fn from_element(element: Element<'_>) -> Option<f32> {
        f64::from_element(element).map(|f| f as f32)
    }
}

impl FromElement<'_> for bool {
    const EXPECTED: &'static str = "a boolean";

    fn from_element(element: Element<'_>) -> Option<bool> {
        match element {
            Element::Bool(b) => Some(b),
            Element::Int(i @ (0 | 1)) => Some(i == 1),
            _ => None,
        }
    }
}

impl<'a> FromElement<'a> for &'a [u8] {
    const EXPECTED: &'static str = "a string";

    fn from_element(element: Element<'a>) -> Option<&'a [u8]> {
        match element {
            Element::Str(s) => Some(s),
            _ => None,
        }
    }
}

impl<'a> FromElement<'a> for &'a str {
    const EXPECTED: &'static str = "a string of valid UTF-8";

    fn from_element(element: Element<'a>) -> Option<&'a str> {
        <&[u8]>::from_element(element).and_then(|s| std::str::from_utf8(s).ok())
    }
}

impl FromElement<'_> for String {
    const EXPECTED: &'static str = <&str>::EXPECTED;

    fn from_element(element: Element<'_>) -> Option<String> {
        <&str>::from_element(element).map(str::to_owned)
    }
}

impl<'a> FromElement<'a> for &'a Array {
    const EXPECTED: &'static str = "an array";

    fn from_element(element: Element<'a>) -> Option<&'a Array> {
        match element {
            Element::Array(a) => Some(a),
            _ => None,
        }
    }
}

impl<'a> FromElement<'a> for &'a Strings {
    const EXPECTED: &'static str = "an array of strings";

    fn from_element(element: Element<'a>) -> Option<&'a Strings> {
        match element {
            Element::Array(Array::Str(s)) => Some(s),
            _ => None,
        }
    }
}

impl Value {
    /// The value without its width.
    pub fn element(&self) -> Element<'_> {
        match self {
            Value::U8(x) => Element::Int((*x).into()),
            Value::I8(x) => Element::Int((*x).into()),
            Value::U16(x) => Element::Int((*x).into()),
            Value::I16(x) => Element::Int((*x).into()),
            Value::U32(x) => Element::Int((*x).into()),
            Value::I32(x) => Element::Int((*x).into()),
            Value::U64(x) => Element::Int((*x).into()),
            Value::I64(x) => Element::Int((*x).into()),
            Value::F32(x) => Element::Float((*x).into()),
            Value::F64(x) => Element::Float(*x),
            Value::Bool(x) => Element::Bool(*x),
            Value::Str(s) => Element::Str(s.as_bytes()),
            Value::RawStr(s) => Element::Str(s),
            Value::Array(a) => Element::Array(a),
        }
    }

    /// Type number in the file.
    pub(crate) fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Str(_) | Value::RawStr(_) => 8,
            Value::Array(_) => ARRAY,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    /// The type and, if it is short, the value: `u32 7`, `array of 512 string`.
    pub fn describe(&self) -> String {
        let name = TYPE_NAMES[self.type_id() as usize];
        match self.element() {
            Element::Int(i) => format!("{name} {i}"),
            Element::Float(f) => format!("{name} {f}"),
            Element::Bool(b) => format!("{name} {b}"),
            Element::Str(s) => format!("{name} \"{}\"", crate::error::printable(s)),
            Element::Array(a) => format!("array of {} {}", a.len(), TYPE_NAMES[a.type_id() as usize]),
        }
    }
}

impl Array {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(a) => a.len(),
            Array::I8(a) => a.len(),
            Array::U16(a) => a.len(),
            Array::I16(a) => a.len(),
            Array::U32(a) => a.len(),
            Array::I32(a) => a.len(),
            Array::U64(a) => a.len(),
            Array::I64(a) => a.len(),
            Array::F32(a) => a.len(),
            Array::F64(a) => a.len(),
            Array::Bool(a) => a.len(),
            Array::Str(a) => a.len(),
            Array::Array(a) => a.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `i` without its width.
    pub fn element(&self, i: usize) -> Option<Element<'_>> {
        Some(match self {
            Array::U8(a) => Element::Int((*a.get(i)?).into()),
            Array::I8(a) => Element::Int((*a.get(i)?).into()),
            Array::U16(a) => Element::Int((*a.get(i)?).into()),
            Array::I16(a) => Element::Int((*a.get(i)?).into()),
            Array::U32(a) => Element::Int((*a.get(i)?).into()),
            Array::I32(a) => Element::Int((*a.get(i)?).into()),
            Array::U64(a) => Element::Int((*a.get(i)?).into()),
            Array::I64(a) => Element::Int((*a.get(i)?).into()),
            Array::F32(a) => Element::Float((*a.get(i)?).into()),
            Array::F64(a) => Element::Float(*a.get(i)?),
            Array::Bool(a) => Element::Bool(*a.get(i)?),
            Array::Str(a) => Element::Str(a.get(i)?),
            Array::Array(a) => Element::Array(a.get(i)?),
        })
    }

    /// All elements as `T`, or `None` when one of them is not.
    pub fn to_vec<'a, T: FromElement<'a>>(&'a self) -> Option<Vec<T>> {
        (0..self.len()).map(|i| T::from_element(self.element(i)?)).collect()
    }

    /// The elements whose places `keep` holds of.
    #[must_use]
    pub fn select(&self, keep: impl Fn(usize) -> bool) -> Array {
        fn some<T: Clone>(all: &[T], keep: impl Fn(usize) -> bool) -> Vec<T> {
            all.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, x)| x.clone()).collect()
        }
        match self {
            Array::U8(a) => Array::U8(some(a, keep)),
            Array::I8(a) => Array::I8(some(a, keep)),
            Array::U16(a) => Array::U16(some(a, keep)),
            Array::I16(a) => Array::I16(some(a, keep)),
            Array::U32(a) => Array::U32(some(a, keep)),
            Array::I32(a) => Array::I32(some(a, keep)),
            Array::U64(a) => Array::U64(some(a, keep)),
            Array::I64(a) => Array::I64(some(a, keep)),
            Array::F32(a) => Array::F32(some(a, keep)),
            Array::F64(a) => Array::F64(some(a, keep)),
            Array::Bool(a) => Array::Bool(some(a, keep)),
            Array::Str(a) => Array::Str(a.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, s)| s).collect()),
            Array::Array(a) => Array::Array(some(a, keep)),
        }
    }

    /// Type number of the elements in the file.
    pub(crate) fn type_id(&self) -> u32 {
        match self {
            Array::U8(_) => 0,
            Array::I8(_) => 1,
            Array::U16(_) => 2,
            Array::I16(_) => 3,
            Array::U32(_) => 4,
            Array::I32(_) => 5,
            Array::F32(_) => 6,
            Array::Bool(_) => 7,
            Array::Str(_) => 8,
            Array::Array(_) => ARRAY,
            Array::U64(_) => 10,
            Array::I64(_) => 11,
            Array::F64(_) => 12,
        }
    }
}
