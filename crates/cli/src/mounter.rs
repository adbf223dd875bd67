//! Mounts of the daemon that this process is.

use gavel_client::Tree;
use gavel_mount::{MountOptions, Mounted};
use gavel_runtime::config::{MountConfig, MountOption};
use gavel_runtime::host::daemon::Mounter;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

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
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        // A mount that somebody else has ended is forgotten here.
        up.retain(|(_, mounted)| !mounted.wait(Some(std::time::Duration::ZERO)));
        let mounted = Mounted::new(tree, options).map_err(|error| error.to_string())?;
        up.push((mount.clone(), mounted));
        Ok(())
    }

    fn umount(&self, path: &Path) -> Result<(), String> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        let found = up.iter().position(|(mount, mounted)| mount.path == path || mounted.path() == real);
        let Some(found) = found else {
            return Err(format!("{} is not a mount of this node", path.display()));
        };
        let (_, mounted) = up.remove(found);
        drop(up);
        mounted.unmount().map(drop).map_err(|error| error.to_string())
    }

    fn mounts(&self) -> Vec<MountConfig> {
        let up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        up.iter().map(|(mount, _)| mount.clone()).collect()
    }
}
