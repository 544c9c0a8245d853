//! Where MLX's C library may lie.
//!
//! ```text
//! 1  the folder that the user names (MLXR_MLX_DIR), and nowhere else
//! 2  beside the executable, and in lib beside it
//! 3  Frameworks of the app bundle: Contents/MacOS/../Frameworks
//! 4  Homebrew's prefixes
//! ```

use std::path::{Path, PathBuf};

use crate::ffi::{Device, OpenError};

/// Its file name.
pub const LIBRARY: &str = if cfg!(target_os = "macos") { "libmlxc.dylib" } else { "libmlxc.so" };
/// Where Homebrew keeps libraries: Apple Silicon, Intel, Linux.
const HOMEBREW: [&str; 3] = ["/opt/homebrew/lib", "/usr/local/lib", "/home/linuxbrew/.linuxbrew/lib"];

/// The folders to look into, in order: only `named` if it is given, else those around `executable` and Homebrew's.
pub fn places(executable: Option<&Path>, named: Option<&Path>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.to_owned()];
    }
    let beside = executable.and_then(Path::parent);
    let around = beside.into_iter().flat_map(|folder| ["", "lib", "../Frameworks", "../lib"].map(|f| folder.join(f)));
    around.chain(HOMEBREW.map(PathBuf::from)).collect()
}

/// Opens the first library in these folders.
///
/// # Errors
/// If there is none, or it cannot be used.
pub fn open(places: Vec<PathBuf>) -> Result<Device, OpenError> {
    match places.iter().map(|folder| folder.join(LIBRARY)).find(|path| path.is_file()) {
        Some(path) => Device::open(&path),
        None => Err(OpenError::Absent { library: LIBRARY, places }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_is_the_only_one() {
        let executable = Path::new("/apps/MLXR.app/Contents/MacOS/mlx-run");
        assert_eq!(places(Some(executable), Some(Path::new("/mlx"))), [Path::new("/mlx")]);
        let places = places(Some(executable), None);
        assert_eq!(places[0], Path::new("/apps/MLXR.app/Contents/MacOS"));
        assert!(places.contains(&PathBuf::from("/apps/MLXR.app/Contents/MacOS/../Frameworks")), "{places:?}");
        assert!(places.contains(&PathBuf::from("/opt/homebrew/lib")));
    }

    #[test]
    fn an_absent_library_is_named_with_every_place() {
        let Err(error) = open(vec![PathBuf::from("/nowhere"), PathBuf::from("/neither")]) else {
            panic!("it is there")
        };
        let text = error.to_string();
        assert!(
            text.contains(LIBRARY) && text.contains("/nowhere, /neither") && text.contains("--backend cpu"),
            "{text}"
        );
    }
}
