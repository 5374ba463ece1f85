//! Hands the linker the image layout of the architecture the kernel is built for.

use std::path::Path;

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target for build.rs");
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets the folder for build.rs");
    let script = Path::new(&root).join("src/arch").join(arch).join("image.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
}
