//! Source lines and the compiler's name, from the debug information, where there is any.

use addr2line::Context;
use gimli::{AttributeValue, EndianArcSlice, LittleEndian, Reader as _};
use object::{Object, ObjectSection};
use std::sync::Arc;

use crate::report::SourceLine;

type Bytes = EndianArcSlice<LittleEndian>;

/// The debug information of an image.
pub struct Source {
    context: Option<Context<Bytes>>,
    producer: Option<String>,
}

impl Source {
    /// Reads it. What is missing or broken is as if it were not there: an audit needs none of it.
    pub fn of(file: &object::File<'_>) -> Self {
        let load = |id: gimli::SectionId| -> Result<Bytes, gimli::Error> {
            let section = file.section_by_name(id.name());
            let data = section.and_then(|section| section.uncompressed_data().ok());
            Ok(Bytes::new(Arc::from(data.unwrap_or_default()), LittleEndian))
        };
        let Ok(dwarf) = gimli::Dwarf::load(load) else {
            return Source { context: None, producer: None };
        };
        let producer = producer(&dwarf);
        Source { context: Context::from_dwarf(dwarf).ok(), producer }
    }

    /// What the first unit says made it.
    pub fn producer(&self) -> Option<&str> {
        self.producer.as_deref()
    }

    /// Where an instruction comes from: the innermost function that was inlined there first.
    pub fn lines(&self, address: u64) -> Vec<SourceLine> {
        let Some(context) = &self.context else { return Vec::new() };
        let Ok(mut frames) = context.find_frames(address).skip_all_loads() else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
            let location = frame.location.as_ref();
            lines.push(SourceLine {
                function: name.map(|name| crate::report::readable(name.as_ref())),
                file: location.and_then(|location| location.file).map(str::to_owned),
                line: location.and_then(|location| location.line),
            });
        }
        lines
    }
}

fn producer(dwarf: &gimli::Dwarf<Bytes>) -> Option<String> {
    let header = dwarf.units().next().ok()??;
    let unit = dwarf.unit(header).ok()?;
    let mut entries = unit.entries();
    let root = entries.next_dfs().ok()??;
    let value: AttributeValue<Bytes> = root.attr_value(gimli::DW_AT_producer)?;
    let text = dwarf.attr_string(&unit, value).ok()?;
    Some(text.to_string_lossy().ok()?.into_owned())
}
