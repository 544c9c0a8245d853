//! An importance matrix of either format: GGUF, or the older `.dat`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mlxr_weights::imatrix::Imatrix;

fuzz_target!(|data: &[u8]| {
    let Ok(imatrix) = Imatrix::parse(Path::new("m.gguf"), data.to_vec()) else { return };
    for sums in imatrix.entries.values() {
        let means = sums.means();
        assert!(means.len() <= sums.squares.len(), "{} means of {} sums", means.len(), sums.squares.len());
        assert!(means.iter().all(|mean| *mean >= 0.0), "means of sums of squares");
    }
});
