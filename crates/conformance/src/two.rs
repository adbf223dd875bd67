//! Two clusters, of which one has mirrors of the other's volumes; and `gavel mirror` in either.

use crate::cluster::{Cluster, PATIENCE, with_cluster};
use crate::command::{self, Ran, run_from};
use crate::mounts;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long it may take to receive a stream.
const STREAM_PATIENCE: Duration = Duration::from_secs(600);

/// Brings a cluster up, and another one beside it, hands both to `body`, and takes them down; shows what their nodes have said if anything fails.
///
/// # Errors
/// Those of `body`; a cluster that does not start, or leaves something behind.
pub fn with_two(nodes: u64, beside: u64, body: impl FnOnce(&Cluster, &Cluster) -> Result<()>) -> Result<()> {
    with_cluster(nodes, |source| {
        let copy = source.beside(beside)?;
        let done = body(source, &copy).and_then(|()| copy.no_panics());
        if done.is_err() {
            copy.show_logs();
        }
        done?;
        source.unmount_extra()?;
        copy.unmount_extra()?;
        copy.down()
    })
}

impl Cluster {
    /// `gavel mirror WORDS` through a node.
    pub fn mirror_command(&self, node: u64, words: &[&str]) -> Command {
        let mut command = self.gavel().command(["mirror"]);
        command.args(words).arg("--config").arg(self.config(node));
        command
    }

    /// The same, run to its end.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn mirror(&self, node: u64, words: &[&str]) -> Result<Ran> {
        command::run(self.mirror_command(node, words), PATIENCE)
    }

    /// Receives a stream from a file.
    ///
    /// # Errors
    /// If it can't be run, or does not end.
    pub fn receive(&self, node: u64, volume: &str, file: &Path, words: &[&str]) -> Result<Ran> {
        let command = self.mirror_command(node, &[&["receive", volume], words].concat());
        run_from(File::open(file)?, command, STREAM_PATIENCE)
    }

    /// What a node says of a mirror.
    ///
    /// # Errors
    /// If it says nothing.
    pub fn mirror_status(&self, node: u64, volume: &str) -> Result<Value> {
        let said = self.mirror(node, &["status", volume, "--json"])?.ok()?;
        serde_json::from_str(&said).with_context(|| said.clone())
    }

    /// Admits a mirror to a volume; its invitation.
    ///
    /// # Errors
    /// If it is not admitted.
    pub fn admit(&self, volume: &str, name: &str, more: &[&str]) -> Result<PathBuf> {
        let path = self.scratch().join(format!("{volume}-{name}.invitation"));
        let out = path.to_str().context("a path of text")?;
        self.mirror(1, &[&["admit", volume, "--name", name, "--out", out], more].concat())?.ok()?;
        Ok(path)
    }

    /// Has a mirror follow by an invitation.
    ///
    /// # Errors
    /// If it can't be asked for.
    pub fn follow(&self, node: u64, invitation: &Path, into: &str) -> Result<Ran> {
        self.mirror(node, &["follow", invitation.to_str().context("a path of text")?, "--into", into])
    }

    /// Mounts a volume through a node, in a place of its own.
    ///
    /// # Errors
    /// If it can't be mounted.
    pub fn mounted(&self, node: u64, volume: &str) -> Result<PathBuf> {
        let path = self.dir().join("extra").join(format!("{volume}-{node}"));
        std::fs::create_dir_all(&path)?;
        self.mount_at(node, volume, &path)?;
        Ok(path)
    }

    /// Mounts a volume through a node.
    ///
    /// # Errors
    /// If it can't be mounted.
    pub fn mount_at(&self, node: u64, volume: &str, path: &Path) -> Result<()> {
        let mut command = self.gavel().command(["mount", "--volume", volume, "--config"]);
        command.arg(self.config(node)).arg(path);
        command::run(command, command::PATIENCE)?.ok().map(drop)
    }

    /// Takes a mount off, used or not.
    ///
    /// # Errors
    /// If it stays.
    pub fn umount(&self, path: &Path) -> Result<()> {
        self.gavel().run(["umount", "--lazy", path.to_str().context("a path of text")?])?.ok().map(drop)
    }

    /// Takes off all that [`Cluster::mounted`] has mounted.
    ///
    /// # Errors
    /// If one stays.
    pub fn unmount_extra(&self) -> Result<()> {
        mounts::under(&self.dir().join("extra")).iter().try_for_each(|mount| self.umount(&mount.point))
    }
}
