//! Replay on several threads.
//!
//! Every address space belongs to one thread, which carries out its steps in the order of the recording. A fork is done by the
//! parent's thread, which then hands the child over; the child's thread waits for it. Steps of different address spaces have
//! no other order, as on the machine that was recorded. Nobody waits in a circle: a child is handed over by a step that lies
//! before all of its own.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};

use kpkeys_mm::{AddressSpace, Error, File, Kernel};
use kpkeys_pgtable::Machine;
use kpkeys_trace::{SpaceId, SpaceOp};

use crate::history::History;
use crate::stage::{Stage, Tally};

type HandedOver<'k, M> = (SpaceId, AddressSpace<'k, M>);

/// Replays a history on `threads` threads (at least one). `become_cpu` is called first on each, with its number, for the
/// machine to know it by.
///
/// # Errors
///
/// [`Error::OutOfMemory`].
pub fn replay_on<M: Machine>(
    kernel: &Kernel<M>,
    file: &File,
    history: &History,
    threads: usize,
    become_cpu: impl Fn(usize) + Sync,
) -> Result<Tally, Error> {
    let threads = threads.max(1);
    let stage = Stage::new(kernel, file, &history.header);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel()).unzip();
    let workers: Vec<Worker<'_, M>> = receivers
        .into_iter()
        .enumerate()
        .map(|(number, inbox)| Worker::new(stage, number, &senders, inbox))
        .collect();
    // Only workers may hold them: when all that could send are gone, nobody waits any more.
    drop(senders);
    let become_cpu = &become_cpu;
    std::thread::scope(|scope| {
        let running = workers.into_iter().map(|worker| {
            scope.spawn(move || {
                become_cpu(worker.number);
                worker.run(history)
            })
        });
        let running: Vec<_> = running.collect();
        running.into_iter().try_fold(Tally::default(), |sum, thread| {
            let tally = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(sum.and(tally))
        })
    })
}

struct Worker<'k, M: Machine> {
    stage: Stage<'k, M>,
    number: usize,
    /// To every other thread; `None` in this one's own place.
    outboxes: Vec<Option<Sender<HandedOver<'k, M>>>>,
    inbox: Receiver<HandedOver<'k, M>>,
    spaces: HashMap<SpaceId, AddressSpace<'k, M>>,
    tally: Tally,
}

impl<'k, M: Machine> Worker<'k, M> {
    fn new(
        stage: Stage<'k, M>,
        number: usize,
        senders: &[Sender<HandedOver<'k, M>>],
        inbox: Receiver<HandedOver<'k, M>>,
    ) -> Self {
        let others = senders.iter().enumerate();
        let outboxes = others.map(|(to, sender)| (to != number).then(|| sender.clone())).collect();
        Worker { stage, number, outboxes, inbox, spaces: HashMap::new(), tally: Tally::default() }
    }

    fn run(mut self, history: &History) -> Result<Tally, Error> {
        for (number, (id, op)) in history.steps().iter().enumerate() {
            if let SpaceOp::CopyOf(parent) = *op {
                if self.is_mine(parent) {
                    self.fork(parent, *id)?;
                }
            } else if self.is_mine(*id) {
                self.step(number, *id, op)?;
            }
        }
        Ok(self.tally)
    }

    fn is_mine(&self, id: SpaceId) -> bool {
        self.owner(id) == self.number
    }

    fn owner(&self, id: SpaceId) -> usize {
        id.0 as usize % self.outboxes.len()
    }

    fn step(&mut self, number: usize, id: SpaceId, op: &SpaceOp) -> Result<(), Error> {
        if *op == SpaceOp::Create {
            self.spaces.insert(id, self.stage.create()?);
            self.tally.done += 1;
            return Ok(());
        }
        self.await_space(id);
        let Some(space) = self.spaces.get_mut(&id) else {
            self.tally.refused += 1;
            return Ok(());
        };
        if *op == SpaceOp::Destroy {
            self.spaces.remove(&id);
            self.tally.done += 1;
            return Ok(());
        }
        self.stage.act(space, op, number, &mut self.tally)
    }

    fn fork(&mut self, parent: SpaceId, child: SpaceId) -> Result<(), Error> {
        self.await_space(parent);
        let Some(parent) = self.spaces.get_mut(&parent) else {
            self.tally.refused += 1;
            return Ok(());
        };
        let space = parent.fork()?;
        self.tally.done += 1;
        match &self.outboxes[self.owner(child)] {
            // Nobody takes it if that thread failed: its error ends the replay.
            Some(outbox) => drop(outbox.send((child, space))),
            None => drop(self.spaces.insert(child, space)),
        }
        Ok(())
    }

    /// Takes in what others hand over until the space is here, or nobody is left who could.
    fn await_space(&mut self, id: SpaceId) {
        while !self.spaces.contains_key(&id) {
            let Ok((arrived, space)) = self.inbox.recv() else { return };
            self.spaces.insert(arrived, space);
        }
    }
}
