//! The kernel in `examples/x86_64-pvh`, built and booted where the CPU enforces keys.

use std::path::Path;
use std::process::Command;

/// What it prints, but for the first line.
const PROMISED: &str = "\
  stray store to a page's entry: succeeded
  stray store to the root: succeeded
  stray store to the linear map's entry for the root: succeeded
protected; a page was mapped through the adapter
  stray store to a page's entry: blocked: page fault, error code 0x23
  stray store to the root: blocked: page fault, error code 0x23
  stray store to the linear map's entry for the root: blocked: page fault, error code 0x23
  stray store to an entry of a table made since: blocked: page fault, error code 0x23
and the adapter still changes them
as promised
";

#[test]
#[ignore = "builds a kernel and boots it in QEMU, half a minute; run with --ignored"]
fn a_kernel_that_is_not_ours_is_hardened() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/x86_64-pvh");
    let run = Command::new(env!("CARGO"))
        .args(["run", "--release"])
        .current_dir(folder)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo starts");
    let printed = String::from_utf8_lossy(&run.stdout).replace('\r', "");
    let told = String::from_utf8_lossy(&run.stderr);
    let (_, rest) = printed.split_once('\n').unwrap_or_default();
    assert_eq!(rest.trim_start(), PROMISED, "{told}");
    assert!(run.status.success(), "{told}");
}
