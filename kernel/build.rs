//! Hands the linker the image layout of the architecture the kernel is built for, and the size of its pages.

use std::path::Path;

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target for build.rs");
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets the folder for build.rs");
    let script = Path::new(&root).join("src/arch").join(arch).join("image.ld");
    let is_on = |feature: &str| std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    let page = match (is_on("PAGES_16K"), is_on("PAGES_64K")) {
        (false, false) => 4096,
        (true, false) => 16384,
        (false, true) => 65536,
        (true, true) => panic!("pages have one size: `pages-16k` or `pages-64k`, not both"),
    };
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=--defsym=PAGE={page}");
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
}
