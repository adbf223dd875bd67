//! Waiting, always with a deadline.

use anyhow::{Result, bail};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something.
///
/// # Errors
/// If it gives nothing for `patience`.
pub fn for_some<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("not within {} s: {what}", patience.as_secs_f32());
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until `condition` holds.
///
/// # Errors
/// If it does not hold within `patience`.
pub fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    for_some(what, patience, || condition().then_some(()))
}

/// Does something that may never return, such as a system call on a mount whose daemon is stopped.
///
/// # Errors
/// If it takes longer than `patience`; it goes on in its thread then.
pub fn within<T: Send + 'static>(
    what: &str,
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("within".into()).spawn(move || sender.send(work()))?;
    match receiver.recv_timeout(patience) {
        Ok(done) => Ok(done),
        Err(RecvTimeoutError::Timeout) => bail!("still not done after {} s: {what}", patience.as_secs_f32()),
        Err(RecvTimeoutError::Disconnected) => bail!("panicked: {what}"),
    }
}
