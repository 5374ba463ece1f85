//! arm64: instructions are words at multiples of four, so none is inside another. What can be hidden is a word of data among code,
//! where the file marks it as such.
//!
//! | module | concept |
//! |---|---|
//! | [`kinds`] | which instructions are looked for |
//! | [`trace`] | what registers hold |

mod kinds;
mod trace;

use std::collections::HashSet;

use crate::found::{Found, Path, Scan};
use crate::image::Text;
use crate::value::Value;

pub use kinds::all;
use trace::Registers;

/// Bytes of an instruction.
const WORD: usize = 4;

/// Finds what is in one text. `starts` are addresses at which code begins; `is_data` tells whether an address holds data among code.
pub fn scan(text: &Text<'_>, starts: &[u64], is_data: impl Fn(u64) -> bool) -> Scan {
    let entered: HashSet<u64> = starts.iter().copied().chain(branch_targets(text)).collect();
    let mut registers = Registers::unknown();
    let mut scan = Scan::default();
    for (address, word) in words(text) {
        let data = is_data(address);
        if data || entered.contains(&address) {
            registers = Registers::unknown();
        }
        if let Some((kind, operand)) = kinds::kind(word) {
            let path = if data { Path::Hidden } else { Path::Decoded };
            let value = if data { Value::Unknown } else { registers.value(operand) };
            scan.found.push(Found { address, kind, path, value, msr: None });
        }
        registers.step(word);
    }
    scan
}

/// Aligned words and their addresses.
fn words<'a>(text: &'a Text<'_>) -> impl Iterator<Item = (u64, u32)> + 'a {
    let skipped = (text.address.wrapping_neg() % WORD as u64) as usize;
    let bytes = text.bytes.get(skipped..).unwrap_or_default();
    let (words, _) = bytes.as_chunks::<WORD>();
    let address = move |index: usize| text.address + (skipped + index * WORD) as u64;
    words.iter().enumerate().map(move |(index, word)| (address(index), u32::from_le_bytes(*word)))
}

fn branch_targets<'a>(text: &'a Text<'_>) -> impl Iterator<Item = u64> + 'a {
    words(text).filter_map(|(address, word)| trace::branch_target(word, address))
}
