//! Files and folders that appear whole or not at all.
//!
//! Until it is complete, `NAME` is `NAME.partial-PID` beside it, which its process has locked. What a process that was
//! killed has left is not locked any more: the next attempt at `NAME` removes it.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread;

use crate::OpenError;

/// What is smaller is gathered; what is larger is written without another copy.
const BUFFER_BYTES: usize = 1 << 16;

/// A file under a temporary name beside its own, renamed when it is complete. Dropped before, it leaves nothing.
///
/// What is written to it directly is flushed and named by [`AtomicFile::finish`].
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    partial: PathBuf,
    file: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts a file that will replace `path`.
    ///
    /// # Errors
    /// If the file cannot be made beside it.
    pub fn create(path: &Path) -> Result<AtomicFile, OpenError> {
        sweep(path);
        let partial = partial_of(path);
        let make = |partial: &Path| File::options().write(true).create(true).truncate(false).open(partial);
        let file = locked(&partial, make)?;
        let file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(AtomicFile { path: path.to_owned(), partial, file })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), OpenError> {
        let file = self.file.as_mut().expect("the file is open until `finish` takes it");
        file.write_all(bytes).map_err(OpenError::io(&self.partial, "write"))
    }

    /// Appends `n` zeros.
    pub(crate) fn zeros(&mut self, mut n: usize) -> Result<(), OpenError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while n > 0 {
            let part = n.min(ZEROS.len());
            self.write(&ZEROS[..part])?;
            n -= part;
        }
        Ok(())
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// If the rest cannot be written, or the file at the name not be replaced.
    pub fn finish(mut self) -> Result<(), OpenError> {
        let file = self.file.take().expect("the file is open until `finish` takes it");
        let file = file.into_inner().map_err(|e| OpenError::io(&self.partial, "write")(e.into_error()))?;
        file.sync_all().map_err(OpenError::io(&self.partial, "write"))?;
        fs::rename(&self.partial, &self.path).map_err(|e| {
            let _ = fs::remove_file(&self.partial);
            OpenError::io(&self.path, "replace")(e)
        })
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().expect("the file is open until `finish` takes it").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().expect("the file is open until `finish` takes it").flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.partial); // nothing is left to do about a failure here
        }
    }
}

/// A folder under a temporary name beside its own, renamed when it is complete. Dropped before, it leaves nothing.
#[derive(Debug)]
pub struct AtomicFolder {
    path: PathBuf,
    partial: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl AtomicFolder {
    /// Starts a folder that will have the name `path`, which must be free by then.
    ///
    /// # Errors
    /// If the folder, or one above it, cannot be made.
    pub fn create(path: &Path) -> Result<AtomicFolder, OpenError> {
        sweep(path);
        let partial = partial_of(path);
        let lock = locked(&partial, |partial| {
            fs::create_dir_all(partial)?;
            File::open(partial)
        })?;
        Ok(AtomicFolder { path: path.to_owned(), partial, _lock: lock })
    }

    /// Where files go until then.
    #[must_use]
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Gives the complete folder its name.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn finish(self) -> Result<(), OpenError> {
        fs::rename(&self.partial, &self.path).map_err(OpenError::io(&self.path, "create"))
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.partial); // it has its own name by now, or nothing is left to do about a failure
    }
}

const PARTIAL: &str = ".partial-";
/// How often a file is made anew that another process takes for a dead one's before it is locked.
const MAX_TRY: usize = 1000;

/// What `path` is called while this process makes it.
fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{PARTIAL}{}", std::process::id()));
    path.with_file_name(name)
}

/// Makes and locks a partial file or folder. Where the file system has no locks, it goes unlocked, and nobody removes it.
fn locked(partial: &Path, make: impl Fn(&Path) -> io::Result<File>) -> Result<File, OpenError> {
    for _ in 0..MAX_TRY {
        let file = make(partial).map_err(OpenError::io(partial, "create"))?;
        let taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if !taken && partial.exists() {
            return Ok(file);
        }
        thread::yield_now();
    }
    Err(OpenError::io(partial, "lock")(io::ErrorKind::WouldBlock.into()))
}

/// Removes what dead processes have left of `path`. That fails without harm, so it is no error.
fn sweep(path: &Path) {
    let Some(name) = path.file_name() else { return };
    let prefix = [name.as_encoded_bytes(), PARTIAL.as_bytes()].concat();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.as_encoded_bytes().strip_prefix(&prefix[..]).unwrap_or_default();
        if id.is_empty() || !id.iter().all(u8::is_ascii_digit) {
            continue;
        }
        // A link is neither: whatever it leads to stays.
        let (left, kind) = (entry.path(), entry.file_type());
        let Some(kind) = kind.ok().filter(|kind| kind.is_file() || kind.is_dir()) else { continue };
        let Some(_lock) = File::open(&left).ok().filter(|file| file.try_lock().is_ok()) else { continue };
        let _ = if kind.is_dir() { fs::remove_dir_all(&left) } else { fs::remove_file(&left) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_removes_what_dead_processes_left_and_no_more() {
        let folder = std::env::temp_dir().join(format!("mlxr-atomic-{}", std::process::id()));
        let path = |name: &str| folder.join(name);
        fs::create_dir_all(path("m.gguf.partial-2/inner")).expect("a folder");
        for name in ["m.gguf.partial-1", "m.gguf.partial-3", "m.gguf.partial-4x", "m.gguf.partial-", "n.gguf.partial-1"]
        {
            fs::write(path(name), "old").expect("a file");
        }
        let alive = File::open(path("m.gguf.partial-3")).expect("a file");
        alive.try_lock().expect("nobody has it");
        let names = || {
            let entries = fs::read_dir(&folder).expect("a folder").flatten();
            let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort_unstable();
            names
        };
        let stay = ["m.gguf.partial-", "m.gguf.partial-3", "m.gguf.partial-4x", "n.gguf.partial-1"];
        let with = |name: &str| {
            let mut all: Vec<String> = stay.iter().map(|s| (*s).to_owned()).chain([name.to_owned()]).collect();
            all.sort_unstable();
            all
        };
        let own = format!("m.gguf.partial-{}", std::process::id());
        let file = AtomicFile::create(&path("m.gguf")).expect("a file");
        assert_eq!(names(), with(&own));
        assert!(AtomicFile::create(&path("m.gguf")).is_err(), "two writers of one file");
        file.finish().expect("a name");
        assert_eq!(names(), with("m.gguf"));
        fs::remove_file(path("m.gguf")).expect("a file");
        let made = AtomicFolder::create(&path("m.gguf")).expect("a folder");
        fs::write(made.partial().join("inner"), "new").expect("a file");
        drop(made);
        assert_eq!(names(), stay, "a dropped folder");
        let made = AtomicFolder::create(&path("m.gguf")).expect("a folder");
        made.finish().expect("a name");
        assert_eq!(names(), with("m.gguf"));
        fs::remove_dir_all(&folder).expect("a folder");
    }
}
