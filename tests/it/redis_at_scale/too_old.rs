//! A server that is too old is refused by name and version.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use crate::support::{Daemon, Folder, eventually};

const INFO: &str = "# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\n";

/// Answers as Redis 5 does: it does not know HELLO. Its thread ends with the test.
fn start_redis_5() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || answer(&client.unwrap()));
        }
    });
    port
}

/// Answers the commands of one connection.
fn answer(mut client: &TcpStream) -> Option<()> {
    let mut lines = BufReader::new(client).lines();
    loop {
        let count: usize = lines.next()?.ok()?.strip_prefix('*')?.parse().ok()?;
        let mut words = Vec::new();
        for _ in 0..count {
            lines.next()?.ok()?;
            words.push(lines.next()?.ok()?);
        }
        let answer = match words.first()?.to_uppercase().as_str() {
            "INFO" => format!("${}\r\n{INFO}\r\n", INFO.len()),
            name => format!("-ERR unknown command `{name}`, with args beginning with: \r\n"),
        };
        client.write_all(answer.as_bytes()).ok()?;
    }
}

#[test]
fn a_redis_without_hello_is_refused_by_its_version() {
    let folder = Folder::new();
    let url = format!("redis://127.0.0.1:{}", start_redis_5());
    let mut daemon = Daemon::start_unready(&folder, &format!("[redis]\nurl = {url:?}\n"));
    let words = "Redis 5.0.14 at 127.0.0.1";
    eventually("/readyz says why", || {
        let text = daemon.admin_get("/readyz").text();
        (text.contains(words) && text.contains("is too old: ssecast needs Redis 6.0 or later")).then_some(())
    });
    eventually("the log says it too", || daemon.child().log().contains(words).then_some(()));
}
