//! Programs: what they ask for, and what the answers mean to the checkers.

use crate::dice::Dice;
use crate::models::{Ask, Said, Subject};
use crate::script::Mix;
use crate::shared::{self, Op, Shared};
use gavel_client::{Answer, TreeError, TreeRequest};
use gavel_fs::operation::{Allocate, RenameMode, Seek, SetAttr, SetTime, XattrMode};
use gavel_fs::{FsError, Operation, Reply};
use gavel_types::{Cookie, ObjectId, SessionId, Timestamp, VolumeId};
use gavel_wire::Kind;
use std::collections::VecDeque;

/// Bytes of a large register: they go to a blob.
const LARGE_BYTES: usize = 20_000;
/// Scratch files are about so long.
const SCRATCH_BYTES: u64 = 40_000;
/// Objects that programs have come across and try again.
const FOUND_MAX: usize = 8;

/// What all programs know of.
#[derive(Debug, Default)]
pub struct Pool {
    /// The directory of [`Subject::Name`].
    pub names: ObjectId,
    /// Shared directories that stay.
    pub dirs: Vec<ObjectId>,
    /// Files of [`Subject::Register`]; whether they are large.
    pub registers: Vec<(ObjectId, bool)>,
    /// Files of [`Subject::Journal`].
    pub journals: Vec<ObjectId>,
    /// Files that anything is done to.
    pub scratch: Vec<ObjectId>,
    /// Directories that were come across.
    pub found_dirs: VecDeque<ObjectId>,
    /// Files that were come across.
    pub found_files: VecDeque<ObjectId>,
}

/// What is made before the programs begin, in the root.
pub const SETUP: &[(&str, bool)] = &[
    ("names", true),
    ("d0", true),
    ("d1", true),
    ("r0", false),
    ("r1", false),
    ("r2", false),
    ("j0", false),
    ("j1", false),
    ("s0", false),
    ("s1", false),
];

impl Pool {
    /// `name` of [`SETUP`] is there.
    pub fn made(&mut self, name: &str, object: ObjectId) {
        match name.split_at(1) {
            ("n", _) => self.names = object,
            ("d", _) => self.dirs.push(object),
            ("r", number) => self.registers.push((object, number == "2")),
            ("j", _) => self.journals.push(object),
            _ => self.scratch.push(object),
        }
    }

    fn find(list: &mut VecDeque<ObjectId>, object: ObjectId) {
        if !list.contains(&object) {
            list.push_back(object);
        }
        if list.len() > FOUND_MAX {
            list.pop_front();
        }
    }

    /// An object of this kind was come across.
    pub fn found(&mut self, object: ObjectId, kind: Kind) {
        match kind {
            Kind::Directory => Pool::find(&mut self.found_dirs, object),
            Kind::File => Pool::find(&mut self.found_files, object),
            _ => {}
        }
    }

    /// A directory is gone.
    pub fn lost(&mut self, object: ObjectId) {
        self.found_dirs.retain(|found| *found != object);
    }

    fn dir(&self, dice: &mut Dice) -> ObjectId {
        if self.found_dirs.is_empty() || dice.permille(600) {
            return *dice.pick(&self.dirs);
        }
        self.found_dirs[dice.below(self.found_dirs.len() as u64) as usize]
    }

    fn file(&self, dice: &mut Dice) -> ObjectId {
        if self.found_files.is_empty() {
            return *dice.pick(&self.scratch);
        }
        self.found_files[dice.below(self.found_files.len() as u64) as usize]
    }
}

/// What a request is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// Step of [`SETUP`].
    Setup(usize),
    /// A call that a checker wants to see.
    Checked(Subject, Ask),
    /// To have the file open behind it.
    Open(ObjectId),
    /// To use a file that is open since this session: it cannot be gone.
    Held(ObjectId, SessionId),
    /// Just so, in this directory.
    Churn(ObjectId),
    /// Just so, in this volume.
    Aside(VolumeId),
    /// On the tree that is shared with transactions.
    Shared(Op),
    /// The same, within a transaction.
    Within(Op),
}

/// A request and its purpose.
#[derive(Clone, Debug)]
pub struct Task {
    /// What is asked.
    pub request: TreeRequest,
    /// What for.
    pub purpose: Purpose,
}

/// What an answer means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// Done, or refused by the filesystem, with this to check.
    Said(Said),
    /// Nothing that anybody checks.
    Whatever,
    /// Nothing was done.
    NotDone,
    /// It may have been done.
    Unknown,
    /// It can't be.
    Wrong(String),
}

fn name(number: u64) -> Box<[u8]> {
    Box::from([b'a' + number as u8])
}

/// What the setup's step makes: a name, and whether it is a directory. `shared`: what is shared with transactions, too.
pub(crate) fn setup_of(step: usize, shared: bool) -> Option<(&'static str, bool)> {
    let more = if shared { shared::SETUP } else { &[] };
    SETUP.iter().chain(more).nth(step).copied()
}

/// The setup's step.
pub(crate) fn setup(step: usize, shared: bool) -> Option<Task> {
    let (name, directory) = setup_of(step, shared)?;
    let (parent, name, umask) = (ObjectId::ROOT, name.as_bytes().into(), 0);
    let operation = if directory {
        Operation::Mkdir { parent, name, mode: 0o755, umask }
    } else {
        Operation::Create { parent, name, mode: 0o644, umask, exclusive: false, truncate: false }
    };
    Some(Task { request: TreeRequest::Operation(operation), purpose: Purpose::Setup(step) })
}

/// Draws what to do next. `token` is a value that was never used before; `held` are files that the program has open.
pub(crate) fn draw(
    dice: &mut Dice,
    mix: &Mix,
    (pool, shared): (&Pool, &Shared),
    held: &[(ObjectId, SessionId)],
    token: u64,
) -> Task {
    match dice.weigh(&mix.weights()) {
        0 => on_name(dice, pool),
        1 => on_register(dice, pool, token),
        2 => on_journal(dice, pool, token),
        3 => churn(dice, pool),
        4 => on_bytes(dice, pool, token),
        5 => on_open_file(dice, pool, held, token),
        6 => on_xattr(dice, pool, token),
        _ => {
            let op = shared.draw(dice, &[], token);
            Task { request: op.request(), purpose: Purpose::Shared(op) }
        }
    }
}

fn checked(subject: Subject, ask: Ask, request: TreeRequest) -> Task {
    Task { request, purpose: Purpose::Checked(subject, ask) }
}

fn on_name(dice: &mut Dice, pool: &Pool) -> Task {
    let number = dice.below(3);
    let (parent, name) = (pool.names, name(number));
    let (ask, operation) = match dice.below(5) {
        0 | 1 => {
            (Ask::Make, Operation::Create { parent, name, mode: 0o600, umask: 0o22, exclusive: true, truncate: false })
        }
        2 | 3 => (Ask::Remove, Operation::Unlink { parent, name }),
        _ => (Ask::Find, Operation::Lookup { parent, name }),
    };
    checked(Subject::Name(parent, number as u8), ask, TreeRequest::Operation(operation))
}

fn on_register(dice: &mut Dice, pool: &Pool, token: u64) -> Task {
    let (object, large) = *dice.pick(&pool.registers);
    let len = if large { LARGE_BYTES } else { 16 };
    let subject = Subject::Register(object, 0);
    if dice.permille(if large { 300 } else { 500 }) {
        let data = token.to_le_bytes().repeat(len / 8);
        let request = TreeRequest::Write { object, offset: 0, append: false, data, kill_suidgid: false };
        return checked(subject, Ask::Put(token), request);
    }
    checked(subject, Ask::Get, TreeRequest::Read { object, offset: 0, len: 2 * len as u32 })
}

fn on_journal(dice: &mut Dice, pool: &Pool, token: u64) -> Task {
    let object = *dice.pick(&pool.journals);
    let subject = Subject::Journal(object);
    if dice.permille(600) {
        let data = token.to_le_bytes().to_vec();
        let request = TreeRequest::Write { object, offset: 0, append: true, data, kill_suidgid: false };
        return checked(subject, Ask::Append(token), request);
    }
    checked(subject, Ask::List, TreeRequest::Read { object, offset: 0, len: 1 << 20 })
}

fn on_xattr(dice: &mut Dice, pool: &Pool, token: u64) -> Task {
    let (object, _) = *dice.pick(&pool.registers);
    let number = dice.between(1, 2);
    let name: Box<[u8]> = format!("user.{number}").into_bytes().into();
    let (ask, operation) = match dice.below(5) {
        0 | 1 => {
            let value = token.to_le_bytes().into();
            (Ask::Put(token), Operation::Setxattr { object, name, value, mode: XattrMode::Set })
        }
        2 => (Ask::Put(0), Operation::Removexattr { object, name }),
        _ => (Ask::Get, Operation::Getxattr { object, name }),
    };
    checked(Subject::Register(object, number as u8), ask, TreeRequest::Operation(operation))
}

fn churn(dice: &mut Dice, pool: &Pool) -> Task {
    let parent = pool.dir(dice);
    let name = name(dice.below(6));
    let (mode, umask) = (0o644, 0o22);
    let operation = match dice.below(16) {
        0 | 1 => Operation::Create { parent, name, mode, umask, exclusive: false, truncate: dice.permille(200) },
        2 | 3 => Operation::Mkdir { parent, name, mode: 0o755, umask },
        4..=6 => {
            let new_parent = pool.dir(dice);
            let new_name = self::name(dice.below(6));
            let modes = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
            Operation::Rename { parent, name, new_parent, new_name, mode: *dice.pick(&modes) }
        }
        7 => Operation::Link { object: pool.file(dice), parent, name },
        8 | 9 => Operation::Unlink { parent, name },
        10 => Operation::Rmdir { parent, name },
        11 => Operation::Symlink { parent, name, target: Box::from(&b"somewhere"[..]) },
        12 => Operation::Mknod { parent, name, kind: Kind::Fifo, mode, umask, rdev: 0 },
        13 => {
            let object = pool.file(dice);
            set_something(dice, object)
        }
        14 => Operation::Readdir { object: parent, after: Cookie(0), limit: dice.between(1, 8) as u32 },
        _ => Operation::Lookup { parent, name },
    };
    Task { request: TreeRequest::Operation(operation), purpose: Purpose::Churn(parent) }
}

fn set_something(dice: &mut Dice, object: ObjectId) -> Operation {
    let mut set = SetAttr::default();
    match dice.below(4) {
        0 => set.mode = Some(dice.below(0o1000) as u16),
        1 => set.uid = Some(dice.below(3) as u32),
        2 => set.mtime = Some(SetTime::Now),
        _ => set.atime = Some(SetTime::At(Timestamp { secs: dice.below(1 << 30) as i64, nanos: 0 })),
    }
    Operation::Setattr { object, set }
}

fn on_bytes(dice: &mut Dice, pool: &Pool, token: u64) -> Task {
    let object = if dice.permille(700) { *dice.pick(&pool.scratch) } else { pool.file(dice) };
    let (offset, most) = (dice.below(SCRATCH_BYTES), if dice.permille(80) { 30_000 } else { 3_000 });
    let len = dice.between(1, most);
    let request = match dice.below(12) {
        0..=4 => {
            let data = token.to_le_bytes().into_iter().cycle().take(len as usize).collect();
            TreeRequest::Write { object, offset, append: dice.permille(200), data, kill_suidgid: dice.permille(300) }
        }
        5 => TreeRequest::Operation(Operation::Setattr {
            object,
            set: SetAttr { size: Some(offset), ..SetAttr::default() },
        }),
        6 | 7 => {
            let keep_size = dice.permille(500);
            let how = [Allocate::Reserve { keep_size }, Allocate::PunchHole, Allocate::ZeroRange { keep_size }];
            TreeRequest::Operation(Operation::Fallocate { object, offset, len, how: *dice.pick(&how) })
        }
        8 => {
            let (to, to_offset) = (*dice.pick(&pool.scratch), dice.below(SCRATCH_BYTES));
            TreeRequest::Operation(Operation::CopyRange { from: object, from_offset: offset, to, to_offset, len })
        }
        9 => TreeRequest::Operation(Operation::Seek { object, offset, what: Seek::Hole }),
        10 => TreeRequest::Operation(Operation::Getattr { object }),
        _ => TreeRequest::Read { object, offset, len: len as u32 },
    };
    Task { request, purpose: Purpose::Churn(object) }
}

fn on_open_file(dice: &mut Dice, pool: &Pool, held: &[(ObjectId, SessionId)], token: u64) -> Task {
    if held.is_empty() || (held.len() < 3 && dice.permille(300)) {
        let object = pool.file(dice);
        let operation = Operation::Open { object, truncate: dice.permille(100), kill_suidgid: false };
        return Task { request: TreeRequest::Operation(operation), purpose: Purpose::Open(object) };
    }
    let (object, session) = *dice.pick(held);
    let request = match dice.below(3) {
        0 => TreeRequest::Operation(Operation::Getattr { object }),
        1 => TreeRequest::Read { object, offset: 0, len: 100 },
        _ => {
            let data = token.to_le_bytes().to_vec();
            TreeRequest::Write { object, offset: dice.below(100), append: false, data, kill_suidgid: false }
        }
    };
    Task { request, purpose: Purpose::Held(object, session) }
}

/// What `result` means to the checkers.
pub fn understand(purpose: &Purpose, result: &Result<Answer, TreeError>) -> Meaning {
    match result {
        Err(TreeError::NoQuorum { .. }) => Meaning::NotDone,
        Err(TreeError::Unknown { .. }) => Meaning::Unknown,
        // The state that a transaction began at.
        Err(TreeError::NoState(gavel_client::NoState::Pruned)) if matches!(purpose, Purpose::Within(_)) => {
            Meaning::NotDone
        }
        Err(error @ (TreeError::Storage { .. } | TreeError::Closed | TreeError::Lock(_) | TreeError::NoState(_))) => {
            Meaning::Wrong(error.to_string())
        }
        Err(TreeError::Fs(error)) => refused(purpose, *error),
        Ok(answer) => answered(purpose, answer),
    }
}

fn refused(purpose: &Purpose, error: FsError) -> Meaning {
    let wrong = || Meaning::Wrong(format!("{purpose:?} was refused: {error}"));
    match (purpose, error) {
        (Purpose::Checked(Subject::Name(..), Ask::Make), FsError::Exists) => Meaning::Said(Said::Taken),
        (Purpose::Checked(Subject::Name(..), _), FsError::NotFound) => Meaning::Said(Said::Absent),
        (Purpose::Checked(Subject::Register(..), Ask::Get), FsError::NoAttribute) => Meaning::Said(Said::Value(0)),
        (Purpose::Checked(Subject::Register(..), Ask::Put(0)), FsError::NoAttribute) => Meaning::Said(Said::Absent),
        // The volume is made by the first leader; until then it has no root.
        (Purpose::Setup(0), FsError::NotFound | FsError::Stale) => Meaning::NotDone,
        (Purpose::Checked(..) | Purpose::Setup(_), _) => wrong(),
        (Purpose::Held(..), FsError::Stale | FsError::NotFound) => wrong(),
        _ => Meaning::Whatever,
    }
}

fn answered(purpose: &Purpose, answer: &Answer) -> Meaning {
    let Purpose::Checked(subject, ask) = purpose else { return Meaning::Whatever };
    let wrong = || Meaning::Wrong(format!("{purpose:?} was answered with {:?}", answer.reply));
    match (subject, ask, &answer.reply) {
        (_, Ask::Make, Reply::Created { object, created: true }) => Meaning::Said(Said::Object(*object)),
        (_, Ask::Find, Reply::Object(object)) => Meaning::Said(Said::Object(*object)),
        (_, Ask::Remove, Reply::Empty) => Meaning::Said(Said::Done),
        (_, Ask::Put(_) | Ask::Append(_), Reply::Empty | Reply::Written { .. } | Reply::Appended { .. }) => {
            Meaning::Said(Said::Done)
        }
        (Subject::Register(_, 0), Ask::Get, _) => match words(&answer.data) {
            Some(words) if words.is_empty() => Meaning::Said(Said::Value(0)),
            Some(words) if words.iter().all(|word| *word == words[0]) => Meaning::Said(Said::Value(words[0])),
            _ => Meaning::Wrong(format!("{subject:?} was read torn, {} bytes", answer.data.len())),
        },
        (Subject::Register(..), Ask::Get, Reply::Bytes(bytes)) => match words(bytes) {
            Some(words) if words.len() == 1 => Meaning::Said(Said::Value(words[0])),
            _ => wrong(),
        },
        (_, Ask::List, _) => match words(&answer.data) {
            Some(words) => Meaning::Said(Said::Values(words)),
            None => Meaning::Wrong(format!("{subject:?} was read torn, {} bytes", answer.data.len())),
        },
        _ => wrong(),
    }
}

fn words(bytes: &[u8]) -> Option<Vec<u64>> {
    let (words, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}
