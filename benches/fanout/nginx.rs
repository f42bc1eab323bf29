//! nginx as a child, with the snippet that ssecast ships, in a folder of its own.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;
use ssecast::cli::bench::target::Target;

/// The socket that the shipped snippet names.
const SHIPPED_SOCKET: &str = "/run/ssecast/ssecast.sock";

/// Whether there is an nginx.
pub(crate) fn is_there() -> bool {
    Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Writes a configuration that proxies `/sse/` on a free port to `socket`. Gives the command that starts nginx with it,
/// and where clients then connect.
pub(crate) fn prepare(dir: &Path, socket: &Path) -> anyhow::Result<(Command, Target)> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx");
    let socket = socket.to_str().context("the folder's name is not UTF-8")?;
    let mut files = Vec::new();
    for file in fs::read_dir(&shipped).with_context(|| format!("{} can't be read", shipped.display()))? {
        let file = file?;
        if file.path().extension().is_some_and(|extension| extension == "conf") {
            let copy = dir.join(file.file_name());
            fs::write(&copy, fs::read_to_string(file.path())?.replace(SHIPPED_SOCKET, socket))?;
            files.push(copy);
        }
    }
    // What is not the snippet itself belongs into the http block.
    let (snippet, http): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.ends_with("ssecast.conf"));
    let include = |files: &[std::path::PathBuf]| -> String {
        files.iter().map(|file| format!("include {};\n", file.display())).collect()
    };
    // Free now; nobody else on this machine is likely to take it within the next milliseconds.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let root = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let configuration = format!(
        "{root}
        daemon off;
        worker_processes 1;
        pid {dir}/nginx.pid;
        error_log {dir}/nginx.log;
        events {{ worker_connections 19000; }}
        http {{
            access_log off;
            client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
            uwsgi_temp_path {dir}; scgi_temp_path {dir};
            {http}
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                {snippet}
            }}
        }}",
        dir = dir.display(),
        http = include(&http),
        snippet = include(&snippet),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-e").arg(dir.join("nginx.log")).arg("-c").arg(file).stdin(Stdio::null());
    Ok((command, format!("http://127.0.0.1:{port}/sse/").parse()?))
}
