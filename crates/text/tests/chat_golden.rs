//! Templates render as Jinja2 renders them. The golden texts come from `xtask/golden/templates.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use mlxr_text::chat::{ChatTemplate, Specials, TemplateError};
use serde_json::{Map, Value};

const NOW: DateTime = DateTime::constant(2026, 11, 22, 9, 8, 7, 0);

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat")
}

fn read_rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn specials() -> Specials {
    Specials { bos: Some("<bos>".into()), eos: Some("<eos>".into()), ..Specials::default() }
}

/// The template variables of a case of `cases.json`.
fn context(case: &Value) -> Map<String, Value> {
    let mut context = case["extra"].as_object().cloned().unwrap_or_default();
    for name in ["messages", "tools", "documents"] {
        context.insert(name.into(), case[name].clone());
    }
    context.insert("add_generation_prompt".into(), case.get("add_generation_prompt").cloned().unwrap_or(true.into()));
    context
}

/// Compares every row of `folder/golden.json`; returns how many agree, and how each other one differs.
fn compare(folder: &Path) -> (usize, Vec<String>) {
    let cases: BTreeMap<String, Value> = read_rows(&data().join("cases.json"))
        .into_iter()
        .map(|case| (case["name"].as_str().expect("a case has a name").to_owned(), case))
        .collect();
    let mut templates = BTreeMap::new();
    let (mut agree, mut differ) = (0, Vec::new());
    for row in read_rows(&folder.join("golden.json")) {
        let name = row["template"].as_str().expect("a row names its template").to_owned();
        let template = templates.entry(name.clone()).or_insert_with(|| {
            let source = std::fs::read_to_string(folder.join(&name)).expect("the template is beside its golden text");
            ChatTemplate::new(&source, specials())
        });
        let case = row["case"].as_str().expect("a row names its case");
        let found = match template {
            Ok(template) => template.render_context(&context(&cases[case]), NOW),
            Err(error) => {
                differ.push(format!("{name}: {error}"));
                continue;
            }
        };
        let same = match (&found, row["text"].as_str(), row["raised"].as_str()) {
            (Ok(found), Some(text), _) => found == text,
            (Err(TemplateError::Raised(found)), None, Some(raised)) => found == raised,
            // Where Python fails, rendering is fine too: minijinja iterates over `none`, for one.
            (found, None, None) => !matches!(found, Err(TemplateError::Fuel { .. })),
            _ => false,
        };
        match same {
            true => agree += 1,
            // `safe` makes Markup, and Python's Markup escapes the strings that are added to it, even with escaping
            // off. No model was trained on `&#34;`; here `safe` does nothing.
            false if row["text"].as_str().is_some_and(|text| text.contains("&#34;")) => {}
            false => differ.push(format!("{name} / {case}\n{}", difference(&row, &found))),
        }
    }
    (agree, differ)
}

/// Where the expected and the found text part.
fn difference(row: &Value, found: &Result<String, TemplateError>) -> String {
    match (row["text"].as_str(), found) {
        (Some(expect), Ok(found)) => {
            let same = expect.chars().zip(found.chars()).take_while(|(a, b)| a == b).count();
            let part = |text: &str| text.chars().skip(same.saturating_sub(40)).take(120).collect::<String>();
            format!("  expected ...{:?}\n  found    ...{:?}", part(expect), part(found))
        }
        _ => format!("  expected {row}\n  found    {found:?}"),
    }
}

#[test]
fn own_templates_render_as_in_jinja2() {
    let (agree, differ) = compare(&data());
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), agree + differ.len(), differ.join("\n"));
    assert!(agree > 100, "only {agree} rows in golden.json");
}

#[test]
fn published_templates_render_as_in_jinja2() {
    let Some(folder) = std::env::var_os("MLXR_FIXTURES").map(|folder| Path::new(&folder).join("templates")) else {
        eprintln!("SKIPPED: set MLXR_FIXTURES to a folder with templates/*.jinja and their golden.json");
        return;
    };
    if !folder.join("golden.json").exists() {
        eprintln!("SKIPPED: {} has no golden.json: run xtask/golden/templates.py on it", folder.display());
        return;
    }
    let (agree, differ) = compare(&folder);
    eprintln!("published templates: {agree} of {} rows agree", agree + differ.len());
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), agree + differ.len(), differ.join("\n"));
}
