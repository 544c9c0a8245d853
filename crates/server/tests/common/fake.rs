//! A runner whose next token is a function of the tokens in its pages.
//!
//! A prompt that holds `@[text]@` is answered by `text`, byte by byte, and the end token. Any other is answered by
//! endless small letters drawn from its last tokens.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar};

use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::sampler::Params;
use mlxr_engine::{Batch, Outputs, PageId, RunError, Runner, RunnerInfo, TokenId, Want};
use mlxr_server::{LoadError, LoadedModel, ModelCard, ModelDetails, ModelLoader, Need};
use mlxr_text::chat::{ChatTemplate, Specials};
use mlxr_text::token::{GgufVocab, Source, SpecialIds, Tokenizer};

pub const N_VOCAB: usize = 264;
const EOS: TokenId = 257;
pub const N_CTX: usize = 2048;
/// What each model takes.
pub const WEIGHTS_BYTES: u64 = 300;
pub const ARENA_BYTES: u64 = 100;

/// Tokens above the 256 bytes. The last is two zero bytes, for the one merge that a vocabulary must have.
const CONTROLS: [&str; 8] = ["<|im_start|>", "<|im_end|>", "<s>", "<pad>", "<fp>", "<fs>", "<fm>", "ĀĀ"];

/// ChatML with tools and thinking.
pub const TEMPLATE: &str = "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}\
{{ messages[0].content }}\n{% endif %}# Tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}\
Use <tool_call></tool_call>.<|im_end|>\n{% endif %}{% for message in messages %}{% if message.role == 'tool' %}\
<|im_start|>user\n<tool_response>{{ message.content }}</tool_response><|im_end|>\n\
{% elif not (tools and loop.first and message.role == 'system') %}<|im_start|>{{ message.role }}\n{{ message.content }}\
{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n\
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\
{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}";

/// GPT-2's letters for bytes: printable ones stand for themselves, the others for letters from U+0100 on.
fn byte_letters() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256)
        .map(|b| {
            let letter = if printable(b) { b } else { next };
            next += u32::from(!printable(b));
            char::from_u32(letter).expect("all are letters")
        })
        .collect()
}

/// A tokenizer whose tokens are bytes.
pub fn tokenizer() -> Tokenizer {
    let bytes = byte_letters().into_iter().map(|letter| letter.to_string().into_bytes());
    let controls = CONTROLS.iter().map(|name| name.as_bytes().to_vec());
    Tokenizer::from_source(Source::Gguf(GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: bytes.chain(controls).collect(),
        types: (0..N_VOCAB).map(|id| if id < 256 || id == 263 { 1 } else { 3 }).collect(),
        merges: vec!["Ā Ā".into()],
        ids: SpecialIds {
            bos: Some(258),
            eos: Some(EOS),
            pad: Some(259),
            fim_pre: Some(260),
            fim_suf: Some(261),
            fim_mid: Some(262),
            ..SpecialIds::default()
        },
        add_bos: Some(false),
        ..GgufVocab::default()
    }))
    .expect("a tokenizer of bytes")
}

/// The next token after `history`, and the logits that say so.
fn logits(history: &[TokenId], out: &mut Vec<f32>) {
    let start = out.len();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for token in &history[history.len().saturating_sub(12)..] {
        hash = (hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3);
    }
    out.extend((0..N_VOCAB as u64).map(|id| {
        let mixed = (hash ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let noise = mixed as f32 / (1_u64 << 24) as f32;
        if (97..123).contains(&id) { 4.0 + 2.0 * noise } else { noise - 8.0 }
    }));
    if let Some(token) = scripted(history) {
        out[start + token as usize] = 30.0;
    }
}

/// What the script in `history` says next.
fn scripted(history: &[TokenId]) -> Option<TokenId> {
    let bytes: Vec<u8> = history.iter().map(|&id| u8::try_from(id).unwrap_or(0)).collect();
    let find = |needle: &[u8], from: usize| (from..bytes.len()).find(|&at| bytes[at..].starts_with(needle));
    let open = (0..bytes.len()).rev().find(|&at| bytes[at..].starts_with(b"@["))? + 2;
    let close = find(b"]@", open)?;
    let mut begin = find(b"\0assistant\n", close).map_or(close + 2, |at| at + 11);
    let no_thought = b"<think>\n\n</think>\n\n";
    if bytes[begin..].starts_with(no_thought) {
        begin += no_thought.len();
    }
    let said = bytes.len().checked_sub(begin)?;
    Some(bytes[open..close].get(said).map_or(EOS, |&byte| TokenId::from(byte)))
}

/// Lets steps through one by one, or all.
#[derive(Default)]
pub struct Gate {
    /// Steps that may run; `None`: all.
    allowed: Mutex<Option<usize>>,
    changed: Condvar,
    pub steps: AtomicUsize,
    /// Those that wait to be let through.
    pub waiting: AtomicUsize,
}

impl Gate {
    pub fn close(&self) {
        *self.allowed.lock().expect("a gate") = Some(0);
    }

    pub fn allow(&self, n: usize) {
        if let Some(allowed) = self.allowed.lock().expect("a gate").as_mut() {
            *allowed += n;
        }
        self.changed.notify_all();
    }

    pub fn open(&self) {
        *self.allowed.lock().expect("a gate") = None;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut allowed = self.allowed.lock().expect("a gate");
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while *allowed == Some(0) {
            allowed = self.changed.wait(allowed).expect("a gate");
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if let Some(n) = allowed.as_mut() {
            *n -= 1;
        }
        self.steps.fetch_add(1, Ordering::SeqCst);
    }
}

/// The runner.
pub struct Fake {
    pages: Vec<[TokenId; PAGE_TOKENS]>,
    data: Vec<f32>,
    gate: Arc<Gate>,
    /// Fails at a token of this id.
    poison: Option<TokenId>,
}

impl Fake {
    pub fn new(gate: Arc<Gate>) -> Fake {
        Fake { pages: vec![[0; PAGE_TOKENS]; 1024], data: Vec::new(), gate, poison: Some(263) }
    }
}

impl Runner for Fake {
    fn info(&self) -> RunnerInfo {
        RunnerInfo {
            n_vocab: N_VOCAB,
            d_model: 4,
            n_ctx: N_CTX,
            n_page: self.pages.len(),
            n_slot: usize::MAX,
            page_bytes: PAGE_TOKENS * 4,
            recurrent: false,
            n_saved: 0,
            window: None,
        }
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunError> {
        self.gate.pass();
        self.data.clear();
        for row in &batch.rows {
            let pages = &batch.pages[row.pages.0..row.pages.1];
            let tokens = &batch.tokens[row.tokens.0..row.tokens.1];
            if tokens.iter().any(|token| Some(*token) == self.poison) {
                return Err(RunError::Backend("the fake model met its poison".into()));
            }
            for (i, token) in tokens.iter().enumerate() {
                let at = row.start + i;
                self.pages[pages[at / PAGE_TOKENS].0 as usize][at % PAGE_TOKENS] = *token;
            }
            let n = row.start + tokens.len();
            let history: Vec<TokenId> =
                (0..n).map(|at| self.pages[pages[at / PAGE_TOKENS].0 as usize][at % PAGE_TOKENS]).collect();
            match row.want {
                Want::Nothing => {}
                Want::Last => logits(&history, &mut self.data),
                Want::All => (row.start..n).for_each(|at| logits(&history[..=at], &mut self.data)),
                Want::Hidden => self.data.extend(tokens.iter().flat_map(|&token| [token as f32; 4])),
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Outputs<'_>, RunError> {
        Ok(Outputs { data: &self.data, n_vocab: N_VOCAB, d_model: 4, maxima: &[] })
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.pages[to.0 as usize] = self.pages[from.0 as usize];
    }

    fn copy_token(&mut self, from: (PageId, usize), to: (PageId, usize)) {
        self.pages[to.0.0 as usize][to.1] = self.pages[from.0.0 as usize][from.1];
    }

    fn export_page(&self, page: PageId, out: &mut Vec<u8>) {
        out.extend(self.pages[page.0 as usize].iter().flat_map(|token| token.to_le_bytes()));
    }

    fn import_page(&mut self, page: PageId, bytes: &[u8]) -> Result<(), RunError> {
        for (token, bytes) in self.pages[page.0 as usize].iter_mut().zip(bytes.as_chunks::<4>().0) {
            *token = TokenId::from_le_bytes(*bytes);
        }
        Ok(())
    }
}

/// A loader of the models `fake`, `bare` (without template) and `broken` (which does not load).
#[derive(Default)]
pub struct Loader {
    pub gate: Arc<Gate>,
    /// Lets loads through.
    pub loads: Gate,
    pub n_load: AtomicUsize,
    /// How often it was told that memory was freed.
    pub n_freed: AtomicUsize,
}

fn card(name: &str) -> ModelCard {
    ModelCard {
        name: name.into(),
        size_bytes: 1234,
        modified_s: 1_790_000_000,
        digest: "00ff".into(),
        format: "gguf".into(),
        family: "fake".into(),
        parameter_size: "1K".into(),
        quantization: "F32".into(),
        context_length: N_CTX,
        embedding_length: 4,
    }
}

impl ModelLoader for Loader {
    fn freed(&self) {
        self.n_freed.fetch_add(1, Ordering::SeqCst);
    }

    fn list(&self) -> Result<Vec<ModelCard>, LoadError> {
        Ok(["fake", "bare", "broken"].map(card).to_vec())
    }

    fn show(&self, name: &str) -> Result<ModelDetails, LoadError> {
        if name != "fake" {
            return Err(LoadError::NotFound { name: name.into() });
        }
        let info = serde_json::json!({"general.architecture": "fake", "fake.context_length": N_CTX});
        Ok(ModelDetails {
            card: card(name),
            template: "{{ messages }}".into(),
            parameters: "temperature 0".into(),
            license: "none".into(),
            info: info.as_object().cloned().unwrap_or_default(),
            capabilities: vec!["completion".into(), "tools".into()],
            ..ModelDetails::default()
        })
    }

    fn need(&self, name: &str) -> Result<Need, LoadError> {
        match name {
            "fake" | "bare" | "broken" => Ok(Need { weights_bytes: WEIGHTS_BYTES, arena_bytes: Some(ARENA_BYTES) }),
            _ => Err(LoadError::NotFound { name: name.into() }),
        }
    }

    fn load(&self, name: &str, _: u64) -> Result<LoadedModel, LoadError> {
        self.loads.pass();
        let template = match name {
            "fake" => Some(ChatTemplate::new(TEMPLATE, Specials::default()).expect("a template")),
            "bare" => None,
            "broken" => return Err(LoadError::Failed { name: name.into(), message: "tensor `x` is missing".into() }),
            _ => return Err(LoadError::NotFound { name: name.into() }),
        };
        self.n_load.fetch_add(1, Ordering::SeqCst);
        Ok(LoadedModel {
            runner: Box::new(Fake::new(self.gate.clone())),
            draft: None,
            disk: None,
            tokenizer: Arc::new(tokenizer()),
            template,
            defaults: Params::greedy(),
            card: card(name),
            limits: None,
            backend: "fake",
            memory_bytes: WEIGHTS_BYTES + ARENA_BYTES,
            gpu_bytes: WEIGHTS_BYTES,
        })
    }
}
