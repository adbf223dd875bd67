//! `gavel mirror send`: writes what a mirror lacks to standard output.

use super::{SelectionArgs, failed, volume_or_path};
use crate::output::{hinted, print_error};
use crate::target::Target;
use clap::Args;
use gavel_runtime::config::Config;
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::mirror::{MirrorAnswer, SendAsk, Sent, copy_out};
use gavel_types::VolumeId;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Writes what a mirror lacks to standard output: all of a volume, or what has changed since a state that the mirror has.
#[derive(Args)]
#[command(after_help = "What to say with --from, the mirror knows: gavel mirror receive MIRROR --where\n\n\
Examples:\n  gavel mirror send /srv/shared > shared.mirror\n  \
gavel mirror send main --config a.toml --from 0x18c4a3f0a1b2c3d4 --follow | ssh backup gavel mirror receive copy --config b.toml\n  \
gavel mirror send main --config a.toml --only projects/atlas --exclude '*.o' cache/ > atlas.mirror")]
pub struct Send {
    /// The volume: its name or number (with --config), or a path in a mount of it
    volume: String,
    /// The configuration of the node that is asked; not needed with a path
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the mirror has: a transaction (0x...), a time (RFC 3339), an age (2h), a snapshot. By default nothing: all is sent
    #[arg(long, value_name = "AT")]
    from: Option<String>,
    /// What it is to have; by default what is there now
    #[arg(long, value_name = "AT")]
    to: Option<String>,
    /// Go on with what comes, until interrupted
    #[arg(long, short, conflicts_with = "to")]
    follow: bool,
    /// Send so many bytes a second at most; k, M and G stand for 1024, 1024^2 and 1024^3
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    rate: Option<u64>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// At the end, say on standard error what was sent and what was read for it, as JSON
    #[arg(long)]
    json: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 1 << 10),
        Some('M') => (&text[..text.len() - 1], 1 << 20),
        Some('G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number: Option<u64> = digits.parse().ok().filter(|number| *number > 0);
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "not a number of bytes, such as 500k or 20M".into())
}

impl Send {
    /// # Errors
    /// Why nothing, or not all, was sent.
    pub fn run(self) -> anyhow::Result<()> {
        if std::io::stdout().is_terminal() {
            return Err(hinted(
                "a stream is not for a terminal",
                "gavel mirror send ... > FILE, or gavel mirror send ... | gavel mirror receive ...",
            ));
        }
        let (socket, volume) = self.target()?;
        let (from, to, selection) = (self.from.clone(), self.to.clone(), self.selection.selection()?);
        let ask = SendAsk { volume, from, to, follow: self.follow, at_once: false, selection };
        let (bar, mut pace, mut out) = (progress(), Pace::new(self.rate), std::io::stdout().lock());
        let said = copy_out(&socket, &Request::MirrorSend(ask), |bytes| {
            out.write_all(bytes)?;
            out.flush()?;
            bar.inc(bytes.len() as u64);
            pace.wait(bytes.len() as u64);
            Ok(())
        });
        bar.finish_and_clear();
        match said {
            Ok(Ok(Reply::Mirror(answer))) => match *answer {
                MirrorAnswer::Sent(sent) => self.tell(&sent),
                _ => Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
            },
            Ok(Ok(Reply::Error(error))) => Err(failed(&error)),
            Ok(Ok(_)) => Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
            Ok(Err(error)) => Err(anyhow::anyhow!("standard output: {error}")),
            Err(error) => Err(hinted(error.to_string(), crate::target::ASK_HINT)),
        }
    }

    fn target(&self) -> anyhow::Result<(PathBuf, gavel_types::VolumeRef)> {
        match (volume_or_path(&self.volume), &self.config) {
            (Ok(volume), Some(config)) => Ok((Config::load(config)?.control_socket, volume)),
            (Err(path), Some(_)) => Err(hinted(
                format!("{}: not a volume's name or number", path.display()),
                "with --config, name the volume; a path in a mount needs no --config",
            )),
            (_, None) => {
                let target = Target::of(std::path::Path::new(&self.volume))?;
                Ok((target.socket, VolumeId(target.volume).into()))
            }
        }
    }

    fn tell(&self, sent: &Sent) -> anyhow::Result<()> {
        let mut err = std::io::stderr().lock();
        if self.json {
            writeln!(err, "{}", serde_json::to_string(sent)?)?;
        } else if std::io::stderr().is_terminal() {
            writeln!(
                err,
                "sent {} steps from {} to {}: {} rows, {} blobs, {} bytes",
                sent.steps, sent.from, sent.to, sent.rows, sent.blobs, sent.bytes
            )?;
        }
        Ok(())
    }
}

/// What goes by, and how fast; nothing at all if nobody watches.
pub(in crate::command) fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{spinner} {bytes} in {elapsed}, {bytes_per_sec}") {
        Ok(style) => bar.set_style(style),
        Err(error) => print_error(&error.into()),
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Holds a stream up so that it is no faster than it may be.
struct Pace {
    rate: Option<u64>,
    begun: Instant,
    sent: u64,
}

impl Pace {
    fn new(rate: Option<u64>) -> Pace {
        Pace { rate, begun: Instant::now(), sent: 0 }
    }

    fn wait(&mut self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        self.sent += bytes;
        let due = Duration::from_secs_f64(self.sent as f64 / rate as f64);
        let elapsed = self.begun.elapsed();
        if due > elapsed {
            std::thread::sleep(due - elapsed);
        } else if elapsed - due > Duration::from_secs(1) {
            // What was not sent while there was nothing to send is not made up for.
            (self.begun, self.sent) = (Instant::now(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes_are_read() {
        for (text, number) in [("1", Ok(1)), ("500k", Ok(512_000)), ("20M", Ok(20 << 20)), ("1G", Ok(1 << 30))] {
            assert_eq!(bytes(text), number);
        }
        for text in ["", "0", "k", "-1", "1T", "1.5M", "99999999999G"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
