//! The kernel in `examples/aarch64-rt`: formatted, without warnings, and what it says when it boots in QEMU.
//!
//! On request: `cargo test -p kpkeys-aarch64-paging --test example -- --ignored`.

use std::path::Path;
use std::process::{Command, Output};

/// Cargo, in the example's folder, where its configuration is, and with none of what it was told for this build.
fn cargo(arguments: &[&str]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/aarch64-rt");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).current_dir(&folder);
    for flags in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(flags);
    }
    // Apart from what is built for the host.
    cargo.env("CARGO_TARGET_DIR", folder.join("target"));
    cargo.output().expect("cargo starts")
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = cargo(arguments);
    let [said, complained] = [&output.stdout, &output.stderr].map(|s| String::from_utf8_lossy(s));
    assert!(output.status.success(), "cargo {arguments:?}: {}\n{said}{complained}", output.status);
    said.replace('\r', "")
}

#[test]
#[ignore = "builds a kernel for a bare target and boots it in QEMU: a minute, later ten seconds"]
fn the_kernel_on_other_crates_boots_and_its_tables_are_out_of_reach() {
    succeeds(&["fmt", "--check"]);
    succeeds(&["clippy", "--release", "--quiet", "--", "-D", "warnings"]);
    let log = succeeds(&["run", "--release", "--quiet"]);
    let outcomes: Vec<&str> =
        log.lines().filter_map(|line| line.split_once("): ")).map(|(_, outcome)| outcome).collect();
    let [permission, translation] =
        ["permission", "translation"].map(|kind| format!("data abort, {kind} fault"));
    let expected = ["stored", &permission, &permission, &translation, &permission];
    assert_eq!(outcomes, expected, "{log}");
    assert_eq!(log.lines().last(), Some("protected"), "{log}");
}
