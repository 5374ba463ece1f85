//! Reading a trace: a stream of checked events, one block in memory at a time.
//!
//! Nothing of a block is handed out before its checksum fits, and no event before it was checked against
//! the rules of the format. Damage ends the reading with an error that names the place;
//! [`Damage::Tolerate`] ends it as if the trace stopped there, and
//! [`damage`](TraceReader::damage) then says what was found.

use std::io::{ErrorKind, Read};

use crate::check::Checker;
use crate::codec::Decoder;
use crate::error::{Malformed, TraceError};
use crate::event::Entry;
use crate::frame::{
    BLOCK, BLOCK_HEAD, BLOCK_LIMIT, BODY_LIMIT, BlockHead, LZ4, PLAIN, SIGNATURE, TRAILER, VERSION,
};
use crate::header::{Header, Trailer};

/// What to do at the first damaged byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Fail.
    Refuse,
    /// Use the blocks before it.
    Tolerate,
}

/// Reads a trace from `R`. Wrap a file in a [`BufReader`](std::io::BufReader).
#[derive(Debug)]
pub struct TraceReader<R: Read> {
    input: Input<R>,
    version: u16,
    header: Header,
    on_damage: Damage,
    checker: Checker,
    block: std::vec::IntoIter<Entry>,
    events: u64,
    trailer: Option<Trailer>,
    damage: Option<TraceError>,
}

impl<R: Read> TraceReader<R> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// Any [`TraceError`] about the header; a damaged header is an error even when damage is tolerated.
    pub fn new(source: R, on_damage: Damage) -> Result<Self, TraceError> {
        let mut input = Input { source, offset: 0 };
        let (version, header) = read_header(&mut input)?;
        Ok(Self {
            input,
            version,
            checker: Checker::new(&header),
            header,
            on_damage,
            block: Vec::new().into_iter(),
            events: 0,
            trailer: None,
            damage: None,
        })
    }

    /// What the trace says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What it says at its end: there once every event was read, unless damage was tolerated.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }

    /// The damage that ended the reading early, if it was to be tolerated.
    pub fn damage(&self) -> Option<&TraceError> {
        self.damage.as_ref()
    }

    /// Bytes of the trace read so far.
    pub fn bytes(&self) -> u64 {
        self.input.offset
    }

    /// The next event, or `None` at the end.
    ///
    /// # Errors
    /// Any [`TraceError`], unless damage is tolerated; [`TraceError::Io`] always.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TraceError> {
        loop {
            if let Some(entry) = self.block.next() {
                return Ok(Some(entry));
            }
            if self.trailer.is_some() || self.damage.is_some() {
                return Ok(None);
            }
            match self.next_frame() {
                Ok(()) => {}
                Err(error @ TraceError::Io(_)) => return Err(error),
                Err(error) if self.on_damage == Damage::Refuse => return Err(error),
                Err(error) => self.damage = Some(error),
            }
        }
    }

    fn next_frame(&mut self) -> Result<(), TraceError> {
        let offset = self.input.offset;
        let mut tag = [0];
        self.input.fill(&mut tag, "the tag of a block")?;
        match tag[0] {
            BLOCK => self.read_block(offset),
            TRAILER => self.read_trailer(offset),
            other => Err(TraceError::Part {
                part: "block",
                offset,
                reason: Malformed::Undefined { field: "the tag", value: other.into() },
            }),
        }
    }

    fn read_block(&mut self, offset: u64) -> Result<(), TraceError> {
        let wrong = |reason| TraceError::Part { part: "block", offset, reason };
        let mut head = [0; BLOCK_HEAD];
        head[0] = BLOCK;
        self.input.fill(&mut head[1..], "the head of a block")?;
        let fields = BlockHead::from_bytes(&head);
        for length in [fields.stored, fields.unpacked] {
            check_length(length, BLOCK_LIMIT).map_err(wrong)?;
        }
        let payload = self.input.take(fields.stored as usize, "a block")?;
        self.input.check_sum("block", offset, &[&head, &payload])?;
        let plain = unpack(&fields, payload).map_err(wrong)?;
        self.decode_block(offset, &fields, &plain)
    }

    fn decode_block(
        &mut self,
        offset: u64,
        fields: &BlockHead,
        plain: &[u8],
    ) -> Result<(), TraceError> {
        let mut decoder = Decoder::new(plain, fields.first_tick);
        let mut entries = Vec::new();
        // Work on a copy: of a bad block nothing may be left behind.
        let mut checker = self.checker.clone();
        loop {
            let within = decoder.position();
            let index = self.events + entries.len() as u64;
            let wrong = |reason| TraceError::Event { index, offset, within, reason };
            let Some(entry) = decoder.next(checker.next_task()).map_err(wrong)? else { break };
            checker.admit(&entry).map_err(wrong)?;
            entries.push(entry);
        }
        if entries.len() as u64 != u64::from(fields.events) {
            let found = entries.len() as u64;
            let reason = Malformed::EventCount { promised: fields.events.into(), found };
            return Err(TraceError::Part { part: "block", offset, reason });
        }
        self.checker = checker;
        self.events += entries.len() as u64;
        self.block = entries.into_iter();
        Ok(())
    }

    fn read_trailer(&mut self, offset: u64) -> Result<(), TraceError> {
        let body = self.input.body("trailer", "the trailer", offset, &[TRAILER])?;
        let wrong = |reason| TraceError::Part { part: "trailer", offset, reason };
        let trailer = Trailer::decode(&body, self.version).map_err(wrong)?;
        if trailer.events != self.events {
            let (promised, found) = (trailer.events, self.events);
            return Err(wrong(Malformed::EventCount { promised, found }));
        }
        if self.input.has_more()? {
            return Err(wrong(Malformed::LeftOver(1)));
        }
        self.trailer = Some(trailer);
        Ok(())
    }
}

/// The file's version and its header.
fn read_header<R: Read>(input: &mut Input<R>) -> Result<(u16, Header), TraceError> {
    let mut start = [0; 10];
    match input.fill(&mut start, "the header") {
        Err(TraceError::Truncated { offset, .. })
            if !SIGNATURE.starts_with(&start[..(offset as usize).min(SIGNATURE.len())]) =>
        {
            return Err(TraceError::NotATrace);
        }
        other => other?,
    }
    if start[..8] != SIGNATURE {
        return Err(TraceError::NotATrace);
    }
    let found = u16::from_le_bytes([start[8], start[9]]);
    if found > VERSION {
        return Err(TraceError::NewerVersion { found, supported: VERSION });
    }
    let wrong = |reason| TraceError::Part { part: "header", offset: 0, reason };
    if found == 0 {
        return Err(wrong(Malformed::Undefined { field: "the version", value: 0 }));
    }
    let body = input.body("header", "the header", 0, &start)?;
    Ok((found, Header::decode(&body).map_err(wrong)?))
}

fn unpack(fields: &BlockHead, payload: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    let length = fields.unpacked as usize;
    let plain = match fields.packing {
        PLAIN => Some(payload),
        LZ4 => lz4_flex::block::decompress(&payload, length).ok(),
        other => {
            return Err(Malformed::Undefined { field: "the packing", value: other.into() });
        }
    };
    plain.filter(|plain| plain.len() == length).ok_or(Malformed::Unpack(length))
}

fn check_length(length: u32, limit: u32) -> Result<(), Malformed> {
    if length > limit {
        return Err(Malformed::TooLong { length: length.into(), limit: limit.into() });
    }
    Ok(())
}

/// The file and how far it was read.
#[derive(Debug)]
struct Input<R> {
    source: R,
    offset: u64,
}

impl<R: Read> Input<R> {
    /// Fills `buffer`, or says that the file ended `inside` something.
    fn fill(&mut self, buffer: &mut [u8], inside: &'static str) -> Result<(), TraceError> {
        let mut done = 0;
        while done < buffer.len() {
            match self.source.read(&mut buffer[done..]) {
                Ok(0) => return Err(TraceError::Truncated { offset: self.offset, inside }),
                Ok(read) => {
                    done += read;
                    self.offset += read as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next `length` bytes.
    fn take(&mut self, length: usize, inside: &'static str) -> Result<Vec<u8>, TraceError> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes, inside)?;
        Ok(bytes)
    }

    /// A body with length and checksum, after the bytes `start` of the same frame.
    fn body(
        &mut self,
        part: &'static str,
        inside: &'static str,
        offset: u64,
        start: &[u8],
    ) -> Result<Vec<u8>, TraceError> {
        let mut length = [0; 4];
        self.fill(&mut length, inside)?;
        let count = u32::from_le_bytes(length);
        check_length(count, BODY_LIMIT).map_err(|reason| TraceError::Part {
            part,
            offset,
            reason,
        })?;
        let body = self.take(count as usize, inside)?;
        self.check_sum(part, offset, &[start, &length, &body])?;
        Ok(body)
    }

    /// Reads the checksum that follows and compares it.
    fn check_sum(
        &mut self,
        part: &'static str,
        offset: u64,
        pieces: &[&[u8]],
    ) -> Result<(), TraceError> {
        let mut stored = [0; 4];
        self.fill(&mut stored, "a checksum")?;
        let mut hasher = crc32fast::Hasher::new();
        pieces.iter().for_each(|piece| hasher.update(piece));
        let (found, expected) = (hasher.finalize(), u32::from_le_bytes(stored));
        if found != expected {
            return Err(TraceError::Checksum { part, offset, found, expected });
        }
        Ok(())
    }

    fn has_more(&mut self) -> Result<bool, TraceError> {
        match self.fill(&mut [0], "what follows the trailer") {
            Ok(()) => Ok(true),
            Err(TraceError::Truncated { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
