//! Which daemon is asked, about which volume or transaction.

use crate::output::hinted;
use crate::target::{ASK_HINT, Target, control};
use anyhow::Context;
use clap::Args;
use gavel_mount::CONTROL_XATTR;
use gavel_runtime::config::Config;
use gavel_runtime::host::control::{AskError, Reply, Request, ask};
use gavel_runtime::host::txn::{CONTROL_PREFIX, TxnAnswer, TxnAsk};
use gavel_types::{VolumeId, VolumeRef};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a daemon may take: a commit waits for others, and for bytes to be stored.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Which node is asked.
#[derive(Args)]
pub struct Node {
    /// The node's configuration; by default, the node is found by the mounts of this machine
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A transaction, as its mount says.
pub struct OfMount {
    /// Its id.
    pub id: String,
    /// The daemon's socket.
    pub socket: PathBuf,
}

/// The transaction whose mount is at `point`, if it is one's.
pub fn of_mount(point: &Path) -> Option<OfMount> {
    let mut value = [0; 4096];
    let len = rustix::fs::getxattr(point, CONTROL_XATTR, &mut value).ok()?;
    let rest = value.get(..len)?.strip_prefix(CONTROL_PREFIX.as_bytes())?;
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let id = std::str::from_utf8(&rest[..space]).ok()?.to_owned();
    Some(OfMount { id, socket: PathBuf::from(OsStr::from_bytes(&rest[space + 1..])) })
}

/// The transaction in whose mount a path is.
pub fn of_path(path: &Path) -> anyhow::Result<Option<OfMount>> {
    let Ok(path) = path.canonicalize() else { return Ok(None) };
    let mounts = gavel_mount::table::mounts().context("reading which mounts there are")?;
    let within = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    // Of several at one place, the last one is seen.
    let innermost = within.max_by_key(|mount| mount.point.as_os_str().len());
    Ok(innermost.filter(|mount| mount.is_ours()).and_then(|mount| of_mount(&mount.point)))
}

impl Node {
    /// The daemon's socket, and the volume that is meant.
    pub fn find(&self, volume: Option<VolumeRef>) -> anyhow::Result<(PathBuf, VolumeRef)> {
        if let Some(config) = &self.config {
            return Ok((Config::load(config)?.control_socket, volume.unwrap_or(VolumeId::FIRST.into())));
        }
        let here = std::env::current_dir().context("where is this?")?;
        if let Ok(target) = Target::of(&here) {
            return Ok((target.socket, volume.unwrap_or(VolumeId(target.volume).into())));
        }
        let mounts = gavel_mount::table::mounts().context("reading which mounts there are")?;
        let found = mounts.iter().filter(|mount| mount.is_ours()).filter_map(|mount| control(&mount.point));
        let meant = |of| volume.clone().unwrap_or(VolumeId(of).into());
        let found: BTreeSet<(PathBuf, VolumeRef)> = found.map(|(of, socket)| (socket, meant(of))).collect();
        let hint = "work in a mount, or say --volume, or --config with the node's configuration";
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(hinted("several volumes or nodes are mounted on this machine", hint)),
            (None, _) => Err(hinted("nothing of Gavel is mounted on this machine", hint)),
        }
    }
}

/// Which transaction.
#[derive(Args)]
pub struct Which {
    #[command(flatten)]
    node: Node,
    /// The transaction's id, a beginning of it that no other has, or a path in its directory; by default, this directory
    #[arg(value_name = "TXN")]
    txn: Option<String>,
}

impl Which {
    /// The daemon's socket, and the transaction's name.
    pub fn find(&self) -> anyhow::Result<(PathBuf, String)> {
        let path = self.txn.as_deref().unwrap_or(".");
        if let Some(found) = of_path(Path::new(path))? {
            return Ok((found.socket, found.id));
        }
        let Some(txn) = &self.txn else {
            return Err(hinted(
                "this directory is in no transaction",
                "name one, by its id or its directory: `gavel txn list` shows them",
            ));
        };
        Ok((self.node.find(None)?.0, txn.clone()))
    }
}

/// Why a daemon can't be asked, and what to do.
pub fn unreachable(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let user = rustix::process::geteuid();
    if error.kind() != std::io::ErrorKind::PermissionDenied || user.is_root() {
        return hinted(format!("{}: {error}", socket.display()), ASK_HINT);
    }
    let user = user.as_raw();
    let hint = format!(
        "let root run it for this user: gavel txn run -- setpriv --reuid={user} --regid={} --init-groups COMMAND",
        rustix::process::getegid().as_raw()
    );
    let what = "its owner and root alone may begin and end transactions";
    hinted(format!("{}: user {user} may not ask this daemon: {what}", socket.display()), hint)
}

/// Asks a daemon. What it could not do is an error.
pub fn ask_txn(socket: &Path, about: TxnAsk) -> anyhow::Result<TxnAnswer> {
    match ask(socket, &Request::Txn { about }, PATIENCE) {
        Ok(Reply::Txn(answer)) => Ok(*answer),
        Ok(Reply::Error(error)) => Err(anyhow::anyhow!("{error}")),
        Ok(_) => Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
        Err(AskError::NotRunning { socket, cause }) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(unreachable(&socket, &cause))
        }
        Err(error) => Err(hinted(error.to_string(), ASK_HINT)),
    }
}
