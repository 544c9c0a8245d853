//! Which token plays which role where the file does not say: found by name.
//!
//! The names are those that models use; the lists follow llama.cpp's `llama-vocab.cpp`.

use super::vocab::{Kind, SpecialIds, Vocab};

/// Reads one role.
type Get = fn(&mut SpecialIds) -> &mut Option<u32>;

/// A role and the names that play it, in order of preference.
const BY_NAME: &[(Get, &[&str])] = &[
    (
        |s| &mut s.eot,
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    ),
    (|s| &mut s.eom, &["<|eom_id|>"]),
    (
        |s| &mut s.fim_pre,
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
            "[PREFIX]",
        ],
    ),
    (
        |s| &mut s.fim_suf,
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
            "[SUFFIX]",
        ],
    ),
    (
        |s| &mut s.fim_mid,
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
            "[MIDDLE]",
        ],
    ),
    (|s| &mut s.fim_pad, &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (|s| &mut s.fim_rep, &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    (|s| &mut s.fim_sep, &["<|file_sep|>"]),
];

/// Names that end a generation.
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Names that structure a reply (gpt-oss) and must reach whoever parses it.
const SHOWN_NAMES: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Which tokens may get a role by their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// All: GGUF files often say "normal" of their control tokens.
    Any,
    /// Those that the file sets apart from text. A text token may be spelled like a control token:
    /// vocabularies of code have `</s>`.
    Marked,
}

/// Fills the roles that `special` leaves open, returns the ids that end a generation (sorted), and
/// makes tokens with a role control tokens. `known_ends` are ends that the files name.
pub(super) fn assign(vocab: &mut Vocab, special: &mut SpecialIds, known_ends: &[u32], named: Named) -> Vec<u32> {
    let find = |vocab: &Vocab, name: &str| {
        let id = vocab.id(name.as_bytes())?;
        (named == Named::Any || vocab.kind(id) != Some(Kind::Normal)).then_some(id)
    };
    for (role, names) in BY_NAME {
        if role(special).is_none() {
            let id = names.iter().find_map(|name| find(vocab, name));
            *role(special) = id;
            if let Some(id) = id {
                make_control(vocab, id);
            }
        }
    }
    let mut ends: Vec<u32> = [special.fim_pad, special.fim_rep, special.fim_sep].into_iter().flatten().collect();
    for name in END_NAMES {
        if let Some(id) = find(vocab, name) {
            ends.push(id);
            make_control(vocab, id);
        }
    }
    for name in SHOWN_NAMES {
        if let Some(id) = find(vocab, name) {
            vocab.set_kind(id, Kind::UserDefined);
        }
    }
    ends.extend([special.eos, special.eot, special.eom].into_iter().flatten());
    ends.extend(known_ends.iter().copied().filter(|&id| (id as usize) < vocab.len()));
    drop_false_ends(vocab, &mut ends);
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn make_control(vocab: &mut Vocab, id: u32) {
    if vocab.kind(id) != Some(Kind::Unknown) {
        vocab.set_kind(id, Kind::Control);
    }
}

/// In gpt-oss and Solar `<|end|>` only ends a channel; in Gemma 4 and PLaMo `</s>` is text.
fn drop_false_ends(vocab: &mut Vocab, ends: &mut Vec<u32>) {
    let among = |vocab: &Vocab, ends: &[u32], name: &str| vocab.id(name.as_bytes()).filter(|id| ends.contains(id));
    let has = |name: &str| among(vocab, ends, name).is_some();
    let calls = has("<|call|>") || has("<|calls|>");
    let channel_end = calls && (has("<|return|>") || has("<|flush|>"));
    let text_end = has("<|tool_response>") || has("<|plamo:eos|>");
    for (applies, name, kind) in [(channel_end, "<|end|>", Kind::UserDefined), (text_end, "</s>", Kind::Normal)] {
        if let Some(id) = among(vocab, ends, name).filter(|_| applies) {
            ends.retain(|&end| end != id);
            vocab.set_kind(id, kind);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::*;

    fn check(names: &[&str], eos: Option<u32>, want: &[u32]) -> (Vocab, SpecialIds) {
        let mut vocab = Vocab::default();
        for name in names {
            vocab.push(name.as_bytes(), name.as_bytes(), Kind::Normal).unwrap();
        }
        let mut special = SpecialIds { eos, ..SpecialIds::default() };
        assert_eq!(assign(&mut vocab, &mut special, &[], Named::Any), want, "{names:?}");
        (vocab, special)
    }

    #[test]
    fn ends_are_found_by_name_and_by_role() {
        let (vocab, special) = check(&["a", "<|im_end|>", "<|endoftext|>", "<|fim_middle|>"], Some(2), &[1, 2]);
        assert_eq!((special.eot, special.fim_mid), (Some(1), Some(3)));
        assert_eq!(vocab.kind(1), Some(Kind::Control));
        check(&["<|return|>", "<|call|>", "<|end|>", "<|channel|>"], None, &[0, 1]);
        let (vocab, _) = check(&["<eos>", "<|tool_response>", "</s>"], Some(0), &[0, 1]);
        assert_eq!(vocab.kind(2), Some(Kind::Normal));
    }
    #[test]
    fn text_that_looks_like_an_end_is_text_where_files_mark_their_tokens() {
        let mut vocab = Vocab::default();
        for (name, kind) in [("</s>", Kind::Normal), ("<|im_end|>", Kind::Control)] {
            vocab.push(name.as_bytes(), name.as_bytes(), kind).unwrap();
        }
        let ends = |named| assign(&mut vocab.clone(), &mut SpecialIds::default(), &[], named);
        assert_eq!(ends(Named::Marked), [1]);
        assert_eq!(ends(Named::Any), [0, 1]);
    }
}
