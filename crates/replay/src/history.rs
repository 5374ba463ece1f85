//! A trace as steps in memory, so that a timed replay reads and decodes nothing.

use kpkeys_pgtable::Format;
use kpkeys_pgtable::entry::X86_64;
use kpkeys_trace::{
    Damage, Header, Kinds, SpaceId, SpaceOp, Spaces, Summary, TraceError, TraceReader, Trailer,
};

use crate::stage::{self, Setting};
use crate::steps::Steps;

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Its pages are not those of the tables here.
    #[error("it has pages of {} KiB; tables here have pages of 4 KiB", 1u64 << (.0 - 10))]
    PageSize(u8),
    /// It has no faults, which are what page tables are filled by.
    #[error(
        "it holds no page faults: recording them needs perf events (`kpkeys trace info` lists what was recorded)"
    )]
    NoFaults,
}

/// A trace, ready to be replayed.
#[derive(Debug)]
pub struct History {
    /// What the trace says about itself.
    pub header: Header,
    /// How it ended.
    pub trailer: Trailer,
    /// Figures about it.
    pub summary: Summary,
    steps: Vec<(SpaceId, SpaceOp)>,
}

impl History {
    /// Reads a whole trace.
    ///
    /// # Errors
    ///
    /// [`HistoryError`].
    pub fn read(bytes: &[u8]) -> Result<History, HistoryError> {
        let mut reader = TraceReader::new(bytes, Damage::Refuse)?;
        let header = reader.header().clone();
        if u64::from(header.page_shift) != X86_64::PAGE_SHIFT.into() {
            return Err(HistoryError::PageSize(header.page_shift));
        }
        if !header.kinds.contains(Kinds::FAULTS) {
            return Err(HistoryError::NoFaults);
        }
        let steps = steps(&mut reader)?;
        let at_its_end =
            TraceError::Truncated { offset: bytes.len() as u64, inside: "the trailer" };
        let trailer = reader.trailer().cloned().ok_or(at_its_end)?;
        let summary = Summary::of(&mut TraceReader::new(bytes, Damage::Refuse)?)?;
        Ok(History { header, trailer, summary, steps })
    }

    /// Every step with the address space it is for, in the order of the recording.
    pub fn steps(&self) -> &[(SpaceId, SpaceOp)] {
        &self.steps
    }

    /// What a kernel is given that has no traces.
    pub fn alone(&self) -> Steps {
        Steps { setting: (&self.header).into(), steps: self.steps.clone() }
    }

    /// Pages of physical memory a machine needs to replay it: what was touched at most at any time, and room for tables.
    pub fn memory_pages(&self) -> usize {
        let touched = self.summary.peak_touched_pages + stage::FILE_PAGES as u64;
        let tables = self.summary.peak_spaces * TABLES_OF_A_SPACE;
        // Fault-around makes tables where no touched page is, and linear-map tables come on top: an eighth, and 32 MiB at least.
        // Not more, since a kernel that has run for a while has no frames that were never used.
        (touched + tables + touched / 8 + (1 << 13)) as usize
    }
}

impl From<&Header> for Setting {
    fn from(header: &Header) -> Self {
        let fault_around = header.fault_around_bytes >> header.page_shift;
        Setting {
            fault_around_pages: usize::try_from(fault_around).unwrap_or(usize::MAX),
            writes_known: header.kinds.contains(Kinds::FAULT_WRITES),
        }
    }
}

/// Page-table pages of a process, generously: `gcc` has about 20.
const TABLES_OF_A_SPACE: u64 = 64;

fn steps(reader: &mut TraceReader<&[u8]>) -> Result<Vec<(SpaceId, SpaceOp)>, TraceError> {
    let mut spaces = Spaces::new(reader.header());
    let (mut steps, mut of_entry) = (Vec::new(), Vec::new());
    while let Some(entry) = reader.next_entry()? {
        spaces.follow(&entry, &mut of_entry);
        let changes_tables =
            of_entry.drain(..).filter(|step| !matches!(step.op, SpaceOp::TaskEnded(_)));
        steps.extend(changes_tables.map(|step| (step.space, step.op)));
    }
    Ok(steps)
}
