//! The interrupt controller: a GICv2 (IHI 0048) or GICv3 and later (IHI 0069).

use crate::error::{Error, Problem};
use crate::memory::Region;
use crate::node::Node;
use arrayvec::ArrayVec;

/// Most separate ranges of redistributors.
pub const MAX_REDISTRIBUTOR_REGIONS: usize = 8;

/// Where the interrupt controller's registers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gic {
    /// Version 2.
    V2 {
        /// GICD.
        distributor: Region,
        /// GICC; each CPU sees its own there.
        cpu_interface: Region,
    },
    /// Version 3 or later, whose CPU interface is in system registers.
    V3 {
        /// GICD.
        distributor: Region,
        /// GICR of all CPUs, one after the other in each range; never empty.
        redistributors: ArrayVec<Region, MAX_REDISTRIBUTOR_REGIONS>,
        /// Distance of one CPU's GICR from the next; `None` for what the architecture gives.
        redistributor_stride: Option<u64>,
    },
}

impl Gic {
    /// All its registers.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        let (first, rest) = match self {
            Self::V2 { distributor, cpu_interface } => {
                (distributor, core::slice::from_ref(cpu_interface))
            }
            Self::V3 { distributor, redistributors, .. } => {
                (distributor, redistributors.as_slice())
            }
        };
        core::iter::once(first).chain(rest).copied()
    }
}

/// What the models of version 2 call themselves (Linux, bindings `arm,gic.yaml`).
const V2: [&str; 7] = [
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "arm,cortex-a9-gic",
    "arm,gic-400",
    "arm,pl390",
    "qcom,msm-8660-qgic",
    "qcom,msm-qgic2",
];
const V3: [&str; 1] = ["arm,gic-v3"];

const V2_FRAME: u64 = 0x1000;
/// One frame of GICv3 registers; a redistributor has two (IHI 0069, 12.10).
const V3_FRAME: u64 = 0x1_0000;

/// The controller.
pub(crate) fn find(root: &Node) -> Result<Gic, Error> {
    let find = |models: &[&str]| {
        root.find(&|node: &Node| node.is_compatible(models) && node.is_available())
    };
    if let Some(node) = find(&V3) {
        return v3(&node);
    }
    if let Some(node) = find(&V2) {
        return v2(&node);
    }
    let expected = "an interrupt controller compatible with arm,gic-v3 or a model of GICv2";
    Err(root.error("", Problem::Missing(expected)))
}

/// Whether its interrupts are described as a GIC's are.
pub(crate) fn is_gic(node: &Node) -> bool {
    node.is_compatible(&V3) || node.is_compatible(&V2)
}

fn v2(node: &Node) -> Result<Gic, Error> {
    let reg = node.reg()?;
    let [distributor, cpu_interface, ..] = *reg else {
        let expected = "the ranges of the distributor and the CPU interface";
        return Err(node.error("reg", Problem::Missing(expected)));
    };
    for region in [distributor, cpu_interface] {
        require_frames(node, region, V2_FRAME, "4 KiB of registers or more, aligned")?;
    }
    Ok(Gic::V2 { distributor, cpu_interface })
}

fn v3(node: &Node) -> Result<Gic, Error> {
    let reg = node.reg()?;
    let count = node.cell("#redistributor-regions")?.unwrap_or(1) as usize;
    if !(1..=MAX_REDISTRIBUTOR_REGIONS).contains(&count) {
        let expected = "1 to 8 ranges";
        let found = count as u64;
        return Err(node.error("#redistributor-regions", Problem::Value { found, expected }));
    }
    let (Some(distributor), Some(redistributors)) = (reg.first(), reg.get(1..=count)) else {
        let expected = "the ranges of the distributor and all redistributors";
        return Err(node.error("reg", Problem::Missing(expected)));
    };
    require_frames(node, *distributor, V3_FRAME, "64 KiB of distributor or more, aligned")?;
    for region in redistributors {
        require_frames(node, *region, V3_FRAME, "redistributors aligned to 64 KiB")?;
        if region.size() < 2 * V3_FRAME {
            let expected = "128 KiB of redistributor or more";
            return Err(node.error("reg", Problem::Value { found: region.size(), expected }));
        }
    }
    Ok(Gic::V3 {
        distributor: *distributor,
        redistributors: redistributors.iter().copied().collect(),
        redistributor_stride: stride(node)?,
    })
}

/// `redistributor-stride` has one or two cells, by the binding.
fn stride(node: &Node) -> Result<Option<u64>, Error> {
    let name = "redistributor-stride";
    let Some(bytes) = node.property(name) else { return Ok(None) };
    if !matches!(bytes.len(), 4 | 8) {
        return Err(node.error(name, Problem::Length { bytes: bytes.len(), expected: "4 or 8" }));
    }
    let found = crate::node::number(bytes);
    if found == 0 || !found.is_multiple_of(V3_FRAME) {
        let expected = "a multiple of 64 KiB";
        return Err(node.error(name, Problem::Value { found, expected }));
    }
    Ok(Some(found))
}

fn require_frames(
    node: &Node,
    region: Region,
    frame: u64,
    expected: &'static str,
) -> Result<(), Error> {
    if region.size() < frame {
        return Err(node.error("reg", Problem::Value { found: region.size(), expected }));
    }
    if !region.base().is_multiple_of(frame) {
        return Err(node.error("reg", Problem::Value { found: region.base(), expected }));
    }
    Ok(())
}
