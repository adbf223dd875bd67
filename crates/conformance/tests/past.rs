//! Past states through plain paths, on every mount of a cluster (docs/protocols/history.md, "Reading it").

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, with_cluster};
use gavel_conformance::trees::Tree;
use gavel_conformance::{command, machine, trees, wait};
use rustix::fs::{FlockOperation, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// How long a call may take on a mount that has no quorum: the node waits for ten seconds.
const CALL_MAX: Duration = Duration::from_secs(60);
const FILES: u64 = 40;

/// A state that was noted while nothing changed.
struct State {
    snapshot: String,
    tid: String,
    tree: Tree,
    /// Of the file `coloured`, if it is there.
    colour: Option<Vec<u8>>,
}

impl State {
    fn note(cluster: &Cluster, snapshot: &str) -> Result<State> {
        let root = cluster.mount(1).join("tree");
        let (tree, colour) = (trees::read(&root)?, colour(&root));
        let tid = make_snapshot(cluster, 1, snapshot)?;
        Ok(State { snapshot: snapshot.into(), tid, tree, colour })
    }

    /// Sees that a directory shows it.
    fn is_at(&self, root: &Path) -> Result<()> {
        let seen = trees::read(root).and_then(|seen| trees::same(&self.tree, &seen));
        seen.with_context(|| root.display().to_string())?;
        let colour = colour(root);
        ensure!(colour == self.colour, "{}: {colour:?} and not {:?}", root.display(), self.colour);
        Ok(())
    }
}

fn colour(root: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(root.join("coloured"), "user.colour", &mut value).ok()?;
    Some(value[..len].to_vec())
}

fn make_snapshot(cluster: &Cluster, node: u64, name: &str) -> Result<String> {
    let mount = cluster.mount(node);
    let mount = mount.to_str().context("a path of text")?;
    let said = cluster.gavel().run(["snapshot", "create", mount, name])?.ok()?;
    let tid = said.split_whitespace().nth(2).filter(|tid| tid.starts_with("0x"));
    Ok(tid.with_context(|| format!("no transaction in {said:?}"))?.to_owned())
}

/// A Tid as a time: nanoseconds since the epoch.
fn as_time(tid: &str) -> Result<String> {
    let ns = nanoseconds(tid)?;
    let (secs, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let script = format!("date -u -d @{secs}.{nanos:09} +%Y-%m-%dT%H:%M:%S.%NZ");
    Ok(command::shell(Path::new("/"), &script, PATIENCE)?.trim().to_owned())
}

fn nanoseconds(tid: &str) -> Result<u64> {
    Ok(u64::from_str_radix(tid.trim_start_matches("0x"), 16)?)
}

fn set_colour(root: &Path, colour: &[u8]) -> Result<()> {
    Ok(rustix::fs::setxattr(root.join("coloured"), "user.colour", colour, XattrFlags::empty())?)
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

/// The name of the state behind it, the mount through which it is made, and what it is.
type Change = (&'static str, u64, fn(&Path) -> Result<()>);

/// What is done to the tree between the states.
fn changes() -> Vec<Change> {
    vec![
        ("made", 1, |root| {
            trees::make(root, FILES)?;
            std::fs::write(root.join("coloured"), "colours")?;
            symlink("coloured", root.join("pointer"))?;
            set_colour(root, b"red")
        }),
        ("written", 2, |root| {
            OpenOptions::new().write(true).open(root.join("d0/é0/0/file 0"))?.write_all_at(b"more", 3)?;
            std::fs::write(root.join("d1/é1/1/file 1"), trees::noise(7, 300_000))?;
            OpenOptions::new().write(true).open(root.join("d2/é2/2/file 2"))?.set_len(1)?;
            set_colour(root, b"blue")
        }),
        ("named", 3, |root| {
            std::fs::rename(root.join("d3"), root.join("moved"))?;
            std::fs::rename(root.join("d0/é0/0/file 0"), root.join("d4/file 0"))?;
            std::fs::hard_link(root.join("coloured"), root.join("d4/second"))?;
            std::fs::remove_file(root.join("pointer"))?;
            Ok(symlink("elsewhere", root.join("pointer"))?)
        }),
        ("removed", 1, |root| {
            std::fs::remove_dir_all(root.join("moved"))?;
            std::fs::remove_file(root.join("coloured"))?;
            std::fs::set_permissions(root.join("d1"), Permissions::from_mode(0o750))?;
            Ok(std::fs::remove_file(root.join("pointer"))?)
        }),
        ("empty", 2, |root| {
            std::fs::remove_dir_all(root)?;
            Ok(std::fs::create_dir(root)?)
        }),
    ]
}

/// Makes the changes; each through its mount. Gives the states behind them.
fn play(cluster: &Cluster) -> Result<Vec<State>> {
    std::fs::create_dir(cluster.mount(1).join("tree"))?;
    let mut states = Vec::new();
    for (name, node, change) in changes() {
        change(&cluster.mount(node).join("tree")).with_context(|| name.to_owned())?;
        states.push(State::note(cluster, name)?);
    }
    Ok(states)
}

/// A file of the tree is written and others are made and removed, through one mount, until that is dropped.
fn with_changes_going_on<T>(cluster: &Cluster, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let ends = AtomicBool::new(false);
    let root = cluster.mount(2).join("tree");
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| -> Result<u64> {
            let mut rounds = 0;
            while !ends.load(Ordering::SeqCst) {
                std::fs::write(root.join("ticking"), rounds.to_string())?;
                std::fs::create_dir(root.join("d1"))?;
                std::fs::remove_dir(root.join("d1"))?;
                rounds += 1;
            }
            std::fs::remove_file(root.join("ticking"))?;
            Ok(rounds)
        });
        let done = body();
        ends.store(true, Ordering::SeqCst);
        let rounds = changing.join().map_err(|_| anyhow::anyhow!("the changes have panicked"))?;
        println!("{} rounds of changes went on meanwhile", rounds.context("changes meanwhile")?);
        done
    })
}

#[test]
fn every_mount_shows_every_state_as_it_was() -> Result<()> {
    with_cluster(3, |cluster| {
        let states = play(cluster)?;
        with_changes_going_on(cluster, || {
            for state in &states {
                let forms = [state.tid.clone(), state.snapshot.clone(), as_time(&state.tid)?];
                for node in cluster.ids() {
                    let mount = cluster.mount(node);
                    for at in &forms {
                        state.is_at(&mount.join(format!("tree@@{at}")))?;
                    }
                    state.is_at(&mount.join(format!("@@{}/tree", state.tid)))?;
                }
            }
            same_on_all_mounts(cluster, &states[1])?;
            removed_names_are_there(cluster, &states)?;
            no_state_and_no_name(cluster)
        })?;
        nothing_can_be_changed(cluster, &states[0])?;
        compared_and_copied(cluster, &states)?;
        the_same_bytes_by_tar(cluster, &states[2])
    })
}

/// Inode numbers are the same on all mounts; and never those of what is there now.
fn same_on_all_mounts(cluster: &Cluster, state: &State) -> Result<()> {
    let inode = |node: u64, name: &str| -> Result<u64> {
        let path = cluster.mount(node).join(name);
        Ok(std::fs::symlink_metadata(&path).with_context(|| path.display().to_string())?.ino())
    };
    for name in ["tree@@", "@@/tree", ".@@/tree"] {
        let name = name.replace("@@", &format!("@@{}", state.tid));
        let numbers = cluster.ids().map(|node| inode(node, &name)).collect::<Result<Vec<_>>>()?;
        ensure!(numbers.iter().all(|number| *number == numbers[0]), "{name}: {numbers:?}");
        ensure!(numbers[0] != inode(1, "tree")?, "{name} has the number of the live directory");
    }
    let dir = format!("tree@@{}", state.snapshot);
    let (first, second) = (inode(2, &format!("{dir}/d2/é2/2/file 2"))?, inode(2, &format!("{dir}/second name 2"))?);
    ensure!(first == second, "two names of one file: {first:x} and {second:x}");
    ensure!(first != inode(2, "tree@@made/second name 2")?, "a file has one number in two states");
    Ok(())
}

fn removed_names_are_there(cluster: &Cluster, states: &[State]) -> Result<()> {
    for node in cluster.ids() {
        // A name in a live directory; what is there now is another directory of that name.
        let root = cluster.mount(node).join("tree");
        for name in ["coloured", "coloured@@made", "@@made", ".@@made"] {
            ensure!(errno(std::fs::metadata(root.join(name))) == Some(Errno::NOENT), "tree/{name} is there");
        }
        ensure!(root.join("@@empty").is_dir(), "this directory was there then");
        let then = cluster.mount(node).join(format!("tree@@{}", states[0].tid));
        ensure!(std::fs::read(then.join("coloured"))? == b"colours", "not as it was");
        ensure!(std::fs::read_link(then.join("pointer"))? == Path::new("coloured"), "another target");
        ensure!(errno(std::fs::metadata(then.join("moved"))) == Some(Errno::NOENT), "it was named so later");
        ensure!(cluster.mount(node).join("tree@@named/moved").is_dir(), "renamed, and not there");
    }
    Ok(())
}

fn no_state_and_no_name(cluster: &Cluster) -> Result<()> {
    for node in cluster.ids() {
        for (name, expected) in [
            ("tree@@unheard-of", Errno::NOENT),
            ("tree@@2500-01-01", Errno::INVAL),
            ("tree@@2500-01-01T00:00:00Z", Errno::INVAL),
            ("tree@@0xffffffffffffffff", Errno::INVAL),
            ("tree@@0x5", Errno::NOENT),
            ("tree@@2000-01-01", Errno::NOENT),
            ("absent@@made", Errno::NOENT),
            ("tree@@made/coloured@@made", Errno::NOENT),
        ] {
            let found = errno(std::fs::metadata(cluster.mount(node).join(name)));
            ensure!(found == Some(expected), "node {node}, {name}: {found:?} and not {expected:?}");
        }
    }
    Ok(())
}

fn nothing_can_be_changed(cluster: &Cluster, state: &State) -> Result<()> {
    for node in cluster.ids() {
        let then = cluster.mount(node).join(format!("tree@@{}", state.tid));
        let file = then.join("coloured");
        let outside = cluster.mount(node).join("tree/linked");
        let refused = [
            ("open", OpenOptions::new().write(true).open(&file).map(drop)),
            ("create", std::fs::write(then.join("fresh"), "")),
            ("mkdir", std::fs::create_dir(then.join("fresh"))),
            ("unlink", std::fs::remove_file(&file)),
            ("rmdir", std::fs::remove_dir(&then)),
            ("rename", std::fs::rename(&file, then.join("fresh"))),
            ("rename out", std::fs::rename(&then, &outside)),
            ("link out", std::fs::hard_link(&file, &outside)),
            ("chmod", std::fs::set_permissions(&file, Permissions::from_mode(0o600))),
            (
                "setxattr",
                set_colour(&then, b"green").map_err(|error| match error.downcast::<Errno>() {
                    Ok(errno) => errno.into(),
                    Err(error) => io::Error::other(error.to_string()),
                }),
            ),
        ];
        for (what, result) in refused {
            let found = errno(result);
            ensure!(found == Some(Errno::ROFS), "node {node}, {what}: {found:?}");
        }
        let open = File::open(&file)?;
        rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive).context("flock")?;
        rustix::fs::fcntl_lock(&open, FlockOperation::NonBlockingLockShared).context("fcntl")?;
        open.sync_all().context("fsync")?;
        state.is_at(&then)?;
    }
    Ok(())
}

fn compared_and_copied(cluster: &Cluster, states: &[State]) -> Result<()> {
    let (made, written) = (&states[0], &states[1]);
    for node in cluster.ids() {
        let mount = cluster.mount(node);
        let file = "d1/é1/1/file 1";
        let script =
            format!("cmp -s 'tree@@{}/{file}' 'tree@@{}/{file}' && echo same || echo differs", made.tid, written.tid);
        ensure!(command::shell(&mount, &script, PATIENCE)? == "differs\n", "node {node}: diff takes them for one file");
        std::fs::write(mount.join("tree/now"), "now")?;
        let tid = make_snapshot(cluster, node, &format!("copy-{node}"))?;
        std::fs::write(mount.join("tree/now"), "then")?;
        let root = mount.join("tree");
        let differences = command::shell(&root, &format!("diff now now@@{tid} || true"), PATIENCE)?;
        ensure!(differences.contains("< then") && differences.contains("> now"), "node {node}: {differences}");
        command::shell(&root, &format!("cp now@@copy-{node} now"), PATIENCE)?;
        ensure!(std::fs::read(root.join("now"))? == b"now", "node {node}: not copied");
        // What nobody has copied yet, with everything that a copy can keep.
        let back = format!("back-{node}");
        command::shell(&mount, &format!("cp -a tree@@{} {back}", made.tid), PATIENCE)?;
        made.is_at(&mount.join(back))?;
    }
    Ok(())
}

fn the_same_bytes_by_tar(cluster: &Cluster, state: &State) -> Result<()> {
    if !machine::has_programs(&["tar"]) {
        return Ok(());
    }
    let script = format!("tar cf - 'tree@@{}' | sha256sum", state.tid);
    let mut sums = Vec::new();
    for node in cluster.ids().chain(cluster.ids()) {
        sums.push(command::shell(&cluster.mount(node), &script, PATIENCE)?);
    }
    ensure!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    Ok(())
}

/// An age leads to between these: margins on both sides, for machines that are busy.
const MARGIN: Duration = Duration::from_secs(6);

#[test]
fn ages_snapshots_and_real_names() -> Result<()> {
    with_cluster(3, |cluster| {
        std::fs::write(cluster.mount(1).join("file"), "old")?;
        let old = nanoseconds(&make_snapshot(cluster, 1, "old")?)?;
        real_names_win(cluster)?;
        snapshots_come_and_go(cluster)?;
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        wait::until("the state is old", PATIENCE, || {
            now().is_ok_and(|now| now > Duration::from_nanos(old) + 2 * MARGIN)
        })?;
        std::fs::write(cluster.mount(2).join("file"), "new")?;
        let new = nanoseconds(&make_snapshot(cluster, 2, "new")?)?;
        for node in cluster.ids() {
            let age = (now()? - Duration::from_nanos(new) + MARGIN).as_secs();
            let mount = cluster.mount(node);
            ensure!(std::fs::read(mount.join(format!("file@@{age}s")))? == b"old", "node {node}, {age} s ago");
            ensure!(std::fs::read(mount.join(format!("@@{age}s/file")))? == b"old", "node {node}, {age} s ago");
            ensure!(std::fs::read(mount.join("file"))? == b"new", "node {node}, now");
        }
        Ok(())
    })
}

fn real_names_win(cluster: &Cluster) -> Result<()> {
    let [one, two, three] = [1, 2, 3].map(|node| cluster.mount(node));
    for name in ["file@@old-not-there", "mail@@example", "@@plain", "file@@2h30"] {
        std::fs::write(one.join(name), name).with_context(|| name.to_owned())?;
        ensure!(std::fs::read(two.join(name))? == name.as_bytes(), "{name}");
        let listed = std::fs::read_dir(&three)?.flatten().any(|entry| entry.file_name() == *name);
        ensure!(listed, "{name} is in no listing");
    }
    // What is shown of the past is not replaced.
    let shown = [&two, &three].map(|mount| mount.join("file@@old"));
    for path in &shown {
        ensure!(std::fs::read(path)? == b"old", "{}", path.display());
    }
    ensure!(errno(std::fs::rename(two.join("mail@@example"), &shown[0])) == Some(Errno::ROFS), "the past was replaced");
    ensure!(errno(std::fs::create_dir(&shown[0])) == Some(Errno::EXIST), "the past was replaced");
    let hidden = "absent@@old";
    ensure!(errno(std::fs::metadata(three.join(hidden))) == Some(Errno::NOENT), "nothing was named so");
    std::fs::write(three.join(hidden), "real")?;
    for mount in [&one, &two] {
        ensure!(std::fs::read(mount.join(hidden))? == b"real", "a real name is not shown");
    }
    std::fs::rename(one.join(hidden), one.join("renamed@@old"))?;
    ensure!(std::fs::read(two.join("renamed@@old"))? == b"real", "renamed, and not shown");
    ensure!(errno(std::fs::metadata(three.join(hidden))) == Some(Errno::NOENT), "renamed, and still there");
    std::fs::remove_file(two.join("renamed@@old"))?;
    ensure!(errno(std::fs::metadata(one.join("renamed@@old"))) == Some(Errno::NOENT), "removed, and still there");
    Ok(())
}

/// A kernel keeps the name of a snapshot for a second.
const ALMOST_FORGOTTEN: Duration = Duration::from_millis(900);

fn snapshots_come_and_go(cluster: &Cluster) -> Result<()> {
    let mount = cluster.mount(1);
    let mount = mount.to_str().context("a path of text")?;
    let shows = |node: u64, name: &str| cluster.mount(node).join(format!("file@@{name}")).exists();
    ensure!(cluster.ids().all(|node| !shows(node, "named")), "it is not made yet");
    make_snapshot(cluster, 2, "named")?;
    ensure!(cluster.ids().all(|node| shows(node, "named")), "not shown at once");
    let listed = cluster.gavel().run(["snapshot", "list", mount, "--json"])?.ok()?;
    ensure!(listed.contains("\"named\""), "{listed}");
    cluster.gavel().run(["snapshot", "rename", mount, "named", "renamed"])?.ok()?;
    cluster.gavel().run(["snapshot", "note", mount, "renamed", "said anew"])?.ok()?;
    let listed = cluster.gavel().run(["snapshot", "list", mount, "--json"])?.ok()?;
    ensure!(listed.contains("said anew"), "{listed}");
    ensure!(cluster.ids().all(|node| shows(node, "renamed")), "not shown by its new name at once");
    wait::until("the old name is gone", PATIENCE, || cluster.ids().all(|node| !shows(node, "named")))?;
    cluster.gavel().run(["snapshot", "delete", mount, "renamed"])?.ok()?;
    wait::until("the new name is gone", PATIENCE, || cluster.ids().all(|node| !shows(node, "renamed")))?;
    // Still kept by two kernels as a name of the past, when the third node makes it real.
    let name = "file@@passing";
    make_snapshot(cluster, 1, "passing")?;
    ensure!(shows(2, "passing"), "not shown at once");
    std::thread::sleep(ALMOST_FORGOTTEN);
    ensure!(shows(1, "passing") && shows(3, "passing"), "not shown at once");
    cluster.gavel().run(["snapshot", "delete", mount, "passing"])?.ok()?;
    let made = || std::fs::create_dir(cluster.mount(2).join(name));
    wait::until("there may be a real one", PATIENCE, || made().is_ok())?;
    for node in cluster.ids() {
        ensure!(cluster.mount(node).join(name).is_dir(), "node {node} does not show what is real");
    }
    make_snapshot(cluster, 1, "passing")?;
    ensure!(cluster.ids().all(|node| cluster.mount(node).join(name).is_dir()), "a snapshot hides what is real");
    Ok(())
}

/// What needs no quorum: paths that begin in the past, and a mount of a past state.
#[test]
fn a_node_without_quorum_shows_the_past() -> Result<()> {
    with_cluster(3, |cluster| {
        let states = play(cluster)?;
        cluster.settle()?;
        let alone = cluster.mount(3);
        // Not read yet below it.
        let open = File::open(alone.join(format!("tree@@{}", states[1].tid)))?;
        cluster.kill_at_once(&[1, 2])?;
        let expired = wait::until("the node may answer for nothing live", PATIENCE, || {
            cluster.leases(3).is_ok_and(|leases| leases.may_answer_ms.is_none())
        });
        expired?;
        let here = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        states[1].is_at(&here)?;
        ensure!(errno(std::fs::write(here.join("coloured"), "")) == Some(Errno::ROFS), "the past was written");
        let then = cluster.scratch().join("then");
        std::fs::create_dir(&then)?;
        let mut mount = cluster.gavel().command(["mount", "--at", &states[2].tid, "--config"]);
        mount.arg(cluster.config(3)).arg(&then);
        command::run(mount, PATIENCE)?.ok()?;
        states[2].is_at(&then.join("tree"))?;
        // Other states can be named there as well.
        states[0].is_at(&then.join(format!("tree@@{}", states[0].tid)))?;
        states[3].is_at(&then.join(format!("@@{}/tree", states[3].snapshot)))?;
        // A way that begins in the present is asked for, and nobody confirms it.
        let way = alone.join(format!("tree@@{}/coloured", states[0].tid));
        let found = wait::within("a look without quorum", CALL_MAX, move || errno(std::fs::read(way)))?;
        ensure!(found == Some(Errno::TIMEDOUT), "without a quorum, through the present: {found:?}");
        command::shell(Path::new("/"), &format!("umount '{}'", then.display()), PATIENCE)?;
        // Its daemon is found all the same, and tells what it knows.
        let file = alone.join("tree/coloured");
        let said = command::run(cluster.gavel().command([OsStr::new("history"), file.as_os_str()]), PATIENCE)?.ok()?;
        ensure!(said.contains(&states[0].tid) || said.contains("created"), "{said}");
        drop(open);
        cluster.start()
    })
}
