//! Many empty files: names and attributes, no bytes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::measure::Measure;
use super::turn::{Turn, seconds};

/// Threads of the second create, each in a directory of its own.
const THREADS: usize = 4;

/// Times that every file is looked at while its attributes are warm.
const WARM_ROUNDS: usize = 5;

/// create, stat-warm, list, stat-cold, rename, unlink.
pub(super) fn run(turn: &Turn) -> Result<()> {
    let files = turn.sizes.files;
    let directory = turn.home().join("d");
    fs::create_dir(&directory)?;
    let names: Vec<_> = (0..files).map(|number| directory.join(format!("f{number:05}"))).collect();
    turn.step_if_wanted("create", || {
        let (took, ()) = seconds(|| create_in_threads(turn.home(), files / THREADS))?;
        Ok(vec![Measure::rate("4 threads", files / THREADS * THREADS, took)])
    })?;
    // Gone again before the next ones come: a passthrough holds a descriptor for each file that the kernel knows, and may
    // not have as many as all of them need.
    remove_directories(turn.home())?;
    turn.step("create", || {
        let (took, ()) = seconds(|| create(&names))?;
        Ok(vec![Measure::rate("1 thread", files, took)])
    })?;
    if turn.wants("stat-warm") {
        stat(&names)?;
    }
    turn.step_if_wanted("stat-warm", || {
        let (took, ()) = seconds(|| (0..WARM_ROUNDS).try_for_each(|_| stat(&names)))?;
        Ok(vec![Measure::each("", files * WARM_ROUNDS, took)])
    })?;
    if turn.wants("list") {
        list(&directory, files)?;
    }
    turn.step_if_wanted("list", || {
        let (took, ()) = seconds(|| list(&directory, files))?;
        Ok(vec![Measure::each("warm, per file", files, took)])
    })?;
    turn.step_when_cold("list", || {
        let (took, ()) = seconds(|| list(&directory, files))?;
        Ok(vec![Measure::each("cold, per file", files, took)])
    })?;
    turn.step_when_cold("stat-cold", || {
        let (took, ()) = seconds(|| stat(&names))?;
        Ok(vec![Measure::each("", files, took)])
    })?;
    let renamed: Vec<_> = (0..files).map(|number| directory.join(format!("g{number:05}"))).collect();
    turn.step("rename", || {
        let pairs = names.iter().zip(&renamed);
        let (took, ()) = seconds(|| pairs.into_iter().try_for_each(|(from, to)| Ok(fs::rename(from, to)?)))?;
        Ok(vec![Measure::rate("", files, took)])
    })?;
    turn.step("unlink", || {
        let (took, ()) = seconds(|| renamed.iter().try_for_each(|name| Ok(fs::remove_file(name)?)))?;
        Ok(vec![Measure::rate("", files, took)])
    })?;
    ensure!(fs::read_dir(&directory)?.next().is_none(), "files are left after removing all");
    Ok(())
}

fn create(names: &[PathBuf]) -> Result<()> {
    names.iter().try_for_each(|name| match File::create_new(name) {
        Ok(_) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("creating {}", name.display())),
    })
}

fn create_in_threads(home: &Path, files_each: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let start = |thread: usize| {
            scope.spawn(move || {
                let directory = home.join(format!("t{thread}"));
                fs::create_dir(&directory)?;
                create(&(0..files_each).map(|number| directory.join(format!("f{number:05}"))).collect::<Vec<_>>())
            })
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })
}

fn remove_directories(home: &Path) -> Result<()> {
    (0..THREADS).try_for_each(|thread| match fs::remove_dir_all(home.join(format!("t{thread}"))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    })
}

fn stat(names: &[PathBuf]) -> Result<()> {
    names.iter().try_for_each(|name| {
        let about = fs::symlink_metadata(name).with_context(|| format!("looking at {}", name.display()))?;
        ensure!(about.is_file() && about.len() == 0, "{} is not an empty file", name.display());
        Ok(())
    })
}

/// As `ls -l` does: the names, then each file's attributes.
fn list(directory: &Path, expected: usize) -> Result<()> {
    let mut found = 0;
    for entry in fs::read_dir(directory)? {
        fs::symlink_metadata(entry?.path())?;
        found += 1;
    }
    ensure!(found == expected, "{found} of {expected} files are listed");
    Ok(())
}
