//! The program: reads its arguments, runs a subcommand, gives its exit code.

fn main() {}
