//! What people build and install with, in transactions: it makes what it makes outside of one, and killed at any moment it makes nothing (docs/operations/transactions.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::txn::{no_trace, run_command};
use gavel_conformance::{command, dice, machine, process, trees};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(180);
/// A run of each program is killed so many times, each time at another moment.
const KILLS: u64 = 2;

/// A program and what it is given. In its scripts, `$FROM` is a directory outside of the volume, and `$INTO` one of its own to work in.
struct Program {
    name: &'static str,
    /// What must be installed.
    needs: &'static [&'static str],
    /// Makes `$FROM`.
    prepare: &'static str,
    /// Makes `$INTO` ready, before the transaction.
    before: &'static str,
    /// Runs in the transaction.
    script: &'static str,
    /// Sees that `$INTO` is right, on any mount.
    check: &'static str,
    /// Parts of paths whose contents name the path itself, or a moment: they are not compared with a run outside.
    own: &'static [&'static str],
}

const PROGRAMS: [Program; 5] = [
    Program {
        name: "make",
        needs: &["make", "install"],
        prepare: "printf 'install:\\n\\tinstall -d $(DESTDIR)/bin $(DESTDIR)/share/doc\\n\\tcd tree && find . -type d -exec install -d $(DESTDIR)/lib/{} \\\\;\\n\
                  \\tcd tree && find . -type f -exec install -m 640 -T {} $(DESTDIR)/lib/{} \\\\;\\n\\tinstall -m 755 run $(DESTDIR)/bin/run\\n\\tln -sf run $(DESTDIR)/bin/also\\n' > Makefile
                  printf '#!/bin/sh\\necho runs\\n' > run",
        before: "true",
        script: "make -s -C $FROM install DESTDIR=$INTO",
        check: "[ $(./bin/also) = runs ]",
        own: &[],
    },
    Program {
        name: "dpkg",
        needs: &["dpkg", "dpkg-deb"],
        prepare: "mkdir -p package/DEBIAN package/etc; cp -r tree package/usr; echo a=1 > package/etc/thing.conf; chmod -R u=rwX,go=rX package
                  printf 'Package: thing\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: nobody <nobody@example.org>\\nDescription: a tree\\n' > package/DEBIAN/control
                  echo /etc/thing.conf > package/DEBIAN/conffiles
                  dpkg-deb --root-owner-group --build package one.deb >/dev/null
                  sed -i s/1.0/2.0/ package/DEBIAN/control; echo b > package/usr/new; dpkg-deb --root-owner-group --build package two.deb >/dev/null",
        before: "mkdir -p var/lib/dpkg/info var/lib/dpkg/updates; touch var/lib/dpkg/status",
        script: "export PATH=$PATH:/usr/sbin:/sbin; dpkg --log=/dev/null --root=$INTO -i $FROM/one.deb >/dev/null; dpkg --log=/dev/null --root=$INTO -i $FROM/two.deb >/dev/null",
        check: "[ \"$(dpkg-query --admindir=var/lib/dpkg -Wf '${Version} ${db:Status-Abbrev}' thing)\" = '2.0 ii ' ]; [ $(cat etc/thing.conf) = a=1 ]; [ $(cat usr/new) = b ]",
        own: &[],
    },
    Program {
        name: "git",
        needs: &["git"],
        prepare: "git init -q origin; cd origin; cp -r ../tree tree; git add .; git commit -qm one; cd ..; git clone -q --bare origin bare
                  cd origin; git mv tree moved; echo 2 > moved/two; git rm -rqf moved/d1; git add .; git commit -qam two; git push -q ../bare HEAD; git gc -q",
        before: "git clone -q $FROM/bare clone; git -C clone reset -q --hard HEAD~1",
        script: "cd $INTO/clone; git pull -q --ff-only; echo mine > mine; git add .; git commit -qm mine; git gc -q",
        check: "cd clone; git fsck --full --strict; [ -z \"$(git status --porcelain)\" ]; [ $(git rev-list --count HEAD) = 3 ]; [ $(cat mine) = mine ]",
        own: &[".git"],
    },
    Program {
        name: "cargo",
        needs: &["cargo"],
        prepare: "true",
        before: "mkdir -p src; printf '[package]\\nname = \"thing\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[workspace]\\n' > Cargo.toml
                 echo 'pub fn word() -> &'\"'static\"' str { \"built\" }' > src/lib.rs; echo 'fn main() { println!(\"{}\", thing::word()); }' > src/main.rs",
        script: "cd $INTO; cargo build -q --offline; cargo build --offline 2>&1 | grep -q Finished",
        check: "[ $(target/debug/thing) = built ]",
        own: &["target"],
    },
    Program {
        name: "npm",
        needs: &["npm"],
        prepare: "export npm_config_cache=$FROM/cache
                  for name in one two; do mkdir -p $name/bin; cp -r tree/d1 $name/lib; echo '#!/usr/bin/env node' > $name/bin/run; echo 'console.log(\"runs\")' >> $name/bin/run
                  printf '{\"name\":\"%s\",\"version\":\"1.0.0\",\"bin\":{\"%s\":\"bin/run\"}}' $name $name > $name/package.json; (cd $name; npm pack --silent >/dev/null; mv *.tgz ..); done",
        before: "cp $FROM/*.tgz .; echo '{\"name\":\"all\",\"version\":\"1.0.0\",\"dependencies\":{\"one\":\"file:one-1.0.0.tgz\",\"two\":\"file:two-1.0.0.tgz\"}}' > package.json",
        script: "cd $INTO; export npm_config_cache=$FROM/cache; npm install --offline --no-audit --no-fund --no-update-notifier --silent",
        check: "[ $(node node_modules/.bin/one) = runs ]; [ -e node_modules/two/package.json ]",
        own: &[],
    },
];

impl Program {
    /// A script of it, with what it needs around it: no variable of the run of these tests, and names for git.
    fn with_places(script: &str, from: &Path, into: &Path) -> String {
        let clean = "for name in $(env | sed -n 's/^\\(CARGO_[A-Z_]*\\|RUST[A-Z_]*\\|npm_[a-z_]*\\)=.*/\\1/p'); do [ $name = CARGO_HOME ] || [ $name = RUSTUP_HOME ] || unset $name; done
            export GIT_CONFIG_COUNT=4 GIT_CONFIG_KEY_0=user.name GIT_CONFIG_VALUE_0=n GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=e@example.org \
            GIT_CONFIG_KEY_2=safe.directory GIT_CONFIG_VALUE_2='*' GIT_CONFIG_KEY_3=init.defaultBranch GIT_CONFIG_VALUE_3=main";
        let script = script.replace("$FROM", &from.display().to_string());
        format!("{clean}\n{}", script.replace("$INTO", &into.display().to_string()))
    }

    fn shell(dir: &Path, script: &str, from: &Path) -> Result<String> {
        command::shell(dir, &Program::with_places(script, from, dir), PATIENCE)
    }

    /// A tree without what is its own, and without times: programs set them to now.
    fn comparable(&self, tree: trees::Tree) -> trees::Tree {
        let is_own = |path: &PathBuf| path.components().any(|part| self.own.iter().any(|own| part.as_os_str() == *own));
        let kept = tree.into_iter().filter(|(path, _)| !is_own(path));
        kept.map(|(path, entry)| (path, trees::Entry { modified: (0, 0), ..entry })).collect()
    }

    fn make_the_same(&self, cluster: &Cluster) -> Result<()> {
        let from = cluster.scratch().join(format!("{}-from", self.name));
        std::fs::create_dir(&from)?;
        trees::make(&from.join("tree"), 60)?;
        Program::shell(&from, self.prepare, &from)?;
        let outside = cluster.scratch().join(self.name);
        let inside = cluster.mount(1).join(self.name);
        for dir in [&outside, &inside] {
            std::fs::create_dir(dir)?;
            Program::shell(dir, self.before, &from).context("before")?;
        }
        Program::shell(&outside, self.script, &from).context("outside")?;
        Program::shell(&outside, self.check, &from).context("outside, looked at")?;
        self.killed_it_makes_nothing(cluster, &from, &inside)?;
        let script = Program::with_places(self.script, &from, &inside);
        let ran = command::run(run_command(cluster, 1, &[], &script), PATIENCE)?;
        ensure!(ran.code == Some(0), "{:?}\n{}{}", ran.code, ran.stdout, ran.stderr);
        let expected = self.comparable(trees::read(&outside)?);
        for node in [1, 3] {
            let there = cluster.mount(node).join(self.name);
            trees::same(&expected, &self.comparable(trees::read(&there)?)).with_context(|| format!("node {node}"))?;
            Program::shell(&there, self.check, &from).with_context(|| format!("looked at on node {node}"))?;
        }
        Ok(())
    }

    /// Kills runs of it that would succeed, at random moments, and sees that the volume is as it was.
    fn killed_it_makes_nothing(&self, cluster: &Cluster, from: &Path, inside: &Path) -> Result<()> {
        let before = trees::read(inside)?;
        let script = Program::with_places(self.script, from, inside);
        // It never commits: the last thing that it does is to fail.
        let began = Instant::now();
        let failed = command::run(run_command(cluster, 1, &[], &format!("{script}\nexit 9")), PATIENCE)?;
        ensure!(failed.code == Some(9), "{:?}\n{}{}", failed.code, failed.stdout, failed.stderr);
        let whole = began.elapsed();
        let mut dice = dice::Dice::new(dice::seed() + self.name.len() as u64);
        for _ in 0..KILLS {
            let mut command = run_command(cluster, 1, &[], &format!("{script}\nexit 9"));
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            // Any moment is right: this is not waited for by anything.
            std::thread::sleep(whole.mul_f64(dice.below(1000) as f64 / 1000.0));
            process::signal(child.id(), Signal::KILL)?;
            child.wait()?;
            no_trace(cluster, 1)?;
        }
        for node in [1, 2] {
            let found = trees::read(&cluster.mount(node).join(self.name))?;
            trees::same(&before, &found).with_context(|| format!("node {node}, after runs that were killed"))?;
        }
        Ok(())
    }
}

#[test]
fn what_people_build_and_install_with_makes_the_same_in_a_transaction() -> Result<()> {
    with_cluster(3, |cluster| {
        for program in PROGRAMS {
            if machine::has_programs(program.needs) {
                program.make_the_same(cluster).context(program.name)?;
            }
        }
        no_trace(cluster, 1)
    })
}
