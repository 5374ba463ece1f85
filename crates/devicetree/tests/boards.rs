//! Trees in the words of real boards, compiled by `dtc` from the sources beside them, and what each says.

use kpkeys_devicetree::{Conduit, Console, Gic, Machine, Ram, Region, Reserved};

macro_rules! tree {
    ($name:literal) => {
        include_bytes!(concat!("data/", $name, ".dtb"))
    };
}

fn whole(blob: &[u8]) -> Machine<'_> {
    let machine = Machine::parse(blob).unwrap_or_else(|error| panic!("{error}"));
    let errors: Vec<_> = machine.errors().collect();
    assert!(errors.is_empty(), "{errors:?}");
    machine
}

fn region(base: u64, size: u64) -> Region {
    Region::new(base, size).unwrap()
}

fn affinities(machine: &Machine) -> Vec<u64> {
    machine.cpus.as_ref().unwrap().listed.iter().map(|cpu| cpu.mpidr.get()).collect()
}

#[test]
fn names_may_be_longer_than_31_characters() {
    let machine = whole(tree!("long-names"));
    assert_eq!(affinities(&machine), [0, 1]);
    assert_eq!(machine.ram.unwrap().ranges(), [region(0x4000_0000, 0x1000_0000)]);
    assert_eq!(machine.timer.unwrap().virtual_.map(|ppi| ppi.intid()), Some(27));
    assert_eq!(machine.console, Ok(Console::Pl011(region(0x900_0000, 0x1000))));
}

#[test]
fn a_phone_leaves_memory_to_its_boot_loader_and_has_another_console() {
    let machine = whole(tree!("phone"));
    assert_eq!(machine.ram, Ok(Ram::LeftToLoader));
    assert_eq!(affinities(&machine), [0, 0x100]);
    assert_eq!(machine.psci, Ok(Some(Conduit::Smc)));
    assert_eq!(machine.console, Ok(Console::Other("qcom,msm-uartdm-v1.4")));
    assert_eq!(machine.timer.unwrap().virtual_.map(|ppi| ppi.intid()), Some(20));
    let firmware = Reserved { region: region(0x8600_0000, 0x30_0000), no_map: true };
    assert_eq!(machine.reserved.unwrap()[..], [firmware]);
    let (distributor, cpu_interface) = (region(0xb00_0000, 0x1000), region(0xb00_2000, 0x1000));
    assert_eq!(machine.gic, Ok(Gic::V2 { distributor, cpu_interface }));
}
