//! What only arm64 has to show.

use super::asid::Asids;
use super::control;
use crate::cpu::calls;
use crate::start::image;
use crate::{cpu, ensure, kernel_test, skip};
use core::sync::atomic::{AtomicBool, Ordering};

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

    /// Every exception sets PAN, whatever was interrupted, since SPAN is clear: in an interrupt and in an NMI.
    fn exceptions_set_pan() {
        if !control::supported().contains(control::Features::PAN) {
            skip!("this CPU has no PAN: user memory is not mapped while the kernel runs");
            return Ok(());
        }
        for target in cpu::online() {
            let seen = [AtomicBool::new(false), AtomicBool::new(false)];
            let look = |at: &AtomicBool| {
                at.store(control::active().contains(control::Features::PAN), Ordering::Relaxed);
            };
            calls::run_in_interrupt(target.id, &|| look(&seen[0]));
            calls::run_in_nmi(target.id, &|| look(&seen[1]));
            let seen = seen.map(AtomicBool::into_inner);
            ensure!(seen == [true, true], "CPU {}: (interrupt, NMI) = {seen:?}", target.id);
        }
    }
}
