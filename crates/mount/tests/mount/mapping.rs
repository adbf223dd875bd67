//! Shared mappings.
#![allow(unsafe_code)] // mapping a file into memory is unsafe: somebody else may change it. Here nobody does.

use crate::fixture::{Fixture, eventually};
use crate::keeping::inode;
use gavel_client::tree::Kept;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

pub const PAGES: usize = 64 * 1024;

/// A file mapped shared.
pub struct Mapping(*mut libc::c_void);

// SAFETY: what is shared is only read, each byte at once.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &File) -> Mapping {
        Mapping::with(file, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Only for reading.
    pub fn reading(file: &File) -> Mapping {
        Mapping::with(file, libc::PROT_READ)
    }

    /// The byte at `offset`, as it is now.
    pub fn byte(&self, offset: usize) -> u8 {
        assert!(offset < PAGES);
        // SAFETY: inside of the mapping, and the file is at least as long. Volatile: others change it.
        unsafe { self.0.cast::<u8>().add(offset).read_volatile() }
    }

    fn with(file: &File, access: i32) -> Mapping {
        // SAFETY: a fresh mapping, at an address of the kernel's choice, of a file that is open for this.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), PAGES, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(address, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Mapping(address)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is PAGES long, the file at least as long, and nothing else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.0.cast(), PAGES) }
    }

    fn sync(&self) {
        // SAFETY: the range is the mapping's.
        let done = unsafe { libc::msync(self.0, PAGES, libc::MS_SYNC) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.0, PAGES) };
    }
}

#[test]
fn what_is_written_to_a_shared_mapping_is_read_back_from_the_file() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.path("mapped");
    fs::write(&path, vec![b'.'; PAGES]).expect("writes");
    let file = OpenOptions::new().read(true).append(true).open(&path).expect("opens");
    let mut mapping = Mapping::new(&file);
    assert!(mapping.bytes().iter().all(|byte| *byte == b'.'));
    mapping.bytes()[10_000..10_005].copy_from_slice(b"hello");
    mapping.sync();
    let data = fs::read(&path).expect("reads");
    assert_eq!(data.len(), PAGES, "pages go where they belong, also of a file that is open for appending");
    assert_eq!(&data[9_999..10_006], b".hello.");
    let other = OpenOptions::new().write(true).open(&path).expect("opens");
    other.write_all_at(b"HELLO", 10_000).expect("writes");
    assert_eq!(&mapping.bytes()[10_000..10_005], b"HELLO", "writes of this node show in its mappings");
    drop((mapping, file, other));
    fixture.finish();
}

const CHILD_MAPS: &str = "GAVEL_MAPPING_TEST_CHILD";

/// Not a test: the process that unmaps. All of its memory is locked until that is answered, so it must not be the one that answers.
#[test]
fn child_that_unmaps() {
    let Some(path) = std::env::var_os(CHILD_MAPS) else { return };
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
    Mapping::new(&file).bytes()[0] = b'!';
}

#[test]
fn unmapping_writes_what_is_dirty() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.path("mapped");
    fs::write(&path, vec![b'.'; PAGES]).expect("writes");
    let own = std::env::current_exe().expect("this binary");
    let child = Command::new(own).args(["--exact", "mapping::child_that_unmaps"]).env(CHILD_MAPS, &path).output();
    assert!(child.expect("runs").status.success());
    assert_eq!(fs::read(&path).expect("reads")[..2], *b"!.");
    fixture.finish();
}

/// A mount waits so long for a page that no write is known to hold.
const DROP_MAX: Duration = Duration::from_secs(2);

#[test]
fn a_forgetting_does_not_wait_for_what_a_mapping_writes_back() {
    for saving in [true, false] {
        let Some(fixture) = Fixture::new() else { return };
        let path = fixture.path("mapped");
        fs::write(&path, vec![b'.'; PAGES]).expect("writes");
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
        let (id, mut mapping) = (inode(&path), Mapping::new(&file));
        let held = fixture.tree.hold_writes();
        mapping.bytes()[0] = b'!';
        std::thread::scope(|scope| {
            let mapping = &mapping;
            let saving = saving.then(|| scope.spawn(|| mapping.sync()));
            if saving.is_some() {
                eventually("it is being saved", || fixture.tree.held_writes() == 1);
            }
            // As a recall of the file by a node whose own write that one waits for.
            let began = Instant::now();
            fixture.tree.forget(vec![Kept::Object(id)]);
            assert!(began.elapsed() < DROP_MAX, "it waited for the page");
            eventually("it is written back so that the page can be dropped", || fixture.tree.held_writes() == 1);
            drop(held);
            if let Some(saving) = saving {
                saving.join().expect("saves");
            }
        });
        assert_eq!(fs::read(&path).expect("reads")[0], b'!');
        fixture.tree.behind(crate::keeping::write(id, 0, b"?"));
        fixture.tree.forget(vec![Kept::Object(id)]);
        assert_eq!(mapping.byte(0), b'?', "nothing is written, so that it was dropped by then");
        drop((mapping, file));
        fixture.finish();
    }
}
