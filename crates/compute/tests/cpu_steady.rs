//! What a serving engine relies on: steps that repeat allocate nothing, and a token's results depend neither on the
//! threads nor on the rest of its batch.

use std::sync::Arc;

use mlxr_compute::conformance::{Random, random_matrix};
use mlxr_compute::cpu::{Cpu, Isa, Pool, kv::Kv, tensor::Tensor};
use mlxr_compute::op::*;
use mlxr_compute::{Backend, DType, Encoding, MatrixData};
use mlxr_testing::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

const D_MODEL: usize = 256;
const D_FF: usize = 512;
const D_HEAD: usize = 64;
const N_HEAD: usize = 4;
const N_KV_HEAD: usize = 2;
const N_EXPERT: usize = 8;
const N_PAGE: usize = 64;

/// A hybrid block: attention, experts, a convolution and a scan, and the logits.
struct Model {
    cpu: Cpu,
    kv: Kv,
    embedding: Linear<Cpu>,
    norm: Norm<Cpu>,
    head_norm: Norm<Cpu>,
    qkv: [Linear<Cpu>; 3],
    out: Linear<Cpu>,
    gate: Linear<Cpu>,
    up: Linear<Cpu>,
    down: Linear<Cpu>,
    router: Linear<Cpu>,
    experts: [Experts<Cpu>; 3],
    heads: <Cpu as Backend>::Matrix,
    filter: Tensor,
    decay: Tensor,
    rope: Rope,
    logits: Vec<f32>,
}

fn data(random: &mut Random, dtype: DType, shape: [usize; 2]) -> MatrixData {
    random_matrix(random, Encoding::Blocks(dtype), shape)
}

fn linear(cpu: &mut Cpu, random: &mut Random, dtype: DType, shape: [usize; 2]) -> Linear<Cpu> {
    let matrix = cpu.matrix(&[data(random, dtype, shape)]).expect("fits");
    Linear { matrix, bias: None, scale: 0.02 }
}

fn experts(cpu: &mut Cpu, random: &mut Random, shape: [usize; 2]) -> Experts<Cpu> {
    let parts: Vec<_> = (0..N_EXPERT).map(|_| data(random, DType::Q8_0, shape)).collect();
    Experts { scale: vec![0.02; N_EXPERT], ..Experts::plain(cpu.experts(&parts).expect("alike")) }
}

impl Model {
    fn new(n_threads: usize, isa: Isa) -> Model {
        let mut random = Random::new(5);
        let mut cpu = Cpu::new(Arc::new(Pool::new(n_threads).expect("few threads")), isa).expect("available");
        let (cpu_ref, random) = (&mut cpu, &mut random);
        let mut make = |dtype, n_out, n_in| linear(cpu_ref, random, dtype, [n_out, n_in]);
        let embedding = make(DType::Q8_0, 100, D_MODEL);
        let qkv = [
            make(DType::Q4_K, N_HEAD * D_HEAD, D_MODEL),
            make(DType::Q4_K, N_KV_HEAD * D_HEAD, D_MODEL),
            make(DType::F16, N_KV_HEAD * D_HEAD, D_MODEL),
        ];
        let out = make(DType::Q6_K, D_MODEL, N_HEAD * D_HEAD);
        let (gate, up) = (make(DType::Q4_K, D_FF, D_MODEL), make(DType::Q4_K, D_FF, D_MODEL));
        let (down, router) = (make(DType::BF16, D_MODEL, D_FF), make(DType::F32, N_EXPERT, D_MODEL));
        let experts = [[D_FF, D_MODEL], [D_FF, D_MODEL], [D_MODEL, D_FF]].map(|s| experts(&mut cpu, random, s));
        let heads: Vec<_> = (0..N_HEAD).map(|_| data(random, DType::F16, [D_HEAD, D_HEAD])).collect();
        let heads = cpu.experts(&heads).expect("alike");
        let layer = LayerState::Kv { n_kv_head: N_KV_HEAD, d_k: D_HEAD, d_v: D_HEAD, d_latent: 0 };
        let state = LayerState::Recurrent { conv: D_MODEL * 3, ssm: (D_MODEL - 128) * 64 };
        let spec =
            KvSpec { layers: vec![layer, state], page_tokens: 16, n_page: N_PAGE, n_slot: 4, dtype: KvType::F16 };
        let norm = |weight| Norm { kind: NormKind::Rms, weight: Some(weight), bias: None, eps: 1e-5 };
        let kv = cpu.kv(&spec).expect("small");
        let (weight, head_weight) =
            (cpu.tensor([1, D_MODEL], &[1.0; D_MODEL]), cpu.tensor([1, D_HEAD], &[1.0; D_HEAD]));
        let filter = cpu.tensor([D_MODEL, 4], &random.normals(D_MODEL * 4));
        let decay = cpu.tensor([2, 1], &[-0.5, -0.1]);
        let freqs = (0..D_HEAD / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / D_HEAD as f32)).collect();
        let rope = Rope { freqs, scale: 1.0, pairs: RopePairs::HalfSplit, offset: 0 };
        let (norm, head_norm, logits) = (norm(weight), norm(head_weight), Vec::with_capacity(1 << 16));
        Model {
            cpu,
            kv,
            embedding,
            norm,
            head_norm,
            qkv,
            out,
            gate,
            up,
            down,
            router,
            experts,
            heads,
            filter,
            decay,
            rope,
            logits,
        }
    }

    /// A step over a batch; the logits of every token are left in `logits`.
    fn step(&mut self, tokens: &[u32], seqs: &Seqs<'_>) {
        let cpu = &mut self.cpu;
        let mut x = cpu.embed(&self.embedding.matrix, tokens);
        let [q, k, v] = cpu.linears(&x, Some(&self.norm), self.qkv.each_ref());
        let q = cpu.head_norm(q, N_HEAD, &self.head_norm);
        let q = cpu.rope(q, N_HEAD, seqs.positions, &self.rope);
        let k = cpu.rope(k, N_KV_HEAD, seqs.positions, &self.rope);
        cpu.kv_append(&mut self.kv, 0, &k, Some(&v), seqs);
        let attention = Attention {
            n_head: N_HEAD,
            scale: 0.125,
            window: Window::Full,
            softcap: None,
            sinks: None,
            alibi: None,
            causal: true,
        };
        let a = cpu.attention(&q, &self.kv, 0, &attention, seqs);
        let a = cpu.head_linear(&a, &self.heads);
        x = cpu.linear_add(&a, &self.out, 1.0, x);
        let hidden = cpu.gate_up(&x, Some(&self.norm), &self.gate, &self.up, Act::Silu);
        x = cpu.linear_add(&hidden, &self.down, 1.0, x);
        let normed = cpu.norm(&x, &self.norm);
        let [logits] = cpu.linears(&normed, None, [&self.router]);
        let [gate, up, down] = &self.experts;
        let moe = Moe {
            gating: Gating::Softmax,
            select_bias: None,
            groups: None,
            n_used: 2,
            normalize: true,
            scale: 1.0,
            weight_input: false,
            act: Act::Silu,
            gate: Some(gate),
            up,
            merged: false,
            down,
        };
        let y = cpu.moe(&normed, &logits, &moe);
        x = cpu.add(x, &y);
        let c = cpu.conv(&mut self.kv, 1, &x, &self.filter, None, seqs);
        let c = cpu.act(c, Act::Tanh);
        let dt = cpu.columns(&c, 0, 2);
        let dt = cpu.act(dt, Act::Softplus);
        let ssm = Ssm { n_head: 2, d_head: (D_MODEL - 128) / 2, d_state: 64, n_group: 1 };
        let s = cpu.ssm_scan(&mut self.kv, 1, &ssm, [&c, &dt, &self.decay], seqs);
        let s = cpu.concat_heads(&s, &s, 2, 2);
        x = cpu.add(x, &s);
        let [logits] = cpu.linears(&x, Some(&self.norm), [&self.embedding]);
        self.logits.clear();
        cpu.read(&logits, &mut self.logits).expect("nothing failed");
    }
}

/// Sequence `i` has pages `16 i ..` and slot `i`.
fn row(i: usize, first: usize, n_tok: usize, start: usize) -> SeqRow {
    SeqRow { first, n_tok, start, pages: (16 * i, 16 * (i + 1)), slot: i, tree: false }
}

fn pages() -> Vec<u32> {
    (0..N_PAGE as u32).map(|p| (p * 37 + 5) % N_PAGE as u32).collect()
}

/// The logits of a sequence: a prompt of 40, then two single tokens; `company` puts another sequence beside it.
fn logits(model: &mut Model, company: bool, chunk: usize) -> Vec<f32> {
    let (pages, tokens) = (pages(), |i: usize| (i * 31 % 100) as u32);
    let (mut all, mut start) = (Vec::new(), 0);
    for n_tok in std::iter::repeat_n(chunk, 40 / chunk).chain([1, 1]) {
        let mut rows = vec![row(1, 0, n_tok, start)];
        let mut ids: Vec<u32> = (start..start + n_tok).map(tokens).collect();
        let mut positions: Vec<i32> = (start..start + n_tok).map(|p| p as i32).collect();
        if company {
            // The other sequence comes first and has a token more each step.
            rows = vec![row(0, 0, 3, start * 2), row(1, 3, n_tok, start)];
            ids = [1, 2, 3].into_iter().chain(ids).collect();
            positions = (0..3).map(|i| (start * 2 + i) as i32).chain(positions).collect();
        }
        model.step(&ids, &Seqs { rows: &rows, pages: &pages, positions: &positions, parents: &[] });
        all.extend_from_slice(&model.logits[if company { 300 } else { 0 }..]);
        start += n_tok;
    }
    all
}

#[test]
fn steps_that_repeat_allocate_nothing_and_results_do_not_depend_on_company() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let mut model = Model::new(2, isa);
        let alone = logits(&mut model, false, 40);
        assert!(alone.iter().all(|x| x.is_finite()) && alone.iter().any(|x| x.abs() > 0.1), "{isa}");
        for (n_threads, company, chunk) in [(1, false, 40), (3, true, 40), (2, false, 8), (2, true, 1)] {
            let got = logits(&mut Model::new(n_threads, isa), company, chunk);
            assert!(got == alone, "{isa}: {n_threads} threads, company {company}, prompt in chunks of {chunk}");
        }
        allocations(&mut model, isa);
    }
}

fn allocations(model: &mut Model, isa: Isa) {
    let pages = pages();
    let decode = [row(0, 0, 1, 100), row(1, 1, 1, 42), row(2, 2, 1, 250)];
    let prompt = [row(3, 0, 33, 7), row(1, 33, 1, 42)];
    let positions: Vec<i32> = (7..40).chain([42]).collect();
    let tokens: Vec<u32> = (0..34).collect();
    for (rows, positions) in [(&decode[..], &[100, 42, 250][..]), (&prompt, &positions)] {
        let seqs = Seqs { rows, pages: &pages, positions, parents: &[] };
        // Twice to warm up: which thread takes how many items, and so which thread's memory grows, is not certain.
        for _ in 0..4 {
            model.step(&tokens[..positions.len()], &seqs);
        }
        let given = (0..10).map(|_| {
            let before = ALLOCATOR.given();
            model.step(&tokens[..positions.len()], &seqs);
            ALLOCATOR.given() - before
        });
        assert_eq!(given.min(), Some(0), "{isa}: a step over {} tokens allocates", positions.len());
    }
}
