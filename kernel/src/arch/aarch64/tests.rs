//! What only arm64 has to show.

use super::asid::Asids;
use super::{backend, control, root};
use crate::cpu::calls;
use crate::cpu::fault::Cause;
use crate::evidence::probe;
use crate::lock::IrqsOff;
use crate::memory::paging::{memories, user};
use crate::protection;
use crate::start::image;
use crate::{cpu, ensure, kernel_test};
use alloc::string::ToString;
use core::sync::atomic::{AtomicBool, Ordering};
use kpkeys::Guard;
use kpkeys::context::PageTables;
use kpkeys_mm::AddressSpace;
use kpkeys_pgtable::section::Space;

/// Instructions of the image's code that have these bits under the mask.
fn count(mask: u32, bits: u32) -> usize {
    let (start, end) = image::text();
    (start..end)
        .step_by(4)
        // SAFETY: the image maps its code readable from `start` to `end`.
        .filter(|&at| unsafe { *(at as *const u32) } & mask == bits)
        .count()
}

kernel_test! {
    /// PSTATE.PAN is written by its immediate form alone, and SPSR, from which ERET takes it, by the two exception returns there are: no code
    /// of the kernel can be made to write a value of someone else's choice to either. PSTATE.UAO, which would make user copies privileged,
    /// is not written at all.
    fn pan_is_written_where_it_must_be() {
        /// All but the register operand.
        const REGISTER_FORM: u32 = !0x1f;
        let pan = count(REGISTER_FORM, 0xd518_4260);
        let uao = count(REGISTER_FORM, 0xd518_4280) + count(!0xf00, 0xd500_407f);
        let spsr = count(REGISTER_FORM, 0xd518_4000);
        let opened = count(!0, 0xd500_409f);
        ensure!((pan, uao) == (0, 0), "MSR of a register: {pan} to PAN, {uao} to UAO");
        ensure!(spsr == 2, "SPSR_EL1 is written in {spsr} places instead of 2");
        ensure!(opened > 0, "nothing opens a window");
    }

    /// The window root of an alias is loaded for no thread that names it, in any mode: it is refused by its value, and where there are types by its type.
    fn the_window_root_is_no_threads() {
        let Some(window) = memories().paging().window_root() else { return Ok(()) };
        // SAFETY: the root lives for ever; nothing of the kernel's is reached by it.
        let loaded = unsafe { user::in_space(window.frame(), || root::on_threads_root(root::current)) };
        ensure!(loaded != window.frame(), "it is loaded");
    }

    /// What a TLB has of an alias that windows load is used in windows alone: right after one, in the kernel and on a program's root, it is not mapped.
    fn nothing_of_the_alias_outlives_its_window() {
        let paging = memories().paging();
        let space = AddressSpace::new(memories()).map_err(|error| error.to_string())?;
        let Some(window) = paging.window_root() else { return Ok(()) };
        for table in [window.frame(), paging.kernel().frame(), space.root().frame()] {
            let alias = paging.alias_of(table).map_or(0, |alias| alias.0) as *const u64;
            let inside = {
                let _irqs_off = IrqsOff::new();
                // SAFETY: the only window of this CPU; a load is all that is made in it.
                let _open: Guard<'_, _, PageTables> = unsafe { Guard::enter(protection::backend()) };
                probe::load_u64(alias)
            };
            let after = probe::load_u64(alias);
            // SAFETY: the address space lives until the end of this function.
            let for_program =
                unsafe { user::in_space(space.root().frame(), || probe::load_user_u64(alias)) };
            ensure!(inside.is_ok(), "in the window: {inside:?}");
            for (result, whose) in [(after, "the kernel"), (for_program, "a program")] {
                let cause = result.err().map(|fault| fault.cause);
                ensure!(cause == Some(Cause::NotMapped), "after it {whose} gets {cause:?}");
            }
        }
    }

    /// While there are identifiers, each root has one of its own and keeps it.
    fn asids_are_distinct() {
        let mut asids = Asids::new(6);
        let first: [u16; 4] = core::array::from_fn(|root| asids.of(root as u64 * 4096, &[], || ()));
        let again: [u16; 4] = core::array::from_fn(|root| asids.of(root as u64 * 4096, &[], || ()));
        ensure!(first == [2, 3, 4, 5], "got {first:?}");
        ensure!(again == first, "got {again:?} the second time");
    }

    /// When they are used up everything is flushed, once; roots in use keep theirs, and nobody else gets it.
    fn asids_in_use_outlive_a_rollover() {
        let mut asids = Asids::new(6);
        let mut flushes = 0;
        for root in 1..5 {
            asids.of(root, &[], || flushes += 1);
        }
        let before = flushes;
        let given = [5, 6, 7].map(|root| asids.of(root, &[2], || flushes += 1));
        let kept = asids.of(2, &[], || flushes += 1);
        ensure!((before, flushes) == (0, 1), "{before} flushes before, {flushes} after");
        ensure!(given == [2, 4, 5], "the new ones got {given:?}");
        ensure!(kept == 3, "the one in use has {kept}");
        let next = asids.of(1, &[2, 5], || flushes += 1);
        ensure!((flushes, next) == (2, 4), "(flushes, the next) = ({flushes}, {next})");
    }

    /// Every exception keeps the kernel from programs' memory, whatever was interrupted: it sets PAN, since SPAN is clear, or finds no program's root where there is no
    /// PAN; in an interrupt and in an NMI.
    fn exceptions_keep_programs_memory_out() {
        let is_out = || {
            let is_mapped = root::loaded().any(|(space, _)| space == Space::User);
            control::active().contains(control::Features::PAN) || backend::lacks_pan() && !is_mapped
        };
        for target in cpu::online() {
            let seen = [AtomicBool::new(false), AtomicBool::new(false)];
            let look = |at: &AtomicBool| {
                at.store(is_out(), Ordering::Relaxed);
            };
            calls::run_in_interrupt(target.id, &|| look(&seen[0]));
            calls::run_in_nmi(target.id, &|| look(&seen[1]));
            let seen = seen.map(AtomicBool::into_inner);
            ensure!(seen == [true, true], "CPU {}: (interrupt, NMI) = {seen:?}", target.id);
        }
    }
}
