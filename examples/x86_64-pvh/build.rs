//! Hands the linker the image layout.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets the folder for build.rs");
    println!("cargo:rerun-if-changed=kernel.ld");
    println!("cargo:rustc-link-arg-bins=-T{folder}/kernel.ld");
}
