//! From what is written to what is used: defaults filled in, values read, and what must hold between them checked.

use std::net::SocketAddr;

use super::{
    Account, Address, Config, Drain, History, Listen, Process, Publish, Redis, Stream,
    errors::{ConfigError, Place, Problem},
    raw::{Raw, Value},
    values,
};

/// What Redis is connected to where the table gives no URL.
const DEFAULT_REDIS_URL: &str = "redis://127.0.0.1:6379";

/// Reads every value of `raw`. Where one is wrong, the error is put into `errors` and the default takes its place, so that
/// all the others are read too.
pub(super) fn resolve(raw: &Raw, errors: &mut Vec<ConfigError>) -> Config {
    let mut resolver = Resolver { raw, errors };
    let config = Config {
        listen: resolver.listen(),
        process: resolver.process(),
        stream: resolver.stream(),
        history: resolver.history(),
        redis: resolver.redis(),
        publish: resolver.publish(),
        drain: resolver.drain(),
    };
    resolver.check_addresses(&config.listen);
    resolver.check_admin_on_tcp(&config);
    config
}

/// Reads the sockets only, for programs that connect to them: what else is wrong is no concern of theirs.
pub(super) fn resolve_listen(raw: &Raw, errors: &mut Vec<ConfigError>) -> Listen {
    Resolver { raw, errors }.listen()
}

struct Resolver<'r> {
    raw: &'r Raw,
    errors: &'r mut Vec<ConfigError>,
}

impl Resolver<'_> {
    fn listen(&mut self) -> Listen {
        let defaults = Listen::default();
        Listen {
            public: self.get("listen.public", values::address).unwrap_or(defaults.public),
            admin: self.get("listen.admin", values::address).unwrap_or(defaults.admin),
            public_mode: self.get("listen.public_mode", values::mode).unwrap_or(defaults.public_mode),
            public_group: self.get("listen.public_group", values::group_name).unwrap_or(defaults.public_group),
            admin_mode: self.get("listen.admin_mode", values::mode).unwrap_or(defaults.admin_mode),
            admin_group: self.get("listen.admin_group", values::group_name).unwrap_or(defaults.admin_group),
        }
    }

    fn process(&mut self) -> Process {
        let defaults = Process::default();
        Process {
            user: self.account(),
            pidfile: self.get("process.pidfile", values::optional_path).flatten(),
            log_file: self.get("process.log_file", values::optional_path).flatten(),
            log_format: self.get("process.log_format", values::log_format).unwrap_or(defaults.log_format),
            core_limit: self.get("process.core_limit", values::limit).flatten(),
            workers: self.get("process.workers", values::threads).unwrap_or(defaults.workers),
            drain: self.get("process.drain", values::duration).unwrap_or(defaults.drain),
        }
    }

    /// `process.user`, with `process.group` for its group.
    fn account(&mut self) -> Option<Account> {
        let user = self.get("process.user", values::account);
        let group = self.get("process.group", values::optional_group_id).flatten();
        match (user, group) {
            (Some(Some(user)), Some(gid)) => Some(Account { gid, ..user }),
            (None, Some(_)) if self.raw.get("process.user").is_some() => None, // What is wrong with it was told.
            (None | Some(None), Some(_)) => {
                let mend = "set process.user too, or leave process.group out";
                let problem = Problem::new("is changed only together with the user", mend);
                self.refuse_latest(&["process.group"], problem);
                None
            }
            (user, None) => user.flatten(),
        }
    }

    fn stream(&mut self) -> Stream {
        let defaults = Stream::default();
        Stream {
            ping_interval: self
                .get("stream.ping_interval", values::positive_duration)
                .unwrap_or(defaults.ping_interval),
            retry: self.get("stream.retry", values::duration_range).unwrap_or(defaults.retry),
            max_lifetime: self.get("stream.max_lifetime", values::optional_duration).unwrap_or(defaults.max_lifetime),
            max_clients: self.get("stream.max_clients", values::positive_count).unwrap_or(defaults.max_clients),
            max_channels_per_client: self
                .get("stream.max_channels_per_client", values::positive_count)
                .unwrap_or(defaults.max_channels_per_client),
            coalesce: self.get("stream.coalesce", values::window).unwrap_or(defaults.coalesce),
            gzip: self.get("stream.gzip", values::flag).unwrap_or(defaults.gzip),
            allow_origins: self.list("stream.allow_origins", values::origin),
        }
    }

    fn history(&mut self) -> History {
        let defaults = History::default();
        History {
            messages: self.get("history.messages", values::count).unwrap_or(defaults.messages),
            age: self.get("history.age", values::duration).unwrap_or(defaults.age),
            bytes: self.get("history.bytes", values::size).unwrap_or(defaults.bytes),
            linger: self.get("history.linger", values::duration).unwrap_or(defaults.linger),
            skew: self.get("history.skew", values::duration).unwrap_or(defaults.skew),
            stretch: self.get("history.stretch", values::duration).unwrap_or(defaults.stretch),
        }
    }

    fn redis(&mut self) -> Option<Redis> {
        self.raw.has_table("redis").then(|| Redis {
            url: self.get("redis.url", values::redis_url).unwrap_or_else(|| DEFAULT_REDIS_URL.to_owned()),
            prefix: self.get("redis.prefix", values::plain_text).unwrap_or_default(),
        })
    }

    fn publish(&mut self) -> Publish {
        let max_message = Publish::default().max_message;
        Publish {
            keys: self.list("publish.key_files", values::keys_of_file).concat(),
            users: self.list("publish.users", values::user_id),
            groups: self.list("publish.groups", values::group_id),
            max_message: self.get("publish.max_message", values::positive_size).unwrap_or(max_message),
        }
    }

    fn drain(&mut self) -> Drain {
        Drain { spread: self.get("drain.spread", values::duration).unwrap_or(Drain::default().spread) }
    }

    fn get<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Result<T, Problem>) -> Option<T> {
        let located = self.raw.get(key)?;
        read(&located.value).map_err(|problem| self.refuse(key, located.place, problem)).ok()
    }

    fn list<T>(&mut self, key: &str, read: impl Fn(&Value) -> Result<T, Problem>) -> Vec<T> {
        let Some(located) = self.raw.get(key) else { return Vec::new() };
        let Value::List(items) = &located.value else {
            let what = format!("can't be {}", located.value.describe());
            self.refuse(
                key,
                located.place,
                Problem::new(what, "write a list in square brackets, such as [\"…\"] or []"),
            );
            return Vec::new();
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match read(&item.value) {
                Ok(value) => list.push(value),
                Err(problem) => self.refuse(key, item.place, problem),
            }
        }
        list
    }

    fn check_addresses(&mut self, listen: &Listen) {
        let clash = match (&listen.public, &listen.admin) {
            (Address::Unix(public), Address::Unix(admin)) => public == admin,
            (Address::Tcp(public), Address::Tcp(admin)) => clash(public, admin),
            _ => false,
        };
        if clash {
            let problem = Problem::new(
                format!("both sockets would be {}", listen.admin),
                "give listen.public and listen.admin an address each: who can reach the admin socket can publish",
            );
            self.refuse_latest(&["listen.public", "listen.admin"], problem);
        }
    }

    fn check_admin_on_tcp(&mut self, config: &Config) {
        let Address::Tcp(address) = config.listen.admin else { return };
        let Publish { keys, users, groups, .. } = &config.publish;
        // Key files that can't be read have been told already.
        if !keys.is_empty() || self.errors.iter().any(|error| error.key == "publish.key_files") {
            return;
        }
        if !address.ip().is_loopback() {
            let problem = Problem::new(
                format!("anyone who reaches {address} could publish"),
                "set publish.key_files, or use a path or tcp://127.0.0.1",
            );
            self.refuse_latest(&["listen.admin"], problem);
        } else if !users.is_empty() || !groups.is_empty() {
            let problem = Problem::new(
                "publish.users and publish.groups can't be checked on TCP, which doesn't say who connects",
                "use a path, or set publish.key_files",
            );
            self.refuse_latest(&["listen.admin"], problem);
        }
    }

    /// Puts a problem between values at the one that was given last; defaults alone have no problems.
    fn refuse_latest(&mut self, keys: &[&str], problem: Problem) {
        let given = keys.iter().filter_map(|key| self.raw.get(key).map(|located| (located.place, *key)));
        let (place, key) = given.max().unwrap_or((Place::File, ""));
        self.refuse(key, place, problem);
    }

    fn refuse(&mut self, key: &str, place: Place, problem: Problem) {
        self.errors.push(ConfigError { place, key: key.to_owned(), problem });
    }
}

/// Whether two TCP addresses can't be listened on both. Port 0 is a free port each time.
fn clash(one: &SocketAddr, other: &SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (any || one.ip() == other.ip())
}
