//! Sizes of files and functions, and where `unsafe` stands.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::exempt::Exemptions;
use super::{MAX_FILE_LINES, MAX_FN_LINES, MAX_FN_PARAMS};

/// Where `unsafe` is allowed: the crates that own SIMD and foreign functions, the module that maps files, the allocator
/// that counts for tests, and passes over a vocabulary that are compiled for wider vectors.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/compute/",
    "crates/mlx/src/ffi/",
    "crates/weights/src/map.rs",
    "crates/testing/",
    "crates/engine/src/sampler/scan.rs",
];

/// Everything about one file.
pub fn check(name: &str, text: &str, exempt: &mut Exemptions) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_FILE_LINES && !exempt.has(name) {
        findings.push(format!("{name}: {lines} lines, at most {MAX_FILE_LINES}: split it by idea"));
    }
    let file = syn::parse_file(text).map_err(|e| format!("{name}: {e}"))?;
    let unsafe_allowed = UNSAFE_ALLOWED.iter().any(|allowed| name.starts_with(allowed));
    let mut visitor = Visitor { name, unsafe_allowed, exempt, findings };
    visitor.visit_file(&file);
    Ok(visitor.findings)
}

struct Visitor<'a> {
    name: &'a str,
    unsafe_allowed: bool,
    exempt: &'a mut Exemptions,
    findings: Vec<String>,
}

impl Visitor<'_> {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (start, end) = (signature.span().start().line, block.span().end().line);
        let (lines, params) = (end + 1 - start, signature.inputs.len());
        let place = format!("{}::{}", self.name, signature.ident);
        for (what, found, most) in [("lines", lines, MAX_FN_LINES), ("parameters", params, MAX_FN_PARAMS)] {
            if found > most && !self.exempt.has(&place) {
                self.findings
                    .push(format!("{}:{start}: fn {}: {found} {what}, at most {most}", self.name, signature.ident));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_expr_unsafe(&mut self, item: &'ast syn::ExprUnsafe) {
        if !self.unsafe_allowed {
            let line = item.span().start().line;
            self.findings.push(format!("{}:{line}: unsafe, which is allowed in {UNSAFE_ALLOWED:?} only", self.name));
        }
        visit::visit_expr_unsafe(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_wide_functions_and_stray_unsafe_are_found() {
        let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(70));
        let wide = "fn h(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, i: u8) { unsafe { k() } }\n";
        let found = check("crates/text/src/a.rs", &(long + wide), &mut Exemptions::new()).expect("it parses");
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
