//! Which memory there is and which of it is taken.

use crate::error::{Error, Problem};
use crate::flat::Tree;
use crate::node::Node;
use arrayvec::ArrayVec;
use core::fmt;

/// Most separate ranges of memory.
pub const MAX_RAM_REGIONS: usize = 32;

/// Most reserved ranges.
pub const MAX_RESERVED_REGIONS: usize = 64;

/// First address no arm64 CPU has (Arm ARM DDI 0487, D8.1.6: physical addresses have at most 52
/// bits with the 4 KiB granule, before FEAT_D128).
const ADDRESS_LIMIT: u64 = 1 << 52;

/// A range of physical addresses: never empty, and its end does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    base: u64,
    size: u64,
}

impl Region {
    /// `None` when empty or beyond the largest physical address.
    pub fn new(base: u64, size: u64) -> Option<Self> {
        let end = base.checked_add(size)?;
        (size > 0 && end <= ADDRESS_LIMIT).then_some(Self { base, size })
    }

    /// First address.
    pub fn base(self) -> u64 {
        self.base
    }

    /// Length in bytes.
    pub fn size(self) -> u64 {
        self.size
    }

    /// First address behind it.
    pub fn end(self) -> u64 {
        self.base + self.size
    }

    /// Whether an address lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.base < other.end() && other.base < self.end()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.base, self.end())
    }
}

/// Memory that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Where.
    pub region: Region,
    /// Whether it must not even be mapped, since a speculative read of it could do harm.
    pub no_map: bool,
}

/// What a tree says of the machine's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is no heap to box in, and one of it")]
pub enum Ram {
    /// By rising address; neighbours are joined, none overlap. Never empty.
    Ranges(ArrayVec<Region, MAX_RAM_REGIONS>),
    /// Nothing, or a node without a byte in it: a boot loader that knows how much is fitted is to fill it in.
    LeftToLoader,
}

impl Ram {
    /// The ranges; none where it is the boot loader's to say.
    pub fn ranges(&self) -> &[Region] {
        match self {
            Self::Ranges(ranges) => ranges,
            Self::LeftToLoader => &[],
        }
    }
}

/// The memory: each `/memory` node has a list of ranges (Devicetree Specification v0.4, 3.4).
pub(crate) fn ram(root: &Node) -> Result<Ram, Error> {
    let mut ram = ArrayVec::<Region, MAX_RAM_REGIONS>::new();
    for node in root.children().filter(is_memory) {
        for region in node.reg()? {
            if let Some(other) = ram.iter().find(|other| other.overlaps(region)) {
                return Err(node.error("reg", Problem::Overlap(*other, region)));
            }
            ram.try_push(region)
                .map_err(|_| node.error("reg", Problem::TooMany(MAX_RAM_REGIONS)))?;
        }
    }
    if ram.is_empty() {
        return Ok(Ram::LeftToLoader);
    }
    ram.sort_unstable_by_key(|region| region.base);
    Ok(Ram::Ranges(joined(&ram)))
}

fn is_memory(node: &Node) -> bool {
    node.property("device_type") == Some(b"memory\0") && node.is_available()
}

/// The same addresses with touching neighbours made one.
fn joined(sorted: &[Region]) -> ArrayVec<Region, MAX_RAM_REGIONS> {
    let mut joined = ArrayVec::<Region, MAX_RAM_REGIONS>::new();
    for region in sorted {
        match joined.last_mut() {
            Some(last) if last.end() == region.base => last.size += region.size,
            _ => joined.push(*region),
        }
    }
    joined
}

/// The memory reservation block, then the children of `/reserved-memory` (Devicetree
/// Specification v0.4, 5.3 and 3.5). Children without `reg` ask for memory anywhere; nothing of
/// it is taken yet, so they are not listed.
pub(crate) fn reserved(
    tree: Tree,
    root: &Node,
) -> Result<ArrayVec<Reserved, MAX_RESERVED_REGIONS>, Error> {
    let mut reserved = ArrayVec::new();
    let too_many = |_| Error::blob(Problem::TooMany(MAX_RESERVED_REGIONS));
    for (address, size) in tree.reservations().filter(|(_, size)| *size > 0) {
        let region = Region::new(address, size).ok_or_else(|| {
            let expected = "a memory reservation that ends within 52 bits of address";
            Error::blob(Problem::Value { found: address, expected })
        })?;
        reserved.try_push(Reserved { region, no_map: false }).map_err(too_many)?;
    }
    let Some(parent) = root.child("reserved-memory") else { return Ok(reserved) };
    for node in parent.children().filter(Node::is_available) {
        if node.property("reg").is_none() {
            continue;
        }
        let no_map = node.property("no-map").is_some();
        for region in node.reg()? {
            reserved.try_push(Reserved { region, no_map }).map_err(too_many)?;
        }
    }
    Ok(reserved)
}

/// Refuses memory that is also a device's registers: one of the two is wrong, and a kernel that
/// uses both would write one through the other.
pub(crate) fn refuse_devices_in_ram(
    ram: &[Region],
    devices: impl Iterator<Item = Region>,
) -> Result<(), Error> {
    for device in devices {
        if let Some(ram) = ram.iter().find(|ram| ram.overlaps(device)) {
            return Err(Error::at(b"memory", "reg", Problem::Overlap(*ram, device)));
        }
    }
    Ok(())
}
