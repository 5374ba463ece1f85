//! x86-64: instructions may begin at any byte.
//!
//! Code is decoded from every function's start on, one instruction after the other; what is found that way is on the *decoded* path.
//! Then every byte that may begin the opcode of a kind that is looked for is tried, with the prefixes before it: what is found inside
//! another instruction or in data is *hidden*. One-byte opcodes (POPF, IRET) are only counted there, since nearly every
//! hundredth byte is one.
//!
//! | module | concept |
//! |---|---|
//! | [`kinds`] | which instructions are looked for |
//! | [`trace`] | what registers hold |

mod kinds;
mod trace;

use std::collections::HashSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory};

use crate::found::{Found, Path, Scan};
use crate::image::Text;
use crate::kind::Kind;
use crate::value::Value;

use kinds::WrmsrnsImmediate;
use trace::Operand;

pub use kinds::{ALL, msr_name};

/// Instructions before one that are looked at for its operands.
const REMEMBERED: usize = 128;
/// The longest instruction (Intel SDM volume 2, section 2.3.11).
const LONGEST: usize = 15;

/// Finds what is in one text. `starts` are addresses at which code begins, ascending.
pub fn scan(text: &Text<'_>, starts: &[u64]) -> Scan {
    let targets = branch_targets(text, starts);
    let mut sweep = Sweep {
        text,
        targets: &targets,
        block: Vec::new(),
        info: InstructionInfoFactory::new(),
        scan: Scan::default(),
        cores: HashSet::new(),
    };
    walk(text, starts, |step| sweep.take(step));
    let Sweep { mut scan, cores, .. } = sweep;
    hidden(text, &cores, &mut scan);
    scan
}

/// One step along the decoded path.
enum Step<'i> {
    /// Code begins here, whatever came before.
    Start,
    /// An instruction.
    Instruction(&'i Instruction),
    /// WRMSRNS with the register as an immediate, at this offset.
    WrmsrnsImmediate(usize, WrmsrnsImmediate),
}

/// Decodes from each start to the next. Bytes that are no instruction are stepped over one by one.
fn walk(text: &Text<'_>, starts: &[u64], mut each: impl FnMut(Step<'_>)) {
    let mut starts = starts.iter().filter_map(|&start| text.offset(start)).peekable();
    let mut decoder = Decoder::with_ip(64, text.bytes, text.address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut position = 0;
    while position < text.bytes.len() {
        while starts.next_if(|&start| start <= position).is_some() {
            each(Step::Start);
        }
        if let Some(immediate) = WrmsrnsImmediate::parse(&text.bytes[position..]) {
            each(Step::WrmsrnsImmediate(position, immediate));
            position += WrmsrnsImmediate::LEN;
            continue;
        }
        seek(&mut decoder, text, position);
        decoder.decode_out(&mut instruction);
        let next = starts.peek().copied().unwrap_or(text.bytes.len());
        let end = position + instruction.len().max(1);
        if instruction.is_invalid() || end > next {
            // Data, or a start in the midst of it: nothing is known of what follows.
            each(Step::Start);
            position += 1;
        } else {
            each(Step::Instruction(&instruction));
            position = end;
        }
    }
}

fn seek(decoder: &mut Decoder<'_>, text: &Text<'_>, position: usize) {
    // The position is inside the bytes, which is all that is asked for.
    let _ = decoder.set_position(position);
    decoder.set_ip(text.address + position as u64);
}

/// Where direct branches and calls go.
fn branch_targets(text: &Text<'_>, starts: &[u64]) -> HashSet<u64> {
    let mut targets = HashSet::new();
    walk(text, starts, |step| {
        if let Step::Instruction(instruction) = step
            && matches!(
                instruction.flow_control(),
                FlowControl::UnconditionalBranch
                    | FlowControl::ConditionalBranch
                    | FlowControl::Call
            )
        {
            targets.insert(instruction.near_branch_target());
        }
    });
    targets
}

struct Sweep<'a> {
    text: &'a Text<'a>,
    targets: &'a HashSet<u64>,
    /// What ran right before, if anything did for sure.
    block: Vec<Instruction>,
    info: InstructionInfoFactory,
    scan: Scan,
    /// Where the opcodes of what was found are.
    cores: HashSet<(usize, Kind)>,
}

impl Sweep<'_> {
    fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Start => self.block.clear(),
            Step::Instruction(instruction) => self.instruction(instruction),
            Step::WrmsrnsImmediate(start, immediate) => {
                let operand = trace::immediate(&self.block, immediate, &mut self.info);
                self.found(start, kinds::WRMSRNS, operand);
            }
        }
    }

    fn found(&mut self, start: usize, kind: Kind, Operand { value, msr }: Operand) {
        self.cores.insert((core(self.text.bytes, start), kind));
        let address = self.text.address + start as u64;
        self.scan.found.push(Found { address, kind, path: Path::Decoded, value, msr });
    }

    fn instruction(&mut self, instruction: &Instruction) {
        if self.targets.contains(&instruction.ip()) {
            self.block.clear();
        }
        if let Some(kind) = kinds::kind(instruction) {
            let operand = trace::operand(&self.block, instruction, &mut self.info);
            self.found((instruction.ip() - self.text.address) as usize, kind, operand);
        }
        match instruction.flow_control() {
            FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return => {
                self.block.clear();
            }
            _ => self.remember(*instruction),
        }
    }

    fn remember(&mut self, instruction: Instruction) {
        if self.block.len() == REMEMBERED {
            self.block.drain(..REMEMBERED / 2);
        }
        self.block.push(instruction);
    }
}

/// Where the opcode begins of an instruction that begins at `start`: after its prefixes.
fn core(bytes: &[u8], start: usize) -> usize {
    let prefixes = bytes[start..].iter().take_while(|&&byte| is_prefix(byte)).count();
    start + prefixes
}

/// Legacy and REX prefixes (Intel SDM volume 2, sections 2.1.1 and 2.2.1).
fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// Every other place where an instruction that is looked for begins.
fn hidden(text: &Text<'_>, cores: &HashSet<(usize, Kind)>, scan: &mut Scan) {
    let mut decoder = Decoder::with_ip(64, text.bytes, text.address, DecoderOptions::NONE);
    for (core, &byte) in text.bytes.iter().enumerate() {
        match byte {
            0x0f | 0xc4 => hidden_at(text, core, cores, &mut decoder, scan),
            0x9d if !cores.contains(&(core, kinds::POPF)) => scan.hidden_one_byte += 1,
            0xcf if !cores.contains(&(core, kinds::IRET)) => scan.hidden_one_byte += 1,
            _ => {}
        }
    }
}

/// Each kind once, of which the opcode is at `core`, without its prefixes or with some of them, and not on the decoded path.
fn hidden_at(
    text: &Text<'_>,
    core: usize,
    cores: &HashSet<(usize, Kind)>,
    decoder: &mut Decoder<'_>,
    scan: &mut Scan,
) {
    let mut seen: Vec<Kind> = Vec::new();
    for start in starts_of(text.bytes, core) {
        let (kind, msr) = match WrmsrnsImmediate::parse(&text.bytes[start..]) {
            Some(immediate) => (Some(kinds::WRMSRNS), Some(immediate.msr)),
            None => {
                seek(decoder, text, start);
                (kinds::kind(&decoder.decode()), None)
            }
        };
        let Some(kind) = kind else { continue };
        if cores.contains(&(core, kind)) || seen.contains(&kind) {
            continue;
        }
        seen.push(kind);
        let address = text.address + start as u64;
        scan.found.push(Found { address, kind, path: Path::Hidden, value: Value::Unknown, msr });
    }
}

/// Where an instruction may begin whose opcode is at `core`: there, or at one of the prefixes right before.
fn starts_of(bytes: &[u8], core: usize) -> impl Iterator<Item = usize> {
    let prefixes = bytes[..core].iter().rev().take(LONGEST).take_while(|&&byte| is_prefix(byte));
    let prefixes = prefixes.count();
    (0..=prefixes).map(move |before| core - before)
}
