//! Adds a tip to the error of an option that only cyclone-sse had: what to use in ssecast instead. Accepts no option itself.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Options of cyclone-sse, and what to use instead. `--redis-*` stands for all options that begin with `--redis-`.
const OPTIONS: [(&str, &str); 14] = [
    ("--port", "ssecast serves a Unix socket, which nginx proxies to; for a port: --socket tcp://127.0.0.1:PORT"),
    ("--listen", "name address and port in one: --socket tcp://ADDRESS:PORT"),
    (
        "--broker",
        "events come over HTTP on the admin socket, from Redis with --redis-url, and from AMQP with an [amqp] table in the configuration",
    ),
    ("--redis-*", "name it in one: --redis-url redis://HOST:PORT/DB"),
    (
        "--amqp-*",
        "the table [amqp] of the configuration: url = \"amqp://USER:PASSWORD@HOST:PORT/VHOST\", exchange, exchange_type",
    ),
    ("--http-secret", "publish.key_files in the configuration names files with one key a line"),
    ("--secret", "publish.key_files in the configuration names files with one key a line"),
    ("--export*", "nothing is exported to graphite: read GET /stats on the admin socket"),
    ("--graphite-*", "nothing is exported to graphite: read GET /stats on the admin socket"),
    ("--use-ssl", "TLS is nginx's"),
    ("--uid", "--user USER, where root starts it"),
    ("--gid", "--group GROUP, where root starts it"),
    ("--app", "an authorizer or a source of your own (docs/extend.md), or nginx's auth_request"),
    ("--nodaemon", "ssecast stays in the foreground unless --daemon is given"),
];

/// Adds the tip to the error of an unknown option if cyclone-sse had that option. The tip replaces clap's suggestion of a
/// similar option.
pub(super) fn add_tip(error: &mut clap::Error) {
    if error.kind() != ErrorKind::UnknownArgument {
        return;
    }
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return };
    let Some(tip) = tip(option) else { return };
    let tip = clap::builder::StyledStr::from(format!("in place of cyclone-sse's {option}: {tip}"));
    if error.remove(ContextKind::SuggestedArg).is_some() {
        error.remove(ContextKind::Usage); // The usage line has the suggested option.
    }
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
}

fn tip(option: &str) -> Option<&'static str> {
    let matches = |known: &str| match known.strip_suffix('*') {
        Some(start) => option.starts_with(start),
        None => option == known,
    };
    OPTIONS.iter().find(|(known, _)| matches(known)).map(|(_, tip)| *tip)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{super::Cli, *};

    fn error_of(arguments: &[&str]) -> String {
        let mut error = Cli::try_parse_from([&["ssecast"], arguments].concat()).unwrap_err();
        add_tip(&mut error);
        error.to_string()
    }

    #[test]
    fn an_option_of_cyclone_sse_gets_a_tip() {
        for (option, words) in [
            ("--port=8888", "--socket tcp://127.0.0.1:PORT"),
            ("--broker", "--redis-url"),
            ("--redis-host", "--redis-url redis://HOST:PORT/DB"),
            ("--export=graphite", "GET /stats"),
            ("--uid", "--user USER"),
        ] {
            let error = error_of(&["serve", option, "x"]);
            assert!(error.contains("tip: in place of cyclone-sse's --") && error.contains(words), "{error}");
        }
        let error = error_of(&["serve", "--use-ssl"]);
        assert!(error.contains("TLS is nginx's") && !error.contains("--user"), "clap's suggestion is removed: {error}");
    }

    #[test]
    fn other_unknown_options_keep_clap_s_suggestion() {
        let error = error_of(&["serve", "--sockte", "x"]);
        assert!(error.contains("--socket") && !error.contains("cyclone"), "{error}");
    }
}
