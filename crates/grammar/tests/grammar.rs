//! What grammars allow, byte by byte.

mod common;

use common::{Verdict, verdict};
use mlxr_grammar::{Calls, Content, Reasoning, Reply, Source, Tool};
use mlxr_text::chat::parse::FORMATS;
use mlxr_text::chat::{Format, Piece};
use serde_json::{Value, json};

use Verdict::{Open, Refused, Whole};

/// How `text` fares under a grammar, with marks as control tokens and as text.
fn check(reply: &Reply, rows: &[(&str, Verdict)]) {
    for has_marks in [true, false] {
        for (text, want) in rows {
            let found = verdict(reply, has_marks, text).unwrap_or_else(|error| panic!("{error}: {reply:?}"));
            assert_eq!(found, *want, "{text:?} with marks as tokens: {has_marks}; {reply:?}");
        }
    }
}

fn of(source: Source) -> Reply {
    Reply::of(source)
}

#[test]
fn json_and_schemas() {
    check(
        &of(Source::Json),
        &[
            ("{}", Whole),
            (r#"{"a": [1, -2.5e3, true, null, "x\n\"é"]}"#, Whole),
            ("{\n    \"a\": {\n        \"b\": 1\n    }\n}", Whole),
            (r#"{"a": 1"#, Open),
            ("[1]", Refused(0)),
            ("{}}", Refused(2)),
            ("{ \n\n\n}", Refused(2)),
            (r#"{"a":}"#, Refused(5)),
        ],
    );
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        },
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    check(
        &of(Source::Schema(person)),
        &[
            (r#"{"name": "Ann", "age": 42}"#, Whole),
            (r#"{"name":"Ann","age":150,"tags":["a", "b"]}"#, Whole),
            (r#"{"name": "Ann"}"#, Refused(14)),
            (r#"{"name": "Annett"}"#, Refused(15)),
            (r#"{"name": "Ann", "age": 151}"#, Refused(25)),
            (r#"{"name": "Ann", "age": -1}"#, Refused(23)),
            (r#"{"name": "Ann", "age": 1, "tags": ["c"]}"#, Refused(36)),
            (r#"{"age": 1}"#, Refused(2)),
            (r#"{"name": "Ann", "age": 1, "x": 1}"#, Refused(27)),
        ],
    );
    let tree = json!({
        "$defs": {"node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"], "additionalProperties": false}},
        "$ref": "#/$defs/node",
    });
    check(
        &of(Source::Schema(tree)),
        &[
            (r#"{"next": {"next": {"next": null}}}"#, Whole),
            (r#"{"next": {}}"#, Refused(10)),
            (r#"{"next": 1}"#, Refused(9)),
        ],
    );
}

#[test]
fn regular_expressions_choices_and_grammars() {
    check(
        &of(Source::Regex(r"^[a-z]{2,3}/\d+$".into())),
        &[("ab/1", Whole), ("abc/123", Whole), ("a/1", Refused(1)), ("abcd/1", Refused(3)), ("ab/", Open)],
    );
    check(&of(Source::Regex(r"a\$".into())), &[("a$", Whole), ("a", Open)]);
    let choice = of(Source::Choice(vec!["yes".into(), "yes, please".into(), "no \"way\"\n".into()]));
    check(
        &choice,
        &[
            ("yes", Whole),
            ("yes, please", Whole),
            ("no \"way\"\n", Whole),
            ("yes,", Open),
            ("maybe", Refused(0)),
            ("yesno", Refused(3)),
        ],
    );
    check(
        &of(Source::Lark("start: pair+\npair: \"(\" pair* \")\"\n".into())),
        &[("(()())", Whole), ("()()", Whole), ("(()", Open), (")", Refused(0))],
    );
    // The last row is whole in GBNF, whose white space can leave the newline to the root.
    let arithmetic = "root ::= expr \"=\" ws term \"\\n\"\nexpr ::= term ([-+*/] ws term)*\n\
        term ::= num | \"(\" ws expr \")\" ws\nnum ::= [0-9]+ ws # digits\nws ::= [ \\t\\n]*\n";
    check(
        &of(Source::Gbnf(arithmetic.into())),
        &[
            ("1+2=3\n", Whole),
            ("(1 + 2) * 3 = 9\n", Whole),
            ("1=1\n\n", Open),
            ("(1", Open),
            ("1+)", Refused(2)),
            ("a", Refused(0)),
        ],
    );
    let words = "root ::= item{1,2}\nitem ::= \"- \" [^\\r\\n]+ \"\\n\"";
    check(
        &of(Source::Gbnf(words.into())),
        &[("- a b\n", Whole), ("- a\n- b\n", Whole), ("- a\n- b\n-", Refused(8)), ("-a", Refused(1))],
    );
}

fn format(name: &str) -> &'static Format {
    FORMATS.iter().find(|format| format.name == name).expect("a format of this name")
}

fn tools(names: &[&str], parameters: &Value) -> Vec<Tool> {
    let tool = |(index, name): (usize, &&str)| Tool {
        field: format!("tools[{index}]"),
        name: (*name).to_owned(),
        parameters: Some(parameters.clone()),
    };
    names.iter().enumerate().map(tool).collect()
}

/// One call of `name` as the format writes it.
fn written(pieces: &[Piece], name: &str, arguments: &str, parameters: &str) -> String {
    let text = |piece: &Piece| match piece {
        Piece::Mark(text) | Piece::Text(text) => (*text).to_owned(),
        Piece::Name => name.to_owned(),
        Piece::Newline => "\n".to_owned(),
        Piece::Arguments => arguments.to_owned(),
        Piece::Parameters => parameters.to_owned(),
    };
    pieces.iter().map(text).collect()
}

#[test]
fn calls_of_every_format() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "s": {"type": "string"}},
        "required": ["a"], "additionalProperties": false});
    let good = [
        (r#"{"a": 1}"#, "<parameter=a>\n1\n</parameter>\n"),
        (r#"{"a": 1, "s": "x"}"#, "<parameter=a>\n1\n</parameter>\n<parameter=s>\nx < y\n</parameter>\n"),
    ];
    let bad = [
        (r#"{"a": "x"}"#, "<parameter=a>\nx\n</parameter>\n"),
        ("{}", ""),
        (r#"{"b": 1}"#, "<parameter=b>\n1\n</parameter>\n"),
    ];
    for name in FORMATS.iter().map(|format| format.name) {
        for sign in ["", "[ARGS]", "```json"] {
            let syntax = format(name).call_syntax(sign);
            for parallel in [false, true] {
                let calls = Calls { tools: tools(&["f", "other"], &schema), parallel, syntax };
                let reply = Reply { reasoning: Reasoning::No, content: None, calls: Some(calls) };
                let one = |name: &str, (arguments, parameters): (&str, &str)| {
                    written(syntax.call, name, arguments, parameters)
                };
                let all = |calls: &[String]| {
                    let between = syntax.between.map(|between| written(between, "", "", "")).unwrap_or_default();
                    written(syntax.begin, "", "", "") + &calls.join(&between) + &written(syntax.end, "", "", "")
                };
                for arguments in good {
                    check(&reply, &[(&all(&[one("f", arguments)]), Whole), (&all(&[one("other", arguments)]), Whole)]);
                }
                let twice = all(&[one("f", good[0]), one("other", good[1])]);
                for has_marks in [true, false] {
                    let found = verdict(&reply, has_marks, &twice).expect("a grammar");
                    assert_eq!(found == Whole, parallel && syntax.between.is_some(), "{name}: {twice}");
                    let wrong =
                        bad.iter().map(|arguments| one("f", *arguments)).chain([one("g", good[0]), "hello".into()]);
                    for call in wrong {
                        let found = verdict(&reply, has_marks, &all(std::slice::from_ref(&call))).expect("a grammar");
                        assert!(matches!(found, Refused(_)), "{name}: {call}: {found:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn reasoning_comes_first() {
    let content = Some(Content::Bound(Source::Choice(vec!["42".into()])));
    let (open, close) = ("<think>", "</think>");
    let reply = |reasoning| Reply { reasoning, content: content.clone(), calls: None };
    check(&reply(Reasoning::No), &[("42", Whole), ("<think>", Refused(0))]);
    check(
        &reply(Reasoning::Maybe { open, close }),
        &[
            ("42", Whole),
            ("<think>Is it 41? {No} <b>.</think>\n\n42", Whole),
            ("<think></think>42", Whole),
            ("<think>43", Open),
            ("43", Refused(1)),
        ],
    );
    check(&reply(Reasoning::Open { close }), &[("Hm.</think>42", Whole), ("</think>\n42", Whole), ("42", Open)]);
    check(
        &reply(Reasoning::Channels),
        &[
            ("<|channel|>final<|message|>42", Whole),
            ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>42", Whole),
            ("42", Refused(0)),
        ],
    );
}

#[test]
fn free_text_may_end_in_strict_calls() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    for name in ["hermes", "deepseek", "mistral"] {
        let syntax = format(name).call_syntax("[ARGS]");
        let calls = Calls { tools: tools(&["f"], &schema), parallel: true, syntax };
        let reply = Reply { reasoning: Reasoning::No, content: Some(Content::Free), calls: Some(calls) };
        let call = |arguments: &str| {
            written(syntax.begin, "", "", "")
                + &written(syntax.call, "f", arguments, "")
                + &written(syntax.end, "", "", "")
        };
        let (good, text) = (call("{\"a\": 1}"), format!("I add.\n{}", call("{\"a\": 12}")));
        let in_a_line = good.replace("\n{\"name", "{\"name").replace("}\n<", "}<");
        check(&reply, &[("Hello <tool> {1} there.", Whole), (&good, Whole), (&in_a_line, Whole), (&text, Whole)]);
        for has_marks in [true, false] {
            let found = verdict(&reply, has_marks, &call("{\"a\": \"x\"}")).expect("a grammar");
            assert!(matches!(found, Refused(_)), "{name}: {found:?}");
        }
    }
}

#[test]
fn an_answer_or_calls() {
    let calls = Calls {
        tools: tools(&["f"], &json!({"type": "object"})),
        parallel: true,
        syntax: format("hermes").call_syntax(""),
    };
    let content = Some(Content::Bound(Source::Schema(json!({"type": "array", "items": {"type": "integer"}}))));
    let reply = Reply { reasoning: Reasoning::No, content, calls: Some(calls) };
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1]}}\n</tool_call>";
    check(&reply, &[("[1, 2]", Whole), (call, Whole), ("Sure", Refused(0))]);
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let nested =
        |n: usize| (0..n).fold(json!({"type": "integer"}), |inner, _| json!({"type": "array", "items": inner}));
    let wide = json!({"enum": (0..20_000).collect::<Vec<_>>()});
    let rows: [(Source, &str); 14] = [
        (Source::Schema(json!([1])), "the JSON schema cannot be enforced: it is a list, expected an object"),
        (Source::Schema(json!({"type": "thing"})), "Invalid type: thing"),
        (Source::Schema(json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        (Source::Schema(json!({"$ref": "#/$defs/none"})), "the JSON schema cannot be enforced: "),
        (Source::Schema(json!({"$ref": "https://example.com/schema.json"})), "the JSON schema cannot be enforced: "),
        (
            Source::Schema(json!({"type": "integer", "minimum": 2, "maximum": 1})),
            "the JSON schema cannot be enforced: ",
        ),
        (Source::Schema(nested(70)), "the JSON schema has 65 levels, the limit is 64"),
        (Source::Schema(wide), "the JSON schema has 16385 values, the limit is 16384"),
        (
            Source::Schema(json!({"const": "x".repeat(300_000)})),
            "the JSON schema has 300005 bytes, the limit is 262144",
        ),
        (Source::Regex("(a".into()), "the grammar cannot be enforced: "),
        (Source::Choice(vec![]), "the choice cannot be enforced: it has no texts"),
        (Source::Lark("start: foo".into()), "the grammar cannot be enforced: "),
        (Source::Gbnf("root ::= x".into()), "the grammar cannot be enforced: the rule `x` is used and not defined"),
        (Source::Lark(format!("start: {}", "(".repeat(5000))), "the grammar has 5000 brackets, the limit is 4096"),
    ];
    for (source, want) in rows {
        let shown = format!("{source:?}");
        let error = verdict(&of(source), true, "").expect_err(&shown[..shown.len().min(200)]).to_string();
        assert!(error.contains(want), "{error:?}\nexpected: {want}");
        assert!(error.len() < 2000 && !error.contains("backtrace"), "{error}");
    }
    let bad = json!({"type": "object", "properties": {"a": {"type": "nothing"}}});
    let mut tools = tools(&["f", "g"], &json!({"type": "object"}));
    tools[1].parameters = Some(bad);
    let calls = |tools| Calls { tools, parallel: true, syntax: format("hermes").call_syntax("") };
    let reply = |tools| Reply { reasoning: Reasoning::No, content: None, calls: Some(calls(tools)) };
    let error = verdict(&reply(tools.clone()), true, "").expect_err("an unknown type").to_string();
    assert!(error.contains("`tools[1].function.parameters`: Invalid type: nothing"), "{error}");
    tools[0].name = "a b".into();
    let error = verdict(&reply(tools), true, "").expect_err("a name with a space").to_string();
    assert!(error.contains("`tools[0]` has the name `a b`"), "{error}");
}

#[test]
fn hostile_grammars_end_soon() {
    let deep = format!("{}a{}", "(".repeat(200), ")".repeat(200));
    let mut anys = json!({"type": "string"});
    for _ in 0..10 {
        anys = json!({"anyOf": [anys.clone(), {"allOf": [anys, {"minLength": 3}]}]});
    }
    let rows = [
        Source::Regex(deep),
        Source::Regex("(a{1000}){1000}{1000}".into()),
        Source::Regex("(.*a){100}(.*b){100}[^c]{200}".into()),
        Source::Schema(json!({"type": "string", "pattern": "(x+x+)+y", "maxLength": 100_000_000})),
        Source::Schema(json!({"type": "array", "items": {"type": "string"}, "minItems": 1_000_000})),
        Source::Schema(json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})),
        Source::Lark("start: start start | \"a\" | \"\"".into()),
        Source::Lark("start: A\nA: A \"a\"".into()),
        Source::Gbnf("root ::= root root | \"a\"*".into()),
        Source::Gbnf(format!("root ::= \"a\"{}", "{2000}".repeat(3))),
        Source::Schema(anys),
    ];
    for source in rows {
        let shown = format!("{source:?}");
        let since = std::time::Instant::now();
        // Allowed, refused, or ended while it runs, but told.
        let found = verdict(&of(source), true, "aaaa").map_err(|error| error.to_string());
        println!("{} ms: {found:?}: {}", since.elapsed().as_millis(), &shown[..shown.len().min(100)]);
        assert!(found.err().is_none_or(|error| error.len() < 2000));
    }
}
