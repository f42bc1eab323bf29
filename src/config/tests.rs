//! Tests of the configuration as a whole: files in, configurations or lists of errors out.

use std::{fs, path::Path, time::Duration};

use super::{table::table, values::plain_text, *};
use crate::name::ChannelName;

table! {
    /// A table that a source owns.
    struct Radio from [radio] else "Without this table, the radio is off." {
        /// Where the station is.
        pub band: String = plain_text("FM");
        /// Its name.
        pub station: String = plain_text("");
    }
}

const SOURCES: &[SourceTable] = &[SourceTable::of::<Radio>()];

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, "t.toml", SOURCES)
}

fn errors(text: &str) -> Vec<String> {
    parse(text).unwrap_err().lines().collect()
}

fn name(name: &str) -> ChannelName {
    ChannelName::subscribable(name).unwrap()
}

fn with_radio(radio: Radio) -> Config {
    let mut config = Config::default();
    config.sources.set(radio);
    config
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("\u{feff}# all of it\r\n\r\n[stream]\r\n").unwrap(), Config::default());
}

#[test]
fn the_default_document_gives_the_defaults_commented_out_or_not() {
    let document = default_document(&Config::definitions(SOURCES));
    assert_eq!(parse(&document).unwrap(), Config::default());
    let settings = |line: &&str| !line.starts_with("# ") || line.contains(" = ") || line.starts_with("# [");
    let all: Vec<_> = document.lines().filter(settings).map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
    let expected = Config { channels: vec![Channel::default()], ..with_radio(Radio::default()) };
    assert_eq!(parse(&all.join("\n")).unwrap(), expected);
}

#[test]
fn every_defined_key_is_read() {
    for table in Config::definitions(SOURCES) {
        for key in table.keys {
            let path = format!("{}.{}", table.name, key.name);
            let found = errors(&format!("{}\n{} = 1.5", table.heading(), key.name));
            assert!(found.len() == 1 && found[0].starts_with(&format!("t.toml:2: {path}: ")), "{found:?}");
        }
    }
}

#[test]
fn every_key_can_be_set() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, "# publishers\none\n\n  two  \n").unwrap();
    let text = format!(
        r#"
        [listen]
        public = "tcp://127.0.0.1:8888"
        public_mode = 0o600
        public_group = "root"
        admin = "admin.sock"
        admin_mode = "600"
        [process]
        user = "nobody"
        group = "root"
        pidfile = "/run/x.pid"
        log_file = "x.log"
        log_format = "json"
        core_limit = "unlimited"
        workers = 2
        drain = "1m 30s"
        [stream]
        ping_interval = "500ms"
        retry = "2s .. 3s"
        max_lifetime = "1h"
        max_clients = 1_000
        max_channels_per_client = 1
        coalesce = "20ms"
        gzip = true
        allow_origins = ["*", "https://www.example.com:8443", "capacitor://localhost"]
        [history]
        messages = 0
        age = "0s"
        bytes = "1.5kB"
        linger = "0s"
        skew = "1ms"
        stretch = "7s"
        [[channel]]
        match = "news.secret"
        [[channel]]
        match = "news.*"
        messages = 7
        age = "1m"
        keep = "always"
        patterns = true
        pattern_messages = 70
        [radio]
        band = "AM"
        station = "Ö1"
        [publish]
        key_files = ["{}"]
        users = ["root", 33, "1000"]
        groups = ["root", 7]
        max_message = 4096
        [drain]
        spread = "3s"
        "#,
        keys.display()
    );
    let seconds = Duration::from_secs;
    let expected = Config {
        listen: Listen {
            public: Address::Tcp(([127, 0, 0, 1], 8888).into()),
            admin: Address::Unix("admin.sock".into()).into(),
            public_mode: 0o600,
            public_group: Some("root".into()),
            admin_mode: 0o600,
            admin_group: None,
        },
        process: Process {
            user: Some(Account { name: "nobody".into(), uid: 65534, gid: 0 }),
            group: Some(0),
            pidfile: Some("/run/x.pid".into()),
            log_file: Some("x.log".into()),
            log_format: LogFormat::Json,
            core_limit: Some(u64::MAX),
            workers: 2.try_into().unwrap(),
            drain: seconds(90),
        },
        stream: Stream {
            ping_interval: Duration::from_millis(500),
            retry: DurationRange { min: seconds(2), max: seconds(3) },
            max_lifetime: Some(seconds(3600)),
            max_clients: 1000,
            max_channels_per_client: 1,
            coalesce: Duration::from_millis(20),
            gzip: true,
            allow_origins: vec!["*".into(), "https://www.example.com:8443".into(), "capacitor://localhost".into()],
        },
        history: History {
            messages: 0,
            age: seconds(0),
            bytes: 1500,
            linger: seconds(0),
            skew: Duration::from_millis(1),
            stretch: seconds(7),
        },
        channels: vec![
            Channel { r#match: name("news.secret"), ..Channel::default() },
            Channel {
                r#match: name("news.*"),
                messages: Some(7),
                age: Some(seconds(60)),
                keep: Keep::Always,
                patterns: true,
                pattern_messages: 70,
            },
        ],
        sources: with_radio(Radio { band: "AM".into(), station: "Ö1".into() }).sources,
        publish: Publish {
            key_files: KeyFiles { paths: vec![keys], keys: vec!["one".into(), "two".into()] },
            users: vec![0, 33, 1000],
            groups: vec![0, 7],
            max_message: 4096,
        },
        drain: Drain { spread: seconds(3) },
    };
    assert_eq!(parse(&text).unwrap(), expected);
}

/// A wrong line, and a part of its error.
#[test]
fn the_error_of_a_wrong_value_says_what_to_write() {
    for (line, said) in [
        (r#"stream.retry = "4s..1s""#, r#""4s..1s" ends before it begins; write the shorter one first: "1s..4s""#),
        (r#"stream.retry = "1s..""#, r#""" is not a duration"#),
        (r#"stream.ping_interval = "0s""#, "too short"),
        (r#"stream.ping_interval = "20""#, r#""20" is not a duration; write a number with its unit"#),
        ("stream.ping_interval = 20", "can't be the number 20; write it in quotes, with its unit"),
        (r#"history.age = "100y""#, "is too long"),
        ("history.messages = -1", "can't be the number -1"),
        (r#"history.messages = "100""#, r#"can't be "100"; write a whole number without quotes"#),
        (r#"history.bytes = "64 bananas""#, r#""64 bananas" is not a size"#),
        ("history.bytes = -5", "can't be the number -5"),
        (r#"history.bytes = "2EiB""#, "too large"),
        ("history.bytes = 99999999999999999999999999999999999999999999", "can't be the number 9999"),
        ("stream.max_clients = 0", "write 1 or more"),
        ("process.workers = 0", "write 1"),
        (r#"listen.public_mode = "rw""#, r#""rw" is not a file mode"#),
        (r#"listen.public_mode = "0999""#, "not a file mode"),
        ("listen.public_mode = 660", "the number 660 is not a file mode; write it in quotes, as chmod takes it"),
        (r#"listen.public_group = "no-such-group""#, r#"there is no group "no-such-group" on this machine"#),
        (r#"process.user = "no-such-user""#, r#"there is no user "no-such-user" on this machine"#),
        (r#"process.user = "root""#, "can't be root"),
        (r#"process.group = "root""#, "set process.user too"),
        ("process.user = 1.5\nprocess.group = 0", "can't be the number 1.5; write a user's name or number"),
        (r#"process.log_file = "/var/log/""#, "write the path of a file"),
        (r#"process.log_format = "xml""#, r#"can't be "xml"; write "text" or "json""#),
        (r#"process.core_limit = "much""#, r#""much" is not a size"#),
        (r#"publish.users = ["no-such-user"]"#, "useradd --system no-such-user"),
        (r#"publish.users = "root""#, "write a list in square brackets"),
        (r#"publish.groups = [1.5]"#, "can't be the number 1.5; write a group's name or number"),
        (r#"publish.key_files = ["/nowhere/keys"]"#, r#""/nowhere/keys" can't be read (No such file or directory)"#),
        (r#"publish.key_files = ["/dev/null"]"#, r#""/dev/null" has no key"#),
        (r#"publish.max_message = "0B""#, "can't be zero bytes"),
        (r#"stream.coalesce = "2s""#, r#""2s" is too long; every event waits"#),
        (r#"stream.gzip = "on""#, r#"can't be "on"; write true or false, without quotes"#),
        (r#"stream.allow_origins = ["www.example.com"]"#, r#""www.example.com" is not an origin"#),
        (r#"stream.allow_origins = ["https://a/"]"#, "without a path"),
        (r#"radio.band = "a\n""#, "control character"),
        (r#"listen.admin = "tcp://0.0.0.0:1""#, "anyone who reaches 0.0.0.0:1 could publish; set publish.key_files"),
        (r#"listen.admin = ["/a", "tcp://0.0.0.0:1"]"#, "anyone who reaches 0.0.0.0:1 could publish"),
        (r#"listen.admin = ["/a", "/run/ssecast/ssecast.sock"]"#, "both sockets would be /run/ssecast/ssecast.sock"),
        (r#"listen.admin = ["/a", "b", "/a"]"#, "/a can't be listened on twice; write each address once"),
        (r#"listen.admin = ["/a", ":80"]"#, r#"":80" is a port, not a path; write "tcp://127.0.0.1:80""#),
        ("listen.admin = []", "can't be an empty list; write one address at least"),
        ("listen.admin = [1]", "can't be the number 1; write a path or"),
        (r#"listen.admin = "/run/ssecast/ssecast.sock""#, "both sockets would be /run/ssecast/ssecast.sock"),
        ("stream = 3", "stream: is a table, not a value; write [stream]"),
        ("[[stream]]", "stream: is a table, not a value"),
        ("[channel]", "channel: is a list of tables, not one table; write [[channel]], and its keys below it"),
        ("channel = 3", "channel: is a list of tables, not a value; write [[channel]], and its keys below it"),
        ("channel = [3]", "channel: is a list of tables, not a value"),
        ("channel = [{ match = \"a?\" }]", "control characters, commas and ? [ ] \\ are not allowed, and * makes it"),
        ("channel = [{ match = \"ssecast:*\" }]", "\"ssecast:*\" matches no channel: names that begin with __ or"),
        ("channel = [{ keep = \"ever\" }]", "channel.keep: \"ever\" is not understood; write \"on-demand\" or"),
        ("channel = [{ messages = \"history.age\" }]", "can't be \"history.age\"; write a whole number"),
        ("channel = [{ pattern = true }]", "channel.pattern: there is no such key; did you mean `patterns`?"),
        ("channel = [{ match = \"a*\" }, { match = \"ab*\" }]", "channel.match: \"ab*\" is never used: an earlier"),
        ("channel = [{}, {}]", "channel.match: \"*\" is never used: an earlier [[channel]] has \"*\""),
        ("messages = 3", "messages: there is no such key; `messages` belongs under [history]"),
        ("stream.linger = 1", "there is no such key; `linger` belongs under [history]"),
        ("stream.ping-intervall = 1", "did you mean `ping_interval`?"),
        ("publish.keys = 1", "did you mean `key_files`?"),
        ("colour = 1", "keys belong under [listen], [process]"),
        ("drain.colour = 1", "known here: `spread`"),
        ("[histroy]", "there is no such table; did you mean [history]?"),
        ("[amqp]", "amqp: there is no such table; known here: [listen]"),
    ] {
        let found = errors(line);
        assert!(
            found.len() == 1 && found[0].starts_with("t.toml:1: ") && found[0].contains(said),
            "{line}: {found:#?}"
        );
    }
}

#[test]
fn all_errors_of_a_file_are_reported_at_once_in_order() {
    let text = r#"# a file with many errors
[listen]
public = "tcp://localhost:80"
admin_mode = "0888"

[stream]
ping_intervall = "20s"
ping_interval = "0s"
retry = 1s..4s
allow_origins = [
  "https://good.example",
  "bad.example",
]
max_clients = "many"

[channels]
match = "*"

[radio]
band = 3
band = "AM"

[history]
bytes = "lots"
spread = "10s"
"#;
    let expected = "\
t.toml:3: listen.public: \"tcp://localhost:80\" has no IP address with a port; write \"tcp://127.0.0.1:8888\" or \"tcp://[::1]:8888\"
t.toml:4: listen.admin_mode: \"0888\" is not a file mode; write it in quotes, as chmod takes it: \"0660\"
t.toml:7: stream.ping_intervall: there is no such key; did you mean `ping_interval`?
t.toml:8: stream.ping_interval: \"0s\" is too short; write \"1ms\" or more
t.toml:9:10: not TOML: invalid float; texts, durations, sizes and modes are written in quotes
t.toml:12: stream.allow_origins: \"bad.example\" is not an origin; write it as browsers send it, in lower case and without a path: \"https://www.example.com\", or \"*\"
t.toml:14: stream.max_clients: can't be \"many\"; write a whole number without quotes
t.toml:16: channels: there is no such table; did you mean [[channel]]?
t.toml:20: radio.band: can't be the number 3; write a text in quotes
t.toml:21:1: radio.band: is there already on line 20; keep one of the two
t.toml:24: history.bytes: \"lots\" is not a size; write a number with its unit, such as \"64MiB\" or \"500kB\"
t.toml:25: history.spread: there is no such key; `spread` belongs under [drain]";
    assert_eq!(parse(text).unwrap_err().to_string(), expected);
}

#[test]
fn a_broken_heading_causes_no_errors_for_the_keys_below_it() {
    assert_eq!(errors("[stream\nretry = \"1s\"\n"), ["t.toml:1:8: not TOML: unclosed table, expected `]`"]);
    assert_eq!(errors("x = \"abc\n[stream]\n"), ["t.toml:1:9: not TOML: invalid basic string, expected `\"`"]);
}

#[test]
fn the_error_of_a_duplicate_names_the_line_of_the_first() {
    let text = "[listen]\npublic = \"a.sock\"\n\n[radio]\n[listen]\npublic = \"b.sock\"\nadmin = \"c.sock\"\n[[radio]]\nstation = \"p\"\n";
    assert_eq!(
        errors(text),
        [
            "t.toml:5:2: [listen] is there already on line 1; add your keys there",
            "t.toml:6:1: listen.public: is there already on line 2; keep one of the two",
            "t.toml:8:3: [radio] is there already on line 4; add your keys there",
        ]
    );
    let dotted = "stream.gzip = true\nstream.gzip = false\n";
    assert_eq!(errors(dotted), ["t.toml:2:8: stream.gzip: is there already on line 1; keep one of the two"]);
}

#[test]
fn an_admin_socket_on_tcp_needs_a_key_unless_it_is_on_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, "k").unwrap();
    let with_key = format!("listen.admin = \"tcp://0.0.0.0:1\"\npublish.key_files = [\"{}\"]", keys.display());
    parse(&with_key).unwrap();
    parse("listen.admin = \"tcp://[::1]:1\"").unwrap();
    assert!(errors("listen.admin = \"tcp://127.0.0.1:1\"\npublish.users = [0]")[0].contains("can't be checked on TCP"));
    let both = errors("listen.admin = [\"/a\", \"tcp://127.0.0.1:1\"]\npublish.users = [0]");
    assert!(both[0].contains("can't be checked on TCP"), "{both:?}");
}

#[test]
fn tcp_sockets_with_clashing_addresses_are_refused() {
    for (public, admin, clash) in [
        ("127.0.0.1:1", "127.0.0.1:1", true),
        ("0.0.0.0:1", "127.0.0.1:1", true),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("127.0.0.1:1", "127.0.0.1:2", false),
        ("127.0.0.2:1", "127.0.0.1:1", false),
    ] {
        let text = format!("listen = {{ public = \"tcp://{public}\", admin = \"tcp://{admin}\" }}");
        assert_eq!(parse(&text).is_err(), clash, "{text}");
    }
}

#[test]
fn the_admin_socket_may_have_several_addresses() {
    let config = parse("listen.admin = [\"/a\", \"tcp://127.0.0.1:8888\"]").unwrap();
    assert_eq!(config.listen.admin.first, Address::Unix("/a".into()));
    assert_eq!(config.listen.admin.to_string(), "/a, tcp://127.0.0.1:8888");
    assert_eq!(parse("listen.admin = [\"/a\"]").unwrap().listen, parse("listen.admin = \"/a\"").unwrap().listen);
}

#[test]
fn flags_override_the_file_and_are_named_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    fs::write(&file, "[listen]\npublic = \"a.sock\"\nadmin = \"b.sock\"\n[radio]\nstation = \"p\"").unwrap();
    let flag = |flag, key, value: &str| Override { flag, key, value: value.to_owned() };
    let overrides = [flag("--socket", "listen.public", "c.sock"), flag("--band", "radio.band", "AM")];
    let config = Config::assemble(Some(&file), &overrides, SOURCES).unwrap();
    assert_eq!(config.listen.public, Address::Unix("c.sock".into()));
    assert_eq!(config.listen.admin, Address::Unix("b.sock".into()).into());
    assert_eq!(config.sources.get(), Some(&Radio { band: "AM".into(), station: "p".into() }));

    let wrong = [flag("--socket", "listen.public", "b.sock"), flag("--band", "radio.band", "\n")];
    let found: Vec<_> = Config::assemble(Some(&file), &wrong, SOURCES).unwrap_err().lines().collect();
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("--band: "), "{found:?}");
    assert!(found[1].starts_with("--socket: both sockets would be b.sock; "), "{found:?}");
}

#[test]
fn a_named_file_that_can_not_be_read_is_an_error() {
    let found = Config::assemble(Some(Path::new("/nowhere/c.toml")), &[], SOURCES).unwrap_err().to_string();
    assert_eq!(found, "/nowhere/c.toml: there is no such file; correct the path, or leave it out for the defaults");
    let found = Config::assemble(Some(Path::new("/")), &[], SOURCES).unwrap_err().to_string();
    assert_eq!(found, "/: can't be read (Is a directory); see its mode and owner");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    fs::write(&file, b"# \xff").unwrap();
    assert!(
        Config::assemble(Some(&file), &[], SOURCES)
            .unwrap_err()
            .to_string()
            .ends_with(": is not UTF-8; write it as TOML, in UTF-8")
    );
}

#[test]
fn clients_find_the_sockets_in_a_file_with_other_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    fs::write(&file, "[listen]\nadmin = \"b.sock\"\nadmin_group = \"no-such-group\"\n[future]\nkey = 1\n").unwrap();
    assert_eq!(Listen::load(Some(&file)).unwrap().admin, Address::Unix("b.sock".into()).into());
    fs::write(&file, "[listen]\nadmin = \"\"").unwrap();
    assert!(Listen::load(Some(&file)).is_err());
}
