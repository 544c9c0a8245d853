//! `mlx-run tokenize`.

use std::io::{self, Read, Write};

use mlxr_text::token::{Encode, Tokenizer};

use super::print_table;
use crate::CliError;
use crate::args::TokenizeArgs;
use crate::{load, vocab};

/// Prints the ids of each text.
///
/// # Errors
/// If the text cannot be read or encoded.
pub fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    let (_, checkpoint) = load::open(&args.model, &args.folder)?;
    let tokenizer = vocab::tokenizer(&checkpoint)?;
    let text = text(args)?;
    let how = Encode { add_special: args.add_special, parse_special: args.parse_special };
    let separator = args.separator.as_deref().map(unescape);
    for text in cut(&text, separator.as_deref()) {
        let ids = tokenizer.encode(text, how)?;
        if args.json {
            writeln!(io::stdout().lock(), "{}", serde_json::to_string(&ids).expect("numbers are JSON"))?;
        } else {
            print_table(&rows(&tokenizer, &ids))?;
        }
    }
    Ok(())
}

fn text(args: &TokenizeArgs) -> Result<String, CliError> {
    let bytes = match (&args.file, &args.text) {
        (Some(path), _) => std::fs::read(path).map_err(CliError::file(path))?,
        (None, Some(text)) => return Ok(text.clone()),
        (None, None) => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map_err(CliError::file("standard input"))?;
            bytes
        }
    };
    String::from_utf8(bytes).map_err(|error| CliError::Usage(format!("the text is not UTF-8: {error}")))
}

/// The texts between separators. One at the very end adds no text.
fn cut<'a>(text: &'a str, separator: Option<&str>) -> Vec<&'a str> {
    let Some(separator) = separator.filter(|separator| !separator.is_empty()) else { return vec![text] };
    let mut texts: Vec<&str> = text.split(separator).collect();
    if texts.len() > 1 && texts.last() == Some(&"") {
        texts.pop();
    }
    texts
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, chars.clone().next()) {
            ('\\', Some(next @ ('n' | 't' | 'r' | '\\'))) => {
                chars.next();
                out.push(match next {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                });
            }
            _ => out.push(char),
        }
    }
    out
}

fn rows(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Vec<String>> {
    let name = |id: &u32| tokenizer.token_name(*id).map(|name| format!("{:?}", String::from_utf8_lossy(name)));
    ids.iter().map(|id| vec![id.to_string(), name(id).unwrap_or_default()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_separators() {
        assert_eq!(cut("a--b--", Some("--")), ["a", "b"]);
        assert_eq!(cut("a----b", Some("--")), ["a", "", "b"]);
        assert_eq!(cut("a--b", None), ["a--b"]);
        assert_eq!(cut("", Some("--")), [""]);
        assert_eq!(unescape(r"\n__x__\n\\n\q"), "\n__x__\n\\n\\q");
    }
}
