//! What this machine has, and how busy it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// May mounts, namespaces and signals be used here? Says why not on standard error.
pub fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root, to mount and to make namespaces");
        return false;
    }
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: /dev/fuse is missing");
        return false;
    }
    true
}

/// Where a program is: the variable's value if there is one, else the first in PATH. Says on standard error if there is none.
pub fn program(name: &str, variable: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: {name} is not installed (and {variable} names none)");
    }
    found
}

/// Are all of these programs there? Says on standard error which one is not.
pub fn has_programs(names: &[&str]) -> bool {
    names.iter().all(|name| program(name, &format!("GAVEL_TEST_{}", name.to_uppercase())).is_some())
}

/// A time that a quiet machine keeps, made longer on one where more wants to run than there are cores.
pub fn with_slack(quiet: Duration) -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    quiet.mul_f64((load / cores).clamp(1.0, SLACK_MAX)) + SLACK
}

/// What scheduling and polling may add on a quiet machine.
const SLACK: Duration = Duration::from_millis(500);
/// Busier than this and the measurement says nothing; still, nothing may take for ever.
const SLACK_MAX: f64 = 2.0;
