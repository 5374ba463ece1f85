//! The files of the medium that this program was started from.

use crate::error::Error;
use alloc::string::ToString;
use alloc::vec::Vec;
use kpkeys_handover::medium::STARTED;
use uefi::fs::{FileSystem, IoError};
use uefi::{CString16, Status, boot};

/// The medium.
pub struct Medium(FileSystem);

impl Medium {
    /// The one that this program was started from.
    pub fn open() -> Result<Self, Error> {
        let volume = boot::get_image_file_system(boot::image_handle())
            .map_err(|error| Error::NoMedium(error.status()))?;
        Ok(Self(FileSystem::new(volume)))
    }

    /// A file, if it is there.
    pub fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.0.read(path(name)?.as_ref()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => match status(&error) {
                Status::NOT_FOUND => Ok(None),
                status => Err(Error::File(name.to_string(), status)),
            },
        }
    }

    /// How many lines of the settings have been started.
    pub fn started(&mut self) -> Result<usize, Error> {
        let Some(bytes) = self.read(STARTED)? else { return Ok(0) };
        let text = core::str::from_utf8(&bytes).map_err(|_| Error::BadCount)?;
        text.trim().parse().map_err(|_| Error::BadCount)
    }

    /// Remembers it.
    pub fn set_started(&mut self, lines: usize) -> Result<(), Error> {
        let written = self.0.write(path(STARTED)?.as_ref(), lines.to_string());
        written.map_err(|error| Error::File(STARTED.to_string(), status(&error)))
    }
}

fn path(name: &str) -> Result<CString16, Error> {
    let separated = name.replace('/', "\\");
    CString16::try_from(separated.as_str())
        .map_err(|_| Error::File(name.to_string(), Status::INVALID_PARAMETER))
}

fn status(error: &uefi::fs::Error) -> Status {
    match error {
        uefi::fs::Error::Io(IoError { uefi_error, .. }) => uefi_error.status(),
        _ => Status::INVALID_PARAMETER,
    }
}
