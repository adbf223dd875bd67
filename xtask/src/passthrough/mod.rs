//! The floor for anything behind FUSE: a filesystem that hands every request to a directory of another one.
//!
//! It does as little as can be done: the kernel may keep names, attributes, listings and pages for a day (nobody else
//! changes the directory behind our back), data goes from the kernel straight to the file behind
//! (`FOPEN_PASSTHROUGH`, when we are root and the kernel can), directories are opened without asking us, and a
//! file handle says nothing, so that opening costs no bookkeeping. What is faster than this, behind FUSE, has sent fewer
//! requests.
//!
//! What it is not: a filesystem to keep things in. It has no extended attributes, assumes that it alone changes the
//! directory, and stays on one filesystem.
//!
//! - `nodes`: which inode number is which file behind
//! - `attr`: attributes and times, from the one world to the other
//! - `serve`: the requests
//! - `syncs`: threads that wait for the disk, so that those that read requests do not
//!
//! Invariants:
//! 1. A node's number is the inode number behind (1 for the root). The node pins that inode, so the number is not
//!    given to another file while the kernel knows it.
//! 2. An inode is either always opened with kernel passthrough or never: the kernel refuses a mixture.

mod attr;
mod nodes;
mod serve;
mod syncs;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::sys::signal::{SigSet, Signal};
use rustix::mount::UnmountFlags;
use rustix::process::{Resource, Rlimit};

use nodes::Nodes;
use serve::Passthrough;
use syncs::Syncs;

/// How many threads read requests when nothing else is said. On two cores, creating a file costs 20 us of our CPU with one
/// thread, 23 with two, 40 with four and 75 with eight: each request wakes the thread that has slept longest. So as few as
/// can use two cores; what waits for the disk does so elsewhere (`syncs`).
const THREADS: u64 = 2;

/// What `xtask passthrough` is told.
#[derive(Args)]
pub struct PassthroughArguments {
    /// The directory to serve
    source: PathBuf,
    /// Where to mount it
    mountpoint: PathBuf,
    /// Threads that read requests (1..=64)
    #[arg(long, default_value_t = THREADS, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// Read and write through this process even where the kernel could do it alone
    #[arg(long)]
    no_kernel_passthrough: bool,
    /// End when standard input is closed, as it is when the program that started this one is gone
    #[arg(long)]
    until_input_closes: bool,
}

/// Mounts, says `ready` on standard output, and serves until SIGTERM, SIGINT or an unmount.
///
/// # Errors
/// When the source cannot be opened or the mount fails.
pub fn run(arguments: &PassthroughArguments) -> Result<ExitCode> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("blocking signals")?;
    raise_open_files_limit();
    rustix::process::umask(rustix::fs::Mode::empty());

    let nodes = Nodes::open(&arguments.source).with_context(|| format!("opening {}", arguments.source.display()))?;
    let served = Passthrough::new(nodes, Syncs::start(), !arguments.no_kernel_passthrough);
    let mut session = Session::new(served, &arguments.mountpoint, &mount_config(arguments.threads as usize))
        .with_context(|| format!("mounting {}", arguments.mountpoint.display()))?;
    let mut unmounter = session.unmount_callable();
    if arguments.until_input_closes {
        std::thread::spawn(|| {
            // Whatever ends the reading, there is nobody left to serve.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGTERM);
        });
    }
    let mountpoint = arguments.mountpoint.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() && unmounter.unmount().is_err() {
            // Somebody uses it. Out of the tree then; we serve them until they are done.
            let _ = rustix::mount::unmount(&mountpoint, UnmountFlags::DETACH);
        }
    });
    println!("ready");
    std::io::stdout().flush().context("telling that the mount is ready")?;
    session.run().context("serving")?;
    Ok(ExitCode::SUCCESS)
}

fn mount_config(threads: usize) -> Config {
    let root = rustix::process::geteuid().is_root();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("passthrough".to_owned()),
        MountOption::Subtype("passthrough".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    config.acl = if root { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(threads);
    config.clone_fd = threads > 1;
    config
}

/// Each file that the kernel knows costs us one descriptor, or two: ask for as many as we may have.
fn raise_open_files_limit() {
    const WANTED: u64 = 1 << 20;
    /// What the benchmark's largest workload needs, with room to spare.
    const FILES_EXPECTED: u64 = 15_000;
    let now = rustix::process::getrlimit(Resource::Nofile);
    let root = Rlimit { current: Some(WANTED), maximum: Some(WANTED.max(now.maximum.unwrap_or(WANTED))) };
    if rustix::process::setrlimit(Resource::Nofile, root).is_err() {
        let all_we_may = Rlimit { current: now.maximum, maximum: now.maximum };
        // Fewer descriptors only matter to trees larger than that; looking up reports EMFILE then.
        let _ = rustix::process::setrlimit(Resource::Nofile, all_we_may);
        let limit = now.maximum.unwrap_or(WANTED);
        if limit < FILES_EXPECTED {
            eprintln!("passthrough: no more than about {limit} files can be in use (the hard limit of open files)");
        }
    }
}
