//! The same operation with little and with much around it.

use kpkeys_mm::{AddressSpace, Kernel, MapFlags};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Machine, PageRange, PhysAddr, VirtAddr};

use crate::{Counted, Error, How, MEMORY_PAGES, Measured, kernel_of, name_of, span};

/// Which sizes are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// Two for each, so small that the gate takes no longer than it may.
    Gate,
    /// Up to the largest, and what has no small one: 8 GiB, 40,000 address spaces, 100,000 mappings and areas.
    Largest,
}

/// Memory for the largest: 20 GiB, of which what nobody writes costs nothing.
const LARGEST_MEMORY_PAGES: usize = 20 << 18;

/// How often the operation is done.
const TIMES: usize = 64;
/// Pages that one page table translates.
const TABLE_PAGES: usize = 512;
const START: VirtAddr = VirtAddr(0x40_0000_0000);

pub fn count<B: Measured>(how: How, sizes: Sizes) -> Result<(), Error> {
    let each = |what: &str, gate: &[usize], largest: &[usize], case: Case<B>| {
        let (sizes, memory) = match sizes {
            Sizes::Gate => (gate, MEMORY_PAGES),
            Sizes::Largest => (largest, LARGEST_MEMORY_PAGES),
        };
        sizes.iter().try_for_each(|&size| {
            let name = format!("{what} with {size}, {}", name_of(how));
            case(&kernel_of::<Aarch64, B>(how.0, memory)?, size, &name)
        })
    };
    const MANY: [usize; 3] = [16, 8_192, 100_000];
    const PAGES: [usize; 4] = [1 << 8, 1 << 14, 1 << 18, 1 << 21];
    each("table page", &[16, 4_096], &[16, 4_096, 100_000], table_page)?;
    each("frame", &[16, 16_384], &[16, 16_384, 1 << 20], frame)?;
    each("vmalloc", &MANY[..2], &MANY, vmalloc)?;
    each("vm_map_ram", &MANY[..2], &MANY, vm_map_ram)?;
    each("mmap and munmap", &MANY[..2], &MANY, mappings)?;
    each("address space", &[], &[1, 1_000, 40_000], spaces)?;
    each("page of populate", &[], &PAGES, populate)?;
    each("page of fork", &[], &PAGES, fork)?;
    each("page of munmap", &[], &PAGES, munmap)
}

/// A kernel, how much there is already, and the span's name.
type Case<B> = fn(&Counted<Aarch64, B>, usize, &str) -> Result<(), Error>;

/// A fault that takes a page-table page from the pool, with so many in use.
fn table_page<M: Machine>(kernel: &Kernel<M>, size: usize, name: &str) -> Result<(), Error> {
    let mut space = AddressSpace::new(kernel)?;
    let page = |i: usize| START.offset_pages::<Aarch64>(i * TABLE_PAGES);
    space.mmap(PageRange::new(START, (size + TIMES) * TABLE_PAGES)?, MapFlags::DATA)?;
    (0..size).try_for_each(|i| space.fault(page(i), true))?;
    span::count(name, TIMES as u64, || {
        Ok((size..size + TIMES).try_for_each(|i| space.fault(page(i), true))?)
    })
}

/// A frame taken and given back, with so many taken.
fn frame<M: Machine>(kernel: &Kernel<M>, size: usize, name: &str) -> Result<(), Error> {
    let frames = kernel.frames();
    let mut taken = Vec::with_capacity(size);
    for _ in 0..size {
        taken.push(frames.new_frame()?);
    }
    let mut more = Vec::with_capacity(TIMES);
    let counted = span::count(name, TIMES as u64, || {
        for _ in 0..TIMES {
            more.push(frames.new_frame()?);
        }
        more.drain(..).for_each(|frame| frames.free_frame(frame));
        Ok(())
    });
    taken.into_iter().for_each(|frame| frames.free_frame(frame));
    counted
}

/// An area made and freed, with so many live, every second of them freed before.
fn vmalloc<M: Machine>(kernel: &Kernel<M>, size: usize, name: &str) -> Result<(), Error> {
    let areas = (0..2 * size).map(|_| kernel.vmalloc(1)).collect::<Result<Vec<_>, _>>()?;
    areas.iter().step_by(2).try_for_each(|&area| kernel.vfree(area))?;
    kernel.purge_vmalloc();
    span::count(name, TIMES as u64, || {
        Ok((0..TIMES).try_for_each(|_| kernel.vfree(kernel.vmalloc(2)?))?)
    })?;
    Ok(areas.iter().skip(1).step_by(2).try_for_each(|&area| kernel.vfree(area))?)
}

/// A page mapped and unmapped by `vm_map_ram`, with so many mapped.
fn vm_map_ram<M: Machine>(kernel: &Kernel<M>, size: usize, name: &str) -> Result<(), Error> {
    let owned = kernel.frames().new_frame()?;
    let page: [PhysAddr; 1] = [owned.address()];
    let mapped = (0..size).map(|_| kernel.vm_map_ram(&page)).collect::<Result<Vec<_>, _>>()?;
    span::count(name, TIMES as u64, || {
        Ok((0..TIMES).try_for_each(|_| kernel.vm_unmap_ram(kernel.vm_map_ram(&page)?, 1))?)
    })?;
    mapped.iter().try_for_each(|&area| kernel.vm_unmap_ram(area, 1))?;
    kernel.purge_vmalloc();
    kernel.frames().free_frame(owned);
    Ok(())
}

/// A mapping made, touched and unmapped, with so many beside it that none can be merged.
fn mappings<M: Machine>(kernel: &Kernel<M>, size: usize, name: &str) -> Result<(), Error> {
    let mut space = AddressSpace::new(kernel)?;
    let page = |i: usize| PageRange::new(START.offset_pages::<Aarch64>(2 * i), 1);
    (0..size).try_for_each(|i| space.mmap(page(i)?, MapFlags::DATA))?;
    let between = PageRange::new(START.offset_pages::<Aarch64>(size | 1), 1)?;
    span::count(name, TIMES as u64, || {
        (0..TIMES).try_for_each(|_| {
            space.mmap(between, MapFlags::DATA)?;
            space.fault(between.start(), true)?;
            Ok(space.munmap(between)?)
        })
    })
}

/// An address space made and given back, with so many alive.
fn spaces<M: Machine>(kernel: &Kernel<M>, size: usize, name: &str) -> Result<(), Error> {
    let alive = (0..size).map(|_| AddressSpace::new(kernel)).collect::<Result<Vec<_>, _>>()?;
    span::count(name, TIMES as u64, || {
        for _ in 0..TIMES {
            drop(AddressSpace::new(kernel)?);
        }
        Ok(())
    })?;
    drop(alive);
    Ok(())
}

/// A mapping of so many pages, none of them there yet.
fn mapping<M: Machine>(
    kernel: &Kernel<M>,
    pages: usize,
) -> Result<(AddressSpace<'_, M>, PageRange<M::Format>), Error> {
    let (mut space, range) = (AddressSpace::new(kernel)?, PageRange::new(START, pages)?);
    space.mmap(range, MapFlags::DATA)?;
    Ok((space, range))
}

fn populate<M: Machine>(kernel: &Kernel<M>, pages: usize, name: &str) -> Result<(), Error> {
    let (mut space, range) = mapping(kernel, pages)?;
    span::count(name, pages as u64, || Ok(space.populate(range)?))
}

fn fork<M: Machine>(kernel: &Kernel<M>, pages: usize, name: &str) -> Result<(), Error> {
    let (mut space, range) = mapping(kernel, pages)?;
    space.populate(range)?;
    let mut child = Vec::with_capacity(1);
    span::count(name, pages as u64, || {
        child.push(space.fork()?);
        Ok(())
    })
}

fn munmap<M: Machine>(kernel: &Kernel<M>, pages: usize, name: &str) -> Result<(), Error> {
    let (mut space, range) = mapping(kernel, pages)?;
    space.populate(range)?;
    span::count(name, pages as u64, || Ok(space.munmap(range)?))
}
