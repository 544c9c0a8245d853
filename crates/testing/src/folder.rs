use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, process};

static N: AtomicU64 = AtomicU64::new(0);

/// An empty folder that goes with the test.
#[derive(Debug)]
pub struct Temp(pub PathBuf);

impl Temp {
    /// A new one; the name is for who finds it.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Temp {
        let n = N.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("mlxr-test-{name}-{}-{n}", process::id()));
        // What a dead process of this number left.
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).expect("a folder for the test");
        Temp(path)
    }

    /// The path of a file in it, as text.
    ///
    /// # Panics
    ///
    /// If it is not UTF-8.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().expect("text")
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // A folder that stays does no harm.
        drop(fs::remove_dir_all(&self.0));
    }
}
