//! A client without a replica, in a directory of its own beside a cluster.

use crate::cluster::{Cluster, PATIENCE};
use crate::command::Gavel;
use crate::{mounts, process, wait};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A client. Dropped, it does not run any more.
#[derive(Debug)]
pub struct Client {
    gavel: Gavel,
    home: PathBuf,
    child: Option<Child>,
}

impl Client {
    /// Makes a client of the cluster, and mounts the first volume.
    ///
    /// # Errors
    /// If that does not work.
    pub fn up(cluster: &Cluster, name: &str) -> Result<Client> {
        let (gavel, home) = (cluster.gavel().clone(), cluster.scratch().join(name));
        let mut command = gavel.command(["client", "add", "--name", name, "--authority"]);
        command.arg(cluster.dir()).arg("--node").arg(cluster.config(1)).arg("--dir").arg(&home);
        crate::command::run(command, crate::command::PATIENCE)?.ok()?;
        let mut client = Client { gavel, home, child: None };
        std::fs::create_dir_all(client.mount())?;
        client.start()?;
        Ok(client)
    }

    /// Where it mounts.
    pub fn mount(&self) -> PathBuf {
        self.home.join("mnt")
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.home.join("client.toml")
    }

    /// Starts it; returns when the mount works.
    ///
    /// # Errors
    /// What it said last, if it does not.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.gavel.command(["mount", "--client", "--config"]);
        command.arg(self.config()).arg(self.mount());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("starting a client")?);
        let up = wait::until("the client has mounted, and has a session", PATIENCE, || {
            self.status().is_ok_and(|status| {
                !status["session"].is_null() && status["mounts"].as_array().is_some_and(|mounts| !mounts.is_empty())
            })
        });
        up.with_context(|| self.words())
    }

    fn log(&self) -> PathBuf {
        self.home.join("client.log")
    }

    /// All that it has written.
    pub fn words(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    /// Its process.
    ///
    /// # Errors
    /// If it has none.
    pub fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).context("the client does not run")
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> Result<Value> {
        let mut command = self.gavel.command(["client", "status", "--json", "--config"]);
        command.arg(self.config());
        let said = crate::command::run(command, crate::command::PATIENCE)?.ok()?;
        Ok(serde_json::from_str(&said)?)
    }

    /// One of the numbers that it says of itself.
    ///
    /// # Errors
    /// If it does not.
    pub fn number(&self, pointer: &str) -> Result<u64> {
        let status = self.status()?;
        status.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no number {pointer} in {status}"))
    }

    /// Ends it by SIGTERM, as a person would.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        process::signal(child.id(), Signal::TERM)?;
        wait::until("the client has ended", PATIENCE, || matches!(child.try_wait(), Ok(Some(_))))?;
        let status = child.wait()?;
        ensure!(status.success(), "the client ended with {status}:\n{}", self.words());
        ensure!(mounts::under(&self.mount()).is_empty(), "the client has left its mount");
        Ok(())
    }

    /// Ends it by SIGKILL, and takes off what it leaves.
    ///
    /// # Errors
    /// If that does not work.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("the client does not run") };
        child.kill()?;
        child.wait()?;
        mounts::take_off(&self.mount());
        Ok(())
    }

    /// Sees that it has not panicked.
    ///
    /// # Errors
    /// If it has: where.
    pub fn no_panic(&self) -> Result<()> {
        let words = self.words();
        let line = words.lines().find(|line| line.contains("panicked"));
        ensure!(line.is_none(), "{}", line.unwrap_or_default());
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        mounts::take_off(&self.mount());
        if std::thread::panicking() {
            show(&self.words(), &self.home);
        }
    }
}

fn show(words: &str, home: &Path) {
    let lines: Vec<&str> = words.lines().collect();
    eprintln!("---- {}\n{}", home.display(), lines[lines.len().saturating_sub(30)..].join("\n"));
}
