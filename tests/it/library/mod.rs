//! Programs that use the library: the Rust examples, and one with two sources that misbehave. Each is a whole ssecast.

mod authorize;
mod several_sources;

use std::{env, path::PathBuf};

/// An example that Cargo has built. `cargo test` builds all; with `--test it` alone they may be missing or old.
fn example(name: &str) -> PathBuf {
    // This program is in `deps`, beside `examples`.
    let program = env::current_exe().unwrap();
    let path = program.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}
