//! What must hold at every point.

use kpkeys_pgtable::guarded::{FrameType, Types};
use kpkeys_pgtable::{Format, Mode, PhysAddr};

use crate::frames::{ALIAS, MEMORY};
use crate::machine::{System, tables_now};
use crate::tlb::{Cached, Tlbs};
use crate::world::{Rule, World};

/// Looks at the world, with all threads stopped, and at what frames are by their types, if they have any.
pub fn check<S: System>(world: &mut World, types: Option<&Types<S::Format>>) {
    register::<S>(world);
    let Some(mut tlbs) = world.tlbs.take() else { return };
    notice::<S>(world, &mut tlbs);
    if world.mode != Mode::Off {
        tables_are_closed(world, &tlbs);
    }
    nothing_stale_is_used(world, &tlbs);
    if let Some(types) = types {
        what_is_mapped_is_marked(world, &tlbs, types);
    }
    world.tlbs = Some(tlbs);
}

/// Notices what the tables say by now. What they translate anew no TLB may hold of before: neither the address, nor, where nobody moves a page, the frame.
pub fn notice<S: System>(world: &mut World, tlbs: &mut Tlbs) {
    let now = tables_now::<S>(world.kernel_root, world);
    for (new, cpu, old) in tlbs.anew(&now) {
        let (va, frame) = (new.va, new.frame);
        let lies_in_all = [new.va, old.va].into_iter().any(|va| is_linear(va) || is_alias(va));
        let what = match (old.va == va, old.frame == frame) {
            _ if lies_in_all => continue,
            (true, false) => format!(
                "{va:#x} leads to {frame:#x}, by the TLB of CPU {cpu} still to {:#x}",
                old.frame
            ),
            (false, true) if world.mappings_are_new => format!(
                "{frame:#x} is mapped at {va:#x}, by the TLB of CPU {cpu} still at {:#x}",
                old.va
            ),
            _ => continue,
        };
        world.broken(Rule::Frame, what);
    }
    tlbs.tables_are(now);
}

/// Whether each CPU's register is open just while what runs there has a window of its own.
fn register<S: System>(world: &mut World) {
    for cpu in 0..world.cpus.len() {
        let is_open = S::is_open(world.cpus[cpu].register);
        let context =
            world.cpus[cpu].thread.and_then(|thread| world.threads[thread].contexts.last());
        let window = context.is_some_and(|context| context.window);
        if is_open == window {
            continue;
        }
        let runs = match context.map(|context| context.kind) {
            None => "its idle thread",
            Some(None) => "a thread",
            Some(Some(_)) => "a handler",
        };
        let what = match is_open {
            true => format!("CPU {cpu} is open while {runs} runs outside of a window"),
            false => format!("CPU {cpu} is closed while {runs} runs in its window"),
        };
        world.broken(Rule::Register, what);
    }
}

/// Whether a store passes through anything that leads to a table that is linked.
fn tables_are_closed(world: &mut World, tlbs: &Tlbs) {
    let is_table = |frame: u64, bytes: u64| {
        let mut tables = tlbs.now.iter().filter(|cached| cached.table.is_some());
        tables.find(|table| (frame..frame + bytes).contains(&table.frame))
    };
    let held = tlbs.stale.iter().enumerate().map(|(cpu, held)| (Some(cpu), held));
    for (cpu, held) in held.chain([(None, &tlbs.now)]) {
        for leaf in held.iter().filter(|cached| cached.writable) {
            if let Some(table) = is_table(leaf.frame, leaf.bytes) {
                let by = cpu.map_or("the tables".to_owned(), |cpu| format!("the TLB of CPU {cpu}"));
                let (frame, va) = (table.frame, leaf.va);
                let what = format!("table {frame:#x} is writable at {va:#x} by {by}");
                return world.broken(Rule::Table, what);
            }
        }
    }
}

/// Whether a TLB leads to what is free by now, or a table elsewhere.
fn nothing_stale_is_used(world: &mut World, tlbs: &Tlbs) {
    let moved = |old: &Cached| {
        let now = tlbs.now.iter().find(|now| now.table.is_some() && now.frame == old.frame);
        now.is_some_and(|now| (now.table, now.va, now.root) != (old.table, old.va, old.root))
    };
    for (cpu, stale) in tlbs.stale.iter().enumerate() {
        for old in stale {
            // A leaf of the linear map leads to whatever is there, rightly.
            let own = if old.table.is_some() { "a table" } else { "a page" };
            let (frame, va) = (old.frame, old.va);
            if world.frames.is_free(frame) && !is_linear(va) {
                let what = format!(
                    "the TLB of CPU {cpu} leads from {va:#x} to {frame:#x}, {own} that is free"
                );
                return world.broken(Rule::Frame, what);
            }
            if old.table.is_some() && moved(old) {
                let what = format!(
                    "the TLB of CPU {cpu} leads from {va:#x} to table {frame:#x}, which is linked elsewhere"
                );
                return world.broken(Rule::Frame, what);
            }
        }
    }
}

/// Whether what an entry maps, or a TLB, is known to be mapped: only what is not may become a table.
fn what_is_mapped_is_marked<F: Format>(world: &mut World, tlbs: &Tlbs, types: &Types<F>) {
    let held = tlbs.stale.iter().chain([&tlbs.now]).flatten();
    let mut leaves = held
        .filter(|cached| cached.table.is_none() && !is_linear(cached.va) && !is_alias(cached.va));
    if let Some(Cached { va, frame, .. }) =
        leaves.find(|leaf| types.of(PhysAddr(leaf.frame)) == FrameType::Data)
    {
        let what = format!("{va:#x} leads to {frame:#x}, which is said to be mapped by nothing");
        world.broken(Rule::Type, what);
    }
}

fn is_linear(va: u64) -> bool {
    is_behind(va, MEMORY.linear.0)
}

fn is_alias(va: u64) -> bool {
    is_behind(va, ALIAS.0)
}

/// Whether an address is one of all memory mapped from `start` on.
fn is_behind(va: u64, start: u64) -> bool {
    (start..start + MEMORY.pages as u64 * 4096).contains(&va)
}
