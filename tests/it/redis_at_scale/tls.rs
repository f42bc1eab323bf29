//! Redis over TLS: own authorities, client certificates, and errors that say what is wrong.

use std::{path::Path, process::Command};

use crate::support::{
    Child, Daemon, Folder, RedisServer, Subscription,
    certificates::{Authority, Signed},
    daemon, eventually, free_port, program_in_path,
};

/// A Redis with TLS on the port that is returned. It asks for a client certificate if `asks` is true.
fn start(folder: &Folder, authority: &Authority<'_>, asks: bool) -> (RedisServer, u16) {
    start_with(folder, authority, &authority.sign("redis"), asks)
}

fn start_with(folder: &Folder, authority: &Authority<'_>, own: &Signed, asks: bool) -> (RedisServer, u16) {
    let port = free_port();
    let Signed { certificate, key } = own;
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let options = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &text(certificate),
        "--tls-key-file",
        &text(key),
        "--tls-ca-cert-file",
        &text(&authority.certificate()),
        "--tls-auth-clients",
        if asks { "yes" } else { "no" },
    ];
    (RedisServer::start_with_options(folder, &options), port)
}

fn table(port: u16, files: &[(&str, &Path)]) -> String {
    let files: String = files.iter().map(|(key, path)| format!("{key} = {path:?}\n")).collect();
    format!("[redis]\nurl = \"rediss://127.0.0.1:{port}\"\n{files}")
}

/// Waits until `/readyz` and the log say `words`.
fn assert_reported(daemon: &mut Daemon, words: &str) {
    eventually(&format!("/readyz says {words:?}"), || daemon.admin_get("/readyz").text().contains(words).then_some(()));
    eventually("the log says it too", || daemon.child().log().contains(words).then_some(()));
}

#[test]
fn events_and_publishes_go_over_tls_with_an_own_authority_and_a_client_certificate() {
    needs!("redis-server", "openssl");
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let (redis, port) = start(&folder, &authority, true);
    let Signed { certificate, key } = authority.sign("client");
    let files = [("ca_file", &*authority.certificate()), ("cert_file", &*certificate), ("key_file", &*key)];
    let mut daemon = Daemon::start(&folder, &table(port, &files));
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    let long = "x".repeat(1 << 20);
    redis.publish("cats", "by Redis");
    redis.publish("cats", &long);
    daemon.publish("cats", "by the admin socket");
    assert_eq!(stream.texts(3), ["by Redis", &long, "by the admin socket"]);
    for number in 0..2000 {
        redis.publish("cats", number.to_string());
    }
    let expected: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    assert_eq!(stream.texts(2000), expected);
    daemon.reload();
    redis.publish("cats", "after the reload");
    assert_eq!(stream.texts(1), ["after the reload"], "without a gap");
}

#[test]
fn a_certificate_of_another_authority_is_refused_and_reported() {
    needs!("redis-server", "openssl");
    let folder = Folder::new();
    let (authority, other) = (Authority::new(&folder, "authority"), Authority::new(&folder, "other"));
    let (_redis, port) = start(&folder, &authority, false);
    let mut daemon = Daemon::start_unready(&folder, &table(port, &[("ca_file", &other.certificate())]));
    assert_reported(&mut daemon, "its certificate comes from another authority than those of redis.ca_file");
    // The files are read again at a reload.
    std::fs::copy(authority.certificate(), other.certificate()).unwrap();
    daemon.reload();
    daemon.wait_until_ready();
}

#[test]
fn a_missing_client_certificate_is_reported_with_what_to_set() {
    needs!("redis-server", "openssl");
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let (_redis, port) = start(&folder, &authority, true);
    let mut daemon = Daemon::start_unready(&folder, &table(port, &[("ca_file", &authority.certificate())]));
    assert_reported(&mut daemon, "Redis asks for a client certificate: set redis.cert_file and redis.key_file");
}

#[test]
fn a_certificate_that_is_its_own_authority_is_refused_with_what_to_do() {
    needs!("redis-server", "openssl");
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let own = Signed { certificate: authority.certificate(), key: folder.path("authority.key") };
    let (_redis, port) = start_with(&folder, &authority, &own, false);
    let mut daemon = Daemon::start_unready(&folder, &table(port, &[("ca_file", &authority.certificate())]));
    assert_reported(&mut daemon, "its certificate is that of an authority: sign one for the server with it");
}

#[test]
fn sentinel_and_the_primary_that_it_names_are_reached_over_tls() {
    needs!("redis-server", "openssl");
    let (folder, sentinel_folder) = (Folder::new(), Folder::new());
    let authority = Authority::new(&folder, "authority");
    let (redis, port) = start(&folder, &authority, false);
    let Signed { certificate, key } = authority.sign("sentinel");
    let own_port = free_port();
    let text = format!(
        "port 0\ntls-port {own_port}\nbind 127.0.0.1\ndir {}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n\
         tls-auth-clients no\ntls-replication yes\nsentinel monitor main 127.0.0.1 {port} 1\n",
        sentinel_folder.path("").display(),
        certificate.display(),
        key.display(),
        authority.certificate().display(),
    );
    let config = sentinel_folder.write("sentinel.conf", &text);
    let mut command = Command::new(program_in_path("redis-server"));
    command.arg(config).arg("--sentinel");
    let _sentinel = Child::start("redis-sentinel", &mut command, sentinel_folder.path("sentinel.log"));
    let url = format!("rediss+sentinel://127.0.0.1:{own_port}/main");
    let ca_file = authority.certificate();
    let daemon = Daemon::start(&folder, &format!("[redis]\nurl = {url:?}\nca_file = {ca_file:?}\n"));
    let mut stream = Subscription::to(&["cats"]).open(daemon.public());
    redis.publish("cats", "by Redis");
    daemon.publish("cats", "by the admin socket");
    assert_eq!(stream.texts(2), ["by Redis", "by the admin socket"]);
}

#[test]
fn a_port_without_tls_is_reported() {
    needs!("redis-server", "openssl");
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let (redis, _) = start(&folder, &authority, false);
    let mut daemon = Daemon::start_unready(&folder, &table(redis.port(), &[("ca_file", &authority.certificate())]));
    assert_reported(&mut daemon, "TLS with 127.0.0.1");
}

#[test]
fn a_file_that_can_not_be_used_is_named_with_the_reason() {
    needs!("openssl");
    let folder = Folder::new();
    let (authority, other) = (Authority::new(&folder, "authority"), Authority::new(&folder, "other"));
    let (own, foreign) = (authority.sign("one"), other.sign("two"));
    let missing = folder.path("missing.pem");
    for (files, words) in [
        (vec![("ca_file", &*missing)], "redis.ca_file: \"MISSING\" can't be read (No such file or directory)"),
        (vec![("ca_file", &*own.key)], "has no certificate"),
        (vec![("cert_file", &*own.certificate)], "redis.cert_file: redis.key_file is missing"),
        (vec![("key_file", &*own.key)], "redis.key_file: redis.cert_file is missing"),
        (vec![("cert_file", &*own.certificate), ("key_file", &*foreign.key)], "can't be used"),
    ] {
        let config = folder.write("wrong.toml", &table(1, &files));
        let words = words.replace("MISSING", missing.to_str().unwrap());
        for command in ["check", "serve"] {
            let output = daemon::run(&[command, "--config", config.to_str().unwrap()], b"");
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && error.contains(&words), "{command}: {words}: {error}");
        }
    }
}
