//! What a change of a file takes away: set-user-id, set-group-id, and file capabilities.
//!
//! The rules are those of Linux (`file_remove_privs`, `chown_common`, `setattr_should_drop_sgid`). Where the kernel
//! looks at supplementary groups, which an operation does not know, a bit goes rather than stays.

use crate::Caller;
use gavel_wire::Kind;

const SUID: u16 = 0o4000;
/// The set-group-id bit.
pub(crate) const SGID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;

/// The extended attribute that holds a file's capabilities. Every change of a file's content or owner ends it. The
/// mutation that does so is unconditional: it depends on nothing, and does nothing where there is none.
pub(crate) const CAPABILITIES: &[u8] = b"security.capability";

/// The mode behind a write or truncation by somebody without the privilege to keep the bits.
///
/// Set-group-id without group-execute marks mandatory locking, not a privilege, and stays.
pub(crate) fn after_write(mode: u16) -> u16 {
    match mode & GROUP_EXECUTE {
        0 => mode & !SUID,
        _ => mode & !(SUID | SGID),
    }
}

/// The mode behind a change of owner or group. `gid` is the group before.
pub(crate) fn after_chown(kind: Kind, mode: u16, gid: u32, caller: Caller) -> u16 {
    if kind == Kind::Directory {
        return mode;
    }
    after_write(if belongs(caller, gid) { mode } else { mode & !SGID })
}

/// The mode behind a change of the access ACL. `gid` is the object's group.
pub(crate) fn after_set_acl(mode: u16, gid: u32, caller: Caller) -> u16 {
    if belongs(caller, gid) { mode } else { mode & !SGID }
}

/// Does a content change for which the kernel gives no flag (fallocate, copy_file_range) take the bits?
pub(crate) fn taken_from(caller: Caller) -> bool {
    caller.uid != 0
}

fn belongs(caller: Caller, gid: u32) -> bool {
    caller.uid == 0 || caller.gid == gid
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Caller = Caller { uid: 0, gid: 0 };
    const USER: Caller = Caller { uid: 5, gid: 6 };

    /// As measured on ext4 (Linux 6.18).
    #[test]
    fn chown_takes_what_ext4_takes() {
        for (before, after) in [(0o6755, 0o755), (0o6745, 0o2745), (0o6644, 0o2644), (0o1777, 0o1777)] {
            assert_eq!(after_chown(Kind::File, before, 0, ROOT), after, "{before:o}");
        }
        assert_eq!(after_chown(Kind::Directory, 0o6755, 0, ROOT), 0o6755);
        assert_eq!(after_chown(Kind::File, 0o2644, 7, USER), 0o644);
        assert_eq!(after_chown(Kind::File, 0o2644, 6, USER), 0o2644);
    }
}
