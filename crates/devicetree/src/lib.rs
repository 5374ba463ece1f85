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
//! assert_eq!(machine.cpus.len(), 8);
//! assert_eq!(machine.ram[0].size(), 4 << 30);
//! # Ok::<(), kpkeys_devicetree::Error>(())
//! ```
//!
//! A device tree is firmware's input and is not trusted: lengths, cell counts and sums are
//! checked, and what does not add up is refused with the node, the property and what was
//! expected there ([`Error`]). Reading never panics and ends in time proportional to the
//! blob. Nothing is allocated: lists have a fixed capacity, and a list that does not fit is an
//! error where dropping its end would be wrong (memory) and a count where it would not (CPUs).
//!
//! The walk over the blob itself is [`dtoolkit`]'s; this crate gives its nodes a meaning.

#![no_std]
#![forbid(unsafe_code)]

mod blob;
mod chosen;
mod cpus;
mod error;
mod gic;
mod memory;
mod node;
mod timer;

pub use blob::{HEADER_LEN, blob_len};
pub use cpus::{Conduit, Cpu, EnableMethod, MAX_CPUS, Mpidr};
pub use error::{Error, Problem};
pub use gic::{Gic, MAX_REDISTRIBUTOR_REGIONS};
pub use memory::{MAX_RAM_REGIONS, MAX_RESERVED_REGIONS, Region, Reserved};
pub use timer::{Ppi, Timer};

use arrayvec::ArrayVec;
use node::Node;

/// The machine a device tree describes, as far as this kernel uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine<'a> {
    /// Memory, by rising address; neighbours are joined, none overlap, never empty.
    pub ram: ArrayVec<Region, MAX_RAM_REGIONS>,
    /// Memory that is taken, in the tree's order. Ranges may overlap and may lie outside RAM.
    /// The blob itself is not in it unless the loader put it there.
    pub reserved: ArrayVec<Reserved, MAX_RESERVED_REGIONS>,
    /// Usable CPUs, in the tree's order; no two have the same affinity, never empty.
    pub cpus: ArrayVec<Cpu, MAX_CPUS>,
    /// Usable CPUs beyond [`MAX_CPUS`].
    pub cpus_left_out: usize,
    /// How the firmware's PSCI is called; `None` where there is no PSCI (then no CPU has it
    /// as its [`EnableMethod`] either).
    pub psci: Option<Conduit>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The generic timer's interrupts.
    pub timer: Timer,
    /// Registers of the PL011 serial port to talk to.
    pub console: Region,
    /// The kernel's command line; empty where the tree has none.
    pub boot_arguments: &'a str,
}

impl<'a> Machine<'a> {
    /// Reads the blob at the start of `bytes`, which may be longer than the blob.
    ///
    /// # Errors
    ///
    /// [`Error`] says which node and property were wrong and what was expected there.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let tree = blob::open(bytes)?;
        let root = Node::root(tree);
        let ram = memory::ram(&root)?;
        let (cpus, cpus_left_out) = cpus::cpus(&root)?;
        let psci = cpus::psci(&root, &cpus)?;
        let (gic, interrupt_cells) = gic::find(&root)?;
        let console = chosen::console(&root)?;
        memory::refuse_devices_in_ram(&ram, gic.regions().chain([console]))?;
        Ok(Self {
            reserved: memory::reserved(tree, &root)?,
            timer: timer::find(&root, interrupt_cells)?,
            boot_arguments: chosen::boot_arguments(&root)?,
            ram,
            cpus,
            cpus_left_out,
            psci,
            gic,
            console,
        })
    }
}

/// Registers of the PL011 to talk to, also where the rest of the tree is no good: so that the
/// kernel can say why it stops.
///
/// # Errors
///
/// [`Error`] when the blob cannot be walked or has no PL011.
pub fn console(bytes: &[u8]) -> Result<Region, Error> {
    chosen::console(&Node::root(blob::open(bytes)?))
}
