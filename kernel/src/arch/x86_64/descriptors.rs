//! Segments, the task state and the interrupt descriptor table.
//!
//! Each CPU has its own GDT and TSS; the IDT is shared. NMI, double fault and machine check
//! run on stacks of their own through the interrupt stack table, since they can arrive when
//! the current stack is unusable (Intel SDM vol. 3A, 6.14.5 "Interrupt Stack Table").

use super::entry::{self, VECTORS};
use crate::cpu::MAX_CPUS;
use crate::stack::Stack;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Vectors that get their own stack, in the order of the interrupt stack table.
const OWN_STACK: [u8; 3] = [entry::NMI, entry::DOUBLE_FAULT, entry::MACHINE_CHECK];

/// The kernel's code segment: the first descriptor after the null one.
const KERNEL_CODE: u16 = 0x08;

struct Segments {
    gdt: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

static TASKS: [spin::Once<TaskStateSegment>; MAX_CPUS] = [const { spin::Once::new() }; MAX_CPUS];
static SEGMENTS: [spin::Once<Segments>; MAX_CPUS] = [const { spin::Once::new() }; MAX_CPUS];
static IDT: spin::Once<Idt> = spin::Once::new();

/// Gives the running CPU its descriptor tables. Its number must be known (`cpu_state`).
///
/// # Panics
///
/// When no stacks are left, which the number of slots rules out for
/// [`MAX_CPUS`] CPUs that start before any thread.
pub fn install() {
    let index = super::cpu_state::current_index();
    let task = TASKS[index].call_once(new_task);
    let segments = SEGMENTS[index].call_once(|| new_segments(task));
    segments.gdt.load();
    // SAFETY: the selectors belong to the table just loaded, and the code segment is a
    // 64-bit ring-0 one like the segment it replaces. The IDT is complete and lives for ever.
    unsafe {
        CS::set_reg(segments.code);
        DS::set_reg(segments.data);
        ES::set_reg(segments.data);
        SS::set_reg(segments.data);
        load_tss(segments.task);
        IDT.call_once(Idt::new).load();
    }
}

fn new_task() -> TaskStateSegment {
    let mut task = TaskStateSegment::new();
    for place in 0..OWN_STACK.len() {
        let stack = Stack::take().expect("each CPU's exception stacks come before any thread's");
        task.interrupt_stack_table[place] = VirtAddr::new(stack.top() as u64);
        core::mem::forget(stack); // the CPU owns it for ever
    }
    task
}

fn new_segments(task: &'static TaskStateSegment) -> Segments {
    let mut gdt = GlobalDescriptorTable::new();
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(task));
    Segments { gdt, code, data, task }
}

/// A 64-bit gate (Intel SDM vol. 3A, 6.14.1): the handler's address in three pieces.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    address_low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    address_middle: u16,
    address_high: u32,
    reserved: u32,
}

impl Gate {
    /// Present, ring 0, interrupt gate: interrupts are off in the handler.
    const INTERRUPT: u8 = 0x8e;

    fn new(address: u64, stack: u8) -> Self {
        Self {
            address_low: address as u16,
            selector: KERNEL_CODE,
            stack,
            kind: Self::INTERRUPT,
            address_middle: (address >> 16) as u16,
            address_high: (address >> 32) as u32,
            reserved: 0,
        }
    }
}

/// One gate for each vector, all alike but for their stacks; the `x86_64` crate's table has
/// a differently typed field for each exception, which uniform entry code has no use for.
#[repr(C, align(16))]
struct Idt([Gate; VECTORS]);

impl Idt {
    fn new() -> Self {
        Self(core::array::from_fn(|vector| {
            let own = OWN_STACK.iter().position(|&own| usize::from(own) == vector);
            let stack = own.map_or(0, |place| place as u8 + 1);
            Gate::new(entry::stub_address(vector), stack)
        }))
    }

    fn load(&'static self) {
        let limit = (size_of::<Self>() - 1) as u16;
        let base = VirtAddr::from_ptr(self);
        // SAFETY: every gate leads to an entry stub, and the table is never changed or freed.
        unsafe { lidt(&DescriptorTablePointer { limit, base }) };
    }
}
