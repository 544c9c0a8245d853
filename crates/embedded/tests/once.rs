//! That a program holds each model once.

/// Constants are written anew where another crate uses them, bytes and all.
#[test]
fn other_crates_see_the_same_bytes() {
    for model in [&mlxr_embedded::SMALL, &mlxr_embedded::DRAFT] {
        let found = mlxr_embedded::find(model.name).expect("a model of its own name");
        assert_eq!(found.bytes.as_ptr(), model.bytes.as_ptr(), "{}", model.name);
    }
}
