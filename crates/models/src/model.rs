//! A loaded model as the engine sees it: batches in, logits out.

mod ahead;

use mlxr_compute::Backend;
use mlxr_compute::op::{KvSpec, KvType, LayerState, Q4_GROUP, SeqRow, Seqs, Ssm, Window};
use mlxr_engine::runner::{
    Batch, MAXIMA_BLOCK, Outputs, PAGE_TOKENS, PageId, RunError, Runner, RunnerInfo, StateId, Want,
};

use self::ahead::Ahead;
use crate::LoadError;
use crate::decoder::{Decoder, Pass};
use crate::hyper::Hyper;
use crate::layer::{Ffn, Mixer};
use crate::open::{Arena, LoadOptions, MAX_PAGES};
use crate::recurrent::Mamba2;

/// Saved recurrent states for each sequence that may run, at most: its prompt's end and last page border, for a few turns.
const MAX_SAVED_PER_SLOT: usize = 8;
/// At least one for a prefix, and one from before a draft.
const LEAST_SAVED_PER_SLOT: usize = 2;
/// The part of an arena's bytes that goes to saved recurrent states.
const SAVED_PART: usize = 8;

/// A model with its weights, its KV arena and its backend.
pub struct Model<B: Backend> {
    backend: B,
    decoder: Decoder<B>,
    hyper: Hyper,
    kv: B::Kv,
    /// Slots of sequences; those of saved states come after them.
    n_slot: usize,
    info: RunnerInfo,
    scratch: Scratch,
    /// Of the last step, where it computed nothing else.
    logits: Option<B::Tensor>,
    /// How many of the largest of each are needed.
    n_best: Option<usize>,
    /// The next step.
    ahead: Option<Ahead<B::Tensor>>,
    /// Layers whose inputs are the hidden states that others read; none: those after the last.
    taps: Vec<usize>,
}

/// Memory that is reused from step to step.
#[derive(Default)]
struct Scratch {
    rows: Vec<SeqRow>,
    pages: Vec<u32>,
    positions: Vec<i32>,
    parents: Vec<i32>,
    wanted: Vec<usize>,
    output: Vec<f32>,
    maxima: Vec<f32>,
    hidden: Vec<f32>,
    /// Logits of all tokens, of a model that speaks only some.
    spread: Vec<f32>,
}

impl<B: Backend> Model<B> {
    /// A model from its parts.
    ///
    /// # Errors
    /// If the KV arena cannot be had.
    pub fn new(
        mut backend: B,
        decoder: Decoder<B>,
        hyper: Hyper,
        options: &LoadOptions,
    ) -> Result<Model<B>, LoadError> {
        let layers = states(&decoder, &hyper);
        let recurrent = layers.iter().any(|l| matches!(l, LayerState::Recurrent { .. }));
        let n_slot = if recurrent { options.n_slot } else { 0 };
        let n_saved = match options.arena {
            Arena::Bytes(n) if recurrent => {
                let n = n / SAVED_PART / state_bytes(&layers);
                n.clamp(LEAST_SAVED_PER_SLOT * n_slot, MAX_SAVED_PER_SLOT * n_slot)
            }
            _ => LEAST_SAVED_PER_SLOT * n_slot,
        };
        let dtype = options.kv_type;
        let mut spec = KvSpec { layers, page_tokens: PAGE_TOKENS, n_page: 1, n_slot: n_slot + n_saved, dtype };
        let page_bytes = page_bytes(&spec);
        spec.n_page = match options.arena {
            Arena::Tokens(n) => n.div_ceil(PAGE_TOKENS).max(1),
            Arena::Bytes(n) => n.checked_div(page_bytes).unwrap_or(MAX_PAGES).clamp(1, MAX_PAGES),
        };
        let kv = backend.kv(&spec)?;
        let info = RunnerInfo {
            n_vocab: decoder.n_vocab,
            d_model: hyper.d_model,
            n_ctx: hyper.n_ctx,
            n_page: spec.n_page,
            n_slot: if recurrent { n_slot } else { usize::MAX },
            page_bytes,
            recurrent,
            n_saved,
            window: widest(&hyper.window),
        };
        let (scratch, taps) = (Scratch::default(), Vec::new());
        Ok(Model { backend, decoder, hyper, kv, n_slot, info, scratch, logits: None, n_best: None, ahead: None, taps })
    }

    fn check(&self, batch: &Batch) -> Result<(), RunError> {
        let n_vocab = self.info.n_vocab;
        let d_states = self.decoder.join.as_ref().map_or([0; 2], |join| join.d_states(self.info.d_model));
        let (n_tok, found) = (batch.tokens.len(), batch.features.len());
        if d_states.iter().all(|d_state| n_tok * d_state != found) {
            let [large, own] = d_states.map(|d_state| n_tok * d_state);
            return Err(RunError::Backend(format!(
                "{found} numbers of hidden states came with the tokens, expected {large} of the large model or {own} of its own"
            )));
        }
        if let Some(&token) = batch.tokens.iter().find(|&&t| t as usize >= n_vocab) {
            return Err(RunError::Token { token, n_vocab });
        }
        for row in &batch.rows {
            let n_token = row.start + row.tokens.1.saturating_sub(row.tokens.0);
            let n_page = row.pages.1.saturating_sub(row.pages.0);
            let pages = batch.pages.get(row.pages.0..row.pages.1).unwrap_or_default();
            let outside = pages.iter().any(|p| p.0 as usize >= self.info.n_page) || row.slot >= self.info.n_slot;
            let pageless = self.info.page_bytes == 0;
            if outside || row.tokens.1 > batch.tokens.len() || (!pageless && n_page * PAGE_TOKENS < n_token) {
                return Err(RunError::Pages { n_token, n_page });
            }
        }
        Ok(())
    }

    fn plan(&mut self, batch: &Batch) {
        let s = &mut self.scratch;
        s.rows.clear();
        s.positions.clear();
        s.parents.clear();
        s.wanted.clear();
        s.pages.clear();
        s.pages.extend(batch.pages.iter().map(|p| p.0));
        let trees = batch.rows.iter().any(|r| r.parents.is_some());
        for row in &batch.rows {
            let (first, n_tok) = (s.positions.len(), row.tokens.1 - row.tokens.0);
            let parents = row.parents.map(|(from, to)| &batch.parents[from..to]);
            for i in 0..n_tok {
                // In a tree a token stands one position after its parent.
                let position = match parents {
                    Some(parents) if parents[i] >= 0 => s.positions[first + parents[i] as usize] + 1,
                    Some(_) => row.start as i32,
                    None => (row.start + i) as i32,
                };
                s.positions.push(position);
                if trees {
                    s.parents.push(parents.map_or(-1, |p| p[i]));
                }
            }
            match row.want {
                Want::Nothing => {}
                Want::Last => s.wanted.push(first + n_tok - 1),
                Want::All | Want::Hidden => s.wanted.extend(first..first + n_tok),
            }
            let tree = parents.is_some();
            s.rows.push(SeqRow { first, n_tok, start: row.start, pages: row.pages, slot: row.slot, tree });
        }
    }

    fn run(&mut self, batch: &Batch) -> Result<(), RunError> {
        (self.logits, self.n_best) = (None, batch.n_best);
        let Scratch { rows, pages, positions, parents, wanted, output, maxima, hidden: read, .. } = &mut self.scratch;
        let seqs = Seqs { rows, pages, positions, parents };
        let mut pass = Pass {
            backend: &mut self.backend,
            kv: &mut self.kv,
            hyper: &self.hyper,
            seqs,
            features: &batch.features,
            taps: if batch.wants_hidden { &self.taps } else { &[] },
            tapped: Vec::new(),
            growth: None,
        };
        let some = (wanted.len() < batch.tokens.len()).then_some(wanted.as_slice());
        let all = batch.wants_hidden;
        let mut hidden = self.decoder.hidden(&mut pass, &batch.tokens, some.filter(|_| !all));
        let mut started = pass.backend.start(pass.kv);
        if all && started.is_ok() {
            started = self.decoder.states(&mut pass, &hidden, read);
            if let Some(rows) = some {
                hidden = pass.backend.rows(&hidden, rows);
            }
        }
        let result = if wanted.is_empty() || started.is_err() {
            started
        } else if batch.rows.iter().all(|r| !matches!(r.want, Want::Hidden)) {
            let mut logits = self.decoder.logits(&mut pass, &hidden);
            if self.decoder.spoken.is_some() || !pass.backend.maxima(&logits, MAXIMA_BLOCK, maxima) {
                maxima.clear();
            }
            let begun = pass.backend.prefetch(&mut logits, batch.n_best);
            self.logits = Some(logits);
            begun
        } else {
            self.decoder.mixed(&mut pass, &hidden, batch, output)
        };
        result.map_err(|e| RunError::Backend(e.to_string()))
    }
}

/// Overwrites `all` with rows of `n_vocab` logits, which are those of `data` for the tokens of `spoken` and minus infinity for
/// others. Only ever called with the same tokens.
fn spread(data: &[f32], spoken: &[u32], n_vocab: usize, all: &mut Vec<f32>) {
    all.resize(data.len() / spoken.len() * n_vocab, f32::NEG_INFINITY);
    for (row, all) in data.chunks_exact(spoken.len()).zip(all.chunks_exact_mut(n_vocab)) {
        for (logit, &token) in row.iter().zip(spoken) {
            all[token as usize] = *logit;
        }
    }
}

/// What each layer keeps, then what second mixers of layers do.
fn states<B: Backend>(decoder: &Decoder<B>, hyper: &Hyper) -> Vec<LayerState> {
    let kv = |n_kv_head| LayerState::Kv { n_kv_head, d_k: hyper.d_k, d_v: hyper.d_v, d_latent: 0 };
    let scan = |n_channel: usize, n_conv: usize, shape: &Ssm| LayerState::Recurrent {
        conv: n_channel * (n_conv - 1),
        ssm: shape.n_head * shape.d_head * shape.d_state,
    };
    let n_conv = hyper.ssm.map_or(1, |s| s.n_conv);
    let mamba2 = |m: &Mamba2<B>| scan(m.d_inner + 2 * m.shape.n_group * m.shape.d_state, n_conv, &m.shape);
    let state = |layer: &crate::layer::Layer<B>| match &layer.mixer {
        Mixer::None => LayerState::None,
        Mixer::Attention(attn) | Mixer::Both(attn, ..) => kv(attn.n_kv_head),
        Mixer::Latent(_) => {
            let mla = hyper.mla.expect("latent layers are built only with their widths");
            LayerState::Kv { n_kv_head: 1, d_k: mla.kv_rank + mla.d_rope, d_v: 0, d_latent: mla.kv_rank }
        }
        Mixer::Mamba(m) => scan(m.shape.n_head, n_conv, &m.shape),
        Mixer::Ssm(m) => mamba2(m),
        Mixer::Delta(m) => {
            let (s, n_conv) = (m.shape, hyper.delta.map_or(1, |d| d.n_conv));
            let n_channel = 2 * s.n_key_head * s.d_k + s.n_head * s.d_v;
            LayerState::Recurrent { conv: n_channel * (n_conv - 1), ssm: s.n_head * s.d_v * s.d_k }
        }
        Mixer::Conv(m) => LayerState::Recurrent { conv: m.d_model * (hyper.n_short_conv.unwrap_or(1) - 1), ssm: 0 },
    };
    let second = |layer: &crate::layer::Layer<B>| match &layer.mixer {
        Mixer::Both(_, mamba, _) => Some(mamba2(mamba)),
        _ => None,
    };
    decoder.layers.iter().map(state).chain(decoder.layers.iter().filter_map(second)).collect()
}

/// Bytes of a recurrent state, all layers.
pub(crate) fn state_bytes(layers: &[LayerState]) -> usize {
    let layer = |layer: &LayerState| match layer {
        LayerState::Recurrent { conv, ssm } => (conv + ssm) * size_of::<f32>(),
        _ => 0,
    };
    layers.iter().map(layer).sum::<usize>().max(1)
}

/// Bytes of keys and values of a page, all layers.
pub fn page_bytes(spec: &KvSpec) -> usize {
    let width = |n_kv_head: usize, d: usize| match spec.dtype {
        KvType::F32 => n_kv_head * d * 4,
        KvType::F16 | KvType::BF16 => n_kv_head * d * 2,
        KvType::Q8 if d == 0 => 0,
        KvType::Q8 => n_kv_head * (d + 4),
        KvType::Q4 => n_kv_head * (d.div_ceil(2) + 4 * d.div_ceil(Q4_GROUP)),
    };
    let layer = |l: &LayerState| match *l {
        LayerState::Kv { n_kv_head, d_k, d_v, .. } => width(n_kv_head, d_k) + width(n_kv_head, d_v),
        _ => 0,
    };
    spec.layers.iter().map(layer).sum::<usize>() * spec.page_tokens
}

impl<B: Backend + Send> Runner for Model<B>
where
    B::Tensor: Send,
    B::Matrix: Send,
    B::Kv: Send,
{
    fn info(&self) -> RunnerInfo {
        self.info.clone()
    }

    fn prepare(&mut self) -> Result<(), RunError> {
        for layer in &self.decoder.layers {
            let Ffn::Moe(moe) = &layer.ffn else { continue };
            for experts in moe.gate.iter().chain([&moe.up, &moe.down]) {
                self.backend.prepare(&experts.matrix).map_err(|e| RunError::Backend(e.to_string()))?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunError> {
        self.check(batch)?;
        self.plan(batch);
        self.scratch.output.clear();
        self.scratch.maxima.clear();
        self.scratch.hidden.clear();
        let Some(mut logits) = self.resume(batch) else { return self.run(batch) };
        let begun = self.backend.prefetch(&mut logits, batch.n_best);
        (self.logits, self.n_best) = (Some(logits), batch.n_best);
        begun.map_err(|e| RunError::Backend(e.to_string()))
    }

    fn wait(&mut self) -> Result<Outputs<'_>, RunError> {
        self.build_ahead();
        let Scratch { output, maxima, spread: all, .. } = &mut self.scratch;
        let mut data = match &self.logits {
            Some(logits) => {
                self.backend.view(logits, self.n_best, output).map_err(|e| RunError::Backend(e.to_string()))?
            }
            None => output,
        };
        if let Some(spoken) = &self.decoder.spoken {
            spread(data, spoken, self.info.n_vocab, all);
            data = all;
        }
        Ok(Outputs { data, n_vocab: self.info.n_vocab, d_model: self.info.d_model, maxima })
    }

    fn compiled(&mut self) -> bool {
        self.backend.compiled()
    }

    fn hidden(&self) -> &[f32] {
        &self.scratch.hidden
    }

    fn reveal(&mut self, layers: &[usize]) -> bool {
        let in_order =
            layers.is_sorted_by(|a, b| a < b) && layers.last().is_none_or(|&i| i <= self.decoder.layers.len());
        if in_order {
            self.taps = layers.to_vec();
        }
        in_order
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.forget();
        self.backend.copy_page(&mut self.kv, from.0, to.0);
    }

    fn copy_token(&mut self, from: (PageId, usize), to: (PageId, usize)) {
        self.forget();
        let place = |(page, place): (PageId, usize)| (page.0, place);
        self.backend.copy_token(&mut self.kv, place(from), place(to));
    }

    fn export_page(&self, page: PageId, out: &mut Vec<u8>) {
        self.backend.export_page(&self.kv, page.0, out);
    }

    fn import_page(&mut self, page: PageId, bytes: &[u8]) -> Result<(), RunError> {
        self.forget();
        self.backend.import_page(&mut self.kv, page.0, bytes).map_err(|e| RunError::Backend(e.to_string()))
    }

    fn save_state(&mut self, slot: usize, state: StateId) {
        self.forget();
        self.backend.copy_slot(&mut self.kv, slot, self.n_slot + state.0 as usize);
    }

    fn restore_state(&mut self, slot: usize, state: StateId) {
        self.forget();
        self.backend.copy_slot(&mut self.kv, self.n_slot + state.0 as usize, slot);
    }

    fn export_state(&self, state: StateId, out: &mut Vec<u8>) {
        self.backend.export_slot(&self.kv, self.n_slot + state.0 as usize, out);
    }

    fn import_state(&mut self, state: StateId, bytes: &[u8]) -> Result<(), RunError> {
        self.forget();
        let slot = self.n_slot + state.0 as usize;
        self.backend.import_slot(&mut self.kv, slot, bytes).map_err(|e| RunError::Backend(e.to_string()))
    }
}

/// Tokens that a token sees at most, itself included; `None` if a layer sees all.
fn widest(windows: &[Window]) -> Option<usize> {
    let tokens = |window: &Window| match window {
        Window::Full => None,
        Window::Sliding(n) | Window::Chunked(n) => Some(*n as usize),
    };
    windows.iter().map(tokens).collect::<Option<Vec<usize>>>()?.into_iter().max()
}
