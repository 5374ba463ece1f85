//! Running one attack.

use core::sync::atomic::{AtomicBool, Ordering};

use kpkeys::Pkey;
use kpkeys_mm::{AddressSpace, Kernel};
use kpkeys_pgtable::range::By;
use kpkeys_pgtable::{Attrs, Flush, Format, Machine, PageRange, PhysAddr, Root, VirtAddr};
use spin::Mutex;

use super::Failure;
use super::forged;
use super::prepare::{Prepared, USER_START};
use super::primitive::Primitive;
use super::promise::Outcome;
use super::site::{Aim, Fault, Place, SavedIn, Site, Store};
use super::target::{Level, Region, Target};

/// Attacks a target.
///
/// # Errors
///
/// Why the attack could not be made.
pub(super) fn attack<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    prepared: &Prepared<'_, M>,
    target: Target,
    primitive: Primitive,
) -> Result<Outcome, Failure> {
    let store = primitive.store();
    if let Target::Platform(platform) = target {
        let address = site.platform(platform).ok_or(Failure::NoTarget("this machine has none"))?;
        return Ok(outcome(site.store(store, Aim::at(address))));
    }
    if let Some(kept) = remembered(kernel, target) {
        return Ok(outcome(site.store(store, Aim::at(kept))));
    }
    if target == Target::Device {
        let device = site.device().ok_or(Failure::NoTarget("no device is mapped"))?;
        return by_remapping(kernel, prepared, device, Attrs::KERNEL_DATA);
    }
    let (page, offset) = prepared.locate(target)?;
    // Sixty-four bytes must not leave the page.
    let offset = if store == Store::Bulk { offset & !63 } else { offset };
    let (linear, of_table) =
        (Aim::linear(kernel, page, offset), Aim::of_table(kernel, page, offset));
    match primitive {
        Primitive::Byte | Primitive::Word | Primitive::Bulk | Primitive::ReadModifyWrite => {
            Ok(outcome(site.store(store, linear)))
        }
        Primitive::Interrupt
        | Primitive::Nmi
        | Primitive::OtherCpu
        | Primitive::OtherThread
        | Primitive::PageFault
        | Primitive::NestedFault
        | Primitive::AsyncError => {
            let place = primitive.place().ok_or(Failure::NoTarget("no place"))?;
            in_window(kernel, site, prepared, place, (page, of_table))
        }
        Primitive::UserWindow => from_window(kernel, site, prepared, Region::User, of_table),
        Primitive::KernelWindow => from_window(kernel, site, prepared, Region::Vmalloc, of_table),
        Primitive::Alias => Ok(outcome(site.store(store, of_table))),
        Primitive::CopyToUser => as_user(kernel, linear, of_table, page, |space, aim| {
            Ok(outcome(site.copy_to_user(space.root().frame(), aim)))
        }),
        Primitive::Program => as_user(kernel, linear, of_table, page, |space, aim| {
            site.store_from_program(space, aim).map(outcome).map_err(Failure::Site)
        }),
        Primitive::VmallocAlias => through_vmalloc_alias(kernel, site, page, offset),
        Primitive::UserAlias => mapped_for_user(kernel, linear, page, |space, aim| {
            Ok(outcome(site.copy_to_user(space.root().frame(), aim)))
        }),
        Primitive::MapWritable => by_mapping(kernel, site, prepared, page, offset),
        Primitive::ForgedRoot => by_forged_root(kernel, site, page),
        Primitive::ForeignRoot => {
            let loaded = site.load_root(page).map_err(Failure::Site)?;
            Ok(if loaded { Outcome::Succeeded } else { Outcome::Refused })
        }
        Primitive::ForgedSpare => by_forged_spare(kernel, site, linear),
        Primitive::ForgedEntry => by_forged_entry(kernel, site, linear, page),
        Primitive::ForgedLink => match target {
            Target::UserPage => forged::link_to_programs_page(kernel, site),
            Target::KernelPage => forged::link_to_kernels_page(kernel, site, prepared),
            _ => forged::link_to_table(kernel, site, linear, page),
        },
        Primitive::ForgedFile => forged::file(kernel, site, linear, page),
        Primitive::ForgedSpace => forged::space(kernel, site),
        Primitive::MapExecutable => {
            let attrs = Attrs { execute: true, ..Attrs::KERNEL_DATA };
            by_remapping(kernel, prepared, page, attrs)
        }
        Primitive::MapAsDevice => by_remapping(kernel, prepared, page, Attrs::DEVICE),
        Primitive::MapAsMemory => Err(Failure::NoTarget("it is no device")),
        Primitive::ForgedFrame => with_forged_register(site, SavedIn::Frame, of_table),
        Primitive::ForgedThread => with_forged_register(site, SavedIn::Thread, of_table),
    }
}

/// Where the page-table code keeps a target that it remembers.
fn remembered<M: Machine>(kernel: &Kernel<M>, target: Target) -> Option<VirtAddr> {
    let address = match target {
        Target::ProtectionFlag => kernel.paging().protected_address().addr(),
        Target::LinearMapRoot => kernel.paging().linear_root_address().addr(),
        _ => return None,
    };
    Some(VirtAddr(address as u64))
}

pub(super) fn outcome(result: Result<(), Fault>) -> Outcome {
    match result {
        Ok(()) => Outcome::Succeeded,
        Err(fault) => Outcome::Faulted(fault),
    }
}

/// Stores from another place while an operation on page tables has its window open: one that is for the page.
fn in_window<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    prepared: &Prepared<'_, M>,
    place: Place,
    (page, aim): (PhysAddr, Aim),
) -> Result<Outcome, Failure> {
    let is_users = kernel.paging().key_of_protected(page) == Pkey::USER_TABLES;
    let region = if is_users { Region::User } else { Region::Vmalloc };
    let (own, attack) = (Mutex::new(None), Mutex::new(None));
    let (done, held_off) = (AtomicBool::new(false), AtomicBool::new(false));
    inside_window_of(kernel, prepared.region(region), || {
        // The operation may look at an entry twice.
        if !done.swap(true, Ordering::Relaxed) {
            *own.lock() = Some(site.store(Store::Word, aim));
            let ran = site.run_in(place, &|| *attack.lock() = Some(site.store(Store::Word, aim)));
            held_off.store(!ran, Ordering::Relaxed);
        }
    })?;
    match (own.into_inner(), attack.into_inner()) {
        (Some(Err(fault)), _) => Err(Failure::WindowClosed(fault)),
        (Some(Ok(())), Some(result)) => Ok(outcome(result)),
        (Some(Ok(())), None) if held_off.into_inner() => Ok(Outcome::Refused),
        _ => Err(Failure::NoTarget("the attack did not run")),
    }
}

/// Stores while the page-table code has a window open for the tables of a region, as a stray store of its own would.
fn from_window<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    prepared: &Prepared<'_, M>,
    region: Region,
    aim: Aim,
) -> Result<Outcome, Failure> {
    let (table, offset) = prepared.locate(Target::Table(region, Level::Pte))?;
    let own_aim = Aim::of_table(kernel, table, offset);
    let results = Mutex::new(None);
    inside_window_of(kernel, prepared.region(region), || {
        // The operation may look at an entry twice.
        let mut results = results.lock();
        if results.is_none() {
            *results = Some((site.store(Store::Word, own_aim), site.store(Store::Word, aim)));
        }
    })?;
    match results.into_inner() {
        Some((Err(fault), _)) => Err(Failure::WindowClosed(fault)),
        Some((Ok(()), attack)) => Ok(outcome(attack)),
        None => Err(Failure::NoTarget("the attack did not run")),
    }
}

/// Runs `f` inside the window that the mode opens for changing a PTE: the one of the mapped page at `mapped`, which stays as it is.
///
/// # Errors
///
/// The page is not mapped as a page.
pub fn inside_window<M: Machine>(
    kernel: &Kernel<M>,
    mapped: VirtAddr,
    f: impl Fn(),
) -> Result<(), Failure> {
    inside_window_of(kernel, (kernel.paging().kernel(), mapped), f)
}

/// The same for a page mapped below this root.
///
/// # Errors
///
/// The page is not mapped as a page.
pub fn inside_window_of<M: Machine>(
    kernel: &Kernel<M>,
    (root, mapped): (&Root, VirtAddr),
    f: impl Fn(),
) -> Result<(), Failure> {
    let paging = kernel.paging();
    let section = paging.section(root);
    let page = PageRange::new(mapped, 1).map_err(kpkeys_mm::Error::from)?;
    // SAFETY: the entry stays what it is. What `f` does there is what the attack is about.
    let change = unsafe {
        By::new(|entry| {
            f();
            entry
        })
    };
    Ok(paging.protect(&section, root, page, change)?)
}

fn through_vmalloc_alias<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    page: PhysAddr,
    offset: u64,
) -> Result<Outcome, Failure> {
    let Ok(alias) = kernel.vm_map_ram(&[page]) else { return Ok(Outcome::Refused) };
    let outcome = outcome(site.store(Store::Word, Aim::at(alias.offset(offset))));
    kernel.vm_unmap_ram(alias, 1)?;
    // The alias must be gone before anything is checked.
    kernel.purge_vmalloc();
    Ok(outcome)
}

/// Attacks from an address space without mappings at the alias, if the page has one, or else at a mapping of the page there.
fn as_user<M: Machine>(
    kernel: &Kernel<M>,
    linear: Aim,
    of_table: Aim,
    page: PhysAddr,
    attack: impl FnOnce(&mut AddressSpace<'_, M>, Aim) -> Result<Outcome, Failure>,
) -> Result<Outcome, Failure> {
    if of_table == linear {
        return mapped_for_user(kernel, linear, page, attack);
    }
    attack(&mut AddressSpace::new(kernel)?, of_table)
}

/// Attacks at a mapping of the page in an address space, made for it: one that was left over when the page became a table.
pub(super) fn mapped_for_user<M: Machine>(
    kernel: &Kernel<M>,
    linear: Aim,
    page: PhysAddr,
    attack: impl FnOnce(&mut AddressSpace<'_, M>, Aim) -> Result<Outcome, Failure>,
) -> Result<Outcome, Failure> {
    let paging = kernel.paging();
    let mut space = AddressSpace::new(kernel)?;
    let range = PageRange::new(USER_START, 1).map_err(kpkeys_mm::Error::from)?;
    space.mmap(range, kpkeys_mm::MapFlags::DATA)?;
    // A page of its own first, so that the tables on the way belong to the address space and go with it.
    space.fault(USER_START, true)?;
    space.discard(range);
    let mapped = {
        let section = paging.section(space.root());
        paging.map(&section, space.root(), range, Attrs::USER_DATA, |_| page)
    };
    if mapped.is_err() {
        return Ok(Outcome::Refused);
    }
    let offset = linear.read.0 % M::Format::PAGE_SIZE;
    let result = attack(&mut space, Aim { write: USER_START.offset(offset), ..linear });
    {
        let section = paging.section(space.root());
        paging.unmap(&section, space.root(), range, |_, _, _| ())?;
    }
    paging.flush(Flush::User(space.root().frame(), range));
    result
}

/// Remaps a page of the vmalloc area to the target for a moment.
fn by_mapping<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    prepared: &Prepared<'_, M>,
    page: PhysAddr,
    offset: u64,
) -> Result<Outcome, Failure> {
    let range = PageRange::new(prepared.vmalloc, 1).map_err(kpkeys_mm::Error::from)?;
    let own = remap(kernel, range, page, Attrs::KERNEL_DATA)?;
    let Some(own) = own else { return Ok(Outcome::Refused) };
    let outcome = outcome(site.store(Store::Word, Aim::at(prepared.vmalloc.offset(offset))));
    let back = remap(kernel, range, own, Attrs::KERNEL_DATA)?;
    back.ok_or(Failure::NoTarget("the page could not be mapped back"))?;
    Ok(outcome)
}

/// Remaps a page of the vmalloc area for a moment, which must not be.
fn by_remapping<M: Machine>(
    kernel: &Kernel<M>,
    prepared: &Prepared<'_, M>,
    to: PhysAddr,
    attrs: Attrs,
) -> Result<Outcome, Failure> {
    let range = PageRange::new(prepared.vmalloc, 1).map_err(kpkeys_mm::Error::from)?;
    let Some(own) = remap(kernel, range, to, attrs)? else { return Ok(Outcome::Refused) };
    let back = remap(kernel, range, own, Attrs::KERNEL_DATA)?;
    back.ok_or(Failure::NoTarget("the page could not be mapped back"))?;
    Ok(Outcome::Succeeded)
}

/// Maps a page elsewhere and returns where it was mapped to; `None`, and no change, if the page-table code refuses.
pub(super) fn remap<M: Machine>(
    kernel: &Kernel<M>,
    range: PageRange<M::Format>,
    to: PhysAddr,
    attrs: Attrs,
) -> Result<Option<PhysAddr>, Failure> {
    use kpkeys_pgtable::Format;
    let paging = kernel.paging();
    let section = paging.section(paging.kernel());
    let map = |frame, attrs| paging.map(&section, paging.kernel(), range, attrs, |_| frame);
    let mut own = None;
    paging.unmap(&section, paging.kernel(), range, |_, level, entry| {
        own = Some(M::Format::frame(level, entry));
    })?;
    paging.flush(Flush::Kernel(range));
    let own = own.ok_or(Failure::NoTarget("the page was not mapped"))?;
    if map(to, attrs).is_err() {
        map(own, Attrs::KERNEL_DATA)?;
        return Ok(None);
    }
    Ok(Some(own))
}

fn by_forged_root<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    root: PhysAddr,
) -> Result<Outcome, Failure> {
    let copy = kernel.frames().new_frame()?;
    let loaded = site.load_copy_of_root(root, copy.address());
    kernel.frames().free_frame(copy);
    Ok(if loaded.map_err(Failure::Site)? { Outcome::Succeeded } else { Outcome::Refused })
}

/// Has a table that is in use handed out once more. Without a pool there is no such list, and the nearest is a store to a table that was data.
fn by_forged_spare<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    linear: Aim,
) -> Result<Outcome, Failure> {
    let paging = kernel.paging();
    let new_root = || paging.new_user_root(&paging.section(paging.kernel()));
    let in_use = new_root()?;
    let Some(spares) = paging.spares_of_this_cpu() else {
        paging.release_user_root(in_use);
        return Ok(outcome(site.store(Store::Word, linear)));
    };
    let (count, at) = spares;
    site.overwrite(at, count as u64 + 1).map_err(Failure::Site)?;
    let again = new_root();
    // One of the two owns the page.
    let handed_out = again.is_ok_and(|again| {
        let same = again.frame() == in_use.frame();
        paging.release_user_root(again);
        same
    });
    if handed_out {
        return Ok(Outcome::Succeeded);
    }
    paging.release_user_root(in_use);
    Ok(Outcome::Refused)
}

/// Has another page handed out as a table than the CPU's next one. Without a pool there is no such list.
fn by_forged_entry<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    linear: Aim,
    page: PhysAddr,
) -> Result<Outcome, Failure> {
    let paging = kernel.paging();
    let new_root = || paging.new_user_root(&paging.section(paging.kernel()));
    // So that there is one.
    paging.release_user_root(new_root()?);
    let (Some((count, count_at)), Some((next, next_at))) =
        (paging.spares_of_this_cpu(), paging.next_spare_of_this_cpu())
    else {
        return Ok(outcome(site.store(Store::Word, linear)));
    };
    site.overwrite(next_at, page.0).map_err(Failure::Site)?;
    let handed_out = new_root().is_ok_and(|root| {
        let is_page = root.frame() == page;
        // No pool's page: it is left alone.
        paging.release_user_root(root);
        is_page
    });
    // The page whose turn it was is spare as before.
    site.overwrite(next_at, next.0).map_err(Failure::Site)?;
    site.overwrite(count_at, count as u64).map_err(Failure::Site)?;
    Ok(if handed_out { Outcome::Succeeded } else { Outcome::Refused })
}

fn with_forged_register<M: Machine, S: Site<M>>(
    site: &S,
    saved_in: SavedIn,
    aim: Aim,
) -> Result<Outcome, Failure> {
    let result = Mutex::new(None);
    site.with_forged_register(saved_in, &|| {
        *result.lock() = Some(site.store(Store::Word, aim));
    })
    .map_err(Failure::Site)?;
    let result = result.into_inner().ok_or(Failure::NoTarget("the attack did not run"))?;
    Ok(outcome(result))
}
