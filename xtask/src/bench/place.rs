//! A directory that is compared: its mounts, its daemons, and what cold means there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::cluster::Cluster;
use super::daemons::{self, Usage};
use super::setup::PassthroughMount;

/// One of the compared.
pub(super) struct Place {
    pub(super) name: String,
    /// One or more mounts of the same tree; workloads for one mount use the first.
    pub(super) mounts: Vec<PathBuf>,
    pub(super) kind: Kind,
    /// Which of the mounts were mount points in the beginning, and must still be.
    mounted: Vec<bool>,
    /// The largest peak seen; a daemon that was restarted starts again at nothing.
    peak_bytes: Mutex<u64>,
}

/// Who serves it.
pub(super) enum Kind {
    /// The kernel alone, or processes that somebody named to us.
    Given(Vec<u32>),
    /// A passthrough of ours.
    Passthrough(PassthroughMount),
    /// A cluster of ours.
    Cluster(Cluster),
}

impl Place {
    pub(super) fn new(name: &str, mounts: Vec<PathBuf>, kind: Kind) -> Self {
        let mounted = mounts.iter().map(|mount| is_mount_point(mount)).collect();
        Self { name: name.to_owned(), mounts, kind, mounted, peak_bytes: Mutex::new(0) }
    }

    /// From `NAME=PATH` or `NAME=PATH,PATH`.
    pub(super) fn parse(given: &str, daemons: &[(String, Vec<u32>)]) -> Result<Self> {
        let Some((name, paths)) = given.split_once('=').filter(|(name, paths)| !name.is_empty() && !paths.is_empty())
        else {
            bail!("{given:?} names no directory\nHint: NAME=PATH, or NAME=PATH,PATH for several mounts of one tree");
        };
        let mount = |path: &str| -> Result<PathBuf> {
            let path = fs::canonicalize(path).with_context(|| format!("{name}: {path}"))?;
            if !path.is_dir() {
                bail!("{name}: {} is not a directory", path.display());
            }
            Ok(path)
        };
        let mounts = paths.split(',').map(mount).collect::<Result<Vec<_>>>()?;
        let pids = daemons.iter().filter(|(of, _)| of == name).flat_map(|(_, pids)| pids).copied().collect();
        Ok(Self::new(name, mounts, Kind::Given(pids)))
    }

    /// What its daemons have used so far.
    pub(super) fn usage(&self) -> Usage {
        let pids = match &self.kind {
            Kind::Given(pids) => pids.clone(),
            Kind::Passthrough(mount) => mount.pids(),
            Kind::Cluster(cluster) => cluster.nodes().into_iter().map(|node| node.pid).collect(),
        };
        let mut usage = daemons::usage(&pids);
        let mut peak = self.peak_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *peak = (*peak).max(usage.peak_bytes);
        usage.peak_bytes = *peak;
        usage
    }

    /// Why nothing can be made cold here, if so.
    pub(super) fn cannot_be_cold() -> Option<&'static str> {
        (!rustix::process::geteuid().is_root()).then_some("dropping the kernel's caches needs root")
    }

    /// What [`make_cold`](Self::make_cold) does here, in words.
    pub(super) fn cold_means(&self) -> &'static str {
        match &self.kind {
            Kind::Given(_) => "kernel caches dropped",
            Kind::Passthrough(_) => "mounted anew by a new process, kernel caches dropped",
            Kind::Cluster(_) => "kernel caches dropped; the daemons keep running, with what they have in memory",
        }
    }

    /// Writes everything back and drops what is cached.
    pub(super) fn make_cold(&self) -> Result<()> {
        rustix::fs::sync();
        match &self.kind {
            Kind::Passthrough(mount) => mount.remount(drop_caches)?,
            Kind::Given(_) | Kind::Cluster(_) => drop_caches()?,
        }
        Ok(())
    }

    /// Refuses to go on when a mount has gone: the workload would run in the directory below it, and be fast.
    pub(super) fn check_mounted(&self) -> Result<()> {
        for (mount, was_mounted) in self.mounts.iter().zip(&self.mounted) {
            if *was_mounted && !is_mount_point(mount) {
                bail!("{}: nothing is mounted here any more", mount.display());
            }
        }
        Ok(())
    }

    pub(super) fn mount(&self) -> &Path {
        &self.mounts[0]
    }
}

/// Whether another filesystem begins here.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|about| about.dev());
    let parent = path.parent().unwrap_or(path);
    matches!((device(path), device(parent)), (Ok(here), Ok(above)) if here != above)
}

/// From `NAME=PID,PID`.
pub(super) fn parse_daemons(given: &str) -> Result<(String, Vec<u32>)> {
    let hint = "Hint: NAME=PID,PID";
    let (name, pids) = given.split_once('=').with_context(|| format!("{given:?} names no processes\n{hint}"))?;
    let pid = |pid: &str| pid.parse().with_context(|| format!("{name}: {pid:?} is not a process id\n{hint}"));
    Ok((name.to_owned(), pids.split(',').map(pid).collect::<Result<_>>()?))
}

/// Pages, names and inodes of the whole machine.
fn drop_caches() -> Result<()> {
    const CONTROL: &str = "/proc/sys/vm/drop_caches";
    rustix::fs::sync();
    fs::write(CONTROL, "3\n").with_context(|| format!("writing {CONTROL}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_parsed_or_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().display();
        let place = Place::parse(&format!("a={path},{path}"), &[("a".to_owned(), vec![7])]).expect("two mounts");
        assert_eq!((place.name.as_str(), place.mounts.len()), ("a", 2));
        assert!(matches!(&place.kind, Kind::Given(pids) if *pids == [7]));
        for refused in ["", "a", "=x", "a=", "a=/dev/null", "a=/nowhere/at/all"] {
            assert!(Place::parse(refused, &[]).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_mount_that_has_gone_is_noticed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let plain = Place::new("a", vec![directory.path().to_owned()], Kind::Given(Vec::new()));
        assert!(plain.check_mounted().is_ok());
        assert!(is_mount_point(Path::new("/proc")));
        let gone = Place { mounted: vec![true], ..plain };
        assert!(gone.check_mounted().is_err());
    }

    #[test]
    fn daemons_are_parsed_or_refused() {
        assert_eq!(parse_daemons("a=1,2").expect("two pids"), ("a".to_owned(), vec![1, 2]));
        assert!(parse_daemons("a=x").is_err());
        assert!(parse_daemons("a").is_err());
    }
}
