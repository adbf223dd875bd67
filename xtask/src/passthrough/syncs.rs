//! Threads that wait for the disk, so that those that read requests do not.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// How many fsyncs wait for the disk together: as many as the benchmark has writers. More wait in line, one per caller that
/// the kernel holds, so the line is bounded by their number.
const WAITERS: usize = 8;

type Wait = Box<dyn FnOnce() + Send>;

/// Where to wait for the disk. The threads end when it goes.
pub(super) struct Syncs {
    line: Sender<Wait>,
}

impl Syncs {
    pub(super) fn start() -> Self {
        let (line, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..WAITERS {
            let waiting = Arc::clone(&waiting);
            std::thread::spawn(move || {
                while take(&waiting).is_some_and(|wait| {
                    wait();
                    true
                }) {}
            });
        }
        Self { line }
    }

    /// Runs it on a thread that may wait.
    pub(super) fn wait(&self, wait: impl FnOnce() + Send + 'static) {
        // Refused only after all threads panicked; the reply inside then answers EIO as it is dropped.
        let _ = self.line.send(Box::new(wait));
    }
}

fn take(waiting: &Mutex<Receiver<Wait>>) -> Option<Wait> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_wait_together_as_there_are_threads() {
        let syncs = Syncs::start();
        let together = Arc::new(std::sync::Barrier::new(WAITERS));
        let (done, all) = channel();
        for _ in 0..WAITERS {
            let (together, done) = (Arc::clone(&together), done.clone());
            syncs.wait(move || {
                together.wait();
                done.send(()).expect("the test waits");
            });
        }
        (0..WAITERS).for_each(|_| all.recv().expect("every one was run"));
    }
}
