//! The rows of the table, smaller: one iteration after one that is not counted.

use kpkeys_mm::AddressSpace;
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Machine, PageRange, VirtAddr};
use kpkeys_workloads::{ALL_ROWS, Clock, Row, Span, Test, process};

use crate::{Error, How, Measured, kernel, name_of, span};

/// Pages of the mapping that fork and munmap work on: 32 MiB, 16 tables.
const PAGES: usize = 1 << 13;
/// What the published number of loops is divided by.
const SCALE: u64 = 2_500;
const START: VirtAddr = VirtAddr(0x40_0000_0000);

pub fn count<B: Measured>(how: How) -> Result<(), Error> {
    for row in &ALL_ROWS {
        let name = format!("{}, {}", row.result_class, name_of(how));
        let kernel = kernel::<Aarch64, B>(how.0)?;
        match row.span {
            Span::Loops { published } => {
                let run = || kpkeys_workloads::run(&kernel, &NoClock, row, SCALE).map(drop);
                run()?;
                span::count(&name, (published / SCALE).max(1), || Ok(run()?))?;
            }
            Span::Once => {
                once(&kernel, row, |work| work())?;
                once(&kernel, row, |work| span::count(&name, 1, work))?;
            }
        }
    }
    Ok(())
}

/// One fork or munmap, of a fresh mapping. `counted` is handed the operation itself.
fn once<M: Machine>(
    kernel: &kpkeys_mm::Kernel<M>,
    row: &Row,
    counted: impl FnOnce(&mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let range = PageRange::new(START, PAGES)?;
    let mut space: AddressSpace<'_, M> = process::populated(kernel, range, row.huge)?;
    if row.test == Test::Fork {
        let mut child = Vec::with_capacity(1);
        return counted(&mut || {
            child.push(space.fork()?);
            Ok(())
        });
    }
    counted(&mut || Ok(space.munmap(range)?))
}

/// Nobody looks at the time: instructions are counted.
struct NoClock;

impl Clock for NoClock {
    fn now_ns(&self) -> u64 {
        0
    }
}
