//! `examples/authorize.rs`: who may read is decided by a signed cookie.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};

use super::example;
use crate::support::{Daemon, Folder, Request, Response, Stream, Subscription};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A cookie as the application makes it.
fn cookie(key: &str, user: &str, channels: &[&str], until: u64) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("user", user).extend_pairs(channels.iter().map(|name| ("channel", name)));
    let signed = form.append_pair("until", &until.to_string()).finish();
    let mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap().chain_update(&signed).finalize();
    let digits: String = mac.into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("session={signed}&mac={digits}")
}

fn start(folder: &Folder) -> Daemon {
    let key = folder.write("session.key", &format!("{KEY}\n"));
    let daemon =
        Daemon::start_program(&example("authorize"), folder, "ssecast", &format!("[session]\nkey_file = {key:?}\n"));
    assert_eq!(daemon.admin_get("/readyz").status(), 200);
    daemon
}

fn request(daemon: &Daemon, channels: &[&str], cookie: Option<&str>) -> Response {
    let request = Subscription::to(channels).request(daemon.public()).header("Connection", "close");
    match cookie {
        Some(cookie) => request.header("Cookie", format!("theme=dark; {cookie}")),
        None => request,
    }
    .send(daemon.public())
}

fn refusal(daemon: &Daemon, channels: &[&str], cookie: Option<&str>) -> (u16, String, String) {
    let response = request(daemon, channels, cookie);
    let (status, body) = (response.status(), response.json());
    (status, body["code"].as_str().unwrap().to_owned(), body["error"].as_str().unwrap().to_owned())
}

#[test]
fn a_signed_cookie_opens_its_channels_and_nothing_else() {
    let folder = Folder::new();
    let daemon = start(&folder);
    let valid = cookie(KEY, "ann", &["news", "orders.7.*", "größe;,"], now() + 600);
    for channels in [["news", "orders.7.paid"], ["größe;", "news"]] {
        let (status, code, why) = refusal(&daemon, &channels, None);
        assert_eq!((status, code.as_str()), (401, "unauthorized"), "{why}");
    }
    let mut stream = Stream::new(request(&daemon, &["news", "orders.7.paid"], Some(&valid)));
    Request::post("/publish/orders.7.paid", "text/plain", "yes").send(daemon.admin());
    assert_eq!(stream.texts(1), ["yes"]);
    let (status, code, why) = refusal(&daemon, &["news", "orders.8.paid"], Some(&valid));
    assert_eq!((status, code.as_str(), why.as_str()), (403, "forbidden", "ann may not read channel orders.8.paid"));

    let old = cookie(KEY, "ann", &["news"], now() - 1);
    let other_key = cookie(&KEY.replace('0', "9"), "ann", &["news"], now() + 600);
    let more = valid.replace("channel=news", "channel=*");
    for wrong in [old.as_str(), &other_key, &more, "session=", "session=user=ann&mac=zz"] {
        let (status, code, why) = refusal(&daemon, &["news"], Some(wrong));
        assert_eq!((status, code.as_str()), (401, "unauthorized"), "{wrong}: {why}");
    }
}

#[test]
fn an_upgrade_keeps_the_clients_and_the_authorizer() {
    let folder = Folder::new();
    let mut daemon = start(&folder);
    let valid = cookie(KEY, "ann", &["news"], now() + 600);
    let mut stream = Stream::new(request(&daemon, &["news"], Some(&valid)));
    for round in ["1", "2"] {
        daemon.reload();
        Request::post("/publish/news", "text/plain", round).send(daemon.admin());
        assert_eq!(stream.texts(1), [round]);
        assert_eq!(request(&daemon, &["news"], None).status(), 401);
    }
}

#[test]
fn a_program_of_its_own_has_the_subcommands_and_its_table_is_checked() {
    let folder = Folder::new();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(example("authorize")).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let check = |text: &str| {
        let file = folder.write("c.toml", text);
        run(&["check", "--config", file.to_str().unwrap()])
    };
    let (code, document, _) = run(&["check", "--defaults"]);
    assert_eq!(code, Some(0));
    assert!(
        document.contains("[session]") && document.contains("key_file = \"/etc/ssecast/session.key\""),
        "{document}"
    );

    let (code, _, error) = check("[session]\nkey_file = 7\n");
    assert_eq!(code, Some(64));
    assert!(error.contains("c.toml:2: session.key_file: the number 7 is of another type"), "{error}");
    let (code, _, error) = check("[session]\nkey_file = \"/nowhere/key\"\n");
    assert_eq!(code, Some(64));
    assert!(error.contains("session.key_file: /nowhere/key: No such file"), "{error}");
    let (code, _, error) = check("");
    assert_eq!((code, error.contains("the table [session] is missing")), (Some(64), true), "{error}");

    let mut daemon = start(&folder);
    let admin = daemon.admin().path().to_str().unwrap().to_owned();
    let (code, answer, error) = run(&["reload", "--admin-socket", &admin]);
    assert_eq!(code, Some(0), "{error}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    daemon.child().succeed(u32::try_from(answer["pid"].as_u64().unwrap()).unwrap());
    daemon.assert_serving();
}
