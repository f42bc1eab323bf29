//! Starts nginx in its own folder, with the snippet that ssecast ships or with nchan. Measures nothing.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;

/// The socket that the shipped snippet names.
const SHIPPED_SOCKET: &str = "/run/ssecast/ssecast.sock";

/// What the configuration is called in its folder.
const CONFIGURATION: &str = "nginx.conf";

/// Where distributions put nchan.
const NCHAN: [&str; 2] = ["/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/share/nginx/modules/ngx_nchan_module.so"];

/// An nginx that can be started.
pub(crate) struct Prepared {
    pub(crate) command: Command,
    /// On 127.0.0.1.
    pub(crate) port: u16,
}

/// Whether there is an nginx.
pub(crate) fn is_there() -> bool {
    Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// nchan's module, where there is one.
pub(crate) fn nchan() -> Option<&'static Path> {
    NCHAN.iter().map(Path::new).find(|path| path.exists())
}

/// Whether an nginx answers a request.
pub(crate) fn answers(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        stream.read(&mut [0])
    };
    ask().is_ok_and(|bytes| bytes > 0)
}

/// nginx with `/sse/` proxied to `socket` by the shipped snippet.
pub(crate) fn with_snippet(dir: &Path, socket: &Path) -> anyhow::Result<Prepared> {
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
    prepare(dir, "", &include(&http), &include(&snippet))
}

/// nginx with `/sse/` proxied to `socket` by a location of one's own, with what belongs into it and into the http block.
pub(crate) fn with_location(dir: &Path, socket: &Path, http: &str, location: &str) -> anyhow::Result<Prepared> {
    let server = format!("location ^~ /sse/ {{ proxy_pass http://unix:{}:/; {location} }}", socket.display());
    prepare(dir, "", http, &server)
}

/// Puts `http` into the http block of an nginx that was prepared in `dir` and has not been started.
pub(crate) fn add_to_http(dir: &Path, http: &str) -> anyhow::Result<()> {
    let file = dir.join(CONFIGURATION);
    let text = fs::read_to_string(&file)?;
    Ok(fs::write(&file, text.replacen("http {", &format!("http {{\n{http}"), 1))?)
}

/// nginx with nchan: `/sub/CHANNELS` to subscribe, `/pub/CHANNEL` to publish.
pub(crate) fn with_nchan(dir: &Path, module: &Path) -> anyhow::Result<Prepared> {
    let load = format!("load_module {};", module.display());
    // Its default of 10 kept messages would lose most of a burst.
    let http = "nchan_shared_memory_size 256m; nchan_message_buffer_length 5000;";
    let server = "location ~ ^/sub/(.+)$ {
            nchan_subscriber eventsource; nchan_channel_id $1; nchan_channel_id_split_delimiter ',';
        }
        location ~ ^/pub/(.+)$ { nchan_publisher; nchan_channel_id $1; }";
    prepare(dir, &load, http, server)
}

/// A port that is free now; nobody else on this machine is likely to take it within the next milliseconds.
pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Writes a configuration of one server on a free port, with what belongs into its three blocks.
fn prepare(dir: &Path, main: &str, http: &str, server: &str) -> anyhow::Result<Prepared> {
    let port = free_port()?;
    let root = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let configuration = format!(
        "{main}
        {root}
        daemon off;
        worker_processes 1;
        pid {dir}/nginx.pid;
        error_log {dir}/nginx.log;
        # Two for a stream, and a sixteenth free: with less, nginx cuts connections that have not sent a request yet.
        events {{ worker_connections 19900; }}
        http {{
            access_log off;
            # The publisher keeps one connection for all of its events.
            keepalive_requests 1000000;
            client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
            uwsgi_temp_path {dir}; scgi_temp_path {dir};
            {http}
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                {server}
            }}
        }}",
        dir = dir.display(),
    );
    let file = dir.join(CONFIGURATION);
    fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-e").arg(dir.join("nginx.log")).arg("-c").arg(file).stdin(Stdio::null());
    Ok(Prepared { command, port })
}
