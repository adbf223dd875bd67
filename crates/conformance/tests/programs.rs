//! Programs that people use, on the mounts: what one mount was given, the others must show.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::with_cluster;
use gavel_conformance::{command, machine, trees};
use std::path::Path;
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

/// A shared mapping: what is stored to memory is in the file, on all mounts.
mod mapping {
    #![allow(unsafe_code)] // mmap(2) has no safe form: the file could shrink under the mapping; nobody shrinks this one.

    use super::*;
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

    const BYTES: usize = 300_000;

    #[test]
    fn written_through_a_mapping_and_read_everywhere() -> Result<()> {
        with_cluster(3, |cluster| {
            let path = cluster.mount(1).join("mapped");
            let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.set_len(BYTES as u64)?;
            let bytes = trees::noise(77, BYTES);
            // SAFETY: a new mapping of BYTES bytes, used only within that length and only until it is unmapped; the file
            // has that length all the time.
            unsafe {
                let at =
                    mmap(std::ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)?;
                let memory = std::slice::from_raw_parts_mut(at.cast::<u8>(), BYTES);
                ensure!(memory.iter().all(|byte| *byte == 0), "a new file is not empty");
                memory.copy_from_slice(&bytes);
                msync(at, BYTES, MsyncFlags::SYNC)?;
                munmap(at, BYTES)?;
            }
            for mount in cluster.all_mounts() {
                let found = std::fs::read(mount.join("mapped"))?;
                ensure!(found == bytes, "{}: not what was stored", mount.display());
            }
            Ok(())
        })
    }
}
