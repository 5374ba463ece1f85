//! The judge: reads the machine's tables from outside and says which rule they break. It asks nothing of the kernel.
//!
//! What tables are it finds by walking from the roots that are loaded; what else must not be written it has from the image's symbols and from
//! what the kernel printed before anything was changed ([`Ground`]). It judges where the kernel is in no operation of its page tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use crate::format::{Entry, Format, Leaf, Rights, TOP, bytes};
use crate::memory::{Memory, PAGE, WORDS};

/// What was true before anything was changed.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// The format of entries.
    pub format: Option<Format>,
    /// The root of the kernel's half.
    pub kernel_root: u64,
    /// The root that is loaded where no program's is: the kernel's, or one that translates nothing.
    pub idle_root: u64,
    /// Where the linear map begins, and which address it has there.
    pub linear: u64,
    /// Where the alias begins that tables are stored through, if one is there.
    pub alias: Option<u64>,
    /// Whether tables must be protected: they are in every mode but `off`.
    pub protects: bool,
    /// Frames of the kernel's code.
    pub text: Range<u64>,
    /// Frames of the kernel's constants.
    pub constants: Range<u64>,
    /// Frames of the kernel's data: image, heap, what is known of frames.
    pub kernel_data: Vec<Range<u64>>,
    /// Frames that are protected and no tables in use: tables of the start, what settled then, types of frames.
    pub guarded: Vec<Range<u64>>,
    /// Mappings of what is no RAM: address and frame.
    pub devices: BTreeSet<(u64, u64)>,
}

/// A rule that the tables break.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which, by its number where tables' integrity is described.
    pub rule: Rule,
    /// How.
    pub what: String,
}

/// The rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// A table is linked once, at one level, for one kind of root.
    Link,
    /// A table, and what is guarded, is written by windows alone.
    Protected,
    /// A program reaches neither tables nor the kernel's memory.
    Program,
    /// Code is not written; in the kernel's half, what is written is not executed, and code alone is.
    Code,
    /// What is loaded is a root of its kind.
    Root,
    /// Registers of devices are no memory, and the reverse; the linear map leads where it must.
    Memory,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.rule {
            Rule::Link => "rule 3, links",
            Rule::Protected => "rule 4, protection",
            Rule::Program => "rule 4, programs",
            Rule::Code => "rule 4, code",
            Rule::Root => "rule 5, roots",
            Rule::Memory => "rule 6, kinds of memory",
        };
        write!(f, "{rule}: {}", self.what)
    }
}

/// A leaf where it was found, with what all levels allow.
struct Mapped {
    va: u64,
    frame: u64,
    bytes: u64,
    leaf: Leaf,
    user_half: bool,
}

/// A table where it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table {
    /// The level of its entries.
    pub level: u32,
    /// Whether a program's root leads to it.
    pub user: bool,
}

/// What walks found.
pub struct Shadow<'a> {
    ground: &'a Ground,
    memory: &'a Memory,
    /// Every table.
    pub tables: BTreeMap<u64, Table>,
    leaves: Vec<Mapped>,
    findings: Vec<Finding>,
}

/// Reads all tables of the kernel and of the root that is loaded for a program, if one is.
pub fn look<'a>(memory: &'a Memory, ground: &'a Ground, user_root: Option<u64>) -> Shadow<'a> {
    let mut shadow = Shadow {
        ground,
        memory,
        tables: BTreeMap::new(),
        leaves: Vec::new(),
        findings: Vec::new(),
    };
    let all = Rights { write: true, user: true, execute: true };
    shadow.walk(ground.kernel_root, TOP, 0, all, false);
    if let Some(root) = user_root {
        shadow.root(root);
        shadow.walk(root, TOP, 0, all, true);
    }
    shadow
}

impl Shadow<'_> {
    /// What is wrong, the worst first.
    pub fn findings(mut self) -> Vec<Finding> {
        let protected = self.protected();
        let is_protected = |frame: u64| {
            let number = frame.wrapping_sub(self.memory.range().start) / PAGE;
            protected.get(number as usize).copied().unwrap_or(false)
        };
        let mut findings = Vec::new();
        if self.ground.protects {
            for (frame, table) in self.tables.iter().filter(|(frame, _)| !is_protected(**frame)) {
                let what = format!("{frame:#x}, {table:?}, is writable in the linear map");
                findings.push(Finding { rule: Rule::Protected, what });
            }
            let guarded =
                self.ground.guarded.iter().cloned().flat_map(|range| range.step_by(PAGE as usize));
            for frame in guarded.filter(|frame| !is_protected(*frame)) {
                let what = format!("{frame:#x}, guarded, is writable in the linear map");
                findings.push(Finding { rule: Rule::Protected, what });
            }
        }
        for mapped in &self.leaves {
            self.judge_leaf(mapped, &is_protected, &mut findings);
        }
        self.findings.append(&mut findings);
        self.findings.sort_by_key(|finding| finding.rule);
        self.findings
    }

    /// Some frames of each kind of table, and where each may be written but for protection: in the linear map.
    pub fn samples(&self) -> Vec<u64> {
        let mut samples = BTreeMap::new();
        for (&frame, table) in &self.tables {
            samples.entry((table.user, table.level)).or_insert(frame);
        }
        samples.into_values().collect()
    }

    /// Which pages of RAM are ordinary: a store of any code to them passes.
    pub fn ordinary(&self) -> impl Fn(u64) -> bool + use<> {
        let (protected, start) = (self.protected(), self.memory.range().start);
        let protects = self.ground.protects;
        move |at| {
            let page = at.wrapping_sub(start) / PAGE;
            protected.get(page as usize).is_some_and(|is| !(protects && *is))
        }
    }

    /// Devices that are mapped.
    pub fn devices(&self) -> BTreeSet<(u64, u64)> {
        let ram = self.memory.range();
        let no_ram = self.leaves.iter().filter(|mapped| !ram.contains(&mapped.frame));
        no_ram.map(|mapped| (mapped.va, mapped.frame)).collect()
    }

    /// A page that an attacker has: the first that a program may write.
    pub fn attackers_page(&self) -> Option<u64> {
        let mut writable = self.leaves.iter().filter(|one| one.user_half && one.leaf.rights.write);
        writable.next().map(|mapped| mapped.frame)
    }

    /// Where an address of the kernel leads.
    pub fn translate(&self, va: u64) -> Option<u64> {
        let leaf =
            self.leaves.iter().find(|one| !one.user_half && va.wrapping_sub(one.va) < one.bytes)?;
        Some(leaf.frame + (va - leaf.va))
    }

    fn root(&mut self, root: u64) {
        let guarded = self.ground.guarded.iter().any(|range| range.contains(&root));
        if guarded || self.tables.contains_key(&root) {
            let what = format!("{root:#x} is loaded for a program, and is not a program's");
            self.findings.push(Finding { rule: Rule::Root, what });
        }
        if self.ground.format != Some(Format::X86_64) {
            return;
        }
        let halves = [root, self.ground.kernel_root].map(|root| self.memory.page(root));
        let [Some(root_entries), Some(kernel)] = halves else {
            let what = format!("{root:#x} is loaded, and is no RAM");
            return self.findings.push(Finding { rule: Rule::Root, what });
        };
        // What a walker sets is no difference.
        let differs = |index: &usize| (root_entries[*index] ^ kernel[*index]) & !0x60 != 0;
        if let Some(index) = (WORDS / 2..WORDS).find(differs) {
            let what = format!(
                "{root:#x} is loaded, and its entry {index} is {:#x}, not the kernel's {:#x}",
                root_entries[index], kernel[index]
            );
            self.findings.push(Finding { rule: Rule::Root, what });
        }
    }

    fn walk(&mut self, table: u64, level: u32, va: u64, rights: Rights, user: bool) {
        let Some(entries) = self.memory.page(table) else {
            let what = format!("a table at {table:#x}, for {va:#x}, is no RAM");
            return self.findings.push(Finding { rule: Rule::Link, what });
        };
        let is = Table { level, user };
        if let Some(was) = self.tables.insert(table, is) {
            let what = format!("{table:#x} is {is:?} for {va:#x}, and {was:?} as well");
            return self.findings.push(Finding { rule: Rule::Link, what });
        }
        let Some(format) = self.ground.format else { return };
        for index in self.indices(level, user) {
            let va = sign(va | (index as u64 * bytes(level)), level, user);
            match format.decode(level, entries[index]) {
                Entry::Nothing => {}
                Entry::Table(next, allows) => {
                    self.walk(next, level - 1, va, rights.and(allows), user);
                }
                Entry::Leaf(frame, mut leaf) => {
                    leaf.rights = leaf.rights.and(rights);
                    let bytes = bytes(level);
                    self.leaves.push(Mapped { va, frame, bytes, leaf, user_half: user });
                }
            }
        }
    }

    /// On x86-64 one root has both halves.
    fn indices(&self, level: u32, user: bool) -> Range<usize> {
        match (self.ground.format, level == TOP, user) {
            (Some(Format::X86_64), true, true) => 0..WORDS / 2,
            (Some(Format::X86_64), true, false) => WORDS / 2..WORDS,
            _ => 0..WORDS,
        }
    }

    fn is_linear(&self, va: u64) -> bool {
        va.wrapping_sub(self.ground.linear) < self.memory.range().end
    }

    fn is_alias(&self, va: u64) -> bool {
        self.ground.alias.is_some_and(|alias| va.wrapping_sub(alias) < self.memory.range().end)
    }

    /// For every frame of RAM, whether the linear map keeps it from being written outside of windows.
    fn protected(&self) -> Vec<bool> {
        let ram = self.memory.range();
        let mut protected = vec![true; ((ram.end - ram.start) / PAGE) as usize];
        for mapped in
            self.leaves.iter().filter(|mapped| !mapped.user_half && self.is_linear(mapped.va))
        {
            let keyed = mapped.leaf.key != 0 && !mapped.leaf.rights.user;
            let is = if self.ground.alias.is_some() { !mapped.leaf.rights.write } else { keyed };
            let first = mapped.frame.wrapping_sub(ram.start) / PAGE;
            for number in first..first + mapped.bytes / PAGE {
                if let Some(of) = protected.get_mut(number as usize) {
                    *of = is;
                }
            }
        }
        protected
    }

    fn judge_leaf(
        &self,
        mapped: &Mapped,
        is_protected: &impl Fn(u64) -> bool,
        findings: &mut Vec<Finding>,
    ) {
        let Mapped { va, frame, bytes, leaf, user_half } = *mapped;
        let rights = leaf.rights;
        let frames = frame..frame + bytes;
        let mut find = |rule, what: &str| {
            let what = format!("{va:#x} maps {frame:#x} ({rights:?}), {what}");
            findings.push(Finding { rule, what });
        };
        let overlaps = |other: &Range<u64>| frames.start < other.end && other.start < frames.end;
        let (linear, alias) = (!user_half && self.is_linear(va), !user_half && self.is_alias(va));
        let ram = self.memory.range();
        if !ram.contains(&frame) {
            if !self.ground.devices.contains(&(va, frame)) {
                find(Rule::Memory, "which is no RAM");
            }
            return;
        }
        if leaf.device {
            find(Rule::Memory, "which is RAM, as a device");
        }
        if linear && va - self.ground.linear != frame
            || alias && self.ground.alias.is_some_and(|alias| va - alias != frame)
        {
            find(Rule::Memory, "which is not the frame of this address");
        }
        if rights.write && (overlaps(&self.ground.text) || overlaps(&self.ground.constants)) {
            find(Rule::Code, "which is code or a constant, for stores");
        }
        let executable = rights.execute && !user_half && !alias;
        let in_text = frames.start >= self.ground.text.start && frames.end <= self.ground.text.end;
        if executable && (rights.write || !in_text) {
            find(Rule::Code, "for the kernel to execute");
        }
        if linear || alias || !self.ground.protects && !user_half {
            return;
        }
        let mut pages = frames.clone().step_by(PAGE as usize);
        if rights.write
            && pages.any(|page| {
                self.tables.contains_key(&page) || self.ground.protects && is_protected(page)
            })
        {
            find(Rule::Protected, "which is a table or guarded, for stores");
        } else if rights.user && !user_half {
            find(Rule::Program, "for programs, in the kernel's half");
        } else if user_half && self.ground.kernel_data.iter().any(overlaps) {
            find(Rule::Program, "which is the kernel's");
        }
    }
}

/// An address of the kernel's half has all high bits.
fn sign(va: u64, level: u32, user: bool) -> u64 {
    if level == TOP && !user { va | 0xffff << 48 } else { va }
}
