//! The draft of a sequence: what its grammar forces, else what followed the last time or what a model will say, whichever
//! promises more, else guesses.

use crate::accept::Others;
use crate::client::Client;
use crate::draft::DraftModel;
use crate::length::{Costs, Length};
use crate::lookahead::N_TOK;
use crate::speculate::{MAX_LOOKUP, MAX_MODEL, Source};
use crate::times::StepTimes;
use crate::{SeqId, TokenId};

/// What there is to draft with.
pub(crate) struct Means<'a> {
    /// The sequence.
    pub id: SeqId,
    /// A model that drafts.
    pub model: Option<&'a DraftModel>,
    /// What drafts for other sequences showed.
    pub others: &'a Others,
    /// Steps that only generate.
    pub times: &'a StepTimes,
    /// Whether after a rejected token a step goes to computing those before it again.
    pub rewinds: bool,
    /// Sequences that generate.
    pub n_decode: usize,
    /// Tokens of the step so far.
    pub n_tok: usize,
    /// Most tokens of the draft.
    pub room: usize,
    /// Seconds of a prompt's token.
    pub read_seconds: f64,
    /// Whether it may be a tree.
    pub trees: bool,
}

/// Overwrites `out` with a draft for a sequence of these `tokens`, and `parents` where it is a tree; where a model is to
/// draft, with as many tokens of any kind. The client notes where the draft comes from.
pub(crate) fn propose(
    client: &mut Client,
    tokens: &[TokenId],
    means: &Means<'_>,
    (out, parents): (&mut Vec<TokenId>, &mut Vec<i32>),
) {
    let Means { times, rewinds, n_decode, n_tok, room, .. } = *means;
    out.clear();
    parents.clear();
    client.source = None;
    if room == 0 {
        return;
    }
    if let Some(bound) = &mut client.bound {
        bound.forced(room, out);
        if !out.is_empty() {
            client.source = Some(Source::Forced);
            return;
        }
    }
    let costs = |each| Costs { times, n_decode, n_tok, each, rewinds };
    let agree = client.speculate(tokens.len(), means.others, (costs(0.0).step(), means.read_seconds)).lookup.find(
        tokens,
        MAX_LOOKUP.min(room),
        out,
    );
    if let Some(bound) = &mut client.bound {
        bound.trim(out);
    }
    let (kind, trees) = (client.kind(), means.trees && client.bound.is_none());
    let speculator = client.speculator().expect("it was just begun");
    let own = costs(0.0);
    speculator.step(&own);
    let looked_up = speculator.looked_up(agree, &own, out.len());
    let modelled = means.model.map(|model| {
        let room = room.min(MAX_MODEL).min(model.room(tokens.len()));
        let pair = model.pair(means.id, tokens.len(), kind);
        (speculator.modelled(&pair, &costs(model.pass_seconds()), room), room)
    });
    let shadow = out.first().map(|token| (*token, agree));
    let is_better = |length: &Length| length.n_tok > 0 && (looked_up.n_tok == 0 || length.rate > looked_up.rate);
    if let Some((length, room)) = modelled.filter(|(length, ..)| is_better(length)) {
        let n = speculator.begin_model(&length, room);
        client.begin_draft();
        out.clear();
        out.resize(n, 0);
        (client.shadow, client.source) = (shadow, Some(Source::Model));
    } else if trees
        && looked_up.n_tok == 0
        && room >= N_TOK
        && let Some(lookahead) = speculator.guessed(tokens, &own)
    {
        lookahead.grow(tokens[tokens.len() - 1], out, parents);
        (client.shadow, client.source) = (shadow, Some(Source::Lookahead));
    } else {
        speculator.begin_lookup(&looked_up);
        let n_other = if trees { speculator.branched(agree, &looked_up, room - looked_up.n_tok) } else { 0 };
        let other = speculator.lookup.other(tokens, n_other);
        out.truncate(looked_up.n_tok);
        if !other.is_empty() {
            branch(other, out, parents);
        }
        client.source = (looked_up.n_tok > 0).then_some(Source::Lookup(agree));
        client.shadow = shadow.filter(|_| looked_up.n_tok == 0);
    }
}

/// Adds another continuation to a draft.
fn branch(other: &[TokenId], out: &mut Vec<TokenId>, parents: &mut Vec<i32>) {
    let n_line = out.len() as i32;
    parents.extend(0..n_line);
    parents.extend((0..other.len() as i32).map(|i| if i == 0 { 0 } else { n_line + i }));
    out.extend_from_slice(other);
}
