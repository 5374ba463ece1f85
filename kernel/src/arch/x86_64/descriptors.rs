//! Segments, the task state and the interrupt descriptor table.
//!
//! Each CPU has its own GDT and TSS; the IDT is shared. All of them are [`Settled`]: whoever could change a gate would choose
//! what the kernel executes, and whoever could change a stack where the CPU pushes a frame, into a page table if a window is open.
//! (The accessed flag of every descriptor is set and the task is loaded before they settle, so the CPU writes none of
//! them either; Intel SDM vol. 3A, 3.4.5.1, 7.2.3.) An exception of a program arrives on its CPU's entry stack, which never changes;
//! entry code moves to the thread's. NMI, double fault and machine check
//! run on stacks of their own through the interrupt stack table, since they can arrive when
//! the current stack is unusable (Intel SDM vol. 3A, 6.14.5 "Interrupt Stack Table").

use super::entry::{self, VECTORS};
use super::user::SYSTEM_CALL;
use crate::cpu::MAX_CPUS;
use crate::cpu::stack::Stack;
use crate::start::settled::Settled;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Vectors that get their own stack, in the order of the interrupt stack table.
const OWN_STACK: [u8; 3] = [entry::NMI, entry::DOUBLE_FAULT, entry::MACHINE_CHECK];

/// Segment selectors, in the order in which [`new_segments`] appends them after the null one.
pub const KERNEL_CODE: u16 = 0x08;
/// The kernel's data.
pub const KERNEL_DATA: u16 = 0x10;
/// A program's data, privilege level 3.
pub const USER_DATA: u16 = 0x18 | 3;
/// A program's code, privilege level 3.
pub const USER_CODE: u16 = 0x20 | 3;

struct Segments {
    gdt: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

#[unsafe(link_section = ".settled")]
static TASKS: [Settled<TaskStateSegment>; MAX_CPUS] = [const { Settled::new() }; MAX_CPUS];
#[unsafe(link_section = ".settled")]
static SEGMENTS: [Settled<Segments>; MAX_CPUS] = [const { Settled::new() }; MAX_CPUS];
#[unsafe(link_section = ".settled")]
static IDT: Settled<Idt> = Settled::new();

/// Gives the running CPU its descriptor tables. Its number must be known (`cpu_state`).
///
/// # Panics
///
/// When no stacks are left, which the number of slots rules out for
/// [`MAX_CPUS`] CPUs that start before any thread.
pub fn install() {
    let index = super::cpu_state::current_index();
    let task = TASKS[index].settle(new_task);
    let segments = SEGMENTS[index].settle(|| new_segments(task));
    segments.gdt.load();
    // SAFETY: the selectors belong to the table just loaded, and the code segment is a
    // 64-bit ring-0 one like the segment it replaces. The IDT is complete and lives for ever.
    unsafe {
        CS::set_reg(segments.code);
        DS::set_reg(segments.data);
        ES::set_reg(segments.data);
        SS::set_reg(segments.data);
        load_tss(segments.task);
        IDT.settle(Idt::new).load();
    }
}

/// Where the exception table and the running CPU's task state are. For attacks.
pub fn addresses() -> (u64, u64) {
    let task = &*TASKS[super::cpu_state::current_index()];
    (&raw const *IDT as u64, &raw const *task as u64)
}

fn new_task() -> TaskStateSegment {
    let mut task = TaskStateSegment::new();
    for place in 0..OWN_STACK.len() {
        task.interrupt_stack_table[place] = own_stack();
    }
    task.privilege_stack_table[0] = own_stack();
    task
}

/// The top of a stack that the CPU owns for ever.
fn own_stack() -> VirtAddr {
    let stack = Stack::take().expect("each CPU's exception stacks come before any thread's");
    let top = super::pointer(stack.top() as u64);
    core::mem::forget(stack);
    top
}

fn new_segments(task: &'static TaskStateSegment) -> Segments {
    let mut gdt = GlobalDescriptorTable::new();
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let user_data = gdt.append(Descriptor::user_data_segment());
    let user_code = gdt.append(Descriptor::user_code_segment());
    debug_assert_eq!(
        (code.0, data.0, user_data.0, user_code.0),
        (KERNEL_CODE, KERNEL_DATA, USER_DATA, USER_CODE)
    );
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
    /// The same, and programs may use it.
    const SYSTEM_CALL: u8 = 0xee;

    fn new(address: u64, stack: u8, kind: u8) -> Self {
        Self {
            address_low: address as u16,
            selector: KERNEL_CODE,
            stack,
            kind,
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
            let kind = if vector == usize::from(SYSTEM_CALL) {
                Gate::SYSTEM_CALL
            } else {
                Gate::INTERRUPT
            };
            Gate::new(entry::stub_address(vector), stack, kind)
        }))
    }

    fn load(&'static self) {
        let limit = (size_of::<Self>() - 1) as u16;
        let base = super::pointer(core::ptr::from_ref(self).addr() as u64);
        // SAFETY: every gate leads to an entry stub, and the table is never changed or freed.
        unsafe { lidt(&DescriptorTablePointer { limit, base }) };
    }
}
