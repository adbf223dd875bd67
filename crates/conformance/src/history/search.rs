//! The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with the memory of Lowe ("Testing for
//! linearizability", 2017): a set of calls that was placed before, with the same state behind it, is not looked at again.
//!
//! Histories are checked object by object, which is enough (Herlihy and Wing 1990, theorem 1).

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// An object's behaviour, one call at a time.
pub trait Model {
    /// What the object remembers.
    type State: Clone + Eq + Hash + Debug;
    /// What is asked and answered.
    type Call;

    /// The object before the first call.
    fn initial(&self) -> Self::State;

    /// The object behind a call that came in `state`; none if the call cannot have been answered so.
    fn step(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;
}

/// One call of a history. A call comes before another one if it returned earlier than that was called; equal times are side by side.
#[derive(Clone, Debug)]
pub struct Interval<C> {
    /// When it was called.
    pub called: u64,
    /// When it returned; none if it may have happened at any time after the call, or not at all.
    pub returned: Option<u64>,
    /// What was asked and answered.
    pub call: C,
}

/// What came out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Impossible {
        /// So many calls that must have happened could be placed at most.
        placed: usize,
        /// What the object was then.
        state: String,
        /// One of these had to follow, by their place in the history.
        stuck: Vec<usize>,
    },
    /// The search was given up.
    Undecided,
}

/// Sets of placed calls after which a search is given up. Some hundred bytes each.
pub const STATES_MAX: usize = 500_000;

/// One placed call, and what to try instead.
struct Step<S> {
    placed: Option<usize>,
    before: S,
    untried: Vec<usize>,
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Interval<M::Call>],
    /// By the time of the call.
    order: Vec<usize>,
    /// One bit for each of `order`.
    placed: Vec<u64>,
    seen: HashSet<(Vec<u64>, M::State)>,
}

impl<M: Model> Search<'_, M> {
    fn is_placed(&self, at: usize) -> bool {
        self.placed[at / 64] & (1 << (at % 64)) != 0
    }

    fn flip(&mut self, at: usize) {
        self.placed[at / 64] ^= 1 << (at % 64);
    }

    /// Places in `order` of the calls that may come next, the most promising one last: what must have happened soon first, what need
    /// not have happened at all only when nothing else will do.
    fn next(&self) -> Vec<usize> {
        let mut bound = u64::MAX;
        let mut all = Vec::new();
        for at in (0..self.order.len()).filter(|at| !self.is_placed(*at)) {
            let interval = &self.history[self.order[at]];
            if interval.called > bound {
                break;
            }
            bound = bound.min(interval.returned.unwrap_or(u64::MAX));
            all.push(at);
        }
        let returned = |at: &usize| self.history[self.order[*at]].returned.unwrap_or(u64::MAX);
        all.sort_by_key(|at| std::cmp::Reverse((returned(at), *at)));
        all
    }

    fn stuck(&self, state: &M::State, placed: usize) -> Verdict {
        let mut stuck: Vec<usize> = self.next().into_iter().map(|at| self.order[at]).collect();
        stuck.retain(|number| self.history[*number].returned.is_some());
        Verdict::Impossible { placed, state: format!("{state:?}"), stuck }
    }

    fn run(&mut self, states_max: usize) -> Verdict {
        let required = self.history.iter().filter(|interval| interval.returned.is_some()).count();
        let mut left = required;
        let first = self.model.initial();
        let mut furthest = (0, self.stuck(&first, 0));
        let mut way = vec![Step { placed: None, before: first.clone(), untried: self.next() }];
        let mut state = first;
        while left > 0 {
            // The bottom of the way has no call to take back.
            let Some(step) = way.last_mut() else { return furthest.1 };
            let Some(at) = step.untried.pop() else {
                let Some(step) = way.pop() else { return furthest.1 };
                if let Some(at) = step.placed {
                    self.flip(at);
                    left += usize::from(self.history[self.order[at]].returned.is_some());
                }
                state = step.before;
                continue;
            };
            let interval = &self.history[self.order[at]];
            let Some(after) = self.model.step(&state, &interval.call) else { continue };
            self.flip(at);
            if !self.seen.insert((self.placed.clone(), after.clone())) {
                self.flip(at);
                continue;
            }
            if self.seen.len() > states_max {
                return Verdict::Undecided;
            }
            left -= usize::from(interval.returned.is_some());
            if required - left > furthest.0 && left > 0 {
                furthest = (required - left, self.stuck(&after, required - left));
            }
            way.push(Step { placed: Some(at), before: std::mem::replace(&mut state, after), untried: self.next() });
        }
        Verdict::Linearizable
    }
}

/// Looks for an order of the calls that `model` could have answered so, and gives up after `states_max`.
pub fn check<M: Model>(model: &M, history: &[Interval<M::Call>], states_max: usize) -> Verdict {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|number| history[*number].called);
    let placed = vec![0; history.len().div_ceil(64)];
    Search { model, history, order, placed, seen: HashSet::new() }.run(states_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds numbers to what is there, and says what that was.
    struct Counter;

    impl Model for Counter {
        type State = u64;
        type Call = (u64, u64);

        fn initial(&self) -> u64 {
            0
        }

        fn step(&self, state: &u64, (add, was): &(u64, u64)) -> Option<u64> {
            (state == was).then_some(state + add)
        }
    }

    fn at(called: u64, returned: u64, call: (u64, u64)) -> Interval<(u64, u64)> {
        Interval { called, returned: Some(returned), call }
    }

    fn is_fine(history: &[Interval<(u64, u64)>]) -> bool {
        check(&Counter, history, STATES_MAX) == Verdict::Linearizable
    }

    #[test]
    fn one_after_the_other_or_side_by_side() {
        assert!(is_fine(&[]));
        assert!(is_fine(&[at(0, 1, (5, 0)), at(2, 3, (0, 5))]));
        assert!(!is_fine(&[at(0, 1, (5, 0)), at(2, 3, (0, 0))]));
        assert!(is_fine(&[at(0, 3, (5, 0)), at(2, 4, (0, 0))]));
        // Equal times are side by side.
        assert!(is_fine(&[at(0, 2, (5, 0)), at(2, 3, (0, 0))]));
        // It takes three changes of mind.
        assert!(is_fine(&[at(0, 9, (1, 6)), at(1, 9, (2, 4)), at(2, 9, (4, 0)), at(10, 11, (0, 7))]));
    }

    #[test]
    fn what_may_have_happened_may_also_not() {
        let maybe = Interval { called: 0, returned: None, call: (5, 0) };
        assert!(is_fine(&[maybe.clone(), at(10, 11, (0, 0)), at(12, 13, (0, 5))]));
        assert!(is_fine(&[maybe.clone(), at(10, 11, (0, 0)), at(12, 13, (0, 0))]));
        assert!(!is_fine(&[maybe.clone(), at(10, 11, (0, 5)), at(12, 13, (0, 0))]));
        // It had not been called by then.
        let late = Interval { called: 12, ..maybe };
        assert!(!is_fine(&[late, at(10, 11, (0, 5))]));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let history = [at(0, 1, (5, 0)), at(2, 3, (0, 5)), at(4, 5, (0, 0)), at(6, 7, (0, 0))];
        let verdict = check(&Counter, &history, STATES_MAX);
        assert_eq!(verdict, Verdict::Impossible { placed: 2, state: "5".into(), stuck: vec![2] });
    }

    #[test]
    fn a_search_is_given_up() {
        let history: Vec<_> = (0..24).map(|number| at(0, 100, (1 << number, u64::MAX))).collect();
        assert!(matches!(check(&Counter, &history, STATES_MAX), Verdict::Impossible { .. }));
        let noise = (0..24).map(|number| Interval { called: 0, returned: None, call: (0, number % 2) });
        let history: Vec<_> = noise.chain([at(0, 100, (0, 77))]).collect();
        assert_eq!(check(&Counter, &history, 1_000), Verdict::Undecided);
    }
}
