//! Many changes at once, or none: `gavel txn` on real mounts (docs/operations/transactions.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::command::Ran;
use gavel_conformance::txn::{COLLIDED, FAILED, no_trace, run_command};
use gavel_conformance::{command, mounts, process, trees, wait};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
fn settle(mount: &Path) -> Result<()> {
    Ok(File::open(mount)?.sync_all()?)
}

fn shell(dir: &Path, script: &str) -> Result<String> {
    command::shell(dir, script, PATIENCE)
}

fn content(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn gavel<S: AsRef<OsStr>>(cluster: &Cluster, words: &[S]) -> Result<Ran> {
    command::run(cluster.gavel().command(words), PATIENCE)
}

fn run(cluster: &Cluster, node: u64, script: &str) -> Result<Ran> {
    command::run(run_command(cluster, node, &[], script), PATIENCE)
}

/// A run that is under way: its script says `ready` in the scratch directory, and waits until it may go on.
struct Running {
    child: Child,
    gate: PathBuf,
}

impl Running {
    fn start(cluster: &Cluster, node: u64, name: &str, before: &str, after: &str) -> Result<Running> {
        let gate = cluster.scratch().join(name);
        let (ready, go) = (gate.with_extension("ready"), gate.with_extension("go"));
        let (ready, go) = (ready.display(), go.display());
        let script = format!("{before}\ntouch {ready}\nwhile [ ! -e {go} ]; do sleep 0.02; done\n{after}");
        let mut command = run_command(cluster, node, &[], &script);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let running = Running { child: command.spawn()?, gate };
        wait::until("the script is ready", PATIENCE, || running.gate.with_extension("ready").exists())?;
        Ok(running)
    }

    fn go(mut self) -> Result<(Option<i32>, String)> {
        File::create(self.gate.with_extension("go"))?;
        let mut ended = None;
        wait::until("the run ends", PATIENCE, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        })?;
        let mut complaint = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            std::io::Read::read_to_string(stderr, &mut complaint)?;
        }
        Ok((ended.and_then(|status| status.code()), complaint))
    }
}

#[test]
fn a_command_commits_all_that_it_did_or_nothing() -> Result<()> {
    with_cluster(3, |cluster| {
        let (here, other) = (cluster.mount(1), cluster.mount(2));
        shell(&here, "mkdir d && echo old > d/f && echo keep > d/k")?;
        settle(&here)?;
        // Others see none of it, and then all.
        let running = Running::start(
            cluster,
            1,
            "atomic",
            "echo new > d/f; mkdir d/sub; for i in 1 2 3 4 5; do echo $i > d/sub/$i; done; rm d/k; ln -s f d/l; dd if=/dev/zero of=d/big bs=64K count=8 2>/dev/null",
            "[ $(cat d/f) = new ] && [ ! -e d/k ]",
        )?;
        for mount in [&here, &other] {
            ensure!(content(&mount.join("d/f"))? == "old\n" && !mount.join("d/sub").exists(), "{}", mount.display());
            ensure!(mount.join("d/k").exists() && !mount.join("d/big").exists());
        }
        let (code, complaint) = running.go()?;
        ensure!(code == Some(0), "{code:?} {complaint}");
        for node in cluster.ids() {
            let mount = cluster.mount(node);
            ensure!(content(&mount.join("d/f"))? == "new\n", "node {node}");
            ensure!(std::fs::read_dir(mount.join("d/sub"))?.count() == 5 && !mount.join("d/k").exists());
            ensure!(
                std::fs::read(mount.join("d/big"))? == vec![0; 512 * 1024] && content(&mount.join("d/l"))? == "new\n"
            );
        }
        // The command's own status, and no trace.
        for (script, code) in [("touch x; exit 7", 7), ("touch x; kill -TERM $$", 143), ("touch x; kill -KILL $$", 137)]
        {
            let ran = run(cluster, 1, script)?;
            ensure!(ran.code == Some(code), "{script}: {:?} {}", ran.code, ran.stderr);
            ensure!(!here.join("x").exists(), "{script}");
        }
        let words = ["txn", "run", "--", "/no/such/command"];
        let mut none = cluster.gavel().command(words);
        none.current_dir(&here);
        ensure!(command::run(none, PATIENCE)?.code == Some(127));
        // What it leaves running goes with it.
        let ran = run(cluster, 1, "(sleep 1000; touch late) >/dev/null 2>&1 & echo $! > left")?;
        ensure!(ran.code == Some(0), "{}", ran.stderr);
        let left: u32 = content(&here.join("left"))?.trim().parse()?;
        ensure!(!process::is_alive(left), "{left} is still there");
        // There is none within another, nor of a volume that is not there.
        let inner = cluster.gavel().program().display().to_string();
        let ran = run(cluster, 1, &format!("touch y; {inner} txn run -- true"))?;
        ensure!(ran.code == Some(FAILED) && ran.stderr.contains("already"), "{:?} {}", ran.code, ran.stderr);
        let ran = command::run(run_command(cluster, 1, &["--volume", "77"], "true"), PATIENCE)?;
        ensure!(ran.code == Some(FAILED) && ran.stderr.contains("no volume"), "{:?} {}", ran.code, ran.stderr);
        // The note, and what it costs to do nothing.
        let ran = command::run(run_command(cluster, 1, &["--message", "why it was done"], "touch noted"), PATIENCE)?;
        ensure!(ran.code == Some(0), "{}", ran.stderr);
        let log = gavel(cluster, &[OsStr::new("log"), here.as_os_str()])?.ok()?;
        ensure!(log.contains("why it was done"), "{log}");
        let began = Instant::now();
        for _ in 0..10 {
            run(cluster, 1, "true")?.ok()?;
        }
        let each = began.elapsed() / 10;
        println!("a run of nothing: {each:?}");
        no_trace(cluster, 1)
    })
}

#[test]
fn it_begins_behind_whatever_any_node_has_answered() -> Result<()> {
    with_cluster(3, |cluster| {
        let other = cluster.mount(2);
        shell(&other, "mkdir d && echo 0 > d/f")?;
        settle(&other)?;
        let (pid, mut waited) = (cluster.pid(2)?, 0);
        for round in 1..=5 {
            // Answered under exclusive leases, and not committed: the node stands still before it has shipped it.
            std::fs::write(other.join("d/f"), format!("{round}\n"))?;
            process::signal(pid, Signal::STOP)?;
            let ran = std::thread::scope(|scope| {
                let running = scope.spawn(|| run(cluster, 1, &format!("[ $(cat d/f) = {round} ]")));
                // Whoever does not wait for the node is done by then.
                let ended = wait::until("the run ends", Duration::from_millis(700), || running.is_finished());
                process::signal(pid, Signal::CONT)?;
                waited += u32::from(ended.is_err());
                running.join().expect("the run")
            })?;
            ensure!(ran.code == Some(0), "round {round}: {:?} {}", ran.code, ran.stderr);
        }
        ensure!(waited > 0, "it has never waited for a node that holds exclusive leases");
        std::fs::write(other.join("d/f"), "named\n")?;
        let here = cluster.mount(1);
        let words = [OsStr::new("snapshot"), OsStr::new("create"), here.as_os_str(), OsStr::new("now")];
        gavel(cluster, &words)?.ok()?;
        ensure!(content(&here.join("d/f@@now"))? == "named\n", "the snapshot has what was answered before");
        // Whoever is dead and holds such leases is waited for until its session ends, and no longer.
        std::fs::write(other.join("d/f"), "last\n")?;
        cluster.kill(2)?;
        let began = Instant::now();
        let ran = run(cluster, 1, "cat d/f")?;
        let took = began.elapsed();
        ensure!(ran.code == Some(0), "{:?} {}", ran.code, ran.stderr);
        ensure!(ran.stdout == "named\n" || ran.stdout == "last\n", "{}", ran.stdout);
        ensure!(took < Duration::from_secs(20), "it took {took:?}");
        println!("behind the death of a node that holds exclusive leases: {took:?}");
        no_trace(cluster, 1)
    })
}

#[test]
fn what_others_have_changed_meanwhile_collides() -> Result<()> {
    with_cluster(3, |cluster| {
        let (here, other) = (cluster.mount(1), cluster.mount(2));
        let read = |mount: &Path, name: &str| content(&mount.join(name)).map(|text| text.trim().to_owned());
        shell(&here, "echo 10 > counter; echo 1 > x; echo 1 > y; mkdir list apart; echo a > list/a")?;
        settle(&here)?;
        // Lost update.
        let add = "n=$(cat counter)";
        let running = Running::start(cluster, 1, "update", add, "echo $((n + 1)) > counter")?;
        run(cluster, 2, "n=$(cat counter); echo $((n + 5)) > counter")?.ok()?;
        let (code, complaint) = running.go()?;
        ensure!(code == Some(COLLIDED) && read(&other, "counter")? == "15", "{code:?} {complaint}");
        ensure!(complaint.contains("counter: changed here") && complaint.contains("M counter"), "{complaint}");
        ensure!(complaint.contains("on node 2") && complaint.contains("[txn 2-"), "{complaint}");
        // Write skew: each reads both and writes one.
        let running = Running::start(cluster, 1, "skew", "cat x y > /dev/null", "echo 0 > x")?;
        run(cluster, 2, "[ $(cat x) = 1 ] && echo 0 > y")?.ok()?;
        let (code, complaint) = running.go()?;
        ensure!(code == Some(COLLIDED) && complaint.contains("y: read here"), "{code:?} {complaint}");
        ensure!((read(&here, "x")?, read(&here, "y")?) == ("1".into(), "0".into()), "one of them");
        // Phantom: a name that came into what was listed; and one that was looked for, and was not there.
        for (name, before) in [("phantom", "ls list > /dev/null"), ("absent", "[ ! -e list/absent ]")] {
            let running = Running::start(cluster, 1, name, before, "echo done > apart/of-it")?;
            shell(&other, &format!("echo b > list/{name}"))?;
            let (code, complaint) = running.go()?;
            ensure!(code == Some(COLLIDED) && !here.join("apart/of-it").exists(), "{name}: {code:?} {complaint}");
            ensure!(complaint.contains(&format!("list/{name}")), "{complaint}");
        }
        // Read-only anomaly: one that only reads sees one state, whatever it takes.
        let running = Running::start(
            cluster,
            1,
            "reader",
            "cat x > /dev/null",
            &format!("cat x y > {}", cluster.scratch().join("seen").display()),
        )?;
        shell(&other, "echo 8 > x; echo 9 > y")?;
        settle(&other)?;
        let (code, complaint) = running.go()?;
        ensure!(code == Some(0), "it has changed nothing: {code:?} {complaint}");
        ensure!(content(&cluster.scratch().join("seen"))? == "1\n0\n", "the state at its beginning");
        // Different names in one directory do not collide; a look at the directory does not list it.
        let running = Running::start(cluster, 1, "names", "stat list > /dev/null; echo 1 > list/one", "true")?;
        run(cluster, 2, "echo 2 > list/two; rm list/a")?.ok()?;
        let (code, complaint) = running.go()?;
        ensure!(code == Some(0), "{code:?} {complaint}");
        for mount in [&here, &other] {
            ensure!(read(mount, "list/one")? == "1" && read(mount, "list/two")? == "2");
            ensure!(
                std::fs::metadata(mount.join("list"))?.len() as usize == std::fs::read_dir(mount.join("list"))?.count()
            );
        }
        // Run again on the new state.
        let tries = cluster.scratch().join("tries");
        let script = format!(
            "echo try >> {0}; n=$(cat counter); [ $(wc -l < {0}) -gt 1 ] || echo 100 > {1}/counter; echo $((n + 1)) > counter",
            tries.display(),
            other.display()
        );
        let ran = command::run(run_command(cluster, 1, &["--retry", "3"], &script), PATIENCE)?;
        ensure!(ran.code == Some(0), "{:?} {}", ran.code, ran.stderr);
        ensure!(read(&here, "counter")? == "101" && content(&tries)?.lines().count() == 2, "{}", ran.stderr);
        no_trace(cluster, 1)
    })
}

#[test]
fn killed_at_any_moment_it_leaves_no_trace() -> Result<()> {
    with_cluster(3, |cluster| {
        let here = cluster.mount(1);
        let work = "echo $$ > pid; cp pid $OUT; for i in $(seq 200); do echo $i > f$i; done";
        let out = cluster.scratch().join("pid");
        let work = work.replace("$OUT", &out.display().to_string());
        // The run itself.
        for (name, signal) in [("killed", Signal::KILL), ("told-to-end", Signal::TERM)] {
            let mut running = Running::start(cluster, 1, name, &work, "true")?;
            let inner: u32 = content(&out)?.trim().parse()?;
            process::signal(running.child.id(), signal)?;
            let status = running.child.wait()?;
            ensure!(status.code() != Some(0), "{status}");
            wait::until("its command is gone", PATIENCE, || !process::is_alive(inner))?;
            no_trace(cluster, 1)?;
            ensure!(std::fs::read_dir(&here)?.next().is_none(), "nothing was written");
        }
        // The daemon.
        let mut running = Running::start(cluster, 1, "daemon", &work, "true")?;
        let inner: u32 = content(&out)?.trim().parse()?;
        cluster.kill(1)?;
        let status = running.child.wait()?;
        ensure!(status.code() == Some(FAILED), "{status}");
        ensure!(!process::is_alive(inner), "its command is gone");
        let places = cluster.home(1).join("data/transactions");
        ensure!(mounts::under(&places).is_empty(), "nor is it mounted");
        cluster.start()?;
        no_trace(cluster, 1)?;
        for node in cluster.ids() {
            ensure!(std::fs::read_dir(cluster.mount(node))?.next().is_none(), "node {node}: nothing was written");
        }
        Ok(())
    })
}

/// Begins a transaction at a directory; gives its id.
fn begin(cluster: &Cluster, node: u64, dir: &Path) -> Result<String> {
    let config = cluster.config(node);
    let words = [OsStr::new("txn"), "begin".as_ref(), "--config".as_ref(), config.as_os_str(), dir.as_os_str()];
    let told = gavel(cluster, &words)?.ok()?;
    Ok(told.split_whitespace().next().context("it says its id")?.to_owned())
}

/// `gavel txn VERB DIR`.
fn txn(cluster: &Cluster, verb: &str, dir: &Path, more: &[&str]) -> Result<Ran> {
    let mut command = cluster.gavel().command(["txn", verb]);
    command.arg(dir).args(more);
    command::run(command, PATIENCE)
}

#[test]
fn one_with_a_directory_is_looked_at_moved_committed_and_given_up() -> Result<()> {
    with_cluster(3, |cluster| {
        let (here, other) = (cluster.mount(1), cluster.mount(2));
        shell(&here, "mkdir d; echo 1 > d/f; echo 1 > d/g; echo 1 > gone")?;
        settle(&here)?;
        let dir = cluster.scratch().join("work");
        std::fs::create_dir(&dir)?;
        let id = begin(cluster, 1, &dir)?;
        shell(&dir, "echo 2 > d/f; mv d/g d/h; rm gone; echo new > d/new; stat d > /dev/null")?;
        let diff = txn(cluster, "diff", &dir, &[])?.ok()?;
        for line in ["M d/f", "R d/g -> d/h", "- gone", "+ d/new"] {
            ensure!(diff.contains(line), "{line}:\n{diff}");
        }
        let status = txn(cluster, "status", &dir, &[])?.ok()?;
        ensure!(status.contains(&id) && status.contains("changed"), "{status}");
        let state = cluster.state(1).context("it answers")?.status;
        ensure!(state["transactions"][0]["id"] == id.as_str(), "{}", state["transactions"]);
        ensure!(content(&other.join("d/f"))? == "1\n" && other.join("gone").exists(), "nobody sees it");
        // To the present: what others did apart from it shows.
        shell(&other, "echo theirs > d/theirs; echo theirs > apart")?;
        settle(&other)?;
        txn(cluster, "rebase", &dir, &[])?.ok()?;
        ensure!(content(&dir.join("d/theirs"))? == "theirs\n" && content(&dir.join("d/f"))? == "2\n");
        ensure!(std::fs::metadata(dir.join("d"))?.len() == 4, "f, h, new, theirs");
        txn(cluster, "commit", &dir, &["--message", "all of it"])?.ok()?;
        for mount in [&here, &other] {
            let names = shell(mount, "ls d; cat d/f d/h; ls")?;
            ensure!(names == "f\nh\nnew\ntheirs\n2\n1\napart\nd\n", "{names}");
        }
        // Twice.
        let twice = gavel(cluster, &["txn", "commit", &id, "--config", &cluster.config(1).display().to_string()])?;
        twice.refused(&["has ended", "committed at"])?;
        ensure!(mounts::under(&dir).is_empty() && std::fs::read_dir(&dir)?.next().is_none());
        // One that collides stays as it is, whichever way.
        begin(cluster, 1, &dir)?;
        shell(&dir, "cat d/f; echo 3 > d/f; echo mine > d/mine")?;
        shell(&other, "echo 4 > d/f")?;
        settle(&other)?;
        for verb in ["rebase", "commit"] {
            let ran = txn(cluster, verb, &dir, &[])?;
            ensure!(ran.code == Some(COLLIDED) && ran.stderr.contains("d/f: changed here"), "{verb}: {ran:?}");
            ensure!(content(&dir.join("d/f"))? == "3\n" && content(&here.join("d/f"))? == "4\n", "{verb}");
        }
        txn(cluster, "abort", &dir, &[])?.ok()?;
        ensure!(!here.join("d/mine").exists() && mounts::under(&dir).is_empty());
        // A limit: the operation is refused, and what was done before is whole.
        begin(cluster, 1, &dir)?;
        let full = shell(&dir, "seq -f %0200g 20000 | xargs touch 2>/dev/null || true; ls | wc -l")?;
        let names: usize = full.trim().parse()?;
        ensure!((1000..20_000).contains(&names), "{names}");
        let status = txn(cluster, "status", &dir, &[])?.ok()?;
        ensure!(status.contains("FULL"), "{status}");
        txn(cluster, "commit", &dir, &[])?.ok()?;
        let found = std::fs::read_dir(&other)?.count();
        ensure!(found == names, "{found} {names}");
        no_trace(cluster, 1)
    })
}

#[test]
fn real_programs_make_the_same_tree_as_outside() -> Result<()> {
    with_cluster(3, |cluster| {
        let (here, other) = (cluster.mount(1), cluster.mount(2));
        let source = cluster.scratch().join("source");
        std::fs::create_dir(&source)?;
        trees::make(&source, 300)?;
        let programs = [
            ("tar", "tar -C $SOURCE -cf - . | tar -xf - -C $INTO"),
            ("rsync", "rsync -a $SOURCE/ $INTO/; rsync -a --delete $SOURCE/ $INTO/"),
            (
                "git",
                "git init -q $INTO; cp -r $SOURCE $INTO/tree; cd $INTO; git add . && git -c user.name=n -c user.email=e commit -qm m; \
                 rm -r tree; git checkout -q .; git fsck 2>/dev/null; rm -rf .git",
            ),
            (
                "sqlite3",
                "cd $INTO; sqlite3 db 'create table t(a); begin; insert into t values (1),(2); commit; pragma journal_mode=wal; insert into t values (3)'; \
                 [ $(sqlite3 db 'select sum(a) from t') = 6 ]; sqlite3 db 'pragma journal_mode=delete'",
            ),
            (
                "make",
                "cd $INTO; printf 'b: a\\n\\tcp a b\\n' > Makefile; echo 1 > a; make -s; make -q; sleep 0.02; echo 2 > a; make -s; [ $(cat b) = 2 ]",
            ),
        ];
        for (program, script) in programs {
            if shell(&here, &format!("command -v {program}")).is_err() {
                println!("{program} is not there: skipped");
                continue;
            }
            let outside = cluster.scratch().join(program);
            std::fs::create_dir(&outside)?;
            std::fs::create_dir(here.join(program))?;
            let script = script.replace("$SOURCE", &source.display().to_string());
            shell(&outside, &script.replace("$INTO", &outside.display().to_string()))?;
            let ran = run(cluster, 1, &script.replace("$INTO", &here.join(program).display().to_string()))?;
            ensure!(ran.code == Some(0), "{program}: {:?}\n{}{}", ran.code, ran.stdout, ran.stderr);
            for mount in [&here, &other] {
                let (mut expected, mut found) = (trees::read(&outside)?, trees::read(&mount.join(program))?);
                if !["tar", "rsync"].contains(&program) {
                    // It does not set them, and was not run at the same time.
                    expected.values_mut().chain(found.values_mut()).for_each(|entry| entry.modified = (0, 0));
                }
                trees::same(&expected, &found).with_context(|| format!("{program} at {}", mount.display()))?;
            }
        }
        no_trace(cluster, 1)
    })
}
