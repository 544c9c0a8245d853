//! The suite itself: the definition conforms to itself, and a backend that differs is found out.

use mlxr_compute::conformance::{Options, run};
use mlxr_compute::scalar::Scalar;

#[test]
fn the_definition_conforms() {
    let report = run(&mut Scalar, &Options::default());
    report.assert_clean();
    assert!(report.refused.is_empty(), "{report}");
    assert!(report.cases.iter().all(|(_, n)| *n > 0), "{report}");
    println!("{report}");
}
