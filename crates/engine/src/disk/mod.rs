//! Pages on the disk, so that nothing is computed twice over a restart or when the arena was too small.
//!
//! ```text
//! engine --export--> Disk::write --queue--> writer thread --> FOLDER/maker/ab/hash-depth.page    (written aside, renamed)
//! engine <--import-- reply       <--------- reader thread <--
//! ```
//! A file is named by what it holds and checked when it is read: whatever is wrong with it is a miss. What is lost when the
//! process is killed is what was still in the queue. One [`Disk`] serves all models of a process; several processes may
//! share a folder, since equal names mean equal bytes.

pub mod file;
mod files;
mod index;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use file::Maker;
use files::{Files, Today};
use index::{Index, Key};

use crate::prefix::PrefixHash;

/// Bytes of pages that wait to be written, at most.
pub const MAX_QUEUE_BYTES: u64 = 256 << 20;
/// How long nothing is written after writing failed: the disk may be full or the folder read-only.
const PAUSE_S: u64 = 60;

/// Limits of the disk tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// Where the files lie; made if it does not exist.
    pub folder: PathBuf,
    /// Most bytes of all files.
    pub max_bytes: u64,
    /// Most bytes written in a day (UTC): solid state disks wear out.
    pub max_bytes_day: u64,
}

/// What the disk tier did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskStats {
    /// Pages on the disk.
    pub pages: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes written today.
    pub bytes_today: u64,
    /// Pages written since the start.
    pub n_written: u64,
    /// Pages not written: the queue was full, the day's budget spent, or writing failed.
    pub n_dropped: u64,
    /// Pages read since the start.
    pub n_read: u64,
    /// Files that could not be read or were no pages.
    pub n_broken: u64,
    /// Times that writing failed.
    pub n_failed: u64,
}

/// Seconds since 1970.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A folder of pages. Clones are handles to the same one; when the last is gone, what is queued is written.
#[derive(Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    writes: Option<Sender<Write>>,
    reads: Option<Sender<Read>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    config: DiskConfig,
    files: Files,
    clock: WallClock,
    state: Mutex<State>,
    queue_bytes: AtomicU64,
    /// A number for each use.
    used: AtomicU64,
}

struct State {
    index: Index,
    today: Today,
    stats: DiskStats,
    /// Nothing is written before.
    paused_until: u64,
    failure: Option<String>,
}

struct Write {
    key: Key,
    depth: u32,
    used: u64,
    file: Vec<u8>,
}

struct Read {
    maker: Maker,
    hashes: Vec<PrefixHash>,
    n_bytes: usize,
    reply: Box<dyn FnMut(Option<Vec<u8>>) -> bool + Send>,
}

impl Disk {
    /// Opens a folder, and finds the pages that are there.
    ///
    /// # Errors
    /// If the folder can neither be read nor made, or the system gives no threads.
    pub fn open(config: DiskConfig, clock: WallClock) -> std::io::Result<Disk> {
        let files = Files::new(&config.folder)?;
        let mut index = Index::default();
        let now = clock();
        files.scan(&mut |key, bytes, depth, modified_s| index.insert(key, bytes, depth, modified_s));
        let today = files.read_today(now);
        let state = State { index, today, stats: DiskStats::default(), paused_until: 0, failure: None };
        // Files are ordered by when they were changed; uses from now on come after.
        let used = AtomicU64::new(now.max(1) << 20);
        let shared =
            Arc::new(Shared { config, files, clock, state: Mutex::new(state), queue_bytes: AtomicU64::new(0), used });
        shared.make_room(0);
        let (writes, write_queue) = mpsc::channel::<Write>();
        let (reads, read_queue) = mpsc::channel::<Read>();
        let spawn = |name: &str, body: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = shared.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || body(&shared))
        };
        let writer = spawn(
            "disk-write",
            Box::new(move |shared| {
                write_queue.iter().for_each(|write| shared.write(write));
                let today = shared.state().today;
                shared.files.note_today(today);
            }),
        )?;
        let reader = spawn("disk-read", Box::new(move |shared| read_queue.iter().for_each(|read| shared.read(read))))?;
        let inner = Inner { shared, writes: Some(writes), reads: Some(reads), threads: vec![writer, reader] };
        Ok(Disk { inner: Arc::new(inner) })
    }

    /// The pages of one maker, each of `n_bytes` bytes.
    #[must_use]
    pub fn of(&self, maker: Maker, n_bytes: usize) -> ModelDisk {
        ModelDisk { disk: self.clone(), maker, n_bytes }
    }

    /// What it did.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        let state = self.inner.shared.state();
        let (pages, bytes) = (state.index.len() as u64, state.index.bytes());
        DiskStats { pages, bytes, bytes_today: state.today.bytes, ..state.stats }
    }

    /// Why writing failed last, once for each failure.
    #[must_use]
    pub fn take_failure(&self) -> Option<String> {
        self.inner.shared.state().failure.take()
    }
}

/// The pages of one model.
#[derive(Clone)]
pub struct ModelDisk {
    disk: Disk,
    maker: Maker,
    n_bytes: usize,
}

impl ModelDisk {
    /// Whether a page is there.
    #[must_use]
    pub fn contains(&self, hash: &PrefixHash) -> bool {
        self.shared().state().index.contains(&self.key(*hash))
    }

    /// How many of `hashes`, each a prefix of the next, are there from the first on. Those are noted as used.
    #[must_use]
    pub fn find(&self, hashes: &[PrefixHash]) -> usize {
        let used = self.shared().next_use();
        let mut state = self.shared().state();
        let there = |hash: &&PrefixHash| state.index.contains(&self.key(**hash));
        let n = hashes.iter().take_while(there).count();
        hashes[..n].iter().for_each(|hash| state.index.touch(&self.key(*hash), used));
        n
    }

    /// A number for pages that are written together.
    #[must_use]
    pub fn next_use(&self) -> u64 {
        self.shared().next_use()
    }

    /// Whether a page would be written now: there is room in the queue and in the day's budget.
    #[must_use]
    pub fn takes(&self) -> bool {
        self.shared().takes((self.n_bytes + file::OVERHEAD) as u64)
    }

    /// Whether only pages that are being written keep others waiting.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let bytes = (self.n_bytes + file::OVERHEAD) as u64;
        self.shared().queue_bytes.load(Ordering::Acquire) + bytes > MAX_QUEUE_BYTES
    }

    /// Queues a page that has `depth` pages before it; `export` appends its bytes. Returns whether it was taken.
    pub fn write(&self, hash: PrefixHash, (depth, used): (u32, u64), export: impl FnOnce(&mut Vec<u8>)) -> bool {
        let bytes = (self.n_bytes + file::OVERHEAD) as u64;
        let (true, Some(writes)) = (self.shared().takes(bytes), &self.disk.inner.writes) else {
            self.shared().state().stats.n_dropped += 1;
            return false;
        };
        let mut file = Vec::with_capacity(self.n_bytes + file::OVERHEAD);
        file::begin(self.maker, hash, &mut file);
        export(&mut file);
        self.shared().queue_bytes.fetch_add(bytes, Ordering::AcqRel);
        writes.send(Write { key: self.key(hash), depth, used, file }).is_ok()
    }

    /// Reads pages one after another and gives each to `reply`, `None` for one that is not there after all. It stops there,
    /// and when `reply` wants no more.
    pub fn read(&self, hashes: Vec<PrefixHash>, reply: impl FnMut(Option<Vec<u8>>) -> bool + Send + 'static) {
        if let Some(reads) = &self.disk.inner.reads {
            let read = Read { maker: self.maker, hashes, n_bytes: self.n_bytes, reply: Box::new(reply) };
            if let Err(mpsc::SendError(mut read)) = reads.send(read) {
                (read.reply)(None);
            }
        }
    }

    fn key(&self, hash: PrefixHash) -> Key {
        Key { maker: self.maker, hash }
    }

    fn shared(&self) -> &Shared {
        &self.disk.inner.shared
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_use(&self) -> u64 {
        self.used.fetch_add(1, Ordering::Relaxed)
    }

    fn takes(&self, bytes: u64) -> bool {
        if self.queue_bytes.load(Ordering::Acquire) + bytes > MAX_QUEUE_BYTES || bytes > self.config.max_bytes {
            return false;
        }
        let now = (self.clock)();
        let mut state = self.state();
        state.today.turn(now);
        let queued = self.queue_bytes.load(Ordering::Acquire);
        state.today.bytes + queued + bytes <= self.config.max_bytes_day && now >= state.paused_until
    }

    fn write(&self, write: Write) {
        let Write { key, depth, used, mut file } = write;
        let bytes = file.len() as u64 + 32;
        if !self.state().index.contains(&key) {
            file::end(&mut file);
            self.make_room(file.len() as u64);
            let written = self.files.write(&key, depth, &file);
            let now = (self.clock)();
            let mut state = self.state();
            match written {
                Ok(()) => {
                    state.index.insert(key, file.len() as u64, depth, used);
                    state.stats.n_written += 1;
                    state.today.turn(now);
                    state.today.bytes += file.len() as u64;
                    let today = state.today;
                    drop(state);
                    self.files.write_today(today, file.len() as u64);
                }
                Err(error) => {
                    state.stats.n_failed += 1;
                    state.stats.n_dropped += 1;
                    state.paused_until = now + PAUSE_S;
                    state.failure = Some(format!("{}: {error}", self.config.folder.display()));
                }
            }
        }
        self.queue_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Removes files until `bytes` more fit.
    fn make_room(&self, bytes: u64) {
        loop {
            let mut state = self.state();
            if state.index.bytes() + bytes <= self.config.max_bytes {
                return;
            }
            let Some((key, depth)) = state.index.pop() else { return };
            drop(state);
            self.files.remove(&key, depth);
        }
    }

    fn read(&self, mut read: Read) {
        for hash in &read.hashes {
            let key = Key { maker: read.maker, hash: *hash };
            let page = self.page(&key, read.n_bytes);
            let is_there = page.is_some();
            if !(read.reply)(page) || !is_there {
                return;
            }
        }
    }

    /// A page's bytes. A file that is not what it should be is removed.
    fn page(&self, key: &Key, n_bytes: usize) -> Option<Vec<u8>> {
        let depth = self.state().index.depth(key)?;
        let mut file = self.files.read(key, depth, n_bytes + file::OVERHEAD).unwrap_or_default();
        match file::page(&file, key.maker, key.hash, n_bytes) {
            Ok(range) => {
                self.state().stats.n_read += 1;
                file.truncate(range.end);
                file.drain(..range.start);
                Some(file)
            }
            Err(_) => {
                let mut state = self.state();
                state.stats.n_broken += 1;
                state.index.remove(key);
                drop(state);
                self.files.remove(key, depth);
                None
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        (self.writes, self.reads) = (None, None);
        for thread in self.threads.drain(..) {
            // A thread that drops the last handle itself cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl PartialEq for Disk {
    fn eq(&self, other: &Disk) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("config", &self.inner.shared.config).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ModelDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelDisk").field("disk", &self.disk).field("n_bytes", &self.n_bytes).finish_non_exhaustive()
    }
}

/// How long a full queue is waited for before pages that should be written are looked at again.
pub(crate) const RETRY: Duration = Duration::from_millis(10);
