//! Runs one target, named by `KPKEYS_FUZZ`, on inputs that libFuzzer makes. Its arguments are libFuzzer's.

#![no_main]

use std::sync::LazyLock;

use kpkeys_fuzz::{TARGETS, Target};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("KPKEYS_FUZZ").unwrap_or_default();
    let names = TARGETS.map(|target| target.name).join(", ");
    let target = TARGETS.iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("KPKEYS_FUZZ names the target, one of {names}"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
