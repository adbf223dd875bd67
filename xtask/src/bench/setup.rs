//! What is compared when nothing is named: a local directory, a passthrough and a cluster, all on one ext4 image.
//!
//! An image with a journal, because the host's filesystem may be anything: on one without a journal, creating a file after
//! many deletes costs many times as much, and the figures mean nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use super::BenchArguments;
use super::cluster::Cluster;
use super::place::{Kind, Place};
use super::undo::Undo;

/// How long a process may take to end when asked to.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The image while trying things.
const QUICK_IMAGE_GIB: u64 = 4;

/// Makes a directory for images and inputs, which goes away at the end.
pub(super) fn scratch(arguments: &BenchArguments, undo: &Undo) -> Result<PathBuf> {
    let parent = arguments.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = parent.join(format!("gavel-bench-{}", std::process::id()));
    fs::create_dir(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    let gone = scratch.clone();
    undo.later(format!("removing {}", scratch.display()), move || Ok(fs::remove_dir_all(gone)?));
    Ok(scratch)
}

/// A cluster whose mounts have the option `local_opens`.
const LOCAL_OPENS: &str = "local-opens";

/// Brings up what is compared.
pub(super) fn bring_up(arguments: &BenchArguments, scratch: &Path, undo: &Undo) -> Result<Vec<Place>> {
    const NAMES: [&str; 4] = ["local", "passthrough", "gavel", LOCAL_OPENS];
    if let Some(unknown) = arguments.places.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("there is no directory {unknown:?} to bring up\nHint: {}", NAMES.join(", "));
    }
    let named = |name: &str| arguments.places.iter().any(|wanted| wanted == name);
    let wants = |name: &str| arguments.places.is_empty() || named(name);
    let disk = disk(arguments, scratch, undo)?;
    let mut places = Vec::new();
    if wants("local") {
        let local = disk.join("local");
        fs::create_dir(&local)?;
        places.push(Place::new("local", vec![local], Kind::Given(Vec::new())));
    }
    if wants("passthrough") {
        places.push(passthrough(&disk, scratch, undo)?);
    }
    // The one with an option only if it is asked for: two clusters share the cores, also when one rests.
    let clusters = [("gavel", None, wants("gavel")), (LOCAL_OPENS, Some("local_opens"), named(LOCAL_OPENS))];
    for (name, option, _) in clusters.into_iter().filter(|(_, _, wanted)| *wanted) {
        match gavel_binary(arguments)? {
            Some(gavel) => places.push(cluster(&gavel, name, option, &disk, undo)?),
            None => eprintln!(
                "Note: no gavel binary next to this one, so no cluster is compared\nHint: cargo build --release --bin gavel"
            ),
        }
    }
    ensure!(!places.is_empty(), "nothing to compare");
    Ok(places)
}

/// A directory on an ext4 image of its own, or, when that is not possible, a plain one.
fn disk(arguments: &BenchArguments, scratch: &Path, undo: &Undo) -> Result<PathBuf> {
    let disk = scratch.join("disk");
    fs::create_dir(&disk)?;
    if !rustix::process::geteuid().is_root() {
        eprintln!("Note: not root, so no ext4 image: comparing on {}, whatever that is", disk.display());
        return Ok(disk);
    }
    let gib = if arguments.quick { QUICK_IMAGE_GIB } else { arguments.image_gib };
    let image = scratch.join("disk.ext4");
    let free = rustix::fs::statvfs(scratch)?;
    let free_gib = (free.f_bavail * free.f_frsize) >> 30;
    ensure!(
        free_gib > gib,
        "{}: {free_gib} GiB are free, the image needs {gib}\nHint: --scratch DIR elsewhere, or --image-gib N",
        scratch.display()
    );
    let file = fs::File::create_new(&image)?;
    // Allocated now, so that no round pays the host for it.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, gib << 30)
        .or_else(|_| rustix::fs::ftruncate(&file, gib << 30))
        .with_context(|| format!("making {}", image.display()))?;
    tool(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-O", "has_journal"])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
            .arg(&image),
    )?;
    let device = attach(&image)?;
    let detach = device.clone();
    undo.later(format!("detaching {device}"), move || tool(Command::new("losetup").arg("-d").arg(&detach)).map(drop));
    tool(Command::new("mount").args(["-t", "ext4", "-o", "noatime"]).arg(&device).arg(&disk))?;
    let mounted = disk.clone();
    undo.later(format!("unmounting {}", disk.display()), move || unmount(&mounted));
    Ok(disk)
}

/// A loop device on the image: reading and writing it directly, so that nothing is cached twice, where the host can.
fn attach(image: &Path) -> Result<String> {
    let with = |options: &[&str]| tool(Command::new("losetup").args(["--find", "--show"]).args(options).arg(image));
    with(&["--direct-io=on"]).or_else(|_| with(&[])).map(|device| device.trim().to_owned())
}

/// Unmounts, or at least takes it out of the tree when something still holds it.
fn unmount(mounted: &Path) -> Result<()> {
    let deadline = Instant::now() + END_LIMIT;
    while Instant::now() < deadline {
        match rustix::mount::unmount(mounted, UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(Duration::from_millis(50)),
            outcome => return outcome.with_context(|| format!("unmounting {}", mounted.display())),
        }
    }
    rustix::mount::unmount(mounted, UnmountFlags::DETACH).with_context(|| format!("detaching {}", mounted.display()))
}

fn tool(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A passthrough of ours, served by a process of its own.
pub(super) struct PassthroughMount {
    source: PathBuf,
    mountpoint: PathBuf,
    server: Arc<Mutex<Option<Child>>>,
}

fn passthrough(disk: &Path, scratch: &Path, undo: &Undo) -> Result<Place> {
    let mount = PassthroughMount {
        source: disk.join("behind-passthrough"),
        mountpoint: scratch.join("passthrough"),
        server: Arc::default(),
    };
    fs::create_dir(&mount.source)?;
    fs::create_dir(&mount.mountpoint)?;
    let (mountpoint, server) = (mount.mountpoint.clone(), Arc::clone(&mount.server));
    undo.later("ending the passthrough", move || end(&mut lock(&server), &mountpoint));
    mount.start()?;
    Ok(Place::new("passthrough", vec![mount.mountpoint.clone()], Kind::Passthrough(mount)))
}

impl PassthroughMount {
    /// The process that serves it.
    pub(super) fn pids(&self) -> Vec<u32> {
        lock(&self.server).iter().map(Child::id).collect()
    }

    /// Ends the process, does something while nothing is mounted, and starts a new one.
    pub(super) fn remount(&self, meanwhile: fn() -> Result<()>) -> Result<()> {
        end(&mut lock(&self.server), &self.mountpoint)?;
        meanwhile()?;
        self.start()
    }

    fn start(&self) -> Result<()> {
        let this = std::env::current_exe().context("finding this program")?;
        let mut server = Command::new(this)
            .args(["passthrough", "--until-input-closes"])
            .args([&self.source, &self.mountpoint])
            // Closed when we are gone, however that happens. Not a death signal: that comes when the thread ends which
            // started the process, and each turn has its own thread.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for us; we end it when its turn comes.
            .process_group(0)
            .spawn()
            .context("starting the passthrough")?;
        let mut said = String::new();
        if let Some(output) = server.stdout.take() {
            BufReader::new(output).read_line(&mut said).context("waiting for the passthrough")?;
        }
        *lock(&self.server) = Some(server);
        ensure!(said.trim() == "ready", "the passthrough did not start");
        Ok(())
    }
}

fn lock(server: &Mutex<Option<Child>>) -> MutexGuard<'_, Option<Child>> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the server to unmount and end, and insists after a while.
fn end(server: &mut Option<Child>, mountpoint: &Path) -> Result<()> {
    let Some(mut child) = server.take() else { return Ok(()) };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the passthrough has no process id")?;
    let deadline = Instant::now() + END_LIMIT;
    let _ = rustix::process::kill_process(pid, Signal::TERM);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "the passthrough ended with {status}");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    match rustix::mount::unmount(mountpoint, UnmountFlags::DETACH) {
        // It got that far by itself.
        Err(rustix::io::Errno::INVAL) => Ok(()),
        outcome => outcome.with_context(|| format!("unmounting {}", mountpoint.display())),
    }
}

/// The binary that was named, or the one next to this program; `None` when there is none.
fn gavel_binary(arguments: &BenchArguments) -> Result<Option<PathBuf>> {
    if let Some(named) = &arguments.gavel {
        return Ok(Some(fs::canonicalize(named).with_context(|| named.display().to_string())?));
    }
    let this = std::env::current_exe().context("finding this program")?;
    Ok(Some(this.with_file_name("gavel")).filter(|path| path.is_file()))
}

fn cluster(gavel: &Path, name: &str, option: Option<&str>, disk: &Path, undo: &Undo) -> Result<Place> {
    let directory = disk.join(name);
    let cluster = Cluster::new(gavel, &directory);
    let down = Cluster::new(gavel, &directory);
    undo.later("ending the cluster", move || down.end());
    cluster.up()?;
    option.map_or(Ok(()), |option| cluster.mount_anew(option))?;
    Ok(Place::new(name, cluster.mounts(), Kind::Cluster(cluster)))
}
