//! Workers: each makes one call after the other through one mount, to the objects of a round, and notes what came of it.
//!
//! Nothing is asked by a path from the root: while a mount is away, there is an empty directory in its place, which must not be taken for
//! an answer. What is below the round's own directory is the cluster's, or an error.

use super::judge::Object;
use super::model::length;
use super::record::{Ask, DIRS, Kind, MADE_MAX, NAMES, Record, SLOTS, Said, block, block_says, record, records_say};
use crate::dice::Dice;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What each set of objects has.
pub const SET: [Kind; 8] =
    [Kind::Register, Kind::Register, Kind::Blob, Kind::Whole, Kind::Journal, Kind::Journal, Kind::Names, Kind::Names];
/// More than any file has.
const READ_BYTES: usize = 64 << 10;
/// More than the names of a directory take.
const LIST_BYTES: usize = 4 << 10;
/// A worker rests for less than this between two calls.
const PACE_US: usize = 2_000;
/// The same in a calm round, where one of [`CALM`] calls changes something: a range that was written is kept free of leases for a
/// second, so that only now and then a change meets what others keep.
const CALM_PACE_US: usize = 8_000;
/// See [`CALM_PACE_US`].
const CALM: usize = 200;
/// A worker that has nothing to do, or whose mount is away, looks again after this.
const AWAY: Duration = Duration::from_millis(10);

/// What all workers of a round share.
#[derive(Debug)]
pub struct Shared {
    /// The round's directory, below a mount.
    pub dir: String,
    /// All objects, set by set.
    pub objects: Vec<Object>,
    /// Calls of one set; then the next one is worked on.
    pub set_calls: usize,
    /// How many workers there are.
    pub workers: usize,
    /// Is there little to change, and much to look at?
    pub calm: bool,
    /// May files be opened with O_DIRECT? (A local filesystem would ask for aligned buffers.)
    pub direct: bool,
    start: Instant,
    stop: AtomicBool,
    open_sets: AtomicUsize,
    made: Vec<AtomicUsize>,
    numbers: Vec<AtomicU32>,
    records: Mutex<Vec<Record>>,
}

impl Shared {
    /// For so many sets, none of which is open yet.
    pub fn new(dir: String, sets: usize, set_calls: usize, workers: usize) -> Shared {
        let object = |set: usize, (number, kind): (usize, &Kind)| {
            let path = format!("{set}/{number}");
            Object { path, kind: *kind, first: 1 }
        };
        let objects: Vec<Object> =
            (0..sets).flat_map(|set| SET.iter().enumerate().map(move |place| object(set, place))).collect();
        Shared {
            dir,
            // 1 is what is there in the beginning.
            numbers: objects.iter().map(|_| AtomicU32::new(2)).collect(),
            made: (0..sets).map(|_| AtomicUsize::new(0)).collect(),
            objects,
            set_calls,
            workers,
            calm: false,
            direct: true,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            open_sets: AtomicUsize::new(0),
            records: Mutex::default(),
        }
    }

    /// What the time is, in records.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Lets workers work on the first sets, so many.
    pub fn open(&self, sets: usize) {
        self.open_sets.store(sets, Ordering::Relaxed);
    }

    /// Tells the workers to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Are all sets worked through?
    pub fn is_through(&self) -> bool {
        self.made.iter().all(|made| made.load(Ordering::Relaxed) >= self.set_calls)
    }

    /// Calls so far that succeeded, on this node.
    pub fn calls(&self, node: u64) -> usize {
        let failed = |record: &Record| matches!(record.said, Said::Refused(_) | Said::Unknown(_));
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().filter(|record| record.node == node && !failed(record)).count()
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self) -> Option<usize> {
        let open = self.open_sets.load(Ordering::Relaxed).min(self.made.len());
        (0..open).find(|set| self.made[*set].load(Ordering::Relaxed) < self.set_calls)
    }

    fn number(&self, object: usize) -> u32 {
        self.numbers[object].fetch_add(1, Ordering::Relaxed)
    }
}

/// What a descriptor is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Use {
    Read,
    Write,
    Dir(u8),
}

/// Why a call was not made.
enum NotMade {
    /// The mount is away, or refuses: nothing was asked.
    Away,
    /// What must not be answered.
    Odd(Errno),
}

/// A worker's hands on a mount: what it holds open there.
#[derive(Debug)]
pub struct Hands<'a> {
    shared: &'a Shared,
    mount: PathBuf,
    node: u64,
    worker: usize,
    root: Option<OwnedFd>,
    held: HashMap<(usize, Use), Rc<OwnedFd>>,
}

/// The path of a slot below its directory.
fn name(slot: u8) -> String {
    format!("name {}", slot % NAMES)
}

impl<'a> Hands<'a> {
    /// Empty ones.
    pub fn new(shared: &'a Shared, mount: PathBuf, node: u64, worker: usize) -> Hands<'a> {
        Hands { shared, mount, node, worker, root: None, held: HashMap::new() }
    }

    fn let_go(&mut self) {
        self.root = None;
        self.held.clear();
    }

    /// The round's directory, which is on the cluster only.
    fn root(&mut self) -> Result<BorrowedFd<'_>, NotMade> {
        if self.root.is_none() {
            let path = self.mount.join(&self.shared.dir);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.root = Some(rustix::fs::open(path, flags, Mode::empty()).map_err(|_| NotMade::Away)?);
        }
        self.root.as_ref().map(AsFd::as_fd).ok_or(NotMade::Away)
    }

    fn opened(&mut self, object: usize, what: Use) -> Result<OwnedFd, NotMade> {
        let Object { path, kind, .. } = &self.shared.objects[object];
        let direct = if kind.is_direct() && self.shared.direct { OFlags::DIRECT } else { OFlags::empty() };
        let (path, flags) = match what {
            Use::Read => (path.clone(), OFlags::RDONLY | direct),
            Use::Write if *kind == Kind::Journal => (path.clone(), OFlags::WRONLY | OFlags::APPEND),
            Use::Write => (path.clone(), OFlags::WRONLY),
            Use::Dir(dir) => (format!("{path}.{dir}"), OFlags::RDONLY | OFlags::DIRECTORY),
        };
        match rustix::fs::openat(self.root()?, path, flags | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOTCONN | Errno::CONNABORTED) => {
                self.let_go();
                Err(NotMade::Away)
            }
            Err(Errno::TIMEDOUT | Errno::IO | Errno::SHUTDOWN | Errno::NOMEM) => Err(NotMade::Away),
            Err(errno) => Err(NotMade::Odd(errno)),
        }
    }

    /// One call; none if it was not made. `fresh`: by what was just opened, and not by what is held.
    pub fn ask(&mut self, object: usize, ask: Ask, fresh: bool) -> Option<Said> {
        let what = match ask {
            Ask::Read | Ask::ReadAll | Ask::Length => Use::Read,
            Ask::Write(_) | Ask::Append(_) | Ask::Truncate(_) => Use::Write,
            Ask::Sync if self.shared.objects[object].kind != Kind::Names => Use::Write,
            Ask::Make(slot, _) | Ask::Remove(slot) | Ask::Move(slot, _) | Ask::Find(slot) => Use::Dir(slot / NAMES),
            Ask::List(dir) => Use::Dir(dir),
            Ask::Sync => Use::Dir(0),
        };
        // A listing begins where the last one through the same descriptor has ended.
        let fresh = fresh || matches!(ask, Ask::List(_));
        let other = if let Ask::Move(_, to) = ask { Some(Use::Dir(to / NAMES)) } else { None };
        let fds = self
            .hold(object, what, fresh)
            .and_then(|fd| Ok((fd, other.map(|dir| self.hold(object, dir, false)).transpose()?)));
        let (fd, other) = match fds {
            Ok(fds) => fds,
            Err(NotMade::Away) => return None,
            Err(NotMade::Odd(errno)) => {
                return Some(self.note(
                    object,
                    ask,
                    self.shared.now(),
                    Said::Odd(format!("cannot be opened: {errno}")),
                ));
            }
        };
        let kind = self.shared.objects[object].kind;
        let called = self.shared.now();
        let answer = call(kind, ask, fd.as_fd(), other.as_ref().map(|other| other.as_fd()));
        let returned = self.shared.now();
        let said = match answer {
            Ok(said) => said,
            // The daemon was dead before the call: the kernel has sent nothing.
            Err(Errno::NOTCONN) => {
                self.let_go();
                return None;
            }
            Err(errno) => failed(kind, ask, errno),
        };
        if said == Said::Unknown(Errno::CONNABORTED) {
            self.let_go();
        }
        Some(self.note_at(object, ask, called, returned, said))
    }

    fn hold(&mut self, object: usize, what: Use, fresh: bool) -> Result<Rc<OwnedFd>, NotMade> {
        if let Some(held) = self.held.get(&(object, what)).filter(|_| !fresh) {
            return Ok(held.clone());
        }
        let fd = Rc::new(self.opened(object, what)?);
        if !fresh {
            self.held.insert((object, what), fd.clone());
        }
        Ok(fd)
    }

    fn note(&self, object: usize, ask: Ask, called: u64, said: Said) -> Said {
        self.note_at(object, ask, called, self.shared.now(), said)
    }

    fn note_at(&self, object: usize, ask: Ask, called: u64, returned: u64, said: Said) -> Said {
        let (worker, node) = (self.worker, self.node);
        let record = Record { object, worker, node, called, returned, ask, said: said.clone() };
        self.shared.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        said
    }

    /// Calls at random until it is told to stop.
    pub fn work(&mut self, dice: &mut Dice) {
        let (mut last, pace) = (None, if self.shared.calm { CALM_PACE_US } else { PACE_US });
        while !self.shared.stop.load(Ordering::Relaxed) {
            let Some(set) = self.shared.set() else {
                std::thread::sleep(AWAY);
                continue;
            };
            if last.replace(set) != Some(set) {
                self.held.clear();
            }
            let object = set * SET.len() + dice.below(SET.len());
            let ask = self.choose(object, dice);
            match self.ask(object, ask, dice.below(3) == 0) {
                Some(_) => drop(self.shared.made[set].fetch_add(1, Ordering::Relaxed)),
                None => std::thread::sleep(AWAY),
            }
            std::thread::sleep(Duration::from_micros(dice.below(pace) as u64));
        }
    }

    fn choose(&self, object: usize, dice: &mut Dice) -> Ask {
        let kind = self.shared.objects[object].kind;
        let choice = match self.shared.calm {
            true if dice.below(CALM) != 0 => 50 + dice.below(50),
            true => dice.below(50),
            false => dice.below(100),
        };
        let number = || self.shared.number(object);
        let slot = dice.below(usize::from(SLOTS)) as u8;
        match (kind, choice) {
            (_, 0..4) => Ask::Sync,
            (Kind::Journal, 4..50) => Ask::Append(number()),
            (Kind::Names, 4..24) => match number() {
                made @ ..=MADE_MAX => Ask::Make(slot, made),
                _ => Ask::Remove(slot),
            },
            (Kind::Names, 24..36) => Ask::Remove(slot),
            (Kind::Names, 36..50) => self.choose_move(slot, dice),
            (Kind::Register | Kind::Whole, 34..50) => Ask::Truncate(length(kind, dice.roll() as u32)),
            (Kind::Register | Kind::Blob | Kind::Whole, 4..50) => Ask::Write(number()),
            (Kind::Names, 50..75) => Ask::Find(slot),
            (Kind::Names, _) => Ask::List(dice.below(usize::from(DIRS)) as u8),
            (_, 50..65) => Ask::Length,
            (Kind::Journal, _) => Ask::ReadAll,
            _ => Ask::Read,
        }
    }

    /// Only one worker moves anything to a slot. The kernel looks both names up, one after the other, and does nothing, successfully,
    /// if both name the same object: so it would if somebody else moved it between the two looks. On a filesystem that others
    /// change, that is the kernel's, and no news of ours.
    fn choose_move(&self, from: u8, dice: &mut Dice) -> Ask {
        let mine: Vec<u8> = (0..SLOTS).filter(|to| usize::from(*to) % self.shared.workers == self.worker).collect();
        match mine.get(dice.below(mine.len().max(1))) {
            Some(to) if *to != from => Ask::Move(from, *to),
            _ => Ask::Find(from),
        }
    }
}

fn failed(kind: Kind, ask: Ask, errno: Errno) -> Said {
    match (ask, errno) {
        (Ask::Make(..), Errno::EXIST) => Said::Taken,
        (Ask::Remove(_) | Ask::Move(..) | Ask::Find(_), Errno::NOENT) => Said::Absent,
        (_, Errno::TIMEDOUT | Errno::NOMEM | Errno::NOSPC) => Said::Refused(errno),
        (_, Errno::IO | Errno::CONNABORTED | Errno::SHUTDOWN) => Said::Unknown(errno),
        // The kernel has tried twice, and twice somebody has changed the name between its look-up and the call.
        (_, Errno::STALE) if kind == Kind::Names => Said::Unknown(errno),
        _ => Said::Odd(errno.to_string()),
    }
}

/// All of it, or it is odd.
fn whole(count: usize, bytes: usize) -> Said {
    if count == bytes { Said::Done } else { Said::Odd(format!("{count} of {bytes} bytes")) }
}

fn call(kind: Kind, ask: Ask, fd: BorrowedFd<'_>, other: Option<BorrowedFd<'_>>) -> Result<Said, Errno> {
    match ask {
        Ask::Write(number) => {
            let bytes = block(number, kind.block());
            Ok(whole(rustix::io::pwrite(fd, &bytes, 0)?, bytes.len()))
        }
        Ask::Read => {
            let mut bytes = vec![0; kind.block() as usize];
            let count = rustix::io::pread(fd, bytes.as_mut_slice(), 0)?;
            Ok(block_says(&bytes[..count]))
        }
        Ask::Truncate(bytes) => rustix::fs::ftruncate(fd, u64::from(bytes)).map(|()| Said::Done),
        Ask::Length => Ok(Said::Bytes(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(u64::MAX))),
        Ask::Append(number) => {
            let bytes = record(number);
            Ok(whole(rustix::io::write(fd, &bytes)?, bytes.len()))
        }
        Ask::ReadAll => {
            let mut bytes = vec![0; READ_BYTES];
            let count = rustix::io::pread(fd, bytes.as_mut_slice(), 0)?;
            Ok(records_say(&bytes[..count]))
        }
        Ask::Make(slot, number) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            rustix::fs::openat(fd, name(slot), flags, Mode::from_raw_mode(number)).map(|_| Said::Done)
        }
        Ask::Remove(slot) => rustix::fs::unlinkat(fd, name(slot), AtFlags::empty()).map(|()| Said::Done),
        Ask::Move(from, to) => rustix::fs::renameat(fd, name(from), other.unwrap_or(fd), name(to)).map(|()| Said::Done),
        Ask::Find(slot) => {
            let found = rustix::fs::statat(fd, name(slot), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Said::Found(found.st_mode & 0o7777))
        }
        Ask::List(dir) => list(fd, dir),
        Ask::Sync => rustix::fs::fsync(fd).map(|()| Said::Done),
    }
}

/// One `getdents64`, which is one moment. A second one, to find the end, would be another moment.
fn list(fd: BorrowedFd<'_>, dir: u8) -> Result<Said, Errno> {
    let mut buffer = [MaybeUninit::uninit(); LIST_BYTES];
    let mut listing = RawDir::new(fd, &mut buffer);
    let mut slots = 0_u8;
    while let Some(entry) = listing.next() {
        let bytes = entry?.file_name().to_bytes().to_owned();
        if bytes != b"." && bytes != b".." {
            let Some(slot) = (dir * NAMES..(dir + 1) * NAMES).find(|slot| name(*slot).as_bytes() == bytes) else {
                return Ok(Said::Odd(format!("a name {:?}", String::from_utf8_lossy(&bytes))));
            };
            if slots & (1 << slot) != 0 {
                return Ok(Said::Odd(format!("twice the name {:?}", name(slot))));
            }
            slots |= 1 << slot;
        }
        if listing.is_buffer_empty() {
            break;
        }
    }
    Ok(Said::Slots(slots))
}
