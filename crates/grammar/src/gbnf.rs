//! GBNF, llama.cpp's grammars, to Lark.
//!
//! ```text
//! root  ::= "(" ws root ")" | word ws    start: r0      r0: "(" T1 r0 ")" | T2 T1
//! word  ::= "-" [a-z]+                   T2: "-" /[a-z]/+
//! ws    ::= " "*                         T1: " "*
//! ```
//! Lark tells lexemes, which end where they can go on no longer, from rules; GBNF knows only characters. What is regular (a
//! rule that leads to no recursion, a run of such parts) becomes one lexeme, but for what may be left out at its end. Where
//! a lexeme may be followed by what it could also go on with, it goes on: then less is allowed than GBNF allows, never more.
//! Source: llama.cpp's `grammars/README.md` and `src/llama-grammar.cpp`.

use std::collections::HashMap;
use std::fmt::Write;

use crate::lark;

/// Levels of groups.
const MAX_DEPTH: usize = 64;
/// Repetitions; llama.cpp's.
const MAX_REPEAT: usize = 2000;

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Literal(String),
    /// A character, as a regular expression.
    Class(String),
    /// A control token, as Lark.
    Token(String),
    Rule(usize),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat(Box<Node>, usize, Option<usize>),
}

/// `source` as Lark.
///
/// # Errors
/// With the line and what is wrong there.
pub fn to_lark(source: &str) -> Result<String, String> {
    let mut parser = Parser { rest: source, line: 1, names: HashMap::new(), rules: Vec::new(), depth: 0 };
    parser.rules()?;
    let missing = parser.names.iter().find(|(_, index)| parser.rules.get(**index).is_none_or(Option::is_none));
    if let Some((name, _)) = missing {
        return Err(format!("the rule `{name}` is used and not defined"));
    }
    let Some(&root) = parser.names.get("root") else { return Err("it has no rule `root`".into()) };
    let rules: Vec<Node> = parser.rules.into_iter().flatten().collect();
    let mut writer = Writer { known: Known::of(&rules), lexemes: Vec::new(), out: String::new() };
    writer.out = format!("start: {}\n", writer.name(root));
    for (index, rule) in rules.iter().enumerate() {
        let text = if writer.known.is_lexeme[index] { writer.lexeme(rule) } else { writer.rule(rule) };
        let name = writer.name(index);
        let _ = writeln!(writer.out, "{name}: {text}");
    }
    for (index, text) in std::mem::take(&mut writer.lexemes).into_iter().enumerate() {
        let _ = writeln!(writer.out, "L{index}: {text}");
    }
    Ok(writer.out)
}

/// What is known of rules.
struct Known {
    /// It matches the empty text.
    is_nullable: Vec<bool>,
    /// It is one lexeme.
    is_lexeme: Vec<bool>,
}

impl Known {
    fn of(rules: &[Node]) -> Known {
        let none = || vec![false; rules.len()];
        let mut known = Known { is_nullable: none(), is_lexeme: none() };
        // What a rule is follows from what the rules are that it uses; what never follows is not.
        loop {
            let nullable = rules.iter().map(|rule| known.nullable(rule)).collect();
            let lexeme = rules.iter().map(|rule| known.lexeme(rule)).collect();
            let before = std::mem::replace(&mut known, Known { is_nullable: nullable, is_lexeme: lexeme });
            if (&before.is_nullable, &before.is_lexeme) == (&known.is_nullable, &known.is_lexeme) {
                return known;
            }
        }
    }

    fn nullable(&self, node: &Node) -> bool {
        match node {
            Node::Literal(text) => text.is_empty(),
            Node::Class(_) | Node::Token(_) => false,
            Node::Rule(index) => self.is_nullable[*index],
            Node::Sequence(parts) => parts.iter().all(|part| self.nullable(part)),
            Node::Choice(parts) => parts.iter().any(|part| self.nullable(part)),
            Node::Repeat(part, min, _) => *min == 0 || self.nullable(part),
        }
    }

    /// Whether a part leads to no recursion and no control token, and does not end in what may be left out: white space
    /// after a word is a lexeme of its own, since what comes next may begin with the same.
    fn lexeme(&self, node: &Node) -> bool {
        match node {
            Node::Literal(_) | Node::Class(_) => true,
            Node::Token(_) => false,
            Node::Rule(index) => self.is_lexeme[*index],
            Node::Sequence(parts) => {
                let ends_open = parts.len() > 1 && parts.last().is_some_and(|last| self.nullable(last));
                !ends_open && parts.iter().all(|part| self.lexeme(part))
            }
            Node::Choice(parts) => parts.iter().all(|part| self.lexeme(part)),
            Node::Repeat(part, ..) => self.lexeme(part),
        }
    }
}

struct Writer {
    known: Known,
    /// Lexemes made of parts of rules.
    lexemes: Vec<String>,
    out: String,
}

impl Writer {
    fn name(&self, index: usize) -> String {
        format!("{}{index}", if self.known.is_lexeme[index] { "T" } else { "r" })
    }

    /// A regular part.
    fn lexeme(&self, node: &Node) -> String {
        self.write(node, &|writer, node| writer.lexeme(node))
    }

    /// A part of a rule: its regular parts become lexemes of their own.
    fn rule(&mut self, node: &Node) -> String {
        match node {
            Node::Literal(_) | Node::Rule(_) | Node::Token(_) => self.lexeme(node),
            node if self.known.lexeme(node) => self.new_lexeme(node),
            Node::Sequence(parts) => {
                let is_lexeme: Vec<bool> = parts.iter().map(|part| self.known.lexeme(part)).collect();
                let mut texts = Vec::new();
                let mut at = 0;
                while at < parts.len() {
                    let mut n = is_lexeme[at..].iter().take_while(|is_lexeme| **is_lexeme).count().max(1);
                    while n > 1 && self.known.nullable(&parts[at + n - 1]) {
                        n -= 1;
                    }
                    texts.push(match &parts[at..at + n] {
                        [one] => self.rule(one),
                        run => self.new_lexeme(&Node::Sequence(run.to_vec())),
                    });
                    at += n;
                }
                format!("({})", texts.join(" "))
            }
            Node::Choice(parts) => {
                let texts: Vec<String> = parts.iter().map(|part| self.rule(part)).collect();
                format!("({})", texts.join(" | "))
            }
            Node::Repeat(part, min, max) => format!("{}{}", self.rule(part), range(*min, *max)),
            Node::Class(_) => self.lexeme(node),
        }
    }

    fn new_lexeme(&mut self, node: &Node) -> String {
        let text = self.lexeme(node);
        let index = self.lexemes.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.lexemes.push(text);
            self.lexemes.len() - 1
        });
        format!("L{index}")
    }

    fn write(&self, node: &Node, part: &dyn Fn(&Writer, &Node) -> String) -> String {
        match node {
            Node::Literal(text) => lark::literal(text),
            Node::Class(text) => format!("/{text}/"),
            Node::Token(text) => text.clone(),
            Node::Rule(index) => self.name(*index),
            Node::Sequence(parts) if parts.is_empty() => "\"\"".to_owned(),
            Node::Sequence(parts) => {
                format!("({})", parts.iter().map(|node| part(self, node)).collect::<Vec<_>>().join(" "))
            }
            Node::Choice(parts) => {
                format!("({})", parts.iter().map(|node| part(self, node)).collect::<Vec<_>>().join(" | "))
            }
            Node::Repeat(node, min, max) => format!("{}{}", part(self, node), range(*min, *max)),
        }
    }
}

fn range(min: usize, max: Option<usize>) -> String {
    match (min, max) {
        (0, None) => "*".to_owned(),
        (1, None) => "+".to_owned(),
        (0, Some(1)) => "?".to_owned(),
        (min, None) => format!("{{{min},}}"),
        (min, Some(max)) => format!("{{{min},{max}}}"),
    }
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    names: HashMap<String, usize>,
    rules: Vec<Option<Node>>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn wrong<T>(&self, what: impl std::fmt::Display) -> Result<T, String> {
        Err(format!("line {}: {what}", self.line))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn takes(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Skips blanks and comments, and newlines if they mean nothing here.
    fn space(&mut self, over_lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => {}
                '\r' | '\n' if over_lines => {}
                '#' => {
                    self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    fn index(&mut self, name: &str) -> usize {
        let n = self.names.len();
        let index = *self.names.entry(name.to_owned()).or_insert(n);
        if self.rules.len() <= index {
            self.rules.resize(index + 1, None);
        }
        index
    }

    fn rules(&mut self) -> Result<(), String> {
        loop {
            self.space(true);
            if self.rest.is_empty() {
                return Ok(());
            }
            let Some(name) = self.name() else { return self.wrong("expected the name of a rule") };
            self.space(false);
            if !self.takes("::=") {
                return self.wrong(format!("expected `::=` after `{name}`"));
            }
            self.space(true);
            let index = self.index(name);
            let node = self.choice(false)?;
            if self.rules[index].replace(node).is_some() {
                return self.wrong(format!("the rule `{name}` is defined twice"));
            }
            self.space(false);
            if !(self.rest.is_empty() || self.takes("\r\n") || self.takes("\n")) {
                return self.wrong(format!("unexpected `{}`", self.peek().unwrap_or(' ')));
            }
            self.line += 1;
        }
    }

    fn choice(&mut self, in_group: bool) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.wrong(format!("groups are nested deeper than {MAX_DEPTH}"));
        }
        let mut parts = vec![self.sequence(in_group)?];
        while self.takes("|") {
            self.space(true);
            parts.push(self.sequence(in_group)?);
        }
        self.depth -= 1;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Choice(parts) })
    }

    fn sequence(&mut self, in_group: bool) -> Result<Node, String> {
        let mut parts = Vec::new();
        while let Some(c) = self.peek() {
            let node = match c {
                '"' => Node::Literal(self.literal()?),
                '[' => Node::Class(self.class()?),
                '.' => {
                    self.next();
                    Node::Class("(?s:.)".into())
                }
                '(' => {
                    self.next();
                    self.space(true);
                    let inner = self.choice(true)?;
                    if !self.takes(")") {
                        return self.wrong("expected `)`");
                    }
                    inner
                }
                '<' => Node::Token(self.token()?),
                '!' => return self.wrong("`!` before a token is not supported"),
                c if c.is_ascii_alphanumeric() => {
                    let name = self.name().unwrap_or_default();
                    Node::Rule(self.index(name))
                }
                _ => break,
            };
            self.space(in_group);
            let node = self.repeated(node)?;
            parts.push(node);
            self.space(in_group);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Sequence(parts) })
    }

    fn repeated(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
            let (min, max) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.braces()?,
                _ => return Ok(node),
            };
            self.next();
            if min.max(max.unwrap_or(0)) > MAX_REPEAT || max.is_some_and(|max| max < min) {
                return self.wrong(format!("expected a range of repetitions within 0 to {MAX_REPEAT}"));
            }
            node = Node::Repeat(Box::new(node), min, max);
        }
    }

    /// `{m}`, `{m,}` or `{m,n}` up to its closing brace.
    fn braces(&mut self) -> Result<(usize, Option<usize>), String> {
        self.next();
        let end = self.rest.find('}').filter(|end| *end < 32);
        let Some(end) = end else { return self.wrong("expected `}`") };
        let (inner, rest) = self.rest.split_at(end);
        self.rest = rest;
        let number = |text: &str| text.trim().parse::<usize>();
        let parsed = match inner.split_once(',') {
            None => number(inner).map(|n| (n, Some(n))),
            Some((min, "")) => number(min).map(|min| (min, None)),
            Some(("", max)) => number(max).map(|max| (0, Some(max))),
            Some((min, max)) => number(min).and_then(|min| Ok((min, Some(number(max)?)))),
        };
        parsed.or_else(|_| self.wrong(format!("`{{{inner}}}` is no range of repetitions")))
    }

    fn token(&mut self) -> Result<String, String> {
        let end = self.rest.find('>').filter(|end| *end < 256);
        let Some(end) = end else { return self.wrong("expected `>`") };
        let (name, rest) = self.rest.split_at(end + 1);
        if name[1..end].contains(|c: char| c.is_whitespace() || c == '<') {
            return self.wrong(format!("`{name}` is no name of a token"));
        }
        self.rest = rest;
        Ok(name.to_owned())
    }

    fn literal(&mut self) -> Result<String, String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return self.wrong("expected `\"`"),
                Some('"') => {
                    self.next();
                    return Ok(text);
                }
                Some(_) => text.push(self.character()?),
            }
        }
    }

    /// `[a-z]` or `[^a-z]` as a regular expression.
    fn class(&mut self) -> Result<String, String> {
        self.next();
        let mut out = String::from(if self.takes("^") { "[^" } else { "[" });
        let is_empty = out.len();
        loop {
            match self.peek() {
                None | Some('\n') => return self.wrong("expected `]`"),
                Some(']') if out.len() > is_empty => {
                    self.next();
                    out.push(']');
                    return Ok(out);
                }
                Some(']') => return self.wrong("a set of characters is empty"),
                Some(_) => {}
            }
            let first = self.character()?;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = if is_range && self.takes("-") { self.character()? } else { first };
            if last < first {
                return self.wrong(format!("`{first}-{last}` is no range of characters"));
            }
            let _ = write!(out, "\\x{{{:x}}}-\\x{{{:x}}}", first as u32, last as u32);
        }
    }

    fn character(&mut self) -> Result<char, String> {
        match self.next() {
            Some('\\') => {}
            Some(c) => return Ok(c),
            None => return self.wrong("a character is missing"),
        }
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            other => return self.wrong(format!("unknown escape `\\{}`", other.unwrap_or(' '))),
        };
        let code = self.rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match code.and_then(char::from_u32) {
            Some(c) => {
                self.rest = &self.rest[digits..];
                Ok(c)
            }
            None => self.wrong(format!("expected {digits} hexadecimal digits of a character")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_rules_and_what_is_regular_lexemes() {
        let rows = [
            ("root ::= \"a\"", "start: T0\nT0: \"a\"\n"),
            ("root ::= [a-c^]{2,} # c\n", "start: T0\nT0: /[\\x{61}-\\x{63}\\x{5e}-\\x{5e}]/{2,}\n"),
            (
                "root ::= \"(\" ws \"[\" root \")\" |\n  word\nword ::= [^x] ws\nws ::= \" \"*",
                "start: r0\nr0: ((L0 r0 \")\") | r2)\nT1: \" \"*\nr2: (L1 T1)\nL0: (\"(\" T1 \"[\")\nL1: /[^\\x{78}-\\x{78}]/\n",
            ),
            ("root ::= <|a|> . \"\\x41\\u00e9\\n\"", "start: r0\nr0: (<|a|> L0)\nL0: (/(?s:.)/ \"A\u{e9}\\n\")\n"),
        ];
        for (source, want) in rows {
            assert_eq!(to_lark(source).as_deref(), Ok(want), "{source}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let deep = format!("root ::= {}", "(".repeat(100));
        let rows = [
            ("", "it has no rule `root`"),
            ("root ::= a", "the rule `a` is used and not defined"),
            ("root = a", "line 1: expected `::=` after `root`"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 2: the rule `root` is defined twice"),
            ("root ::= \"a", "line 1: expected `\"`"),
            ("root ::= [b-a]", "line 1: `b-a` is no range of characters"),
            ("root ::= \"a\"{3,2}", "line 1: expected a range of repetitions within 0 to 2000"),
            ("root ::= \"a\"{x}", "line 1: `{x}` is no range of repetitions"),
            ("root ::= (\"a\"", "line 1: expected `)`"),
            ("root ::= \"a\" )", "line 1: unexpected `)`"),
            ("root ::= \"\\q\"", "line 1: unknown escape `\\q`"),
            ("root ::= \"\\ud800\"", "line 1: expected 4 hexadecimal digits of a character"),
            (&deep, "line 1: groups are nested deeper than 64"),
        ];
        for (source, want) in rows {
            assert_eq!(to_lark(source), Err(want.to_owned()), "{source}");
        }
    }
}
