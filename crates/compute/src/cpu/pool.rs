//! Threads that run one job at a time, together with the caller.
//!
//! A job is a closure that every thread runs once. Inside, [`Worker::items`] shares out numbered items and
//! [`Worker::barrier`] waits for all threads, so that several dependent loops make one job. Items are split into one
//! contiguous range a thread; a thread that is done takes items from the others' ranges. Which thread computes an item
//! has no influence on its result, as items write to separate places.
//!
//! A thread that waits spins, then yields, then parks. How long it spins follows what paid off lately: on a machine
//! whose cores are taken by others a spinner only burns the time slice of the thread that it waits for.
//!
//! A job allocates nothing. A panic inside makes [`Pool::run`] return an error, in all threads at their next barrier.

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
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

/// A value on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

/// What the threads share.
struct Shared {
    /// Number of the current job.
    epoch: Line<AtomicU32>,
    /// The job, valid while `running > 0`.
    job: UnsafeCell<Option<Job<'static>>>,
    /// Workers (without the caller) that have not finished the job.
    running: Line<AtomicUsize>,
    /// Threads that have reached the current barrier.
    arrived: Line<AtomicUsize>,
    /// Number of barriers passed.
    passed: Line<AtomicU32>,
    /// Items handed out of each thread's range, since the last barrier.
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

// SAFETY: `job` is written by the holder of `Pool::caller` while no worker runs, and read by workers only after the
// release store of `epoch` that follows the write; everything else is atomic or locked.
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
    n_threads: usize,
    scratch: RefCell<&'a mut Scratch>,
    spin: &'a Spin,
    /// Whether `items` was called since the last barrier.
    shared_out: Cell<bool>,
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

/// Carried by the unwinding of threads that wait at a barrier for one that panicked.
struct Poisoned;

impl Pool {
    /// A pool of `n_threads` threads, the caller's included; at least 1, at most [`MAX_THREADS`].
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn new(n_threads: usize) -> Result<Pool, Error> {
        let n_threads = n_threads.clamp(1, MAX_THREADS);
        let shared = Arc::new(Shared {
            epoch: Line::default(),
            job: UnsafeCell::new(None),
            running: Line::default(),
            arrived: Line::default(),
            passed: Line::default(),
            taken: (0..n_threads).map(|_| Line::default()).collect(),
            panicked: AtomicBool::new(false),
            message: Mutex::new(None),
            closing: AtomicBool::new(false),
            sleepers: (0..n_threads).map(|_| Sleeper::default()).collect(),
        });
        let mut pool =
            Pool { shared, caller: Mutex::new((Scratch::default(), Spin(Cell::new(SPIN_MAX)))), threads: Vec::new() };
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

    /// Threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.shared.taken.len()
    }

    /// Runs `f(worker, item)` for every item below `n_items`. See [`Pool::run_job`].
    ///
    /// # Errors
    /// If `f` panicked.
    pub fn run(&self, n_items: usize, f: impl Fn(&Worker<'_>, usize) + Sync) -> Result<(), Error> {
        match n_items {
            0 => Ok(()),
            1 => self.run_on(1, &|w: &Worker<'_>| f(w, 0)),
            _ => self.run_on(self.n_threads(), &|w: &Worker<'_>| w.items(n_items, |item| f(w, item))),
        }
    }

    /// Runs `f` once in every thread. Waits for other callers' jobs to end.
    ///
    /// Must not be called from within a job of the same pool: the inner job would wait for the outer one.
    ///
    /// # Errors
    /// If `f` panicked, with the message of the panic.
    pub fn run_job(&self, f: impl Fn(&Worker<'_>) + Sync) -> Result<(), Error> {
        self.run_on(self.n_threads(), &f)
    }

    /// Runs `job` in all `n_threads` threads, or in the caller only when that is 1.
    fn run_on(&self, n_threads: usize, job: Job<'_>) -> Result<(), Error> {
        let mut caller = lock(&self.caller);
        let (scratch, spin) = &mut *caller;
        let shared = &*self.shared;
        shared.reset(n_threads);
        if n_threads > 1 {
            // SAFETY: only the lifetime changes. Workers use the reference while `running > 0`, and this function
            // does not return, nor unwind (`run_one` catches), before `running` is 0 and the slot is cleared.
            let job = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
            // SAFETY: no worker runs: the last job ended before its caller let go of the lock held here.
            unsafe { *shared.job.get() = Some(job) };
            *lock(&shared.sleepers[0].thread) = Some(std::thread::current());
            shared.start();
        }
        shared.run_one(job, 0, n_threads, scratch, spin);
        if n_threads > 1 {
            spin.wait(&shared.sleepers[0], || shared.running.0.load(Ordering::Acquire) == 0);
            // SAFETY: `running` is 0, so no worker reads the slot until the next `start`.
            unsafe { *shared.job.get() = None };
        }
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
    /// Number of this thread, from 0.
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Threads in this job.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Runs `f` for the items below `n_items` that fall to this thread. All threads must call it with the same number.
    /// Returns when no items are left to start, which is before all have ended. At most once between two barriers.
    ///
    /// # Panics
    /// If called twice without a barrier between.
    pub fn items(&self, n_items: usize, mut f: impl FnMut(usize)) {
        assert!(!self.shared_out.replace(true), "Worker::items needs a barrier before it is called again");
        let (n, me) = (self.n_threads, self.thread);
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

    /// Waits until all threads have come here.
    pub fn barrier(&self) {
        self.shared_out.set(false);
        if self.n_threads == 1 {
            self.shared.taken[0].0.store(0, Ordering::Relaxed);
            return;
        }
        let shared = self.shared;
        let passed = shared.passed.0.load(Ordering::Acquire);
        if shared.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.n_threads {
            shared.arrived.0.store(0, Ordering::Relaxed);
            shared.taken.iter().for_each(|t| t.0.store(0, Ordering::Relaxed));
            shared.passed.0.store(passed.wrapping_add(1), Ordering::SeqCst);
            (0..self.n_threads).filter(|&t| t != self.thread).for_each(|t| shared.sleepers[t].wake());
        } else {
            let done = || shared.passed.0.load(Ordering::SeqCst) != passed || shared.panicked.load(Ordering::SeqCst);
            self.spin.wait(&shared.sleepers[self.thread], done);
        }
        if shared.panicked.load(Ordering::SeqCst) {
            resume_unwind(Box::new(Poisoned));
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
    /// Prepares a job of `n_threads` threads; no worker runs.
    fn reset(&self, n_threads: usize) {
        self.arrived.0.store(0, Ordering::Relaxed);
        self.running.0.store(n_threads - 1, Ordering::Relaxed);
        self.taken.iter().for_each(|t| t.0.store(0, Ordering::Relaxed));
        self.panicked.store(false, Ordering::Relaxed);
    }

    fn start(&self) {
        self.epoch.0.fetch_add(1, Ordering::SeqCst);
        self.wake_workers();
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
            let news = || self.epoch.0.load(Ordering::SeqCst) != seen || self.closing.load(Ordering::SeqCst);
            spin.wait(&self.sleepers[thread], news);
            if self.closing.load(Ordering::SeqCst) {
                return;
            }
            seen = self.epoch.0.load(Ordering::SeqCst);
            // SAFETY: the epoch has changed, so the caller has written the job and waits for `running` to reach 0
            // before it writes the slot again.
            let job = unsafe { (*self.job.get()).expect("start follows the write of the job") };
            self.run_one(job, thread, self.taken.len(), &mut scratch, &spin);
            if self.running.0.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.sleepers[0].wake();
            }
        }
    }

    /// Runs a job in one thread and catches its panic.
    fn run_one(&self, job: Job<'_>, thread: usize, n_threads: usize, scratch: &mut Scratch, spin: &Spin) {
        let worker = Worker {
            shared: self,
            thread,
            n_threads,
            scratch: RefCell::new(scratch),
            spin,
            shared_out: Cell::new(false),
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(&worker))) {
            if !panic.is::<Poisoned>() {
                lock(&self.message).get_or_insert_with(|| text(&*panic));
            }
            self.panicked.store(true, Ordering::SeqCst);
            (0..n_threads).filter(|&t| t != thread).for_each(|t| self.sleepers[t].wake());
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
    fn a_barrier_separates_loops() {
        let pool = Pool::new(4).expect("threads");
        for _ in 0..200 {
            let sums: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
            pool.run_job(|w| {
                for sum in &sums {
                    w.items(50, |_| add(sum));
                    w.barrier();
                    assert_eq!(sum.load(Ordering::Relaxed), 50);
                }
            })
            .expect("no panic");
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_lives() {
        for n_threads in [1, 2, 5] {
            let pool = Pool::new(n_threads).expect("threads");
            for bad in 0..n_threads {
                let outcome = pool.run_job(|w| {
                    assert!(w.thread() != bad, "thread {bad} is bad");
                    w.barrier();
                });
                let message = outcome.expect_err("a panic").to_string();
                assert!(message.contains(&format!("thread {bad} is bad")), "{message}");
            }
            let outcome = pool.run(10, |_, i| assert!(i != 7, "item 7"));
            assert!(outcome.expect_err("a panic").to_string().contains("item 7"));
            pool.run(10, |_, _| ()).expect("no panic");
        }
    }

    #[test]
    fn jobs_after_a_pause_wake_parked_threads() {
        let pool = Pool::new(3).expect("threads");
        for pause_ms in [0, 1, 5, 20] {
            std::thread::sleep(std::time::Duration::from_millis(pause_ms));
            let count = AtomicUsize::new(0);
            pool.run_job(|w| {
                count.fetch_add(1, Ordering::Relaxed);
                w.barrier();
                w.scratch(100, |s| s.fill(1.0));
            })
            .expect("no panic");
            assert_eq!(count.load(Ordering::Relaxed), 3);
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
