//! A test's own nginx, with the shipped snippet in its server block.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::unistd::geteuid;

use super::{Child, Daemon, Endpoint, Folder, Request, free_port, program_in_path};

/// The socket in the snippet, which a test replaces by its own.
const SHIPPED_SOCKET: &str = "/run/ssecast/ssecast.sock";

pub(crate) struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    /// Starts nginx in front of `daemon`.
    pub(crate) fn start(folder: &Folder, daemon: &Daemon) -> Self {
        Self::start_before(folder, daemon.public().path())
    }

    /// Starts nginx in front of the Unix socket `upstream`, on which a daemon may listen later.
    pub(crate) fn start_before(folder: &Folder, upstream: &Path) -> Self {
        Self::start_edited(folder, upstream, |snippet| snippet)
    }

    /// Starts nginx in front of `upstream` with an edited snippet: `edit` gets the shipped text, and returns the text for the server
    /// block.
    pub(crate) fn start_edited(folder: &Folder, upstream: &Path, edit: impl FnOnce(String) -> String) -> Self {
        let port = free_port();
        let config = write_config(folder, upstream, port, "", edit);
        Self::launch(folder, &config, port)
    }

    /// Starts nginx in front of several nodes, to which new streams and polls go by turns: the snippet with an upstream, as
    /// docs/several-machines.md shows it.
    pub(crate) fn start_before_nodes(folder: &Folder, nodes: &[Daemon]) -> Self {
        let port = free_port();
        let server = |node: &Daemon| format!("        server unix:{} max_fails=0;\n", node.public().path().display());
        let servers: String = nodes.iter().map(server).collect();
        let upstream = format!("    upstream ssecast {{\n{servers}    }}\n");
        let first = nodes[0].public().path();
        let config = write_config(folder, first, port, &upstream, |snippet| {
            let edited = snippet.replace(&format!("http://unix:{}:/;", first.display()), "http://ssecast/;");
            assert_ne!(edited, snippet, "the snippet's proxy_pass is not what docs/several-machines.md says");
            edited
        });
        Self::launch(folder, &config, port)
    }

    fn launch(folder: &Folder, config: &Path, port: u16) -> Self {
        let child = Child::start("nginx", &mut command(folder, config), folder.path("nginx.log"));
        let mut nginx = Self { child, address: (Ipv4Addr::LOCALHOST, port).into() };
        let endpoint = Endpoint::tcp(nginx.address);
        nginx.child.wait_until("answering", || {
            endpoint.connect().is_ok() && Request::get("/is-nginx-here").send(&endpoint).status() == 204
        });
        nginx
    }

    /// Where a browser finds the event streams.
    pub(crate) fn sse(&self) -> Endpoint {
        Endpoint::tcp(self.address).under("/sse/")
    }

    /// The URL of `path`, as a browser uses it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// The output of `nginx -t` for the shipped snippet.
pub(crate) fn test_config(folder: &Folder) -> Output {
    let config = write_config(folder, &folder.path("ssecast.sock"), free_port(), "", |snippet| snippet);
    command(folder, &config).arg("-t").output().unwrap()
}

/// The output of `nginx -t` for the snippet with its optional lines, which are shipped as comments.
pub(crate) fn test_config_with_options(folder: &Folder) -> Output {
    let config = write_config(folder, &folder.path("ssecast.sock"), free_port(), "", |snippet| snippet);
    let snippet = folder.path("snippet.conf");
    let (mut options, mut text) = (0, String::new());
    for line in std::fs::read_to_string(&snippet).unwrap().lines() {
        let option = line.trim_start().strip_prefix('#').filter(|rest| rest.starts_with("limit_"));
        options += usize::from(option.is_some());
        text.extend([option.unwrap_or(line), "\n"]);
    }
    assert!(options > 0);
    std::fs::write(&snippet, text).unwrap();
    command(folder, &config).arg("-t").output().unwrap()
}

fn command(folder: &Folder, config: &Path) -> Command {
    let mut command = Command::new(program_in_path("nginx"));
    command.arg("-p").arg(folder.path("")).arg("-c").arg(config).arg("-e").arg("stderr");
    command
}

/// A shipped file with the test's socket in it.
fn shipped(name: &str, upstream: &Path) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.replace(SHIPPED_SOCKET, upstream.to_str().unwrap())
}

/// `more` goes into the `http` block.
fn write_config(
    folder: &Folder,
    upstream: &Path,
    port: u16,
    more: &str,
    edit: impl FnOnce(String) -> String,
) -> PathBuf {
    let snippet = shipped("ssecast.conf", upstream);
    assert!(snippet.contains(upstream.to_str().unwrap()), "the snippet does not name {SHIPPED_SOCKET}");
    let snippet = folder.write("snippet.conf", &edit(snippet));
    let http_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx/ssecast-http.conf");
    let http = if http_path.exists() { shipped("ssecast-http.conf", upstream) } else { String::new() };
    // Without root, nginx ignores `user` with a warning.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {};\n", folder.path(&format!("nginx-{kind}")).display()))
        .concat();
    let text = format!(
        "daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 20000;
pid {pid};
events {{ worker_connections 18000; }}
http {{
    access_log off;
{temp}
{http}
{more}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        include {snippet};
        location = /is-nginx-here {{ return 204; }}
    }}
}}
",
        pid = folder.path("nginx.pid").display(),
        snippet = snippet.display(),
    );
    folder.write("nginx.conf", &text)
}
