//! What is changed in a template's source before minijinja compiles it.
//!
//! | source | becomes | why |
//! |---|---|---|
//! | `{% generation %}` ... `{% endgeneration %}` | `{% with %}` ... `{% endwith %}` | a tag of `transformers`; it renders as its body, in a scope of its own |
//! | `{% set ns.name = value %}` | `{% set ns.name = keep_in_namespace((value)) %}` | a namespace could hold itself, or nest without bound; either ends in a stack overflow |
//!
//! Comments, raw blocks, strings and whitespace control are left as they are. Lines keep their numbers.

use super::limits::KEEP_FUNCTION;

/// Rewrites `source` as the table of this module says.
///
/// # Errors
/// A sentence, if a tuple with an attribute of a namespace is assigned to.
pub(crate) fn rewrite(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len() + source.len() / 16);
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let length = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => tag_length(tag, "}}"),
            Some(b'%') => {
                let length = tag_length(tag, "%}");
                if word(&tag[..length]) == "raw" {
                    let end = raw_length(tag, length);
                    out.push_str(&tag[..end]);
                    rest = &tag[end..];
                    continue;
                }
                rewrite_tag(&tag[..length], &mut out)?;
                rest = &tag[length..];
                continue;
            }
            _ => 1,
        };
        out.push_str(&tag[..length]);
        rest = &tag[length..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Bytes of the tag at the start of `tag`, its `end` mark included; all of `tag` when it is not closed.
fn tag_length(tag: &str, end: &str) -> usize {
    let (bytes, end) = (tag.as_bytes(), end.as_bytes());
    let (mut at, mut depth) = (2, 0_usize);
    while at < bytes.len() {
        if depth == 0 && bytes[at..].starts_with(end) {
            return at + 2;
        }
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = string_end(bytes, at, quote),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    tag.len()
}

/// Index of the quote that closes the string opened at `start`; the last index when none does.
fn string_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len() - 1)
}

/// Bytes from the start of a `{% raw %}` tag, itself `tag_length` long, to the end of its `{% endraw %}`.
fn raw_length(source: &str, tag_length: usize) -> usize {
    let mut at = tag_length;
    while let Some(found) = source[at..].find("{%") {
        let tag = &source[at + found..];
        let length = tag.find("%}").map_or(tag.len(), |end| end + 2);
        at += found + length;
        if word(&tag[..length]) == "endraw" {
            return at;
        }
    }
    source.len()
}

/// The first word of a `{% ... %}` tag.
fn word(tag: &str) -> &str {
    let body = tag[2..].trim_start_matches(['-', '+']).trim_start();
    body.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}

fn rewrite_tag(tag: &str, out: &mut String) -> Result<(), String> {
    match word(tag) {
        "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
        "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
        "set" => return rewrite_set(tag, out),
        _ => out.push_str(tag),
    }
    Ok(())
}

fn rewrite_set(tag: &str, out: &mut String) -> Result<(), String> {
    let plain = |out: &mut String| {
        out.push_str(tag);
        Ok(())
    };
    // A quote before the first `=` belongs to a filter of the block form, which always stores a string.
    let Some(equals) = tag.find(['=', '"', '\'', '|']).filter(|&at| tag.as_bytes()[at] == b'=') else {
        return plain(out);
    };
    let target = &tag[..equals];
    if !target.contains('.') {
        return plain(out);
    }
    if target.contains(',') {
        return Err("a tuple with an attribute of a namespace cannot be assigned to: use one `set` for each".into());
    }
    let Some(body) = tag.strip_suffix("%}") else {
        return plain(out);
    };
    let value_end = body.trim_end_matches(['-', '+']).len();
    if value_end <= equals {
        return plain(out);
    }
    let end = &tag[value_end..];
    out.push_str(&format!("{target}= {KEEP_FUNCTION}(({})) {end}", &tag[equals + 1..value_end]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_rewritten_and_nothing_else() {
        let check = |source: &str, expect: &str| assert_eq!(rewrite(source).as_deref(), Ok(expect));
        check("a {%- generation -%}x{%endgeneration%}", "a {%- with -%}x{%endwith%}");
        check("{% set ns.a = 'x%}' -%}", "{% set ns.a = keep_in_namespace(( 'x%}' )) -%}");
        check("{% set ns.a = {'b': {}} %}", "{% set ns.a = keep_in_namespace(( {'b': {}} )) %}");
        check("{% set a = ns.b %}", "{% set a = ns.b %}");
        check("{% set ns.a | replace('=', 'b') %}x{% endset %}", "{% set ns.a | replace('=', 'b') %}x{% endset %}");
        check("{# {% set ns.a = 1 %} #}", "{# {% set ns.a = 1 %} #}");
        check("{% raw %}{% set ns.a = 1 %}{% endraw %}", "{% raw %}{% set ns.a = 1 %}{% endraw %}");
        check("{{ '{% set ns.a = 1 %}' }}", "{{ '{% set ns.a = 1 %}' }}");
        check("{ {{ {'a': {'b': 1}} }} {% set ns.a", "{ {{ {'a': {'b': 1}} }} {% set ns.a");
        check("{%", "{%");
        check("{% set ns.a =%}", "{% set ns.a = keep_in_namespace(()) %}");
        check("{% set ns.a = '", "{% set ns.a = '");
        assert!(rewrite("{% set ns.a, b = 1, 2 %}").is_err());
    }
}
