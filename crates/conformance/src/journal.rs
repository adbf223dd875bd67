//! Writers that note what was acknowledged to them, and when.
//!
//! Each writer works through one mount, one record at a time: it appends a line to a file that all writers share, or makes
//! a file of its own name, and syncs it. What the system calls returned is all that it knows, and what it knows is what the cluster is
//! held to afterwards ([`crate::verify`]):
//!
//! | the call | means | so afterwards the record is there |
//! |---|---|---|
//! | succeeded, and `fsync` behind it | acknowledged | exactly once, at its place in time |
//! | failed with ETIMEDOUT | refused, nothing was changed (docs/protocols/mount.md) | not at all; a file that was to be made may be there, empty |
//! | failed otherwise | nobody knows | at most once |
//!
//! Everything is below a directory that exists only on the cluster: while a mount is away, nothing is written beside it.

use crate::wait;
use anyhow::{Context, Result};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of an appended record.
pub const RECORD_BYTES: usize = 32;
/// The file that all append to.
pub(crate) const APPENDS: &str = "journal/appends";
/// Where files are made.
pub(crate) const FILES: &str = "journal/files";
/// Every so many made files, one is large enough to be kept as a blob.
const LARGE_EVERY: u64 = 8;
const LARGE_BYTES: usize = 40_000;
const SMALL_BYTES: usize = 100;
/// A writer rests between two records: what is tested is what happens to them, not how many there can be.
const PACE: Duration = Duration::from_millis(3);
/// A writer whose mount is away looks again after this.
const AWAY: Duration = Duration::from_millis(20);
/// Longer than any call may take: the daemon answers within ten seconds, or is dead.
const LAST_CALL: Duration = Duration::from_secs(60);

/// What a writer writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Appends records to the shared file.
    Append,
    /// Makes files, each with what belongs in it.
    Create,
}

/// What is known of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It succeeded.
    Acknowledged,
    /// It failed, and nothing may have come of it.
    Refused,
    /// It failed, and nobody knows what came of it.
    Unknown,
    /// The file was made, but not synced; what came of that, and of writing to it, nobody knows.
    Half,
}

/// One record: what was called when, and what came of it.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// The writer's number of it.
    pub seq: u64,
    /// When the call began, after the journal.
    pub began: Duration,
    /// When it returned.
    pub ended: Duration,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it failed, if it has.
    pub errno: Option<Errno>,
}

/// A writer, and what it has noted.
#[derive(Debug)]
pub struct Writer {
    /// Its number.
    pub id: usize,
    /// What it does.
    pub work: Work,
    mount: PathBuf,
    notes: Mutex<Vec<Note>>,
}

impl Writer {
    /// Its notes so far.
    pub fn notes(&self) -> Vec<Note> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn acknowledged(&self) -> usize {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().filter(|note| note.outcome == Outcome::Acknowledged).count()
    }
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    stop: AtomicBool,
    appended: AtomicU64,
    stale: Mutex<Vec<String>>,
}

/// The writers and watchers of a test. Dropped, they are told to stop.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    writers: Vec<Arc<Writer>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Journal {
    /// Starts writers, each on its mount, and one watcher on each of these mounts.
    ///
    /// # Errors
    /// If the directory can't be prepared.
    pub fn start(writers: &[(PathBuf, Work)]) -> Result<Journal> {
        let (first, _) = writers.first().context("a journal of no writers")?;
        std::fs::create_dir_all(first.join(FILES)).with_context(|| first.display().to_string())?;
        File::create(first.join(APPENDS)).with_context(|| first.display().to_string())?;
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            appended: AtomicU64::new(0),
            stale: Mutex::default(),
        });
        let writer = |(id, (mount, work)): (usize, &(PathBuf, Work))| {
            Arc::new(Writer { id, work: *work, mount: mount.clone(), notes: Mutex::default() })
        };
        let all: Vec<_> = writers.iter().enumerate().map(writer).collect();
        let mut journal = Journal { shared, writers: all, threads: Vec::new() };
        for writer in journal.writers.clone() {
            journal.spawn(format!("writer-{}", writer.id), move |shared| write(&writer, shared))?;
        }
        let mut mounts: Vec<PathBuf> = writers.iter().map(|(mount, _)| mount.clone()).collect();
        mounts.sort();
        mounts.dedup();
        for mount in mounts {
            journal.spawn("watcher".into(), move |shared| watch(&mount, shared))?;
        }
        Ok(journal)
    }

    fn spawn(&mut self, name: String, work: impl FnOnce(&Shared) + Send + 'static) -> Result<()> {
        let shared = self.shared.clone();
        self.threads.push(std::thread::Builder::new().name(name).spawn(move || work(&shared))?);
        Ok(())
    }

    /// The writers.
    pub fn writers(&self) -> &[Arc<Writer>] {
        &self.writers
    }

    /// The writers on a mount.
    pub fn on(&self, mount: &Path) -> Vec<&Writer> {
        self.writers.iter().map(|writer| &**writer).filter(|writer| writer.mount == mount).collect()
    }

    /// What the time is, in notes.
    pub fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Waits until each of these writers has so many more records acknowledged than now.
    ///
    /// # Errors
    /// If that takes longer than `patience`: how many each one has got.
    pub fn wait_for_more(&self, writers: &[&Writer], more: usize, patience: Duration) -> Result<()> {
        let before: Vec<usize> = writers.iter().map(|writer| writer.acknowledged()).collect();
        let enough = || writers.iter().zip(&before).all(|(writer, before)| writer.acknowledged() >= before + more);
        let waited = wait::until(&format!("{more} more records of each writer"), patience, enough);
        waited.with_context(|| {
            let got = |(writer, before): (&&Writer, &usize)| {
                let last = writer.notes().last().copied();
                format!("writer {}: {} more, last {last:?}", writer.id, writer.acknowledged() - before)
            };
            writers.iter().zip(&before).map(got).collect::<Vec<_>>().join("; ")
        })
    }

    /// Lets no more records begin, and waits for the calls that are under way.
    ///
    /// # Errors
    /// If one does not return, or a watcher has seen that an acknowledged record was not there.
    pub fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        wait::until("the last calls of the writers return", LAST_CALL, || threads.iter().all(JoinHandle::is_finished))?;
        for thread in threads {
            anyhow::ensure!(thread.join().is_ok(), "a writer has panicked");
        }
        let stale = self.shared.stale.lock().unwrap_or_else(PoisonError::into_inner);
        anyhow::ensure!(stale.is_empty(), "{} stale reads: {}", stale.len(), stale.join("; "));
        Ok(())
    }
}

/// The name of a made file.
pub(crate) fn file_name(writer: usize, seq: u64) -> String {
    format!("{writer}-{seq}")
}

/// What belongs in a made file.
pub(crate) fn content(writer: usize, seq: u64) -> Vec<u8> {
    let bytes = if seq.is_multiple_of(LARGE_EVERY) { LARGE_BYTES } else { SMALL_BYTES };
    let line = format!("{}\n", file_name(writer, seq));
    line.bytes().cycle().take(bytes).collect()
}

/// An appended record.
pub(crate) fn record(writer: usize, seq: u64) -> Vec<u8> {
    let text = format!("{writer:02} {seq:010} ");
    let mut record = format!("{text:.<width$}", width = RECORD_BYTES - 1).into_bytes();
    record.push(b'\n');
    record
}

/// What a record says: writer and number.
pub(crate) fn parse(record: &[u8]) -> Option<(usize, u64)> {
    let text = std::str::from_utf8(record).ok()?;
    let (writer, seq) = (text.get(0..2)?.parse().ok()?, text.get(3..13)?.parse().ok()?);
    (self::record(writer, seq) == record).then_some((writer, seq))
}

fn write(writer: &Writer, shared: &Shared) {
    let mut open: Option<File> = None;
    let mut seq = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let began = shared.start.elapsed();
        let called = match writer.work {
            Work::Append => append(writer, &mut open, seq),
            Work::Create => create(writer, seq),
        };
        let Some((outcome, errno)) = called else {
            std::thread::sleep(AWAY);
            continue;
        };
        let note = Note { seq, began, ended: shared.start.elapsed(), outcome, errno };
        if outcome == Outcome::Acknowledged && writer.work == Work::Append {
            shared.appended.fetch_add(1, Ordering::SeqCst);
        }
        writer.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        seq += 1;
        std::thread::sleep(PACE);
    }
}

fn failed(error: &std::io::Error) -> (Outcome, Option<Errno>) {
    let errno = Errno::from_io_error(error);
    (if errno == Some(Errno::TIMEDOUT) { Outcome::Refused } else { Outcome::Unknown }, errno)
}

/// Was the daemon dead before the call, so that the kernel has sent nothing? (A call that was under way when it died
/// fails with ECONNABORTED.)
fn is_dead(error: &std::io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOTCONN)
}

/// Appends a record. None if it could not even be tried.
fn append(writer: &Writer, open: &mut Option<File>, seq: u64) -> Option<(Outcome, Option<Errno>)> {
    let mut file = match open.take() {
        Some(file) => file,
        None => match OpenOptions::new().append(true).open(writer.mount.join(APPENDS)) {
            Ok(file) => file,
            // Nothing was written: the record is not there, for certain.
            Err(error) => return Some(failed(&error)).filter(|(outcome, _)| *outcome == Outcome::Refused),
        },
    };
    match file.write(&record(writer.id, seq)) {
        Ok(RECORD_BYTES) => match file.sync_data() {
            Ok(()) => {
                *open = Some(file);
                Some((Outcome::Acknowledged, None))
            }
            // Whatever the reason: the record was answered, and may be committed.
            Err(error) => Some((Outcome::Unknown, failed(&error).1)),
        },
        Ok(_) => Some((Outcome::Unknown, None)),
        Err(error) if is_dead(&error) => None,
        Err(error) => Some(failed(&error)),
    }
}

/// Makes a file. None if it could not even be tried: without its mount, there is no such directory.
fn create(writer: &Writer, seq: u64) -> Option<(Outcome, Option<Errno>)> {
    let path = writer.mount.join(FILES).join(file_name(writer.id, seq));
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound || is_dead(&error) => return None,
        Err(error) => return Some(failed(&error)),
    };
    match file.write_all(&content(writer.id, seq)).and_then(|()| file.sync_all()) {
        Ok(()) => Some((Outcome::Acknowledged, None)),
        Err(error) => Some((Outcome::Half, failed(&error).1)),
    }
}

/// Sees that what was acknowledged before a look is there at the look, on whatever mount.
fn watch(mount: &Path, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let before = shared.appended.load(Ordering::SeqCst) * RECORD_BYTES as u64;
        let began = shared.start.elapsed();
        if let Ok(found) = std::fs::metadata(mount.join(APPENDS))
            && found.len() < before
        {
            let ended = shared.start.elapsed();
            let what = format!("{}: {} bytes and not {before}, {began:?} to {ended:?}", mount.display(), found.len());
            shared.stale.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        }
        std::thread::sleep(PACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_anything_else_does_not() {
        let record = record(7, 123);
        assert_eq!(record.len(), RECORD_BYTES);
        assert_eq!(parse(&record), Some((7, 123)));
        for at in 0..RECORD_BYTES {
            let mut damaged = record.clone();
            damaged[at] ^= 0x40;
            assert_ne!(parse(&damaged), Some((7, 123)), "byte {at}");
        }
    }
}
