//! Every dependency of a crate is a line in ARCHITECTURE.md: inside by the block `deps`, outside by the table.

use std::collections::BTreeSet;
use std::path::Path;

const PREFIX: &str = "mlxr-";

/// Compares the crates' manifests with ARCHITECTURE.md.
pub fn check(root: &Path) -> Result<Vec<String>, String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let document = read(&root.join("ARCHITECTURE.md"))?;
    let inside = inside(&document)?;
    let outside = outside(&document);
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    let entries = std::fs::read_dir(root.join("crates")).map_err(|e| format!("crates: {e}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let manifest = entry.path().join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let dependencies = dependencies(&read(&manifest)?);
        let Some((_, allowed)) = inside.iter().find(|(n, _)| *n == name) else {
            findings.push(format!("ARCHITECTURE.md: crate `{name}` is not in the block `deps`"));
            continue;
        };
        let found: BTreeSet<String> =
            dependencies.iter().filter_map(|d| d.strip_prefix(PREFIX)).map(str::to_owned).collect();
        if found != *allowed {
            findings.push(format!("crates/{name}/Cargo.toml: depends on {found:?}, ARCHITECTURE.md says {allowed:?}"));
        }
        for dependency in dependencies.iter().filter(|d| !d.starts_with(PREFIX)) {
            used.insert(dependency.clone());
            if !outside.contains(dependency) {
                findings
                    .push(format!("crates/{name}/Cargo.toml: `{dependency}` has no line in ARCHITECTURE.md's table"));
            }
        }
    }
    for name in outside.difference(&used) {
        findings.push(format!("ARCHITECTURE.md: `{name}` is in the table of dependencies and used by no crate"));
    }
    Ok(findings)
}

/// The lines `crate -> a, b` of the block that begins with "```text deps".
fn inside(document: &str) -> Result<Vec<(String, BTreeSet<String>)>, String> {
    let block = document.split("```text deps\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.ok_or("ARCHITECTURE.md: no block ```text deps")?;
    let line = |line: &str| {
        let (name, rest) = line.split_once("->")?;
        let rest = rest.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned).collect();
        Some((name.trim().to_owned(), rest))
    };
    Ok(block.lines().filter_map(line).collect())
}

/// First cells of the table under the heading that contains "Dependencies".
fn outside(document: &str) -> BTreeSet<String> {
    let section = document.split("\n## ").find(|s| s.lines().next().is_some_and(|l| l.contains("Dependencies")));
    let cell = |line: &str| line.strip_prefix("| `")?.split('`').next().map(str::to_owned);
    section.into_iter().flat_map(str::lines).filter_map(cell).collect()
}

/// Names below `[dependencies]` and `[build-dependencies]`, with or without a target.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut counts = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            counts = section.ends_with("dependencies]") && !section.ends_with("dev-dependencies]");
        } else if counts && !line.starts_with('#') {
            let name: String = line.chars().take_while(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
            if !name.is_empty() {
                names.insert(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_manifest_and_document() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\n# b = 1\n[dev-dependencies]\nc = \"1\"\n\
                        [target.'cfg(unix)'.dependencies]\nd = \"1\"\n";
        assert_eq!(dependencies(manifest).into_iter().collect::<Vec<_>>(), ["a", "d"]);
        let document = "## 3 Dependencies\n| `a` | why |\n## 4\n| `z` | no |\n```text deps\nx -> y, z\ny ->\n```\n";
        assert_eq!(outside(document).into_iter().collect::<Vec<_>>(), ["a"]);
        let inside = inside(document).expect("a block");
        assert_eq!(inside[0].1.len(), 2);
        assert!(inside[1].1.is_empty());
    }
}
