//! `gavel txn` and users who are not root (docs/operations/transactions.md).

use anyhow::{Result, ensure};
use gavel_conformance::cluster::with_cluster;
use gavel_conformance::{command, machine};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// A user and group that own nothing.
const USER: u32 = 61_234;

fn as_user(command: &mut Command) -> &mut Command {
    command.args(["--reuid", &USER.to_string(), "--regid", &USER.to_string(), "--clear-groups", "--"])
}

#[test]
fn a_user_is_told_what_to_do_and_root_can_run_it_for_them() -> Result<()> {
    if !machine::has_programs(&["setpriv"]) {
        return Ok(());
    }
    with_cluster(1, |cluster| {
        let (here, program) = (cluster.mount(1), cluster.gavel().program());
        let dir = here.join("theirs");
        std::fs::create_dir(&dir)?;
        std::os::unix::fs::chown(&dir, Some(USER), Some(USER))?;
        // The user has to come to the mount, not to the daemon's socket.
        for above in here.ancestors().skip(1).take_while(|path| path.starts_with(cluster.scratch())) {
            std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o711))?;
        }
        // A copy that the user may run.
        let copy = cluster.scratch().join("gavel");
        std::fs::copy(program, &copy)?;
        let mut asked = Command::new("setpriv");
        as_user(&mut asked).arg(&copy).args(["txn", "run", "--", "touch", "theirs/never"]).current_dir(&here);
        let ran = command::run(asked, PATIENCE)?;
        ensure!(ran.code == Some(125), "{ran:?}");
        for words in ["may not ask this daemon", "--reuid=61234 --regid=61234"] {
            ensure!(ran.stderr.contains(words), "{ran:?}");
        }
        // What it says to do. The user's rights hold in the transaction.
        let mut run = cluster.gavel().command(["txn", "run", "--", "setpriv"]);
        as_user(&mut run).args(["sh", "-euc", "id -u > theirs/who; if touch never 2>/dev/null; then exit 9; fi"]);
        run.current_dir(&here);
        let ran = command::run(run, PATIENCE)?;
        ensure!(ran.code == Some(0), "{ran:?}");
        let who = dir.join("who");
        ensure!(std::fs::read_to_string(&who)? == format!("{USER}\n") && std::fs::metadata(&who)?.uid() == USER);
        ensure!(!here.join("never").exists() && !dir.join("never").exists());
        Ok(())
    })
}
