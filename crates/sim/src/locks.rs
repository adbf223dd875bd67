//! Programs that lock files, and the proof that nobody has what another has.
//!
//! Each locker is one owner. A *hold* begins when its node says that the lock is held, and ends when the locker asks for its end, or is
//! told that it was lost. Two holds that conflict are wrong, unless one of their sessions has ended, as the replica that has applied the
//! most knows: the node of that session may not know it yet, nor that it was given what it has lost since.

use crate::dice::Dice;
use crate::world::World;
use gavel_client::{LockAnswer, LockCall};
use gavel_types::{ObjectId, VolumeId};
use gavel_wire::lock::{Family, Lock, LockFile, LockKind, LockOwner, Span};

/// Tokens of lockers, so that nobody takes them for those of jobs.
const TOKENS: u64 = 1 << 63;
/// Bytes that are locked.
const BYTES: u64 = 6;

/// All lockers of a world.
pub(crate) struct Lockers {
    all: Vec<Locker>,
    holds: Vec<Hold>,
    dice: Dice,
    next_token: u64,
}

struct Locker {
    machine: usize,
    id: u64,
    files: Vec<LockFile>,
    asked: Option<Asked>,
    /// Files that it has closed for good.
    closed: usize,
}

#[derive(Clone, Copy)]
struct Asked {
    token: u64,
    call: LockCall,
    in_line: bool,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    locker: usize,
    file: LockFile,
    lock: Lock,
}

impl Lockers {
    pub(crate) fn new(seed: u64, nodes: usize, each: usize) -> Lockers {
        let file = |object, family| LockFile { volume: VolumeId::FIRST, object: ObjectId(object), family };
        let all = (0..nodes * each).map(|number| {
            // Those that wait for two files can deadlock, which only the POSIX family looks for.
            let files = match number / nodes % 3 {
                0 => vec![file(1, Family::Flock)],
                _ => vec![file(1, Family::Posix), file(2, Family::Posix)],
            };
            Locker { machine: number % nodes, id: number as u64, files, asked: None, closed: 0 }
        });
        Lockers { all: all.collect(), holds: Vec::new(), dice: Dice::new(seed, "locks", 0), next_token: TOKENS }
    }

    /// Is this a locker's token?
    pub(crate) fn is_token(token: u64) -> bool {
        token >= TOKENS
    }

    /// The machine has lost its power: whoever ran there asks for nothing. What they hold stays until their session has ended.
    pub(crate) fn crash(&mut self, machine: usize) {
        for locker in self.all.iter_mut().filter(|locker| locker.machine == machine) {
            (locker.asked, locker.closed) = (None, 0);
        }
    }
}

impl World {
    /// Has every locker that still runs given everything back?
    pub(crate) fn lockers_rest(&self) -> Result<(), String> {
        let restless = |locker: &&Locker| {
            let idle = locker.asked.is_none() && locker.closed == locker.files.len();
            self.lives[locker.machine].is_some() && !idle
        };
        match self.lockers.all.iter().find(restless) {
            Some(locker) => Err(format!("locker {} on n{} is not done", locker.id, locker.machine)),
            None => Ok(()),
        }
    }

    /// The lockers of a machine do something, perhaps.
    pub(crate) fn step_lockers(&mut self, machine: usize) {
        if self.setup_done.is_none() {
            return;
        }
        self.check_holds(machine);
        for number in 0..self.lockers.all.len() {
            if self.lockers.all[number].machine == machine {
                self.step_locker(number);
            }
        }
    }

    fn step_locker(&mut self, number: usize) {
        let (machine, calm) = (self.lockers.all[number].machine, self.calm.is_some());
        let now = self.machines[machine].clock(self.now).now;
        let Some(life) = &mut self.lives[machine] else { return };
        let (locker, dice) = (&mut self.lockers.all[number], &mut self.lockers.dice);
        if let Some(asked) = &mut locker.asked {
            asked.in_line |= life.node.session.locks().is_in_line(asked.token);
            if !matches!(asked.call, LockCall::Lock { .. }) {
                return;
            }
            if dice.permille(10) {
                life.node.session.abandon_lock(asked.token);
                locker.asked = None;
                self.cover.hit("lock_abandoned");
            } else if calm || dice.permille(30) {
                life.node.session.cancel_lock(asked.token);
            }
            return;
        }
        let Some(call) = locker.next_call(&self.lockers.holds, number, dice, calm) else { return };
        let token = self.lockers.next_token;
        self.lockers.next_token += 1;
        locker.asked = Some(Asked { token, call, in_line: false });
        // From the moment at which it asks, it does not rely on what it gives back.
        match call {
            LockCall::Unlock { file, .. } => {
                self.lockers.holds.retain(|hold| hold.locker != number || hold.file != file);
            }
            LockCall::Lock { file, .. } if file.family == Family::Flock => {
                self.lockers.holds.retain(|hold| hold.locker != number);
            }
            LockCall::Lock { file, kind, .. } => {
                let mine = self.lockers.holds.iter_mut().filter(|hold| hold.locker == number && hold.file == file);
                mine.for_each(|hold| hold.lock.kind = hold.lock.kind.min(kind));
            }
        }
        life.node.session.lock(now, token, call);
        self.note(|| format!("n{machine} locker {number}: {call:?}"));
    }

    /// A locker has its answer; none: there was no quorum.
    pub(crate) fn lock_answered(&mut self, machine: usize, token: u64, answer: Option<LockAnswer>) {
        let asked_for = |locker: &Locker| locker.asked.is_some_and(|asked| asked.token == token);
        let Some(number) = self.lockers.all.iter().position(asked_for) else { return };
        let Some(asked) = self.lockers.all[number].asked.take() else { return };
        self.note(|| format!("n{machine} locker {number}: {answer:?}"));
        match (asked.call, answer) {
            (LockCall::Lock { file, span, kind, .. }, Some(LockAnswer::Done)) => {
                if asked.in_line {
                    self.cover.hit("lock_handed_over");
                }
                self.hold(number, file, span, kind);
            }
            (_, Some(LockAnswer::Lost)) => {
                self.cover.hit("lock_lost");
                let file = asked.call.file();
                self.lockers.holds.retain(|hold| hold.locker != number || hold.file != file);
            }
            (LockCall::Lock { .. }, Some(LockAnswer::Deadlock)) => self.cover.hit("lock_deadlock"),
            (LockCall::Lock { .. }, Some(LockAnswer::Cancelled)) => self.cover.hit("lock_cancelled"),
            (LockCall::Unlock { file, closing: true, .. }, Some(LockAnswer::Done)) if self.calm.is_some() => {
                let locker = &mut self.lockers.all[number];
                locker.closed += usize::from(locker.files.get(locker.closed) == Some(&file));
            }
            _ => {}
        }
    }

    fn hold(&mut self, number: usize, file: LockFile, span: Span, kind: LockKind) {
        let machine = self.lockers.all[number].machine;
        let Some(life) = &self.lives[machine] else { return };
        let id = self.lockers.all[number].id;
        let (Some(session), false) = (life.node.session.id(), life.node.session.locks().has_lost(file, id)) else {
            return;
        };
        let lock = Lock { owner: LockOwner { session, id }, span, kind, pid: 0 };
        let states = self.lives.iter().flatten().map(|life| life.node.server.state());
        let Some(newest) = states.max_by_key(|state| state.applied) else { return };
        let open = |hold: &Hold| {
            [hold.lock.owner.session, session].iter().all(|session| newest.sessions.contains_key(session))
        };
        let clashing = self.lockers.holds.iter().filter(|hold| hold.file == file && clash(&hold.lock, &lock));
        if let Some(hold) = clashing.clone().find(|hold| open(hold)) {
            let what = format!("n{machine} locker {number} was given {lock:?}, and {hold:?} has it");
            return self.wrong(what);
        }
        self.lockers.holds.retain(|hold| hold.file != file || !(clash(&hold.lock, &lock) || hold.locker == number));
        self.lockers.holds.push(Hold { locker: number, file, lock });
    }

    /// What the lockers of a machine rely on stands in the table, as its replica has it, or is known to be lost.
    fn check_holds(&mut self, machine: usize) {
        let Some(life) = self.lives[machine].as_ref().filter(|life| !life.node.server.is_catching_up()) else { return };
        let (session, state) = (life.node.session.id(), life.node.server.state());
        let stands = |hold: &Hold| {
            let covers = |held: &Lock| {
                let same = held.owner == hold.lock.owner && held.kind >= hold.lock.kind;
                same && held.span.first <= hold.lock.span.first && held.span.last >= hold.lock.span.last
            };
            state.locks.held(&hold.file).iter().any(covers)
        };
        let here = self.lockers.holds.iter().filter(|hold| {
            let locker = &self.lockers.all[hold.locker];
            let known =
                Some(hold.lock.owner.session) == session && !life.node.session.locks().has_lost(hold.file, locker.id);
            locker.machine == machine && known
        });
        let missing = here.copied().find(|hold| !stands(hold));
        if let Some(hold) = missing {
            self.wrong(format!("{hold:?} does not stand in the table"));
        }
    }
}

/// Must not both be relied on. (Said once more here: the table is what is looked at.)
fn clash(a: &Lock, b: &Lock) -> bool {
    let apart = a.span.last < b.span.first || b.span.last < a.span.first;
    !apart && a.owner != b.owner && !(a.kind == LockKind::Read && b.kind == LockKind::Read)
}

impl Locker {
    /// What it does next, if anything.
    fn next_call(&self, holds: &[Hold], number: usize, dice: &mut Dice, calm: bool) -> Option<LockCall> {
        let owner = self.id;
        if calm {
            let file = *self.files.get(self.closed)?;
            return Some(LockCall::Unlock { file, owner, span: Span::ALL, closing: true });
        }
        if !dice.permille(400) {
            return None;
        }
        let file = *dice.pick(&self.files);
        let held = holds.iter().find(|hold| hold.locker == number && hold.file == file);
        if held.is_some() && dice.permille(700) {
            return Some(LockCall::Unlock { file, owner, span: Span::ALL, closing: dice.permille(300) });
        }
        let kind = if dice.permille(500) { LockKind::Read } else { LockKind::Write };
        let wait = dice.permille(700);
        let (a, b) = (dice.below(BYTES), dice.below(BYTES));
        // What it has it only makes stronger or weaker: the table may hold more for it than it knows of, never less.
        let span = held.map_or(Span { first: a.min(b), last: a.max(b) }, |hold| hold.lock.span);
        Some(LockCall::Lock { file, owner, span, kind, pid: 1, wait })
    }
}
