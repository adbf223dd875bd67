//! Mounts of the daemon that this process is.

use gavel_client::Tree;
use gavel_mount::{MountOptions, Mounted};
use gavel_runtime::config::{MountConfig, MountOption};
use gavel_runtime::host::daemon::Mounter;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The mounts that are up.
#[derive(Default)]
pub struct Mounts {
    up: Mutex<Vec<(MountConfig, Mounted)>>,
}

impl Mounter for Mounts {
    fn mount(&self, tree: Arc<dyn Tree>, mount: &MountConfig, control: &Path) -> Result<(), String> {
        let has = |option| mount.options.contains(&option);
        let mut options = MountOptions::at(&mount.path);
        options.fsname = match &mount.at {
            None => format!("gavel:{}", mount.volume),
            Some(at) => format!("gavel:{}@@{at}", mount.volume),
        };
        options.control = [mount.volume.to_string().as_bytes(), b" ", control.as_os_str().as_bytes()].concat();
        options.read_only = has(MountOption::ReadOnly);
        options.allow_other |= has(MountOption::AllowOther);
        options.suid_and_devices &= !has(MountOption::NoSuid) && !has(MountOption::NoDev);
        options.programs = !has(MountOption::NoExec);
        options.local_locks = has(MountOption::LocalLocks);
        options.local_opens = has(MountOption::LocalOpens);
        // What was is changed by nobody.
        options.private = mount.at.is_some();
        let mut up = self.that_are_up();
        let mounted = Mounted::new(tree, options).map_err(|error| error.to_string())?;
        up.push((mount.clone(), mounted));
        Ok(())
    }

    fn mount_private(&self, tree: Arc<dyn Tree>, mount: &MountConfig, control: &str) -> Result<(), String> {
        let has = |option| mount.options.contains(&option);
        let mut options = MountOptions::at(&mount.path);
        options.fsname = format!("gavel:{}-txn", mount.volume);
        options.control = control.into();
        // A listing that brings attributes would depend on all of them.
        options.readdirplus = false;
        options.private = true;
        options.read_only = has(MountOption::ReadOnly);
        options.allow_other |= has(MountOption::AllowOther);
        options.suid_and_devices &= !has(MountOption::NoSuid) && !has(MountOption::NoDev);
        options.programs = !has(MountOption::NoExec);
        let mounted = Mounted::new(tree, options).map_err(|error| error.to_string())?;
        self.up.lock().unwrap_or_else(PoisonError::into_inner).push((mount.clone(), mounted));
        Ok(())
    }

    fn clear(&self, dir: &Path) {
        for path in gavel_mount::table::stale_mounts_under(dir).unwrap_or_default() {
            if let Err(error) = gavel_mount::table::unmount_path(&path, true) {
                tracing::warn!(%error, "a mount that an earlier life left behind stays");
            }
        }
    }

    fn umount(&self, path: &Path) -> Result<(), String> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut up = self.that_are_up();
        let found = up.iter().position(|(mount, mounted)| mount.path == path || mounted.path() == real);
        let Some(found) = found else {
            return Err(format!("{} is not a mount of this node", path.display()));
        };
        let (_, mounted) = up.remove(found);
        drop(up);
        mounted.unmount().map(drop).map_err(|error| error.to_string())
    }

    fn mounts(&self) -> Vec<MountConfig> {
        self.that_are_up().iter().map(|(mount, _)| mount.clone()).collect()
    }
}

impl Mounts {
    /// Without those that somebody else has ended (`umount`): what they show needs not be kept.
    fn that_are_up(&self) -> MutexGuard<'_, Vec<(MountConfig, Mounted)>> {
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        up.retain(|(_, mounted)| !mounted.wait(Some(std::time::Duration::ZERO)));
        up
    }
}
