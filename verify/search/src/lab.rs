//! The laboratory: a kernel at work, kept at moments from which it goes on the same way each time.
//!
//! The workload is the kernel's soak. A moment is inside an operation on page tables: some accesses to programs' memory after the one
//! before, some calls of functions of `kpkeys-pgtable` and `kpkeys-mm`, some instructions. What is judged is judged where the soak is about to
//! access a program's memory: no operation is under way there, and the program's root is loaded.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kpkeys_emulator::{Kernel, Target};
use tempfile::TempDir;

use crate::choose::{Copied, Frames, Region, Words};
use crate::emulator::{Emulator, Setup, folder};
use crate::format::Format;
use crate::image::Image;
use crate::judge::{Finding, Ground, Shadow, look};
use crate::memory::PAGE;
use crate::random::Random;
use crate::stub::Stop;

/// What is searched, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The machine.
    pub target: Target,
    /// The kernel's mode.
    pub mode: String,
    /// Which moments and changes.
    pub seed: u64,
    /// Moments that are kept.
    pub moments: usize,
    /// Accesses to programs' memory that the workload goes on for.
    pub accesses: usize,
}

/// Registers by the emulator's names.
struct Registers {
    pc: &'static str,
    sp: &'static str,
    arguments: [&'static str; 2],
    result: [&'static str; 2],
    /// Where a call keeps its return address; on the stack if nowhere.
    link: Option<&'static str>,
    user_root: &'static str,
    kernel_root: &'static str,
}

const X86_64: Registers = Registers {
    pc: "rip",
    sp: "rsp",
    arguments: ["rdi", "rsi"],
    result: ["rax", "rdx"],
    link: None,
    user_root: "cr3",
    kernel_root: "cr3",
};
const AARCH64: Registers = Registers {
    pc: "pc",
    sp: "sp",
    arguments: ["x0", "x1"],
    result: ["x0", "x1"],
    link: Some("x30"),
    user_root: "TTBR0_EL1",
    kernel_root: "TTBR1_EL1",
};
/// The part of a root register that is an address.
const ROOT: u64 = 0x0000_ffff_ffff_f000;

/// Places in the kernel.
struct Places {
    /// Before an access to a program's memory.
    access: u64,
    /// Before a store of the soak's attacker, who has a thread of its own.
    attack: u64,
    /// A store that survives its own fault.
    store: u64,
    /// Where the kernel ends.
    exit: u64,
    /// An address that is never executed: where a store that was called from outside returns to.
    nowhere: u64,
}

/// A moment that the machine can be put back to.
pub struct Moment {
    name: String,
    /// Memory then.
    pub before: Copied,
    /// Where state is.
    pub words: Words,
    /// What values are made of.
    pub frames: Frames,
}

/// A running kernel and its moments.
pub struct Lab {
    /// Its image.
    pub image: Image,
    /// Parts of memory that are changed.
    pub regions: Vec<Region>,
    /// The moments.
    pub moments: Vec<Moment>,
    plan: Plan,
    setup: Setup,
    folder: TempDir,
    emulator: Emulator,
    registers: &'static Registers,
    places: Places,
    ground: Ground,
    /// The longest that the unchanged kernel takes from one access to the next, and some more.
    patience: Duration,
}

/// What came of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The workload went on, and nothing is wrong.
    Nothing,
    /// The kernel ended, and said why.
    Stopped(String),
    /// The machine was reset, or does not go on.
    Crashed(String),
    /// A rule is broken.
    Bypass(String),
}

impl Lab {
    /// Starts the kernel and keeps its moments.
    pub fn open(plan: &Plan, kernel: &Kernel) -> Result<Lab> {
        let image = Image::read(kernel.elf())?;
        let command_line = format!("mode={} soak=1000000 seed={}", plan.mode, plan.seed);
        let setup = Setup { kernel: kernel.clone(), command_line };
        let folder = folder()?;
        let emulator = Emulator::start(&setup, folder.path())?;
        let places = Places {
            access: image.address("probe_store_user_u64")?,
            attack: image.address("probe_store_u8")?,
            store: image.address("probe_store_u64")?,
            exit: image.address("exit::exit")?,
            nowhere: image.address("image_text_start")?,
        };
        let registers = match plan.target {
            Target::X86_64 => &X86_64,
            Target::Aarch64 => &AARCH64,
        };
        let mut lab = Lab {
            image,
            regions: Vec::new(),
            moments: Vec::new(),
            plan: plan.clone(),
            setup,
            folder,
            emulator,
            registers,
            places,
            ground: Ground::default(),
            patience: Duration::from_secs(60),
        };
        lab.emulator.stub.set_breakpoint(lab.places.exit)?;
        lab.survey()?;
        lab.keep_moments()?;
        for moment in 0..plan.moments {
            lab.rehearse(moment)?;
        }
        Ok(lab)
    }

    /// Learns what is true before anything is changed.
    fn survey(&mut self) -> Result<()> {
        self.must_reach(self.places.attack)?;
        let register = self.emulator.stub.register(self.registers.kernel_root)?;
        // The attacker's thread has no program.
        let idle = self.emulator.stub.register(self.registers.user_root)?;
        let offset = self.image.address("image_start")?;
        let (ram, free) = (self.printed_ranges("memory: RAM"), self.printed_ranges("memory: free"));
        let memory = self.emulator.memory.range();
        ensure!(!ram.is_empty() && !free.is_empty(), "the kernel did not say what memory it has");
        let x86 = self.plan.target == Target::X86_64;
        self.ground = Ground {
            format: Some(if x86 { Format::X86_64 } else { Format::Aarch64 }),
            kernel_root: register & ROOT,
            idle_root: idle & ROOT,
            linear: 0xffff_8880_0000_0000,
            // The alias begins with the first frame of memory.
            alias: (!x86).then_some(0xffff_b000_0000_0000 - memory.start),
            protects: self.plan.mode != "off",
            ..Ground::default()
        };
        // The image's place in memory is where its first address leads.
        let shadow = look(&self.emulator.memory, &self.ground, None);
        let start = shadow.translate(offset).context("the image is mapped")?;
        self.ground.devices = shadow.devices();
        let physical = |range: Range<u64>| range.start - offset + start..range.end - offset + start;
        let between = |start: &str, end: &str| self.image.between(start, end).map(&physical);
        let (data, bss) = (
            between("image_data_start", "image_data_end")?,
            between("image_bss_start", "image_bss_end")?,
        );
        let (stacks, whole) = (
            between("image_stacks_start", "image_stacks_end")?,
            between("image_start", "image_end")?,
        );
        let settled = between("image_data_end", "image_bss_start")?;
        self.ground.text = between("image_text_start", "image_text_end")?;
        self.ground.constants = between("image_text_end", "image_rodata_end")?;
        // Low memory is only for the start, and is given up in modes that protect.
        let first_free =
            free.iter().find(|range| !x86 || !self.ground.protects || range.start >= 1 << 20);
        let frames_start = first_free.context("free memory")?.start;
        let frames = frames_start..frames_start + (memory.end - memory.start) / PAGE * 16;
        let heap = heap_of(&ram, &free, &whole).context("the heap is nowhere in memory")?;
        self.ground.kernel_data = vec![whole, heap.clone(), frames.clone()];
        if self.ground.protects {
            self.ground.guarded.push(settled);
            self.ground.guarded.extend(self.types(&physical)?);
        }
        self.regions = vec![
            Region { name: "data", range: data },
            Region { name: "bss", range: bss },
            Region { name: "stacks", range: stacks },
            Region { name: "heap", range: heap },
            Region { name: "frames", range: frames },
        ];
        if !self.ground.protects {
            // Then tables are memory as any.
            let tables = self.shadow(None).tables.into_keys();
            self.regions
                .extend(tables.map(|frame| Region { name: "tables", range: frame..frame + PAGE }));
        }
        Ok(())
    }

    /// Where the types of frames are kept, if the mode has any: in a directory that the anchor leads to, and blocks that the directory leads to.
    fn types(&self, physical: &impl Fn(Range<u64>) -> Range<u64>) -> Result<Vec<Range<u64>>> {
        let memory = &self.emulator.memory;
        let anchor = self.image.address("ANCHOR")?;
        let anchor = physical(anchor..anchor + 64);
        let frame = |word: u64| {
            word.checked_sub(self.ground.linear)
                .filter(|frame| frame % PAGE == 0 && memory.range().contains(frame))
        };
        let words: Result<Vec<_>> = anchor.step_by(8).map(|at| memory.word(at)).collect();
        let Some(directory) = words?
            .into_iter()
            .filter_map(frame)
            .find(|&frame| frame != memory.range().start && frame != 0)
        else {
            return Ok(Vec::new());
        };
        let entries = memory.page(directory).context("the directory")?;
        let blocks = entries[..510].iter().copied().filter(|&word| word != 0).filter_map(frame);
        let bytes = ((memory.range().end - memory.range().start) / PAGE * 4).next_multiple_of(PAGE);
        Ok(std::iter::once(directory..directory + PAGE)
            .chain(blocks.map(|block| block..block + bytes))
            .collect())
    }

    /// Ranges that the kernel printed at its start behind a text.
    fn printed_ranges(&self, text: &str) -> Vec<Range<u64>> {
        let number = |text: &str| u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok();
        let range = |line: &String| {
            let (_, range) = line.split_once(text)?;
            let (start, end) = range.split_once("..")?;
            Some(number(start)?..number(end)?)
        };
        self.emulator.printed().iter().filter_map(range).collect()
    }

    fn keep_moments(&mut self) -> Result<()> {
        let mut random = Random::new(self.plan.seed, u64::MAX);
        for moment in 0..self.plan.moments {
            for _ in 0..10 + random.below(60) {
                self.must_reach(self.places.access)?;
            }
            let functions = self.image.functions.clone();
            functions.iter().try_for_each(|at| self.emulator.stub.set_breakpoint(*at))?;
            for _ in 0..1 + random.below(60) {
                self.resume_over(&functions)?;
            }
            functions.iter().try_for_each(|at| self.emulator.stub.clear_breakpoint(*at))?;
            for _ in 0..random.below(400) {
                self.emulator.stub.step()?;
            }
            self.emulator.save(&format!("m{moment}"))?;
        }
        Ok(())
    }

    /// Runs the workload from a moment with nothing changed: nothing may be found, and stores to tables must be refused.
    fn rehearse(&mut self, moment: usize) -> Result<()> {
        let name = format!("m{moment}");
        self.emulator.load(&name)?;
        let before = Copied::of(&self.emulator.memory)?;
        let mut words: Option<Words> = None;
        let (mut slowest, mut frames, mut last) = (Duration::ZERO, None, None);
        for access in 0..self.plan.accesses {
            let begun = Instant::now();
            self.must_reach(self.places.access)?;
            slowest = slowest.max(begun.elapsed());
            if let Some(finding) = self.judge()?.first() {
                bail!(
                    "nothing is changed at moment {moment}, and the judge says at access {access}: {finding}"
                );
            }
            frames = frames.or(self.frames()?);
            let now = Copied::of(&self.emulator.memory)?;
            let ordinary = self.shadow(None).ordinary();
            let words = words.get_or_insert_with(|| Words::of(&self.regions, &before, &ordinary));
            words.changed(&self.regions, last.as_ref().unwrap_or(&before), &now, ordinary);
            last = Some(now);
        }
        if let Some(outcome) = self.probe_all()? {
            bail!("nothing is changed at moment {moment}: {outcome:?}");
        }
        let words = words.unwrap_or_default();
        let frames = frames.context("no program could write a page")?;
        self.patience = Duration::from_millis(500) + slowest * 20;
        self.moments.push(Moment { name, before, words, frames });
        Ok(())
    }

    /// What values are made of, as it is now; nothing while no program may write anything.
    fn frames(&mut self) -> Result<Option<Frames>> {
        let root = self.user_root()?;
        let shadow = self.shadow(root);
        let Some(attackers) = shadow.attackers_page() else { return Ok(None) };
        let mut protected: Vec<_> =
            shadow.samples().into_iter().map(|frame| (frame, "a live table")).collect();
        let guarded = self.ground.guarded.iter().map(|range| (range.start, "what is guarded"));
        protected.extend(guarded);
        protected.push((self.ground.kernel_root, "the kernel's root"));
        Ok(Some(Frames {
            protected,
            attackers,
            text: self.ground.text.start,
            linear: self.ground.linear,
            alias: self.ground.alias,
            ram: self.emulator.memory.range(),
        }))
    }

    /// Puts the machine back to a moment, changes memory, and runs the workload.
    pub fn attempt(&mut self, moment: usize, at: u64, bytes: &[u8]) -> Result<Outcome> {
        match self.attempt_on(moment, at, bytes) {
            Ok(outcome) => Ok(outcome),
            // Whatever the emulator's state is: a new one has the same snapshots.
            Err(error) => {
                self.restart().context("after an emulator that ended")?;
                Ok(Outcome::Crashed(format!("the emulator: {error:#}")))
            }
        }
    }

    fn attempt_on(&mut self, moment: usize, at: u64, bytes: &[u8]) -> Result<Outcome> {
        self.emulator.load(&self.moments[moment].name)?;
        self.emulator.memory.write(at, bytes)?;
        for _ in 0..self.plan.accesses {
            if let Some(outcome) = self.go_to(self.places.access)? {
                return Ok(outcome);
            }
            if let Some(finding) = self.judge()?.first() {
                return Ok(Outcome::Bypass(finding.to_string()));
            }
        }
        Ok(self.probe_all()?.unwrap_or(Outcome::Nothing))
    }

    fn restart(&mut self) -> Result<()> {
        // It may only be that it does not answer.
        self.emulator.end();
        self.emulator = Emulator::start(&self.setup, self.folder.path())?;
        self.emulator.stub.set_breakpoint(self.places.exit)
    }

    /// Tries to store to tables: from the worker's thread, then from the attacker's.
    fn probe_all(&mut self) -> Result<Option<Outcome>> {
        if !self.ground.protects {
            return Ok(None);
        }
        let root = self.user_root()?;
        let mut targets = self.shadow(root).samples();
        targets.extend(self.ground.guarded.iter().map(|range| range.start));
        for thread in ["the worker", "another thread"] {
            for &target in &targets {
                let outcome = match self.probe(self.ground.linear + target)? {
                    Some(false) => continue,
                    Some(true) => {
                        Outcome::Bypass(format!("a store of {thread} to {target:#x} passes"))
                    }
                    None => Outcome::Crashed("a store to a table does not come back".to_owned()),
                };
                return Ok(Some(outcome));
            }
            if thread == "the worker"
                && let Some(outcome) = self.go_to(self.places.attack)?
            {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    /// Has the thread that stands still store back what is at an address. Whether that passed; nothing if it did not return.
    fn probe(&mut self, va: u64) -> Result<Option<bool>> {
        let Registers { pc, sp, arguments, result, link, .. } = *self.registers;
        let kept = [&[pc, sp], &arguments[..], &result[..]].concat();
        let kept: Vec<_> = kept.into_iter().chain(link).collect();
        let values: Result<Vec<_>> =
            kept.iter().map(|name| self.emulator.stub.register(name)).collect();
        let values = values?;
        let value = self.emulator.memory.word(va - self.ground.linear)?;
        let stack = ((values[1] - 0x400) & !0xf) - 8 * u64::from(link.is_none());
        match link {
            Some(link) => self.emulator.stub.set_register(link, self.places.nowhere)?,
            None => {
                let Some(at) = self.shadow(None).translate(stack) else { return Ok(None) };
                self.emulator.memory.write(at, &self.places.nowhere.to_le_bytes())?;
            }
        }
        let set = [(sp, stack), (arguments[0], va), (arguments[1], value), (pc, self.places.store)];
        set.iter().try_for_each(|(name, value)| self.emulator.stub.set_register(name, *value))?;
        self.emulator.stub.set_breakpoint(self.places.nowhere)?;
        let stop = self.emulator.stub.run(self.patience)?;
        self.emulator.stub.clear_breakpoint(self.places.nowhere)?;
        if stop != Stop::Breakpoint || self.emulator.stub.register(pc)? != self.places.nowhere {
            return Ok(None);
        }
        let status = self.emulator.stub.register(result[0])?;
        for (name, value) in kept.iter().zip(values) {
            self.emulator.stub.set_register(name, value)?;
        }
        Ok(Some(status == 0))
    }

    fn judge(&mut self) -> Result<Vec<Finding>> {
        let root = self.user_root()?;
        Ok(self.shadow(root).findings())
    }

    fn shadow(&self, root: Option<u64>) -> Shadow<'_> {
        look(&self.emulator.memory, &self.ground, root)
    }

    /// The root that is loaded for a program, if one is.
    fn user_root(&mut self) -> Result<Option<u64>> {
        let root = self.emulator.stub.register(self.registers.user_root)? & ROOT;
        Ok((root != self.ground.idle_root).then_some(root))
    }

    fn must_reach(&mut self, place: u64) -> Result<()> {
        match self.go_to(place)? {
            None => Ok(()),
            Some(outcome) => {
                bail!("with nothing changed: {outcome:?}; {}", self.emulator.printed().join("\n"))
            }
        }
    }

    /// Runs to a place. If the machine does not come there, what came instead.
    fn go_to(&mut self, place: u64) -> Result<Option<Outcome>> {
        if self.emulator.stub.register(self.registers.pc)? == place {
            self.emulator.stub.step()?;
        }
        self.emulator.stub.set_breakpoint(place)?;
        let stop = self.emulator.stub.run(self.patience)?;
        self.emulator.stub.clear_breakpoint(place)?;
        Ok(match stop {
            Stop::Breakpoint if self.emulator.stub.register(self.registers.pc)? == place => None,
            Stop::Breakpoint => Some(self.at_exit()?),
            Stop::Shutdown => Some(Outcome::Crashed("the machine was reset".to_owned())),
            Stop::Time => Some(Outcome::Crashed("it does not go on".to_owned())),
        })
    }

    /// Runs to the next of these places, all of which have breakpoints.
    fn resume_over(&mut self, places: &[u64]) -> Result<()> {
        let pc = self.emulator.stub.register(self.registers.pc)?;
        let here = places.contains(&pc);
        if here {
            self.emulator.stub.clear_breakpoint(pc)?;
            self.emulator.stub.step()?;
            self.emulator.stub.set_breakpoint(pc)?;
        }
        let stop = self.emulator.stub.run(self.patience)?;
        ensure!(stop == Stop::Breakpoint, "with nothing changed: {stop:?}");
        Ok(())
    }

    /// The kernel ends: tables may be broken all the same.
    fn at_exit(&mut self) -> Result<Outcome> {
        if let Some(finding) = self.judge()?.first() {
            return Ok(Outcome::Bypass(format!("{finding} (then the kernel ended)")));
        }
        // What it printed is on its way through a pipe.
        std::thread::sleep(Duration::from_millis(3));
        let printed = self.emulator.printed();
        let reason =
            printed.iter().find(|line| line.contains("panicked") || line.contains("ended early"));
        let reason = reason.or(printed.last()).cloned().unwrap_or_default();
        let reason =
            reason.split_once("] ").map_or(reason.as_str(), |(_, reason)| reason).to_owned();
        Ok(Outcome::Stopped(reason))
    }
}

/// The largest part of RAM that is neither free nor the image: at its end when the kernel says what is free, the heap is all that was taken.
fn heap_of(ram: &[Range<u64>], free: &[Range<u64>], image: &Range<u64>) -> Option<Range<u64>> {
    let mut edges: Vec<_> = free.iter().chain([image]).cloned().collect();
    edges.sort_by_key(|range| range.start);
    let mut gaps = Vec::new();
    for range in ram {
        let mut from = range.start;
        for edge in edges.iter().filter(|edge| range.contains(&edge.start)) {
            gaps.push(from..edge.start.max(from));
            from = from.max(edge.end);
        }
        gaps.push(from..range.end.max(from));
    }
    gaps.into_iter().max_by_key(|gap| gap.end - gap.start)
}
