//! Trees that QEMU 7.2 made for its `virt` machine (`-M virt,dumpdtb=FILE`, cut to the bytes in
//! use), and what each says.

use kpkeys_devicetree::{Conduit, Console, EnableMethod, Gic, Machine, Region, console};

macro_rules! tree {
    ($name:literal) => {
        include_bytes!(concat!("data/", $name, ".dtb"))
    };
}

fn machine(blob: &[u8]) -> Machine<'_> {
    Machine::parse(blob).unwrap_or_else(|error| panic!("{error}"))
}

fn region(base: u64, size: u64) -> Region {
    Region::new(base, size).unwrap()
}

const MIB: u64 = 1 << 20;
const RAM_BASE: u64 = 0x4000_0000;

#[test]
fn memory_of_every_size_starts_where_the_board_has_it() {
    let sizes: [(&[u8], u64); 6] = [
        (tree!("v3-smp1-128m"), 128),
        (tree!("v2-smp1-256m"), 256),
        (tree!("v2-smp8-1g"), 1024),
        (tree!("v3-smp8-4g"), 4096),
        (tree!("v3-smp4-bootargs"), 8192),
        // Two NUMA nodes of 256 MiB, one behind the other: one range.
        (tree!("v3-smp4-numa2"), 512),
    ];
    for (blob, mib) in sizes {
        assert_eq!(machine(blob).ram.unwrap().ranges(), [region(RAM_BASE, mib * MIB)], "{mib} MiB");
    }
}

#[test]
fn every_cpu_is_listed_by_affinity_and_started_by_psci() {
    let eight = machine(tree!("v3-smp8-4g")).cpus.unwrap();
    // Up to 16 CPUs share Aff1 on this board with GICv3.
    let affinities: Vec<_> = eight.listed.iter().map(|cpu| cpu.mpidr.get()).collect();
    assert_eq!(affinities, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(eight.listed.iter().all(|cpu| cpu.enable_method == EnableMethod::Psci));
    assert_eq!(eight.left_out, 0);

    let one = machine(tree!("v3-smp1-128m")).cpus.unwrap().listed;
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].enable_method, EnableMethod::Unsaid);
}

#[test]
fn psci_is_called_by_hvc_unless_el2_is_the_guests() {
    assert_eq!(machine(tree!("v3-smp8-4g")).psci, Ok(Some(Conduit::Hvc)));
    assert_eq!(machine(tree!("v3-smp4-el2")).psci, Ok(Some(Conduit::Smc)));
}

#[test]
fn both_interrupt_controllers_are_found() {
    let distributor = region(0x800_0000, 0x1_0000);
    for blob in [&tree!("v2-smp1-256m")[..], tree!("v2-smp8-1g")] {
        let cpu_interface = region(0x801_0000, 0x1_0000);
        assert_eq!(machine(blob).gic, Ok(Gic::V2 { distributor, cpu_interface }));
    }
    for blob in [&tree!("v3-smp1-128m")[..], tree!("v3-smp8-4g")] {
        let redistributors = [region(0x80a_0000, 0xf6_0000)].into_iter().collect();
        let expected = Gic::V3 { distributor, redistributors, redistributor_stride: None };
        assert_eq!(machine(blob).gic, Ok(expected));
    }
}

#[test]
fn the_timer_has_the_interrupts_the_architecture_recommends() {
    for blob in [&tree!("v2-smp1-256m")[..], tree!("v3-smp8-4g")] {
        let timer = machine(blob).timer.unwrap();
        // INTID 29, 30, 27 and 26 (Arm BSA, DEN 0094, PPI assignments).
        let intids = [timer.secure, timer.non_secure, timer.virtual_, timer.hypervisor]
            .map(|ppi| ppi.map(|ppi| ppi.intid()));
        assert_eq!(intids, [Some(29), Some(30), Some(27), Some(26)]);
    }
}

#[test]
fn the_console_is_the_one_stdout_path_names() {
    let first = Ok(Console::Pl011(region(0x900_0000, 0x1000)));
    assert_eq!(machine(tree!("v3-smp8-4g")).console, first);
    assert_eq!(console(tree!("v2-smp1-256m")), first);
    // With `secure=on` there is a second PL011, which only Secure software may use.
    assert_eq!(console(tree!("v3-smp2-secure-el2")), first);
}

/// With `secure=on` the board leaves PSCI to firmware, which adds the node; without firmware the
/// tree's CPUs are started by something that is not there.
#[test]
fn a_tree_that_still_waits_for_firmware_says_so() {
    let machine = machine(tree!("v3-smp2-secure-el2"));
    let errors: Vec<_> = machine.errors().map(|(_, error)| error.to_string()).collect();
    let expected = "device tree: node `/`: missing, expected a node compatible with arm,psci-0.2";
    assert_eq!(errors, [expected]);
}

#[test]
fn the_command_line_is_the_one_given() {
    let expected = "run=tests backend=pan";
    assert_eq!(machine(tree!("v3-smp4-bootargs")).boot_arguments, Ok(expected));
    assert_eq!(machine(tree!("v3-smp1-128m")).boot_arguments, Ok(""));
}

#[test]
fn bytes_behind_the_blob_do_not_matter() {
    let mut longer = tree!("v3-smp1-128m").to_vec();
    longer.resize(1 << 20, 0xa5);
    assert_eq!(machine(&longer), machine(tree!("v3-smp1-128m")));
}
