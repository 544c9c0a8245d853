//! Reads the tokenizer part of a GGUF file, for tests. The product's reader is the crate `weights`,
//! on which this leaf does not depend.

#![allow(clippy::unwrap_used)] // tests

use mlxr_text::token::{GgufVocab, SpecialIds};
use std::collections::HashMap;

/// A metadata value.
#[derive(Debug, Clone)]
enum Value {
    Int(i64),
    Float(f64),
    Text(Vec<u8>),
    List(Vec<Value>),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> Vec<u8> {
        let len = self.u64() as usize;
        self.at += len;
        self.bytes[self.at - len..self.at].to_vec()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            0 => Value::Int(i64::from(u8::from_le_bytes(self.take()))),
            1 => Value::Int(i64::from(i8::from_le_bytes(self.take()))),
            2 => Value::Int(i64::from(u16::from_le_bytes(self.take()))),
            3 => Value::Int(i64::from(i16::from_le_bytes(self.take()))),
            4 => Value::Int(i64::from(self.u32())),
            5 => Value::Int(i64::from(i32::from_le_bytes(self.take()))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.take()))),
            7 => Value::Int(i64::from(u8::from_le_bytes(self.take()))),
            8 => Value::Text(self.text()),
            9 => {
                let (kind, n) = (self.u32(), self.u64());
                Value::List((0..n).map(|_| self.value(kind)).collect())
            }
            10 => Value::Int(self.u64() as i64),
            11 => Value::Int(i64::from_le_bytes(self.take())),
            12 => Value::Float(f64::from_le_bytes(self.take())),
            other => panic!("GGUF value type {other}"),
        }
    }
}

/// The vocabulary of a GGUF file.
pub fn gguf_vocab(bytes: &[u8]) -> GgufVocab {
    let mut reader = Reader { bytes, at: 8 };
    let (_, n) = (reader.u64(), reader.u64());
    let keys: HashMap<String, Value> = (0..n)
        .map(|_| {
            let key = String::from_utf8(reader.text()).unwrap();
            let kind = reader.u32();
            (key, reader.value(kind))
        })
        .collect();
    let get = |key: &str| keys.get(&format!("tokenizer.ggml.{key}"));
    let int = |key: &str| match get(key) {
        Some(Value::Int(n)) => Some(*n),
        _ => None,
    };
    let id = |key: &str| int(key).map(|n| n as u32);
    let flag = |key: &str| int(key).map(|n| n != 0);
    let text = |key: &str| match keys.get(key) {
        Some(Value::Text(t)) => Some(String::from_utf8(t.clone()).unwrap()),
        _ => None,
    };
    let list = |key: &str| match get(key) {
        Some(Value::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let bytes = |v: Value| if let Value::Text(t) = v { t } else { panic!("not a string: {v:?}") };
    let number = |v: Value| match v {
        Value::Int(n) => n as f64,
        Value::Float(x) => x,
        other => panic!("not a number: {other:?}"),
    };
    GgufVocab {
        model: text("tokenizer.ggml.model").unwrap_or_default(),
        pre: text("tokenizer.ggml.pre"),
        tokens: list("tokens").into_iter().map(bytes).collect(),
        scores: list("scores").into_iter().map(|v| number(v) as f32).collect(),
        types: list("token_type").into_iter().map(|v| number(v) as i32).collect(),
        merges: list("merges").into_iter().map(bytes).collect(),
        precompiled_charsmap: list("precompiled_charsmap").into_iter().map(|v| number(v) as i64 as u8).collect(),
        ids: SpecialIds {
            bos: id("bos_token_id"),
            eos: id("eos_token_id"),
            eot: id("eot_token_id"),
            eom: id("eom_token_id"),
            unk: id("unknown_token_id"),
            sep: id("seperator_token_id"),
            pad: id("padding_token_id"),
            mask: id("mask_token_id"),
            cls: id("cls_token_id"),
            ..SpecialIds::default()
        },
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_sep: flag("add_sep_token"),
        add_space_prefix: flag("add_space_prefix"),
        remove_extra_whitespaces: flag("remove_extra_whitespaces"),
        lowercase: flag("normalizer.lowercase"),
        strip_accents: flag("normalizer.strip_accents"),
        model_name: text("general.name").unwrap_or_default(),
        architecture: text("general.architecture").unwrap_or_default(),
        ..GgufVocab::default()
    }
}
