//! What only x86-64 has to show: EFLAGS.AC, which opens page tables with backend `smap`, is the kernel's alone.

use super::user::Start;
use super::{descriptors, entry, root};
use crate::arch::PageRange;
use crate::cpu::calls;
use crate::evidence::probe;
use crate::memory::boot::PAGE_SIZE;
use crate::memory::paging::memories;
use crate::program::{self, End, Space};
use crate::protection::{has_alias, selected};
use crate::{arch, cpu, ensure, kernel_test, sched, skip};
use alloc::string::ToString;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use kpkeys::Access;
use kpkeys::smap::AC;
use kpkeys_mm::MapFlags;
use kpkeys_pgtable::{Format as _, VirtAddr};

const CODE: VirtAddr = VirtAddr(0x40_0000);
const STACK: VirtAddr = VirtAddr(0x50_0000_0000);

/// `pushfq; or dword ptr [rsp], 1 << 18; popfq; 1: dec rdi; jnz 1b; mov edi, 7; int 0x80`.
const WITH_AC: &[u8] = &[
    0x9c, 0x81, 0x0c, 0x24, 0, 0, 4, 0, 0x9d, 0x48, 0xff, 0xcf, 0x75, 0xfb, 0xbf, 7, 0, 0, 0, 0xcd,
    0x80,
];

kernel_test! {
    /// Delivery of an exception keeps AC. Every entry clears it: an interrupt's by its first instruction, an exception's after the pushes
    /// that take it to a register.
    fn every_entry_clears_ac() {
        const CLAC: [u8; 3] = [0x0f, 0x01, 0xca];
        /// PUSH of an immediate byte, PUSH RAX, PUSHFQ, POP RAX.
        const MOVES: [u8; 4] = [0x6a, 0x50, 0x9c, 0x58];
        for vector in 0..entry::VECTORS {
            // SAFETY: a stub is code, which the image maps readable.
            let stub = unsafe { *(entry::stub_address(vector) as *const [u8; 16]) };
            let mut at = 0;
            while vector < 32 && MOVES.contains(&stub[at]) {
                at += if stub[at] == MOVES[0] { 2 } else { 1 };
            }
            ensure!(stub[at..].starts_with(&CLAC), "vector {vector}: {stub:x?}");
        }
    }

    /// A program may set AC as it likes. Handlers that interrupt it do not have it, whatever kind they are.
    fn a_programs_ac_opens_nothing() {
        static CLOSED: AtomicUsize = AtomicUsize::new(0);
        static WITH: AtomicUsize = AtomicUsize::new(0);
        static ENDED: AtomicBool = AtomicBool::new(false);
        for count in [&CLOSED, &WITH] {
            count.store(0, Ordering::Relaxed);
        }
        ENDED.store(false, Ordering::Relaxed);
        let Some(other) = cpu::online().map(|cpu| cpu.id).find(|&id| id != cpu::this().id) else {
            skip!("there is no other CPU for the program");
            return Ok(());
        };
        let run = || {
            let failed = |error: kpkeys_mm::Error| error.to_string();
            let mut space = Space::new(memories()).map_err(failed)?;
            program::load(&mut space, CODE, WITH_AC)?;
            let stack = PageRange::new(STACK, 1).map_err(|error| error.to_string())?;
            space.mmap(stack, MapFlags::DATA).map_err(failed)?;
            let top = STACK.0 + PAGE_SIZE;
            let arguments = [100_000_000, 0, 0];
            let end = program::run(&mut space, &Start { instruction: CODE.0, stack: top, arguments });
            ENDED.store(true, Ordering::Relaxed);
            Ok::<_, alloc::string::String>(end)
        };
        let running = sched::spawn("with AC", Some(other), run).map_err(|error| error.to_string())?;
        let look = || {
            let access = selected().page_table_access();
            let is_closed = matches!(access, None | Some(Access::ReadOnly));
            CLOSED.fetch_add(usize::from(is_closed), Ordering::Relaxed);
        };
        let mut looked = 0;
        while !ENDED.load(Ordering::Relaxed) && WITH.load(Ordering::Relaxed) < 50 {
            calls::run_in_interrupt(other, &|| {
                look();
                if has_alias() && probe::load_u64(arch::interrupted_register()).is_ok_and(|flags| flags & AC != 0) {
                    WITH.fetch_add(1, Ordering::Relaxed);
                }
            });
            calls::run_in_nmi(other, &look);
            looked += 2;
        }
        let end = running.join()?;
        let (closed, with) = (CLOSED.load(Ordering::Relaxed), WITH.load(Ordering::Relaxed));
        ensure!(end == End::Exit(7), "{end}");
        ensure!(closed == looked, "{closed} of {looked} handlers were closed");
        ensure!(with > 0 || !has_alias(), "the program was never interrupted with AC set");
    }

    /// A thread's root, which programs run on, translates the kernel's half but for the alias; and the kernel is on its own.
    fn programs_roots_have_no_alias() {
        if !has_alias() {
            return Ok(());
        }
        let paging = memories().paging();
        let space = Space::new(memories()).map_err(|error| error.to_string())?;
        let frame = space.root().frame();
        let alias = paging.alias_of(frame).ok_or("no alias")?;
        let entry = |root: &kpkeys_pgtable::Root, va: VirtAddr| {
            paging.find_table(root, va, arch::Format::ROOT).map(|table| table.slot(va.index::<arch::Format>(arch::Format::ROOT)).load())
        };
        let (own, kernels) = (entry(space.root(), alias), entry(paging.kernel(), alias));
        ensure!(own.is_some_and(kpkeys_pgtable::Entry::is_empty), "the program's entry is {own:x?}");
        ensure!(kernels.is_some_and(|entry| !entry.is_empty()), "the kernel's entry is {kernels:x?}");
        let text = VirtAddr(descriptors::addresses().0);
        ensure!(entry(space.root(), text) == entry(paging.kernel(), text), "the image is not shared");
        // SAFETY: the address space outlives the call.
        let seen = unsafe {
            crate::memory::paging::user::in_space(frame, || {
                (root::current(), root::on_threads_root(root::current), root::current())
            })
        };
        let own = paging.kernel().frame();
        ensure!(seen == (own, frame, own), "roots: {seen:?}");
    }
}
