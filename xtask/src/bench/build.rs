//! A cargo build of a small workspace whose dependencies are all in it: no network.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::inputs::run as run_program;
use super::measure::{Measure, Unit};
use super::turn::{Turn, seconds};

/// Modules of each crate.
const MODULES: usize = 4;

/// build.
pub(super) fn run(turn: &Turn) -> Result<()> {
    if Command::new("cargo").arg("--version").output().is_err() {
        turn.skip("build", "cargo is not installed");
        return Ok(());
    }
    let workspace = turn.home().join("workspace");
    write_workspace(&workspace, turn.sizes.crates, turn.round)?;
    turn.step("build", || timed("from nothing", || cargo_build(&workspace)))?;
    turn.step("build", || timed("nothing to do", || cargo_build(&workspace)))
}

fn timed(metric: &'static str, work: impl FnOnce() -> Result<()>) -> Result<Vec<Measure>> {
    let (took, ()) = seconds(work)?;
    Ok(vec![Measure::new(metric, Unit::Seconds, took)])
}

fn cargo_build(workspace: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--offline", "--quiet"]).current_dir(workspace);
    // What cargo tells the programs that it runs would change what it builds.
    for (name, _) in std::env::vars_os() {
        let told = name.to_string_lossy().into_owned();
        let keep = ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].contains(&told.as_str());
        if (told.starts_with("CARGO") || told.starts_with("RUST")) && !keep {
            cargo.env_remove(name);
        }
    }
    run_program(&mut cargo).map(drop)
}

/// A chain of libraries with a few modules each, and a program on top.
fn write_workspace(root: &Path, crates: usize, round: u64) -> Result<()> {
    fs::create_dir(root)?;
    fs::write(root.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"app\", \"vendor/*\"]\n")?;
    for number in 0..crates {
        let dependency = number.checked_sub(1).map(|lower| format!("part{lower} = {{ path = \"../part{lower}\" }}\n"));
        let directory = root.join("vendor").join(format!("part{number}"));
        write_crate(&directory, &format!("part{number}"), &dependency.unwrap_or_default())?;
        let modules: String = (0..MODULES).map(|module| format!("pub mod m{module};\n")).collect();
        fs::write(directory.join("src/lib.rs"), modules)?;
        for module in 0..MODULES {
            fs::write(directory.join(format!("src/m{module}.rs")), module_text(number, module, round))?;
        }
    }
    let app = root.join("app");
    let top = crates - 1;
    write_crate(&app, "app", &format!("part{top} = {{ path = \"../vendor/part{top}\" }}\n"))?;
    fs::write(app.join("src/main.rs"), format!("fn main() {{\n    println!(\"{{}}\", part{top}::m0::sum(3));\n}}\n"))?;
    Ok(())
}

fn write_crate(directory: &Path, name: &str, dependencies: &str) -> Result<()> {
    fs::create_dir_all(directory.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}"
    );
    Ok(fs::write(directory.join("Cargo.toml"), manifest)?)
}

fn module_text(number: usize, module: usize, round: u64) -> String {
    let below = match number.checked_sub(1) {
        Some(lower) => format!("part{lower}::m{module}::sum(n)"),
        None => "n".to_owned(),
    };
    format!(
        "#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]\n\
         pub struct State {{\n    pub name: String,\n    pub values: std::collections::BTreeMap<u64, Vec<u8>>,\n}}\n\n\
         pub fn sum(n: u64) -> u64 {{\n    let mut state = State::default();\n    \
         for at in 0..n {{\n        state.values.entry(at * {round}).or_default().push(at as u8);\n    }}\n    \
         state.name = format!(\"{{:?}}\", state.values);\n    state.name.len() as u64 + {below}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_builds_and_then_has_nothing_to_do() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let workspace = directory.path().join("w");
        write_workspace(&workspace, 2, 1).expect("a workspace");
        cargo_build(&workspace).expect("it builds");
        assert!(workspace.join("target/debug/app").is_file());
    }
}
