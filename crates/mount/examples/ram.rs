//! Mounts a tree that lives in memory: `ram DIRECTORY [readdirplus] [keep] [private] [local_opens]`. Unmount it (`umount DIRECTORY`) to end it.

use gavel_mount::{MountOptions, Mounted};

#[path = "../tests/ram/mod.rs"]
mod ram;

fn main() -> std::process::ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: ram DIRECTORY [readdirplus] [keep] [private] [local_opens]");
        return std::process::ExitCode::from(2);
    };
    let mut options = MountOptions::at(path);
    options.fsname = "gavel:ram".into();
    let word = |wanted: &str| std::env::args().skip(2).any(|word| word == wanted);
    options.readdirplus = word("readdirplus");
    options.private = word("private");
    options.local_opens = word("local_opens");
    let tree = ram::RamTree::new();
    if word("keep") {
        tree.keep(ram::kept::ALL);
    }
    match Mounted::new(tree, options) {
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
