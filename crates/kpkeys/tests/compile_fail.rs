//! What must not compile with this crate, one program each in `compile_fail/cases`.

#[path = "compile_fail/harness.rs"]
mod harness;

#[test]
fn misuse_does_not_compile() {
    harness::check_cases("kpkeys", &[("kpkeys", env!("CARGO_MANIFEST_DIR").into())]);
}
