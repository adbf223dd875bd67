//! Writes the seeds of all targets to DIR/TARGET/, for libFuzzer to start from: `cargo run -p gavel-fuzz --example seeds -- DIR`

use std::path::Path;

fn main() -> std::io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: seeds DIR");
        std::process::exit(2);
    };
    for target in gavel_fuzz::TARGETS {
        let corpus = Path::new(&directory).join(target.name);
        std::fs::create_dir_all(&corpus)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(corpus.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
