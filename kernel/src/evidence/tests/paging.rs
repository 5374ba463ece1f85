//! The final tables: what is mapped, what page-table pages carry, and that they come back.

use crate::arch::PageRange;
use crate::arch::layout;
use crate::evidence::probe;
use crate::lock::IrqLock;
use crate::memory::boot::PAGE_SIZE;
use crate::memory::paging::{self, later, memories, user};
use crate::protection::violations;
use crate::start::image;
use crate::{arch, cpu, ensure, kernel_test, protection, sched, skip};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use kpkeys::{Backend, Scheme};
use kpkeys_mm::{AddressSpace, Error, MapFlags};
use kpkeys_pgtable::guarded::Violations;
use kpkeys_pgtable::{Format, Level, Machine, PhysAddr, VirtAddr};
use kpkeys_workloads::attack::prepare::table_frame;

const START: VirtAddr = VirtAddr(0x30_0000_0000);

fn range(pages: usize) -> Result<PageRange, String> {
    PageRange::new(START, pages).map_err(|error| error.to_string())
}

fn failed(error: Error) -> String {
    error.to_string()
}

/// Frames that are free, tables, or waiting to become tables.
fn accounted() -> usize {
    let report = paging::check(memories(), &[], |_| ());
    memories().frames().free_frames() + report.ptps + report.spare + report.state
}

/// Whether a page is protected as page-table pages are: by its key, or by being read-only in the linear map and having an alias.
fn is_protected(frame: PhysAddr) -> bool {
    let paging = memories().paging();
    let leaf = |root, va| paging.walk(root, va).map(|(_, _, entry)| entry);
    match protection::selected().scheme() {
        Scheme::Keys => paging.memory_pkey(frame) == Some(paging.key_of_protected(frame)),
        Scheme::Alias => {
            let linear = leaf(paging.kernel(), VirtAddr(layout::linear(frame) as u64));
            linear.is_some_and(|entry| !arch::Format::is_writable(entry))
                && paging.alias_of(frame).is_some_and(|va| leaf(paging.alias_root(), va).is_some())
        }
    }
}

/// An address space with pages of its own, for a moment.
fn take_and_give_back() -> Result<(), String> {
    let mut space = AddressSpace::new(memories()).map_err(failed)?;
    space.mmap(range(40)?, MapFlags::DATA).map_err(failed)?;
    space.populate(range(40)?).map_err(failed)
}

kernel_test! {
    /// Whoever can write where CPUs were started from has one run it, without paging: a list of free frames that leads there gets nobody a mapping.
    fn what_only_the_start_needed_is_not_mapped_for_stores() {
        let Some(range) = arch::only_for_start() else { return Ok(()) };
        if memories().paging().types().is_none() {
            return Ok(());
        }
        for page in 0..range.pages() as u64 {
            let frame = range.start.offset(page * PAGE_SIZE);
            let mapped = memories().vm_map_ram(&[frame]);
            ensure!(mapped.is_err(), "{frame:?} is mapped at {mapped:?}");
        }
    }

    /// A table that is to be mapped writable a second time is refused, or mapped all the same where that is only audited; both are reported.
    fn what_does_not_fit_is_refused_or_audited_and_reported() {
        if memories().paging().types().is_none() {
            return Ok(());
        }
        let (table, before) = (memories().paging().kernel().frame(), violations::reported());
        let mapped = memories().vm_map_ram(&[table]);
        ensure!(violations::reported() == before + 1, "it was not reported");
        match (violations::chosen(), mapped) {
            (Violations::Enforce, Err(Error::Tables(kpkeys_pgtable::Error::Violation(violation)))) => {
                ensure!(violation.frame == table && !violation.stored, "{violation}");
            }
            (Violations::Audit, Ok(area)) => memories().vm_unmap_ram(area, 1).map_err(failed)?,
            (chosen, mapped) => return Err(alloc::format!("{chosen:?}: {mapped:?}")),
        }
    }

    /// The first touch of a user page maps zeroes; what is written stays.
    fn user_pages_are_faulted_in() {
        let mut space = AddressSpace::new(memories()).map_err(failed)?;
        space.mmap(range(4)?, MapFlags::DATA).map_err(failed)?;
        let zero = user::read(&mut space, START).map_err(failed)?;
        user::write(&mut space, START.offset(8), 7).map_err(failed)?;
        let seven = user::read(&mut space, START.offset(8)).map_err(failed)?;
        ensure!((zero, seven) == (0, 7), "read {zero} and {seven}");
        ensure!(space.mapped_pages() == 1, "{} pages are mapped", space.mapped_pages());
        let beyond = user::read(&mut space, START.offset(4 * PAGE_SIZE));
        ensure!(matches!(beyond, Err(Error::NotMapped(_))), "beyond the mapping: {beyond:?}");
    }

    /// After a fork each process sees its own writes and not the other's, through the TLB as it is.
    fn forked_pages_are_copied_on_write() {
        let mut parent = AddressSpace::new(memories()).map_err(failed)?;
        parent.mmap(range(2)?, MapFlags::DATA).map_err(failed)?;
        user::write(&mut parent, START, 1).map_err(failed)?;
        let mut child = parent.fork().map_err(failed)?;
        user::write(&mut child, START, 2).map_err(failed)?;
        let seen = (user::read(&mut parent, START).map_err(failed)?, user::read(&mut child, START).map_err(failed)?);
        ensure!(seen == (1, 2), "(parent, child) = {seen:?}");
        user::write(&mut parent, START, 3).map_err(failed)?;
        let child = user::read(&mut child, START).map_err(failed)?;
        ensure!(child == 2, "the child sees {child}");
    }

    /// A page that was made read-only cannot be written, at once.
    fn write_permission_is_revoked() {
        let mut space = AddressSpace::new(memories()).map_err(failed)?;
        space.mmap(range(1)?, MapFlags::DATA).map_err(failed)?;
        user::write(&mut space, START, 1).map_err(failed)?;
        space.mprotect(range(1)?, false).map_err(failed)?;
        let refused = user::write(&mut space, START, 2);
        ensure!(matches!(refused, Err(Error::Forbidden(_))), "got {refused:?}");
        let value = user::read(&mut space, START).map_err(failed)?;
        ensure!(value == 1, "holds {value}");
    }

    /// The kernel's own loads and stores cannot touch user pages: only those made for it can.
    fn user_pages_need_permission() {
        let mut space = AddressSpace::new(memories()).map_err(failed)?;
        space.mmap(range(1)?, MapFlags::DATA).map_err(failed)?;
        user::write(&mut space, START, 1).map_err(failed)?;
        // SAFETY: the address space outlives the call.
        let result = unsafe {
            user::in_space(space.root().frame(), || {
                let at = START.0 as *const u64;
                let in_interrupt = IrqLock::new(None);
                cpu::calls::run_in_interrupt(cpu::this().id, &|| {
                    let at = START.0 as *const u64;
                    *in_interrupt.lock() = Some(probe::load_u64(at).is_err());
                });
                let in_interrupt = *in_interrupt.lock();
                (probe::load_user_u64(at), probe::load_u64(at).is_err(), in_interrupt)
            })
        };
        let expected = (Ok(1), true, Some(true));
        ensure!(result == expected, "(user load, load refused, in an interrupt) = {result:?}");
    }

    /// Every table of a new address space is protected where tables are, and the checker finds nothing else that is.
    fn tables_are_protected_while_they_are_tables() {
        let paging = memories().paging();
        let mut space = AddressSpace::new(memories()).map_err(failed)?;
        space.mmap(range(1)?, MapFlags::DATA).map_err(failed)?;
        space.fault(START, true).map_err(failed)?;
        for level in [Level::Pte, Level::Pmd, Level::Pud, arch::Format::ROOT] {
            let frame = table_frame(memories(), space.root(), START, level).ok_or("no table")?;
            let found = is_protected(frame);
            ensure!(found == paging.is_protected(), "the {level:?} table is protected: {found}");
        }
        let report = paging::check(memories(), &[space.root()], |_| ());
        ensure!(report.findings == 0, "{} findings with the address space alive", report.findings);
    }

    /// What was held back becomes memory, block by block, while another CPU takes pages and gives them back: none is missing, and the last is mapped where it was not.
    fn memory_is_added_while_others_allocate() {
        let Some(held) = later::held_back().filter(|held| !held.is_empty()) else {
            skip!("no memory was held back: `later=MIB`");
            return Ok(());
        };
        let last = VirtAddr(layout::linear(PhysAddr(held.end.0 - PAGE_SIZE)) as u64);
        let translated = || memories().paging().translate(memories().paging().kernel(), last);
        ensure!(translated().is_none(), "it is mapped before it is added");
        let before = accounted();
        let done = Arc::new(AtomicBool::new(false));
        let other = cpu::online().last().map(|cpu| cpu.id);
        let end = done.clone();
        let allocating = sched::spawn("allocating", other, move || {
            let mut failed = None;
            while failed.is_none() && !end.load(Ordering::Relaxed) {
                failed = take_and_give_back().err();
            }
            failed
        });
        let allocating = allocating.map_err(|error| error.to_string())?;
        let mut added = 0;
        let result = loop {
            match later::add_block(memories()) {
                Ok(Some(pages)) => added += pages,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            }
            sched::yield_now();
        };
        done.store(true, Ordering::Relaxed);
        let failed = allocating.join();
        result?;
        ensure!(failed.is_none(), "the other CPU: {failed:?}");
        ensure!(added == held.pages(), "{added} pages of {} were added", held.pages());
        ensure!(accounted() == before + added, "{} frames for {before} and {added}", accounted());
        ensure!(translated().is_some(), "it is not mapped");
        let report = paging::check(memories(), &[], |_| ());
        ensure!(report.findings == 0, "{} findings", report.findings);
    }

    /// Address spaces and areas leave nothing behind: every frame is free, a table, or spare.
    fn no_frame_is_lost() {
        memories().purge_vmalloc();
        let before = accounted();
        for huge in [false, true] {
            let mut space = AddressSpace::new(memories()).map_err(failed)?;
            let flags = if huge { MapFlags::HUGE_DATA } else { MapFlags::DATA };
            space.mmap(range(1024)?, flags).map_err(failed)?;
            space.populate(range(1024)?).map_err(failed)?;
            drop(space.fork().map_err(failed)?);
            let area = memories().vmalloc_huge(40).map_err(failed)?;
            memories().vfree(area).map_err(failed)?;
        }
        memories().purge_vmalloc();
        let after = accounted();
        ensure!(before == after, "{before} frames before, {after} after");
    }

    /// Unmapping what is unmapped frees nothing a second time, and areas are freed once.
    fn nothing_is_freed_twice() {
        let mut space = AddressSpace::new(memories()).map_err(failed)?;
        space.mmap(range(8)?, MapFlags::DATA).map_err(failed)?;
        space.populate(range(8)?).map_err(failed)?;
        space.munmap(range(8)?).map_err(failed)?;
        let before = accounted();
        space.munmap(range(8)?).map_err(failed)?;
        let area = memories().vmalloc(1).map_err(failed)?;
        memories().vfree(area).map_err(failed)?;
        let again = memories().vfree(area);
        memories().purge_vmalloc();
        let after = accounted();
        ensure!(matches!(again, Err(Error::NotMapped(_))), "the second vfree: {again:?}");
        // A first area may link tables, which are accounted for as such.
        ensure!(before == after, "{before} frames before, {after} after");
    }

    /// An alias of a page-table page, made through the interface for any frame, does not free it when it goes. Where frames have types there
    /// is none: it is refused, and takes nothing along.
    fn unmapping_an_alias_frees_no_table() {
        let root = memories().paging().kernel().frame();
        let before = accounted();
        for _ in 0..3 {
            match memories().vm_map_ram(&[root]) {
                Ok(alias) if paging::types().is_none() => {
                    memories().vm_unmap_ram(alias, 1).map_err(failed)?;
                }
                Err(_) if paging::types().is_some() => {}
                mapped => ensure!(false, "mapping a table: {mapped:?}"),
            }
        }
        memories().purge_vmalloc();
        let after = accounted();
        ensure!(before == after, "{before} frames before, {after} after");
    }

    /// The boot tables in the image cannot be written where the image is mapped.
    fn boot_tables_are_read_only_in_the_image() {
        let at = image::boot_tables().0 as *mut u64;
        // SAFETY: they are zeroes, and nobody uses them.
        let cause = unsafe { probe::store_u64(at, 0) }.map_err(|fault| fault.cause);
        ensure!(cause == Err(cpu::fault::Cause::Write), "writing the boot tables: {cause:?}");
    }

    /// The linear map has RAM and nothing beyond it.
    fn the_linear_map_ends_with_ram() {
        let memory = memories().machine().memory();
        let end = layout::linear(memory.frame(memory.pages));
        let cause = probe::load_u64(end.cast()).map_err(|fault| fault.cause);
        ensure!(cause == Err(cpu::fault::Cause::NotMapped), "reading behind RAM: {cause:?}");
    }
}
