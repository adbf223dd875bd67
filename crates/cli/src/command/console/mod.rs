//! `gavel console`: a page for the browser, served on this machine's loopback alone.
//!
//! - `server`: which addresses there are, and what guards all of them
//! - `guard`: who may ask
//! - `api`: what the page asks
//! - `names`: paths as text in addresses
//! - `page/`: the page: HTML, CSS and JavaScript modules as the browser gets them
//!
//! This process holds no state of the volume and no right of its own: it asks the node's daemon over its socket, as the other commands do.

mod api;
mod guard;
mod names;
mod server;

use crate::output::hinted;
use crate::target::Target;
use anyhow::Context;
use clap::Args;
use guard::Guard;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Shows a volume, as it is and as it was, in the browser: directories and files as of any time, what became of a file, two versions side by side; and brings
/// versions back. The page is served on this machine's loopback address until Ctrl-C or SIGTERM.
#[derive(Args)]
#[command(
    after_help = "Whoever has the address that is printed can read the volume and bring versions back, as you could. It is good until this command ends.\n\n\
Exit status: 0 ended by Ctrl-C or SIGTERM; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel console /srv/shared\n  gavel console /srv/shared --listen 127.0.0.1:8600\n\n\
From another machine, through ssh:\n  ssh -L 8600:127.0.0.1:8600 server gavel console /srv/shared --listen 127.0.0.1:8600"
)]
pub struct Console {
    /// A loopback address and a port; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Print the address of the page and nothing else
    #[arg(long)]
    print_url: bool,
    /// The mount of the volume, or any path in it, where the page begins
    path: PathBuf,
}

impl Console {
    /// # Errors
    /// Why the page could not be served.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !self.listen.ip().is_loopback() {
            let hint = "use 127.0.0.1 or [::1]; from another machine: ssh -L PORT:127.0.0.1:PORT SERVER";
            return Err(hinted(format!("{}: the console is served on loopback addresses alone", self.listen), hint));
        }
        let target = Target::of(&self.path)?;
        // A daemon that can't be asked is told of now, not on the page.
        let about = api::about(&target)?;
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.worker_threads(2).max_blocking_threads(server::THREADS_MAX).enable_all().build();
        let runtime = runtime.context("starting threads")?;
        let ended = runtime.block_on(self.serve(target, about));
        // What the daemon has still to say is of no use any more.
        runtime.shutdown_background();
        ended
    }

    async fn serve(self, target: Target, about: api::About) -> anyhow::Result<ExitCode> {
        let mut terminated = signal(SignalKind::terminate()).context("watching for signals")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("watching for signals")?;
        let listener = TcpListener::bind(self.listen).await.with_context(|| self.listen.to_string())?;
        let address = listener.local_addr().context("asking for the port")?;
        let guard = Guard::new(address).context("drawing a key")?;
        let start = names::encoded_path(&target.path);
        let url = format!("http://{address}/?key={}#/{start}", guard.key());
        if self.print_url {
            println!("{url}");
        } else {
            println!("The console of volume {} through node {}, until Ctrl-C:\n  {url}", about.volume, about.node);
        }
        tokio::select! {
            served = server::serve(listener, guard, target, about) => served.context("serving the page")?,
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}
