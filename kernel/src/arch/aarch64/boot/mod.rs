//! From the boot loader to the kernel proper, on the boot CPU.
//!
//! `entry` (assembly) turns the MMU on with the boot tables; [`boot_cpu`] finds out from the device tree what
//! machine this is, builds the early tables from that, and moves to them and to a stack with
//! a guard page. Whatever the machine lacks stops the boot with a reason.

mod boot_tables;
pub mod entry;

use super::backend::Choice;
use super::{context, control, devices, error, exceptions, gic, layout, psci, root, serial, time};
use crate::boot_info::BootInfo;
use crate::cpu::MAX_CPUS;
use crate::lock::IrqLock;
use crate::memory::{BootMemory, PhysAddr, PhysRange};
use crate::stack::Stack;
use crate::{console, cpu, early_tables, exit, image, protection};
use arrayvec::ArrayVec;
use kpkeys_devicetree::{Cpu, Gic, Machine, Region};

/// What the machine has besides memory.
struct Devices {
    cpus: ArrayVec<Cpu, MAX_CPUS>,
    cpus_left_out: usize,
    gic: Gic,
}

/// What [`boot_cpu`] found, on its way to [`on_final_stack`].
static FOUND: IrqLock<Option<(BootInfo, Devices)>> = IrqLock::new(None);

/// The kernel's first Rust code: the physical addresses of the device tree, as the boot loader passed it in X0, and of the image;
/// and the exception level it was entered at.
pub extern "C" fn boot_cpu(device_tree: u64, image: u64, current_el: u64) -> ! {
    error::remember_entry_level(current_el);
    layout::set_image_start(PhysAddr(image));
    let boot_cpu = cpu::get(cpu::CpuId(0)).expect("CPU 0 always exists");
    // SAFETY: the first thing on the first CPU.
    unsafe { boot_cpu.arch.install() };
    boot_cpu.arch.set_mpidr(control::mpidr());
    time::start_clock();
    exceptions::install(&boot_cpu.arch);
    // SAFETY: the entry code has mapped the blob, if the loader's pointer is one, and nobody writes to it.
    let blob = unsafe { boot_tables::device_tree(device_tree) };
    open_console(blob.as_ref().ok().copied());
    log::info!("kpkeys kernel {} on aarch64", env!("CARGO_PKG_VERSION"));
    let mut found = match blob {
        // SAFETY: the blob is in the boot tables.
        Ok(blob) => unsafe { discover(blob) },
        Err(error) => exit::refuse(format_args!("{error}")),
    };
    // SAFETY: `discover` left out of free memory whatever is in use.
    unsafe { move_to_early_tables(&mut found.0.memory) };
    if let Err(missing) = control::enable_required() {
        exit::refuse(format_args!("{missing}"));
    }
    *FOUND.lock() = Some(found);

    let Some(stack) = Stack::take() else { exit::refuse(format_args!("no stack is left")) };
    let top = stack.top();
    core::mem::forget(stack); // CPU 0's idle thread has it for ever
    // SAFETY: the stack is fresh, and nothing refers to the boot stack any more.
    unsafe { context::call_on_stack(top, on_final_stack) }
}

extern "C" fn on_final_stack() -> ! {
    let found = FOUND.lock().take();
    let (info, devices) = found.expect("`boot_cpu` stored it");
    crate::kernel_main(info, |backend, memory_is_ready| {
        start_machine(&devices, backend, memory_is_ready);
    })
}

/// Opens the console where the device tree has it, or, so that a bad device tree can be complained of, where QEMU's board has it.
fn open_console(blob: Option<&'static [u8]>) {
    if let Some(Ok(console)) = blob.map(kpkeys_devicetree::console) {
        serial::set_physical(console.base());
    }
    // SAFETY: nothing else maps the block of the registers yet, and the console is opened for the first time.
    unsafe {
        boot_tables::map_device(serial::physical());
        console::init();
    }
}

/// # Safety
///
/// The boot tables must be in use, with the blob in them.
unsafe fn discover(blob: &'static [u8]) -> (BootInfo, Devices) {
    let machine =
        Machine::parse(blob).unwrap_or_else(|error| exit::refuse(format_args!("{error}")));
    let info = BootInfo::new(memory(&machine, blob), machine.boot_arguments)
        .unwrap_or_else(|error| exit::refuse(format_args!("{error}")));
    if let Err(error) = time::set_interrupt(&machine.timer) {
        exit::refuse(format_args!("{error}"));
    }
    psci::set_conduit(machine.psci);
    register_devices(&machine);
    let cpus: ArrayVec<_, MAX_CPUS> = machine.cpus.iter().copied().take(MAX_CPUS).collect();
    let cpus_left_out = machine.cpus.len() - cpus.len() + machine.cpus_left_out;
    (info, Devices { cpus, cpus_left_out, gic: machine.gic })
}

fn memory(machine: &Machine<'_>, blob: &[u8]) -> BootMemory {
    // What must not be mapped is no RAM to this kernel.
    let mut memory = BootMemory::new(machine.ram.iter().map(range));
    machine
        .reserved
        .iter()
        .filter(|one| one.no_map)
        .for_each(|one| memory.remove(range(&one.region)));
    for ram in memory.ram() {
        // SAFETY: the tree says that it is memory.
        unsafe { boot_tables::map_ram(*ram) };
    }
    memory.reserve(image::frames());
    memory.reserve(PhysRange::new(blob.as_ptr() as u64, blob.len() as u64));
    machine
        .reserved
        .iter()
        .filter(|one| !one.no_map)
        .for_each(|reserved| memory.reserve(range(&reserved.region)));
    memory
}

/// The console, the distributor, and of the redistributors as many as there are CPUs: boards declare room for far more.
fn register_devices(machine: &Machine<'_>) {
    /// Four frames of 64 KiB, as GICv4 has them (IHI 0069, 12.10).
    const LARGEST_REDISTRIBUTOR: u64 = 4 << 16;
    let most = (machine.cpus.len() + machine.cpus_left_out) as u64 * LARGEST_REDISTRIBUTOR;
    let console = core::iter::once(machine.console);
    let clipped = console.chain(machine.gic.regions()).map(|region| {
        let range = range(&region);
        PhysRange::new(range.start.0, range.len().min(most.max(1 << 16)))
    });
    devices::register(clipped);
}

fn range(region: &Region) -> PhysRange {
    PhysRange::new(region.base(), region.size())
}

/// # Safety
///
/// Free boot memory must be unused, and the boot tables in use.
unsafe fn move_to_early_tables(memory: &mut BootMemory) {
    // SAFETY: forwarded.
    if let Err(error) = unsafe { early_tables::build(memory, devices::pages()) } {
        exit::refuse(format_args!("{error}"));
    }
    super::entry_barrier();
    // SAFETY: the tables were just built; one-to-one addresses are not used from here on, but for the console, which nobody
    // writes to before it is opened again where it is mapped now.
    unsafe {
        root::enter_early_tables();
        console::init();
    }
}

/// The backend, interrupts, time and the other CPUs, in this order.
fn start_machine(devices: &Devices, backend: Choice, _: crate::heap::Ready) {
    // SAFETY: once, on the boot CPU, interrupts off, no thread and no other CPU yet.
    if let Err(unusable) = unsafe { protection::select(backend) } {
        exit::refuse(format_args!("{unusable}"));
    }
    let this = &cpu::this().arch;
    if let Err(error) = gic::init(&devices.gic).and_then(|()| gic::init_cpu(this)) {
        exit::refuse(format_args!("{error}"));
    }
    log::info!("interrupts: {}", gic::name());
    crate::control::report();
    crate::sched::adopt_idle_thread();
    super::irq::enable_nmi();
    crate::smp::start_machine(devices.cpus.len(), devices.cpus_left_out, || {
        // SAFETY: once, on the boot CPU, with the early tables in use.
        unsafe { super::smp::start_others(&devices.cpus) }
    });
}
