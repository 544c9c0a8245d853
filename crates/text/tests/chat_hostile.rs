//! Templates come from anyone: whatever they do ends in an error, soon and in little memory.

use jiff::civil::DateTime;
use mlxr_text::chat::{ChatTemplate, Conversation, Limits, Message, Specials, TemplateError};
use serde_json::{Map, json};

const NOW: DateTime = DateTime::constant(2026, 11, 22, 9, 8, 7, 0);

fn render(source: &str) -> Result<String, TemplateError> {
    let mut context = Map::new();
    context.insert("messages".into(), json!([{"role": "user", "content": "hello"}]));
    ChatTemplate::new(source, Specials::default())?.render_context(&context, NOW)
}

/// Brackets around `x`, `n` of each.
fn nested(n: usize, x: &str) -> String {
    format!("{}{x}{}", "[".repeat(n), "]".repeat(n))
}

#[test]
fn templates_that_want_too_much_are_stopped() {
    let deep = nested(60, "x");
    let deep_in_namespace = nested(60, "ns.x");
    let sources = [
        "{{ 'a' * 10**9 }}",
        "{{ [1] * 10**9 }}",
        "{% for i in range(10**9) %}a{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% set s = 'aaaaaaaaaa' * 100000 %}{{ s.replace('a', s) }}",
        "{% set s = 'aaaaaaaaaa' * 100000 %}{{ s.replace('', s) }}",
        "{% set s = 'aaaaaaaaaa' * 100000 %}{{ s | replace('a', s) }}",
        "{% set s = 'aaaaaaaaaa' * 100000 %}{{ s.join(s) }}",
        "{% set s = 'aaaaaaaaaa' * 100000 %}{{ s | join(s) }}",
        "{{ ('a\n' * 100000) | indent(100000) }}",
        "{{ 'a'.center(10**9) }}",
        "{{ 'a'.ljust(10**12) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ (range(10000) | list) | map('string') | join('a' * 1000000) }}",
        "{{ messages | tojson(indent=10**9) * 10**9 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(a) %}{{ m(a ~ a) }}{% endmacro %}{{ m('aaaaaaaaaaaaaaaaa') }}",
        "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(1000) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [{'a': ns}] %}{{ ns }}",
        "{% set ns = namespace(x=1) %}{% set ns.x = [ns|items] %}{{ ns.x }}",
        "{% set ns = namespace(a=1) %}{% set ns.x = ns|items %}{% set ns.y = ns|items %}{% for i in range(99) %}{{ ns.x }}{% endfor %}",
        &format!(
            "{{% set ns = namespace(x=1) %}}{{% for i in range(9999) %}}{{% set ns.x = {deep_in_namespace} %}}{{% endfor %}}{{{{ ns.x }}}}"
        ),
        &format!(
            "{{% macro m(x) %}}{}{{{{ m(x) }}}}{{% endmacro %}}{{{{ m(1) }}}}",
            format!("{{% set x = {deep} %}}").repeat(60)
        ),
        &format!("{{{{ {} }}}}", nested(100_000, "1")),
        &format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        &format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        &format!("{{{{ 1{} }}}}", " if 1 else 2".repeat(40_000)),
        &format!("{{{{ a{} }}}}", ".b".repeat(100_000)),
        &format!("{{{{ a{} }}}}", "|upper".repeat(60_000)),
        &format!("{{{{ 1{} }}}}", "+1".repeat(100_000)),
        &"{% if true %}".repeat(30_000),
        &format!("{{% set x = 1 %}}{}{{{{ x | pprint }}}}", format!("{{% set x = {deep} %}}").repeat(400)),
        "{{ ('a' * 3000000).split('a') | length }}",
        "{% set s = 'a' * 5000000 %}{% for i in range(9999) %}{{ s is lower }}{% endfor %}",
        "{% set s = range(9999) | list %}{% for i in range(9999) %}{{ s.count(9999) }}{% endfor %}",
        "{{ [1] | batch(10**9, 0) | list }}",
        "{{ [1] | slice(10**9) | list }}",
        "{{ '%.1000000000f' | format(1.5) }}",
        "{{ strftime_now('%Y' * 1000) }}",
        "{{ strftime_now('%99999999999Y') }}",
        "{{ strftime_now('%!') }}",
        "{{ raise_exception('no') }}",
        "{% include 'chat template' %}",
        "{% extends 'chat template' %}",
        "{% import 'chat template' as x %}{{ x }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].content.no_such() }}",
        "{{ 1 // 0 }}{{ 1 % 0 }}",
        "{{ 2 ** 100000000 }}",
        "{{ '[' * 100000 | fromjson }}",
        "{{ ('[' * 100000) | fromjson }}",
        "{{ '\\ud800' }}",
        "{{ messages",
        "{% raw %}",
        "{#",
    ];
    for source in sources {
        let shown: String = source.chars().take(90).collect();
        match render(source) {
            Err(error) => eprintln!("{shown:90} {}", error.to_string().chars().take(120).collect::<String>()),
            Ok(text) if text.len() < 200_000 => eprintln!("{shown:90} rendered {} bytes", text.len()),
            Ok(text) => panic!("{shown} rendered {} bytes", text.len()),
        }
    }
}

#[test]
fn deep_values_that_fuel_allows_are_dropped_printed_and_compared() {
    // The deepest nesting that macros reach: printing it stops at a limit, dropping it must not overflow the stack.
    let level = format!("{{% set x = {} %}}", nested(60, "x")).repeat(200);
    for last in
        ["", "{{ x }}", "{{ x == [x] }}", "{{ [x, [x]] | sort }}", "{{ x | tojson }}", "{{ x | string | length }}"]
    {
        let source = format!("{{% set x = 1 %}}{level}{last}");
        if let Err(error) = render(&source) {
            eprintln!("{last}: {error}");
        }
        if !["", "{{ x }}", "{{ x == [x] }}"].contains(&last) {
            continue;
        }
        let recursive = format!(
            "{{% macro m(x, n) %}}{level}{{% if n %}}{{{{ m(x, n - 1) }}}}{{% else %}}{last}{{% endif %}}{{% endmacro %}}{{{{ m(1, 40) }}}}"
        );
        if let Err(error) = render(&recursive) {
            eprintln!("recursive {last}: {error}");
        }
    }
}

#[test]
fn each_limit_is_named_by_its_error() {
    let small = Limits { source_bytes: 300, output_bytes: 100, input_bytes: 200, fuel: 10_000, ..Limits::default() };
    let new = |source: &str| ChatTemplate::with_limits(source, Specials::default(), small);
    let talk = |text: &str| Conversation::new(vec![Message::new("user", text)]);
    let check = |result: Result<String, TemplateError>, expect: &str| {
        let error = result.expect_err("a limit is exceeded").to_string();
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
    };
    check(new(&"a".repeat(301)).map(|_| String::new()), "a source of 301 bytes, the limit is 300");
    check(new("a").and_then(|template| template.render(&talk(&"b".repeat(300)))), "messages and tools of");
    check(new("{{ 'a' * 101 }}").and_then(|template| template.render(&talk("b"))), "a rendering of 101 bytes");
    let endless = "{% for i in range(9999) %}{% for j in range(99) %}{% endfor %}{% endfor %}";
    check(new(endless).and_then(|template| template.render(&talk("b"))), "stopped after 10000 steps");
    check(new("\n{% if %}").map(|_| String::new()), "line 2");
    check(new("{{ raise_exception('roles!') }}").and_then(|t| t.render(&talk("b"))), "refuses these messages: roles!");
}

#[test]
fn a_rendering_that_fuel_does_not_stop_is_given_up() {
    // Indexing walks over the characters of a text that is not ASCII, at the price of one step.
    let source = "{% if messages | length > 1 %}{% set s = 'é' * 1000000 %}\
                  {% for i in range(20) %}{{ s[999999] }}{% endfor %}{% endif %}{{ messages[0].content }}";
    let limits = Limits { time: std::time::Duration::ZERO, ..Limits::default() };
    let template = ChatTemplate::new(source, Specials::default()).expect("a template");
    let hurried = ChatTemplate::with_limits(source, Specials::default(), limits).expect("compiling takes its time");
    let talk = Conversation::new(vec![Message::new("user", "x"), Message::new("user", "y")]);
    assert_eq!(template.render(&talk), Ok(format!("{}x", "é".repeat(20))));
    assert_eq!(hurried.render(&talk), Err(TemplateError::Time { limit: limits.time }));
}

#[test]
fn a_long_conversation_stays_within_the_fuel() {
    let source =
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}";
    let template = ChatTemplate::new(source, Specials::default()).expect("a template");
    let messages = (0..2000).map(|i| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, &"word ".repeat(200)));
    let text = template.render(&Conversation::new(messages.collect())).expect("two megabytes of messages render");
    assert_eq!(text.len(), 1000 * (24 + 4) + 1000 * (24 + 9) + 2000 * 999);
}

/// Small and even enough for tests (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}

/// What mutations put in.
const PIECES: [&str; 28] = [
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "-%}",
    "{% for x in messages %}",
    "{% endfor %}",
    "{% if x %}",
    "{% endif %}",
    "{% set ns.x = ",
    "{% set x %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% macro m(x) %}",
    "{{ m(m) }}",
    "namespace()",
    "loop",
    "[",
    "]",
    "'",
    "\\",
    "|tojson",
    "*99999",
    ".split('')",
    ".format(messages)",
    "é",
];

#[test]
fn mutated_templates_give_text_or_errors() {
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    eprintln!("seed {seed}");
    let mut random = Random(seed | 1);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat");
    let sources: Vec<String> = ["tools_and_reasoning", "alternating", "python_isms", "documents"]
        .iter()
        .map(|name| std::fs::read_to_string(folder.join(format!("{name}.jinja"))).expect("a template"))
        .collect();
    let limits = Limits { fuel: 20_000, output_bytes: 1 << 20, ..Limits::default() };
    let talk = Conversation::new(vec![Message::new("system", "s"), Message::new("user", "u")]);
    let mut n_text = 0;
    for round in 0..400 {
        let mut source: Vec<char> = sources[round % sources.len()].chars().collect();
        for _ in 0..=random.below(3) {
            let at = random.below(source.len());
            let end = (at + random.below(40)).min(source.len());
            let piece: Vec<char> = match random.below(3) {
                0 => PIECES[random.below(PIECES.len())].chars().collect(),
                1 => source[at..end].repeat(1 + random.below(3)),
                _ => Vec::new(),
            };
            source.splice(at..end, piece);
        }
        let source: String = source.into_iter().collect();
        let result = ChatTemplate::with_limits(&source, Specials::default(), limits).and_then(|t| t.render(&talk));
        n_text += usize::from(result.is_ok());
        if let Err(TemplateError::Render { message, .. }) = &result {
            assert!(!message.contains("panicked"), "seed {seed}: {source}");
        }
    }
    assert!(n_text > 0, "seed {seed}: nothing rendered");
}
