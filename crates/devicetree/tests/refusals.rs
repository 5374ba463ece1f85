//! Trees that are wrong in one way: each is refused with the node, the property and what was
//! expected, or understood as a reader of the specification would.

mod support;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use kpkeys_devicetree::{HEADER_LEN, Machine, Problem, Region, blob_len};
use support::{VIRT, cells, edited, set};

const MEMORY: &str = "/memory@40000000";
const GIC: &str = "/intc@8000000";
const UART: &str = "/pl011@9000000";

fn remove(tree: &mut DeviceTree, name: &str) {
    tree.root.remove_child(name).unwrap_or_else(|| panic!("no `{name}` to remove"));
}

fn node(name: &str, properties: &[(&str, &[u8])]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(name).unwrap();
    for (name, value) in properties {
        node.add_property(DeviceTreeProperty::new(*name, *value).unwrap());
    }
    node
}

/// What is said of the tree after `edit`.
fn refusal(edit: impl FnOnce(&mut DeviceTree)) -> String {
    let blob = edited(edit);
    match Machine::parse(&blob) {
        Err(error) => error.to_string(),
        Ok(machine) => panic!("taken: {machine:?}"),
    }
}

#[track_caller]
fn assert_refused(expected: &str, edit: impl FnOnce(&mut DeviceTree)) {
    assert_eq!(refusal(edit), format!("device tree: {expected}"));
}

fn ram_after(edit: impl FnOnce(&mut DeviceTree)) -> Vec<(u64, u64)> {
    let blob = edited(edit);
    let machine = Machine::parse(&blob).unwrap_or_else(|error| panic!("{error}"));
    machine.ram.iter().map(|ram| (ram.base(), ram.size())).collect()
}

#[test]
fn an_unedited_tree_says_the_same_as_the_one_it_was_made_from() {
    assert_eq!(Machine::parse(&edited(|_| {})), Machine::parse(VIRT));
}

#[test]
fn what_is_not_a_whole_blob_is_named() {
    let said = |bytes: &[u8]| Machine::parse(bytes).unwrap_err().to_string();
    assert_eq!(said(&[]), "device tree: 0 bytes given, 40 expected");
    assert_eq!(said(&[0; 64]), "device tree: missing, expected a blob that starts with 0xd00dfeed");
    assert_eq!(
        said(&VIRT[..VIRT.len() - 1]),
        format!("device tree: {} bytes given, {} expected", VIRT.len() - 1, VIRT.len())
    );
    let mut large = VIRT.to_vec();
    large[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    let header: &[u8; HEADER_LEN] = large.first_chunk().unwrap();
    assert_eq!(blob_len(header).unwrap_err().problem, Problem::TooLarge(u32::MAX as usize));
}

#[test]
fn every_missing_node_is_named() {
    let missing = [
        ("memory@40000000", "a `memory` node with memory in it"),
        ("cpus", "a node `cpus`"),
        ("psci", "a node compatible with arm,psci-0.2"),
        ("intc@8000000", "an interrupt controller compatible with arm,gic-v3 or a model of GICv2"),
        ("timer", "a timer compatible with arm,armv8-timer"),
        ("pl011@9000000", "a serial port compatible with arm,pl011"),
    ];
    for (name, expected) in missing {
        assert_refused(&format!("node `/`: missing, expected {expected}"), |tree| {
            remove(tree, name);
        });
    }
}

#[test]
fn without_chosen_the_first_serial_port_and_no_arguments_are_taken() {
    let blob = edited(|tree| remove(tree, "chosen"));
    let machine = Machine::parse(&blob).unwrap();
    assert_eq!((machine.console.base(), machine.boot_arguments), (0x900_0000, ""));
}

#[test]
fn stdout_path_may_be_an_alias_with_options() {
    let blob = edited(|tree| {
        let other: [(&str, &[u8]); 2] =
            [("compatible", b"arm,pl011\0"), ("reg", &cells(&[0, 0x9040000, 0, 0x1000]))];
        tree.root.add_child(node("serial@9040000", &other));
        tree.root.add_child(node("aliases", &[("serial1", b"/serial@9040000\0")]));
        set(tree, "/chosen", "stdout-path", b"serial1:115200n8\0");
    });
    assert_eq!(Machine::parse(&blob).unwrap().console.base(), 0x904_0000);
}

#[test]
fn arguments_that_are_no_text_are_refused() {
    let expected = "node `chosen`: property `bootargs`: expected one text that ends with NUL";
    for bytes in [&b"\xff\xfe\0"[..], b"no end", b"two\0texts\0"] {
        assert_refused(expected, |tree| set(tree, "/chosen", "bootargs", bytes));
    }
}

#[test]
fn no_usable_cpu_is_refused() {
    let expected = "node `cpus`: missing, expected a usable `cpu` node";
    assert_refused(expected, |tree| {
        let cpus = tree.find_node_mut("/cpus").unwrap();
        for id in 0..8 {
            cpus.remove_child(&format!("cpu@{id}")).unwrap();
        }
    });
    assert_refused(expected, |tree| {
        for id in 0..8 {
            set(tree, &format!("/cpus/cpu@{id}"), "status", b"fail\0");
        }
    });
}

#[test]
fn more_cpus_than_are_listed_are_counted() {
    let blob = edited(|tree| {
        let cpus = tree.find_node_mut("/cpus").unwrap();
        for id in 8..100 {
            let properties: [(&str, &[u8]); 2] =
                [("device_type", b"cpu\0"), ("reg", &cells(&[id]))];
            cpus.add_child(node(&format!("cpu@{id:x}0"), &properties));
        }
    });
    let machine = Machine::parse(&blob).unwrap();
    assert_eq!((machine.cpus.len(), machine.cpus_left_out), (64, 36));
}

#[test]
fn odd_affinities_are_refused() {
    let reg = |value: &'static [u32]| {
        move |tree: &mut DeviceTree| set(tree, "/cpus/cpu@1", "reg", &cells(value))
    };
    let at = "node `cpu@1`: property `reg`:";
    assert_refused(&format!("{at} 0x2, expected an affinity no other CPU has"), |tree| {
        set(tree, "/cpus/cpu@2", "reg", &cells(&[1]));
        reg(&[2])(tree);
        set(tree, "/cpus/cpu@0", "reg", &cells(&[2]));
    });
    assert_refused(&format!("{at} 0x80000001, expected an affinity, as in MPIDR_EL1"), |tree| {
        reg(&[0x8000_0001])(tree);
    });
    let length = "expected the CPU's affinity in the 1 or 2 cells of `#address-cells`";
    assert_refused(&format!("{at} 8 bytes, {length}"), reg(&[0, 1]));
}

#[test]
fn an_affinity_of_two_cells_has_aff3_in_the_first() {
    let blob = edited(|tree| {
        set(tree, "/cpus", "#address-cells", &cells(&[2]));
        for id in 0..8 {
            set(tree, &format!("/cpus/cpu@{id}"), "reg", &cells(&[7, id]));
        }
    });
    assert_eq!(Machine::parse(&blob).unwrap().cpus[5].mpidr.get(), 0x7_0000_0005);
}

#[test]
fn psci_needs_a_known_call() {
    assert_refused("node `psci`: property `method`: expected `hvc` or `smc`", |tree| {
        set(tree, "/psci", "method", b"call\0");
    });
}

#[test]
fn overlapping_memory_is_refused_and_touching_memory_is_joined() {
    let ranges = |value: &'static [u32]| {
        move |tree: &mut DeviceTree| set(tree, MEMORY, "reg", &cells(value))
    };
    assert_refused(
        "node `memory@40000000`: property `reg`: \
         [0x40000000, 0x50000000) and [0x4fffffff, 0x5fffffff) overlap",
        ranges(&[0, 0x4000_0000, 0, 0x1000_0000, 0, 0x4fff_ffff, 0, 0x1000_0000]),
    );
    let joined =
        ram_after(ranges(&[0, 0x5000_0000, 0, 0x1000_0000, 0, 0x4000_0000, 0, 0x1000_0000]));
    assert_eq!(joined, [(0x4000_0000, 0x2000_0000)]);
    let apart =
        ram_after(ranges(&[0, 0x8000_0000, 0, 0x1000_0000, 0, 0x4000_0000, 0, 0x1000_0000]));
    assert_eq!(apart, [(0x4000_0000, 0x1000_0000), (0x8000_0000, 0x1000_0000)]);
}

#[test]
fn a_bank_that_is_not_fitted_is_no_memory() {
    assert_refused("node `/`: missing, expected a `memory` node with memory in it", |tree| {
        set(tree, MEMORY, "reg", &cells(&[0, 0x4000_0000, 0, 0]));
    });
    assert_refused("node `/`: missing, expected a `memory` node with memory in it", |tree| {
        set(tree, MEMORY, "status", b"disabled\0");
    });
}

#[test]
fn memory_beyond_any_address_is_refused() {
    let at = "node `memory@40000000`: property `reg`:";
    let expected = "expected a base below which base + size fits 52 bits of address";
    for (base, size) in [([0xffff_ffff, 0xffff_f000], [0, 0x2000]), ([0x000f_ffff, 0], [1, 1])] {
        let found = u64::from(base[0]) << 32 | u64::from(base[1]);
        assert_refused(&format!("{at} {found:#x}, {expected}"), |tree| {
            set(tree, MEMORY, "reg", &cells(&[base[0], base[1], size[0], size[1]]));
        });
    }
}

#[test]
fn memory_that_is_also_a_device_is_refused() {
    assert_refused(
        "node `memory`: property `reg`: [0x8000000, 0x48000000) and [0x8000000, 0x8010000) overlap",
        |tree| set(tree, MEMORY, "reg", &cells(&[0, 0x800_0000, 0, 0x4000_0000])),
    );
}

#[test]
fn a_list_of_ranges_that_ends_in_the_middle_is_refused() {
    assert_refused(
        "node `memory@40000000`: property `reg`: 12 bytes, \
         expected a whole number of entries, at least one",
        |tree| set(tree, MEMORY, "reg", &cells(&[0, 0x4000_0000, 0])),
    );
}

#[test]
fn more_memory_ranges_than_can_be_kept_are_refused() {
    let expected = "node `memory@40000000`: property `reg`: more than 32 entries";
    assert_refused(expected, |tree| {
        let ranges: Vec<u32> = (0..33).flat_map(|i| [i + 1, 0, 0, 0x1000]).collect();
        set(tree, MEMORY, "reg", &cells(&ranges));
    });
}

#[test]
fn cell_counts_that_make_no_address_are_refused() {
    let at = |name, problem| format!("node `/`: property `{name}`: {problem}");
    let counts = [
        ("#address-cells", vec![3], "0x3, expected 1 or 2 cells an address"),
        ("#address-cells", vec![u32::MAX], "0xffffffff, expected 1 or 2 cells an address"),
        ("#size-cells", vec![u32::MAX], "0xffffffff, expected at most 2 cells a size"),
        ("#size-cells", vec![0, 2], "8 bytes, expected one cell of 4 bytes"),
    ];
    for (name, value, problem) in counts {
        assert_refused(&at(name, problem), |tree| set(tree, "/", name, &cells(&value)));
    }
    assert_refused(
        "node `memory@40000000`: property `reg`: missing, \
         expected a parent whose children have addresses and sizes",
        |tree| set(tree, "/", "#size-cells", &cells(&[0])),
    );
}

#[test]
fn interrupt_controllers_that_cannot_be_are_refused() {
    let at = "node `intc@8000000`: property";
    let reg =
        |value: &'static [u32]| move |tree: &mut DeviceTree| set(tree, GIC, "reg", &cells(value));
    assert_refused(
        &format!(
            "{at} `reg`: missing, expected the ranges of the distributor and all redistributors"
        ),
        reg(&[0, 0x800_0000, 0, 0x1_0000]),
    );
    assert_refused(
        &format!("{at} `reg`: 0x1000, expected 64 KiB of distributor or more, aligned"),
        reg(&[0, 0x800_0000, 0, 0x1000, 0, 0x80a_0000, 0, 0xf6_0000]),
    );
    assert_refused(
        &format!("{at} `reg`: 0x10000, expected 128 KiB of redistributor or more"),
        reg(&[0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x1_0000]),
    );
    assert_refused(
        &format!("{at} `#redistributor-regions`: 0x0, expected 1 to 8 ranges"),
        |tree| set(tree, GIC, "#redistributor-regions", &cells(&[0])),
    );
    assert_refused(
        &format!("{at} `redistributor-stride`: 0x4, expected a multiple of 64 KiB"),
        |tree| set(tree, GIC, "redistributor-stride", &cells(&[0, 4])),
    );
    assert_refused(
        &format!("{at} `#interrupt-cells`: 0x1, expected 3 or 4 cells an interrupt"),
        |tree| {
            set(tree, GIC, "#interrupt-cells", &cells(&[1]));
        },
    );
}

#[test]
fn timers_without_a_usable_interrupt_are_refused() {
    let at = "node `timer`: property `interrupts`:";
    let interrupts = |value: &'static [u32]| {
        move |tree: &mut DeviceTree| set(tree, "/timer", "interrupts", &cells(value))
    };
    assert_refused(
        &format!("{at} missing, expected the interrupt of the Non-secure or of the virtual timer"),
        interrupts(&[1, 13, 4]),
    );
    assert_refused(
        &format!("{at} 0x0, expected 1, a private peripheral interrupt"),
        interrupts(&[0, 13, 4, 1, 14, 4]),
    );
    assert_refused(
        &format!("{at} 0x10, expected a private peripheral interrupt from 0 to 15"),
        interrupts(&[1, 16, 4, 1, 14, 4]),
    );
}

#[test]
fn named_timer_interrupts_may_come_in_any_order() {
    let blob = edited(|tree| {
        set(tree, "/timer", "interrupts", &cells(&[1, 11, 4, 1, 3, 4, 1, 14, 4]));
        set(tree, "/timer", "interrupt-names", b"virt\0hyp-virt\0phys\0");
    });
    let timer = Machine::parse(&blob).unwrap().timer;
    let ppis = [timer.secure, timer.non_secure, timer.virtual_].map(|ppi| ppi.map(|ppi| ppi.get()));
    assert_eq!(ppis, [None, Some(14), Some(11)]);
}

#[test]
fn a_console_behind_a_bus_is_where_the_cpu_sees_it() {
    let behind_a_bus = |ranges: &[u8]| {
        edited(|tree| {
            remove(tree, &UART[1..]);
            let mut bus = node("bus@0", &[("ranges", ranges)]);
            for name in ["#address-cells", "#size-cells"] {
                bus.add_property(DeviceTreeProperty::new(name, &cells(&[1])[..]).unwrap());
            }
            let uart: [(&str, &[u8]); 2] =
                [("compatible", b"arm,pl011\0"), ("reg", &cells(&[0x1_0000, 0x1000]))];
            bus.add_child(node("serial@10000", &uart));
            tree.root.add_child(bus);
        })
    };
    let shifted = behind_a_bus(&cells(&[0, 0x1c, 0, 0x10_0000]));
    assert_eq!(Machine::parse(&shifted).unwrap().console.base(), 0x1c_0001_0000);
    let same = behind_a_bus(&[]);
    assert_eq!(Machine::parse(&same).unwrap().console.base(), 0x1_0000);
    let outside = behind_a_bus(&cells(&[0, 0x1c, 0, 0x1_0fff]));
    assert_eq!(
        Machine::parse(&outside).unwrap_err().to_string(),
        "device tree: node `bus@0`: property `ranges`: 0x10000, \
         expected a range that holds every child"
    );
}

#[test]
fn reserved_memory_is_listed_with_the_reservation_block() {
    let blob = edited(|tree| {
        tree.memory_reservations = vec![
            dtoolkit::memreserve::MemoryReservation::new(0x4000_0000, 0x1_0000),
            dtoolkit::memreserve::MemoryReservation::new(0x4100_0000, 0),
        ];
        let mut parent = node("reserved-memory", &[("ranges", &[])]);
        for name in ["#address-cells", "#size-cells"] {
            parent.add_property(DeviceTreeProperty::new(name, &cells(&[2])[..]).unwrap());
        }
        let firmware: [(&str, &[u8]); 2] =
            [("reg", &cells(&[0, 0x4200_0000, 0, 0x2000])), ("no-map", &[])];
        parent.add_child(node("firmware@42000000", &firmware));
        parent.add_child(node("anywhere", &[("size", &cells(&[0, 0x10_0000]))]));
        let buffer: [(&str, &[u8]); 1] = [("reg", &cells(&[0, 0x4300_0000, 0, 0x1000]))];
        parent.add_child(node("buffer@43000000", &buffer));
        tree.root.add_child(parent);
    });
    let reserved: Vec<_> = Machine::parse(&blob)
        .unwrap()
        .reserved
        .iter()
        .map(|reserved| (reserved.region, reserved.no_map))
        .collect();
    let region = |base, size| Region::new(base, size).unwrap();
    assert_eq!(
        reserved,
        [
            (region(0x4000_0000, 0x1_0000), false),
            (region(0x4200_0000, 0x2000), true),
            (region(0x4300_0000, 0x1000), false),
        ]
    );
}
