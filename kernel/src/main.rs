//! The reference kernel: small, but a real one. It exists to prove that protected page
//! tables are protected where hardware checks, and to run the workloads there.
//!
//! The road through it: `arch::*::boot` reaches [`kernel_main`] on early page tables;
//! [`kernel_main`] opens the heap, brings up interrupts, time and the other CPUs, and starts
//! the first thread, [`run`], which does what the command line asks for and leaves the
//! machine with an [`exit::Exit`].

#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod console;
mod cpu;
mod evidence;
mod exit;
mod lock;
mod memory;
mod program;
mod protection;
mod sched;
mod start;

use alloc::format;
use alloc::string::{String, ToString};
use arch::backend::Choice;
use evidence::attacker::{Attacker, Stores};
use evidence::counter::Counter;
use evidence::{attack, bench, replay, report, soak, tests};
use exit::Exit;
use kpkeys_pgtable::check::Report;
use kpkeys_pgtable::{Config, Keys, Level, NoProbe, Probe};
use memory::boot::{BootMemory, PhysRange};
use memory::{heap, paging};
use program::command::{self, Command};
use program::memory::Memory;
use start::boot_info::BootInfo;
use start::command_line::{self, Crash, Options};
use start::{early_tables, image};

/// The driver with planted faults is in the binary that is called so, whatever features are asked for.
const _: () = {
    let is_called_so = matches!(env!("CARGO_BIN_NAME").as_bytes(), b"kpkeys-vulnerable");
    assert!(is_called_so == cfg!(feature = "vulnerable"), "build it by `--bin kpkeys-vulnerable`");
};

/// Least RAM the kernel starts with.
const MIN_RAM_MIB: u64 = 48;

/// The kernel proper, on the boot CPU, on early page tables, interrupts off.
/// `start_machine` brings up interrupts, time and the other CPUs.
fn kernel_main(mut info: BootInfo, start_machine: impl FnOnce(Choice, heap::Ready)) -> ! {
    check_memory(&info.memory);
    // SAFETY: called once by the boot code, which has put the linear map in place.
    let heap = unsafe { heap::init(&mut info.memory) };
    let heap = heap.unwrap_or_else(|error| exit::refuse(format_args!("{error}")));
    let options = command_line::parse(&info.command_line)
        .unwrap_or_else(|error| exit::refuse(format_args!("{error}")));
    if options.restart {
        exit::restart_in_the_end();
    }
    protection::settle(options.mode());
    protection::violations::settle(options.violations);
    protection::keys::settle(options.keys, options.mode(), options.backend())
        .unwrap_or_else(|error| exit::refuse(format_args!("{error}")));
    start_machine(options.backend(), heap);
    log_machine(&info, options.label.as_deref());
    let BootInfo { memory, initramfs, .. } = info;
    let first = sched::spawn("main", None, move || run(options, memory, initramfs));
    if let Err(error) = first {
        exit::refuse(format_args!("the first thread: {error}"));
    }
    sched::idle()
}

fn check_memory(memory: &BootMemory) {
    let mib = memory.ram_bytes() >> 20;
    if mib < MIN_RAM_MIB {
        exit::refuse(format_args!(
            "{mib} MiB of memory are too little: at least {MIN_RAM_MIB} MiB are needed"
        ));
    }
}

fn log_machine(info: &BootInfo, label: Option<&str>) {
    let (ram, free) = (info.memory.ram_bytes() >> 10, info.memory.free_bytes() >> 10);
    log::info!("memory: {ram} KiB of RAM, {free} KiB free");
    for range in info.memory.ram() {
        log::info!("memory: RAM  {range}");
    }
    for range in info.memory.free() {
        log::info!("memory: free {range}");
    }
    for region in image::regions().filter(|region| region.name != "stack") {
        let (start, end) = (region.virt, region.virt + region.len);
        log::info!("image: {:6} {start:#x}..{end:#x} {:?}", region.name, region.access);
    }
    for pages in early_tables::page_table_pages() {
        log::info!("early page tables: {pages}");
    }
    for cpu in cpu::online() {
        log::info!("CPU {}: {}", cpu.id, arch::describe_cpu(cpu));
    }
    let boot_ms = arch::time::since_boot().as_millis();
    let cpus = cpu::online().count();
    log::info!("{cpus} CPUs up in {boot_ms} ms; command line: \"{}\"", info.command_line);
    report::emit(&report::Record::Boot { ram_kib: ram, cpus, boot_ms, label });
}

/// The first thread.
fn run(options: Options, mut memory: BootMemory, initramfs: Option<PhysRange>) {
    match options.crash {
        Some(Crash::Panic) => panic!("as the command line asked"),
        Some(Crash::StackOverflow) => log::info!("overflowed to {}", overflow_stack(1)),
        Some(Crash::Hang) => loop {
            core::hint::spin_loop();
        },
        Some(Crash::InWindow(_)) | None => {}
    }
    if let Err(most) = paging::later::hold_back(&memory, options.later) {
        let wanted = options.later;
        exit::refuse(format_args!("later={wanted}: at most {most} MiB can be held back here"));
    }
    let config = Config::for_format::<arch::Format>(options.mode());
    let counting = options.bench.clone().filter(|request| request.count);
    let failed = if let Some(request) = counting {
        let kernel = start_memory::<Counter>(&mut memory, config);
        failures(bench::count(kernel, request).map(|()| 0))
    } else {
        paging::adopt(start_memory::<NoProbe>(&mut memory, config));
        run_on_memory(options, config, initramfs)
    };
    exit::exit(if failed == 0 { Exit::Success } else { Exit::Failed })
}

/// Does what was asked for, once memory is up; returns how much went wrong.
fn run_on_memory(options: Options, config: Config, initramfs: Option<PhysRange>) -> usize {
    if let Some(Crash::InWindow(way)) = options.crash {
        evidence::last::crash_in_window(way);
    }
    let mut failed = options.tests.map_or(0, |part| tests::run_all(&part));
    failed += failures(add_later().map(|()| 0));
    if let Some(request) = options.bench {
        failed += failures(bench::time(paging::memories(), request).map(|()| 0));
    }
    if let Some(times) = options.replay {
        failed += failures(replay::run(paging::memories(), times, initramfs).map(|()| 0));
    }
    if options.attack {
        failed += failures(attack::run_all(config));
    }
    if let Some(until) = options.soak {
        failed += failures(soak::run(until, options.seed.unwrap_or(1)));
    }
    if let Some(command) = options.command {
        failed += failures(run_command(&command, options.attacked, initramfs));
    }
    failed + final_check()
}

/// Adds what was held back, unless a test has.
fn add_later() -> Result<(), String> {
    let mut pages = 0;
    while let Some(more) =
        paging::later::add_block(paging::memories()).map_err(|error| error.to_string())?
    {
        pages += more;
    }
    if pages > 0 {
        log::info!("{} KiB of memory were added", (pages as u64 * memory::boot::PAGE_SIZE) >> 10);
    }
    Ok(())
}

/// Runs a command, with an attacker beside it if asked for; returns how much went wrong.
fn run_command(
    command: &Command,
    attacked: bool,
    initramfs: Option<PhysRange>,
) -> Result<usize, String> {
    arch::registers::make_shared()
        .and_then(|()| Memory::nothing().map(drop))
        .map_err(|_| "not enough memory for programs".to_string())?;
    let before = Memory::with_kept_roots(paging::accounted);
    let attacker = attacked.then(Attacker::start).transpose().map_err(|error| error.to_string())?;
    let ended = command::run(command, initramfs);
    let stores = attacker.map(Attacker::stop);
    let missing_frames = before as i64 - Memory::with_kept_roots(paging::accounted) as i64;
    let status = ended?;
    if let Some(Stores { blocked, succeeded }) = stores {
        report::emit(&report::Record::Attacker { blocked, succeeded });
    }
    report::emit(&report::Record::Program { status: status.shown(), missing_frames });
    let attacks_went_wrong = stores.is_some_and(|stores| !stores.are_right());
    let wrong = [status.shown() != 0, attacks_went_wrong, missing_frames != 0];
    Ok(wrong.into_iter().filter(|&wrong| wrong).count())
}

/// One failure for what ended early, with its reason in the log.
fn failures(result: Result<usize, String>) -> usize {
    result.unwrap_or_else(|reason| {
        log::error!("ended early: {reason}");
        1
    })
}

/// Checks all tables once more; returns how much is not as promised.
fn final_check() -> usize {
    let report = Memory::with_kept_roots(|roots| {
        paging::check(paging::memories(), roots, |finding| log::error!("checker: {finding}"))
    });
    let (ptps, spare) = (report.ptps, report.spare);
    log::info!("checker: {ptps} page-table pages, {spare} spare, {} findings", report.findings);
    log::info!("violations: {}", protection::violations::reported());
    let unverified =
        failures(paging::verify_every_cpu().map(|()| 0).map_err(|error| error.to_string()));
    report.findings + paging::check_roots() + unverified
}

/// Moves to the final tables and says what is protected.
fn start_memory<P: Probe + Default + 'static>(
    memory: &mut BootMemory,
    config: Config,
) -> &'static kpkeys_mm::Kernel<paging::Bare<P>> {
    // SAFETY: once, on the first thread, on the early tables; nobody else knows boot memory.
    let kernel = unsafe { paging::start::<P>(memory, config) }
        .unwrap_or_else(|error| exit::refuse(format_args!("{error}")));
    let report = paging::check(kernel, &[], |finding| log::error!("checker: {finding}"));
    log_protection(config, &report);
    if report.findings > 0 {
        exit::refuse(format_args!("{} findings in the final tables", report.findings));
    }
    kernel
}

fn log_protection(config: Config, report: &Report) {
    let (mode, backend) = (config.mode.name(), protection::selected());
    for cpu in cpu::online() {
        log::info!("CPU {}: backend {}, verified", cpu.id, backend.choice().name());
    }
    let (ptps, spare) = (report.ptps, report.spare);
    let size = config.linear.entry_bytes::<arch::Format>();
    let leaves = match config.linear {
        Level::Pte => format!("{} KiB pages", size >> 10),
        _ => format!("{} MiB blocks", size >> 20),
    };
    let meaning = match (config.mode.protects(), backend.enforces()) {
        (false, _) => "not protected",
        (true, false) => "keyed, NOT enforced by this backend",
        (true, true) => "protected",
    };
    let keys = match protection::keys::chosen() {
        Keys::One => "",
        Keys::Separate => ", those of address spaces with a key of their own",
    };
    log::info!(
        "mode {mode}: linear map of {leaves}, {ptps} page-table pages {meaning}{keys}, {spare} spare"
    );
    let up_ms = arch::time::since_boot().as_millis();
    report::emit(&report::Record::Protection {
        backend: backend.choice().name(),
        mode,
        keys: protection::keys::chosen().name(),
        enforced: config.mode.protects() && backend.enforces(),
        ptps,
        spare,
        up_ms,
    });
}

/// Recursion that the compiler cannot turn into a loop and that has no end in sight.
pub(crate) fn overflow_stack(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    if frame[0] == u64::MAX { 0 } else { overflow_stack(depth + 1) + frame[63] }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    arch::irq::disable();
    let was_open = protection::close();
    console::take_over_for_panic();
    let thread = sched::try_current();
    let thread = thread.as_ref().map_or("none", |thread| thread.name());
    log::error!("CPU {}, thread {thread}: {info}", cpu::this().id);
    if was_open {
        log::error!("a window was open: closed");
    }
    evidence::last::try_to_store();
    exit::exit(Exit::Panicked)
}
