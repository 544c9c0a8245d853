//! Spaces before punctuation and contractions, which word-piece models cannot but put there.
//!
//! Source: `clean_up_tokenization` of Hugging Face's `tokenization_utils_base.py`, in the three passes
//! of llama.cpp's `llama_vocab::impl::detokenize`.

/// Takes away the space in ` ?`, ` !`, ` .`, ` ,`, both in ` ' `, and the one in ` 's`, ` 'm`, ` 're`, ` 've`.
pub(super) fn clean_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '?' | '!' | '.' | ',') && out.len() > 1 && out.ends_with(' ') {
            out.pop();
        }
        out.push(c);
    }
    let mut joined = String::with_capacity(out.len());
    let mut rest = out.as_str();
    while let Some(at) = rest.find(" ' ") {
        joined.push_str(&rest[..at]);
        joined.push('\'');
        rest = &rest[at + 3..];
    }
    joined.push_str(rest);
    for ending in ["'s", "'m", "'re", "'ve"] {
        joined = joined.replace(&format!(" {ending}"), ending);
    }
    joined
}

#[cfg(test)]
mod tests {
    #[test]
    fn spaces_go_before_punctuation_and_contractions() {
        let check = |text: &str, want: &str| assert_eq!(super::clean_spaces(text), want, "{text:?}");
        check("hello , world !", "hello, world!");
        check("it 's we 're don 't ' x", "it's we're don 't'x");
        check("", "");
        check(" . a", " . a");
    }
}
