//! The program: runs the command line of the library. Has no logic of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    ssecast::App::new().run()
}
