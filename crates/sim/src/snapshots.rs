//! Programs that name states of the volume, one on each node, and whether the names that they see are those of one table.
//!
//! All of them make, rename and take away the same few names. Their calls and answers, with what the table holds at the end as the last answer,
//! must be those of one table that answers one call at a time ([`crate::linear`]).

use crate::dice::Dice;
use crate::linear::{self, Interval, Model, Verdict};
use crate::pruning;
use crate::world::World;
use gavel_types::{Tid, VolumeId};
use gavel_wire::{Outcome, Refusal, RequestBody};

/// Tokens of those who ask for snapshots, so that nobody takes them for those of jobs.
const TOKENS: u64 = 1 << 61;
/// What snapshots are called.
const NAMES: [&str; 3] = ["before", "daily", "release"];
/// So many times of a thousand ticks, a node that waits for nothing asks for something.
const ASK_PERMILLE: u32 = 30;

type Slot = usize;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    /// Name the present state, or an earlier one.
    Make(Slot, Option<Tid>),
    Drop(Slot),
    Rename(Slot, Slot),
    /// All names.
    List,
}

/// What was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Said {
    /// It is done, by this transaction.
    Done(Tid),
    Exists,
    Missing,
    /// The state cannot be read any more.
    Pruned,
    All([Option<Tid>; NAMES.len()]),
}

type Call = (Ask, Option<Said>);

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Named {
    Nothing,
    This(Tid),
    /// A state that nobody was told of.
    Something,
}

/// The table of names.
struct Table;

impl Model for Table {
    type State = [Named; NAMES.len()];
    type Call = Call;

    fn initial(&self) -> Self::State {
        [Named::Nothing; NAMES.len()]
    }

    fn step(&self, state: &Self::State, (ask, said): &Call) -> Option<Self::State> {
        let mut next = *state;
        let free = |name: &Slot| state[*name] == Named::Nothing;
        match (ask, said) {
            (Ask::Make(name, at), Some(Said::Done(tid))) if free(name) => next[*name] = Named::This(at.unwrap_or(*tid)),
            (Ask::Make(name, at), None) if free(name) => next[*name] = at.map_or(Named::Something, Named::This),
            (Ask::Make(name, Some(_)), Some(Said::Pruned)) if free(name) => {}
            (Ask::Make(name, _), None | Some(Said::Exists)) if !free(name) => {}
            (Ask::Drop(name), None | Some(Said::Done(_))) if !free(name) => next[*name] = Named::Nothing,
            (Ask::Drop(name), None | Some(Said::Missing)) if free(name) => {}
            (Ask::Rename(from, _), None | Some(Said::Missing)) if free(from) => {}
            (Ask::Rename(from, to), None | Some(Said::Exists)) if !free(from) && !free(to) => {}
            (Ask::Rename(from, to), None | Some(Said::Done(_))) if !free(from) && free(to) => next.swap(*from, *to),
            (Ask::List, Some(Said::All(all))) => {
                let fits = |(named, seen): (&Named, &Option<Tid>)| match (named, seen) {
                    (Named::This(tid), Some(seen)) => tid == seen,
                    (Named::Something, Some(_)) | (Named::Nothing, None) => true,
                    _ => false,
                };
                return state.iter().zip(all).all(fits).then_some(next);
            }
            _ => return None,
        }
        Some(next)
    }
}

/// All who ask for snapshots in a world.
#[derive(Debug)]
pub(crate) struct Namers {
    /// What the one on each node waits for.
    asked: Vec<Option<Asked>>,
    calls: Vec<Interval<Call>>,
    dice: Dice,
    next_token: u64,
    /// Do they ask for anything?
    on: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    token: u64,
    ask: Ask,
    called: u64,
    /// The last commit that any program had been told of.
    behind: Tid,
}

impl Namers {
    pub(crate) fn new(seed: u64, nodes: usize, on: bool) -> Namers {
        let dice = Dice::new(seed, "snapshots", 0);
        Namers { asked: vec![None; nodes], calls: Vec::new(), dice, next_token: TOKENS, on }
    }

    /// Is this a token of one of them?
    pub(crate) fn is_token(token: u64) -> bool {
        (TOKENS..2 * TOKENS).contains(&token)
    }

    /// The machine has lost its power: nobody will know what became of what was asked.
    pub(crate) fn crash(&mut self, machine: usize) {
        if let Some(Asked { ask, called, .. }) = self.asked[machine].take() {
            self.calls.push(Interval { called, returned: None, call: (ask, None) });
        }
    }
}

impl World {
    /// Has every one of them that still runs its answer?
    pub(crate) fn namers_rest(&self) -> Result<(), String> {
        match self.namers.asked.iter().position(Option::is_some) {
            Some(machine) => Err(format!("n{machine} waits for {:?}", self.namers.asked[machine])),
            None => Ok(()),
        }
    }

    /// The one on this machine asks for something, perhaps.
    pub(crate) fn step_namer(&mut self, machine: usize) {
        let idle = self.namers.on && self.namers.asked[machine].is_none();
        if !idle || self.setup_done.is_none() || self.calm.is_some() || !self.namers.dice.permille(ASK_PERMILLE) {
            return;
        }
        let (clock, called) = (self.machines[machine].clock(self.now), self.fresh());
        let Some(life) = &mut self.lives[machine] else { return };
        let dice = &mut self.namers.dice;
        let name = dice.below(NAMES.len() as u64) as Slot;
        let other = dice.below(NAMES.len() as u64) as Slot;
        let ask = match dice.below(10) {
            0..3 => Ask::Make(name, None),
            3..5 => Ask::Make(name, self.judge.past.draw_for(dice, life)),
            5..7 => Ask::Drop(name),
            _ => Ask::Rename(name, other),
        };
        let token = self.namers.next_token;
        self.namers.next_token += 1;
        let behind = self.judge.acknowledged.last().copied().unwrap_or_default();
        self.namers.asked[machine] = Some(Asked { token, ask, called, behind });
        life.node.request(clock, token, body(ask));
        self.note(|| format!("n{machine} asks for snapshots: {ask:?}"));
    }

    /// An answer has come; none: whether it was done, nobody knows.
    pub(crate) fn namer_answered(&mut self, machine: usize, token: u64, outcome: Option<Outcome>) {
        let Some(asked) = self.namers.asked[machine].take_if(|asked| asked.token == token) else { return };
        let Asked { ask, called, behind, .. } = asked;
        self.note(|| format!("n{machine} is told of snapshots: {ask:?} -> {outcome:?}"));
        let said = match outcome {
            None => None,
            Some(Outcome::Committed { tid }) => Some(Said::Done(tid)),
            Some(Outcome::Refused { refusal: Refusal::Exists }) => Some(Said::Exists),
            Some(Outcome::Refused { refusal: Refusal::Missing }) => Some(Said::Missing),
            Some(Outcome::Refused { refusal: Refusal::Pruned }) => Some(Said::Pruned),
            Some(other) => return self.wrong(format!("n{machine} was told {other:?} of {ask:?}")),
        };
        match (ask, said) {
            (Ask::Make(..), Some(Said::Done(tid))) if tid <= behind => {
                self.wrong(format!("a snapshot at {tid} lacks {behind}, which was acknowledged before"));
            }
            (Ask::Make(..), Some(Said::Done(_))) => self.cover.hit("snapshot_made"),
            (Ask::Rename(..), Some(Said::Done(_))) => self.cover.hit("snapshot_renamed"),
            (Ask::Drop(_), Some(Said::Done(_))) => self.cover.hit("snapshot_deleted"),
            _ => {}
        }
        let returned = said.is_some().then(|| self.fresh());
        self.namers.calls.push(Interval { called, returned, call: (ask, said) });
    }

    /// What was asked for did not come to be: nothing was sent, or it was lost with the session.
    pub(crate) fn namer_refused(&mut self, machine: usize, token: u64) {
        let asked = self.namers.asked[machine].take_if(|asked| asked.token == token);
        self.note(|| format!("n{machine} is told of snapshots: {asked:?} was not done"));
    }

    /// One table can have given all the answers, and is as `machine` has it now. Gives how many histories could not be decided.
    pub(crate) fn check_names(&mut self, machine: usize) -> Result<u64, String> {
        let Some(life) = &self.lives[machine] else { return Ok(0) };
        let Some(past) = life.node.server.state().past.of(VolumeId::FIRST) else { return Ok(0) };
        let all = NAMES.map(|name| past.snapshots.get(name).map(|snapshot| snapshot.tid));
        // Faults name states, too, by names of their own (`pruning`), and so do schedules (`schedules`).
        let ours = past.snapshots.iter();
        let ours = ours.filter(|(name, made)| !name.starts_with(pruning::NAMES) && made.every_ns.is_none()).count();
        if ours != all.iter().flatten().count() {
            return Err(format!("there are snapshots that nobody made: {:?}", past.snapshots));
        }
        let (called, returned) = (self.fresh(), Some(self.fresh()));
        self.namers.calls.push(Interval { called, returned, call: (Ask::List, Some(Said::All(all))) });
        match linear::check(&Table, &self.namers.calls) {
            Verdict::Linearizable => Ok(0),
            Verdict::Undecided => Ok(1),
            Verdict::Impossible => {
                Err(format!("no order of the calls explains what was said of snapshots:\n    {:?}", self.namers.calls))
            }
        }
    }
}

fn body(ask: Ask) -> RequestBody {
    let (volume, name) = (VolumeId::FIRST, |slot: Slot| NAMES[slot].into());
    match ask {
        Ask::Make(slot, at) => RequestBody::Snapshot { volume, name: name(slot), note: "".into(), at },
        Ask::Drop(slot) => RequestBody::DropSnapshot { volume, name: name(slot) },
        Ask::Rename(from, to) => RequestBody::RenameSnapshot { volume, from: name(from), to: name(to) },
        Ask::List => unreachable!("nobody asks the log for a list"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_possible(calls: &[(u64, Ask, Option<Said>)]) -> bool {
        let interval = |(called, ask, said): &(u64, Ask, Option<Said>)| Interval {
            called: *called,
            returned: said.map(|_| called + 1),
            call: (*ask, *said),
        };
        let calls: Vec<_> = calls.iter().map(interval).collect();
        linear::check(&Table, &calls) == Verdict::Linearizable
    }

    #[test]
    fn a_name_stands_for_its_state_until_it_is_taken_away() {
        let made = (0, Ask::Make(0, None), Some(Said::Done(Tid(9))));
        let list = |at, all| (at, Ask::List, Some(Said::All(all)));
        assert!(is_possible(&[made, list(10, [Some(Tid(9)), None, None])]));
        assert!(!is_possible(&[made, list(10, [Some(Tid(8)), None, None])]), "another state");
        assert!(!is_possible(&[made, list(10, [None; 3])]), "lost");
        assert!(!is_possible(&[made, (10, Ask::Make(0, None), Some(Said::Done(Tid(12))))]), "made twice");
        let renamed = (10, Ask::Rename(0, 2), Some(Said::Done(Tid(20))));
        assert!(is_possible(&[made, renamed, list(20, [None, None, Some(Tid(9))])]));
        assert!(!is_possible(&[made, renamed, list(20, [Some(Tid(9)), None, Some(Tid(9))])]), "two names");
        let dropped = (30, Ask::Drop(0), Some(Said::Missing));
        assert!(is_possible(&[made, renamed, dropped]) && !is_possible(&[made, dropped]));
    }

    #[test]
    fn what_nobody_was_told_of_may_have_happened_or_not() {
        let lost = (0, Ask::Make(1, Some(Tid(5))), None);
        let list = |all| (10, Ask::List, Some(Said::All(all)));
        assert!(is_possible(&[lost, list([None; 3])]));
        assert!(is_possible(&[lost, list([None, Some(Tid(5)), None])]));
        assert!(!is_possible(&[lost, list([None, Some(Tid(6)), None])]), "a state that nobody asked for");
    }
}
