//! What an arm64 kernel needs to know from a flattened device tree, before it has a heap.
//!
//! The boot loader hands a kernel one blob, a *flattened device tree* (Devicetree
//! Specification v0.4, chapter 5), that says which memory there is, which of it is taken, how
//! to start the other CPUs, and where the interrupt controller, the timer and the console are.
//! [`Machine::parse`] reads all of it at once into plain values:
//!
//! ```
//! # let blob: &[u8] = include_bytes!("../tests/data/v3-smp8-4g.dtb");
//! let machine = kpkeys_devicetree::Machine::parse(blob)?;
//! assert_eq!(machine.cpus?.listed.len(), 8);
//! assert_eq!(machine.ram?.ranges()[0].size(), 4 << 30);
//! # Ok::<(), kpkeys_devicetree::Error>(())
//! ```
//!
//! A device tree is firmware's input and is not trusted: lengths, cell counts and sums are
//! checked, and what does not add up is an [`Error`] with the node, the property and what was
//! expected there. The answer comes in *parts*, each a value or an error of its own: a board whose
//! interrupt controller nobody knows still has memory and a console to say so. Only a
//! blob that cannot be walked has no parts at all. Reading never panics and ends in time proportional to the
//! blob. Nothing is allocated: lists have a fixed capacity, and a list that does not fit is an
//! error where dropping its end would be wrong (memory) and a count where it would not (CPUs).

#![no_std]
#![forbid(unsafe_code)]

mod chosen;
mod cpus;
mod error;
mod flat;
mod gic;
mod interrupts;
mod memory;
mod node;
mod timer;

pub use chosen::Console;
pub use cpus::{Conduit, Cpu, Cpus, EnableMethod, MAX_CPUS, Mpidr};
pub use error::{Error, Problem};
pub use flat::{HEADER_LEN, blob_len};
pub use gic::{Gic, MAX_REDISTRIBUTOR_REGIONS};
pub use memory::{MAX_RAM_REGIONS, MAX_RESERVED_REGIONS, Ram, Region, Reserved};
pub use timer::{Ppi, Timer};

use arrayvec::ArrayVec;
use flat::Tree;
use node::Node;

/// The machine a device tree describes, as far as this kernel uses it, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine<'a> {
    /// Memory. None of it is a device's registers.
    pub ram: Result<Ram, Error>,
    /// Memory that is taken, in the tree's order. Ranges may overlap and may lie outside RAM.
    /// The blob itself is not in it unless the loader put it there.
    pub reserved: Result<ArrayVec<Reserved, MAX_RESERVED_REGIONS>, Error>,
    /// Usable CPUs.
    pub cpus: Result<Cpus, Error>,
    /// How the firmware's PSCI is called; `None` where there is no PSCI (then no CPU has it
    /// as its [`EnableMethod`] either).
    pub psci: Result<Option<Conduit>, Error>,
    /// The interrupt controller.
    pub gic: Result<Gic, Error>,
    /// The generic timer's interrupts.
    pub timer: Result<Timer, Error>,
    /// The serial port to talk to.
    pub console: Result<Console<'a>, Error>,
    /// The kernel's command line; empty where the tree has none.
    pub boot_arguments: Result<&'a str, Error>,
    /// The archive of files that the loader put into memory; `None` where it put none.
    pub initramfs: Result<Option<Region>, Error>,
}

impl<'a> Machine<'a> {
    /// Reads the blob at the start of `bytes`, which may be longer than the blob.
    ///
    /// # Errors
    ///
    /// [`Error`] says why the blob cannot be walked.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let tree = Tree::open(bytes)?;
        let root = Node::root(tree);
        let (cpus, gic, console) = (cpus::cpus(&root), gic::find(&root), chosen::console(&root));
        let ram = memory::ram(&root).and_then(|ram| {
            let uart = match console {
                Ok(Console::Pl011(registers)) => Some(registers),
                _ => None,
            };
            let devices = gic.iter().flat_map(Gic::regions).chain(uart);
            memory::refuse_devices_in_ram(ram.ranges(), devices).map(|()| ram)
        });
        Ok(Self {
            ram,
            reserved: memory::reserved(tree, &root),
            psci: cpus::psci(&root, cpus.as_ref().map_or(&[], |cpus| &cpus.listed)),
            cpus,
            timer: timer::find(&root),
            gic,
            console,
            boot_arguments: chosen::boot_arguments(&root),
            initramfs: chosen::initramfs(&root),
        })
    }

    /// The parts that are wrong, by name, and what is.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, &Error)> {
        let parts = [
            ("memory", self.ram.as_ref().err()),
            ("reserved memory", self.reserved.as_ref().err()),
            ("CPUs", self.cpus.as_ref().err()),
            ("firmware", self.psci.as_ref().err()),
            ("interrupt controller", self.gic.as_ref().err()),
            ("timer", self.timer.as_ref().err()),
            ("console", self.console.as_ref().err()),
            ("command line", self.boot_arguments.as_ref().err()),
            ("initramfs", self.initramfs.as_ref().err()),
        ];
        parts.into_iter().filter_map(|(part, error)| Some((part, error?)))
    }
}

/// The serial port to talk to, also where the rest of the tree is no good: so that the
/// kernel can say why it stops. In a damaged blob it is looked for up to the damage.
///
/// # Errors
///
/// [`Error`] when not even the header holds, or what is there is no console.
pub fn console(bytes: &[u8]) -> Result<Console<'_>, Error> {
    chosen::console(&Node::root(Tree::open_damaged(bytes)?))
}
