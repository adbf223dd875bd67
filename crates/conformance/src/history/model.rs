//! What each kind of object may answer.

use super::record::{Ask, BLOCK_BYTES, Kind, NAMES, RECORD_BYTES, SLOTS, Said};
use super::search::Model;

/// A call with its answer. What may have happened is answered [`Said::Done`].
pub type Call = (Ask, Said);

/// A file that is written in one block at its beginning.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Bytes of the block.
    pub block: u32,
    /// What the block says before the first call.
    pub first: u32,
}

impl Model for File {
    /// What the block says (0: zeros), and how long the file is.
    type State = (u32, u32);
    type Call = Call;

    fn initial(&self) -> (u32, u32) {
        (self.first, self.block)
    }

    fn step(&self, state: &(u32, u32), call: &Call) -> Option<(u32, u32)> {
        let (number, length) = *state;
        match call {
            (Ask::Write(number), Said::Done) => Some((*number, length.max(self.block))),
            // Nothing comes back that was cut off; a file is never made longer than a part that is left of a block.
            (Ask::Truncate(bytes), Said::Done) => Some((if length.min(*bytes) == 0 { 0 } else { number }, *bytes)),
            (Ask::Read, Said::Block(says, bytes)) => {
                (*bytes == length.min(self.block) && *says == number).then_some(*state)
            }
            (Ask::Length, Said::Bytes(bytes)) => (*bytes == u64::from(length)).then_some(*state),
            _ => None,
        }
    }
}

/// A file that is only appended to. It is known in the end in which order: that leaves the search nothing to guess.
#[derive(Clone, Debug)]
pub struct Journal {
    order: Vec<u32>,
}

impl Journal {
    /// The one of this history: its order is what the longest read has shown.
    pub fn of<'a>(calls: impl Iterator<Item = &'a Call>) -> Journal {
        let shown = calls.filter_map(|(_, said)| if let Said::Records(all) = said { Some(all) } else { None });
        Journal { order: shown.max_by_key(|all| all.len()).cloned().unwrap_or_default() }
    }
}

impl Model for Journal {
    /// How many records there are.
    type State = usize;
    type Call = Call;

    fn initial(&self) -> usize {
        0
    }

    fn step(&self, count: &usize, call: &Call) -> Option<usize> {
        let fits = match call {
            (Ask::Append(number), Said::Done) => {
                // Behind what was ever shown, the order is nobody's business.
                let next = match self.order.get(*count) {
                    Some(next) => next == number,
                    None => !self.order.contains(number),
                };
                return next.then_some(count + 1);
            }
            (Ask::ReadAll, Said::Records(all)) => all.len() == *count && self.order.get(..*count) == Some(all),
            (Ask::Length, Said::Bytes(bytes)) => *bytes == *count as u64 * u64::from(RECORD_BYTES),
            _ => false,
        };
        fits.then_some(*count)
    }
}

/// Two directories with a few names each.
#[derive(Clone, Copy, Debug)]
pub struct Names;

impl Model for Names {
    /// What each name names; 0 if nothing.
    type State = [u32; SLOTS as usize];
    type Call = Call;

    fn initial(&self) -> Self::State {
        [0; SLOTS as usize]
    }

    fn step(&self, state: &Self::State, call: &Call) -> Option<Self::State> {
        let there = |slot: &u8| state[usize::from(*slot)] != 0;
        let mut after = *state;
        let fits = match call {
            (Ask::Make(slot, number), Said::Done) => {
                after[usize::from(*slot)] = *number;
                !there(slot)
            }
            (Ask::Make(slot, _), Said::Taken) => there(slot),
            (Ask::Remove(slot), Said::Done) => {
                after[usize::from(*slot)] = 0;
                there(slot)
            }
            (Ask::Move(from, to), Said::Done) => {
                after[usize::from(*to)] = std::mem::replace(&mut after[usize::from(*from)], 0);
                there(from)
            }
            (Ask::Remove(slot) | Ask::Move(slot, _) | Ask::Find(slot), Said::Absent) => !there(slot),
            (Ask::Find(slot), Said::Found(number)) => state[usize::from(*slot)] == *number,
            (Ask::List(dir), Said::Slots(slots)) => {
                (dir * NAMES..(dir + 1) * NAMES).all(|slot| (slots & (1 << slot) != 0) == there(&slot))
            }
            _ => false,
        };
        fits.then_some(after)
    }
}

/// The file model of a kind.
pub fn file(kind: Kind, first: u32) -> File {
    File { block: kind.block(), first }
}

/// To what lengths a file of this kind is brought: `choice` is any number.
pub fn length(kind: Kind, choice: u32) -> u32 {
    match kind {
        Kind::Whole => [0, BLOCK_BYTES / 2][choice as usize % 2],
        _ => BLOCK_BYTES + choice % BLOCK_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::super::search::{Interval, STATES_MAX, Verdict, check};
    use super::*;

    fn at(called: u64, returned: u64, ask: Ask, said: Said) -> Interval<Call> {
        Interval { called, returned: Some(returned), call: (ask, said) }
    }

    fn maybe(called: u64, ask: Ask) -> Interval<Call> {
        Interval { called, returned: None, call: (ask, Said::Done) }
    }

    fn judged<M: Model<Call = Call>>(model: &M, history: &[Interval<Call>]) -> bool {
        match check(model, history, STATES_MAX) {
            Verdict::Linearizable => true,
            Verdict::Impossible { .. } => false,
            Verdict::Undecided => panic!("undecided"),
        }
    }

    fn of_file(history: &[Interval<Call>]) -> bool {
        judged(&File { block: 4_096, first: 1 }, history)
    }

    fn of_journal(history: &[Interval<Call>]) -> bool {
        judged(&Journal::of(history.iter().map(|interval| &interval.call)), history)
    }

    fn of_names(history: &[Interval<Call>]) -> bool {
        judged(&Names, history)
    }

    const B: u32 = BLOCK_BYTES;

    fn write(called: u64, returned: u64, number: u32) -> Interval<Call> {
        at(called, returned, Ask::Write(number), Said::Done)
    }

    fn read(called: u64, returned: u64, number: u32) -> Interval<Call> {
        at(called, returned, Ask::Read, Said::Block(number, B))
    }

    #[test]
    fn register_side_by_side() {
        assert!(of_file(&[read(0, 1, 1), write(2, 9, 2), read(3, 4, 1), read(5, 6, 2), read(7, 8, 2)]));
        assert!(of_file(&[
            write(0, 9, 2),
            write(0, 9, 3),
            write(0, 9, 4),
            read(1, 2, 4),
            read(3, 4, 2),
            read(10, 11, 3)
        ]));
        // Once seen, it is there for all.
        assert!(!of_file(&[write(2, 9, 2), read(3, 4, 2), read(5, 6, 1)]));
    }

    #[test]
    fn register_stale_read() {
        assert!(!of_file(&[write(0, 1, 2), read(2, 3, 1)]));
        assert!(!of_file(&[write(0, 1, 2), write(2, 3, 3), read(4, 5, 2)]));
    }

    #[test]
    fn register_lost_update() {
        assert!(!of_file(&[write(0, 1, 2), read(2, 3, 2), read(10, 11, 1)]));
        assert!(!of_file(&[write(0, 5, 2), write(1, 6, 3), read(10, 11, 1)]));
    }

    #[test]
    fn register_invented_value() {
        assert!(!of_file(&[read(0, 1, 7)]));
        // Called later than it was read.
        assert!(!of_file(&[read(0, 1, 2), write(2, 3, 2)]));
        assert!(!of_file(&[at(0, 1, Ask::Read, Said::Odd("torn".into()))]));
    }

    #[test]
    fn register_unknown_write() {
        assert!(of_file(&[maybe(0, Ask::Write(2)), read(2, 3, 1), read(4, 5, 2)]));
        assert!(of_file(&[maybe(0, Ask::Write(2)), read(2, 3, 1), write(4, 5, 3), read(6, 7, 3)]));
        // Seen, gone, and back.
        assert!(!of_file(&[maybe(0, Ask::Write(2)), read(2, 3, 2), read(4, 5, 1)]));
        assert!(!of_file(&[maybe(0, Ask::Write(2)), read(2, 3, 2), write(4, 5, 3), read(6, 7, 2)]));
    }

    #[test]
    fn file_is_cut() {
        let cut = |called, returned, bytes| at(called, returned, Ask::Truncate(bytes), Said::Done);
        let shows = |called, returned, number, bytes| at(called, returned, Ask::Read, Said::Block(number, bytes));
        let length = |called, returned, bytes| at(called, returned, Ask::Length, Said::Bytes(bytes));
        assert!(of_file(&[cut(0, 1, B / 2), shows(2, 3, 1, B / 2), length(4, 5, 2_048)]));
        assert!(of_file(&[
            cut(0, 1, 0),
            shows(2, 3, 0, 0),
            cut(4, 5, B / 2),
            shows(6, 7, 0, B / 2),
            write(8, 9, 2),
            read(10, 11, 2)
        ]));
        assert!(of_file(&[cut(0, 9, 0), cut(0, 9, B / 2), shows(10, 11, 0, B / 2)]));
        assert!(of_file(&[cut(0, 1, B + 7), length(2, 3, 4_103), read(2, 3, 1)]));
        // What was cut off comes back.
        assert!(!of_file(&[cut(0, 1, 0), cut(2, 3, B / 2), shows(4, 5, 1, B / 2)]));
        // The length of one moment with the bytes of another.
        assert!(!of_file(&[cut(0, 1, B / 2), write(2, 3, 2), shows(4, 5, 2, B / 2)]));
        assert!(!of_file(&[cut(0, 1, B + 7), write(2, 3, 2), length(4, 5, 4_096)]));
    }

    fn append(called: u64, returned: u64, number: u32) -> Interval<Call> {
        at(called, returned, Ask::Append(number), Said::Done)
    }

    fn all(called: u64, returned: u64, numbers: &[u32]) -> Interval<Call> {
        at(called, returned, Ask::ReadAll, Said::Records(numbers.to_vec()))
    }

    #[test]
    fn journal_side_by_side() {
        let sized = at(10, 11, Ask::Length, Said::Bytes(32));
        assert!(of_journal(&[append(0, 9, 5), append(0, 9, 6), all(1, 2, &[6]), sized, all(12, 13, &[6, 5])]));
        let many: Vec<_> =
            (1..=40).map(|number| append(0, 9, number)).chain([all(10, 11, &Vec::from_iter((1..=40).rev()))]).collect();
        assert!(of_journal(&many));
        assert!(of_journal(&[all(0, 1, &[]), append(2, 3, 1), append(2, 3, 2)]));
    }

    #[test]
    fn journal_lost_append() {
        assert!(!of_journal(&[append(0, 1, 5), append(2, 3, 6), all(4, 5, &[6])]));
        assert!(!of_journal(&[
            append(0, 1, 5),
            append(2, 3, 6),
            at(4, 5, Ask::Length, Said::Bytes(16)),
            all(6, 7, &[5, 6])
        ]));
    }

    #[test]
    fn journal_appended_twice() {
        assert!(!of_journal(&[append(0, 1, 5), append(2, 3, 6), all(4, 5, &[5, 6, 5])]));
        assert!(!of_journal(&[maybe(0, Ask::Append(5)), append(2, 3, 6), all(4, 5, &[5, 6, 5])]));
    }

    #[test]
    fn journal_in_another_order() {
        assert!(!of_journal(&[append(0, 1, 5), append(2, 3, 6), all(4, 5, &[6, 5])]));
        assert!(!of_journal(&[append(0, 9, 5), append(0, 9, 6), all(10, 11, &[6, 5]), all(12, 13, &[5, 6])]));
        assert!(!of_journal(&[append(0, 9, 5), append(0, 9, 6), all(10, 11, &[5, 6]), all(12, 13, &[5])]));
    }

    #[test]
    fn journal_unknown_append() {
        assert!(of_journal(&[maybe(0, Ask::Append(5)), append(2, 3, 6), all(4, 5, &[6]), all(6, 7, &[6, 5])]));
        assert!(of_journal(&[maybe(0, Ask::Append(5)), append(2, 3, 6), all(4, 5, &[6])]));
        assert!(!of_journal(&[append(2, 3, 6), all(4, 5, &[6, 5]), maybe(6, Ask::Append(5))]));
    }

    fn make(called: u64, returned: u64, slot: u8, number: u32) -> Interval<Call> {
        at(called, returned, Ask::Make(slot, number), Said::Done)
    }

    fn find(called: u64, returned: u64, slot: u8, number: u32) -> Interval<Call> {
        at(called, returned, Ask::Find(slot), if number == 0 { Said::Absent } else { Said::Found(number) })
    }

    fn list(called: u64, returned: u64, dir: u8, slots: u8) -> Interval<Call> {
        at(called, returned, Ask::List(dir), Said::Slots(slots))
    }

    #[test]
    fn names_side_by_side() {
        let moved = at(0, 9, Ask::Move(0, 5), Said::Done);
        let removed = at(0, 9, Ask::Remove(5), Said::Done);
        assert!(of_names(&[make(0, 9, 0, 7), moved.clone(), removed, find(10, 11, 5, 0), list(12, 13, 0, 0)]));
        assert!(of_names(&[
            make(0, 1, 0, 7),
            moved,
            find(2, 3, 0, 7),
            list(4, 5, 0, 0),
            list(4, 5, 1, 1 << 5),
            find(10, 11, 5, 7)
        ]));
        assert!(of_names(&[make(0, 9, 0, 7), at(0, 9, Ask::Make(0, 8), Said::Taken), find(10, 11, 0, 7)]));
        assert!(of_names(&[
            make(0, 1, 0, 7),
            make(0, 1, 1, 8),
            at(2, 3, Ask::Move(1, 0), Said::Done),
            find(4, 5, 0, 8),
            list(4, 5, 0, 1)
        ]));
    }

    #[test]
    fn names_two_winners() {
        assert!(!of_names(&[make(0, 9, 0, 7), make(0, 9, 0, 8)]));
        assert!(!of_names(&[
            make(0, 1, 0, 7),
            at(2, 9, Ask::Remove(0), Said::Done),
            at(2, 9, Ask::Remove(0), Said::Done)
        ]));
    }

    #[test]
    fn names_resurrection() {
        let removed = at(2, 3, Ask::Remove(0), Said::Done);
        assert!(!of_names(&[make(0, 1, 0, 7), removed.clone(), find(4, 5, 0, 7)]));
        assert!(!of_names(&[make(0, 1, 0, 7), removed.clone(), list(4, 5, 0, 1)]));
        let moved = at(2, 3, Ask::Move(0, 5), Said::Done);
        assert!(!of_names(&[make(0, 1, 0, 7), moved.clone(), find(4, 5, 0, 7)]));
        // What was replaced comes back.
        assert!(!of_names(&[make(0, 1, 0, 7), make(0, 1, 5, 8), moved, find(4, 5, 5, 8)]));
    }

    #[test]
    fn names_a_listing_that_misses() {
        assert!(!of_names(&[make(0, 1, 0, 7), list(2, 3, 0, 0)]));
        assert!(!of_names(&[make(0, 1, 0, 7), make(2, 3, 1, 8), list(4, 5, 0, 2)]));
        // In the middle of a move between directories the name is in both, or in none.
        let moved = at(2, 9, Ask::Move(0, 5), Said::Done);
        assert!(!of_names(&[make(0, 1, 0, 7), moved.clone(), list(3, 4, 1, 1 << 5), list(5, 6, 0, 1)]));
        assert!(!of_names(&[make(0, 1, 0, 7), moved, list(3, 4, 0, 0), list(5, 6, 1, 0)]));
    }

    #[test]
    fn names_unknown_outcomes() {
        let made = maybe(0, Ask::Make(0, 7));
        assert!(of_names(&[made.clone(), find(2, 3, 0, 0), find(4, 5, 0, 7)]));
        assert!(of_names(&[made.clone(), make(2, 3, 0, 8), find(4, 5, 0, 8)]));
        assert!(!of_names(&[made.clone(), find(2, 3, 0, 7), find(4, 5, 0, 0)]));
        assert!(of_names(&[made.clone(), maybe(1, Ask::Remove(0)), find(2, 3, 0, 7), find(4, 5, 0, 0)]));
        assert!(!of_names(&[maybe(0, Ask::Remove(0)), make(2, 3, 0, 8), find(4, 5, 0, 0), find(6, 7, 0, 8)]));
    }
}
