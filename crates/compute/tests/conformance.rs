//! The suite itself: the definition conforms to itself, and a backend that differs is found out.

use mlxr_compute::conformance::{Options, run};
use mlxr_compute::op::{Linear, Norm, NormKind};
use mlxr_compute::recorder::{Record, Recorder};
use mlxr_compute::scalar::Scalar;
use mlxr_compute::{Backend, DType, MatrixData};

#[test]
fn the_definition_conforms() {
    let report = run(&mut Scalar, &Options::default());
    report.assert_clean();
    assert!(report.refused.is_empty(), "{report}");
    assert!(report.cases.iter().all(|(_, n)| *n > 0), "{report}");
    println!("{report}");
}

#[test]
fn a_recorder_computes_what_it_records() {
    let (mut recorder, recording) = Recorder::new(Scalar, Record::Products);
    let report = run(&mut recorder, &Options::default());
    report.assert_clean();
    assert!(report.cases.iter().all(|(_, n)| *n > 0), "{report}");
    assert!(!recording.squares().is_empty());
}

#[test]
fn a_recorder_adds_the_squares_of_normalized_inputs() {
    let (mut recorder, recording) = Recorder::new(Scalar, Record::Products);
    let data: Vec<u8> = [1.0f32; 6].iter().flat_map(|x| x.to_le_bytes()).collect();
    let part = |name: &str| MatrixData::blocks(name, [3, 2], DType::F32, data.clone().into()).expect("a matrix");
    let mut linear = |parts: &[MatrixData]| {
        let matrix = recorder.matrix(parts).expect("f32");
        Linear { matrix, bias: None, scale: 1.0 }
    };
    let (both, one) = (linear(&[part("a"), part("b")]), linear(&[part("a")]));
    let x = recorder.tensor([2, 2], &[3.0, 4.0, 0.0, 2.0]);
    recorder.linears(&x, None, [&both, &one]);
    let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, eps: 0.0 };
    recorder.linears(&x, Some(&norm), [&one]);
    let found = recording.squares();
    // Mean squares of the rows are 12.5 and 2.
    let of_a = [9.0 + 9.0 / 12.5, 20.0 + 16.0 / 12.5 + 4.0 / 2.0];
    assert!(found["a"].squares.iter().zip(of_a).all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", found["a"]);
    assert_eq!((found["a"].counts[0], found["b"].counts[0]), (4, 2), "a name counts once in an operation");
    assert_eq!(found["b"].squares, [9.0, 20.0]);
    let products = recording.products("b").expect("recorded");
    assert_eq!([products[0], products[1], products[3]], [9.0, 12.0, 20.0]);
    let products = recording.products("a").expect("recorded with `b` and alone");
    let want = [of_a[0], 12.0 + 12.0 / 12.5, of_a[1]];
    assert!([products[0], products[1], products[3]].iter().zip(want).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));
}
