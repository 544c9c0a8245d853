//! Every stage against its definition, which sorts; and what is drawn against the distribution that the definition gives.

use super::mask::Mask;
use super::params::{Dry, Mirostat, MirostatVersion, Params, Stage};
use super::pool::{Drawn, Pool, Scratch};
use super::rng::Rng;
use super::{SampleError, Sampler, likeliest, logprobs, stages};
use crate::TokenId;

/// Candidates of a definition: `(token, logit)`, the likeliest first.
type Sorted = Vec<(TokenId, f64)>;

fn sorted(logits: &[f32]) -> Sorted {
    let mut all: Sorted = (0..).zip(logits.iter().map(|x| f64::from(*x))).collect();
    all.retain(|(_, logit)| *logit > f64::NEG_INFINITY);
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

fn softmax(all: &Sorted) -> Vec<f64> {
    let sum: f64 = all.iter().map(|(_, logit)| (logit - all[0].1).exp()).sum();
    all.iter().map(|(_, logit)| (logit - all[0].1).exp() / sum).collect()
}

fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

/// How many of `p` it takes to reach `target`; `None` where rounding decides.
fn count_to_reach(p: &[f64], target: f64) -> Option<usize> {
    let mut sum = 0.0;
    for (i, p) in p.iter().enumerate() {
        sum += p;
        if (sum - target).abs() < 1e-5 {
            return None;
        }
        if sum >= target {
            return Some(i + 1);
        }
    }
    Some(p.len())
}

/// The definition of a stage; `None` where rounding decides. `unit` is the random number that XTC draws.
fn define(stage: Stage, mut all: Sorted, params: &Params, unit: f64) -> Option<Sorted> {
    let p = softmax(&all);
    match stage {
        Stage::Penalties | Stage::Dry => unreachable!("tested by themselves"),
        Stage::TopK => all.truncate(if params.top_k == 0 { usize::MAX } else { params.top_k }),
        Stage::TopP if params.top_p < 1.0 => all.truncate(count_to_reach(&p, f64::from(params.top_p))?),
        Stage::MinP if params.min_p > 0.0 => {
            let floor = all[0].1 + f64::from(params.min_p).ln();
            if all.iter().any(|(_, logit)| (logit - floor).abs() < 1e-4) {
                return None;
            }
            all.retain(|(_, logit)| *logit >= floor);
        }
        Stage::TopNSigma if params.top_n_sigma > 0.0 => {
            let n = all.len() as f64;
            let mean = all.iter().map(|(_, logit)| logit).sum::<f64>() / n;
            let variance = all.iter().map(|(_, logit)| (logit - mean).powi(2)).sum::<f64>() / n;
            let floor = all[0].1 - f64::from(params.top_n_sigma) * variance.sqrt();
            if all.iter().any(|(_, logit)| (logit - floor).abs() < 1e-4) {
                return None;
            }
            all.retain(|(_, logit)| *logit >= floor);
        }
        Stage::Typical if params.typical_p < 1.0 => {
            let entropy = entropy(&p);
            let mut by: Vec<(f64, usize)> = p.iter().enumerate().map(|(i, p)| ((-p.ln() - entropy).abs(), i)).collect();
            by.sort_by(|a, b| a.0.total_cmp(&b.0));
            let ordered: Vec<f64> = by.iter().map(|(_, i)| p[*i]).collect();
            by.truncate(count_to_reach(&ordered, f64::from(params.typical_p))?);
            all = all.iter().enumerate().filter(|(i, _)| by.iter().any(|(_, at)| at == i)).map(|(_, c)| *c).collect();
        }
        Stage::Xtc if unit <= f64::from(params.xtc_probability) && params.xtc_threshold <= 0.5 => {
            let threshold = f64::from(params.xtc_threshold);
            if p.iter().any(|p| (p - threshold).abs() < 1e-6) {
                return None;
            }
            let n = p.iter().filter(|p| **p >= threshold).count();
            all.drain(..n.saturating_sub(1));
        }
        // One candidate has no entropy to follow.
        Stage::Temperature if params.temperature_range > 0.0 && all.len() < 2 => {}
        Stage::Temperature => {
            let (t, range) = (f64::from(params.temperature), f64::from(params.temperature_range));
            let normal = entropy(&p) / (p.len() as f64).ln();
            let (low, high) = ((t - range).max(0.0), t + range);
            let dynamic = low + (high - low) * normal.powf(f64::from(params.temperature_exponent));
            let t = if range > 0.0 { dynamic } else { t };
            let t = t.max(1e-6);
            all.iter_mut().for_each(|(_, logit)| *logit /= t);
        }
        _ => {}
    }
    Some(all)
}

/// Logits of several shapes: bell, flat, peaked, with ties, with minus infinities.
fn random_logits(rng: &mut Rng, n: usize, shape: u64) -> Vec<f32> {
    let logit = |rng: &mut Rng| {
        let bell: f64 = (0..6).map(|_| rng.next_unit()).sum::<f64>() - 3.0;
        match shape % 5 {
            0 => bell * 4.0,
            1 => bell * 0.05,
            2 => bell * 25.0,
            3 => (bell * 3.0).round() + 0.0, // not -0.0, which only bits tell from 0.0
            _ if rng.next_unit() < 0.3 => f64::NEG_INFINITY,
            _ => bell * 6.0,
        }
    };
    let mut logits: Vec<f32> = (0..n).map(|_| logit(rng) as f32).collect();
    logits[(rng.next_u64() % n as u64) as usize] = 1.0;
    logits
}

fn random_params(rng: &mut Rng) -> Params {
    let mut unit = || rng.next_unit() as f32;
    let mut params = Params::neutral();
    params.temperature = 0.2 + 2.0 * unit();
    params.temperature_range = if unit() < 0.5 { unit() } else { 0.0 };
    params.temperature_exponent = 0.5 + unit();
    params.top_k = (unit() * 90.0) as usize * usize::from(unit() < 0.7);
    params.top_p = if unit() < 0.7 { unit() } else { 1.0 };
    params.min_p = if unit() < 0.5 { 0.3 * unit() } else { 0.0 };
    params.typical_p = if unit() < 0.4 { unit() } else { 1.0 };
    params.top_n_sigma = if unit() < 0.3 { 3.0 * unit() } else { 0.0 };
    params.xtc_probability = if unit() < 0.4 { unit() } else { 0.0 };
    params.xtc_threshold = 0.3 * unit();
    params
}

#[test]
fn every_chain_of_stages_matches_its_definition() {
    let mut scratch = Scratch::default();
    let mut n_checked = 0;
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let n = [1, 2, 63, 64, 65, 300, 1500, 6000][(rng.next_u64() % 8) as usize];
        let logits = random_logits(&mut rng, n, seed);
        let params = random_params(&mut rng);
        // One to four stages, in any order.
        let mut order = Stage::DEFAULT_ORDER.to_vec();
        order.retain(|stage| !matches!(stage, Stage::Penalties | Stage::Dry));
        order.sort_by_cached_key(|_| rng.next_u64());
        order.truncate(1 + (seed % 4) as usize);

        let mut pool = Pool::new(&logits, &mut scratch);
        let mut want = Some(sorted(&logits));
        for stage in &order {
            let unit = rng.clone().next_unit();
            let draws = *stage == Stage::Xtc && params.xtc_probability > 0.0 && pool.len() >= 2;
            want = want.filter(|all| all.len() >= 2 || !draws);
            want = want.and_then(|all| define(*stage, all, &params, if draws { unit } else { 2.0 }));
            stages::apply(*stage, &mut pool, &params, &mut rng);
        }
        let Some(mut want) = want else { continue };
        n_checked += 1;
        want.sort_by_key(|(id, _)| *id);
        let got = pool.picks().clone();
        let context = format!("seed {seed}, n {n}, {order:?}, {params:?}");
        let (ids, want_ids): (Vec<_>, Vec<_>) =
            (got.iter().map(|c| c.id).collect(), want.iter().map(|c| c.0).collect());
        assert_eq!(ids, want_ids, "{context}");
        for (got, want) in got.iter().zip(&want) {
            assert!((f64::from(got.logit) - want.1).abs() < 1e-3 * (1.0 + want.1.abs()), "{got:?} {want:?}, {context}");
        }
    }
    assert!(n_checked > 2500, "only {n_checked} cases were decidable");
}

#[test]
fn a_draw_is_the_inverse_of_the_cumulative_distribution() {
    let mut scratch = Scratch::default();
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let n = [1, 5, 64, 1000][(seed % 4) as usize];
        let logits = random_logits(&mut rng, n, seed / 4);
        let scale = 0.5 + rng.next_unit() as f32;
        let scaled: Vec<f32> = logits.iter().map(|x| x * scale).collect();
        let mut all = sorted(&scaled);
        let mut p: Vec<(TokenId, f64)> = all.iter().map(|c| c.0).zip(softmax(&all)).collect();
        p.sort_by_key(|(id, _)| *id);
        all.clear();
        for picked in [false, true] {
            for i in 0..50 {
                let unit = (f64::from(i) + 0.5) / 50.0;
                let mut pool = Pool::new(&logits, &mut scratch);
                pool.scale(scale);
                if picked {
                    pool.picks();
                }
                let Drawn { id: token, probability, .. } = pool.draw(unit).expect("a token");
                let at = p.iter().position(|(id, _)| *id == token).expect("a candidate");
                let below: f64 = p[..at].iter().map(|(_, p)| p).sum();
                let context = format!("seed {seed}, n {n}, unit {unit}, token {token}");
                assert!(below - 1e-5 <= unit && unit <= below + p[at].1 + 1e-5, "{context}");
                assert!((probability - p[at].1).abs() < 1e-5, "{context}");
            }
        }
    }
}

fn chi_square(params: &Params, logits: &[f32], want: &[(TokenId, f64)]) -> f64 {
    const N: usize = 40_000;
    let mut scratch = Scratch::default();
    let mut sampler = Sampler::new(params.clone(), 42);
    let mut counts = vec![0usize; logits.len()];
    for _ in 0..N {
        let token = sampler.sample(&mut scratch, logits, &[0], None).expect("a token");
        counts[token as usize] += 1;
    }
    let total: usize = want.iter().map(|(id, _)| counts[*id as usize]).sum();
    assert_eq!(total, N, "a token was drawn that the definition excludes");
    let term = |(id, p): &(TokenId, f64)| (counts[*id as usize] as f64 - p * N as f64).powi(2) / (p * N as f64);
    want.iter().map(term).sum()
}

#[test]
fn drawn_tokens_follow_the_defined_distribution() {
    let logits: Vec<f32> = (0..200).map(|i| ((i * 37) % 200) as f32 / 20.0).collect();
    let cases: [fn(&mut Params); 4] =
        [|p| p.top_k = 20, |p| p.top_p = 0.7, |p| p.min_p = 0.2, |p| (p.temperature, p.top_k) = (0.5, 12)];
    for (i, change) in cases.into_iter().enumerate() {
        let mut params = Params::neutral();
        change(&mut params);
        let mut all = sorted(&logits);
        for stage in Stage::DEFAULT_ORDER.into_iter().skip(2) {
            all = define(stage, all, &params, 2.0).expect("decidable");
        }
        let want: Vec<(TokenId, f64)> = all.iter().map(|c| c.0).zip(softmax(&all)).collect();
        let (got, freedom) = (chi_square(&params, &logits, &want), want.len() as f64 - 1.0);
        // Mean and deviation of chi-square with this many degrees of freedom; five deviations is one in a million.
        assert!(got < freedom + 5.0 * (2.0 * freedom).sqrt(), "case {i}: chi-square {got} of {freedom}");
    }
}

#[test]
fn equal_seeds_give_equal_tokens_and_others_do_not() {
    let logits = random_logits(&mut Rng::new(3), 1000, 0);
    let tokens = |seed: Option<u64>, fallback: u64| -> Vec<TokenId> {
        let mut scratch = Scratch::default();
        let mut sampler = Sampler::new(Params { seed, ..Params::default() }, fallback);
        (0..50).map(|_| sampler.sample(&mut scratch, &logits, &[1], None).expect("a token")).collect()
    };
    assert_eq!(tokens(Some(7), 1), tokens(Some(7), 2));
    assert_eq!(tokens(None, 7), tokens(Some(7), 2));
    assert_ne!(tokens(Some(7), 1), tokens(Some(8), 1));
}

#[test]
fn penalties_change_seen_tokens_only() {
    let logits = [2.0, -2.0, 1.0, 0.5, 3.0];
    let params = Params {
        repeat_penalty: 2.0,
        frequency_penalty: 0.25,
        presence_penalty: 0.5,
        repeat_last_n: 3,
        ..Params::neutral()
    };
    let mut window = super::penalties::Window::default();
    window.advance(&[4, 0, 1, 0], params.repeat_last_n);
    let want = [2.0 / 2.0 - 0.5 - 0.5, -2.0 * 2.0 - 0.25 - 0.5, 1.0, 0.5, 3.0];
    for picked in [false, true] {
        let mut scratch = Scratch::default();
        let mut pool = Pool::new(&logits, &mut scratch);
        if picked {
            pool.picks();
        }
        window.penalize(&mut pool, &params);
        assert_eq!(pool.picks().iter().map(|c| c.logit).collect::<Vec<_>>(), want);
    }
}

/// DRY by trying every earlier place for every length.
fn define_dry(dry: &Dry, history: &[TokenId], n_vocab: usize) -> Vec<f32> {
    let history = &history[history.len() - history.len().min(dry.last_n)..];
    let longest = |token: TokenId| {
        let fits = |n: &usize| {
            let (n, end) = (*n, history.len());
            let tail = &history[end - n..];
            // A breaker that ends inside the tail ends the repetition there.
            let is_broken = dry.breakers.iter().any(|b| (end - n + 1..=end).any(|e| history[..e].ends_with(b)));
            !is_broken && (n..end).any(|at| history[at] == token && history[at - n..at] == *tail)
        };
        (dry.allowed_length.max(1)..history.len()).rev().find(fits)
    };
    let penalty = |n: usize| dry.multiplier * dry.base.powf((n - dry.allowed_length) as f32);
    (0..n_vocab as TokenId).map(|token| longest(token).map_or(0.0, penalty)).collect()
}

#[test]
fn dry_matches_its_definition() {
    let mut n_penalized = 0;
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut below = |n: usize| (rng.next_u64() % n as u64) as usize;
        let n_vocab = 2 + below(4);
        let history: Vec<TokenId> = (0..1 + below(60)).map(|_| below(n_vocab) as TokenId).collect();
        let breakers = if below(2) == 0 { vec![] } else { vec![vec![0, 1], vec![1, 1, 1]] };
        let last_n = if below(2) == 0 { usize::MAX } else { below(50) };
        let dry = Dry { multiplier: 0.8, base: 1.75, allowed_length: 1 + below(3), last_n, breakers };
        let logits = vec![0.0; n_vocab];
        let (mut scratch, mut state) = (Scratch::default(), super::penalties::DryState::new(&dry));
        let mut pool = Pool::new(&logits, &mut scratch);
        state.penalize(&mut pool, &dry, &history);
        let got: Vec<f32> = pool.picks().iter().map(|c| -c.logit).collect();
        let want = define_dry(&dry, &history, n_vocab);
        n_penalized += want.iter().filter(|x| **x > 0.0).count();
        let close = got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs());
        assert!(close, "seed {seed}: {history:?} {dry:?}: {got:?}, expected {want:?}");
    }
    assert!(n_penalized > 200, "{n_penalized}");
}

#[test]
fn mirostat_holds_the_surprise_at_its_target() {
    let logits = random_logits(&mut Rng::new(9), 4000, 0);
    let all = sorted(&logits);
    let p: Vec<(TokenId, f64)> = all.iter().map(|c| c.0).zip(softmax(&all)).collect();
    for (version, slack) in [(MirostatVersion::V1, 0.4), (MirostatVersion::V2, 0.4)] {
        for tau in [2.0, 4.0] {
            let params = Params { mirostat: Mirostat { version, tau, eta: 0.1 }, ..Params::neutral() };
            let (mut scratch, mut sampler) = (Scratch::default(), Sampler::new(params, 5));
            let mut tokens = Vec::new();
            for _ in 0..3000 {
                tokens.push(sampler.sample(&mut scratch, &logits, &[0], None).expect("a token"));
            }
            // The surprise it controls is that of the cut-down distribution; with mu settled, cut at the same place.
            let tail = &tokens[500..];
            let kept: std::collections::HashSet<_> = tail.iter().collect();
            let sum: f64 = p.iter().filter(|(id, _)| kept.contains(id)).map(|(_, p)| p).sum();
            let of = |token: &TokenId| p.iter().find(|(id, _)| id == token).expect("a candidate").1;
            let mean = tail.iter().map(|token| -(of(token) / sum).log2()).sum::<f64>() / tail.len() as f64;
            assert!((mean - f64::from(tau)).abs() < slack, "{version:?}: mean surprise {mean}, target {tau}");
        }
    }
}

#[test]
fn greedy_takes_the_largest_logit_after_bias_mask_and_penalties() {
    type Change = fn(&mut Params, &mut Mask);
    let rows: [(Change, Result<TokenId, SampleError>); 5] = [
        (|_, _| {}, Ok(2)),
        (|params, _| params.logit_bias = vec![(2, -10.0)], Ok(3)),
        (|params, _| params.logit_bias = vec![(0, 4.0), (0, 4.0)], Ok(0)),
        (
            |params, mask| (params.logit_bias, *mask) = (vec![(2, f32::NEG_INFINITY)], one(2)),
            Err(SampleError::NothingAllowed),
        ),
        (|params, _| (params.repeat_penalty, params.xtc_probability) = (4.0, 1.0), Ok(4)),
    ];
    for (i, (change, want)) in rows.into_iter().enumerate() {
        let logits = [0.0, f32::NAN, 6.0, 6.0, 5.0, f32::NEG_INFINITY];
        let mut mask = Mask::nothing(6);
        (0..6).for_each(|token| mask.allow(token));
        let mut params = Params::greedy();
        change(&mut params, &mut mask);
        let mut sampler = Sampler::new(params, 0);
        let got = sampler.sample(&mut Scratch::default(), &logits, &[2, 3], Some(&mask));
        assert_eq!(got, want, "row {i}");
    }
}

fn one(token: TokenId) -> Mask {
    let mut mask = Mask::nothing(6);
    mask.allow(token);
    mask
}

#[test]
fn unusable_logits_are_an_error_with_every_setting() {
    for params in [Params::greedy(), Params::default(), Params::neutral()] {
        for logits in [[f32::NAN; 70], [f32::NEG_INFINITY; 70], [f32::INFINITY; 70]] {
            let got = Sampler::new(params.clone(), 0).sample(&mut Scratch::default(), &logits, &[0], None);
            assert_eq!(got, Err(SampleError::NotFinite), "{params:?}");
        }
    }
}

#[test]
fn a_mask_leaves_what_it_allows() {
    let logits: Vec<f32> = (0..100).map(|i| i as f32 / 10.0).collect();
    let mut mask = Mask::nothing(100);
    [3, 50, 51].into_iter().for_each(|token| mask.allow(token));
    let (mut scratch, mut sampler) = (Scratch::default(), Sampler::new(Params::neutral(), 1));
    let drawn: std::collections::BTreeSet<TokenId> =
        (0..2000).map(|_| sampler.sample(&mut scratch, &logits, &[0], Some(&mask)).expect("a token")).collect();
    assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 50, 51]);
}

#[test]
fn logprobs_are_the_logarithm_of_the_softmax() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let logits = random_logits(&mut rng, 500, seed);
        let all = sorted(&logits);
        let p = softmax(&all);
        let at = (rng.next_u64() % all.len() as u64) as usize;
        let (chosen, top) = logprobs(&mut Scratch::default(), &logits, all[at].0, 20);
        assert!((f64::from(chosen) - p[at].ln()).abs() < 1e-4, "seed {seed}: {chosen} {}", p[at].ln());
        for (i, entry) in top.iter().enumerate() {
            assert_eq!(entry.token, all[i].0, "seed {seed}");
            assert!((f64::from(entry.logprob) - p[i].ln()).abs() < 1e-4, "seed {seed}");
        }
        assert_eq!(top.len(), all.len().min(20));
    }
}

#[test]
fn a_few_of_the_largest_logits_are_enough_where_they_are_said_to_be() {
    type Change = fn(&mut Params);
    let rows: &[(Change, Option<usize>)] = &[
        (|_| (), Some(40)),
        (|p| p.temperature = 0.0, Some(1)),
        (|p| p.top_k = 5, Some(5)),
        (|p| p.top_k = 0, None),
        (|p| p.order = vec![Stage::Temperature, Stage::TopK, Stage::TopP], Some(40)),
        (|p| p.order = vec![Stage::TopP, Stage::TopK], None),
        (|p| p.order = vec![Stage::TopP], None),
        (|p| p.top_n_sigma = 1.0, None),
        (|p| p.presence_penalty = 0.5, None),
        (|p| p.dry.multiplier = 1.0, None),
        (|p| p.logit_bias = vec![(1, 1.0)], None),
        (|p| p.mirostat.version = MirostatVersion::V2, None),
        (|p| p.temperature_range = 0.5, Some(40)),
    ];
    for (i, (change, expect)) in rows.iter().enumerate() {
        let mut params = Params { seed: Some(7), ..Params::default() };
        change(&mut params);
        assert_eq!(params.n_best(), *expect, "row {i}");
        let Some(n_best) = *expect else { continue };
        for seed in 0..20 {
            // Whole numbers, so that some are equal.
            let logits: Vec<f32> = random_logits(&mut Rng::new(seed), 500, seed).iter().map(|x| x.round()).collect();
            let mut few = vec![f32::NEG_INFINITY; logits.len()];
            sorted(&logits).iter().take(n_best).for_each(|(id, logit)| few[*id as usize] = *logit as f32);
            let [all, few] = [&logits, &few].map(|logits| {
                let mut sampler = Sampler::new(params.clone(), 1);
                (0..10).map(|_| sampler.sample(&mut Scratch::default(), logits, &[0], None)).collect::<Vec<_>>()
            });
            assert_eq!(all, few, "row {i}, seed {seed}");
        }
    }
}

#[test]
fn what_is_guessed_of_nearly_the_same_logits_comes_more_often_than_the_likeliest() {
    let (mut n_guessed, mut n_likeliest, mut n) = (0, 0, 0);
    for (seed, params) in [Params::default(), Params::neutral(), Params { top_p: 0.9, ..Params::neutral() }]
        .into_iter()
        .enumerate()
        .cycle()
        .take(60)
    {
        let (mut rng, mut scratch) = (Rng::new(seed as u64), Scratch::default());
        let mut sampler = Sampler::new(Params { seed: Some(n), ..params }, 1);
        let logits: Vec<f32> = (0..200).map(|_| 6.0 * rng.next_unit() as f32).collect();
        let other: Vec<f32> = logits.iter().map(|x| x + 0.5 * rng.next_unit() as f32).collect();
        // Of the same logits, what comes: as many tokens ahead as are asked for.
        let mut ahead = sampler.ahead();
        let guessed: Vec<TokenId> = (0..20).map(|_| sampler.guess(&mut ahead, &mut scratch, &logits).token).collect();
        let mut ahead = sampler.ahead();
        for same in guessed {
            let guess = sampler.guess(&mut ahead, &mut scratch, &other);
            let came = sampler.sample(&mut scratch, &logits, &[0], None).expect("a token");
            assert_eq!(came, same);
            assert!((0.0..=0.5).contains(&guess.sure) && guess.second != Some(guess.token), "{guess:?}");
            n_guessed += usize::from(guess.token == came);
            n_likeliest += usize::from(likeliest(&mut scratch, other.as_slice().into()).token == came);
            n += 1;
        }
    }
    assert!(n_guessed > 3 * n_likeliest && n_guessed > n as usize / 3, "{n_guessed}, {n_likeliest} of {n}");
}
