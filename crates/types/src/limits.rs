//! Bounds that more than one room must agree on. Bounds of one room live in that room.

/// Longest file name, in bytes (as in other Linux filesystems).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symlink target, in bytes (PATH_MAX less its NUL).
pub const TARGET_BYTES_MAX: usize = 4095;
/// Longest name of an extended attribute (XATTR_NAME_MAX).
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Largest value of an extended attribute (XATTR_SIZE_MAX).
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of names of one object's extended attributes (XATTR_LIST_MAX).
pub const XATTR_LIST_BYTES_MAX: usize = 64 * 1024;
/// Most names of one file (as in XFS; ext4 has 65,000).
pub const LINKS_MAX: u32 = i32::MAX as u32;
/// Largest file, in bytes: offsets are signed 64-bit numbers in the kernel.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Longest run of bytes that an extent record carries itself; longer runs go to a blob.
pub const INLINE_BYTES_MAX: usize = 16 * 1024;
/// Largest blob, in bytes.
pub const BLOB_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest write that one operation takes, in bytes.
pub const WRITE_BYTES_MAX: usize = 1024 * 1024;
/// Largest encoded log entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest encoded request of a session: an entry must be able to hold several.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most items in one log entry.
pub const ENTRY_ITEMS_MAX: usize = 4096;
/// Most requests of one session whose outcome the node has not acknowledged.
pub const SESSION_WINDOW_MAX: u64 = 1024;
/// Most open sessions in a cluster: the state with all their windows full must fit into a snapshot.
pub const SESSIONS_MAX: usize = 512;
/// Object ids handed out at a time, so that what is created together is numbered together.
pub const OBJECT_BLOCK: u64 = 4096;
/// Most snapshots in a cluster.
pub const SNAPSHOTS_MAX: usize = 4096;
/// Most states that sessions keep from being pruned, in a cluster.
pub const PINS_MAX: usize = 4096;
/// Longest name of a snapshot, in bytes.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 64;
/// Most volumes in a cluster, those that were destroyed and have not gone yet among them.
pub const VOLUMES_MAX: usize = 1024;
/// Most mirrors in other clusters that are admitted to volumes of a cluster.
pub const FOLLOWERS_MAX: usize = 64;
/// Most origins that lie behind a clone: each is asked for what is not in the one before.
pub const CLONE_DEPTH_MAX: usize = 8;
/// Longest note of a snapshot or a commit, in bytes.
pub const NOTE_BYTES_MAX: usize = 1024;
/// Most directory levels above an object that a rename follows to see that no directory moves below itself.
pub const DEPTH_MAX: usize = 4096;

const _: () = assert!(WRITE_BYTES_MAX <= BLOB_BYTES_MAX);
const _: () = assert!(INLINE_BYTES_MAX <= WRITE_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX * 2 <= ENTRY_BYTES_MAX);
