//! Which files there are, and what cargo says about the crates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The larger ones are not text that somebody wrote.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// The text files that are tracked, or would be with `git add .`.
pub(super) struct Repository {
    pub(super) root: PathBuf,
    /// Path from the root, with `/`, to the text.
    pub(super) files: BTreeMap<String, String>,
}

/// One crate of the workspace.
#[derive(Debug, Clone)]
pub(super) struct Package {
    /// Without the `gavel-` in front.
    pub(super) room: String,
    /// Path of its Cargo.toml from the root.
    pub(super) manifest: String,
    pub(super) dependencies: Vec<Dependency>,
}

/// One dependency of a crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dependency {
    /// Its real name, also where it is renamed.
    pub(super) name: String,
    /// Only for tests, examples and benchmarks.
    pub(super) dev: bool,
}

/// What cargo says about the workspace.
pub(super) struct Metadata {
    pub(super) packages: Vec<Package>,
}

/// The directory of the workspace's Cargo.toml.
///
/// # Errors
/// When this is not run below one.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    let started = std::env::current_dir().context("finding the current directory")?;
    let from_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let from = from_cargo.unwrap_or(started);
    let is_root = |directory: &&Path| {
        std::fs::read_to_string(directory.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]"))
    };
    match from.ancestors().find(is_root) {
        Some(root) => Ok(root.to_owned()),
        None => bail!("{}: not inside the workspace\nHint: run it in the repository", from.display()),
    }
}

impl Repository {
    /// Reads every text file that git knows or would take.
    pub(super) fn open() -> Result<Self> {
        let root = workspace_root()?;
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .context("running git ls-files")?;
        if !listed.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
        }
        let mut files = BTreeMap::new();
        for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = String::from_utf8(name.to_vec()).context("a file name that is not UTF-8")?;
            let path = root.join(&name);
            // Deleted and not yet committed, a link, or not text: nothing to read.
            let Ok(about) = std::fs::symlink_metadata(&path) else { continue };
            if !about.is_file() || about.len() > TEXT_BYTES_MAX {
                continue;
            }
            if let Ok(text) = std::fs::read_to_string(&path) {
                files.insert(name, text);
            }
        }
        Ok(Self { root, files })
    }

    /// The files below `directory` with this ending.
    pub(super) fn below<'a>(
        &'a self,
        directory: &'a str,
        ending: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        self.files
            .iter()
            .filter(move |(path, _)| path.starts_with(directory) && path.ends_with(ending))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The first line of `path` for which `wanted` holds, or 1.
    pub(super) fn line_where(&self, path: &str, wanted: impl Fn(&str) -> bool) -> usize {
        let text = self.files.get(path).map_or("", String::as_str);
        text.lines().position(wanted).map_or(1, |at| at + 1)
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self { root: PathBuf::new(), files }
    }
}

impl Metadata {
    /// Asks cargo, without network.
    pub(super) fn read(repository: &Repository) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let told = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .current_dir(&repository.root)
            .output()
            .context("running cargo metadata")?;
        if !told.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&told.stderr).trim());
        }
        let told: Value = serde_json::from_slice(&told.stdout).context("reading what cargo metadata says")?;
        Self::from_json(&told, &repository.root)
    }

    fn from_json(told: &Value, root: &Path) -> Result<Self> {
        let packages = told["packages"].as_array().context("cargo metadata: no packages")?;
        let package = |package: &Value| -> Result<Package> {
            let manifest = Path::new(package["manifest_path"].as_str().context("cargo metadata: no manifest_path")?);
            Ok(Package {
                room: room(package["name"].as_str().context("cargo metadata: no name")?).to_owned(),
                manifest: manifest.strip_prefix(root).unwrap_or(manifest).to_string_lossy().into_owned(),
                dependencies: dependencies(package)?,
            })
        };
        Ok(Self { packages: packages.iter().map(package).collect::<Result<_>>()? })
    }
}

fn dependencies(package: &Value) -> Result<Vec<Dependency>> {
    let listed = package["dependencies"].as_array().context("cargo metadata: no dependencies")?;
    let dependency = |told: &Value| -> Result<Dependency> {
        Ok(Dependency {
            name: told["name"].as_str().context("cargo metadata: a dependency without a name")?.to_owned(),
            dev: told["kind"].as_str() == Some("dev"),
        })
    };
    listed.iter().map(dependency).collect()
}

/// A crate's name among ourselves.
pub(super) fn room(name: &str) -> &str {
    name.strip_prefix("gavel-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_keeps_real_names_and_kinds() {
        let told = serde_json::json!({"packages": [{
        "name": "gavel-txn", "manifest_path": "/r/crates/txn/Cargo.toml",
        "dependencies": [
            {"name": "gavel-wire", "kind": null, "rename": "w"},
            {"name": "proptest", "kind": "dev"},
            {"name": "cc", "kind": "build"},
        ]}]});
        let metadata = Metadata::from_json(&told, Path::new("/r")).expect("well formed");
        let package = &metadata.packages[0];
        assert_eq!((package.room.as_str(), package.manifest.as_str()), ("txn", "crates/txn/Cargo.toml"));
        let dev: Vec<_> = package.dependencies.iter().map(|d| (d.name.as_str(), d.dev)).collect();
        assert_eq!(dev, [("gavel-wire", false), ("proptest", true), ("cc", false)]);
    }
}
