//! A call of `map_range` before its window opens: what is refused is refused here, and the pages it may need are reserved.
//!
//! The part of a range that is the linear map of table memory is a piece of its own, mapped as it must be.

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, MemoryRegion};
use kpkeys::Backend;

use crate::Error;
use crate::layout::{overlap, protected};
use crate::tables::Tables;
use crate::walk::Change;

/// One call of the wrapped crate's `map_range`.
pub(crate) struct Piece {
    pub(crate) region: MemoryRegion,
    pub(crate) pa: PhysicalAddress,
    pub(crate) flags: El1Attributes,
    pub(crate) constraints: Constraints,
}

/// A call that may be made: nothing in it is refused, and the pages it may need are reserved.
pub(crate) struct Plan {
    pub(crate) pieces: [Option<Piece>; 3],
    pub(crate) reserved: usize,
    /// Whether all table memory is in the linear map once it is carried out.
    pub(crate) maps_all_linear: bool,
}

impl Plan {
    pub(crate) fn of<B: Backend>(
        tables: &Tables<'_, B>,
        range: &MemoryRegion,
        pa: PhysicalAddress,
        flags: El1Attributes,
        constraints: Constraints,
    ) -> Result<Plan, Error> {
        tables.walk().verify(range)?;
        let layout = tables.pool.layout();
        let maps = flags.contains(El1Attributes::VALID);
        // What is unmapped has no address; the wrapped crate subtracts from it all the same, by no more than this.
        let pa = if maps { pa } else { PhysicalAddress(range.start().0) };
        let linear = overlap(&layout.linear_region(), range);
        let is_linear = linear.is_some() && maps && layout.is_linear(range, pa);
        let foreign = maps && !is_linear && layout.has_frames_of(range, pa);
        if layout.overlaps_alias(range) || (linear.is_some() && !is_linear) || foreign {
            return Err(Error::TableMemory(range.clone()));
        }
        let piece = |start: usize, end: usize, flags| {
            let region = MemoryRegion::new(start, end);
            let pa = PhysicalAddress(pa.0.wrapping_add(start.wrapping_sub(range.start().0)));
            (start < end).then_some(Piece { region, pa, flags, constraints })
        };
        let (start, end) = (range.start().0, range.end().0);
        let Some(inner) = linear else {
            return Self::of_pieces(tables, [piece(start, end, flags), None, None]);
        };
        let safe = protected(flags, tables.pool.backend().scheme());
        let pieces = [
            piece(start, inner.start, flags),
            piece(inner.start, inner.end, safe),
            piece(inner.end, end, flags),
        ];
        let maps_all_linear = inner == (layout.linear.0..layout.linear_region().end().0);
        Ok(Plan { maps_all_linear, ..Self::of_pieces(tables, pieces)? })
    }

    pub(crate) fn of_pieces<B: Backend>(
        tables: &Tables<'_, B>,
        pieces: [Option<Piece>; 3],
    ) -> Result<Plan, Error> {
        let walk = tables.walk();
        let mut needed = 0;
        for piece in pieces.iter().flatten() {
            let change = Change::Map(piece.pa, piece.flags, piece.constraints);
            needed += walk.needs(&piece.region, change)?;
        }
        tables.pool.reserve(needed)?;
        Ok(Plan { pieces, reserved: needed, maps_all_linear: false })
    }
}
