//! Memory that many connections used is returned to the system after they are closed.

use std::{io::Write as _, os::unix::net::UnixStream};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{Daemon, Folder, eventually};

const CONNECTIONS: usize = 8_000;
const MIB: usize = 1 << 20;

/// 10,000 unfinished requests used 120 MiB, which the process kept until the next reload.
#[test]
fn memory_of_unfinished_requests_is_returned_after_they_are_closed() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder, "");
    let before = daemon.child().memory();
    let half_open = |_| {
        let mut stream = UnixStream::connect(daemon.public().path()).unwrap();
        stream.write_all(b"GET /?channels=news HTTP/1.1\r\nHost: x\r\n").unwrap();
        stream
    };
    let streams: Vec<_> = (0..CONNECTIONS).map(half_open).collect();
    let peak = eventually("they take memory", || {
        let memory = daemon.child().memory();
        (memory > before + 20 * MIB).then_some(memory)
    });
    drop(streams);
    // The allocator may keep some, such as pages that are partly in use.
    eventually(&format!("memory goes from {peak} bytes back towards {before}"), || {
        (daemon.child().memory() < before + (peak - before) / 2).then_some(())
    });
    daemon.assert_serving();
}
