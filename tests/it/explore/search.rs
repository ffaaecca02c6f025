//! A breadth-first search through every state of a small model, and the way to what is wrong.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher as _};

/// What can be explored. The same state must always have the same successors, in one order.
pub(super) trait Model {
    type State: Hash;
    type Event;

    fn initial(&self) -> Self::State;
    fn successors(&self, state: &Self::State) -> Vec<(Self::Event, Self::State)>;
    /// For those who read a trace.
    fn describe(&self, before: &Self::State, event: &Self::Event, after: &Self::State) -> String;
    /// What is wrong in a state.
    fn wrong(&self, state: &Self::State) -> Option<String>;
}

/// The shortest way to a state in which something is wrong.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) what: String,
    pub(super) trace: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) violation: Option<Violation>,
}

/// How a state was first met: from which other, by which of its successors.
struct Step {
    from: usize,
    choice: usize,
}

/// Looks at every state. Panics when there are more than `limit`: what was not looked at would
/// otherwise pass as seen.
pub(super) fn explore<M: Model>(model: &M, limit: usize) -> Explored {
    let mut seen = HashSet::new();
    let mut steps = Vec::new();
    let mut frontier = VecDeque::new();
    let mut met = |state: M::State, step: Step, frontier: &mut VecDeque<(usize, M::State)>| {
        if !seen.insert(fingerprint(&state)) {
            return None;
        }
        steps.push(step);
        assert!(steps.len() <= limit, "more than {limit} states");
        let ix = steps.len() - 1;
        let wrong = model.wrong(&state);
        frontier.push_back((ix, state));
        wrong.map(|what| (ix, what))
    };
    let start = Step { from: 0, choice: 0 };
    let mut wrong = met(model.initial(), start, &mut frontier);
    'search: while wrong.is_none() {
        let Some((from, state)) = frontier.pop_front() else {
            break;
        };
        for (choice, (_, next)) in model.successors(&state).into_iter().enumerate() {
            wrong = met(next, Step { from, choice }, &mut frontier);
            if wrong.is_some() {
                break 'search;
            }
        }
    }
    Explored {
        states: steps.len(),
        violation: wrong.map(|(ix, what)| Violation {
            what,
            trace: trace(model, &steps, ix),
        }),
    }
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

fn trace<M: Model>(model: &M, steps: &[Step], mut ix: usize) -> Vec<String> {
    let mut choices = Vec::new();
    while ix != 0 {
        choices.push(steps[ix].choice);
        ix = steps[ix].from;
    }
    let mut state = model.initial();
    choices
        .into_iter()
        .rev()
        .map(|choice| {
            let (event, next) = model.successors(&state).swap_remove(choice);
            let line = model.describe(&state, &event, &next);
            state = next;
            line
        })
        .collect()
}
