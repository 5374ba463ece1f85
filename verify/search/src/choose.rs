//! What is changed, and to what: words in which the kernel keeps state, values that mean something there.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::memory::{Memory, PAGE};
use crate::random::Random;

/// One change of memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Physical address.
    pub at: u64,
    /// Bytes: 8, or 4 of an aligned word.
    pub width: u8,
    /// What was there.
    pub old: u64,
    /// What is written.
    pub new: u64,
    /// Which state that is.
    pub of: String,
    /// What the value means.
    pub is: String,
}

/// A part of memory in which the kernel keeps state.
pub struct Region {
    /// Its name.
    pub name: &'static str,
    /// Physical addresses.
    pub range: Range<u64>,
}

/// Words of each region that were not zero at a moment, and those that the workload changes from there.
#[derive(Default)]
pub struct Words {
    used: Vec<Vec<u64>>,
    changed: Vec<BTreeSet<u64>>,
}

impl Words {
    /// The words of memory as it is at a moment, as far as it is ordinary.
    pub fn of(regions: &[Region], memory: &Copied, is_ordinary: impl Fn(u64) -> bool) -> Words {
        let used = |region: &Region| {
            let pages = region.range.clone().step_by(PAGE as usize).filter(|&at| is_ordinary(at));
            let words = pages.flat_map(|page| (page..page + PAGE).step_by(8));
            words.filter(|&at| memory.word(at) != 0).collect()
        };
        let used = regions.iter().map(used).collect();
        Words { used, changed: vec![BTreeSet::new(); regions.len()] }
    }

    /// Adds what is different between two states of memory.
    pub fn changed(
        &mut self,
        regions: &[Region],
        before: &Copied,
        after: &Copied,
        is_ordinary: impl Fn(u64) -> bool,
    ) {
        for (region, changed) in regions.iter().zip(&mut self.changed) {
            let pages = region.range.clone().step_by(PAGE as usize);
            let pages = pages.filter(|&at| before.page(at) != after.page(at) && is_ordinary(at));
            let words = pages.flat_map(|page| (page..page + PAGE).step_by(8));
            changed.extend(words.filter(|&at| before.word(at) != after.word(at)));
        }
    }

    /// A word of a region: most often one that the workload changes, since that is where its state is.
    fn choose(&self, random: &mut Random, which: usize, region: &Region) -> u64 {
        let size = (region.range.end - region.range.start) / 8;
        let anywhere = region.range.start + random.below(size as usize) as u64 * 8;
        let chosen = match random.below(16) {
            0 => None,
            1..=4 => random.one_of(&self.used[which]),
            _ => {
                let changed = &self.changed[which];
                changed.iter().nth(random.below(changed.len())).copied()
            }
        };
        chosen.unwrap_or(anywhere)
    }
}

/// A copy of all memory.
pub struct Copied {
    start: u64,
    bytes: Vec<u8>,
}

impl Copied {
    /// Copies memory as it is.
    pub fn of(memory: &Memory) -> Result<Copied> {
        let range = memory.range();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        memory.read(range.start, &mut bytes)?;
        Ok(Copied { start: range.start, bytes })
    }

    fn page(&self, at: u64) -> Option<&[u8]> {
        let at = at.wrapping_sub(self.start) as usize;
        self.bytes.get(at..at + PAGE as usize)
    }

    /// A word of it.
    pub fn word(&self, at: u64) -> u64 {
        let at = at.wrapping_sub(self.start) as usize;
        self.bytes.get(at..at + 8).map_or(0, |bytes| {
            bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
        })
    }
}

/// Frames that values are made of.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// Tables in use and what is guarded, each with what it is.
    pub protected: Vec<(u64, &'static str)>,
    /// A page that programs write.
    pub attackers: u64,
    /// The kernel's code.
    pub text: u64,
    /// Where the linear map and the alias begin.
    pub linear: u64,
    /// As above.
    pub alias: Option<u64>,
    /// All RAM.
    pub ram: Range<u64>,
}

/// How a frame is named by a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Linear,
    Alias,
    Physical,
    Number,
}

/// Chooses a change of a kind that a number under a seed stands for.
pub fn choose(
    random: &mut Random,
    regions: &[Region],
    words: &Words,
    now: &Copied,
    frames: &Frames,
    image: &Image,
) -> Change {
    loop {
        let which = random.below(regions.len());
        let region = &regions[which];
        let word_at = words.choose(random, which, region);
        let word = now.word(word_at);
        // Counts, links and frame numbers are half words, addresses are words: what looks like one is changed as one.
        let is_address = form(word, frames).is_some_and(|form| form != Form::Number);
        let width = if is_address || random.below(2) == 0 { 8 } else { 4 };
        let at = if width == 4 { word_at + 4 * random.below(2) as u64 } else { word_at };
        let shift = 8 * (at - word_at);
        let old = if width == 8 { word } else { word >> shift & u64::from(u32::MAX) };
        let (new, is) = value(random, old, width, word_at, now, frames);
        let new = if width == 8 { new } else { new & u64::from(u32::MAX) };
        if new != old {
            return Change { at, width, old, new, of: name(image, region, regions, at), is };
        }
    }
}

/// The variable that an address is part of, or else the region, and how far behind its start.
fn name(image: &Image, region: &Region, regions: &[Region], at: u64) -> String {
    let offset = at - region.range.start;
    // Where data lie in memory says where the image does.
    let virt = image.data.wrapping_add(at.wrapping_sub(regions[0].range.start));
    match image.variable_at(virt) {
        Some((variable, 0)) => variable.name.clone(),
        Some((variable, offset)) => format!("{}+{offset:#x}", variable.name),
        None => format!("{}+{offset:#x}", region.name),
    }
}

/// What the value of a word seems to be.
fn form(value: u64, frames: &Frames) -> Option<Form> {
    let inside = |start: u64| {
        value.wrapping_sub(start).wrapping_sub(frames.ram.start) < frames.ram.end - frames.ram.start
    };
    if inside(frames.linear) {
        Some(Form::Linear)
    } else if frames.alias.is_some_and(inside) {
        Some(Form::Alias)
    } else if inside(0) && value & 0xfff == 0 {
        Some(Form::Physical)
    } else if value > 1 && value < frames.ram.end / PAGE {
        Some(Form::Number)
    } else {
        None
    }
}

fn value(
    random: &mut Random,
    old: u64,
    width: u8,
    at: u64,
    now: &Copied,
    frames: &Frames,
) -> (u64, String) {
    let simple = |value, is: &str| (value, is.to_owned());
    match random.below(12) {
        0 => simple(0, "0"),
        1 => simple(1, "1"),
        2 => simple(u64::MAX, "all ones"),
        3 => simple(old ^ 1 << random.below(8 * usize::from(width)), "one bit else"),
        4 | 5 => {
            let near = at.wrapping_add(8 * random.below(17) as u64).wrapping_sub(64);
            simple(now.word(near), "a neighbour's value")
        }
        6 | 7 => {
            let (frame, is) = match random.below(3) {
                0 => (frames.text, "the kernel's code"),
                _ => (frames.attackers, "an attacker's page"),
            };
            named(random, old, width, frame, is, frames)
        }
        _ => {
            let (frame, is) = random
                .one_of(&frames.protected)
                .unwrap_or((frames.attackers, "an attacker's page"));
            named(random, old, width, frame, is, frames)
        }
    }
}

/// A frame as the old value names one; as any, if that names none.
fn named(
    random: &mut Random,
    old: u64,
    width: u8,
    frame: u64,
    is: &str,
    frames: &Frames,
) -> (u64, String) {
    const FORMS: [Form; 4] = [Form::Linear, Form::Alias, Form::Physical, Form::Number];
    let like = form(old, frames).filter(|_| random.below(4) != 0);
    let form = match like {
        Some(form) => form,
        // Nothing else fits half a word.
        None if width == 4 => Form::Number,
        None => FORMS[random.below(FORMS.len())],
    };
    let offset = if random.below(2) == 0 { old & 0xff8 } else { 0 };
    let (value, form) = match (form, frames.alias) {
        (Form::Alias, Some(alias)) => (alias + frame + offset, "alias"),
        (Form::Linear | Form::Alias, _) => (frames.linear + frame + offset, "linear"),
        (Form::Physical, _) => (frame, "physical"),
        // Frames are counted from the start of memory.
        (Form::Number, _) => ((frame - frames.ram.start) / PAGE, "number"),
    };
    (value, format!("{is}, {form}"))
}
