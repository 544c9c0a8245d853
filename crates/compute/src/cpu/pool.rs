//! Threads that run one job at a time, together with the caller.
//!
//! A job is a number of items. They are split into one contiguous range a thread; a thread that is done takes items from
//! the others' ranges. Which thread computes an item has no influence on its result, as items write to separate places.
//!
//! Nobody waits for a thread that has not begun: when the caller finds no items left it closes the job, and a thread that
//! comes later, since the system had other work for its core, goes on to the next job. Only those inside are waited for.
//!
//! A thread that waits spins, then yields, then parks. How long it spins follows what paid off lately: on a machine
//! whose cores are taken by others a spinner only burns the time slice of the thread that it waits for.
//!
//! A job allocates nothing. A panic inside makes [`Pool::run`] return an error.

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};

use bytemuck::{Pod, Zeroable};

use crate::Error;

/// Most threads of a pool.
pub const MAX_THREADS: usize = 256;
/// Spins before yielding, at most; about 50 microseconds.
const SPIN_MAX: u32 = 2_000;
/// Spins before yielding, at least.
const SPIN_MIN: u32 = 20;
/// Yields before parking.
const YIELDS: u32 = 20;

type Job<'a> = &'a (dyn Fn(&Worker<'_>) + Sync);

/// Of [`Shared::gate`]: workers may enter. Below it stands how many are inside, above it the number of the job.
const OPEN: u64 = 1 << 31;
/// Of [`Shared::gate`]: one worker inside.
const INSIDE: u64 = 1;
/// Of [`Shared::gate`]: one job.
const JOB: u64 = 1 << 32;

/// A value on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

/// What the threads share.
struct Shared {
    /// Number of the current job, whether it is open, and how many workers (without the caller) are inside.
    gate: Line<AtomicU64>,
    /// The job, valid while the gate is open or a worker inside.
    job: UnsafeCell<Option<Job<'static>>>,
    /// Items handed out of each thread's range.
    taken: Box<[Line<AtomicUsize>]>,
    /// Whether a thread has panicked in this job.
    panicked: AtomicBool,
    /// What it said.
    message: Mutex<Option<String>>,
    /// Whether the pool is being dropped.
    closing: AtomicBool,
    /// Threads to unpark, and whether each may be parked. Slot 0 is the caller of the current job.
    sleepers: Box<[Sleeper]>,
}

#[derive(Default)]
struct Sleeper {
    thread: Mutex<Option<Thread>>,
    parked: Line<AtomicBool>,
}

// SAFETY: `job` is written by the holder of `Pool::caller` while the gate is closed and nobody inside, and read by workers
// only inside, after the gate was opened, which follows the write; everything else is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: as above; the closure behind `job` is `Sync`, so any thread may call it.
unsafe impl Send for Shared {}

/// A fixed number of threads.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the thread that runs a job: what belongs to thread 0.
    caller: Mutex<(Scratch, Spin)>,
    threads: Vec<JoinHandle<()>>,
}

/// A thread's view of the pool, within a job.
pub struct Worker<'a> {
    shared: &'a Shared,
    thread: usize,
    scratch: RefCell<&'a mut Scratch>,
}

/// A thread's own memory, kept between jobs; aligned to 64 bytes.
#[derive(Default)]
struct Scratch {
    lines: Vec<Cacheline>,
}

/// Sixteen floats on a cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Cacheline(pub(crate) [f32; 16]);

/// How long a thread spins.
struct Spin(Cell<u32>);

impl Pool {
    /// A pool of `n_threads` threads, the caller's included; at least 1, at most [`MAX_THREADS`].
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn new(n_threads: usize) -> Result<Pool, Error> {
        let n_threads = n_threads.clamp(1, MAX_THREADS);
        let mut pool = Pool::without_workers(n_threads);
        for thread in 1..n_threads {
            let shared = pool.shared.clone();
            let handle = std::thread::Builder::new()
                .name(format!("compute-{thread}"))
                .spawn(move || shared.work(thread))
                .map_err(|e| device(format!("cannot start thread {thread} of {n_threads}: {e}; ask for fewer")))?;
            pool.threads.push(handle);
        }
        Ok(pool)
    }

    /// A pool whose workers are not there yet.
    fn without_workers(n_threads: usize) -> Pool {
        let shared = Shared {
            gate: Line::default(),
            job: UnsafeCell::new(None),
            taken: (0..n_threads).map(|_| Line::default()).collect(),
            panicked: AtomicBool::new(false),
            message: Mutex::new(None),
            closing: AtomicBool::new(false),
            sleepers: (0..n_threads).map(|_| Sleeper::default()).collect(),
        };
        let caller = Mutex::new((Scratch::default(), Spin(Cell::new(SPIN_MAX))));
        Pool { shared: Arc::new(shared), caller, threads: Vec::new() }
    }

    /// Threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.shared.taken.len()
    }

    /// Runs `f(worker, item)` for every item below `n_items`. Waits for other callers' jobs to end.
    ///
    /// Must not be called from within a job of the same pool: the inner job would wait for the outer one.
    ///
    /// # Errors
    /// If `f` panicked, with the message of the panic; then some items may not have run.
    pub fn run(&self, n_items: usize, f: impl Fn(&Worker<'_>, usize) + Sync) -> Result<(), Error> {
        if n_items == 0 {
            return Ok(());
        }
        let mut caller = lock(&self.caller);
        let (scratch, spin) = &mut *caller;
        let shared = &*self.shared;
        shared.panicked.store(false, Ordering::Relaxed);
        if n_items == 1 || self.n_threads() == 1 {
            shared.run_one(&|worker| (0..n_items).for_each(|item| f(worker, item)), 0, scratch);
            return shared.outcome();
        }
        shared.taken.iter().for_each(|t| t.0.store(0, Ordering::Relaxed));
        let job: Job<'_> = &|worker| worker.items(n_items, |item| f(worker, item));
        // SAFETY: only the lifetime changes. Workers use the reference inside the gate only, and this function does not
        // return, nor unwind (`run_one` catches), before the gate is closed with nobody inside and the slot is cleared.
        let lasting = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        // SAFETY: nobody is inside: the last job ended so before its caller let go of the lock held here.
        unsafe { *shared.job.get() = Some(lasting) };
        *lock(&shared.sleepers[0].thread) = Some(std::thread::current());
        shared.open();
        shared.run_one(job, 0, scratch);
        shared.gate.0.fetch_and(!OPEN, Ordering::SeqCst);
        spin.wait(&shared.sleepers[0], || shared.gate.0.load(Ordering::SeqCst) & (OPEN - 1) == 0);
        // SAFETY: the gate is closed and nobody inside, so no worker reads the slot until it is opened again.
        unsafe { *shared.job.get() = None };
        shared.outcome()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake_workers();
        for thread in self.threads.drain(..) {
            // A worker catches every panic of a job, so it can only have ended well.
            let _ = thread.join();
        }
    }
}

impl Worker<'_> {
    /// Runs `f` for the items below `n_items` that fall to this thread. Returns when no items are left to start, which is
    /// before all have ended.
    fn items(&self, n_items: usize, mut f: impl FnMut(usize)) {
        let (n, me) = (self.shared.taken.len(), self.thread);
        for owner in (me..n).chain(0..me) {
            let (start, end) = (owner * n_items / n, (owner + 1) * n_items / n);
            let taken = &self.shared.taken[owner].0;
            loop {
                let item = start + taken.fetch_add(1, Ordering::Relaxed);
                if item >= end {
                    break;
                }
                f(item);
            }
        }
    }

    /// Calls `f` with `n_floats` floats of this thread's own memory, aligned to 64 bytes, holding anything. The memory
    /// is kept for the next call, so that a job which repeats allocates nothing.
    ///
    /// # Panics
    /// If called from within `f`.
    pub fn scratch<R>(&self, n_floats: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut scratch = self.scratch.borrow_mut();
        let n_lines = n_floats.div_ceil(16);
        if scratch.lines.len() < n_lines {
            scratch.lines.resize(n_lines, Cacheline([0.0; 16]));
        }
        f(&mut bytemuck::cast_slice_mut(&mut scratch.lines)[..n_floats])
    }
}

impl Shared {
    /// Lets workers into a new job.
    fn open(&self) {
        let last = self.gate.0.load(Ordering::Relaxed) / JOB;
        self.gate.0.store((last + 1).wrapping_mul(JOB) | OPEN, Ordering::SeqCst);
        self.wake_workers();
    }

    /// Lets a worker into the current job, if that is another than `seen` and open. Overwrites `seen`.
    fn enter(&self, seen: &mut u64) -> bool {
        let mut gate = self.gate.0.load(Ordering::SeqCst);
        while gate / JOB != *seen && gate & OPEN != 0 {
            match self.gate.0.compare_exchange(gate, gate + INSIDE, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    *seen = gate / JOB;
                    return true;
                }
                Err(now) => gate = now,
            }
        }
        *seen = gate / JOB;
        false
    }

    fn wake_workers(&self) {
        self.sleepers[1..].iter().for_each(Sleeper::wake);
    }

    /// Whether the job went well.
    fn outcome(&self) -> Result<(), Error> {
        if !self.panicked.load(Ordering::Acquire) {
            return Ok(());
        }
        let message = lock(&self.message).take().unwrap_or_default();
        Err(device(format!("a computation failed: {message}; this is a bug, please report it")))
    }

    /// The life of a worker.
    fn work(&self, thread: usize) {
        *lock(&self.sleepers[thread].thread) = Some(std::thread::current());
        let (mut seen, mut scratch, spin) = (0, Scratch::default(), Spin(Cell::new(SPIN_MAX)));
        loop {
            let news = || self.gate.0.load(Ordering::SeqCst) / JOB != seen || self.closing.load(Ordering::SeqCst);
            spin.wait(&self.sleepers[thread], news);
            if self.closing.load(Ordering::SeqCst) {
                return;
            }
            if !self.enter(&mut seen) {
                continue;
            }
            // SAFETY: this thread is inside, so the caller has written the job and waits before it writes again.
            let job = unsafe { (*self.job.get()).expect("the gate is opened after the job was written") };
            self.run_one(job, thread, &mut scratch);
            if self.gate.0.fetch_sub(INSIDE, Ordering::SeqCst) & (2 * OPEN - 1) == INSIDE {
                self.sleepers[0].wake();
            }
        }
    }

    /// Runs a job in one thread and catches its panic.
    fn run_one(&self, job: Job<'_>, thread: usize, scratch: &mut Scratch) {
        let worker = Worker { shared: self, thread, scratch: RefCell::new(scratch) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(&worker))) {
            lock(&self.message).get_or_insert_with(|| text(&*panic));
            self.panicked.store(true, Ordering::SeqCst);
        }
    }
}

impl Sleeper {
    /// Unparks the thread if it is parked or about to be.
    fn wake(&self) {
        if self.parked.0.load(Ordering::SeqCst)
            && let Some(thread) = &*lock(&self.thread)
        {
            thread.unpark();
        }
    }
}

impl Spin {
    /// Returns once `done()` holds. Whoever makes it hold calls `sleeper.wake()` afterwards.
    fn wait(&self, sleeper: &Sleeper, done: impl Fn() -> bool) {
        let limit = self.0.get();
        for _ in 0..limit {
            if done() {
                self.0.set((limit + limit / 8 + 1).min(SPIN_MAX));
                return;
            }
            std::hint::spin_loop();
        }
        self.0.set((limit - limit / 4).max(SPIN_MIN));
        for _ in 0..YIELDS {
            if done() {
                return;
            }
            std::thread::yield_now();
        }
        // `parked` and what `done` reads are sequentially consistent on both sides: either the waker sees `parked`,
        // or `done` sees the waker's change. A stale unpark token only makes the loop turn once more.
        sleeper.parked.0.store(true, Ordering::SeqCst);
        while !done() {
            std::thread::park();
        }
        sleeper.parked.0.store(false, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

fn device(message: String) -> Error {
    Error::Device { backend: "cpu", message }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn add(count: &AtomicUsize) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn every_item_runs_once() {
        for n_threads in [1, 2, 3, 7] {
            let pool = Pool::new(n_threads).expect("threads");
            for n_items in [0, 1, 2, 5, 100, 1001] {
                let counts: Vec<AtomicUsize> = (0..n_items).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_items, |_, i| add(&counts[i])).expect("no panic");
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{n_threads} threads, {n_items} items");
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_lives() {
        for n_threads in [1, 2, 5] {
            let pool = Pool::new(n_threads).expect("threads");
            for bad in 0..10 {
                let outcome = pool.run(10, |_, i| assert!(i != bad, "item {bad} is bad"));
                let message = outcome.expect_err("a panic").to_string();
                assert!(message.contains(&format!("item {bad} is bad")), "{message}");
                pool.run(10, |_, _| ()).expect("no panic");
            }
        }
    }

    #[test]
    fn jobs_after_a_pause_wake_parked_threads() {
        let pool = Pool::new(3).expect("threads");
        for pause_ms in [0, 1, 5, 20] {
            std::thread::sleep(Duration::from_millis(pause_ms));
            // Each item waits for the others: they end only if every thread takes one.
            let begun = AtomicUsize::new(0);
            pool.run(3, |worker, _| {
                add(&begun);
                while begun.load(Ordering::Relaxed) < 3 {
                    std::thread::yield_now();
                }
                worker.scratch(100, |s| s.fill(1.0));
            })
            .expect("no panic");
        }
    }

    #[test]
    fn a_thread_that_does_not_come_is_not_waited_for() {
        let pool = Pool::without_workers(3);
        for n_items in [1, 2, 100] {
            let count = AtomicUsize::new(0);
            pool.run(n_items, |_, _| add(&count)).expect("no panic");
            assert_eq!(count.load(Ordering::Relaxed), n_items);
        }
    }

    #[test]
    fn several_callers_take_turns() {
        let pool = Pool::new(2).expect("threads");
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..100 {
                        let count = AtomicUsize::new(0);
                        pool.run(20, |_, _| add(&count)).expect("no panic");
                        assert_eq!(count.load(Ordering::Relaxed), 20);
                    }
                });
            }
        });
    }
}
