//! The kernel in `examples/x86_64-pvh`, built and booted where the CPU enforces keys, and where it has SMAP alone.

use std::path::Path;
use std::process::Command;

const STORES: [&str; 4] = [
    "a page's entry",
    "the root",
    "the linear map's entry for the root",
    "an entry of a table made since",
];

/// What it prints, but for the first line, on a CPU where tables are protected by keys, or by SMAP and so with an alias.
fn promised(by: &str, code: &str) -> String {
    let stray = |what: &str, outcome: &str| format!("  stray store to {what}: {outcome}\n");
    let mut all = String::new();
    for what in &STORES[..3] {
        all += &stray(what, "succeeded");
    }
    let aliased = by == "SMAP";
    if aliased {
        all += &stray("the root, by the alias", "succeeded");
    }
    all += &format!("protected by {by}; a page was mapped through the adapter\n");
    for way in if aliased { &["", ", by the alias"][..] } else { &[""] } {
        for what in STORES {
            let outcome = format!("blocked: page fault, error code {code}");
            all += &stray(&format!("{what}{way}"), &outcome);
        }
    }
    all + "and the adapter still changes them\nas promised\n"
}

#[test]
#[ignore = "builds a kernel and boots it in QEMU on three CPUs, half a minute; run with --ignored"]
fn a_kernel_that_is_not_ours_is_hardened() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/x86_64-pvh");
    for (cpu, by, code) in
        [("max", "PKS", "0x23"), ("Broadwell", "SMAP", "0x03"), ("EPYC", "SMAP", "0x03")]
    {
        let run = Command::new(env!("CARGO"))
            .args(["run", "--release"])
            .current_dir(&folder)
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .env("CPU", cpu)
            .output()
            .expect("cargo starts");
        let printed = String::from_utf8_lossy(&run.stdout).replace('\r', "");
        let told = String::from_utf8_lossy(&run.stderr);
        let (_, rest) = printed.split_once('\n').unwrap_or_default();
        assert_eq!(rest, promised(by, code), "{cpu}: {told}");
        assert!(run.status.success(), "{cpu}: {told}");
    }
}
