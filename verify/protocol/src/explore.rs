//! All executions, or all with few disturbances: a model of the checker `stateright`.
//!
//! A state is the choices that lead to it, carried out anew by the real code from the start, and a hash of what they led to: memory, registers, TLBs, locks,
//! and of each piece of code that has begun all that it has seen so far. Code is deterministic, so two pieces that have seen the same are at the same
//! point with the same values: states of one hash go on alike, whatever led to them, but for collisions of a 64-bit hash.
//!
//! What is bounded is how often a CPU that could go on does not, or takes an exception, or finds no memory: the *disturbances*.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kpkeys_pgtable::Mode;
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::fault::Fault;
use crate::machine::{System, tables_now};
use crate::rules;
use crate::scenario::Scenario;
use crate::threads::{Choice, Execution};
use crate::tlb::Tlbs;
use crate::world::{self, Kind, Reached, Rule, Violation, World, mix};

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Exploration {
    /// What the threads do.
    pub scenario: Scenario,
    /// How tables are protected.
    pub mode: Mode,
    /// What is planted.
    pub fault: Option<Fault>,
    /// How many CPUs there are: those beyond one a thread begin idle.
    pub cpus: usize,
    /// How many disturbances there are at most.
    pub disturbances: u8,
}

/// What an exploration found.
#[derive(Debug)]
pub struct Found {
    /// How many different states there were.
    pub states: usize,
    /// How many executions led to them.
    pub executions: usize,
    /// The longest execution.
    pub steps: usize,
    /// Set of [`Reached`].
    pub reached: u32,
    /// What was broken first, and by which disturbances.
    pub violation: Option<(Violation, Vec<Choice>)>,
    /// How long it took.
    pub took: Duration,
}

impl Found {
    /// Whether this was reached.
    pub fn has_reached(&self, what: Reached) -> bool {
        self.reached & what as u32 != 0
    }
}

/// Explores.
pub fn explore<S: System>(exploration: Exploration) -> Found {
    let begun = Instant::now();
    let reached = Arc::new(AtomicU32::new(0));
    let model = Explored::<S> { exploration, reached: reached.clone(), system: PhantomData };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = model.checker().threads(threads).finish_when(HasDiscoveries::Any);
    let checker = checker.spawn_bfs().join();
    let violation = checker.discoveries().into_values().next().and_then(|path| {
        let state = path.last_state();
        Some((state.violation.clone()?, state.path.clone()))
    });
    Found {
        states: checker.unique_state_count(),
        executions: checker.state_count(),
        steps: checker.max_depth(),
        reached: reached.load(Ordering::Relaxed),
        violation,
        took: begun.elapsed(),
    }
}

struct Explored<S> {
    exploration: Exploration,
    reached: Arc<AtomicU32>,
    system: PhantomData<fn() -> S>,
}

/// See the module.
#[derive(Clone, Debug)]
struct State {
    path: Vec<Choice>,
    /// Disturbances that are left.
    left: u8,
    /// What can go on, and whether that is a disturbance.
    choices: Vec<(Choice, bool)>,
    /// What memory and locks are.
    shared: u64,
    /// What every piece of code has seen, by thread.
    seen: Vec<Vec<u64>>,
    /// What the holders of every lock had seen.
    histories: Vec<u64>,
    tlbs: Tlbs,
    violation: Option<Violation>,
    hash: u64,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl<S: System> Model for Explored<S> {
    type State = State;
    type Action = Choice;

    fn init_states(&self) -> Vec<State> {
        let execution = Execution::<S>::new(&self.exploration);
        let types = execution.types();
        world::with(|world| {
            let now = tables_now::<S>(world.kernel_root, world);
            world.tlbs = Some(Tlbs::new(now, world.cpus.len()));
            rules::check::<S>(world, types);
        });
        vec![self.stopped(&execution, Vec::new(), None, self.exploration.disturbances)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Choice>) {
        if state.violation.is_none() {
            actions.extend(state.choices.iter().map(|(choice, _)| *choice));
        }
    }

    fn next_state(&self, before: &State, choice: Choice) -> Option<State> {
        let disturbs = before.choices.contains(&(choice, true));
        let left = before.left - u8::from(disturbs);
        let mut execution = Execution::<S>::new(&self.exploration);
        before.path.iter().for_each(|&choice| execution.step(choice));
        world::with(|world| restore(world, before));
        let thread = prepare(before.shared, choice);
        let depth = world::with(|world| world.threads[thread].contexts.len());
        execution.step(choice);
        let types = execution.types();
        world::with(|world| {
            note_seen(world, thread, depth);
            rules::check::<S>(world, types);
        });
        let mut path = before.path.clone();
        path.push(choice);
        Some(self.stopped(&execution, path, Some(choice.cpu()), left))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn holds(state: &State, rule: Rule) -> bool {
            state.violation.as_ref().is_none_or(|violation| violation.rule != rule)
        }
        vec![
            Property::always(
                "the register is open exactly while its own window's code runs",
                |_, state| holds(state, Rule::Register),
            ),
            Property::always("no table is reachable writable while linked", |_, state| {
                holds(state, Rule::Table)
            }),
            Property::always("nothing is freed or used anew that a TLB maps", |_, state| {
                holds(state, Rule::Frame)
            }),
            Property::always("what is mapped is marked as mapped", |_, state| {
                holds(state, Rule::Type)
            }),
            Property::always("somebody can go on until all are done", |_, state| {
                holds(state, Rule::Progress)
            }),
            Property::always("no operation fails or panics", |_, state| holds(state, Rule::Code)),
        ]
    }
}

impl<S: System> Explored<S> {
    /// The state that an execution is in, `last` being the CPU whose turn it was.
    fn stopped(
        &self,
        execution: &Execution<S>,
        path: Vec<Choice>,
        last: Option<u8>,
        left: u8,
    ) -> State {
        let (saved, known) = (execution.saved(), execution.hash());
        world::with(|world| {
            let choices = choices(world, self.exploration.scenario, last, left);
            self.reached.fetch_or(world.reached, Ordering::Relaxed);
            let memory = mix(world.frames.hash(), known);
            let shared = world
                .locks
                .iter()
                .fold(memory, |hash, lock| mix(mix(hash, u64::from(lock.held)), lock.history));
            let seen: Vec<Vec<u64>> = world
                .threads
                .iter()
                .map(|thread| thread.contexts.iter().map(|context| context.seen).collect())
                .collect();
            let tlbs = world.tlbs.clone().expect("the last step of an execution has TLBs");
            let mut hasher = DefaultHasher::new();
            (shared, saved, &seen, &tlbs, last, left, &world.violation).hash(&mut hasher);
            for cpu in &world.cpus {
                (cpu.register, cpu.interrupts, cpu.thread, cpu.record).hash(&mut hasher);
            }
            for thread in &world.threads {
                (thread.cpu, thread.done).hash(&mut hasher);
                for context in &thread.contexts {
                    (context.kind, context.window, context.wait).hash(&mut hasher);
                }
            }
            (&world.user_roots, world.lazy).hash(&mut hasher);
            State {
                path,
                left,
                choices,
                shared,
                seen,
                histories: world.locks.iter().map(|lock| lock.history).collect(),
                tlbs,
                violation: world.violation.clone(),
                hash: hasher.finish(),
            }
        })
    }
}

/// What the choices before led to, where carrying them out again does not say.
fn restore(world: &mut World, state: &State) {
    world.tlbs = Some(state.tlbs.clone());
    world.reached = 0;
    for (thread, seen) in world.threads.iter_mut().zip(&state.seen) {
        for (context, seen) in thread.contexts.iter_mut().zip(seen) {
            context.seen = *seen;
        }
    }
    for (lock, history) in world.locks.iter_mut().zip(&state.histories) {
        lock.history = *history;
    }
}

/// What the code that goes on sees, and whose code that is.
fn prepare(shared: u64, choice: Choice) -> usize {
    world::with(|world| {
        let cpu = choice.cpu();
        let own = &world.cpus[usize::from(cpu)];
        let fails = matches!(choice, Choice::Fail(_));
        let words = [u64::from(cpu), own.register, u64::from(own.interrupts), u64::from(fails)];
        world.step = words.into_iter().fold(shared, mix);
        match choice {
            Choice::Resume(_, thread) => thread.into(),
            _ => own.thread.expect("only CPUs that run a thread go on"),
        }
    })
}

/// What went on has seen more. A handler that returned has not: what it interrupted is where it was.
fn note_seen(world: &mut World, thread: usize, depth: usize) {
    let step = world.step;
    let contexts = &mut world.threads[thread].contexts;
    if contexts.len() >= depth {
        let top = contexts.last_mut().expect("a thread has a context of its own");
        top.seen = mix(top.seen, step);
    }
}

/// What can go on, and whether that is a disturbance. Notes a deadlock.
fn choices(
    world: &mut World,
    scenario: Scenario,
    last: Option<u8>,
    left: u8,
) -> Vec<(Choice, bool)> {
    let mut found = Vec::new();
    let can_go = |world: &World, cpu: usize| {
        world.cpus[cpu].thread.is_some_and(|thread| world.waits(thread).is_none())
    };
    // Which one begins is no disturbance.
    let last_goes_on = last.is_some_and(|last| can_go(world, last.into()));
    for cpu in 0..world.cpus.len() as u8 {
        let own = &world.cpus[usize::from(cpu)];
        if can_go(world, cpu.into()) {
            found.push((Choice::Go(cpu), last_goes_on && last != Some(cpu)));
            let thread = own.thread.map(|thread| &world.threads[thread]);
            if thread.and_then(|thread| thread.contexts.last()).is_some_and(|own| own.allocates) {
                found.push((Choice::Fail(cpu), true));
            }
        }
        match own.thread {
            None => {
                let running = |thread| world.cpus.iter().any(|cpu| cpu.thread == Some(thread));
                let ready = (0..world.threads.len())
                    .filter(|&thread| !world.threads[thread].done && !running(thread));
                found.extend(ready.map(|thread| (Choice::Resume(cpu, thread as u8), last_goes_on)));
            }
            Some(thread) => {
                let kinds = || world.threads[thread].contexts.iter().filter_map(|own| own.kind);
                let waits = world.waits(thread).is_some();
                if own.interrupts && kinds().count() == 0 {
                    found.push((Choice::Take(cpu, Kind::Device), true));
                    // Who waits for one that does not run is preempted, sooner or later.
                    found.push((Choice::Take(cpu, Kind::Timer), !waits));
                }
                if kinds().all(|kind| kind != Kind::Nmi) {
                    found.push((Choice::Take(cpu, Kind::Nmi), true));
                }
            }
        }
    }
    if world.threads.iter().all(|thread| thread.done) {
        world.reach(Reached::Done);
    } else if found
        .iter()
        .all(|(choice, _)| matches!(choice, Choice::Take(_, kind) if *kind != Kind::Timer))
    {
        let waits: Vec<_> = (0..world.threads.len()).map(|thread| world.waits(thread)).collect();
        world.broken(
            Rule::Progress,
            format!("{scenario:?}: nobody goes on; they wait for {waits:?}"),
        );
    }
    found.retain(|(_, disturbs)| !disturbs || left > 0);
    found
}
