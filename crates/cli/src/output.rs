//! What people and programs read.

use anyhow::Error;
use owo_colors::{OwoColorize, Stream};

/// An error with the next thing to do. Printed as `Hint: ...` under the error.
#[derive(Debug)]
pub struct Hinted {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl std::fmt::Display for Hinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Hinted {}

/// An error with a hint.
pub fn hinted(what: impl Into<String>, hint: impl Into<String>) -> Error {
    Hinted { what: what.into(), hint: hint.into() }.into()
}

/// Prints an error, its causes, and its hint if it has one.
pub fn print_error(error: &Error) {
    let label = "error:";
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    eprintln!("{} {}", label.if_supports_color(Stream::Stderr, |text| text.red()), causes.join(": "));
    if let Some(hinted) = error.chain().find_map(|cause| cause.downcast_ref::<Hinted>()) {
        eprintln!("Hint: {}", hinted.hint);
    }
}

/// Who reads our output may stop reading (`gavel status | head -1`): that is no error worth a word.
pub fn end_quietly_on_a_closed_pipe() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            std::process::exit(0);
        }
        report(panic);
    }));
}

/// A table for people.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// Prints a value for programs.
///
/// # Errors
/// If it can't be encoded.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A line that turns while something long is under way; nothing at all if nobody watches.
pub fn spinner(message: impl Into<std::borrow::Cow<'static, str>>) -> indicatif::ProgressBar {
    let spinner = indicatif::ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}
