//! How everything that was started goes away again: in reverse order, at the end, on an error, on Ctrl-C.

use std::process::exit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

type Step = Box<dyn FnOnce() -> Result<()> + Send>;

/// Steps that undo what was done, last one first. Clones are the same list; when the first one goes, the steps are taken.
pub(super) struct Undo {
    steps: Arc<Mutex<Vec<(String, Step)>>>,
}

impl Undo {
    /// An empty list, whose steps are also taken when the process is asked to end (SIGINT, SIGTERM, SIGHUP).
    ///
    /// To be called before any thread is started: threads inherit that these signals wait for ours.
    pub(super) fn on_signals() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("blocking signals")?;
        let undo = Self { steps: Arc::default() };
        let steps = Arc::clone(&undo.steps);
        std::thread::spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            eprintln!("\n{signal}: cleaning up");
            take(&steps);
            exit(128 + signal as i32);
        });
        Ok(undo)
    }

    /// Adds a step that undoes what was just done.
    pub(super) fn later(&self, what: impl Into<String>, step: impl FnOnce() -> Result<()> + Send + 'static) {
        lock(&self.steps).push((what.into(), Box::new(step)));
    }

    /// Takes all steps now.
    pub(super) fn all(&self) {
        take(&self.steps);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        take(&self.steps);
    }
}

fn lock(steps: &Mutex<Vec<(String, Step)>>) -> MutexGuard<'_, Vec<(String, Step)>> {
    steps.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the lock throughout: who comes second (the end and a signal at once) waits until all is gone.
fn take(steps: &Mutex<Vec<(String, Step)>>) {
    let mut steps = lock(steps);
    while let Some((what, step)) = steps.pop() {
        if let Err(error) = step() {
            eprintln!("Warning: {what}: {error:#}\nHint: look with `mount` and `losetup -a`, and undo it by hand");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_once_in_reverse_order_also_after_a_failure() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let undo = Undo { steps: Arc::default() };
        for number in 1..=3 {
            let seen = Arc::clone(&seen);
            undo.later(format!("step {number}"), move || {
                seen.lock().expect("no panic").push(number);
                if number == 2 { anyhow::bail!("broken") } else { Ok(()) }
            });
        }
        undo.all();
        drop(undo);
        assert_eq!(*seen.lock().expect("no panic"), [3, 2, 1]);
    }
}
