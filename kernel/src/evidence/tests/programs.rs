//! Programs in user mode, on demand-faulted memory.

use crate::arch::PageRange;
use crate::arch::layout;
use crate::arch::user::{Start, fill_program, forbidden_programs, spoiling_program};
use crate::memory::boot::PAGE_SIZE;
use crate::memory::paging::{memories, user};
use crate::program::{self, End, Mistake, Space};
use crate::{cpu, ensure, kernel_test, sched};
use alloc::string::{String, ToString};
use kpkeys_mm::MapFlags;
use kpkeys_pgtable::VirtAddr;

const CODE: VirtAddr = VirtAddr(0x40_0000);
const DATA: VirtAddr = VirtAddr(0x50_0000_0000);
const PAGES: usize = 64;

/// An address space with the program in it, and room for its data.
fn space_with(program: &[u8]) -> Result<Space, String> {
    let failed = |error: kpkeys_mm::Error| error.to_string();
    let range = |start, pages| PageRange::new(start, pages).map_err(|error| error.to_string());
    let mut space = Space::new(memories()).map_err(failed)?;
    program::load(&mut space, CODE, program)?;
    space.mmap(range(DATA, PAGES)?, MapFlags::DATA).map_err(failed)?;
    Ok(space)
}

fn start(arguments: [u64; 3]) -> Start {
    Start { instruction: CODE.0, stack: DATA.0 + PAGE_SIZE, arguments }
}

kernel_test! {
    /// A program fills memory it never had: each page comes with its first touch, and holds what it wrote.
    fn programs_fault_their_memory_in() {
        let mut space = space_with(fill_program())?;
        let end = program::run(&mut space, &start([DATA.0, PAGES as u64, 3]));
        ensure!(end == End::Exit(3 * PAGES as u64), "{end}");
        ensure!(space.mapped_pages() == PAGES + 1, "{} pages are mapped", space.mapped_pages());
    }

    /// A forked process writes its own copy.
    fn forked_programs_do_not_share_writes() {
        let mut parent = space_with(fill_program())?;
        let first = program::run(&mut parent, &start([DATA.0, 8, 1]));
        let mut child = parent.fork().map_err(|error| error.to_string())?;
        let second = program::run(&mut child, &start([DATA.0, 4, 5]));
        let (own, other) = (user::read(&mut child, DATA), user::read(&mut parent, DATA));
        ensure!((first, second) == (End::Exit(8), End::Exit(20)), "{first}, {second}");
        ensure!((own, other) == (Ok(5), Ok(1)), "(child, parent) holds {own:?}, {other:?}");
    }

    /// A program that goes where it must not is ended, and the kernel goes on: outside its mappings, into its code, into kernel memory, and
    /// to page tables.
    fn programs_are_stopped() {
        let linear = layout::linear(memories().paging().kernel().frame()) as u64;
        for address in [0x1000, CODE.0, linear, layout::DEVICES] {
            let mut space = space_with(fill_program())?;
            let end = program::run(&mut space, &start([address, 1, 0]));
            let at = match end {
                End::Killed(Mistake::PageFault(fault)) => Some(fault.address),
                _ => None,
            };
            ensure!(at == Some(address), "writing {address:#x}: {end}");
        }
    }

    /// Instructions that are the kernel's alone end a program, writes of the protection register among them.
    fn privileged_instructions_are_refused() {
        for program in forbidden_programs() {
            let mut space = space_with(program)?;
            let end = program::run(&mut space, &start([0; 3]));
            ensure!(end == End::Killed(Mistake::ForbiddenInstruction), "{end}");
        }
    }

    /// A program cannot take the kernel's per-CPU pointer away.
    fn programs_cannot_spoil_the_kernels_state() {
        let mut space = space_with(spoiling_program())?;
        let end = program::run(&mut space, &start([0; 3]));
        ensure!(end == End::Exit(9), "{end}");
    }

    /// Programs on all CPUs, two on each, preempted by the timer and moved around.
    fn programs_share_the_cpus() {
        let mut threads = alloc::vec::Vec::new();
        for number in 0..2 * cpu::online().count() as u64 {
            let thread = sched::spawn("program", None, move || {
                let mut space = space_with(fill_program())?;
                for round in 1..4 {
                    let value = number * 100 + round;
                    let end = program::run(&mut space, &start([DATA.0, PAGES as u64, value]));
                    ensure!(end == End::Exit(value * PAGES as u64), "program {number}: {end}");
                }
                Ok(())
            });
            threads.push(thread.map_err(|error| error.to_string())?);
        }
        for thread in threads {
            thread.join()?;
        }
    }
}
