//! A machine that describes itself by ACPI is described by a device tree, which the kernel's reader understands.
//!
//! The tables are those that QEMU's board `virt` has (`tests/data`: MADT, FADT, GTDT and SPCR, one behind the other): with four CPUs at EL2 and a GICv3,
//! and with two at EL1 and a GICv2.

use kpkeys_devicetree::{Conduit, Console, EnableMethod, Gic, Machine};
use kpkeys_handover::acpi::{Controller, Description, Error, MAX_REDISTRIBUTORS};
use kpkeys_handover::ranges::Usable;
use kpkeys_handover::{described, tree};
use proptest::prelude::*;

const V3: &[u8] = include_bytes!("data/v3-smp4.acpi");
const V2: &[u8] = include_bytes!("data/v2-smp2.acpi");

/// Where tables begin; the root pointer and the root table are in the page before.
const TABLES: usize = 0x2000;
const ROOT: usize = 0x1000;

fn sum_to_zero(bytes: &mut [u8], checksum: usize) {
    bytes[checksum] = 0;
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[checksum] = sum.wrapping_neg();
}

/// The tables, taken apart.
fn tables(mut all: &[u8]) -> Vec<Vec<u8>> {
    let mut tables = Vec::new();
    while let Some(len) = all.get(4..8) {
        let len = u32::from_le_bytes(len.try_into().unwrap()) as usize;
        tables.push(all[..len].to_vec());
        all = &all[len..];
    }
    tables
}

/// Memory with these tables in it, and what leads to them.
fn memory(tables: &[Vec<u8>]) -> Vec<u8> {
    let mut memory = vec![0; TABLES];
    let mut root = b"XSDT".to_vec();
    root.resize(36, 0);
    for table in tables {
        root.extend((memory.len() as u64).to_le_bytes());
        memory.extend(table);
    }
    let len = root.len();
    root[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    sum_to_zero(&mut root, 9);
    memory[ROOT + 64..][..len].copy_from_slice(&root);
    memory[ROOT..][..8].copy_from_slice(b"RSD PTR ");
    memory[ROOT + 15] = 2;
    memory[ROOT + 24..][..8].copy_from_slice(&(ROOT as u64 + 64).to_le_bytes());
    memory
}

fn read(memory: &[u8]) -> Result<Description, Error> {
    Description::read(ROOT as u64, |at, len| {
        let at = usize::try_from(at).ok()?;
        memory.get(at..at.checked_add(len)?)
    })
}

/// What is read after a change to the table with this signature, whose checksum is mended.
fn changed(signature: &[u8; 4], change: impl FnOnce(&mut Vec<u8>)) -> Result<Description, Error> {
    let mut tables = tables(V3);
    let table = tables.iter_mut().find(|table| table.starts_with(signature)).unwrap();
    change(table);
    let len = table.len() as u32;
    table[4..8].copy_from_slice(&len.to_le_bytes());
    sum_to_zero(table, 9);
    read(&memory(&tables))
}

/// The offset of the first structure of a kind in the MADT.
fn structure(madt: &[u8], kind: u8) -> usize {
    let mut at = 44;
    while madt[at] != kind {
        at += usize::from(madt[at + 1]);
    }
    at
}

#[test]
fn a_machine_with_the_series_interrupt_controller() {
    let machine = read(&memory(&tables(V3))).unwrap();
    assert_eq!(machine.cpus, [0, 1, 2, 3]);
    let tree = tree_of(&machine);
    let machine = Machine::parse(&tree).unwrap();
    assert_eq!(machine.psci, Ok(Some(Conduit::Smc)));
    let cpus = machine.cpus.unwrap();
    assert!(cpus.listed.iter().all(|cpu| cpu.enable_method == EnableMethod::Psci));
    assert_eq!(cpus.listed.iter().map(|cpu| cpu.mpidr.get()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let Ok(Gic::V3 { distributor, redistributors, .. }) = machine.gic else { panic!() };
    assert_eq!((distributor.base(), redistributors[0].base()), (0x800_0000, 0x80a_0000));
    let timer = machine.timer.unwrap();
    let interrupts = [timer.secure, timer.non_secure, timer.virtual_, timer.hypervisor];
    assert_eq!(interrupts.map(|ppi| ppi.map(|ppi| ppi.get())), [13, 14, 11, 10].map(Some));
    let Ok(Console::Pl011(console)) = machine.console else { panic!("{:?}", machine.console) };
    assert_eq!(console.base(), 0x900_0000);
    assert_eq!(machine.ram.unwrap().ranges()[0].base(), 0x4000_0000);
    assert_eq!(machine.boot_arguments, Ok("tests"));
}

#[test]
fn a_machine_with_the_controller_before() {
    let tree = tree_of(&read(&memory(&tables(V2))).unwrap());
    let machine = Machine::parse(&tree).unwrap();
    assert_eq!(machine.psci, Ok(Some(Conduit::Hvc)));
    assert_eq!(machine.cpus.unwrap().listed.len(), 2);
    let Ok(Gic::V2 { distributor, cpu_interface }) = machine.gic else { panic!() };
    assert_eq!((distributor.base(), cpu_interface.base()), (0x800_0000, 0x801_0000));
}

fn tree_of(machine: &Description) -> Vec<u8> {
    let usable = Usable::new(core::iter::once(0x4000_0000..0x8000_0000));
    tree::edited(&described::tree(machine).unwrap(), &usable, "tests").unwrap()
}

/// Servers name each CPU's redistributor with the CPU: those that touch are one place.
#[test]
fn redistributors_may_be_named_by_cpus() {
    let machine = changed(b"APIC", |madt| {
        let range = structure(madt, 0x0e);
        madt[range] = 0xff;
        let mut at = structure(madt, 0x0b);
        for cpu in [0_u64, 1, 2, 5] {
            madt[at + 60..][..8].copy_from_slice(&(0x10_0000 + cpu * 0x2_0000).to_le_bytes());
            at += usize::from(madt[at + 1]);
        }
    });
    let Controller::V3 { redistributors, .. } = machine.unwrap().controller else { panic!() };
    assert_eq!(redistributors, [(0x10_0000, 0x6_0000), (0x1a_0000, 0x2_0000)]);
}

#[test]
fn what_is_wrong_is_named() {
    let all = tables(V3);
    for (number, name) in ["MADT", "FADT", "GTDT", "SPCR"].into_iter().enumerate() {
        let mut without = all.clone();
        without.remove(number);
        assert_eq!(read(&memory(&without)), Err(Error::Missing(name)));
        let mut damaged = all.clone();
        damaged[number][40] ^= 1;
        assert_eq!(read(&memory(&damaged)), Err(Error::Checksum(name)));
        let mut short = all.clone();
        short[number].truncate(36);
        short[number][4..8].copy_from_slice(&36_u32.to_le_bytes());
        sum_to_zero(&mut short[number], 9);
        let expected = if name == "MADT" { Error::NoCpus } else { Error::Short(name) };
        assert_eq!(read(&memory(&short)), Err(expected));
    }
    assert_eq!(read(&[]), Err(Error::Missing("root pointer (RSDP)")));
    assert_eq!(changed(b"SPCR", |spcr| spcr[36] = 0).unwrap_err(), Error::Console(0));
    let off = changed(b"APIC", |madt| {
        let mut at = structure(madt, 0x0b);
        for _ in 0..4 {
            madt[at + 12] = 0;
            at += usize::from(madt[at + 1]);
        }
    });
    assert_eq!(off.unwrap_err(), Error::NoCpus);
    let version = |version| {
        changed(b"APIC", |madt| {
            let at = structure(madt, 0x0c);
            madt[at + 20] = version;
        })
    };
    assert_eq!(version(1).unwrap_err(), Error::Controller(1));
    assert_eq!(version(5).unwrap_err(), Error::Controller(5));
    let shared = changed(b"GTDT", |gtdt| (gtdt[56], gtdt[64]) = (32, 15));
    assert_eq!(shared.unwrap_err(), Error::Timer);
    let many = changed(b"APIC", |madt| {
        for place in 0..MAX_REDISTRIBUTORS as u64 {
            madt.extend([0x0e, 16, 0, 0]);
            madt.extend((0x1_0000_0000 * (place + 1)).to_le_bytes());
            madt.extend(0x2_0000_u32.to_le_bytes());
        }
    });
    assert_eq!(many.unwrap_err(), Error::Redistributors(MAX_REDISTRIBUTORS + 1));
}

#[test]
fn a_machine_without_psci_has_none_in_the_tree() {
    let machine = changed(b"FACP", |fadt| fadt[129] = 0).unwrap();
    let tree = tree_of(&machine);
    assert_eq!(Machine::parse(&tree).unwrap().psci, Ok(None));
}

proptest! {
    /// Whatever the tables say: an error or a description, and of that a tree.
    #[test]
    fn damaged_tables_do_no_harm(
        damage in proptest::collection::vec((0..V3.len(), any::<u8>()), 1..8),
        mended in any::<bool>(),
    ) {
        let mut all = V3.to_vec();
        damage.iter().for_each(|&(at, byte)| all[at] = byte);
        let mut memory = memory(&tables(V3));
        memory[TABLES..].copy_from_slice(&all);
        let mut at = TABLES;
        for len in tables(V3).iter().map(Vec::len) {
            if mended {
                sum_to_zero(&mut memory[at..at + len], 9);
            }
            at += len;
        }
        if let Ok(machine) = read(&memory) {
            let _ = described::tree(&machine);
        }
    }
}
