//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

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
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let partial = path.with_file_name(name);
        let file = File::create(&partial).map_err(OpenError::io(&partial, "create"))?;
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
