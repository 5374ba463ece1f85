//! What the final tables map besides the linear map: the image by its permissions, and the devices. And what the linear map must
//! not offer: holes between RAM, and a way to write code.

use super::Bare;
use crate::arch::{self, layout};
use crate::memory::boot::{PAGE_SIZE, PhysRange};
use crate::start::image;
use crate::start::settled::Settled;
use kpkeys::{Backend, Pkey, Scheme};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::guarded::FrameType;
use kpkeys_pgtable::{Attrs, Error, Format, Level, Machine, PageRange, Probe, VirtAddr};

/// Completes tables that have a linear map and nothing else.
///
/// # Errors
///
/// Why something could not be mapped.
pub fn complete<P: Probe>(kernel: &Kernel<Bare<P>>, ram: &[PhysRange]) -> Result<(), Error> {
    type_frames(kernel, ram)?;
    unmap_holes(kernel, ram)?;
    protect_image_in_linear_map(kernel)?;
    map_image(kernel)?;
    map_devices(kernel)
}

/// Says which frames are code, constants, or no RAM.
fn type_frames<P: Probe>(kernel: &Kernel<Bare<P>>, ram: &[PhysRange]) -> Result<(), Error> {
    let paging = kernel.paging();
    let mut behind = kernel.machine().memory().start;
    for range in ram {
        let hole = PhysRange { start: behind, end: range.start }.rounded_in(PAGE_SIZE);
        behind = range.end;
        paging.type_frames(hole.start, hole.pages(), FrameType::NotRam)?;
    }
    for region in image::regions() {
        let is = match region.access {
            image::Access::ReadExecute => FrameType::Text,
            image::Access::Read if region.name == "rodata" => FrameType::Constants,
            _ => continue,
        };
        paging.type_frames(region.phys().start, region.phys().pages(), is)?;
    }
    Ok(())
}

/// Takes what is no RAM out of the linear map, in whole 2 MiB blocks: device registers must not be reachable through cached
/// mappings.
fn unmap_holes<P: Probe>(kernel: &Kernel<Bare<P>>, ram: &[PhysRange]) -> Result<(), Error> {
    let paging = kernel.paging();
    let mut behind = kernel.machine().memory().start;
    for range in ram {
        let hole =
            PhysRange { start: behind, end: range.start }.rounded_in(Level::Pmd.entry_bytes());
        behind = range.end;
        if !hole.is_empty() {
            let section = paging.section(paging.kernel());
            paging.unmap(&section, paging.kernel(), linear(hole)?, |_, _, _| ())?;
        }
    }
    Ok(())
}

/// The linear map has the image's code and constants read-only, as the image's own mapping has.
fn protect_image_in_linear_map<P: Probe>(kernel: &Kernel<Bare<P>>) -> Result<(), Error> {
    let (paging, frames) = (kernel.paging(), image::read_only_frames());
    let section = paging.section(paging.kernel());
    let range = linear(frames)?;
    match paging.protect(
        &section,
        paging.kernel(),
        range,
        <Bare<P> as Machine>::Format::write_protected,
    ) {
        // Mapped by blocks, which these frames fill: they are replaced. No CPU uses the tables yet.
        Err(Error::MappedByBlock(_)) => {
            paging.unmap(&section, paging.kernel(), range, |_, _, _| ())?;
            let attrs = Attrs::KERNEL_DATA.read_only();
            paging.map_contiguous(&section, paging.kernel(), range, attrs, frames.start)
        }
        done => done,
    }
}

fn map_image<P: Probe>(kernel: &Kernel<Bare<P>>) -> Result<(), Error> {
    let paging = kernel.paging();
    for region in image::regions() {
        let attrs = region.access.attrs(paging.mode().protects());
        let (range, first) = (pages(region.virt, region.len)?, region.phys().start);
        let section = paging.section(paging.kernel());
        paging.map(&section, paging.kernel(), range, attrs, |page| {
            first.offset(page as u64 * PAGE_SIZE)
        })?;
    }
    Ok(())
}

/// Whether the devices' registers carry the page tables' key, so that writing one takes a window. An interrupt controller can start
/// CPUs, in real mode on some architectures, where there is no paging.
#[unsafe(link_section = ".settled")]
static DEVICES_ARE_GUARDED: Settled<bool> = Settled::new();

/// Writes a register of a device that is mapped from [`layout::DEVICES`] up.
///
/// # Safety
///
/// `at` must be such a register, and what the write causes must leave the kernel sound.
#[cfg(target_arch = "x86_64")] // where the driver is this kernel's own
pub unsafe fn write_device(at: *mut u32, value: u32) {
    // SAFETY: the caller's promise.
    let write = || unsafe { at.write_volatile(value) };
    match DEVICES_ARE_GUARDED.get() {
        Some(true) => crate::protection::in_window(write),
        _ => write(),
    }
}

fn map_devices<P: Probe>(kernel: &Kernel<Bare<P>>) -> Result<(), Error> {
    let paging = kernel.paging();
    let by_keys = kernel.machine().backend().scheme() == Scheme::Keys;
    let guarded = *DEVICES_ARE_GUARDED.settle(|| paging.mode().protects() && by_keys);
    let key = if guarded { Pkey::PAGE_TABLES } else { Pkey::DEFAULT };
    let attrs = Attrs { key, ..Attrs::KERNEL_DATA };
    let section = paging.section(paging.kernel());
    for (page, device) in arch::devices().enumerate() {
        let range = pages(layout::DEVICES + page as u64 * PAGE_SIZE, PAGE_SIZE)?;
        paging.map(&section, paging.kernel(), range, attrs, |_| device)?;
        paging.protect(&section, paging.kernel(), range, arch::uncached)?;
    }
    Ok(())
}

fn linear(frames: PhysRange) -> Result<PageRange, Error> {
    pages(layout::linear(frames.start) as u64, frames.len())
}

fn pages(start: u64, len: u64) -> Result<PageRange, Error> {
    Ok(PageRange::new(VirtAddr(start), (len / PAGE_SIZE) as usize)?)
}
