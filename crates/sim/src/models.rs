//! What single objects of a filesystem may answer: a file that is written as a whole, a file that is appended to, a name.

use crate::jobs::StandsOn;
use crate::linear::{self, Interval, Model, Verdict};
use gavel_types::ObjectId;
use std::collections::BTreeMap;

/// The object that a call is of. Histories are checked object by object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subject {
    /// A file that is only written and read as a whole; or an extended attribute (by its number).
    Register(ObjectId, u8),
    /// A file that is only appended to and read as a whole.
    Journal(ObjectId),
    /// A name in a directory, by its number.
    Name(ObjectId, u8),
}

impl Subject {
    /// A question whose answer nobody heard.
    fn ask_for_nothing(&self) -> Ask {
        match self {
            Subject::Register(..) => Ask::Get,
            Subject::Journal(_) => Ask::List,
            Subject::Name(..) => Ask::Find,
        }
    }
}

/// What was asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Write (0: remove) a value.
    Put(u64),
    /// Read it.
    Get,
    /// Append a value.
    Append(u64),
    /// Read all values.
    List,
    /// Make the name; refused if it is there.
    Make,
    /// Remove the name.
    Remove,
    /// Look the name up.
    Find,
}

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// It is done.
    Done,
    /// This value; 0 if there is none.
    Value(u64),
    /// These values.
    Values(Vec<u64>),
    /// This object was made, or found.
    Object(ObjectId),
    /// The name is taken.
    Taken,
    /// There is no such thing.
    Absent,
}

/// A call with its answer; none if it is not known.
pub type Call = (Ask, Option<Said>);

/// A value that is written and read.
struct Register;

impl Model for Register {
    type State = u64;
    type Call = Call;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, call: &Call) -> Option<u64> {
        match call {
            (Ask::Put(0), Some(Said::Done)) => (*state != 0).then_some(0),
            (Ask::Put(0), Some(Said::Absent)) => (*state == 0).then_some(0),
            (Ask::Put(value), None | Some(Said::Done)) => Some(*value),
            (Ask::Get, Some(Said::Value(value))) => (value == state).then_some(*state),
            (Ask::Get, None) => Some(*state),
            _ => None,
        }
    }
}

/// A list that only grows.
struct Journal;

impl Model for Journal {
    type State = Vec<u64>;
    type Call = Call;

    fn initial(&self) -> Vec<u64> {
        Vec::new()
    }

    fn step(&self, state: &Vec<u64>, call: &Call) -> Option<Vec<u64>> {
        match call {
            (Ask::Append(value), None | Some(Said::Done)) => {
                let mut state = state.clone();
                state.push(*value);
                Some(state)
            }
            (Ask::List, Some(Said::Values(values))) => (values == state).then(|| state.clone()),
            (Ask::List, None) => Some(state.clone()),
            _ => None,
        }
    }
}

/// What a name names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Holder {
    Nobody,
    This(ObjectId),
    /// An object whose number its maker was never told.
    Somebody,
}

struct Name;

impl Model for Name {
    type State = Holder;
    type Call = Call;

    fn initial(&self) -> Holder {
        Holder::Nobody
    }

    fn step(&self, state: &Holder, call: &Call) -> Option<Holder> {
        let free = *state == Holder::Nobody;
        match call {
            (Ask::Make, Some(Said::Object(object))) => free.then_some(Holder::This(*object)),
            (Ask::Make, Some(Said::Taken)) => (!free).then_some(*state),
            (Ask::Make, None) => Some(if free { Holder::Somebody } else { *state }),
            (Ask::Remove, Some(Said::Done)) => (!free).then_some(Holder::Nobody),
            (Ask::Remove, None) => Some(Holder::Nobody),
            (Ask::Remove | Ask::Find, Some(Said::Absent)) => free.then_some(*state),
            (Ask::Find, Some(Said::Object(object))) => match state {
                Holder::This(there) => (there == object).then_some(*state),
                Holder::Somebody => Some(Holder::This(*object)),
                Holder::Nobody => None,
            },
            (Ask::Find, None) => Some(*state),
            _ => None,
        }
    }
}

/// All calls of a world, by their subject.
#[derive(Clone, Debug, Default)]
pub struct History {
    calls: BTreeMap<Subject, Vec<Interval<Call>>>,
    /// Who was told what, by the place of the call.
    told: Vec<(Subject, usize, Told)>,
}

/// Who was given an answer, and what it stands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) machine: usize,
    pub(crate) life: u64,
    pub(crate) stands_on: StandsOn,
}

impl History {
    /// Adds a call that has returned, or never will.
    pub(crate) fn add(&mut self, subject: Subject, interval: Interval<Call>, told: Option<Told>) {
        let calls = self.calls.entry(subject).or_default();
        self.told.extend(told.map(|told| (subject, calls.len(), told)));
        calls.push(interval);
    }

    /// A life of a machine has lost the plans from `first` on, which was accepted at `since`. Each of their calls may have happened, at any
    /// time, or not; and what that life answered since then may stand on them: it is as if nobody had been told.
    pub(crate) fn lose(&mut self, machine: usize, life: u64, first: u64, since: u64) {
        for (subject, place, told) in &self.told {
            let Some(interval) = self.calls.get_mut(subject).and_then(|calls| calls.get_mut(*place)) else { continue };
            if (told.machine, told.life) != (machine, life) || interval.returned.is_none_or(|returned| returned < since)
            {
                continue;
            }
            match told.stands_on {
                StandsOn::Plan(number) if number >= first => {
                    (interval.returned, interval.call.1) = (None, None);
                }
                StandsOn::View => (interval.returned, interval.call) = (None, (subject.ask_for_nothing(), None)),
                StandsOn::Plan(_) | StandsOn::Commit => {}
            }
        }
    }

    /// The calls of `subject`.
    pub fn of(&self, subject: &Subject) -> &[Interval<Call>] {
        self.calls.get(subject).map_or(&[], |calls| calls)
    }

    /// The subjects.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.calls.keys()
    }

    /// The first subject whose history is impossible, and how many could not be decided.
    pub fn check(&self) -> Result<u64, Subject> {
        let mut undecided = 0;
        for (subject, calls) in &self.calls {
            let verdict = match subject {
                Subject::Register(..) => linear::check(&Register, calls),
                Subject::Journal(_) => linear::check(&Journal, calls),
                Subject::Name(..) => linear::check(&Name, calls),
            };
            match verdict {
                Verdict::Linearizable => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Impossible => return Err(*subject),
            }
        }
        Ok(undecided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: ObjectId = ObjectId(20);

    fn history(subject: Subject, calls: &[(u64, u64, Ask, Option<Said>)]) -> History {
        let mut history = History::default();
        for (called, returned, ask, said) in calls {
            let returned = said.is_some().then_some(*returned);
            history.add(subject, Interval { called: *called, returned, call: (*ask, said.clone()) }, None);
        }
        history
    }

    fn is_possible(subject: Subject, calls: &[(u64, u64, Ask, Option<Said>)]) -> bool {
        history(subject, calls).check().is_ok()
    }

    #[test]
    fn a_stale_read_is_impossible() {
        let of = Subject::Register(FILE, 0);
        let put = |at, value| (at, at + 1, Ask::Put(value), Some(Said::Done));
        let get = |at, value| (at, at + 1, Ask::Get, Some(Said::Value(value)));
        assert!(is_possible(of, &[get(0, 0), put(10, 1), get(20, 1), put(30, 2), get(40, 2)]));
        assert!(!is_possible(of, &[put(10, 1), put(20, 2), get(30, 1)]), "an old value");
        assert!(!is_possible(of, &[put(10, 1), get(20, 3)]), "a value that nobody wrote");
        assert!(!is_possible(of, &[put(10, 1), get(20, 0)]), "a lost write");
    }

    #[test]
    fn concurrent_reads_must_agree_on_an_order() {
        let of = Subject::Register(FILE, 0);
        let writes = [(0, 100, Ask::Put(1), Some(Said::Done)), (1, 101, Ask::Put(2), Some(Said::Done))];
        let get = |at, value| (at, at + 1, Ask::Get, Some(Said::Value(value)));
        let with = |reads: &[_]| [&writes[..], reads].concat();
        assert!(is_possible(of, &with(&[get(10, 1), get(20, 2), get(30, 2)])));
        assert!(is_possible(of, &with(&[get(10, 2), get(20, 1)])));
        assert!(!is_possible(of, &with(&[get(10, 1), get(20, 2), get(30, 1)])), "1, then 2, then 1 again");
    }

    #[test]
    fn a_write_whose_outcome_is_unknown_may_have_happened_or_not_but_not_before_it_was_called() {
        let of = Subject::Register(FILE, 0);
        let lost = (10, 0, Ask::Put(7), None);
        let get = |at, value| (at, at + 1, Ask::Get, Some(Said::Value(value)));
        assert!(is_possible(of, &[lost.clone(), get(20, 0), get(30, 7)]), "it may take effect late");
        assert!(is_possible(of, &[lost.clone(), get(20, 0), get(30, 0)]));
        assert!(!is_possible(of, &[get(1, 7), lost.clone()]));
        assert!(!is_possible(of, &[lost, get(20, 7), get(30, 0)]), "and then be undone");
    }

    #[test]
    fn an_append_counts_once() {
        let of = Subject::Journal(FILE);
        let append = |at, value| (at, at + 1, Ask::Append(value), Some(Said::Done));
        let list = |at, values: &[u64]| (at, at + 1, Ask::List, Some(Said::Values(values.to_vec())));
        assert!(is_possible(of, &[append(0, 1), append(10, 2), list(20, &[1, 2])]));
        assert!(!is_possible(of, &[append(0, 1), append(10, 2), list(20, &[1, 2, 2])]), "doubled");
        assert!(!is_possible(of, &[append(0, 1), append(10, 2), list(20, &[1])]), "lost");
        assert!(!is_possible(of, &[append(0, 1), append(10, 2), list(20, &[2, 1])]), "out of order");
    }

    #[test]
    fn a_name_is_made_once_until_it_is_removed() {
        let of = Subject::Name(FILE, 0);
        let make = |at, object| (at, at + 1, Ask::Make, Some(Said::Object(ObjectId(object))));
        let find = |at, object| (at, at + 1, Ask::Find, Some(Said::Object(ObjectId(object))));
        let remove = (20, 21, Ask::Remove, Some(Said::Done));
        let lost = (5, 0, Ask::Make, None);
        assert!(is_possible(of, &[make(10, 30), remove.clone(), make(30, 31), find(40, 31)]));
        assert!(!is_possible(of, &[make(10, 30), make(30, 31)]), "made twice");
        assert!(!is_possible(of, &[make(10, 30), remove.clone(), find(30, 30)]), "found behind its removal");
        assert!(is_possible(of, &[lost.clone(), find(10, 30), find(12, 30), remove]));
        assert!(!is_possible(of, &[lost, find(10, 30), find(12, 31)]), "one maker, two objects");
    }
}
