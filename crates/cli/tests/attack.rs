//! `kpkeys attack`: every promised attack is blocked where the hardware checks, and every attack succeeds with protection off.

use std::process::Command;

fn every_gate_passes_on(machine: &str) {
    let attack = ["attack", "--on", machine];
    let output = Command::new(env!("CARGO_BIN_EXE_kpkeys")).args(attack).output();
    let output = output.expect("the program starts");
    let (table, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{table}\n{errors}", output.status);
    assert!(
        table.contains("gates: off pass, blocked pass, reuse pass, kernel pass, protection pass"),
        "{table}"
    );
}

#[test]
fn every_gate_passes_on_x86_64() {
    every_gate_passes_on("qemu-x86_64");
}

#[test]
fn every_gate_passes_on_arm64() {
    every_gate_passes_on("qemu-aarch64");
}
