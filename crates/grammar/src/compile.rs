//! Grammars of a model, compiled beside the engine and kept for those who ask again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use mlxr_engine::TokenId;
use mlxr_engine::constraint::{Constraint, Grammar};
use mlxr_text::token::Tokenizer;

use crate::limits::{GrammarError, Limits};
use crate::reply::{Reply, Written};
use crate::running::Running;
use crate::vocabulary;

/// Compilers recurse over what they compile, whose depth is limited, but not to what a usual stack holds.
const STACK_BYTES: usize = 256 << 20;

/// The grammars of one model.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: ParserFactory,
    ends: Arc<[TokenId]>,
    limits: Limits,
    n_compiling: AtomicUsize,
    /// The last ones, the latest first, by what they were made of, and why there is none of it.
    kept: Mutex<VecDeque<(String, Made)>>,
}

/// What came of compiling.
type Made = Result<Arc<Compiled>, GrammarError>;

/// A grammar that sequences may keep to.
pub struct Compiled {
    matcher: Mutex<Matcher>,
    ends: Arc<[TokenId]>,
}

impl Grammar for Compiled {
    fn begin(&self) -> Box<dyn Constraint> {
        // A copy with lexer states of its own: what one sequence makes of them is freed with it.
        Box::new(Running::new(lock(&self.matcher).deep_clone(), self.ends.clone()))
    }
}

impl Grammars {
    /// For a model whose logits have `n_vocab` entries. Takes some 100 ms where vocabularies are large.
    ///
    /// # Errors
    /// If the model has no end token.
    pub fn new(tokenizer: &Arc<Tokenizer>, n_vocab: usize, limits: Limits) -> Result<Arc<Grammars>, GrammarError> {
        let environment = vocabulary::environment(tokenizer, n_vocab).ok_or(GrammarError::NoEnd)?;
        let ends = environment.tok_trie().eos_tokens().into();
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError::Invalid { what: "the vocabulary", message: plain(&error.to_string()) })?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // Some kilobytes each.
            max_lexer_states: 50_000,
            max_grammar_size: 200_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Arc::new(Grammars {
            tokenizer: tokenizer.clone(),
            factory,
            ends,
            limits,
            n_compiling: AtomicUsize::new(0),
            kept: Mutex::new(VecDeque::new()),
        }))
    }

    /// The grammar of a reply. Blocks while it is compiled.
    ///
    /// # Errors
    /// If it is over a limit, cannot be compiled, or allows nothing.
    pub fn compile(self: &Arc<Self>, reply: &Reply) -> Result<Arc<Compiled>, GrammarError> {
        let written = reply.write(&self.tokenizer, &self.limits)?;
        let key = serde_json::to_string(&(&written.grammar, &written.fields))
            .map_err(|error| GrammarError::Invalid { what: "the grammar", message: error.to_string() })?;
        if let Some(known) = self.find(&key) {
            return known;
        }
        let compiling = Compiling::begin(self)?;
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            let made = compiling.0.make(written);
            drop(compiling);
            // Whoever asked may have given up.
            let _ = sender.send(made);
        };
        let spawned = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES).spawn(work);
        spawned.map_err(|error| GrammarError::Invalid { what: "the grammar", message: error.to_string() })?;
        let limit_ms = self.limits.compile_ms;
        let made = match receiver.recv_timeout(Duration::from_millis(limit_ms)) {
            Ok(made) => made.map(Arc::new),
            Err(RecvTimeoutError::Timeout) => return Err(GrammarError::Slow { limit_ms }),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(GrammarError::Invalid { what: "the grammar", message: "its compiler failed".into() });
            }
        };
        let mut kept = lock(&self.kept);
        kept.push_front((key, made.clone()));
        kept.truncate(self.limits.n_kept);
        made
    }

    fn find(&self, key: &str) -> Option<Made> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|(known, _)| known == key)?;
        let entry = kept.remove(at)?;
        let found = entry.1.clone();
        kept.push_front(entry);
        Some(found)
    }

    fn make(&self, written: Written) -> Result<Compiled, GrammarError> {
        let parts = written.grammar.grammars[1..].to_vec();
        let matcher = match self.matcher(written.grammar) {
            Ok(matcher) => matcher,
            Err(message) => return Err(self.blame(&parts, &written.fields, message)),
        };
        Ok(Compiled { matcher: Mutex::new(matcher), ends: self.ends.clone() })
    }

    /// A matcher that has made its first mask, which shows that it allows something and warms what it caches.
    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.compute_mask_or_eos() {
            Ok(_) => Ok(matcher),
            Err(error) => Err(plain(&error.to_string())),
        }
    }

    /// The error of the first part that does not compile by itself.
    fn blame(&self, parts: &[GrammarWithLexer], fields: &[String], message: String) -> GrammarError {
        for (part, field) in parts.iter().zip(fields) {
            if let Err(own) = self.matcher(TopLevelGrammar::from_grammar(part.clone())) {
                let what = if part.json_schema.is_some() { "the JSON schema" } else { "the grammar" };
                let message = if field.is_empty() { own } else { format!("`{field}`: {own}") };
                return GrammarError::Invalid { what, message };
            }
        }
        GrammarError::Invalid { what: "the grammar", message }
    }
}

/// A place among the grammars that are compiled at once.
struct Compiling(Arc<Grammars>);

impl Compiling {
    fn begin(grammars: &Arc<Grammars>) -> Result<Compiling, GrammarError> {
        let limit = grammars.limits.n_compiling;
        let take = |n: usize| (n < limit).then_some(n + 1);
        match grammars.n_compiling.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => Ok(Compiling(grammars.clone())),
            Err(_) => Err(GrammarError::Busy { limit }),
        }
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        self.0.n_compiling.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The first part of llguidance's message, without the state that it dumps.
pub(crate) fn plain(message: &str) -> String {
    let end = ["<non-verbose/>", "<backtrace>", "<state>"].iter().filter_map(|mark| message.find(mark)).min();
    message[..end.unwrap_or(message.len())].trim().to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use mlxr_text::token::{GgufVocab, Source as Tokens, SpecialIds};

    use super::*;
    use crate::limits::Source;

    #[test]
    fn what_cannot_be_compiled_is_not_tried_again_but_what_others_kept_from_it_is() {
        let tokenizer = Tokenizer::from_source(Tokens::Gguf(GgufVocab {
            model: "gpt2".into(),
            pre: Some("gpt-2".into()),
            types: vec![1, 1, 3],
            merges: vec!["a b".into()],
            tokens: ["a", "b", "<|im_end|>"].map(|token| token.as_bytes().to_vec()).to_vec(),
            ids: SpecialIds { eos: Some(2), ..SpecialIds::default() },
            ..GgufVocab::default()
        }));
        let tokenizer = Arc::new(tokenizer.expect("a tokenizer of three tokens"));
        let limits = Limits::default();
        let grammars = Grammars::new(&tokenizer, 3, limits).expect("it has an end token");
        let compile = |lark: &str| grammars.compile(&Reply::of(Source::Lark(lark.into()))).map(|_| ());
        let (bad, good) = ("start: missing", "start: /a+/");
        let failed = compile(bad);
        assert!(matches!(failed, Err(GrammarError::Invalid { .. })), "{failed:?}");
        // Whatever would be compiled now finds no place.
        grammars.n_compiling.store(limits.n_compiling, Ordering::Release);
        let busy = Err(GrammarError::Busy { limit: limits.n_compiling });
        assert_eq!((compile(bad), compile(good)), (failed, busy));
        grammars.n_compiling.store(0, Ordering::Release);
        assert_eq!(compile(good), Ok(()));
    }
}
