//! Every address space of a trace, and the steps in their order, on one thread.

use alloc::vec::Vec;
use kpkeys_mm::{AddressSpace, Error, File, Kernel};
use kpkeys_pgtable::Machine;
use kpkeys_trace::{SpaceId, SpaceOp};

use crate::stage::{Setting, Stage, Tally};

/// The address spaces of a trace, as they are after the steps so far.
pub struct Replayer<'k, M: Machine> {
    stage: Stage<'k, M>,
    /// By rank; `None` once destroyed.
    spaces: Vec<Option<AddressSpace<'k, M>>>,
    steps: usize,
    tally: Tally,
}

impl<'k, M: Machine> Replayer<'k, M> {
    /// Before the first step of a trace with this header or setting. `file` is [`Stage::file`]'s.
    pub fn new(kernel: &'k Kernel<M>, file: &'k File, setting: impl Into<Setting>) -> Self {
        let stage = Stage::new(kernel, file, setting);
        Replayer { stage, spaces: Vec::new(), steps: 0, tally: Tally::default() }
    }

    /// Carries out the next step.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    #[inline]
    pub fn step(&mut self, id: SpaceId, op: &SpaceOp) -> Result<(), Error> {
        let number = self.steps;
        self.steps += 1;
        match *op {
            SpaceOp::Create => self.put(id, Some(self.stage.create()?)),
            SpaceOp::CopyOf(parent) => {
                let parent = self.spaces.get_mut(parent.0 as usize).and_then(Option::as_mut);
                let child = parent.map(AddressSpace::fork).transpose()?;
                self.put(id, child);
            }
            SpaceOp::Destroy => self.put(id, None),
            _ => {
                let Some(Some(space)) = self.spaces.get_mut(id.0 as usize) else {
                    self.tally.refused += 1;
                    return Ok(());
                };
                return self.stage.act(space, op, number, &mut self.tally);
            }
        }
        self.tally.done += 1;
        Ok(())
    }

    /// An address space that is alive.
    pub fn space(&self, id: SpaceId) -> Option<&AddressSpace<'k, M>> {
        self.spaces.get(id.0 as usize)?.as_ref()
    }

    /// What became of the steps so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn put(&mut self, id: SpaceId, space: Option<AddressSpace<'k, M>>) {
        let rank = id.0 as usize;
        if self.spaces.len() <= rank {
            self.spaces.resize_with(rank + 1, || None);
        }
        self.spaces[rank] = space;
    }
}

/// Replays a whole history on the calling thread, up to the end of its last address space.
///
/// # Errors
///
/// [`Error::OutOfMemory`].
#[cfg(feature = "std")]
pub fn replay<M: Machine>(
    kernel: &Kernel<M>,
    file: &File,
    history: &crate::History,
) -> Result<Tally, Error> {
    replay_steps(kernel, file, (&history.header).into(), history.steps())
}

/// The same of the steps alone.
///
/// # Errors
///
/// [`Error::OutOfMemory`].
pub fn replay_steps<M: Machine>(
    kernel: &Kernel<M>,
    file: &File,
    setting: Setting,
    steps: &[(SpaceId, SpaceOp)],
) -> Result<Tally, Error> {
    let mut replayer = Replayer::new(kernel, file, setting);
    steps.iter().try_for_each(|(id, op)| replayer.step(*id, op))?;
    Ok(replayer.tally())
}
