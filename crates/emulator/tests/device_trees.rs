//! The arm64 kernel and what its boot loader tells it of the board: it starts from a tree in the words of real boards, and stops with a
//! word, and all that is wrong, where a tree does not say enough.

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use kpkeys_emulator::{Kernel, Line, Machine, Outcome, Run, Target};
use std::path::PathBuf;
use std::sync::OnceLock;

fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| Kernel::build(Target::Aarch64).unwrap_or_else(|error| panic!("{error}")))
}

fn tree(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../devicetree/tests/data").join(name)
}

/// A file with the tree of QEMU's board after `edit`.
fn edited(name: &str, edit: impl FnOnce(&mut DeviceTree)) -> PathBuf {
    let blob = std::fs::read(tree("v3-smp4-el2.dtb")).unwrap();
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&blob).unwrap());
    edit(&mut tree);
    written(name, &tree.to_dtb())
}

fn written(name: &str, blob: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, blob).unwrap();
    path
}

fn set(tree: &mut DeviceTree, path: &str, property: &str, value: &[u8]) {
    let node = tree.find_node_mut(path).unwrap_or_else(|| panic!("no node `{path}`"));
    node.add_property(DeviceTreeProperty::new(property, value).unwrap());
}

fn boot(device_tree: PathBuf, cpus: u32, command_line: &str) -> (Run, String) {
    let command_line = command_line.to_owned();
    let device_tree = Some(device_tree);
    let machine = Machine { cpus, command_line, device_tree, ..Machine::default() };
    let mut lines = String::new();
    let run = kernel().run(&machine, &mut |line| {
        let (Line::Record(text) | Line::Log(text)) = line;
        lines.push_str(text);
        lines.push('\n');
    });
    (run.unwrap_or_else(|error| panic!("{error}")), lines)
}

#[track_caller]
fn assert_refused(device_tree: PathBuf, expected: &[&str]) {
    let (run, lines) = boot(device_tree, 4, "");
    assert_eq!(run.outcome, Outcome::Refused, "{lines}");
    for text in expected {
        assert!(lines.contains(text), "no \"{text}\" in:\n{lines}");
    }
}

#[test]
fn starts_from_a_tree_with_long_names() {
    let (run, lines) = boot(tree("long-names.dtb"), 2, "tests=protection");
    assert_eq!(run.outcome, Outcome::Success, "{lines}");
    assert!(lines.contains("\"cpus\":2,"), "{lines}");
}

#[test]
fn every_part_that_is_wrong_is_said_at_once() {
    let device_tree = edited("two-parts.dtb", |tree| {
        set(tree, "/intc@8000000", "compatible", b"apple,aic\0");
        set(tree, "/cpus/cpu@1", "reg", &[0x80, 0, 0, 1]);
    });
    assert_refused(
        device_tree,
        &[
            "CPUs: device tree: node `cpu@1`",
            "interrupt controller: device tree: node `/`: missing",
            "timer: device tree: node `timer`",
            "boot refused: what the device tree says is not enough",
        ],
    );
}

#[test]
fn a_console_without_a_driver_is_named() {
    let device_tree = edited("other-uart.dtb", |tree| {
        set(tree, "/pl011@9000000", "compatible", b"snps,dw-apb-uart\0");
    });
    assert_refused(device_tree, &["none for snps,dw-apb-uart", "boot refused: "]);
}
