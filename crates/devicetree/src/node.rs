//! A node together with the nodes above it, which say how its numbers are to be read.
//!
//! How many cells an address has is a property of the parent, and where a device behind a bus
//! appears to the CPU takes a translation at each bus on the way up (Devicetree Specification
//! v0.4, 2.3.5 to 2.3.8). So a node is never handled without its ancestors.

use crate::error::{Error, Problem};
use crate::flat::{FlatNode, Tree};
use crate::memory::Region;
use arrayvec::ArrayVec;

/// How deep a node may lie to be looked at. What a kernel needs at boot lies at depth 1 or 2, in
/// practice never below 4.
const MAX_DEPTH: usize = 8;

/// Most ranges in one `reg` that are looked at.
pub(crate) const MAX_REG: usize = 32;

/// A node and its ancestors.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    /// The root first, the parent last.
    above: ArrayVec<FlatNode<'a>, MAX_DEPTH>,
    this: FlatNode<'a>,
}

/// How many cells an address and a size have below a node.
#[derive(Clone, Copy)]
pub(crate) struct CellCounts {
    pub(crate) address: usize,
    pub(crate) size: usize,
}

impl<'a> Node<'a> {
    pub(crate) fn root(tree: Tree<'a>) -> Self {
        Self { above: ArrayVec::new(), this: tree.root() }
    }

    /// Its name with the unit address; `/` for the root.
    pub(crate) fn name(&self) -> &'a [u8] {
        match self.this.name {
            b"" => b"/",
            name => name,
        }
    }

    /// Its children, unless they lie deeper than is looked.
    pub(crate) fn children(&self) -> impl Iterator<Item = Self> + '_ {
        self.this.children().map_while(|child| {
            let mut above = self.above.clone();
            above.try_push(self.this).ok()?;
            Some(Self { above, this: child })
        })
    }

    /// The child with this name; the unit address counts only if `name` has one.
    pub(crate) fn child(&self, name: &str) -> Option<Self> {
        self.children().find(|child| {
            let mut parts = child.name().split(|byte| *byte == b'@');
            child.name() == name.as_bytes() || parts.next() == Some(name.as_bytes())
        })
    }

    /// The first node below this one that `is_wanted`, itself left out.
    pub(crate) fn find(&self, is_wanted: &dyn Fn(&Self) -> bool) -> Option<Self> {
        self.children()
            .find_map(|child| if is_wanted(&child) { Some(child) } else { child.find(is_wanted) })
    }

    /// Whether the device is there and may be used (Devicetree Specification v0.4, 2.3.4).
    pub(crate) fn is_available(&self) -> bool {
        matches!(self.property("status"), None | Some(b"okay\0" | b"ok\0"))
    }

    /// Whether one of `models` is in the node's `compatible` list.
    pub(crate) fn is_compatible(&self, models: &[&str]) -> bool {
        let list = self.property("compatible").unwrap_or_default();
        list.split(|byte| *byte == 0)
            .any(|entry| models.iter().any(|model| entry == model.as_bytes()))
    }

    /// The bytes of a property.
    pub(crate) fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.this.property(name)
    }

    /// The bytes of a property that must be there.
    pub(crate) fn required(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<&'a [u8], Error> {
        self.property(name).ok_or_else(|| self.error(name, Problem::Missing(expected)))
    }

    /// A property that holds one text.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<&'a str>, Error> {
        let Some(bytes) = self.property(name) else { return Ok(None) };
        let text = bytes
            .strip_suffix(&[0])
            .filter(|text| !text.contains(&0))
            .and_then(|text| core::str::from_utf8(text).ok());
        text.map(Some).ok_or_else(|| self.error(name, Problem::Text("one text that ends with NUL")))
    }

    /// A property of one cell.
    pub(crate) fn cell(&self, name: &'static str) -> Result<Option<u32>, Error> {
        let Some(bytes) = self.property(name) else { return Ok(None) };
        let cell = bytes.try_into().map(u32::from_be_bytes);
        cell.map(Some).map_err(|_| self.bad_length(name, bytes, "one cell of 4 bytes"))
    }

    /// How many cells addresses and sizes below this node have; 2 and 1 where nothing is said.
    pub(crate) fn cell_counts(&self) -> Result<CellCounts, Error> {
        let count = |name, default, expected| match self.cell(name)?.unwrap_or(default) {
            cells @ 0..=2 => Ok(cells as usize),
            cells => Err(self.error(name, Problem::Value { found: cells.into(), expected })),
        };
        Ok(CellCounts {
            address: count("#address-cells", 2, "1 or 2 cells an address")?,
            size: count("#size-cells", 1, "at most 2 cells a size")?,
        })
    }

    /// The ranges in its `reg`, as the CPU sees them. Empty ones are left out: they are how a
    /// tree describes a bank that is not fitted.
    pub(crate) fn reg(&self) -> Result<ArrayVec<Region, MAX_REG>, Error> {
        let bytes = self.required("reg", "addresses and sizes")?;
        let cells = self.bus()?.cell_counts()?;
        if cells.address == 0 || cells.size == 0 {
            let expected = "a parent whose children have addresses and sizes";
            return Err(self.error("reg", Problem::Missing(expected)));
        }
        let entries = self.entries("reg", bytes, cells.address + cells.size)?;
        let mut regions = ArrayVec::new();
        for entry in entries {
            let (base, size) = entry.split_at(4 * cells.address);
            if let Some(region) = self.region(number(base), number(size))? {
                let region = self.translated(region)?;
                regions
                    .try_push(region)
                    .map_err(|_| self.error("reg", Problem::TooMany(MAX_REG)))?;
            }
        }
        Ok(regions)
    }

    /// The entries of `cells` cells each that a property's bytes are made of.
    pub(crate) fn entries(
        &self,
        name: &'static str,
        bytes: &'a [u8],
        cells: usize,
    ) -> Result<impl Iterator<Item = &'a [u8]> + use<'a>, Error> {
        let len = 4 * cells;
        if cells == 0 || bytes.is_empty() || !bytes.len().is_multiple_of(len) {
            let expected = "a whole number of entries, at least one";
            return Err(self.bad_length(name, bytes, expected));
        }
        Ok(bytes.chunks_exact(len))
    }

    /// An error about one of its properties, or about itself if `property` is empty.
    pub(crate) fn error(&self, property: &'static str, problem: Problem) -> Error {
        Error::at(self.name(), property, problem)
    }

    fn bad_length(&self, name: &'static str, bytes: &[u8], expected: &'static str) -> Error {
        self.error(name, Problem::Length { bytes: bytes.len(), expected })
    }

    /// `None` for an empty range.
    fn region(&self, base: u64, size: u64) -> Result<Option<Region>, Error> {
        if size == 0 {
            return Ok(None);
        }
        Region::new(base, size).map(Some).ok_or_else(|| {
            let expected = "a base below which base + size fits 52 bits of address";
            self.error("reg", Problem::Value { found: base, expected })
        })
    }

    /// The node above it; `None` for the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        let mut above = self.above.clone();
        above.pop().map(|this| Self { above, this })
    }

    /// The node above it, which says how its addresses are to be read.
    fn bus(&self) -> Result<Self, Error> {
        self.parent().ok_or_else(|| self.error("", Problem::Missing("a parent")))
    }

    /// A range on the bus this node lies on, as the CPU sees it.
    fn translated(&self, region: Region) -> Result<Region, Error> {
        let bus = self.bus()?;
        if bus.above.is_empty() {
            return Ok(region);
        }
        let ranges = bus.required("ranges", "how the bus appears to its parent")?;
        if ranges.is_empty() {
            return bus.translated(region);
        }
        let (below, above) = (bus.cell_counts()?, bus.bus()?.cell_counts()?);
        for entry in bus.entries("ranges", ranges, below.address + above.address + below.size)? {
            let (child, rest) = entry.split_at(4 * below.address);
            let (parent, size) = rest.split_at(4 * above.address);
            let (child, parent, size) = (number(child), number(parent), number(size));
            let offset = region.base().checked_sub(child);
            if let Some(offset) = offset.filter(|offset| {
                size.checked_sub(*offset).is_some_and(|left| left >= region.size())
            }) {
                let base = parent.saturating_add(offset);
                return match bus.region(base, region.size())? {
                    Some(region) => bus.translated(region),
                    None => Ok(region),
                };
            }
        }
        let expected = "a range that holds every child";
        Err(bus.error("ranges", Problem::Value { found: region.base(), expected }))
    }
}

/// The big-endian number in at most two cells.
pub(crate) fn number(cells: &[u8]) -> u64 {
    cells.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
