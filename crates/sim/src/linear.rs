//! Is a history of concurrent calls what one object could have answered, one call at a time, each at some moment
//! between its call and its return?
//!
//! The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with the memory of Lowe ("Testing for
//! linearizability", 2017): a set of calls that was placed before, with the same state behind them, is not
//! looked at again. Histories are checked object by object, which is enough (Herlihy and Wing 1990, theorem 1).

use std::collections::BTreeSet;

/// An object's behaviour, one call at a time.
pub trait Model {
    /// What the object remembers.
    type State: Clone + Ord;
    /// What is asked and, if it is known, answered.
    type Call;

    /// The object before the first call.
    fn initial(&self) -> Self::State;

    /// The object behind a call that came in `state`; none if the call cannot have been answered so.
    fn step(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;
}

/// One call of a history.
#[derive(Clone, Debug)]
pub struct Interval<C> {
    /// When it was called. Of two calls in a history no two have one number in common.
    pub called: u64,
    /// When it returned; none if it never did: it may have happened at any time after the call, or not at all.
    pub returned: Option<u64>,
    /// What was asked and answered.
    pub call: C,
}

/// What came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Impossible,
    /// The search was given up.
    Undecided,
}

/// Steps after which a search is given up.
const STEPS_MAX: u64 = 2_000_000;

/// A set of small numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, bit: usize, on: bool) {
        let mask = 1 << (bit % 64);
        if on {
            self.0[bit / 64] |= mask;
        } else {
            self.0[bit / 64] &= !mask;
        }
    }
}

/// A doubly linked list of calls and returns in the order of time, from which placed calls are lifted.
struct Events {
    /// Which call; calls come first, `count + call` is its return.
    count: usize,
    next: Vec<usize>,
    previous: Vec<usize>,
}

const HEAD: usize = 0;

impl Events {
    fn new<C>(history: &[Interval<C>]) -> Events {
        let count = history.len();
        let mut order: Vec<(u64, usize)> = Vec::new();
        for (number, interval) in history.iter().enumerate() {
            order.push((interval.called, number + 1));
            order.extend(interval.returned.map(|returned| (returned, count + number + 1)));
        }
        order.sort_unstable();
        let (mut next, mut previous) = (vec![HEAD; 2 * count + 1], vec![HEAD; 2 * count + 1]);
        let mut last = HEAD;
        for (_, event) in order {
            next[last] = event;
            previous[event] = last;
            last = event;
        }
        next[last] = HEAD;
        Events { count, next, previous }
    }

    /// The call that the event is of, and whether it is the return.
    fn call_of(&self, event: usize) -> (usize, bool) {
        if event > self.count { (event - self.count - 1, true) } else { (event - 1, false) }
    }

    fn unlink(&mut self, event: usize) {
        let (next, previous) = (self.next[event], self.previous[event]);
        self.next[previous] = next;
        if next != HEAD {
            self.previous[next] = previous;
        }
    }

    fn relink(&mut self, event: usize) {
        let (next, previous) = (self.next[event], self.previous[event]);
        self.next[previous] = event;
        if next != HEAD {
            self.previous[next] = event;
        }
    }

    fn lift(&mut self, call: usize, returns: bool) {
        self.unlink(call + 1);
        if returns {
            self.unlink(self.count + call + 1);
        }
    }

    fn unlift(&mut self, call: usize, returns: bool) {
        if returns {
            self.relink(self.count + call + 1);
        }
        self.relink(call + 1);
    }
}

/// Looks for an order of the calls that `model` could have answered so.
pub fn check<M: Model>(model: &M, history: &[Interval<M::Call>]) -> Verdict {
    let mut events = Events::new(history);
    let mut left = history.iter().filter(|interval| interval.returned.is_some()).count();
    let mut placed = Bits(vec![0; history.len().div_ceil(64).max(1)]);
    let mut seen: BTreeSet<(Bits, M::State)> = BTreeSet::new();
    let mut way: Vec<(usize, M::State)> = Vec::new();
    let mut state = model.initial();
    let mut event = events.next[HEAD];
    let mut steps = 0;
    while left > 0 {
        steps += 1;
        if steps > STEPS_MAX {
            return Verdict::Undecided;
        }
        let is_call = event != HEAD && !events.call_of(event).1;
        if is_call {
            let (call, _) = events.call_of(event);
            let after = model.step(&state, &history[call].call);
            if let Some(after) = after {
                placed.set(call, true);
                if seen.insert((placed.clone(), after.clone())) {
                    let returns = history[call].returned.is_some();
                    left -= usize::from(returns);
                    events.lift(call, returns);
                    way.push((call, std::mem::replace(&mut state, after)));
                    event = events.next[HEAD];
                    continue;
                }
                placed.set(call, false);
            }
            event = events.next[event];
            continue;
        }
        // A call returned that could not be placed, or nothing is left to place: take the last one back.
        let Some((call, before)) = way.pop() else { return Verdict::Impossible };
        let returns = history[call].returned.is_some();
        state = before;
        placed.set(call, false);
        events.unlift(call, returns);
        left += usize::from(returns);
        event = events.next[call + 1];
    }
    Verdict::Linearizable
}
