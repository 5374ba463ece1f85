//! All paths of a property's code, and whether each returns true for every value that takes it.

use z3::ast::{Ast, BV, Bool};
use z3::{SatResult, Solver};

use crate::execute::{Next, Step, Stop, decode};
use crate::properties::{Function, Property};
use crate::state::State;

/// More paths, or more values of one address, than a property has: a loop that depends on a value.
const MANY: usize = 20_000;

/// What became of a property.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It holds for all values: so many paths, instructions, and questions to the solver.
    Proved {
        /// Paths that some value takes.
        paths: usize,
        /// Instructions on them.
        instructions: usize,
        /// Questions to the solver.
        questions: usize,
    },
    /// It does not hold for these arguments, as running it says too.
    Refuted([u64; 4]),
    /// Nothing was proved: why.
    Unknown(String),
}

/// Proves a property, or finds arguments for which it does not hold.
pub fn prove(property: &Property) -> Verdict {
    let mut proof = Proof::new(property.function);
    match proof.run() {
        Ok(None) => Verdict::Proved {
            paths: proof.paths,
            instructions: proof.instructions,
            questions: proof.questions,
        },
        Ok(Some([a, b, c, d])) if !(property.function)(a, b, c, d) => {
            Verdict::Refuted([a, b, c, d])
        }
        Ok(Some(arguments)) => Verdict::Unknown(format!(
            "arguments {arguments:#x?}, with which the code returns true: an error of this prover"
        )),
        Err(text) => Verdict::Unknown(text),
    }
}

/// What a function returns for arguments, by carrying out its instructions on their values.
///
/// # Errors
///
/// What is not understood.
pub fn evaluate(function: Function, arguments: [u64; 4]) -> Result<bool, String> {
    let mut proof = Proof::new(function);
    proof.arguments = arguments.iter().map(|&value| BV::from_u64(value, 64)).collect();
    Ok(proof.run()?.is_none())
}

struct Proof {
    solver: Solver,
    arguments: Vec<BV>,
    function: u64,
    paths: usize,
    instructions: usize,
    questions: usize,
}

impl Proof {
    fn new(function: Function) -> Proof {
        Proof {
            solver: Solver::new_for_logic("QF_BV").unwrap_or_default(),
            arguments: ["a", "b", "c", "d"].iter().map(|name| BV::new_const(*name, 64)).collect(),
            function: function as usize as u64,
            paths: 0,
            instructions: 0,
            questions: 0,
        }
    }

    /// The arguments for which the function does not return true, if there are any.
    fn run(&mut self) -> Result<Option<[u64; 4]>, String> {
        let mut open = vec![State::new(self.function, &self.arguments)];
        while let Some(mut state) = open.pop() {
            let instruction = decode(state.next)?;
            self.instructions += 1;
            if self.instructions > 100 * MANY {
                return Err("more instructions than a proof may have: a loop?".into());
            }
            let before = state.clone();
            match (Step { state: &mut state, instruction }).run() {
                Ok(Next::On) => {
                    state.next = instruction.next_ip();
                    open.push(state);
                }
                Ok(Next::At(to)) => {
                    open.extend(self.split(&to, state)?.into_iter().map(|(to, mut state)| {
                        state.next = to;
                        state
                    }))
                }
                Ok(Next::If(condition, to)) => {
                    let condition = condition.simplify();
                    let mut other = state.clone();
                    other.next = instruction.next_ip();
                    state.next = to;
                    for (state, holds) in [(state, condition.clone()), (other, condition.not())] {
                        open.extend(self.with(state, holds)?);
                    }
                }
                Ok(Next::Returned) => {
                    self.paths += 1;
                    let result = state.register(iced_x86::Register::AL);
                    let fails = result.extract(0, 0).eq(BV::from_u64(0, 1));
                    if let Some(values) = self.model(&state, &fails)? {
                        return Ok(Some(values));
                    }
                }
                Err(Stop::Split(value)) => {
                    open.extend(self.split(&value, before)?.into_iter().map(|(_, state)| state));
                }
                Err(Stop::Refused(text)) => {
                    let values = self.model(&before, &Bool::from_bool(true))?;
                    return Err(format!(
                        "{text} at {:#x}, for arguments {values:#x?}",
                        before.next
                    ));
                }
            }
            if self.paths > MANY {
                return Err("more paths than a proof may have".into());
            }
        }
        Ok(None)
    }

    /// The state with one more condition, if it can hold.
    fn with(&mut self, mut state: State, condition: Bool) -> Result<Option<State>, String> {
        let condition = condition.simplify();
        match condition.as_bool() {
            Some(true) => return Ok(Some(state)),
            Some(false) => return Ok(None),
            None => (),
        }
        if state.conditions.contains(&condition) {
            return Ok(Some(state));
        }
        if state.conditions.contains(&condition.not().simplify()) {
            return Ok(None);
        }
        let is_witnessed = self.holds_for(&condition, &state.witness);
        state.conditions.push(condition);
        if is_witnessed {
            return Ok(Some(state));
        }
        match self.arguments_of(&state.conditions)? {
            Some(witness) => {
                state.witness = witness;
                Ok(Some(state))
            }
            None => Ok(None),
        }
    }

    /// Whether a condition is certain to hold for arguments, without a question.
    fn holds_for(&self, condition: &Bool, witness: &[u64; 4]) -> bool {
        let values: Vec<_> = witness.iter().map(|&value| BV::from_u64(value, 64)).collect();
        let pairs: Vec<_> = self.arguments.iter().zip(&values).collect();
        condition.substitute(&pairs).simplify().as_bool() == Some(true)
    }

    /// A state for each value that a term can have.
    fn split(&mut self, value: &BV, state: State) -> Result<Vec<(u64, State)>, String> {
        let value = value.simplify();
        if let Some(known) = value.as_u64() {
            return Ok(vec![(known, state)]);
        }
        let (mut states, mut rest) = (Vec::new(), state);
        while states.len() < MANY {
            let Some(witness) = self.arguments_of(&rest.conditions)? else { return Ok(states) };
            let model = self.solver.get_model().ok_or("the solver has no model")?;
            let known = model.eval(&value, true).and_then(|value| value.as_u64());
            let known = known.ok_or("the solver has no value")?;
            let is = value.eq(BV::from_u64(known, 64));
            let mut one = rest.clone();
            one.witness = witness;
            one.conditions.push(is.clone());
            one.known.push((value.clone(), known));
            states.push((known, one));
            rest.conditions.push(is.not());
        }
        Err("an address with too many values".into())
    }

    /// Whether conditions can hold together.
    fn ask(&mut self, conditions: &[Bool]) -> Result<bool, String> {
        self.questions += 1;
        self.solver.reset();
        conditions.iter().for_each(|condition| self.solver.assert(condition));
        match self.solver.check() {
            SatResult::Sat => Ok(true),
            SatResult::Unsat => Ok(false),
            SatResult::Unknown => Err("the solver does not know".into()),
        }
    }

    /// Arguments that take a path and meet a condition.
    fn model(&mut self, state: &State, condition: &Bool) -> Result<Option<[u64; 4]>, String> {
        if condition.simplify().as_bool() == Some(false) {
            return Ok(None);
        }
        let conditions: Vec<_> =
            state.conditions.iter().cloned().chain([condition.clone()]).collect();
        self.arguments_of(&conditions)
    }

    /// Arguments for which all conditions hold.
    fn arguments_of(&mut self, conditions: &[Bool]) -> Result<Option<[u64; 4]>, String> {
        if !self.ask(conditions)? {
            return Ok(None);
        }
        let model = self.solver.get_model().ok_or("the solver has no model")?;
        let value = |i: usize| {
            model.eval(&self.arguments[i], true).and_then(|value| value.as_u64()).unwrap_or(0)
        };
        Ok(Some(core::array::from_fn(value)))
    }
}
