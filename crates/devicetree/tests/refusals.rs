//! Trees that are wrong in one way: the part that is wrong says so with the node, the property and what was
//! expected, and all others are read; or the tree is understood as a reader of the specification would.

mod support;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use kpkeys_devicetree::{Console, Gic, HEADER_LEN, Machine, Problem, Ram, Region, blob_len};
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

/// Everything that is said of the tree after `edit`.
fn said_of(edit: impl FnOnce(&mut DeviceTree)) -> Vec<String> {
    let blob = edited(edit);
    let machine = Machine::parse(&blob).unwrap_or_else(|error| panic!("{error}"));
    machine.errors().map(|(_, error)| error.to_string()).collect()
}

/// This is wrong with the tree after `edit`, and nothing else.
#[track_caller]
fn assert_refused(expected: &str, edit: impl FnOnce(&mut DeviceTree)) {
    assert_eq!(said_of(edit), [format!("device tree: {expected}")]);
}

/// The same of several parts.
#[track_caller]
fn assert_all_refused(expected: &[&str], edit: impl FnOnce(&mut DeviceTree)) {
    let expected: Vec<_> = expected.iter().map(|text| format!("device tree: {text}")).collect();
    assert_eq!(said_of(edit), expected);
}

fn machine(blob: &[u8]) -> Machine<'_> {
    Machine::parse(blob).unwrap_or_else(|error| panic!("{error}"))
}

fn pl011(blob: &[u8]) -> u64 {
    match machine(blob).console {
        Ok(Console::Pl011(registers)) => registers.base(),
        other => panic!("{other:?}"),
    }
}

fn ram_after(edit: impl FnOnce(&mut DeviceTree)) -> Vec<(u64, u64)> {
    let ram = machine(&edited(edit)).ram.unwrap();
    ram.ranges().iter().map(|ram| (ram.base(), ram.size())).collect()
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
        ("cpus", "a node `cpus`"),
        ("psci", "a node compatible with arm,psci-0.2"),
        ("timer", "a timer compatible with arm,armv8-timer"),
    ];
    for (name, expected) in missing {
        assert_refused(&format!("node `/`: missing, expected {expected}"), |tree| {
            remove(tree, name);
        });
    }
    assert_all_refused(
        &[
            "node `/`: missing, expected an interrupt controller compatible with arm,gic-v3 or a model of GICv2",
            "node `/`: property `interrupt-parent`: 0x8009, expected the number of an interrupt controller",
        ],
        |tree| remove(tree, "intc@8000000"),
    );
}

/// Many things are wrong at once: each part has its own error, and what is left is read.
#[test]
fn parts_do_not_take_each_other_with_them() {
    let blob = edited(|tree| {
        set(tree, GIC, "compatible", b"apple,aic\0");
        set(tree, "/cpus/cpu@1", "reg", &cells(&[0x8000_0001]));
        set(tree, "/psci", "method", b"call\0");
        set(tree, "/chosen", "bootargs", b"no end");
    });
    let machine = machine(&blob);
    assert_eq!(machine.errors().count(), 5, "{machine:?}");
    assert_eq!(machine.ram.unwrap().ranges()[0].size(), 4 << 30);
    assert!(machine.reserved.is_ok());
    assert!(matches!(machine.console, Ok(Console::Pl011(_))));
    let errors = [
        machine.cpus.unwrap_err(),
        machine.psci.unwrap_err(),
        machine.gic.unwrap_err(),
        machine.timer.unwrap_err(),
        machine.boot_arguments.unwrap_err(),
    ];
    let at = errors.map(|error| format!("{}:{}", error.node, error.property));
    assert_eq!(at, ["cpu@1:reg", "psci:method", "/:", "timer:interrupts", "chosen:bootargs"]);
}

/// Of 1,600 trees of real boards most have no PL011 and a third leave memory to the boot loader.
#[test]
fn what_a_board_does_not_have_or_say_is_no_error() {
    let console = |blob: &[u8]| format!("{:?}", machine(blob).console.unwrap());
    let without = edited(|tree| remove(tree, "pl011@9000000"));
    assert_eq!(console(&without), "Unsaid");
    let other =
        edited(|tree| set(tree, UART, "compatible", b"rockchip,rk3399-uart\0snps,dw-apb-uart\0"));
    assert_eq!(console(&other), "Other(\"rockchip,rk3399-uart\")");
    for unsaid in [
        edited(|tree| remove(tree, "memory@40000000")),
        edited(|tree| set(tree, MEMORY, "reg", &cells(&[0, 0x4000_0000, 0, 0]))),
        edited(|tree| set(tree, MEMORY, "status", b"disabled\0")),
    ] {
        assert_eq!(machine(&unsaid).ram, Ok(Ram::LeftToLoader));
        assert_eq!(machine(&unsaid).cpus.unwrap().listed.len(), 8);
    }
}

/// A blob that is damaged somewhere has no parts, but its console is found if that comes before.
#[test]
fn the_console_is_found_in_a_damaged_tree() {
    let mut blob = VIRT.to_vec();
    let end_of_structure = 9_u32.to_be_bytes();
    let at = blob.as_chunks::<4>().0.iter().rposition(|word| *word == end_of_structure).unwrap();
    blob[4 * at..4 * at + 4].copy_from_slice(&7_u32.to_be_bytes());
    assert!(matches!(Machine::parse(&blob).unwrap_err().problem, Problem::Malformed { .. }));
    assert!(matches!(kpkeys_devicetree::console(&blob), Ok(Console::Pl011(_))));
}

#[test]
fn without_chosen_the_first_serial_port_and_no_arguments_are_taken() {
    let blob = edited(|tree| remove(tree, "chosen"));
    assert_eq!((pl011(&blob), machine(&blob).boot_arguments.unwrap()), (0x900_0000, ""));
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
    assert_eq!(pl011(&blob), 0x904_0000);
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
    let cpus = machine(&blob).cpus.unwrap();
    assert_eq!((cpus.listed.len(), cpus.left_out), (64, 36));
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
    assert_eq!(machine(&blob).cpus.unwrap().listed[5].mpidr.get(), 0x7_0000_0005);
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
        // Memory, the interrupt controller and the console have an address.
        assert_all_refused(&[&*at(name, problem); 3], |tree| set(tree, "/", name, &cells(&value)));
    }
    let expected =
        "property `reg`: missing, expected a parent whose children have addresses and sizes";
    assert_all_refused(
        &["memory@40000000", "intc@8000000", "pl011@9000000"]
            .map(|name| format!("node `{name}`: {expected}"))
            .each_ref()
            .map(String::as_str),
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
        "node `timer`: property `interrupts`: missing, \
         expected interrupts of three cells or more, as a GIC has them",
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

/// As on boards whose timer names its controller with each interrupt.
#[test]
fn a_timer_may_name_its_controller_with_each_interrupt() {
    let extended = |value: &'static [u32]| {
        move |tree: &mut DeviceTree| {
            tree.find_node_mut("/timer").unwrap().remove_property("interrupts").unwrap();
            set(tree, "/timer", "interrupts-extended", &cells(value));
        }
    };
    let blob = edited(extended(&[0x8009, 1, 13, 4, 0x8009, 1, 14, 4, 0x8009, 1, 11, 4]));
    let timer = machine(&blob).timer.unwrap();
    let ppis = [timer.secure, timer.non_secure, timer.virtual_].map(|ppi| ppi.map(|ppi| ppi.get()));
    assert_eq!(ppis, [Some(13), Some(14), Some(11)]);

    let at = "node `timer`: property `interrupts-extended`:";
    assert_refused(
        &format!("{at} 0xbad, expected the number of an interrupt controller"),
        extended(&[0xbad, 1, 13, 4]),
    );
    assert_refused(
        &format!("{at} 8 bytes, expected a controller's number and the cells of its interrupt"),
        extended(&[0x8009, 1, 13, 4, 0x8009, 1]),
    );
}

#[test]
fn qualcomms_gics_are_version_2() {
    let model = b"qcom,msm-qgic2\0";
    let blob = edited(|tree| set(tree, GIC, "compatible", model));
    assert!(matches!(machine(&blob).gic, Ok(Gic::V2 { .. })));
}

#[test]
fn named_timer_interrupts_may_come_in_any_order() {
    let blob = edited(|tree| {
        set(tree, "/timer", "interrupts", &cells(&[1, 11, 4, 1, 3, 4, 1, 14, 4]));
        set(tree, "/timer", "interrupt-names", b"virt\0hyp-virt\0phys\0");
    });
    let timer = machine(&blob).timer.unwrap();
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
    assert_eq!(pl011(&shifted), 0x1c_0001_0000);
    let same = behind_a_bus(&[]);
    assert_eq!(pl011(&same), 0x1_0000);
    let outside = behind_a_bus(&cells(&[0, 0x1c, 0, 0x1_0fff]));
    assert_eq!(
        machine(&outside).console.unwrap_err().to_string(),
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
    let reserved: Vec<_> = machine(&blob)
        .reserved
        .unwrap()
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
