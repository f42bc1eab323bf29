//! A test's own folder, and free ports.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use super::times::Timer;

/// A folder that is removed at the end. Its path is short, so that Unix sockets fit (they have 108 bytes).
pub(crate) struct Folder {
    folder: tempfile::TempDir,
    _timer: Timer,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("ssecast-").tempdir().unwrap(), _timer: Timer::start() }
    }

    /// The path of `name` in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Ports below the range that the kernel uses for outgoing connections, of which the tests make thousands.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A free loopback port. Each is returned once.
pub(crate) fn free_port() -> u16 {
    let count = PORTS.end - PORTS.start;
    // Begin at random, since another run of these tests may use the same machine.
    let first = u16::try_from(std::process::id() % u32::from(count)).unwrap();
    loop {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (first + step % count) % count;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The path of the program `name`, from PATH or the sbin folders.
///
/// # Panics
/// If it is not installed. A test that uses it states that first with `needs!`.
pub(crate) fn program_in_path(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("{name} is not installed; `sh tests/run` installs what the tests need"))
}

/// The path of the program `name`; `None` if it is not installed.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps each version of PostgreSQL in a folder of its own.
    let postgres = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned()))
        .chain(postgres.map(|version| version.path().join("bin")))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}
