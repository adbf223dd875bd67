//! Mounting, unmounting, and what a daemon that was killed leaves behind.

use crate::fixture::{Fixture, eventually, has_fuse, is_busy, is_root, shell};
use crate::ram::RamTree;
use gavel_mount::{MountError, MountOptions, Mounted, UnmountError, Unmounted, table};
use std::fs;
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const CHILD_MOUNTS_AT: &str = "GAVEL_MOUNT_TEST_CHILD";

/// Not a test: the process that is killed. Mounts, says so, and waits for its end.
#[test]
fn child_that_mounts() {
    let Some(path) = std::env::var_os(CHILD_MOUNTS_AT) else { return };
    let mounted =
        Mounted::new(RamTree::with_thread(), MountOptions::at(path)).unwrap_or_else(|error| panic!("{error}"));
    println!("mounted");
    mounted.wait(None);
}

/// A daemon in a process of its own; killed at the end.
pub struct Daemon(pub Child);

impl Daemon {
    fn mounting(path: &Path) -> Daemon {
        Daemon::running("lifecycle::child_that_mounts", CHILD_MOUNTS_AT, path)
    }

    /// A process of this binary that runs one of its tests, which finds the path in `variable`, and says when it has mounted.
    pub fn running(test: &str, variable: &str, path: &Path) -> Daemon {
        let own = std::env::current_exe().expect("this binary");
        let mut command = Command::new(own);
        command.args(["--exact", test, "--nocapture"]).env(variable, path);
        let mut daemon = Daemon(command.stdout(Stdio::piped()).spawn().expect("starts"));
        let stdout = std::io::BufReader::new(daemon.0.stdout.take().expect("piped"));
        let said = stdout.lines().map_while(Result::ok).any(|line| line.contains("mounted"));
        assert!(said, "the daemon ended before it mounted");
        daemon
    }

    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.0.kill().expect("kills");
        self.0.wait().expect("ends");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes off whatever is mounted at a directory when a test ends.
struct Cleared<'a>(&'a Path);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        while table::unmount_path(self.0, true).is_ok() {}
    }
}

fn at(path: &Path) -> Result<Mounted, MountError> {
    Mounted::new(RamTree::with_thread(), MountOptions::at(path))
}

fn is_dead(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

#[test]
fn the_mount_of_a_killed_daemon_is_taken_off_by_the_next_one() {
    if !has_fuse() {
        return;
    }
    let parent = TempDir::new().expect("a directory");
    let path = parent.path().join("with space");
    fs::create_dir(&path).expect("makes");
    let _cleared = Cleared(&path);
    let daemon = Daemon::mounting(&path);
    fs::write(path.join("file"), "x").expect("writes");
    assert!(matches!(at(&path), Err(MountError::Occupied { .. })), "a live mount stays");
    let open = fs::File::open(path.join("file")).expect("opens");
    daemon.kill();
    eventually("the mount is dead", || is_dead(&path));
    assert_eq!(table::stale_mounts_under(parent.path()).expect("a table"), std::slice::from_ref(&path));
    let mounted = at(&path).unwrap_or_else(|error| panic!("{error}"));
    assert!(table::stale_mounts_under(parent.path()).expect("a table").is_empty());
    assert_eq!(fs::read_dir(&path).expect("lists").count(), 0, "a fresh tree");
    drop(open);
    eventually("nothing uses the mount", || !is_busy(&path));
    assert_eq!(mounted.unmount().expect("unmounts"), Unmounted::Clean);
}

#[test]
fn a_dead_mount_is_unmounted_on_demand_also_when_in_use() {
    if !has_fuse() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let _cleared = Cleared(dir.path());
    let daemon = Daemon::mounting(dir.path());
    fs::write(dir.path().join("file"), "x").expect("writes");
    let open = fs::File::open(dir.path().join("file")).expect("opens");
    daemon.kill();
    eventually("the mount is dead", || is_dead(dir.path()));
    assert!(matches!(table::unmount_path(dir.path(), false), Err(UnmountError::Busy { .. })));
    assert_eq!(table::unmount_path(dir.path(), true).expect("unmounts"), Unmounted::Busy);
    assert!(matches!(table::unmount_path(dir.path(), true), Err(UnmountError::NotMounted { .. })));
    drop(open);
}

#[test]
fn a_busy_mount_is_detached_and_serves_what_is_open() {
    let Some(mut fixture) = Fixture::new() else { return };
    fs::write(fixture.path("file"), "x").expect("writes");
    let open = fs::File::open(fixture.path("file")).expect("opens");
    let mounted = fixture.mounted.take().expect("mounted");
    assert_eq!(mounted.unmount().expect("unmounts"), Unmounted::Busy);
    assert_eq!(table::mount_at(fixture.dir.path()).expect("a table"), None);
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut byte, 0).expect("it is served as before");
    let again = at(fixture.dir.path()).unwrap_or_else(|error| panic!("{error}"));
    drop(open);
    eventually("its last user is gone", || fixture.tree.open_objects() == 0);
    assert_eq!(fs::read_dir(fixture.dir.path()).expect("the new mount is untouched").count(), 0);
    eventually("nothing uses the new mount", || !is_busy(fixture.dir.path()));
    assert_eq!(again.unmount().expect("unmounts"), Unmounted::Clean);
}

#[test]
fn directories_that_cannot_be_covered_are_refused() {
    if !has_fuse() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("file");
    assert!(matches!(at(&file), Err(MountError::Missing { .. })));
    fs::write(&file, "x").expect("writes");
    assert!(matches!(at(&file), Err(MountError::NotDirectory { .. })));
    assert!(matches!(at(dir.path()), Err(MountError::NotEmpty { .. })));
    let mut options = MountOptions::at(dir.path());
    options.allow_non_empty = true;
    let mounted = Mounted::new(RamTree::with_thread(), options.clone()).unwrap_or_else(|error| panic!("{error}"));
    assert!(!file.exists(), "covered");
    assert_eq!(mounted.unmount().expect("unmounts"), Unmounted::Clean);
    options.fsname = "a,b".into();
    assert!(matches!(Mounted::new(RamTree::with_thread(), options), Err(MountError::BadName { .. })));
}

#[test]
fn the_end_of_a_mount_is_noticed_whoever_ends_it() {
    let Some(mut fixture) = Fixture::new() else { return };
    let mounted = fixture.mounted.take().expect("mounted");
    assert!(!mounted.wait(Some(Duration::ZERO)));
    table::unmount_path(fixture.dir.path(), false).expect("unmounts");
    assert!(mounted.wait(Some(Duration::from_secs(10))));
    assert_eq!(mounted.unmount().expect("there is nothing left to do"), Unmounted::Already);
    let mounted = at(fixture.dir.path()).unwrap_or_else(|error| panic!("{error}"));
    drop(mounted);
    assert_eq!(table::mount_at(fixture.dir.path()).expect("a table"), None, "dropping unmounts");
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let Some(fixture) = Fixture::with(|options| options.read_only = true) else { return };
    let error = fs::write(fixture.path("file"), "x").expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    fixture.finish();
}

#[test]
fn a_mount_is_listed_as_ours_with_its_name() {
    let Some(fixture) = Fixture::with(|options| options.fsname = "gavel:home".into()) else { return };
    let entry = table::mount_at(fixture.dir.path()).expect("a table").expect("an entry");
    assert!(entry.is_ours() && !entry.is_dead());
    assert_eq!(entry.source, "gavel:home");
    assert_eq!(shell(fixture.dir.path(), "df --output=source . | tail -1").trim(), "gavel:home");
    fixture.finish();
}

#[test]
fn who_may_not_mount_uses_the_helper() {
    if !has_fuse()
        || !is_root()
        || !crate::fixture::has_program("fusermount3")
        || !crate::fixture::has_program("setpriv")
    {
        return;
    }
    let mode = fs::metadata("/dev/fuse").expect("is there").permissions().mode();
    if mode & 0o006 != 0o006 {
        return eprintln!("skipped: /dev/fuse is not open to users");
    }
    let dir = TempDir::new().expect("a directory");
    let _cleared = Cleared(dir.path());
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).expect("gives it away");
    // The binary must be reachable for that user, which a build directory need not be.
    let reachable = TempDir::new().expect("a directory");
    fs::set_permissions(reachable.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let own = reachable.path().join("mounts");
    fs::copy(std::env::current_exe().expect("this binary"), &own).expect("copies");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&own);
    command.args(["--exact", "lifecycle::child_that_mounts", "--nocapture"]).env(CHILD_MOUNTS_AT, dir.path());
    let mut daemon = Daemon(command.stdout(Stdio::piped()).spawn().expect("starts"));
    let stdout = std::io::BufReader::new(daemon.0.stdout.take().expect("piped"));
    assert!(stdout.lines().map_while(Result::ok).any(|line| line.contains("mounted")), "mounted by {:?}", daemon.0);
    let script = format!("stat -c %a {}", dir.path().display());
    let mut user = Command::new("setpriv");
    let output = user.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", &script]).output();
    assert_eq!(output.expect("runs").stdout, b"755\n");
    assert!(fs::read_dir(dir.path()).is_err(), "others, root too, stay out without allow_other");
    daemon.kill();
}
