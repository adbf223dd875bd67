//! The key of an encrypted folder.

use crate::output::hinted;
use anyhow::Context;
use argon2::{Algorithm, Argon2, Params, Version};
use clap::Args;
use gavel_backup::{FolderHead, Keys, Protection};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Least bytes of a key file and of a passphrase; most of either.
const KEY_BYTES_MIN: usize = 32;
const PASSPHRASE_BYTES_MIN: usize = 8;
const SECRET_BYTES_MAX: u64 = 4096;
/// What it takes to make a key of a passphrase: about half a second, and 64 MiB (the second choice of RFC 9106, section 4).
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;

/// The secret.
#[derive(Args)]
pub struct KeyArgs {
    /// The folder is encrypted with what is in this file: 32 bytes or more that nobody can guess (head -c 32 /dev/urandom > FILE)
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    key_file: Option<PathBuf>,
    /// The folder is encrypted with a passphrase: the first line of this file, or of standard input (-)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl KeyArgs {
    /// What a new folder says of itself, and its keys.
    pub fn begin(&self) -> anyhow::Result<(FolderHead, Option<Keys>)> {
        let (mut id, mut salt) = ([0; 16], [0; 16]);
        for random in [&mut id, &mut salt] {
            getrandom::fill(random).map_err(|error| anyhow::anyhow!("asking the kernel for random bytes: {error}"))?;
        }
        let (protection, keys) = if let Some(path) = &self.key_file {
            let keys = Keys::new(&key_file(path)?, &id);
            (Protection::KeyFile { check: keys.check() }, Some(keys))
        } else if let Some(path) = &self.passphrase_file {
            let keys = Keys::new(&stretched(&passphrase(path)?, &salt, MEMORY_KIB, PASSES)?, &id);
            let check = keys.check();
            (Protection::Passphrase { salt, memory_kib: MEMORY_KIB, passes: PASSES, check }, Some(keys))
        } else {
            (Protection::None, None)
        };
        Ok((FolderHead { id, protection }, keys))
    }

    /// The keys of a folder that is there, if they were given. Whether they are the right ones, the folder's opening says.
    pub fn keys(&self, head: &FolderHead) -> anyhow::Result<Option<Keys>> {
        let other = |how: &str, hint: &str| Err(hinted(format!("the backups are encrypted by {how}"), hint.to_owned()));
        Ok(match (&head.protection, &self.key_file, &self.passphrase_file) {
            (_, None, None) => None,
            (Protection::KeyFile { .. }, None, Some(_)) => return other("a key file", "give it: --key-file FILE"),
            (Protection::Passphrase { .. }, Some(_), None) => {
                return other("a passphrase", "give it: --passphrase-file FILE");
            }
            (Protection::Passphrase { salt, memory_kib, passes, .. }, _, Some(path)) => {
                Some(Keys::new(&stretched(&passphrase(path)?, salt, *memory_kib, *passes)?, &head.id))
            }
            (_, Some(path), _) | (Protection::None, _, Some(path)) => Some(Keys::new(&secret(path)?, &head.id)),
        })
    }
}

fn secret(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut secret = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(SECRET_BYTES_MAX + 1).read_to_end(&mut secret)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut secret))
    };
    read.with_context(|| path.display().to_string())?;
    if secret.len() as u64 > SECRET_BYTES_MAX {
        anyhow::bail!("{}: longer than {SECRET_BYTES_MAX} bytes", path.display());
    }
    Ok(secret)
}

fn key_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let key = secret(path)?;
    if key.len() < KEY_BYTES_MIN {
        let what = format!("{}: {} bytes are no key: {KEY_BYTES_MIN} are needed at least", path.display(), key.len());
        return Err(hinted(what, format!("make one: head -c 32 /dev/urandom > {}", path.display())));
    }
    Ok(key)
}

fn passphrase(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut passphrase = secret(path)?;
    passphrase.truncate(passphrase.iter().position(|byte| *byte == b'\n').unwrap_or(passphrase.len()));
    if passphrase.len() < PASSPHRASE_BYTES_MIN {
        anyhow::bail!("{}: a passphrase has {PASSPHRASE_BYTES_MIN} bytes at least", path.display());
    }
    Ok(passphrase)
}

fn stretched(passphrase: &[u8], salt: &[u8; 16], memory_kib: u32, passes: u32) -> anyhow::Result<[u8; 32]> {
    let failed = |error| anyhow::anyhow!("making a key of the passphrase: {error}");
    let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(failed)?;
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut key)
        .map_err(failed)?;
    Ok(key)
}
