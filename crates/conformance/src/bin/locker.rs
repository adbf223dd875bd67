//! A program that locks files as it is told, line by line. `gavel_conformance::locker` speaks with it.
//!
//! | line | does |
//! |---|---|
//! | `open NAME PATH` | opens a file for reading and writing |
//! | `close NAME` | closes it |
//! | `set`, `wait`, `ofd NAME KIND FIRST LEN` | `F_SETLK`, `F_SETLKW`, `F_OFD_SETLK`; KIND is `read`, `write` or `none` |
//! | `get NAME KIND FIRST LEN` | `F_GETLK` |
//! | `flock NAME OPERATION` | `flock(2)`: a number |
//!
//! Each is answered by a line: `ok` or an errno (for `get`: `none`, or KIND, FIRST, LEN and process), and what the monotonic clock showed
//! before and after, in nanoseconds. SIGUSR1 interrupts, and is not survived by system calls (no SA_RESTART).
#![allow(unsafe_code)] // sigaction(2) and flock(2) on numbers of files have no safe form.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::os::fd::AsRawFd;

extern "C" fn interrupted(_: libc::c_int) {}

fn main() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(interrupted), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    let mut files = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let before = now();
        let said = match obey(&mut files, &words) {
            Ok(said) => said,
            Err(error) => match error.downcast_ref::<Errno>() {
                Some(errno) => format!("{errno:?}"),
                None => return Err(error.context(line)),
            },
        };
        writeln!(std::io::stdout(), "{before} {} {said}", now())?;
    }
    Ok(())
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn obey(files: &mut BTreeMap<String, File>, words: &[&str]) -> Result<String> {
    match words {
        ["open", name, path] => {
            files.insert((*name).into(), OpenOptions::new().read(true).write(true).open(path)?);
        }
        ["close", name] => drop(files.remove(*name).context("no such file")?),
        ["flock", name, operation] => {
            let file = files.get(*name).context("no such file")?;
            // SAFETY: an open file.
            Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation.parse()?) })?;
        }
        [how, name, kind, first, len] => {
            let file = files.get(*name).context("no such file")?;
            let mut lock = libc::flock {
                l_type: number_of(kind)? as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: first.parse()?,
                l_len: len.parse()?,
                l_pid: 0,
            };
            match *how {
                "set" => fcntl(file, FcntlArg::F_SETLK(&lock))?,
                "wait" => fcntl(file, FcntlArg::F_SETLKW(&lock))?,
                "ofd" => fcntl(file, FcntlArg::F_OFD_SETLK(&lock))?,
                "get" => {
                    fcntl(file, FcntlArg::F_GETLK(&mut lock))?;
                    return Ok(told(&lock));
                }
                _ => bail!("what is {how}?"),
            };
        }
        _ => bail!("what is that?"),
    }
    Ok("ok".into())
}

fn number_of(kind: &str) -> Result<libc::c_int> {
    Ok(match kind {
        "read" => libc::F_RDLCK,
        "write" => libc::F_WRLCK,
        "none" => libc::F_UNLCK,
        _ => bail!("what is {kind}?"),
    })
}

fn told(lock: &libc::flock) -> String {
    let kind = match libc::c_int::from(lock.l_type) {
        libc::F_UNLCK => return "none".into(),
        libc::F_RDLCK => "read",
        _ => "write",
    };
    format!("{kind} {} {} {}", lock.l_start, lock.l_len, lock.l_pid)
}
