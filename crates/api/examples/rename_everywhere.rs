//! Replaces a word in all text files below a directory, in all of them at once: nobody sees some with the old word and some with the new one.
//!
//!     cargo run -p gavel-api --example rename_everywhere -- /srv/shared/src old new

use gavel_api::{Dir, Error, Volume};
use std::path::Path;

/// How often it is tried again if others change the same files meanwhile.
const RETRIES: u32 = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, old, new] = arguments.as_slice() else { return Err("say a directory, a word, and a new word".into()) };
    let volume = Volume::of(path)?;
    let below = below_mount(Path::new(path))?;
    let done = volume.transact(&format!("{old} is {new} now"), RETRIES, |transaction| {
        replace(&transaction.dir().open_dir(&below)?, old, new)
    });
    match done {
        Ok((files, Some(tid))) => println!("{files} files changed at {tid}"),
        Ok((_, None)) => println!("no file has {old:?}"),
        Err(Error::Collided(conflict)) => return Err(format!("others work on the same files: {conflict}").into()),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The directory as a path within its volume.
fn below_mount(path: &Path) -> std::io::Result<std::path::PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let whole = path.canonicalize()?;
    let device = whole.metadata()?.dev();
    let root = whole.ancestors().take_while(|above| above.metadata().is_ok_and(|meta| meta.dev() == device)).last();
    let below = whole.strip_prefix(root.unwrap_or(&whole)).unwrap_or(Path::new(""));
    Ok(if below.as_os_str().is_empty() { ".".into() } else { below.into() })
}

fn replace(dir: &Dir, old: &str, new: &str) -> std::io::Result<u64> {
    let mut changed = 0;
    for entry in dir.entries()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            changed += replace(&entry.open_dir()?, old, new)?;
        } else if entry.file_type()?.is_file()
            && let Ok(text) = dir.read_to_string(entry.file_name())
            && text.contains(old)
        {
            dir.write(entry.file_name(), text.replace(old, new))?;
            changed += 1;
        }
    }
    Ok(changed)
}
