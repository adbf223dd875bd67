//! One `gavel serve`, started by the test itself: for nodes that are not part of a throw-away cluster, or that must fail.

use crate::command::{Gavel, Ran};
use crate::{process, wait};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a node may take to end when it is told to.
const END: Duration = Duration::from_secs(30);

/// A node that runs, or has ended. Dropped, it is killed.
#[derive(Debug)]
pub struct Serving {
    gavel: Gavel,
    child: Child,
    config: PathBuf,
    log: PathBuf,
    line: String,
}

impl Serving {
    /// Starts `gavel serve` with this configuration; `within` runs it somewhere else, such as in a network namespace.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(gavel: &Gavel, config: &Path, within: Option<Command>) -> Result<Serving> {
        let log = config.with_extension("serve.log");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = match within {
            Some(mut prefix) => {
                prefix.arg(gavel.program());
                prefix
            }
            None => Command::new(gavel.program()),
        };
        command.arg("serve").arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let line = format!("{command:?}");
        let child = command.spawn().with_context(|| line.clone())?;
        Ok(Serving { gavel: gavel.clone(), child, config: config.into(), log, line })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it says it is; none if it does not answer.
    pub fn status(&self) -> Option<Value> {
        let mut command = self.gavel.command(["status", "--json", "--config"]);
        command.arg(&self.config);
        let told = crate::command::run(command, crate::command::PATIENCE).ok()?.ok().ok()?;
        serde_json::from_str(&told).ok()
    }

    /// Waits until it takes part (it has a session, and its mounts are made), or has ended. None if it takes part.
    ///
    /// # Errors
    /// If neither happens.
    pub fn up_or_ended(&mut self, patience: Duration) -> Result<Option<Ran>> {
        let what = format!("{}: serves or ends", self.line);
        let found = wait::for_some(&what, patience, || {
            if let Some(ran) = self.ended() {
                return Some(Some(ran));
            }
            let up = |status: Value| {
                let volumes = status["node"]["volumes"].as_array().is_some_and(|volumes| !volumes.is_empty());
                let failed = !status["node"]["failure"].is_null();
                (status["node"]["session"].is_u64() && volumes && !failed).then_some(None)
            };
            self.status().and_then(up)
        });
        found.with_context(|| self.said())
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<Ran> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(Ran { line: self.line.clone(), code: status.code(), stdout: String::new(), stderr: self.said() })
    }

    /// Tells it to end, and waits until it has.
    ///
    /// # Errors
    /// If it does not, or not well.
    pub fn end(mut self) -> Result<()> {
        if self.ended().is_none() {
            process::signal(self.pid(), Signal::TERM)?;
        }
        let ran = wait::for_some(&format!("{}: ends", self.line), END, || self.ended())?;
        ensure!(ran.code == Some(0), "{}: status {:?}\n{}", ran.line, ran.code, ran.stderr);
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
