//! The schedule against a model of the arena: what a step finds in its pages and slots must be the sequence's own past,
//! whatever was shared, copied, evicted, forked, drafted, preempted or cancelled before.

use std::collections::{BTreeSet, HashMap};

use mlxr_engine::prefix::PrefixHash;
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::sampler::Rng;
use mlxr_engine::schedule::{Limits, Op, Past, Schedule};
use mlxr_engine::sequence::Arrival;
use mlxr_engine::{Batch, ClientId, PageId, Row, SeqId, TokenId, Want};

/// Steps of the long run, over all seeds.
const N_STEP: usize = 1_000_000;
/// Steps of a seed.
const N_STEP_SEED: usize = 5_000;

struct World {
    rng: Rng,
    schedule: Schedule,
    limits: Limits,
    arena: Vec<[TokenId; PAGE_TOKENS]>,
    slots: Vec<Vec<TokenId>>,
    saved: Vec<Vec<TokenId>>,
    /// Those of prefixes; the others are from before drafts.
    n_saved: usize,
    /// Tokens that each sequence should have, and how many it shall still get.
    alive: HashMap<SeqId, (Vec<TokenId>, usize)>,
    /// Of prompts whose logits are all wanted: tokens after which there are none yet.
    unscored: HashMap<SeqId, BTreeSet<usize>>,
    next_id: u64,
    batch: Batch,
    n_kept: Vec<usize>,
    counts: Counts,
}

/// What happened, so that a run that tests nothing is noticed.
#[derive(Debug, Default)]
struct Counts {
    finished: usize,
    forked: usize,
    copied: usize,
    evicted: usize,
    restored: usize,
    rewound: usize,
    accepted: usize,
    scored: usize,
    rejected: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let mut below = |n: usize| (rng.next_u64() % n as u64) as usize;
        let (n_running, n_saved) = (1 + below(6), below(5));
        let limits = Limits {
            step_tokens: n_running + below(40),
            n_running,
            n_running_client: 1 + below(6),
            n_page: 6 + below(20),
            past: match below(4) {
                0 => Past::Recurrent { n_saved, n_rewind: [0, n_running][below(2)] },
                1 => Past::Window(1 + below(50)),
                _ => Past::Pages,
            },
        };
        World {
            schedule: Schedule::new(limits),
            arena: vec![[TokenId::MAX; PAGE_TOKENS]; limits.n_page],
            slots: vec![Vec::new(); n_running],
            saved: vec![Vec::new(); n_saved + n_running],
            n_saved,
            alive: HashMap::new(),
            unscored: HashMap::new(),
            next_id: 0,
            batch: Batch::default(),
            n_kept: Vec::new(),
            counts: Counts::default(),
            limits,
            rng,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n as u64) as usize
    }

    fn arrive(&mut self) {
        let id = SeqId(self.next_id);
        self.next_id += 1;
        let (family, n) = (self.below(3) as TokenId, 1 + self.below(60));
        let parts = self.below(60) as TokenId;
        let tokens: Vec<TokenId> = (0..n as TokenId)
            .map(|at| if at < parts { family * 1000 + at } else { self.rng.next_u64() as u8 as TokenId })
            .collect();
        self.alive.insert(id, (tokens.clone(), 1 + self.rng.next_u64() as usize % 36));
        let (priority, client) = (self.below(3) as i32 - 1, ClientId(self.below(3) as u64));
        let salt = [self.below(8) as u8 / 7];
        let wants_all = self.below(8) == 0;
        if wants_all {
            self.unscored.insert(id, (0..tokens.len()).collect());
        }
        self.schedule.push(Arrival { id, tokens, priority, client, root: PrefixHash::root(&salt), wants_all });
    }

    fn cancel(&mut self) {
        let n = self.below(self.alive.len());
        let mut ids: Vec<SeqId> = self.alive.keys().copied().collect();
        ids.sort_unstable();
        self.alive.remove(&ids[n]);
        self.schedule.remove(ids[n]).expect("it waits or runs");
    }

    /// Drafts that agree with what comes, by chance, and others.
    fn draft(&mut self) {
        let ids: Vec<SeqId> = self.schedule.all_running().iter().map(|sequence| sequence.id).collect();
        for id in ids {
            let n = self.below(5);
            let mut tokens = self.alive[&id].0.clone();
            let n_token = tokens.len();
            for _ in 0..n {
                let right = self.below(3) > 0;
                tokens.push(if right { next_token(&tokens) } else { 999_999 });
            }
            self.schedule.draft(id, &tokens[n_token..], &[]);
        }
    }

    fn do_ops(&mut self) {
        let ops: Vec<Op> = self.schedule.ops().collect();
        for op in ops {
            match op {
                Op::CopyPage { from, to } => {
                    self.arena[to.0 as usize] = self.arena[from.0 as usize];
                    self.counts.copied += 1;
                }
                Op::Evicted(_) => self.counts.evicted += 1,
                Op::SaveState { slot, state } => self.saved[state.0 as usize].clone_from(&self.slots[slot]),
                Op::RestoreState { slot, state } => {
                    self.slots[slot].clone_from(&self.saved[state.0 as usize]);
                    let is_rewound = state.0 as usize >= self.n_saved;
                    *if is_rewound { &mut self.counts.rewound } else { &mut self.counts.restored } += 1;
                }
            }
        }
    }

    /// Computes a row, and checks that its past is the sequence's own.
    fn compute(&mut self, row: &Row) {
        let tokens = &self.batch.tokens[row.tokens.0..row.tokens.1];
        let pages: &[PageId] = &self.batch.pages[row.pages.0..row.pages.1];
        let own = &self.alive[&row.seq].0;
        if let Some(unscored) = self.unscored.get_mut(&row.seq)
            && row.want == Want::All
        {
            unscored.retain(|at| !(row.start..row.start + tokens.len()).contains(at));
        }
        let sees = if let Past::Window(window) = self.limits.past { (row.start + 1).saturating_sub(window) } else { 0 };
        for at in sees..row.start {
            let found = self.arena[pages[at / PAGE_TOKENS].0 as usize][at % PAGE_TOKENS];
            assert_eq!(found, own[at], "{:?} finds another token at {at}", row.seq);
        }
        for (at, token) in (row.start..).zip(tokens) {
            self.arena[pages[at / PAGE_TOKENS].0 as usize][at % PAGE_TOKENS] = *token;
            assert!(own.get(at).is_none_or(|own| own == token), "another token of {:?} at {at}", row.seq);
        }
        if matches!(self.limits.past, Past::Recurrent { .. }) {
            let slot = &mut self.slots[row.slot];
            if row.start == 0 {
                slot.clear();
            }
            assert_eq!(slot[..], own[..row.start], "{:?} finds another state", row.seq);
            slot.extend(tokens);
        }
    }

    fn step(&mut self) {
        let budget = 1 + self.below(self.limits.step_tokens);
        let mut batch = std::mem::take(&mut self.batch);
        self.schedule.plan(&mut batch, budget);
        self.batch = batch;
        self.do_ops();
        assert!(self.batch.tokens.len() <= self.limits.step_tokens && self.batch.rows.len() <= self.limits.n_running);
        assert!(!self.batch.rows.is_empty() || self.alive.is_empty(), "a step does nothing");
        let rows = self.batch.rows.clone();
        rows.iter().for_each(|row| self.compute(row));
        self.n_kept.clear();
        let mut sampled = Vec::new();
        for row in &rows {
            let tokens = &self.batch.tokens[row.tokens.0..row.tokens.1];
            let (own, left) = self.alive.get_mut(&row.seq).expect("it runs");
            let n_known = own.len() - row.start;
            if row.want == Want::Nothing || tokens.len() < n_known {
                self.n_kept.push(tokens.len());
                continue;
            }
            if let Some(unscored) = self.unscored.remove(&row.seq) {
                assert!(unscored.is_empty(), "{:?}: no logits after {unscored:?}", row.seq);
                self.counts.scored += 1;
            }
            let n_sure = tokens.len().min(n_known);
            let mut n = n_sure;
            loop {
                let token = next_token(own);
                *left -= 1;
                let agrees = *left > 0 && tokens.get(n) == Some(&token);
                own.push(token);
                if !agrees {
                    break;
                }
                n += 1;
            }
            self.counts.accepted += n - n_sure;
            self.counts.rejected += tokens.len() - n;
            self.n_kept.push(n);
            sampled.push((row.seq, row.want));
        }
        self.schedule.commit(&self.batch, &self.n_kept);
        self.do_ops();
        sampled.into_iter().for_each(|(id, want)| self.finish(id, want));
        self.schedule.check();
    }

    /// Forks, ends or continues a sequence that got tokens.
    fn finish(&mut self, id: SeqId, want: Want) {
        let (tokens, left) = self.alive[&id].clone();
        // Forks are made of prompts, which have no drafts.
        if self.below(20) == 0 && want == Want::Last {
            let fork = SeqId(self.next_id);
            self.next_id += 1;
            self.schedule.fork(id, fork);
            let mut other = tokens.clone();
            *other.last_mut().expect("a token was sampled") = 777_000 + self.below(9) as TokenId;
            self.schedule.append(fork, *other.last().expect("a token"));
            let room = self.limits.n_page * PAGE_TOKENS - other.len().min(self.limits.n_page * PAGE_TOKENS - 1);
            self.alive.insert(fork, (other, 1 + self.rng.next_u64() as usize % room.min(20)));
            self.counts.forked += 1;
        }
        if left == 0 {
            self.alive.remove(&id);
            self.schedule.remove(id).expect("it runs");
            self.counts.finished += 1;
        } else {
            self.schedule.append(id, *tokens.last().expect("a token was sampled"));
        }
    }
}

/// The token after `tokens`: few different ones, so that prefixes meet again.
fn next_token(tokens: &[TokenId]) -> TokenId {
    let last = tokens.iter().rev().take(3).fold(17u32, |hash, token| hash.wrapping_mul(31).wrapping_add(*token));
    last % 5
}

#[test]
fn a_million_random_steps_keep_every_invariant() {
    let mut counts: Vec<Counts> = Vec::new();
    for seed in 0..(N_STEP / N_STEP_SEED) as u64 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..N_STEP_SEED {
            if world.alive.is_empty() || (world.alive.len() < 12 && world.below(4) == 0) {
                world.arrive();
            }
            if world.below(40) == 0 {
                world.cancel();
                world.schedule.check();
                continue;
            }
            world.draft();
            world.step();
        }
        while !world.alive.is_empty() {
            world.cancel();
        }
        world.schedule.check();
        assert_eq!(world.schedule.pages().n_used(), 0, "pages leak");
        counts.push(world.counts);
    }
    type Count = fn(&Counts) -> usize;
    let rows: &[(&str, Count)] = &[
        ("finished", |c| c.finished),
        ("forked", |c| c.forked),
        ("copied", |c| c.copied),
        ("evicted", |c| c.evicted),
        ("restored", |c| c.restored),
        ("rewound", |c| c.rewound),
        ("accepted", |c| c.accepted),
        ("scored", |c| c.scored),
        ("rejected", |c| c.rejected),
    ];
    for (name, count) in rows {
        let sum: usize = counts.iter().map(count).sum();
        assert!(sum > 1000, "{name}: {sum}");
    }
}
