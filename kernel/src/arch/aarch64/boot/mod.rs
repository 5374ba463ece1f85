//! From the boot loader to the kernel proper, on the boot CPU.
//!
//! `entry` (assembly) turns the MMU on with the boot tables; [`boot_cpu`] finds out from the device tree what
//! machine this is, builds the early tables from that, and moves to them and to a stack with
//! a guard page. Whatever the machine lacks stops the boot with a reason.

mod boot_tables;
pub mod entry;

use super::backend::Choice;
use super::{context, control, devices, error, exceptions, gic, layout, psci, root, serial, time};
use crate::cpu::MAX_CPUS;
use crate::cpu::stack::{self, Stack};
use crate::lock::IrqLock;
use crate::memory::boot::{BootMemory, PhysAddr, PhysRange};
use crate::start::boot_info::BootInfo;
use crate::start::early_tables;
use crate::start::image;
use crate::{console, cpu, exit, protection};
use arrayvec::ArrayVec;
use kpkeys_devicetree::{Console, Cpu, Cpus, Gic, Machine, Ram, Region, Reserved};

/// What the machine has besides memory.
struct Devices {
    cpus: ArrayVec<Cpu, MAX_CPUS>,
    cpus_left_out: usize,
    gic: Gic,
}

/// The parts of the device tree that a kernel cannot do without, each of them read.
struct Board<'a> {
    ram: &'a [Region],
    reserved: &'a [Reserved],
    cpus: &'a Cpus,
    gic: &'a Gic,
    console: Region,
    boot_arguments: &'a str,
    initramfs: Option<Region>,
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

/// Opens the console: where the device tree has it, found even if the rest of the tree is damaged or unknown; or else, so that a boot
/// loader's mistake can be complained of, where QEMU's board has it. That last try is left out where the tree has memory there.
fn open_console(blob: Option<&'static [u8]>) {
    match blob.map(kpkeys_devicetree::console) {
        Some(Ok(Console::Pl011(registers))) => serial::set_physical(registers.base()),
        _ if blob.is_some_and(has_memory_at_the_board_console) => return,
        _ => {}
    }
    // SAFETY: nothing else maps the block of the registers yet, and the console is opened for the first time.
    unsafe {
        boot_tables::map_device(serial::physical());
        console::init();
    }
}

fn has_memory_at_the_board_console(blob: &[u8]) -> bool {
    let in_it = |ram: &Region| (ram.base()..ram.end()).contains(&serial::BOARD_CONSOLE);
    Machine::parse(blob)
        .is_ok_and(|machine| machine.ram.is_ok_and(|ram| ram.ranges().iter().any(in_it)))
}

/// # Safety
///
/// The boot tables must be in use, with the blob in them.
unsafe fn discover(blob: &'static [u8]) -> (BootInfo, Devices) {
    let machine =
        Machine::parse(blob).unwrap_or_else(|error| exit::refuse(format_args!("{error}")));
    // First of all, since it is how a machine without semihosting is switched off.
    psci::set_conduit(machine.psci.as_ref().copied().unwrap_or_default());
    let Some(board) = board(&machine) else {
        exit::refuse(format_args!("what the device tree says is not enough, see above"));
    };
    let initramfs = board.initramfs.as_ref().map(range);
    let info = BootInfo::new(memory(&board, blob), board.boot_arguments, initramfs)
        .unwrap_or_else(|error| exit::refuse(format_args!("{error}")));
    register_devices(&board);
    let cpus: ArrayVec<_, MAX_CPUS> = board.cpus.listed.iter().copied().take(MAX_CPUS).collect();
    let cpus_left_out = board.cpus.listed.len() - cpus.len() + board.cpus.left_out;
    (info, Devices { cpus, cpus_left_out, gic: board.gic.clone() })
}

/// Every part, if all are there. Otherwise says of each what is wrong: a board is ported to from one boot's messages, not from one a boot.
fn board<'a>(machine: &'a Machine<'a>) -> Option<Board<'a>> {
    for (part, error) in machine.errors() {
        log::error!("{part}: {error}");
    }
    if machine.ram == Ok(Ram::LeftToLoader) {
        log::error!(
            "memory: the boot loader was to say in the device tree how much there is, and did not"
        );
    }
    let console = match machine.console {
        Ok(Console::Pl011(registers)) => Some(registers),
        Ok(Console::Other(model)) => {
            log::error!("console: this kernel has a driver for PL011 alone, and none for {model}");
            None
        }
        Ok(Console::Unsaid) => {
            log::error!("console: the device tree names none, and has no PL011");
            None
        }
        Err(_) => None,
    };
    let timer = machine.timer.as_ref().ok().and_then(|timer| {
        time::set_interrupt(timer).inspect_err(|error| log::error!("timer: {error}")).ok()
    });
    machine.psci.as_ref().ok().zip(timer)?;
    Some(Board {
        ram: machine.ram.as_ref().ok().map(Ram::ranges).filter(|ram| !ram.is_empty())?,
        reserved: machine.reserved.as_ref().ok()?,
        cpus: machine.cpus.as_ref().ok()?,
        gic: machine.gic.as_ref().ok()?,
        console: console?,
        boot_arguments: machine.boot_arguments.as_ref().ok()?,
        initramfs: *machine.initramfs.as_ref().ok()?,
    })
}

fn memory(board: &Board<'_>, blob: &[u8]) -> BootMemory {
    // What must not be mapped is no RAM to this kernel.
    let mut memory = BootMemory::new(board.ram.iter().map(range));
    board
        .reserved
        .iter()
        .filter(|one| one.no_map)
        .for_each(|one| memory.remove(range(&one.region)));
    for ram in memory.ram() {
        // SAFETY: the tree says that it is memory.
        unsafe { boot_tables::map_ram(*ram) };
    }
    stack::make_for(board.cpus.listed.len());
    memory.reserve(image::frames());
    memory.reserve(PhysRange::new(blob.as_ptr() as u64, blob.len() as u64));
    board
        .reserved
        .iter()
        .filter(|one| !one.no_map)
        .for_each(|reserved| memory.reserve(range(&reserved.region)));
    memory
}

/// The console, the distributor, and of the redistributors as many as there are CPUs: boards declare room for far more.
fn register_devices(board: &Board<'_>) {
    /// Four frames of 64 KiB, as GICv4 has them (IHI 0069, 12.10).
    const LARGEST_REDISTRIBUTOR: u64 = 4 << 16;
    let most = (board.cpus.listed.len() + board.cpus.left_out) as u64 * LARGEST_REDISTRIBUTOR;
    let console = core::iter::once(board.console);
    let clipped = console.chain(board.gic.regions()).map(|region| {
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
        console::open_screen();
    }
}

/// The backend, interrupts, time and the other CPUs, in this order.
fn start_machine(devices: &Devices, backend: Choice, _: crate::memory::heap::Ready) {
    // SAFETY: once, on the boot CPU, interrupts off, no thread and no other CPU yet.
    if let Err(unusable) = unsafe { protection::select(backend) } {
        exit::refuse(format_args!("{unusable}"));
    }
    let this = &cpu::this().arch;
    if let Err(error) = gic::init(&devices.gic).and_then(|()| gic::init_cpu(this)) {
        exit::refuse(format_args!("{error}"));
    }
    log::info!("interrupts: {}", gic::name());
    protection::control::report();
    crate::sched::adopt_idle_thread();
    super::irq::enable_nmi();
    crate::start::smp::start_machine(devices.cpus.len(), devices.cpus_left_out, || {
        // SAFETY: once, on the boot CPU, with the early tables in use.
        unsafe { super::smp::start_others(&devices.cpus) }
    });
}
