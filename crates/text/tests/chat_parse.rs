//! Content, reasoning and calls are told apart, however the text is cut into pieces.

use mlxr_text::chat::parse::{FORMATS, Format};
use mlxr_text::chat::{Delta, OutputParser, Reads};

/// The answer as `R[..]` reasoning, `C[..]` content and `name(..)` calls, neighbours of a kind joined.
fn show(deltas: &[Delta]) -> String {
    let mut out: Vec<(char, String)> = Vec::new();
    for delta in deltas {
        let (kind, text) = match delta {
            Delta::Reasoning(text) => ('R', text.clone()),
            Delta::Content(text) => ('C', text.clone()),
            Delta::Call(call) => ('!', format!("{}({})", call.name, call.arguments)),
        };
        match out.last_mut() {
            Some((last, shown)) if *last == kind && kind != '!' => shown.push_str(&text),
            _ => out.push((kind, text)),
        }
    }
    let shown = out.iter().map(|(kind, text)| match kind {
        '!' => text.clone(),
        kind => format!("{kind}[{text}]"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn format(name: &str) -> &'static Format {
    FORMATS.iter().find(|format| format.name == name).expect("a format of the table")
}

fn parse(name: &str, prompt: &str, pieces: &[&str]) -> String {
    let in_reasoning = format(name).begins_in_reasoning(prompt);
    let mut parser =
        OutputParser::new(format(name), Reads { calls: true, reasoning: true, in_reasoning, ..Reads::default() });
    let mut out = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut out);
    }
    parser.finish(&mut out);
    show(&out)
}

/// The same result for the whole text, for its characters, and for every cut in two.
fn check(name: &str, prompt: &str, text: &str, expect: &str) {
    assert_eq!(parse(name, prompt, &[text]), expect, "{name}: {text}");
    let characters: Vec<String> = text.chars().map(String::from).collect();
    let pieces: Vec<&str> = characters.iter().map(String::as_str).collect();
    assert_eq!(parse(name, prompt, &pieces), expect, "{name} in characters: {text}");
    for (at, _) in text.char_indices() {
        assert_eq!(parse(name, prompt, &[&text[..at], &text[at..]]), expect, "{name} cut at {at}: {text}");
    }
}

#[test]
fn plain_answers_pass_unchanged() {
    for format in FORMATS.iter().filter(|format| format.name != "harmony") {
        check(format.name, "", "  Hello < there <thin air> [TOOL \n", "C[  Hello < there <thin air> [TOOL \n]");
        check(format.name, "", "", "");
    }
}

#[test]
fn reasoning_is_split_off() {
    check("hermes", "", "<think>\nTwo and\n two.\n</think>\n\n4 it is", "R[Two and\n two.] C[4 it is]");
    check("hermes", "...<think>\n", "Two.\n</think>\n\n4", "R[Two.] C[4]");
    check("hermes", "...<think>\n\n</think>\n\n", "4", "C[4]");
    check("hermes", "<think>", "never ends ", "R[never ends]");
    check("mistral", "", "[THINK]hm[/THINK]yes", "R[hm] C[yes]");
    let mut parser = OutputParser::new(format("hermes"), Reads { calls: true, ..Reads::default() });
    let mut out = Vec::new();
    parser.push("<think>a</think>", &mut out);
    parser.finish(&mut out);
    assert_eq!(show(&out), "C[<think>a</think>]", "a model that does not think may write the mark");
}

#[test]
fn calls_are_read_in_every_format() {
    check(
        "hermes",
        "",
        "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2]}}\n</tool_call>\n\
         <tool_call>{\"name\": \"now\"}</tool_call>",
        "C[Let me see.] add({\"a\":1,\"b\":[2]}) now({})",
    );
    check(
        "hermes",
        "",
        "<think>\nI call.\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
        "R[I call.] f({})",
    );
    check(
        "mistral",
        "",
        "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}]",
        "add({\"a\":1})",
    );
    check("mistral", "", "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]now[ARGS]{}", "add({\"a\": 1}) now({})");
    check("llama3", "", "{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "add({\"a\":1})");
    check("llama3", "", "<|python_tag|>{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "add({\"a\":1})");
    check("llama3", "", "{\"a\": \"no call\"}", "C[{\"a\": \"no call\"}]");
    check("llama3", "", "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}", "f({}) g({})");
    check(
        "qwen3-coder",
        "",
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=s>\nx < y\nz\n</parameter>\n\
         </function>\n</tool_call>",
        "add({\"a\":1,\"s\":\"x < y\\nz\"})",
    );
    check("qwen3-coder", "", "ok <function=now>\n</function> done", "C[ok] now({}) C[done]");
    check("functionary", "", "<function=add>{\"a\": 1}</function>", "add({\"a\": 1})");
    check(
        "deepseek",
        "",
        "Yes.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```\
         <｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "C[Yes.] add({\"a\": 1}) now({})",
    );
}

#[test]
fn a_call_that_cannot_be_read_is_shown() {
    check("hermes", "", "<tool_call>{\"name\": 1}</tool_call>!", "C[<tool_call>{\"name\": 1}</tool_call>!]");
    check("hermes", "", "<tool_call>{\"name\": \"f\"", "C[<tool_call>{\"name\": \"f\"]");
    check("mistral", "", "[TOOL_CALLS]oops", "C[[TOOL_CALLS]oops]");
    check("deepseek", "", "<｜tool▁call▁begin｜>x<｜tool▁call▁end｜>", "C[<｜tool▁call▁begin｜>x<｜tool▁call▁end｜>]");
}

#[test]
fn channels_of_harmony_are_told_apart() {
    check(
        "harmony",
        "",
        "<|channel|>analysis<|message|>Think <|hard|>.<|end|><|start|>assistant<|channel|>final<|message|>Answer",
        "R[Think <|hard|>.] C[Answer]",
    );
    check(
        "harmony",
        "",
        "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{\"a\": 1}<|call|>",
        "add({\"a\": 1})",
    );
    check(
        "harmony",
        "",
        "<|channel|>commentary<|message|>I will.<|end|><|start|>assistant to=functions.now<|channel|>commentary json\
         <|message|>{}",
        "C[I will.] now({})",
    );
    check("harmony", "", "plain", "C[plain]");
    check("harmony", "", "<|channel|>ana", "");
}

#[test]
fn without_tools_calls_are_text() {
    let mut parser = OutputParser::new(format("hermes"), Reads { reasoning: true, ..Reads::default() });
    let mut out = Vec::new();
    parser.push("a <tool_call>{}</tool_call> ", &mut out);
    assert_eq!(show(&out), "C[a <tool_call>{}</tool_call> ]", "nothing is held back");
}

#[test]
fn the_template_shows_the_format() {
    let check = |template: &str, expect: &str| assert_eq!(Format::detect(template).name, expect, "{template}");
    check("<|im_start|> <tool_call>", "hermes");
    check("[AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral");
    check("<|start_header_id|> ipython {\"name\": ", "llama3");
    check("<tool_call> <function= <parameter=", "qwen3-coder");
    check("<|start|>assistant<|channel|>final<|message|>", "harmony");
    check("anything", "hermes");
}
