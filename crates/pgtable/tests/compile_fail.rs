//! What must not compile with this crate, one program each in `compile_fail/cases`.

#[path = "../../kpkeys/tests/compile_fail/harness.rs"]
mod harness;

#[test]
fn misuse_does_not_compile() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let dependencies = [("kpkeys-pgtable", here.to_owned()), ("kpkeys", here.join("../kpkeys"))];
    harness::check_cases("kpkeys-pgtable", &dependencies);
}
