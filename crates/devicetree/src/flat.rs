//! The flattened form itself: header, reservations, nodes and properties (Devicetree Specification v0.4, chapter 5).
//!
//! [`Tree::open`] walks the whole structure once and refuses what does not nest or reaches outside of the blob. Walks afterwards read
//! every token again, and end where they cannot: nothing here panics, and no step looks at more than the token it is at. That makes
//! it safe to look into a damaged tree too ([`Tree::open_damaged`]). Names may have any length and hold any bytes, as for every boot
//! loader and kernel; a property's name is only ever compared.

use crate::error::{Error, Problem};

/// Bytes of a blob's header.
pub const HEADER_LEN: usize = 40;

/// The largest blob the arm64 boot protocol lets a loader pass (Linux,
/// `Documentation/arch/arm64/booting.rst`, "Setup the device tree").
pub(crate) const MAX_LEN: usize = 2 << 20;

const MAGIC: u32 = 0xd00d_feed;

/// The format's version; later ones say with what they are still compatible.
const VERSION: u32 = 17;

/// How many bytes the blob has that starts with `header`, so that a kernel with nothing but its
/// address knows how much to look at.
///
/// # Errors
///
/// [`Problem::Missing`] if no blob starts here, [`Problem::TooLarge`] if it says to be larger
/// than a loader may pass.
pub fn blob_len(header: &[u8; HEADER_LEN]) -> Result<usize, Error> {
    if field(header, 0) != MAGIC {
        return Err(Error::blob(Problem::Missing("a blob that starts with 0xd00dfeed")));
    }
    match field(header, 1) as usize {
        len if len > MAX_LEN => Err(Error::blob(Problem::TooLarge(len))),
        len => Ok(len),
    }
}

/// The header's word with this number.
fn field(header: &[u8; HEADER_LEN], number: usize) -> u32 {
    let (words, _) = header.as_chunks();
    u32::from_be_bytes(words[number])
}

/// The blocks of a blob.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    blob: &'a [u8],
    structure: Tokens<'a>,
    strings: &'a [u8],
    reservations: &'a [u8],
}

impl<'a> Tree<'a> {
    /// The blob at the start of `bytes`, if it is whole and well-formed.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        let truncated = |needed| Error::blob(Problem::Truncated { given: bytes.len(), needed });
        let header = bytes.first_chunk().ok_or_else(|| truncated(HEADER_LEN))?;
        let len = blob_len(header)?;
        if bytes.len() < len {
            return Err(truncated(len));
        }
        let (version, compatible_with) = (field(header, 5), field(header, 6));
        if !(compatible_with..=version).contains(&VERSION) {
            let expected = "a blob of version 17 or compatible with it";
            return Err(Error::blob(Problem::Value { found: version.into(), expected }));
        }
        let tree = Self::open_damaged(bytes)?;
        let block_len = |number| field(header, number) as usize;
        if tree.structure.0.len() < block_len(9) || tree.strings.len() < block_len(8) {
            return Err(tree.malformed(bytes, "the whole structure block and strings block"));
        }
        tree.check_reservations()?;
        tree.check_structure()?;
        Ok(tree)
    }

    /// The blob at the start of `bytes`, as far as it is there.
    pub(crate) fn open_damaged(bytes: &'a [u8]) -> Result<Self, Error> {
        let too_short = Problem::Truncated { given: bytes.len(), needed: HEADER_LEN };
        let header = bytes.first_chunk().ok_or(Error::blob(too_short))?;
        let blob = bytes.get(..blob_len(header)?).unwrap_or(bytes);
        let from = |number| blob.get(field(header, number) as usize..).unwrap_or_default();
        let block = |start, len| {
            let block = from(start);
            &block[..block.len().min(field(header, len) as usize)]
        };
        let structure = Tokens(block(2, 9));
        Ok(Self { blob, structure, strings: block(3, 8), reservations: from(4) })
    }

    /// Address and size of each reservation, up to the one that is all zero.
    pub(crate) fn reservations(self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let entries = self.reservations.as_chunks::<16>().0;
        entries.iter().take_while(|entry| **entry != [0; 16]).map(|entry| {
            let (numbers, _) = entry.as_chunks();
            (u64::from_be_bytes(numbers[0]), u64::from_be_bytes(numbers[1]))
        })
    }

    /// The root; one without anything in it where the structure does not begin with a node.
    pub(crate) fn root(self) -> FlatNode<'a> {
        let mut tokens = self.structure;
        match tokens.next() {
            Some(Token::Begin(name)) => FlatNode { name, inside: tokens, strings: self.strings },
            _ => FlatNode { name: b"", inside: Tokens(&[]), strings: &[] },
        }
    }

    fn check_reservations(self) -> Result<(), Error> {
        match self.reservations.as_chunks().0.contains(&[0; 16]) {
            true => Ok(()),
            false => Err(self.malformed(self.reservations, "memory reservations with an end")),
        }
    }

    /// Whether it begins with a node, nests, has no property behind a child, names every property, and ends.
    fn check_structure(self) -> Result<(), Error> {
        let mut tokens = self.structure;
        let (mut depth, mut after_child) = (0_usize, false);
        loop {
            let at = tokens.0;
            match tokens.next() {
                Some(Token::Begin(_)) if depth > 0 || !after_child => {
                    (depth, after_child) = (depth + 1, false);
                }
                Some(Token::End) if depth > 0 => (depth, after_child) = (depth - 1, true),
                Some(Token::Property { name, .. }) if depth > 0 && !after_child => {
                    if name >= self.strings.len() {
                        return Err(self.malformed(at, "a property with a name"));
                    }
                }
                Some(Token::Finish) if depth == 0 && after_child => return Ok(()),
                Some(_) => {
                    let expected = "one root, properties before children, every node ended";
                    return Err(self.malformed(at, expected));
                }
                None => return Err(self.malformed(at, "a token of the structure, whole")),
            }
        }
    }

    /// About the start of `block`, which is a part of the blob.
    fn malformed(self, block: &[u8], expected: &'static str) -> Error {
        let at = (block.as_ptr() as usize).saturating_sub(self.blob.as_ptr() as usize);
        Error::blob(Problem::Malformed { at, expected })
    }
}

enum Token<'a> {
    /// A node begins; its name.
    Begin(&'a [u8]),
    /// A node ends.
    End,
    /// A property: where its name is in the strings block, and its value.
    Property { name: usize, value: &'a [u8] },
    /// The structure ends.
    Finish,
}

/// What is left of a structure block.
#[derive(Clone, Copy)]
struct Tokens<'a>(&'a [u8]);

impl<'a> Tokens<'a> {
    /// The next token; `None` where there is none, whole and known.
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            match self.word()? {
                1 => {
                    let len = self.0.iter().position(|byte| *byte == 0)?;
                    return Some(Token::Begin(&self.take(len + 1)?[..len]));
                }
                2 => return Some(Token::End),
                3 => {
                    let (len, name) = (self.word()? as usize, self.word()? as usize);
                    return Some(Token::Property { name, value: self.take(len)? });
                }
                4 => {}
                9 => return Some(Token::Finish),
                _ => return None,
            }
        }
    }

    fn word(&mut self) -> Option<u32> {
        let (word, left) = self.0.split_first_chunk()?;
        self.0 = left;
        Some(u32::from_be_bytes(*word))
    }

    /// So many bytes, and over those that fill up their last word.
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(len.checked_next_multiple_of(4)?)?;
        self.0 = left;
        Some(&taken[..len])
    }

    /// Over the rest of the node that this is inside of.
    fn leave_node(&mut self) {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.next() {
                Some(Token::Begin(_)) => depth += 1,
                Some(Token::End) => depth -= 1,
                Some(Token::Property { .. }) => {}
                Some(Token::Finish) | None => return,
            }
        }
    }
}

/// A node, without those above it.
#[derive(Clone, Copy)]
pub(crate) struct FlatNode<'a> {
    /// With the unit address; the root has none.
    pub(crate) name: &'a [u8],
    /// Its properties, its children, and what follows it.
    inside: Tokens<'a>,
    strings: &'a [u8],
}

impl<'a> FlatNode<'a> {
    /// The bytes of a property.
    pub(crate) fn property(self, wanted: &str) -> Option<&'a [u8]> {
        let mut tokens = self.inside;
        while let Some(Token::Property { name, value }) = tokens.next() {
            let behind = self.strings.get(name..)?.strip_prefix(wanted.as_bytes());
            if behind.is_some_and(|behind| behind.first() == Some(&0)) {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn children(self) -> impl Iterator<Item = Self> {
        let mut tokens = self.inside;
        core::iter::from_fn(move || {
            loop {
                match tokens.next()? {
                    Token::Begin(name) => {
                        let child = Self { name, inside: tokens, ..self };
                        tokens.leave_node();
                        return Some(child);
                    }
                    Token::Property { .. } => {}
                    Token::End | Token::Finish => return None,
                }
            }
        })
    }
}
