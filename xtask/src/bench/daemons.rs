//! CPU and memory of the processes that serve a directory, from `/proc`.

use std::fs;

/// `/proc/PID/stat` counts in these; Linux has shown 100 a second to user space on every architecture for long.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the daemons of a directory have used so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Usage {
    /// User and system time of all of them together.
    pub(super) cpu_seconds: f64,
    /// Peak resident memory, summed over them.
    pub(super) peak_bytes: u64,
}

/// What these processes have used; those that are gone count nothing.
pub(super) fn usage(pids: &[u32]) -> Usage {
    let mut all = Usage::default();
    for pid in pids {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        all.cpu_seconds += cpu_seconds(&read("stat")).unwrap_or_default();
        all.peak_bytes += peak_bytes(&read("status")).unwrap_or_default();
    }
    all
}

/// Fields 14 and 15 of proc_pid_stat(5). The command's name, field 2, may hold spaces and brackets.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_odd_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 99 1000 10";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("42 (gone"), None);
        assert_eq!(peak_bytes("Name:\tx\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
    }

    #[test]
    fn our_own_process_uses_memory() {
        assert!(usage(&[std::process::id()]).peak_bytes > 0);
        assert_eq!(usage(&[u32::MAX]), Usage::default());
    }
}
