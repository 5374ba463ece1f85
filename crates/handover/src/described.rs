//! A device tree for a machine that has ACPI instead: so that the kernel reads one description.
//!
//! It has what the kernel reads (Devicetree Specification v0.4; Linux, the bindings `arm,gic.yaml`, `arm,gic-v3.yaml`, `arm,arch_timer.yaml`, `psci.yaml`, `cpus.yaml`,
//! `pl011.yaml`), and no memory: [`tree::edited`](crate::tree::edited) adds what the firmware leaves.

use crate::acpi::{Conduit, Controller, Description, Registers, TimerInterrupt};
use crate::tree::{Error, property};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};

/// The interrupt controller's number, by which others name it.
const CONTROLLER: u32 = 1;
/// Bytes of a PL011's registers (DDI 0183, 3.2).
const PL011_LEN: u64 = 0x1000;

/// The tree.
///
/// # Errors
///
/// [`Error::Model`], if it cannot be made.
pub fn tree(machine: &Description) -> Result<Vec<u8>, Error> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    for name in ["#address-cells", "#size-cells"] {
        root.add_property(property(name, &words(&[2]))?);
    }
    root.add_property(property("interrupt-parent", &words(&[CONTROLLER]))?);
    if let Some(conduit) = machine.psci {
        root.add_child(psci(conduit)?);
    }
    root.add_child(cpus(machine)?);
    root.add_child(controller(&machine.controller)?);
    root.add_child(timer(&machine.timers)?);
    let console = format!("pl011@{:x}", machine.console);
    let compatible = property("compatible", b"arm,pl011\0arm,primecell\0")?;
    let at = property("reg", &registers(&[(machine.console, PL011_LEN)]))?;
    root.add_child(node(&console, [compatible, at])?);
    let path = format!("/{console}\0");
    root.add_child(node("chosen", [property("stdout-path", path.as_bytes())?])?);
    Ok(tree.to_dtb())
}

fn psci(conduit: Conduit) -> Result<DeviceTreeNode, Error> {
    let method: &[u8] = match conduit {
        Conduit::Smc => b"smc\0",
        Conduit::Hvc => b"hvc\0",
    };
    let compatible = property("compatible", b"arm,psci-1.0\0arm,psci-0.2\0")?;
    node("psci", [compatible, property("method", method)?])
}

fn cpus(machine: &Description) -> Result<DeviceTreeNode, Error> {
    let cells = [property("#address-cells", &words(&[2]))?, property("#size-cells", &words(&[0]))?];
    let mut cpus = node("cpus", cells)?;
    for &affinity in &machine.cpus {
        let name = format!("cpu@{affinity:x}");
        let kind = property("device_type", b"cpu\0")?;
        let mut cpu = node(&name, [kind, property("reg", &affinity.to_be_bytes())?])?;
        cpu.add_property(property("compatible", b"arm,armv8\0")?);
        if machine.psci.is_some() {
            cpu.add_property(property("enable-method", b"psci\0")?);
        }
        cpus.add_child(cpu);
    }
    Ok(cpus)
}

fn controller(controller: &Controller) -> Result<DeviceTreeNode, Error> {
    let (model, list): (&[u8], Vec<Registers>) = match controller {
        Controller::V2 { distributor, cpu_interface } => {
            (b"arm,gic-400\0", [*distributor, *cpu_interface].into())
        }
        Controller::V3 { distributor, redistributors } => {
            (b"arm,gic-v3\0", [*distributor].iter().chain(redistributors).copied().collect())
        }
    };
    let name = format!("interrupt-controller@{:x}", list.first().map_or(0, |first| first.0));
    let properties = [
        property("compatible", model)?,
        property("interrupt-controller", &[])?,
        property("#interrupt-cells", &words(&[3]))?,
        property("phandle", &words(&[CONTROLLER]))?,
        property("reg", &registers(&list))?,
    ];
    let mut node = node(&name, properties)?;
    if let Controller::V3 { redistributors, .. } = controller {
        let places = u32::try_from(redistributors.len()).map_err(|_| Error::Model)?;
        node.add_property(property("#redistributor-regions", &words(&[places]))?);
    }
    Ok(node)
}

/// Those that there are, by their names.
fn timer(timers: &[Option<TimerInterrupt>; 4]) -> Result<DeviceTreeNode, Error> {
    const PRIVATE: u32 = 1;
    let mut names = String::new();
    let mut interrupts = Vec::new();
    for (name, timer) in ["sec-phys", "phys", "virt", "hyp-phys"].into_iter().zip(timers) {
        let Some(TimerInterrupt { ppi, edge, low }) = *timer else { continue };
        let signal = match (edge, low) {
            (true, false) => 1,
            (true, true) => 2,
            (false, false) => 4,
            (false, true) => 8,
        };
        interrupts.extend(words(&[PRIVATE, ppi, signal]));
        names.push_str(name);
        names.push('\0');
    }
    let properties = [
        property("compatible", b"arm,armv8-timer\0")?,
        property("interrupts", &interrupts)?,
        property("interrupt-names", names.as_bytes())?,
    ];
    node("timer", properties)
}

fn node<const N: usize>(
    name: &str,
    properties: [dtoolkit::model::DeviceTreeProperty; N],
) -> Result<DeviceTreeNode, Error> {
    let mut node = DeviceTreeNode::new(name).map_err(|_| Error::Model)?;
    properties.into_iter().for_each(|property| node.add_property(property));
    Ok(node)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn registers(list: &[Registers]) -> Vec<u8> {
    list.iter().flat_map(|&(at, len)| [at, len]).flat_map(u64::to_be_bytes).collect()
}
