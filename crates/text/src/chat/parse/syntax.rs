//! How a family of models writes calls of tools, to be written by a grammar: the other side of the parser.

use super::Format;

/// A piece of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A mark: a control token where the vocabulary has it.
    Mark(&'static str),
    /// Text.
    Text(&'static str),
    /// A newline, which some models leave out.
    Newline,
    /// The function's name.
    Name,
    /// Its arguments as a JSON object.
    Arguments,
    /// Its arguments as `<parameter=key>\nvalue\n</parameter>\n`, one after another.
    Parameters,
}

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSyntax {
    /// Before all calls.
    pub begin: &'static [Piece],
    /// A call.
    pub call: &'static [Piece],
    /// Between two calls; `None` if there is one at most.
    pub between: Option<&'static [Piece]>,
    /// After all calls.
    pub end: &'static [Piece],
}

use Piece::{Arguments, Mark, Name, Newline, Parameters, Text};

impl CallSyntax {
    /// Whether calls begin with a mark, rather than with text that may be content, and `text`, a call that a template
    /// printed, has every mark and key.
    pub fn is_marked_in(&self, text: &str) -> bool {
        let pieces = || self.begin.iter().chain(self.call).chain(self.end);
        let is_word = |part: &&str| !part.is_empty() && part.chars().all(char::is_alphabetic);
        let has = |piece: &Piece| match piece {
            Mark(mark) => text.contains(mark),
            Text(own) if own.contains('"') => {
                own.split('"').filter(is_word).all(|key| text.contains(&format!("\"{key}\"")))
            }
            Text(_) | Newline | Name | Arguments | Parameters => true,
        };
        matches!(pieces().next(), Some(Mark(_))) && pieces().all(has)
    }
}

const HERMES: CallSyntax = CallSyntax {
    begin: &[],
    call: &[
        Mark("<tool_call>"),
        Newline,
        Text("{\"name\": \""),
        Name,
        Text("\", \"arguments\": "),
        Arguments,
        Text("}"),
        Newline,
        Mark("</tool_call>"),
    ],
    between: Some(&[Newline]),
    end: &[],
};

/// Syntaxes by the format's name and a text that stands in the template; the first that fits is taken.
const SYNTAXES: &[(&str, &str, CallSyntax)] = &[
    (
        "harmony",
        "",
        CallSyntax {
            call: &[
                Mark("<|channel|>"),
                Text("commentary to=functions."),
                Name,
                Text(" "),
                Mark("<|constrain|>"),
                Text("json"),
                Mark("<|message|>"),
                Arguments,
            ],
            between: None,
            ..HERMES
        },
    ),
    (
        "qwen3-coder",
        "",
        CallSyntax {
            call: &[
                Mark("<tool_call>"),
                Text("\n<function="),
                Name,
                Text(">\n"),
                Parameters,
                Text("</function>\n"),
                Mark("</tool_call>"),
            ],
            ..HERMES
        },
    ),
    (
        "functionary",
        "",
        CallSyntax {
            call: &[Mark("<function="), Name, Text(">"), Arguments, Mark("</function>")],
            between: Some(&[]),
            ..HERMES
        },
    ),
    (
        "mistral",
        "[ARGS]",
        CallSyntax { call: &[Mark("[TOOL_CALLS]"), Name, Mark("[ARGS]"), Arguments], between: Some(&[]), ..HERMES },
    ),
    (
        "mistral",
        "",
        CallSyntax {
            begin: &[Mark("[TOOL_CALLS]"), Text("[")],
            call: &[Text("{\"name\": \""), Name, Text("\", \"arguments\": "), Arguments, Text("}")],
            between: Some(&[Text(", ")]),
            end: &[Text("]")],
        },
    ),
    (
        "deepseek",
        "```json",
        CallSyntax {
            begin: &[Mark("<｜tool▁calls▁begin｜>")],
            call: &[
                Mark("<｜tool▁call▁begin｜>"),
                Text("function"),
                Mark("<｜tool▁sep｜>"),
                Name,
                Text("\n```json\n"),
                Arguments,
                Text("\n```"),
                Mark("<｜tool▁call▁end｜>"),
            ],
            between: Some(&[Text("\n")]),
            end: &[Mark("<｜tool▁calls▁end｜>")],
        },
    ),
    (
        "deepseek",
        "",
        CallSyntax {
            begin: &[Mark("<｜tool▁calls▁begin｜>")],
            call: &[
                Mark("<｜tool▁call▁begin｜>"),
                Name,
                Mark("<｜tool▁sep｜>"),
                Arguments,
                Mark("<｜tool▁call▁end｜>"),
            ],
            between: Some(&[]),
            end: &[Mark("<｜tool▁calls▁end｜>")],
        },
    ),
    (
        "llama3",
        "",
        CallSyntax {
            call: &[Text("{\"name\": \""), Name, Text("\", \"parameters\": "), Arguments, Text("}")],
            between: None,
            ..HERMES
        },
    ),
];

impl Format {
    /// How the models of the format write calls, by the source of their template.
    pub fn call_syntax(&self, template: &str) -> CallSyntax {
        let fits = |(name, sign, _): &&(&str, &str, CallSyntax)| *name == self.name && template.contains(sign);
        SYNTAXES.iter().find(fits).map_or(HERMES, |(.., syntax)| *syntax)
    }

    /// The marks around reasoning.
    pub fn think_marks(&self) -> (&'static str, &'static str) {
        self.think
    }

    /// Whether an answer is made of channels, as in harmony.
    pub fn has_channels(&self) -> bool {
        self.harmony
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Delta, FORMATS, OutputParser, Reads};
    use super::*;

    #[test]
    fn a_printed_call_shows_whether_calls_are_written_so() {
        let json = r#"{"name": "f", "arguments": {"a": 1}}"#;
        for (name, text, want) in [
            ("hermes", format!("<tool_call>{json}</tool_call>"), true),
            ("hermes", "<tool_call>f<arg_key>a</arg_key></tool_call>".into(), false),
            ("hermes", json.into(), false),
            ("llama3", json.into(), false),
            ("mistral", format!("[TOOL_CALLS][{json}]"), true),
            ("mistral", "[TOOL_CALLS][{'f': 1}]".into(), false),
        ] {
            let format = FORMATS.iter().chain([&super::super::HERMES]).find(|f| f.name == name).expect("a format");
            assert_eq!(format.call_syntax("").is_marked_in(&text), want, "{name}: {text}");
        }
    }

    #[test]
    fn the_parser_reads_what_the_syntax_writes() {
        for format in FORMATS {
            for sign in ["", "[ARGS]", "```json"] {
                let syntax = format.call_syntax(sign);
                let write = |pieces: &[Piece], n: usize| -> String {
                    let write = |piece: &Piece| match piece {
                        Mark(text) | Text(text) => (*text).to_owned(),
                        Newline => "\n".to_owned(),
                        Name => format!("f{n}"),
                        Arguments => format!("{{\"a\": [{n}, \"x\"]}}"),
                        Parameters => format!("<parameter=a>\n[{n}, \"x\"]\n</parameter>\n"),
                    };
                    pieces.iter().map(write).collect()
                };
                let mut text = write(syntax.begin, 0) + &write(syntax.call, 0);
                if let Some(between) = syntax.between {
                    text += &(write(between, 1) + &write(syntax.call, 1));
                }
                text += &write(syntax.end, 0);
                let mut deltas = Vec::new();
                let mut parser = OutputParser::new(format, Reads { calls: true, ..Reads::default() });
                text.chars().for_each(|c| parser.push(c.encode_utf8(&mut [0; 4]), &mut deltas));
                parser.finish(&mut deltas);
                assert_eq!(
                    deltas.len(),
                    1 + usize::from(syntax.between.is_some()),
                    "{}: {text}: {deltas:?}",
                    format.name
                );
                for (n, delta) in deltas.iter().enumerate() {
                    let Delta::Call(call) = delta else { panic!("{}: {text}: {deltas:?}", format.name) };
                    let arguments: serde_json::Value = serde_json::from_str(&call.arguments).expect("JSON");
                    assert_eq!(call.name, format!("f{n}"));
                    assert_eq!(arguments, serde_json::json!({"a": [n, "x"]}));
                }
            }
        }
    }
}
