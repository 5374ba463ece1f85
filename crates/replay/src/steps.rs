//! The steps of a trace alone, as bytes: what a kernel is given that replays them. Whoever has a trace makes them of it (`History::alone`).

use alloc::vec::Vec;

use kpkeys_trace::{SpaceId, SpaceOp};
use serde::{Deserialize, Serialize};

use crate::stage::Setting;

/// Why bytes are no steps, or steps cannot be bytes.
pub use postcard::Error as DecodeError;

/// Steps, and what a replay must know besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// What a replay must know of the machine that was recorded.
    pub setting: Setting,
    /// Every step with the address space it is for, in the order of the recording.
    pub steps: Vec<(SpaceId, SpaceOp)>,
}

impl Steps {
    /// As bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a step is [`SpaceOp::TaskEnded`], which is none in memory.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        postcard::to_allocvec(self)
    }

    /// From bytes, which may be followed by others.
    ///
    /// # Errors
    ///
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        postcard::take_from_bytes(bytes).map(|(steps, _)| steps)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use kpkeys_trace::{FaultFlags, MapFlags, PageRange, Protection, TaskTimes};

    use super::*;

    fn steps() -> Steps {
        let range = PageRange { first: 1 << 35, count: 3 };
        let map = SpaceOp::Map { range, protection: Protection::READ, flags: MapFlags::SHARED };
        let fault = SpaceOp::Fault { page: 1 << 35, flags: FaultFlags::WRITE };
        let steps = [SpaceOp::Create, map, fault, SpaceOp::CopyOf(SpaceId(0)), SpaceOp::Destroy];
        let setting = Setting { fault_around_pages: 16, writes_known: true };
        Steps { setting, steps: steps.map(|op| (SpaceId(0), op)).to_vec() }
    }

    #[test]
    fn steps_come_back_from_bytes_and_what_is_cut_off_does_not() {
        let bytes = steps().encode().unwrap();
        assert_eq!(Steps::decode(&bytes), Ok(steps()));
        for len in 0..bytes.len() {
            assert!(Steps::decode(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn what_changes_no_memory_is_refused() {
        let ended = SpaceOp::TaskEnded(TaskTimes::default().into());
        let steps = Steps { steps: vec![(SpaceId(0), ended)], ..steps() };
        assert!(steps.encode().is_err());
    }
}
