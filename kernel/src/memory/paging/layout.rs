//! What the final tables map besides the linear map: the image by its permissions, the devices, and the screen. And what the linear map must
//! not offer: holes between RAM, and a way to write code.

use super::Bare;
use crate::arch::{self, layout};
use crate::arch::{Flush, PageRange};
use crate::console::screen;
use crate::memory::boot::{BootMemory, PAGE_SIZE, PhysAddr, PhysRange, RAM_UNIT};
use crate::start::image;
use crate::start::settled::Settled;
use kpkeys::{Backend, Pkey, Scheme};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::addr::PIECE_ENTRIES;
use kpkeys_pgtable::guarded::FrameType;
use kpkeys_pgtable::range::WriteProtect;
use kpkeys_pgtable::{Attrs, Error, Machine, Probe, VirtAddr};

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
    map_devices(kernel)?;
    map_screen(kernel)
}

/// Says which frames are code, constants, or no RAM. What only the start needed nobody may write any more either, under any address: that
/// holds of a constant.
fn type_frames<P: Probe>(kernel: &Kernel<Bare<P>>, ram: &[PhysRange]) -> Result<(), Error> {
    let paging = kernel.paging();
    for hole in holes(kernel, ram).map(|hole| hole.rounded_in(PAGE_SIZE)) {
        let start_only = arch::only_for_start().filter(|_| paging.mode().protects());
        let is_behind = start_only
            .map_or(hole.start, |range| PhysAddr(range.end.0.min(hole.end.0).max(hole.start.0)));
        let gone = PhysRange { start: hole.start, end: is_behind };
        let rest = PhysRange { start: is_behind, end: hole.end };
        paging.type_frames(gone.start, gone.pages(), FrameType::Constants)?;
        paging.type_frames(rest.start, rest.pages(), FrameType::NotRam)?;
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

/// Says of RAM that was in use before the frame allocator had any, and is nothing else by now, that it is the kernel's own: the image's variables and
/// stacks, the heap, the frame table, what the boot loader left. No program maps it, and no table is made of it.
///
/// # Errors
///
/// Why it could not be said.
pub fn type_kernel_data<P: Probe>(
    kernel: &Kernel<Bare<P>>,
    boot: &BootMemory,
) -> Result<(), Error> {
    let paging = kernel.paging();
    let Some(types) = paging.types() else { return Ok(()) };
    let is_data = |frame: &PhysAddr| types.of(*frame).is_data();
    for used in boot.used().map(|used| used.rounded_in(PAGE_SIZE)) {
        let pages = (used.start.0..used.end.0).step_by(PAGE_SIZE as usize);
        let mut frames = pages.map(PhysAddr).peekable();
        while let Some(first) = frames.find(is_data) {
            // In windows of one table's work.
            let more = (1..PIECE_ENTRIES).take_while(|_| frames.next_if(is_data).is_some()).count();
            paging.type_frames(first, 1 + more, FrameType::KernelData)?;
        }
    }
    Ok(())
}

/// Takes what is no RAM out of the linear map, in whole [`RAM_UNIT`]s: device registers must not be reachable through cached
/// mappings.
fn unmap_holes<P: Probe>(kernel: &Kernel<Bare<P>>, ram: &[PhysRange]) -> Result<(), Error> {
    let paging = kernel.paging();
    for hole in holes(kernel, ram).map(|hole| hole.rounded_in(RAM_UNIT)) {
        if !hole.is_empty() {
            paging.leave_out(hole.start, hole.pages())?;
        }
    }
    Ok(())
}

/// What is no RAM of what the linear map covers, before, between and behind it.
fn holes<P: Probe>(kernel: &Kernel<Bare<P>>, ram: &[PhysRange]) -> impl Iterator<Item = PhysRange> {
    let memory = kernel.machine().memory();
    let end = memory.frame(memory.pages);
    let starts = core::iter::once(memory.start).chain(ram.iter().map(|range| range.end));
    let ends = ram.iter().map(|range| range.start).chain(core::iter::once(end));
    starts.zip(ends).map(|(start, end)| PhysRange { start, end })
}

/// The linear map has the image's code and constants read-only, as the image's own mapping has.
fn protect_image_in_linear_map<P: Probe>(kernel: &Kernel<Bare<P>>) -> Result<(), Error> {
    let frames = image::read_only_frames();
    kernel.paging().make_read_only(frames.start, frames.pages())
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

/// Where the devices' registers are written, from where they are read, if that takes a window once protection is on: there with keys, and
/// beside the alias with one. An interrupt controller can start CPUs, in real mode on some architectures, where there is no paging.
#[unsafe(link_section = ".settled")]
static TO_GUARDED_DEVICES: Settled<Option<usize>> = Settled::new();

/// Writes a register of a device that is mapped from [`layout::DEVICES`] up.
///
/// # Safety
///
/// `at` must be such a register, and what the write causes must leave the kernel sound.
#[cfg(target_arch = "x86_64")] // where the driver is this kernel's own
pub unsafe fn write_device(at: *mut u32, value: u32) {
    // No flush of this CPU between the question and the store: see `close_devices`.
    let _irqs_off = crate::lock::IrqsOff::new();
    let is_guarded = match crate::protection::backend().scheme() {
        Scheme::Keys => true,
        Scheme::Alias => crate::protection::has_alias(),
    };
    match TO_GUARDED_DEVICES.get() {
        Some(&Some(to_guarded)) if is_guarded => crate::protection::in_window(|| {
            // SAFETY: the caller's promise; it is the same register.
            unsafe { at.wrapping_byte_add(to_guarded).write_volatile(value) }
        }),
        // SAFETY: the caller's promise.
        _ => unsafe { at.write_volatile(value) },
    }
}

fn map_devices<P: Probe>(kernel: &Kernel<Bare<P>>) -> Result<(), Error> {
    let paging = kernel.paging();
    let by_keys = kernel.machine().backend().scheme() == Scheme::Keys;
    let protects = paging.mode().protects();
    let in_windows = protects && by_keys && arch::DEVICES_ARE_WRITTEN_IN_WINDOWS;
    let mut to_guarded = in_windows.then_some(0);
    let key = if to_guarded.is_some() { Pkey::PAGE_TABLES } else { Pkey::DEFAULT };
    let section = paging.section(paging.kernel());
    for (page, device) in arch::devices().enumerate() {
        let range = device_page(page)?;
        let attrs = match protects && arch::is_device_settled(page) {
            true => Attrs::DEVICE.read_only(),
            false => Attrs::DEVICE.with_key(key),
        };
        paging.map(&section, paging.kernel(), range, attrs, |_| device)?;
        if arch::DEVICES_ARE_WRITTEN_IN_WINDOWS
            && let Some(alias) = paging.map_device_beside_alias(page, device)?
        {
            to_guarded = Some(alias.0.wrapping_sub(range.start().0) as usize);
        }
    }
    TO_GUARDED_DEVICES.settle(|| to_guarded);
    Ok(())
}

/// The screen is open to every store: it is no memory, and whoever draws on it does no more than that.
fn map_screen<P: Probe>(kernel: &Kernel<Bare<P>>) -> Result<(), Error> {
    let Some(screen) = screen::memory() else { return Ok(()) };
    let paging = kernel.paging();
    let section = paging.section(paging.kernel());
    let range = pages(layout::SCREEN, screen.len())?;
    paging.map(&section, paging.kernel(), range, Attrs::DEVICE, |page| {
        screen.start.offset(page as u64 * PAGE_SIZE)
    })
}

/// Where devices are written beside the alias, takes write permission from where they are read, which they are written at as long as a CPU may be
/// on the early tables.
///
/// # Errors
///
/// Why it could not be.
pub fn close_devices<P: Probe>(kernel: &Kernel<Bare<P>>) -> Result<(), Error> {
    let paging = kernel.paging();
    if !(arch::DEVICES_ARE_WRITTEN_IN_WINDOWS && crate::protection::has_alias()) {
        return Ok(());
    }
    for (page, _) in arch::devices().enumerate() {
        let range = device_page(page)?;
        {
            let section = paging.section(paging.kernel());
            paging.protect(&section, paging.kernel(), range, WriteProtect)?;
        }
        paging.flush(Flush::Kernel(range));
    }
    Ok(())
}

fn device_page(number: usize) -> Result<PageRange, Error> {
    pages(layout::DEVICES + number as u64 * PAGE_SIZE, PAGE_SIZE)
}

fn pages(start: u64, len: u64) -> Result<PageRange, Error> {
    Ok(PageRange::new(VirtAddr(start), (len / PAGE_SIZE) as usize)?)
}
