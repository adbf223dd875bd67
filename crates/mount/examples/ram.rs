//! Mounts a tree that lives in memory: `ram DIRECTORY`. Unmount it (`umount DIRECTORY`) to end it.

use gavel_mount::{MountOptions, Mounted};

#[path = "../tests/ram/mod.rs"]
mod ram;

fn main() -> std::process::ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: ram DIRECTORY [readdirplus]");
        return std::process::ExitCode::from(2);
    };
    let mut options = MountOptions::at(path);
    options.fsname = "gavel:ram".into();
    options.readdirplus = std::env::args().nth(2).is_some_and(|word| word == "readdirplus");
    match Mounted::new(ram::RamTree::new(), options) {
        Ok(mounted) => {
            println!("mounted at {}", mounted.path().display());
            mounted.wait(None);
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
