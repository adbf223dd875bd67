//! `gavel conflict show`: all that is known of one conflict.

use super::{Node, time};
use crate::output::print_json;
use clap::Args;
use gavel_runtime::host::conflicts::ConflictId;
use gavel_runtime::host::conflicts::ask::ConflictDetail;
use gavel_runtime::host::control::{Reply, Request};
use std::process::ExitCode;

/// Bytes in one line of hexadecimal.
const LINE_BYTES: usize = 16;

/// Says all that is known of one conflict; of a write, its first bytes.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel conflict show 3 --config /etc/gavel/gavel.toml")]
pub struct Show {
    #[command(flatten)]
    node: Node,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
    /// Its number, as `gavel conflict list` says it
    id: ConflictId,
}

impl Show {
    /// # Errors
    /// Why it could not be shown.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.node.ask(&Request::ConflictShow { id: self.id })? {
            Reply::Conflict(detail) if self.json => print_json(&detail)?,
            Reply::Conflict(detail) => print(&detail),
            _ => anyhow::bail!("the daemon did not say what conflict {} is", self.id),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(detail: &ConflictDetail) {
    let line = &detail.line;
    println!("conflict   {}", line.id);
    println!("answered   {}", time(line.time));
    println!("user       {}, group {}", line.uid, line.gid);
    println!("volume     {}", line.volume);
    println!("what       {}", line.what);
    println!("why        {} ({})", line.why, line.code);
    println!("operation  {}", detail.operation);
    if let Some(cause) = &detail.unreadable {
        println!("bytes      cannot be read now: {cause}");
    }
    let (Some(bytes), Some(head)) = (detail.bytes, &detail.head) else { return };
    println!("bytes      {bytes}, of which the first {} are:\n", head.len());
    match std::str::from_utf8(head) {
        Ok(text) if text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t') => println!("{text}"),
        _ => print_hex(head),
    }
}

fn print_hex(bytes: &[u8]) {
    for (number, line) in bytes.chunks(LINE_BYTES).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            line.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        println!("{:08x}  {:<47}  {text}", number * LINE_BYTES, hex.join(" "));
    }
}
