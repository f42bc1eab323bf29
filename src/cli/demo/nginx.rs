//! The demo's nginx: found, configured with the shipped snippet, started as an unprivileged child, ended and waited for.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, getpid, getppid},
};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{
    door::page_at,
    folder::Folder,
    lines::lines,
    page::{self, ASSETS},
    source::Source,
};

/// The snippet, as it is installed.
const SNIPPET: &str = include_str!("../../../nginx/ssecast.conf");
/// The socket that the snippet names.
const SNIPPET_SOCKET: &str = "unix:/run/ssecast/ssecast.sock:";
const TEMPLATE: &str = include_str!("nginx.conf");
/// The modules whose temporary folders nginx makes at start, used or not.
const MODULES: [&str; 3] = ["fastcgi", "uwsgi", "scgi"];
/// nginx tries for 2.5 s to listen on a port that is taken.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL. nginx ends at once.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// A free port can be taken before nginx has it.
const ATTEMPTS: usize = 3;

/// An nginx that can be started.
pub(super) struct Program {
    path: PathBuf,
    /// What `nginx -V` says: version and build options.
    build: String,
}

/// Looks for nginx in PATH, and in the `sbin` beside each `bin` of it: Debian keeps those out of the PATH of users.
pub(super) fn find() -> Option<Program> {
    places(&env::var_os("PATH")?).iter().map(|place| place.join("nginx")).find_map(Program::ask)
}

fn places(path: &OsStr) -> Vec<PathBuf> {
    let listed: Vec<PathBuf> = env::split_paths(path).collect();
    let beside = listed.iter().filter(|place| place.ends_with("bin")).map(|place| place.with_file_name("sbin"));
    listed.iter().cloned().chain(beside).collect()
}

impl Program {
    fn ask(path: PathBuf) -> Option<Self> {
        let meta = fs::metadata(&path).ok()?;
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            return None;
        }
        let said = std::process::Command::new(&path).arg("-V").stdin(Stdio::null()).output().ok()?;
        let build = String::from_utf8_lossy(&said.stderr).into_owned();
        said.status.success().then_some(Self { path, build })
    }

    /// The version and the path, for people.
    fn name(&self) -> String {
        let version = self.build.lines().find_map(|line| line.strip_prefix("nginx version: ")).unwrap_or("nginx");
        format!("{} ({})", version.trim(), self.path.display())
    }

    fn configuration(&self, folder: &Folder, port: u16) -> String {
        let with = |module: &&&str| !self.build.contains(&format!("--without-http_{module}_module"));
        let temp: Vec<_> = MODULES.iter().filter(with).map(|module| format!("{module}_temp_path temp;")).collect();
        TEMPLATE
            .replace("@PORT@", &port.to_string())
            .replace("@ADMIN@", &folder.admin().to_string_lossy())
            .replace("@OTHER_TEMP_PATHS@", &temp.join(" "))
    }
}

/// A running nginx. Dropping it kills it.
pub(super) struct Nginx {
    child: Child,
    log: PathBuf,
    name: String,
    port: u16,
}

impl Nginx {
    /// Starts it on `port`, or on one that is free, and returns when it listens.
    ///
    /// # Errors
    /// It ended, and what it said; or a file couldn't be written.
    pub(super) async fn start(
        program: &Program,
        folder: &Folder,
        source: &Source,
        port: Option<u16>,
    ) -> anyhow::Result<Self> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let chosen = free_port(port)?;
            furnish(program, folder, source, chosen).context("can't write nginx's configuration")?;
            let log = folder.nginx().join("error.log");
            let child =
                spawn(&program.path, folder, &log).with_context(|| format!("can't start {}", program.name()))?;
            let mut nginx = Self { child, log, name: program.name(), port: chosen };
            match nginx.listening(&folder.nginx().join("nginx.pid")).await? {
                None => return Ok(nginx),
                Some(_) if port.is_none() && attempt < ATTEMPTS && nginx.said().contains("Address already in use") => {}
                Some(status) => bail!("{} ended at its start ({status}){}", nginx.name, nginx.said()),
            }
        }
    }

    /// The port it listens on.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The version and the path.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it listens; or gives the status with which it ended instead. It writes its pid once it listens.
    async fn listening(&mut self, pid_file: &Path) -> anyhow::Result<Option<ExitStatus>> {
        let started = async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return io::Result::Ok(Some(status));
                }
                if fs::metadata(pid_file).is_ok_and(|meta| meta.len() > 0) {
                    return Ok(None);
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(STARTS_WITHIN, started).await {
            Ok(started) => Ok(started?),
            Err(_) => bail!("{} doesn't listen after {} s{}", self.name, STARTS_WITHIN.as_secs(), self.said()),
        }
    }

    /// Resolves when it has ended by itself.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow::anyhow!("{} has ended ({status}){}", self.name, self.said()),
            Err(error) => anyhow::Error::new(error).context("can't wait for nginx"),
        }
    }

    /// Ends it, and waits for it.
    pub(super) async fn stop(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // If it is gone already, that is what was wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(ENDS_WITHIN, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// The end of its log, to be put behind an error.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        if last.is_empty() { last } else { format!(":\n{last}") }
    }
}

/// `wanted`, or any, and free just now: nginx would take its time to say that it isn't.
fn free_port(wanted: Option<u16>) -> anyhow::Result<u16> {
    let wanted = wanted.unwrap_or(0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .with_context(|| format!("can't listen on 127.0.0.1:{wanted}"))?;
    Ok(listener.local_addr()?.port())
}

/// Writes what nginx reads.
fn furnish(program: &Program, folder: &Folder, source: &Source, port: u16) -> io::Result<()> {
    let room = folder.nginx();
    let pages = room.join("page");
    fs::create_dir_all(&pages)?;
    for asset in &ASSETS {
        fs::write(pages.join(asset.name), asset.text)?;
    }
    fs::write(pages.join(page::COMMANDS), page::commands(&lines(folder, source, &page_at(port))))?;
    let socket = format!("unix:{}:", folder.public().display());
    fs::write(room.join("ssecast.conf"), SNIPPET.replace(SNIPPET_SOCKET, &socket))?;
    fs::write(room.join("nginx.conf"), program.configuration(folder, port))
}

fn spawn(program: &Path, folder: &Folder, log: &Path) -> io::Result<Child> {
    let room = folder.nginx();
    let mut command = Command::new(program);
    command.arg("-p").arg(&room).arg("-c").arg(room.join("nginx.conf")).current_dir(&room);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(log)?);
    // Ctrl-C goes to all processes of the terminal's group; nginx is to be there until the streams have been told.
    command.process_group(0).kill_on_drop(true);
    if let Some(tenant) = folder.tenant() {
        command.uid(tenant.user).gid(tenant.group);
    }
    end_with_this_process(&mut command);
    command.spawn()
}

/// Even a `kill -9` of this process, after which it can't end anything itself, ends the child.
#[allow(unsafe_code, reason = "nothing but the child itself can ask for this, between fork and exec")]
fn end_with_this_process(command: &mut Command) {
    let parent = getpid();
    let ask = move || {
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        // It may have died before.
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec only what is async-signal-safe may be called: this makes two system calls, allocates
    // nothing and takes no lock. The thread that forks is the one that lives as long as the process (the runtime has no other),
    // as the signal is sent at the end of the thread.
    unsafe { command.pre_exec(ask) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snippet_names_the_socket_that_is_replaced() {
        assert_eq!(SNIPPET.matches(SNIPPET_SOCKET).count(), 1);
    }

    #[test]
    fn it_is_looked_for_where_users_have_no_path_to() {
        let found: Vec<_> =
            places("/usr/bin:/opt/x:/bin".as_ref()).iter().map(|place| place.display().to_string()).collect();
        assert_eq!(found, ["/usr/bin", "/opt/x", "/bin", "/usr/sbin", "/sbin"]);
    }

    #[test]
    fn a_module_that_nginx_is_built_without_is_not_configured() {
        let build = "nginx version: nginx/1.26.0\nconfigure arguments: --without-http_uwsgi_module".to_owned();
        let program = Program { path: "/usr/sbin/nginx".into(), build };
        let folder = Folder::make().unwrap();
        let configuration = program.configuration(&folder, 81);
        assert!(configuration.contains("fastcgi_temp_path temp; scgi_temp_path temp;"), "{configuration}");
        assert!(!configuration.contains('@'), "{configuration}");
        assert_eq!(program.name(), "nginx/1.26.0 (/usr/sbin/nginx)");
    }
}
