//! The command line: one file for each subcommand.

mod backup;
mod client;
mod conflict;
mod console;
mod dev;
mod diff;
mod history;
mod init;
mod log;
mod mirror;
mod mount;
mod reaper;
mod rebuild;
mod retention;
mod serve;
mod snapshot;
mod space;
mod status;
pub mod txn;
mod umount;
mod undo;
mod volume;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A clustered filesystem: a few machines mount one tree, a quorum commits every change.
#[derive(Parser)]
#[command(name = "gavel", version, max_term_width = 100)]
#[command(after_help = "Exit status: 0 done; 1 could not be done; 2 wrong command line; 3 a running node failed.\n\n\
Try it on this machine:\n  gavel dev up --dir /tmp/gavel --nodes 3\n  ls /tmp/gavel/mnt/1\n  gavel dev down --dir /tmp/gavel")]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new cluster: its certificates, and a configuration for each node
    Init(init::Init),
    /// Run a node
    Serve(serve::Serve),
    /// Mount a volume, through the node that runs on this machine or as a client without a replica
    Mount(mount::Mount),
    /// Machines that mount without a replica
    #[command(subcommand)]
    Client(client::Client),
    /// End a mount
    Umount(umount::Umount),
    /// Say how a node and its cluster are, and what to do if they are not well
    Status(status::Status),
    /// Say what became of a path
    History(history::History),
    /// Say which transactions there were, or come
    Log(log::Log),
    /// Say how two states differ
    Diff(diff::Diff),
    /// Name states of a volume
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Make, clone, destroy and restore volumes
    #[command(subcommand)]
    Volume(volume::Volume),
    /// Keep second copies of volumes, in other clusters
    #[command(subcommand)]
    Mirror(mirror::Mirror),
    /// Keep states of a volume in a folder of plain files, and bring them back without a cluster
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Make many changes at once, or none
    #[command(subcommand)]
    Txn(txn::Txn),
    /// Make a file or directory what it was
    Undo(undo::Undo),
    /// Make a copy of what a file or directory was
    Restore(undo::Restore),
    /// Show a volume and its past in the browser
    Console(console::Console),
    /// Say which past states of a volume stay
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Say where the bytes of a volume are: in the present, in the past, in snapshots, on the disk
    Space(space::Space),
    /// Look at changes that this node answered and could not commit
    #[command(subcommand)]
    Conflict(conflict::Conflict),
    /// Make a stopped node fetch all its records anew from the others
    Rebuild(rebuild::Rebuild),
    /// A throw-away cluster on this machine
    #[command(subcommand)]
    Dev(dev::Dev),
    /// See a daemon off that is killed and cannot end
    #[command(hide = true)]
    Reaper(reaper::Reaper),
}

/// Carries out a command line.
///
/// # Errors
/// Why it could not be done.
pub fn run(line: CommandLine) -> anyhow::Result<ExitCode> {
    match line.command {
        Command::Init(init) => init.run(),
        Command::Serve(serve) => serve.run(),
        Command::Mount(mount) => mount.run(),
        Command::Client(client) => client.run(),
        Command::Umount(umount) => umount.run(),
        Command::Status(status) => status.run(),
        Command::History(history) => history.run(),
        Command::Log(log) => log.run(),
        Command::Diff(diff) => diff.run(),
        Command::Snapshot(snapshot) => snapshot.run(),
        Command::Volume(volume) => volume.run(),
        Command::Mirror(mirror) => mirror.run(),
        Command::Backup(backup) => backup.run(),
        Command::Txn(txn) => txn.run(),
        Command::Undo(undo) => undo.run(),
        Command::Restore(restore) => restore.run(),
        Command::Console(console) => console.run(),
        Command::Retention(retention) => retention.run(),
        Command::Space(space) => space.run(),
        Command::Conflict(conflict) => conflict.run(),
        Command::Rebuild(rebuild) => rebuild.run(),
        Command::Dev(dev) => dev.run(),
        Command::Reaper(reaper) => reaper.run(),
    }
}
