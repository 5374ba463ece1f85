//! The CPUs and how they are started.

use crate::error::{Error, Problem};
use crate::node::{Node, number};
use arrayvec::ArrayVec;
use core::fmt;

/// Most CPUs listed.
pub const MAX_CPUS: usize = 64;

/// A CPU's affinity, as in MPIDR_EL1 with all but Aff3 to Aff0 cleared (Arm ARM DDI 0487,
/// D19.2.101). This is also the form PSCI's `CPU_ON` takes it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mpidr(u64);

impl Mpidr {
    /// The bits of Aff3 and Aff2 to Aff0.
    pub const AFFINITY: u64 = 0xff_00ff_ffff;

    /// The affinity in a value read from MPIDR_EL1.
    pub const fn from_register(mpidr_el1: u64) -> Self {
        Self(mpidr_el1 & Self::AFFINITY)
    }

    /// As a number, in the register's layout.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Mpidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A usable CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Which.
    pub mpidr: Mpidr,
    /// How it is started.
    pub enable_method: EnableMethod,
}

/// How a CPU is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnableMethod {
    /// PSCI's `CPU_ON`.
    Psci,
    /// By a method this kernel does not know, such as `spin-table`.
    Unknown,
    /// The tree does not say. QEMU says nothing on a machine with one CPU, which runs already.
    Unsaid,
}

/// The instruction that calls the firmware (Arm SMCCC, DEN 0028, 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `HVC`.
    Hvc,
    /// `SMC`.
    Smc,
}

/// The usable CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// In the tree's order; no two have the same affinity, never empty.
    pub listed: ArrayVec<Cpu, MAX_CPUS>,
    /// How many more there are.
    pub left_out: usize,
}

pub(crate) fn cpus(root: &Node) -> Result<Cpus, Error> {
    let parent =
        root.child("cpus").ok_or_else(|| root.error("", Problem::Missing("a node `cpus`")))?;
    let mut listed = ArrayVec::<Cpu, MAX_CPUS>::new();
    let mut left_out = 0;
    for node in parent.children().filter(is_cpu) {
        let cpu = cpu(&parent, &node)?;
        if listed.iter().any(|other| other.mpidr == cpu.mpidr) {
            let expected = "an affinity no other CPU has";
            return Err(node.error("reg", Problem::Value { found: cpu.mpidr.0, expected }));
        }
        if listed.try_push(cpu).is_err() {
            left_out += 1;
        }
    }
    if listed.is_empty() {
        return Err(parent.error("", Problem::Missing("a usable `cpu` node")));
    }
    Ok(Cpus { listed, left_out })
}

fn is_cpu(node: &Node) -> bool {
    node.property("device_type") == Some(b"cpu\0") && node.is_available()
}

fn cpu(parent: &Node, node: &Node) -> Result<Cpu, Error> {
    let reg = node.required("reg", "the CPU's affinity")?;
    let cells = parent.cell_counts()?.address;
    if reg.len() != 4 * cells || cells == 0 {
        let expected = "the CPU's affinity in the 1 or 2 cells of `#address-cells`";
        return Err(node.error("reg", Problem::Length { bytes: reg.len(), expected }));
    }
    let found = number(reg);
    if found & !Mpidr::AFFINITY != 0 {
        let expected = "an affinity, as in MPIDR_EL1";
        return Err(node.error("reg", Problem::Value { found, expected }));
    }
    let enable_method = match node.property("enable-method") {
        None => EnableMethod::Unsaid,
        Some(b"psci\0") => EnableMethod::Psci,
        Some(_) => EnableMethod::Unknown,
    };
    Ok(Cpu { mpidr: Mpidr(found), enable_method })
}

/// How PSCI is called. Function numbers are fixed since version 0.2 (DEN 0022, 5.1); the one
/// before is not supported.
pub(crate) fn psci(root: &Node, cpus: &[Cpu]) -> Result<Option<Conduit>, Error> {
    let is_psci = |node: &Node| node.is_compatible(&["arm,psci-1.0", "arm,psci-0.2"]);
    let Some(node) = root.find(&is_psci) else {
        return match cpus.iter().any(|cpu| cpu.enable_method == EnableMethod::Psci) {
            true => Err(root.error("", Problem::Missing("a node compatible with arm,psci-0.2"))),
            false => Ok(None),
        };
    };
    match node.text("method")? {
        Some("hvc") => Ok(Some(Conduit::Hvc)),
        Some("smc") => Ok(Some(Conduit::Smc)),
        _ => Err(node.error("method", Problem::Text("`hvc` or `smc`"))),
    }
}
