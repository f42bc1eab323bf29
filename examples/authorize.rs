//! ssecast with an authorizer of its own: a client reads the channels that its session cookie allows.
//!
//! The application gives the cookie at its login. It is signed, so ssecast asks nobody:
//!
//! ```text
//! session=user=ann&channel=news&channel=orders.7.*&until=1767225600&mac=<HMAC-SHA-256 of all before `&mac=`, in hexadecimal digits>
//! ```
//!
//! It is form-encoded (WHATWG URL, 5), so that a name may have any character. `until` is in seconds since 1970.
//!
//! ```text
//! head -c 32 /dev/urandom | base64 > session.key
//! cargo run --release --example authorize -- serve --config ssecast.toml     # with [session] and key_file in it
//! ```
//!
//! - No cookie, a wrong signature or one that has ended: 401. A channel that the cookie does not allow: 403.
//! - `*` at the end of a channel stands for any rest: `orders.7.*`.
//! - The user becomes the identity of the client, which it keeps over upgrades. What it may read is asked again at each reconnect.
//! - Everything else is ssecast: sockets, sources, upgrades.

use std::{
    fs,
    process::ExitCode,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use ssecast::{App, Authorizer, Authorizing, BoxError, Config, Denied, Grant, Identity, Key, Subscriber, Table};

/// The table of the configuration file.
static TABLE: Table = Table::new(
    "session",
    &[Key::new("key_file", "\"/etc/ssecast/session.key\"", "The secret that the application signs cookies with.")],
);

fn main() -> ExitCode {
    App::new().table(&TABLE).authorizer(configured).run()
}

/// The authorizer. Without its table nothing could be checked, so that is an error.
fn configured(config: &Config) -> Result<Arc<dyn Authorizer>, BoxError> {
    let settings = config.settings("session").ok_or("the table [session] is missing: it names the file of the key")?;
    let file = settings.text("key_file")?;
    let key = fs::read_to_string(file).map_err(|error| settings.error("key_file", format!("{file}: {error}")))?;
    let key = key.trim();
    if key.len() < 32 {
        return Err(settings.error("key_file", format!("{file}: a key has 32 characters or more")).into());
    }
    Ok(Arc::new(Sessions { mac: Hmac::new_from_slice(key.as_bytes())? }))
}

struct Sessions {
    /// The key, ready to check a signature.
    mac: Hmac<Sha256>,
}

/// What a cookie says.
#[derive(Default)]
struct Session {
    user: String,
    channels: Vec<String>,
    until: u64,
}

impl Session {
    fn allows(&self, channel: &str) -> bool {
        self.channels.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(prefix) => channel.starts_with(prefix),
            None => channel == allowed,
        })
    }
}

impl Sessions {
    /// Checks a cookie. `now`: seconds since 1970.
    fn check(&self, cookie: &str, now: u64) -> Option<Session> {
        let (signed, signature) = cookie.rsplit_once("&mac=")?;
        // Compares in constant time.
        self.mac.clone().chain_update(signed).verify_slice(&hexadecimal(signature)?).ok()?;
        let mut session = Session::default();
        for (name, value) in form_urlencoded::parse(signed.as_bytes()) {
            match &*name {
                "user" => session.user = value.into_owned(),
                "channel" => session.channels.push(value.into_owned()),
                "until" => session.until = value.parse().ok()?,
                _ => return None,
            }
        }
        (now < session.until).then_some(session)
    }
}

impl Authorizer for Sessions {
    fn authorize<'a>(&'a self, subscriber: Subscriber<'a>) -> Authorizing<'a> {
        // An authorizer that asks a database would await it here.
        Box::pin(async move {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let cookies = subscriber.headers.get_all("cookie").into_iter().filter_map(|header| header.to_str().ok());
            let cookie = cookies
                .flat_map(|header| header.split(';'))
                .find_map(|cookie| cookie.trim().strip_prefix("session="))
                .ok_or_else(|| Denied::Unidentified("the cookie `session` is missing: log in".to_owned()))?;
            let session = self
                .check(cookie, now)
                .ok_or_else(|| Denied::Unidentified("the session has ended: log in again".to_owned()))?;
            match subscriber.channels.iter().find(|name| !session.allows(name.as_str())) {
                Some(name) => Err(Denied::Forbidden(format!("{} may not read channel {name}", session.user))),
                None => Ok(Grant::new(subscriber.channels).with_identity(Identity::new(session.user))),
            }
        })
    }
}

/// The bytes of hexadecimal digits.
fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || digits.len() % 2 == 1 {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}
