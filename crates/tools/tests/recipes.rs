//! Every recipe gives every tensor of twelve models the type that llama.cpp gives it.

use std::collections::BTreeMap;

use mlxr_compute::DType;
use mlxr_tools::quantize::{Facts, Options, Recipe, choose_types, is_quantized};
use regex_automata::meta::Regex;

const TABLES: &str = include_str!("data/recipes.txt");

#[derive(Default)]
struct Model {
    name: String,
    facts: Option<Facts>,
    /// Name and shape.
    tensors: Vec<(String, Vec<usize>)>,
    /// Recipe, its own type, and the tensors of other types.
    recipes: Vec<(String, DType, BTreeMap<String, DType>)>,
}

fn names(pattern: &str, layers: Option<&str>) -> Vec<String> {
    let Some(layers) = layers else { return vec![pattern.to_owned()] };
    let range = |text: &str| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        from.parse().expect("a layer")..=to.parse::<usize>().expect("a layer")
    };
    layers.split(',').flat_map(range).map(|i| pattern.replace('*', &i.to_string())).collect()
}

fn models() -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    for line in TABLES.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words[i].parse::<usize>().expect("a number");
        if words[0] == "model" {
            let [n_layer, n_head, n_kv_head, n_expert] = [3, 4, 5, 6].map(number);
            let facts = Facts { arch: words[2].to_owned(), n_layer, n_head, n_kv_head, n_expert };
            models.push(Model { name: words[1].to_owned(), facts: Some(facts), ..Model::default() });
            continue;
        }
        let model = models.last_mut().expect("a model first");
        if words[0] == "tensor" {
            let shape = [vec![2; number(2) - 1], vec![number(1)]].concat();
            model.tensors.extend(names(words[3], words.get(4).copied()).into_iter().map(|name| (name, shape.clone())));
        } else if words[0] == "recipe" {
            let dtype = DType::from_name(words[2]).expect("a type");
            model.recipes.push((words[1].to_owned(), dtype, BTreeMap::new()));
        } else {
            let dtype = DType::from_name(words[0]).expect("a type");
            let (_, _, table) = model.recipes.last_mut().expect("a recipe first");
            table.extend(names(words[1], words.get(2).copied()).into_iter().map(|name| (name, dtype)));
        }
    }
    models
}

#[test]
fn types_are_those_of_llama_cpp() {
    let (models, mut n_choice) = (models(), 0);
    assert_eq!(models.len(), 12);
    for model in &models {
        let facts = model.facts.as_ref().expect("facts");
        let tensors: Vec<_> = model.tensors.iter().map(|(n, s)| (n.as_str(), &s[..], DType::F32)).collect();
        for (recipe, dtype, table) in &model.recipes {
            let options = Options::new(Recipe::find(recipe).expect("a recipe"));
            let planned = choose_types(facts, &tensors, &options, false).expect("types that can be encoded");
            for tensor in &planned {
                let expected = table.get(&tensor.name).unwrap_or(dtype);
                assert_eq!(tensor.to, *expected, "{} {recipe} {}", model.name, tensor.name);
                n_choice += 1;
            }
            assert!(table.keys().all(|name| planned.iter().any(|t| t.name == *name)), "{} {recipe}", model.name);
        }
    }
    eprintln!("{n_choice} choices");
    assert!(n_choice > 100_000);
}

/// A model of eight layers with 256 columns, and one matrix of 96.
fn small() -> (Facts, Vec<(String, Vec<usize>)>) {
    let facts = Facts { arch: "llama".to_owned(), n_layer: 8, n_head: 8, n_kv_head: 4, n_expert: 0 };
    let roles = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_gate", "ffn_down"];
    let of_layer = |i: usize| roles.iter().map(move |role| format!("blk.{i}.{role}.weight"));
    let mut tensors: Vec<_> = (0..8).flat_map(of_layer).map(|name| (name, vec![256, 256])).collect();
    tensors.push(("token_embd.weight".to_owned(), vec![512, 256]));
    tensors.push(("output.weight".to_owned(), vec![512, 256]));
    tensors.push(("blk.0.odd.weight".to_owned(), vec![256, 96]));
    tensors.push(("blk.0.odder.weight".to_owned(), vec![256, 100]));
    (facts, tensors)
}

fn check(recipe: &str, change: impl Fn(&mut Options), imatrix: bool, expected: &[(&str, DType)]) {
    let (facts, tensors) = small();
    let tensors: Vec<_> = tensors.iter().map(|(n, s)| (n.as_str(), &s[..], DType::F16)).collect();
    let mut options = Options::new(Recipe::find(recipe).expect("a recipe"));
    change(&mut options);
    let planned = choose_types(&facts, &tensors, &options, imatrix).expect("types that can be encoded");
    for (name, dtype) in expected {
        let found = planned.iter().find(|t| t.name == *name).expect("a tensor of that name");
        assert_eq!(found.to, *dtype, "{recipe} {name}");
    }
}

#[test]
fn options_come_before_recipes() {
    let value = "blk.0.attn_v.weight";
    check("q4_k_m", |_| (), false, &[(value, DType::Q6_K), ("output.weight", DType::Q6_K)]);
    check("Q4_K_M", |o| o.pure = true, false, &[(value, DType::Q4_K), ("output.weight", DType::Q4_K)]);
    check("Q4_K_M", |o| o.leave_output = true, false, &[("output.weight", DType::F16)]);
    check("Q4_K_M", |o| o.output = Some(DType::Q8_0), false, &[("output.weight", DType::Q8_0)]);
    check("Q4_K_M", |o| o.token_embd = Some(DType::Q8_0), false, &[("token_embd.weight", DType::Q8_0)]);
    let pattern = |text: &str| Regex::new(text).expect("a pattern");
    let change = |o: &mut Options| o.overrides = vec![(pattern("attn_[kv]"), DType::Q5_0), (pattern("v"), DType::F16)];
    check("Q4_K_M", change, false, &[(value, DType::Q5_0), ("blk.3.attn_k.weight", DType::Q5_0)]);
    check("COPY", |_| (), false, &[(value, DType::F16), ("output.weight", DType::F16)]);
    check("Q4_0", |_| (), true, &[("blk.0.ffn_down.weight", DType::Q4_1), ("blk.1.ffn_down.weight", DType::Q4_0)]);
}

#[test]
fn rows_that_are_not_whole_blocks_get_another_type() {
    for (recipe, odd) in [
        ("Q4_K_M", DType::Q5_0),
        ("Q5_K_S", DType::Q5_1),
        ("Q6_K", DType::Q8_0),
        ("Q2_K", DType::Q4_0),
        ("IQ2_XS", DType::IQ4_NL),
        ("TQ1_0", DType::Q4_0),
        ("Q8_0", DType::Q8_0),
    ] {
        check(recipe, |_| (), false, &[("blk.0.odd.weight", odd), ("blk.0.odder.weight", DType::F16)]);
    }
}

#[test]
fn norms_and_routers_stay() {
    for (name, shape, quantized) in [
        ("blk.0.attn_q.weight", &[256, 256][..], true),
        ("blk.0.attn_norm.weight", &[256, 256], false),
        ("blk.0.ffn_gate_inp.weight", &[8, 256], false),
        ("blk.0.attn_q.bias", &[256], false),
        ("blk.0.attn_q.weight", &[1, 256], false),
        ("blk.0.ffn_up_exps.weight", &[4, 1, 256], true),
        ("position_embd.weight", &[4, 256], false),
        ("v.blk.position_embd.weight", &[4, 256], false),
    ] {
        assert_eq!(is_quantized(name, shape), quantized, "{name} {shape:?}");
    }
}
