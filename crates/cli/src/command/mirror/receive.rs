//! `gavel mirror receive`: takes a mirror on, by what comes from standard input.

use super::send::progress;
use super::{Node, failed};
use crate::output::hinted;
use clap::Args;
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::mirror::{MirrorAnswer, MirrorAsk, ReceiveAsk, Received, copy_in};
use gavel_types::VolumeRef;
use std::io::IsTerminal;
use std::ops::ControlFlow;

/// Takes a mirror on, by what comes from standard input. However that ends, the mirror shows a whole state of its source.
#[derive(Args)]
#[command(after_help = "Examples:\n  gavel mirror receive copy --create --config b.toml < shared.mirror\n  \
gavel mirror receive copy --where --config b.toml")]
pub struct Receive {
    /// The mirror: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
    /// Make it, if it is not there
    #[arg(long)]
    create: bool,
    /// Receive nothing: say which state of its source the mirror shows, or what there is of a first copy that broke off, for `gavel mirror send --from`
    #[arg(long = "where", conflicts_with = "create")]
    place: bool,
    /// At the end, say on standard error what was received, as JSON
    #[arg(long)]
    json: bool,
}

impl Receive {
    /// # Errors
    /// Why nothing, or not all, was received.
    pub fn run(self) -> anyhow::Result<()> {
        if self.place {
            for line in self.node.mirrors(MirrorAsk::List { volume: Some(self.volume.clone()) })? {
                println!("{}", line.partial.unwrap_or(line.state));
            }
            return Ok(());
        }
        if std::io::stdin().is_terminal() {
            return Err(hinted(
                "a stream does not come from a terminal",
                "gavel mirror send ... | gavel mirror receive ..., or gavel mirror receive ... < FILE",
            ));
        }
        let ask = ReceiveAsk { volume: self.volume.clone(), create: self.create };
        let (bar, mut done) = (progress(), None);
        let asked = copy_in(&self.node.socket()?, &Request::MirrorReceive(ask), std::io::stdin(), |reply| {
            match reply {
                Reply::Mirror(answer) => match *answer {
                    MirrorAnswer::Moved(received) => {
                        bar.set_position(received.bytes);
                        return ControlFlow::Continue(());
                    }
                    MirrorAnswer::Received(received) => done = Some(Ok(received)),
                    _ => {}
                },
                Reply::Error(error) => done = Some(Err(failed(&error))),
                _ => {}
            }
            ControlFlow::Break(())
        });
        bar.finish_and_clear();
        asked.map_err(|error| self.node.unasked(&error.to_string()))?;
        let done = done.unwrap_or_else(|| Err(anyhow::anyhow!("the daemon answered something else than it was asked")));
        self.tell(&done?)
    }

    fn tell(&self, received: &Received) -> anyhow::Result<()> {
        if self.json {
            eprintln!("{}", serde_json::to_string(received)?);
        } else {
            let had = if received.passed_over > 0 {
                format!(" ({} were there)", received.passed_over)
            } else {
                String::new()
            };
            eprintln!("{} shows state {} of its source: {} steps{had}", received.name, received.state, received.steps);
        }
        Ok(())
    }
}
