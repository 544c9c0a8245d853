//! `cargo xtask tidy`: the house rules that a program can check.

mod deps;
mod exempt;
mod source;

use std::path::{Path, PathBuf};

/// Lines of a file.
const MAX_FILE_LINES: usize = 500;
/// Lines of a function, its signature included.
const MAX_FN_LINES: usize = 70;
/// Parameters of a function, `self` included.
const MAX_FN_PARAMS: usize = 7;

/// Runs every check and lists all that they find.
pub fn run(root: &Path) -> Result<(), String> {
    let mut findings = deps::check(root)?;
    let mut unused = exempt::Exemptions::new();
    for path in rust_files(root)? {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
        findings.extend(source::check(&name, &text, &mut unused)?);
    }
    findings.extend(unused.leftovers());
    if findings.is_empty() {
        println!("tidy: nothing to say");
        return Ok(());
    }
    findings.sort();
    Err(format!("{}\ntidy: {} findings; STYLE.md has the rules", findings.join("\n"), findings.len()))
}

/// All Rust files of the workspace, sorted.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask"), root.join("fuzz")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
            let skip = path.file_name().is_some_and(|n| n == "target" || n == "corpus" || n == "artifacts");
            if path.is_dir() && !skip {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
