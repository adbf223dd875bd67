//! Programs that people use, on the mounts: what one mount was given, the others must show.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::with_cluster;
use gavel_conformance::{command, machine, trees};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(180);

fn shell(dir: &Path, script: &str) -> Result<String> {
    command::shell(dir, script, PATIENCE)
}

#[test]
fn tar_through_one_mount_compare_through_another() -> Result<()> {
    if !machine::has_programs(&["tar"]) {
        return Ok(());
    }
    with_cluster(3, |cluster| {
        let original = cluster.scratch().join("original");
        std::fs::create_dir(&original)?;
        trees::make(&original, 300)?;
        let archive = cluster.scratch().join("tree.tar");
        shell(&original, &format!("tar -cf {} .", archive.display()))?;
        let there = cluster.mount(1).join("tree");
        std::fs::create_dir(&there)?;
        shell(&there, &format!("tar -xpf {}", archive.display()))?;
        // tar keeps whole nanoseconds only if told to; what it made is what must be the same everywhere.
        let expected = trees::read(&there)?;
        ensure!(expected.len() == trees::read(&original)?.len(), "tar has made another number of entries");
        for node in [2, 3] {
            let seen = trees::read(&cluster.mount(node).join("tree"))?;
            trees::same(&expected, &seen).with_context(|| format!("mount {node}"))?;
        }
        shell(
            cluster.scratch(),
            &format!("diff -r --no-dereference original {}", cluster.mount(2).join("tree").display()),
        )?;
        shell(&cluster.mount(3), "rm -r tree")?;
        ensure!(!there.exists(), "removed through mount 3, and still on mount 1");
        Ok(())
    })
}

#[test]
fn git_on_all_mounts() -> Result<()> {
    if !machine::has_programs(&["git"]) {
        return Ok(());
    }
    with_cluster(3, |cluster| {
        let git = "git -c user.name=conformance -c user.email=conformance@example.org -c safe.directory='*' -c init.defaultBranch=main";
        let repository = cluster.mount(1).join("repository");
        std::fs::create_dir(&repository)?;
        trees::make(&repository, 60)?;
        shell(&repository, &format!("{git} init -q && {git} add . && {git} commit -qm first"))?;
        std::fs::write(cluster.mount(2).join("repository/file"), "changed through another mount")?;
        let through = cluster.mount(2).join("repository");
        shell(&through, &format!("{git} add . && {git} commit -qm second && {git} gc -q"))?;
        let clone = cluster.mount(3).join("clone");
        shell(&cluster.mount(3), &format!("{git} clone -q --no-local {} clone", repository.display()))?;
        let checked = shell(&clone, &format!("{git} fsck --full --strict 2>&1; {git} status --porcelain"))?;
        ensure!(!checked.contains("error") && !checked.contains('?'), "{checked}");
        shell(
            &cluster.mount(1).join("repository"),
            &format!("{git} fsck --full --strict && {git} diff --exit-code HEAD"),
        )?;
        let count = shell(&clone, &format!("{git} rev-list --count HEAD"))?;
        ensure!(count.trim() == "2", "{count} commits");
        Ok(())
    })
}

/// Processes that count in one table, on one node: the shared memory of its write-ahead log is the kernel's. (`tests/locks.rs` has two nodes count.)
fn sqlite(journal_mode: &str) -> Result<()> {
    const WRITERS: usize = 4;
    const EACH: usize = 15;
    if !machine::has_programs(&["sqlite3"]) {
        return Ok(());
    }
    with_cluster(3, |cluster| {
        let dir = cluster.mount(1);
        let set_up =
            format!("PRAGMA journal_mode={journal_mode}; CREATE TABLE t(writer, number, PRIMARY KEY(writer, number));");
        let mode = shell(&dir, &format!("sqlite3 -bail db '{set_up}'"))?;
        ensure!(mode.trim().eq_ignore_ascii_case(journal_mode), "the journal is {mode}");
        let writer = |number: usize| {
            let insert = |row: usize| format!("BEGIN IMMEDIATE; INSERT INTO t VALUES({number}, {row}); COMMIT;");
            let all: String = (0..EACH).map(insert).collect();
            format!(
                "sqlite3 -bail -cmd '.timeout 120000' -cmd 'PRAGMA synchronous=FULL' db '{all}' >/dev/null & p{number}=$!"
            )
        };
        let start: Vec<String> = (0..WRITERS).map(writer).collect();
        let wait: Vec<String> = (0..WRITERS).map(|number| format!("wait $p{number}")).collect();
        shell(&dir, &format!("{}\n{}", start.join("\n"), wait.join(" && ")))?;
        let count = "SELECT count(*) FROM t; PRAGMA integrity_check;";
        let expected = format!("{}\nok\n", WRITERS * EACH);
        // Nobody has it open now, so another node may.
        for node in cluster.ids() {
            let found = shell(&cluster.mount(node), &format!("sqlite3 -bail db '{count}'"))?;
            ensure!(found == expected, "mount {node}: {found}");
        }
        Ok(())
    })
}

#[test]
fn sqlite_with_a_write_ahead_log() -> Result<()> {
    sqlite("WAL")
}

#[test]
fn sqlite_with_a_write_ahead_log_is_refused_on_a_second_node() -> Result<()> {
    if !machine::has_programs(&["sqlite3"]) {
        return Ok(());
    }
    with_cluster(3, |cluster| {
        let (here, there) = (cluster.mount(1), cluster.mount(2));
        shell(&here, "sqlite3 -bail db 'PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1);'")?;
        let mut sqlite = Command::new("sqlite3");
        sqlite.args(["-bail", "db"]).current_dir(&here).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut first = sqlite.spawn()?;
        let mut say = first.stdin.take().context("piped")?;
        let mut hear = BufReader::new(first.stdout.take().context("piped")?).lines();
        let mut ask = |sql: &str| -> Result<String> {
            writeln!(say, "{sql}")?;
            Ok(hear.next().context("it has ended")??)
        };
        ensure!(ask("SELECT count(*) FROM t;")? == "1");
        let second =
            Command::new("sqlite3").args(["-bail", "db", "SELECT count(*) FROM t"]).current_dir(&there).output()?;
        let said = String::from_utf8_lossy(&second.stderr);
        // It tries again for some ten seconds.
        ensure!(!second.status.success() && said.contains("lock"), "the second node: {said}");
        shell(&here, "sqlite3 -bail db 'INSERT INTO t VALUES(3)'").context("on the same node it is allowed")?;
        ensure!(ask("INSERT INTO t VALUES(4); SELECT count(*) FROM t;")? == "3");
        drop(say);
        ensure!(first.wait()?.success(), "the first one failed");
        let count = shell(
            &there,
            "sqlite3 -bail db 'INSERT INTO t VALUES(5); SELECT count(*) FROM t; PRAGMA integrity_check'",
        )?;
        ensure!(count == "4\nok\n", "when the first node has closed it, the second says {count}");
        Ok(())
    })
}

#[test]
fn sqlite_with_a_rollback_journal() -> Result<()> {
    sqlite("DELETE")
}

#[test]
fn rsync_there_and_back() -> Result<()> {
    if !machine::has_programs(&["rsync", "setfacl", "setfattr"]) {
        return Ok(());
    }
    with_cluster(3, |cluster| {
        let original = cluster.scratch().join("original");
        std::fs::create_dir(&original)?;
        trees::make(&original, 150)?;
        shell(&original, "setfacl -m u:daemon:rw d1/*/*/'file 1' && setfattr -n user.colour -v blue d2/*/*/file*")?;
        shell(&original, "setfacl -d -m g:daemon:rx d3 && mkfifo pipe && chown -h daemon:daemon 'second name 2'")?;
        // Old enough that nothing which is made today has these times by chance: rsync compares whole seconds.
        shell(&original, "find . -exec touch -h -d '2021-02-03 04:05:06.123456789' {} +")?;
        let there = cluster.mount(1).join("copy");
        let back = cluster.scratch().join("back");
        shell(&original, &format!("rsync -aHAX ./ {}/", there.display()))?;
        shell(&cluster.mount(2).join("copy"), &format!("rsync -aHAX ./ {}/", back.display()))?;
        let differences = shell(&original, &format!("rsync -aHAXnic --delete ./ {}/", back.display()))?;
        ensure!(differences.is_empty(), "there and back, these differ:\n{differences}");
        trees::same(&trees::read(&original)?, &trees::read(&back)?)?;
        let listed = "find . -type f -print0 -o -type d -print0 | sort -z > ../names; \
            xargs -0 getfacl -p < ../names; xargs -0 getfattr -d -m user < ../names";
        let there = cluster.mount(3).join("copy");
        let (before, after) = (shell(&original, listed)?, shell(&there, listed)?);
        ensure!(before.contains("user:daemon:rw-") && before.contains("blue"), "nothing to compare: {before}");
        let different = before.lines().zip(after.lines()).find(|(one, other)| one != other);
        ensure!(before == after, "ACLs or attributes differ, first {different:?}");
        Ok(())
    })
}

#[test]
fn cargo_builds_a_workspace() -> Result<()> {
    if !machine::has_programs(&["cargo", "cc"]) {
        return Ok(());
    }
    with_cluster(3, |cluster| {
        let workspace = cluster.mount(1).join("workspace");
        let files = [
            ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"app\", \"lib\"]\n"),
            (
                "app/Cargo.toml",
                "[package]\nname = \"app\"\nedition = \"2024\"\n[dependencies]\nlib = { path = \"../lib\" }\n",
            ),
            ("app/src/main.rs", "fn main() {\n    println!(\"{}\", lib::answer());\n}\n"),
            ("lib/Cargo.toml", "[package]\nname = \"lib\"\nedition = \"2024\"\n"),
            ("lib/src/lib.rs", "pub fn answer() -> u32 {\n    42\n}\n"),
        ];
        for (name, text) in files {
            let path = workspace.join(name);
            std::fs::create_dir_all(path.parent().context("a path with a directory")?)?;
            std::fs::write(path, text)?;
        }
        // What the environment of this very build says must not reach that one.
        let cargo = "env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET cargo build --offline --quiet --target-dir target";
        shell(&workspace, cargo)?;
        let answer = shell(&cluster.mount(2), "workspace/target/debug/app")?;
        ensure!(answer == "42\n", "the program says {answer}");
        let source = cluster.mount(3).join("workspace/lib/src/lib.rs");
        std::fs::write(source, "pub fn answer() -> u32 {\n    43\n}\n")?;
        shell(&workspace, cargo)?;
        let answer = shell(&cluster.mount(2), "workspace/target/debug/app")?;
        ensure!(answer == "43\n", "changed through another mount and built again, the program says {answer}");
        Ok(())
    })
}

/// Shared mappings: what is stored to memory is in the file, on all mounts.
mod mapping {
    use super::*;
    use gavel_conformance::mapping::Mapping;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::time::{Duration, Instant};

    const BYTES: usize = 300_000;
    const PAGE: usize = 4096;
    /// How long nodes store to one file at the same time.
    const STORED: Duration = Duration::from_secs(5);
    /// They wait for each other, but not as long as for one that is dead.
    const SAVE_MAX: Duration = Duration::from_secs(4);

    fn open(path: &Path, bytes: usize) -> Result<File> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(bytes as u64)?;
        Ok(file)
    }

    #[test]
    fn written_through_a_mapping_and_read_everywhere() -> Result<()> {
        with_cluster(3, |cluster| {
            let mapping = Mapping::writable(&open(&cluster.mount(1).join("mapped"), BYTES)?)?;
            let bytes = trees::noise(77, BYTES);
            ensure!(mapping.look().iter().all(|byte| *byte == 0), "a new file is not empty");
            mapping.store(0, &bytes);
            mapping.save()?;
            drop(mapping);
            for mount in cluster.all_mounts() {
                let found = std::fs::read(mount.join("mapped"))?;
                ensure!(found == bytes, "{}: not what was stored", mount.display());
            }
            Ok(())
        })
    }

    /// Stores to a page, saves it, and reads the file, again and again.
    fn store_records(path: &Path, offset: usize) -> Result<()> {
        let (file, end) = (open(path, 2 * PAGE)?, Instant::now() + STORED);
        let mapping = Mapping::writable(&file)?;
        for number in 0u64.. {
            let began = Instant::now();
            mapping.store(offset, format!("{number:08}").as_bytes());
            mapping.save()?;
            file.read_exact_at(&mut [0; PAGE], 0)?;
            std::fs::read(path)?;
            ensure!(began.elapsed() < SAVE_MAX, "{} waited for {:?}", path.display(), began.elapsed());
            if Instant::now() > end {
                break;
            }
        }
        Ok(())
    }

    #[test]
    fn nodes_that_store_to_one_page_at_the_same_time_do_not_wait_for_each_other_for_ever() -> Result<()> {
        with_cluster(3, |cluster| {
            let paths: Vec<_> = cluster.all_mounts().into_iter().map(|mount| mount.join("mapped")).collect();
            std::fs::write(&paths[0], [0; 2 * PAGE])?;
            std::thread::scope(|scope| {
                let storing = std::iter::zip(&paths, [0, 100, 200]);
                let storing: Vec<_> = storing.map(|(path, at)| scope.spawn(move || store_records(path, at))).collect();
                storing.into_iter().try_for_each(|storing| storing.join().expect("does not panic"))
            })?;
            // Who saves a page saves all of it, so the last one has it; but of that, all mounts show the same.
            let shown = paths.iter().map(std::fs::read).collect::<std::io::Result<Vec<_>>>()?;
            ensure!(shown.iter().all(|bytes| *bytes == shown[0]), "mounts show different bytes");
            Ok(())
        })
    }
}
