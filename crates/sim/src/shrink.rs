//! Cuts a failing script down to what is needed to fail.

use crate::script::{Fault, Mix, Script};
use crate::{Verdict, run};

/// Runs that a shrinking may take.
const RUNS_MAX: u32 = 400;

/// A smaller script that still fails, if there is one. (It may fail in another way: that is a find, too.)
pub fn shrink(script: &Script) -> Script {
    let mut search = Search { best: script.clone(), runs: 0 };
    search.cut_faults();
    search.cut_work();
    search.cut_faults();
    search.best
}

struct Search {
    best: Script,
    runs: u32,
}

impl Search {
    /// Keeps `script` if it fails.
    fn try_out(&mut self, script: Script) -> bool {
        if self.runs >= RUNS_MAX || script == self.best {
            return false;
        }
        self.runs += 1;
        let fails = matches!(run(&script, false), Verdict::Violated(_));
        if fails {
            self.best = script;
        }
        fails
    }

    /// Drops faults: halves first, then ever smaller pieces.
    fn cut_faults(&mut self) {
        let mut size = self.best.faults.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < self.best.faults.len() {
                let mut faults: Vec<Fault> = self.best.faults.clone();
                faults.drain(at..(at + size).min(faults.len()));
                if !self.try_out(Script { faults, ..self.best.clone() }) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Fewer programs, operations and kinds of them, and less time.
    fn cut_work(&mut self) {
        for part in [8, 4, 2] {
            let best = &self.best;
            let (operations, programs) = ((best.operations / part).max(1), (best.programs / part as usize).max(1));
            self.try_out(Script { operations, ..self.best.clone() });
            self.try_out(Script { programs, ..self.best.clone() });
            let busy_ms = self.best.busy_ms / u64::from(part);
            self.try_out(Script { busy_ms, ..self.best.clone() });
        }
        self.try_out(Script { snapshots: false, ..self.best.clone() });
        // The tree that is shared with transactions is there only if there are some.
        let mix = Mix { shared: 0, ..self.best.mix };
        if mix.weights().iter().any(|weight| *weight > 0) {
            self.try_out(Script { transactions: 0, mix, ..self.best.clone() });
        }
        for kind in 0..8 {
            let mut script = self.best.clone();
            let mix = &mut script.mix;
            let weights = [
                &mut mix.names,
                &mut mix.registers,
                &mut mix.journals,
                &mut mix.churn,
                &mut mix.bytes,
                &mut mix.open_files,
                &mut mix.xattrs,
                &mut mix.shared,
            ];
            for (place, weight) in weights.into_iter().enumerate() {
                if place == kind {
                    *weight = 0;
                }
            }
            if script.mix.weights().iter().any(|weight| *weight > 0) {
                self.try_out(script);
            }
        }
        if self.best.drift_ppm > 0 {
            self.try_out(Script { drift_ppm: 0, ..self.best.clone() });
        }
    }
}
