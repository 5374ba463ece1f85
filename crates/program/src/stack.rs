//! What a program finds on its stack when it starts (System V ABI, AMD64 supplement, 3.4.1; the same on arm64).
//!
//! From the stack pointer up: the number of arguments, pointers to them, zero; pointers to the environment, zero; the auxiliary vector;
//! and then what all of these point to.

use alloc::vec::Vec;

/// Bytes of the longest first stack: arguments and environment together, as little as Linux ever had.
pub const MAX_BYTES: usize = 128 * 1024;

/// Keys of the auxiliary vector that this module fills in; the caller gives the rest.
mod key {
    pub const END: u64 = 0;
    pub const PLATFORM: u64 = 15;
    pub const RANDOM: u64 = 25;
    pub const FILE: u64 = 31;
}

/// What goes onto a first stack.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The arguments, the program's name first.
    pub arguments: &'a [Vec<u8>],
    /// The environment.
    pub environment: &'a [Vec<u8>],
    /// Keys and values of the auxiliary vector, but for those with pointers to the stack.
    pub auxiliary: &'a [(u64, u64)],
    /// The path of the file.
    pub file: &'a [u8],
    /// What the machine calls itself.
    pub platform: &'a [u8],
    /// Random bytes.
    pub random: [u8; 16],
}

/// A first stack: where it begins, and its bytes up to the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The stack pointer, aligned to 16 bytes.
    pub pointer: u64,
    /// What is from there up.
    pub bytes: Vec<u8>,
}

/// Arguments and environment are longer than [`MAX_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Lays out a first stack that ends below `top`.
///
/// # Errors
///
/// [`TooLong`].
pub fn layout(top: u64, contents: &Contents<'_>) -> Result<Stack, TooLong> {
    let strings = contents.arguments.iter().chain(contents.environment);
    let len: usize = strings.map(|string| string.len() + 1 + size_of::<u64>()).sum();
    if len > MAX_BYTES {
        return Err(TooLong);
    }
    // Strings, upwards from an address that is known once their length is.
    let mut text = Vec::new();
    let mut place = |string: &[u8]| {
        let offset = text.len() as u64;
        text.extend_from_slice(string);
        text.push(0);
        offset
    };
    let arguments: Vec<u64> = contents.arguments.iter().map(|string| place(string)).collect();
    let environment: Vec<u64> = contents.environment.iter().map(|string| place(string)).collect();
    let (file, platform) = (place(contents.file), place(contents.platform));
    let random = place(&contents.random);
    let text_at = (top - text.len() as u64) & !15;
    let mut words = Vec::new();
    words.push(arguments.len() as u64);
    words.extend(arguments.iter().map(|offset| text_at + offset));
    words.push(0);
    words.extend(environment.iter().map(|offset| text_at + offset));
    words.push(0);
    let pointers = [(key::RANDOM, random), (key::FILE, file), (key::PLATFORM, platform)];
    for (key, value) in contents.auxiliary {
        words.extend([*key, *value]);
    }
    for (key, offset) in pointers {
        words.extend([key, text_at + offset]);
    }
    words.extend([key::END, 0]);
    let pointer = (text_at - (words.len() * size_of::<u64>()) as u64) & !15;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize((text_at - pointer) as usize, 0);
    bytes.extend_from_slice(&text);
    bytes.resize((top - pointer) as usize, 0);
    Ok(Stack { pointer, bytes })
}
