//! What is agreed on with the kernel, and what follows for opened files.
//!
//! `docs/protocols/mount.md` says of each capability why it is asked for or left.

use fuser::{FopenFlags, InitFlags, KernelConfig, Version};
use gavel_types::limits::WRITE_BYTES_MAX;

/// Most requests that the kernel sends without a thread that waits for them (read-ahead of mappings, asynchronous
/// direct I/O).
const BACKGROUND_MAX: u16 = 64;
/// As many of these make the kernel hold more of them back.
const CONGESTED: u16 = BACKGROUND_MAX / 4 * 3;

/// What is asked for, if the kernel has it. fuser adds `ASYNC_READ`, `BIG_WRITES`, `MAX_PAGES` and `INIT_EXT`.
const WANTED: [InitFlags; 11] = [
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
];

/// What was agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    /// How files are opened whose pages may not be kept.
    uncached: FopenFlags,
    /// The kernel opens files without asking, and says nothing when they are closed.
    pub(crate) unasked_opens: bool,
    /// The kernel has the locks of files to itself.
    pub(crate) local_locks: bool,
}

impl Agreed {
    /// Before the kernel was asked.
    pub(crate) fn nothing() -> Agreed {
        Agreed { uncached: FopenFlags::empty(), unasked_opens: false, local_locks: false }
    }

    /// Can files be opened so that pages are kept for some opens and not for others?
    pub(crate) fn caches(self) -> bool {
        self.uncached.contains(FopenFlags::FOPEN_DIRECT_IO)
    }

    /// How to open a file that never changes.
    pub(crate) fn open_past(self) -> FopenFlags {
        self.open(Some(true))
    }

    /// How to open a file of which pages may be kept, if they may (and are those that are there already still good?).
    pub(crate) fn open(self, cached: Option<bool>) -> FopenFlags {
        match cached {
            None => self.uncached,
            Some(false) => FopenFlags::empty(),
            Some(true) => FopenFlags::FOPEN_KEEP_CACHE,
        }
    }
}

/// Locks of files: without these, the kernel keeps them itself.
const LOCKS: [InitFlags; 2] = [InitFlags::FUSE_POSIX_LOCKS, InitFlags::FUSE_FLOCK_LOCKS];

/// The first kernel that can be asked to give up inodes (`FUSE_NOTIFY_PRUNE`): Linux 6.18.
const PRUNES: Version = Version(7, 45);

/// What a mount wants of the kernel, besides what all want.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// Listings bring attributes.
    pub(crate) readdirplus: bool,
    /// Locks of files are the kernel's own affair.
    pub(crate) local_locks: bool,
    /// So are opens.
    pub(crate) unasked_opens: bool,
    /// Others can remove what is open here.
    pub(crate) shared: bool,
}

/// Answers the kernel's INIT request.
pub(crate) fn agree(config: &mut KernelConfig, terms: Terms) -> Agreed {
    let offered = config.capabilities();
    let unasked_opens = terms.opens_unasked(offered, config.kernel_abi());
    let plus = [InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_READDIRPLUS_AUTO];
    let wanted = WANTED.iter().filter(|flag| !(terms.local_locks && LOCKS.contains(flag)));
    // Who is not asked to open a file cannot truncate it with that.
    let wanted = wanted.filter(|flag| !(unasked_opens && **flag == InitFlags::FUSE_ATOMIC_O_TRUNC));
    for flag in wanted.chain(plus.iter().filter(|_| terms.readdirplus)) {
        if config.add_capabilities(*flag).is_err() {
            tracing::info!(capability = ?flag, "the kernel does not have it");
        }
    }
    // All three are within the bounds that fuser checks, so there is nothing to report.
    let _ = config.set_max_write(WRITE_BYTES_MAX as u32);
    let _ = config.set_max_background(BACKGROUND_MAX);
    let _ = config.set_congestion_threshold(CONGESTED);
    let uncached = if unasked_opens { FopenFlags::FOPEN_KEEP_CACHE } else { open_flags(offered) };
    Agreed { uncached, unasked_opens, local_locks: terms.local_locks }
}

impl Terms {
    fn opens_unasked(self, offered: InitFlags, abi: Version) -> bool {
        let can = offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT) && (!self.shared || abi >= PRUNES);
        if self.unasked_opens && !can {
            tracing::info!(
                "the kernel asks for each open: it cannot give up what others have removed (Linux 6.18 can)"
            );
        }
        self.unasked_opens && can
    }
}

/// Reads and writes pass the kernel's page cache by, which nobody would invalidate. Where the kernel cannot map such a
/// file shared (before 6.6), its pages are kept and checked against the attributes at each read instead.
fn open_flags(offered: InitFlags) -> FopenFlags {
    if offered.contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP) {
        FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
    } else {
        FopenFlags::empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_only_for_who_may() {
        for offered in [InitFlags::empty(), InitFlags::all()] {
            let agreed = Agreed { uncached: open_flags(offered), ..Agreed::nothing() };
            assert!(!agreed.open(None).contains(FopenFlags::FOPEN_KEEP_CACHE));
            assert_eq!(agreed.caches(), offered == InitFlags::all());
            assert_eq!(agreed.open(Some(true)), FopenFlags::FOPEN_KEEP_CACHE);
            assert!(agreed.open(Some(false)).is_empty(), "the kernel drops what is there");
        }
        assert!(open_flags(InitFlags::all()).contains(FopenFlags::FOPEN_DIRECT_IO));
        assert!(!WANTED.contains(&InitFlags::FUSE_WRITEBACK_CACHE));
    }
    #[test]
    fn files_are_opened_unasked_only_where_what_others_remove_can_be_given_up() {
        let all = Terms { unasked_opens: true, shared: true, ..Terms::default() };
        let (offered, before) = (InitFlags::FUSE_NO_OPEN_SUPPORT, Version(7, 44));
        assert!(all.opens_unasked(offered, PRUNES));
        assert!(!all.opens_unasked(InitFlags::empty(), PRUNES));
        assert!(!all.opens_unasked(offered, before));
        assert!(Terms { shared: false, ..all }.opens_unasked(offered, before));
        assert!(!Terms { unasked_opens: false, ..all }.opens_unasked(offered, PRUNES));
    }
}
