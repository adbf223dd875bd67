//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Mode of a file that holds a private key.
pub(crate) const SECRET_MODE: u32 = 0o600;
/// Mode of a file that anybody may read.
pub(crate) const PUBLIC_MODE: u32 = 0o644;
/// Largest file that is read whole: certificates, keys and configurations are a few KiB.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Writes `bytes` to `path`, which must not exist. After a crash the file is whole or not there.
///
/// Errors: `AlreadyExists` if there is a file, which then is untouched.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = write_draft(path, bytes, mode)?;
    // Unlike a rename, a link never replaces what is there.
    let linked = fs::hard_link(&draft, path);
    let removed = fs::remove_file(&draft);
    linked.and(removed)?;
    sync_parent(path)
}

/// Writes `bytes` to `path`, replacing what is there. After a crash the file is the old or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = write_draft(path, bytes, mode)?;
    if let Err(error) = fs::rename(&draft, path) {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    sync_parent(path)
}

/// Reads a whole file of at most [`FILE_BYTES_MAX`] bytes.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn write_draft(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file's path"))?;
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".draft-{}", std::process::id()));
    let draft = path.with_file_name(draft_name);
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written {
        if error.kind() != io::ErrorKind::AlreadyExists {
            let _ = fs::remove_file(&draft);
        }
        return Err(error);
    }
    Ok(draft)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
