//! The addresses of a demo, and the commands for users to paste. Runs none of them.

use std::path::PathBuf;

use super::{
    folder::Folder,
    redis::{self, Redis},
};

/// The addresses of one demo.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The page's port on 127.0.0.1.
    pub(super) port: u16,
    admin: PathBuf,
    redis: Option<redis::Command>,
    /// The URL that `redis` connects to.
    redis_url: Option<String>,
}

/// A command to paste.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// What it does, in a few words.
    pub(super) what: &'static str,
    /// The command.
    pub(super) text: String,
}

impl Places {
    /// The addresses of the demo in `folder` whose page is on `port`.
    pub(super) fn new(folder: &Folder, redis: &Redis, port: u16) -> Self {
        Self {
            port,
            admin: folder.admin(),
            redis: redis.url.as_deref().map(redis::command),
            redis_url: redis.url.clone(),
        }
    }

    /// The page's address.
    pub(super) fn page(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// The commands that publish on the channel `demo`, and one that reads it.
    pub(super) fn commands(&self) -> Vec<Command> {
        let publish = format!(
            "curl --unix-socket {} -d channel=demo -d message=hello http://ssecast/publish",
            self.admin.display()
        );
        let read = format!("curl -N '{}sse/?channels=demo'", self.page());
        let redis = self.redis.as_ref().map(|redis| Command {
            what: "Publish with redis-cli",
            text: format!("{} publish demo 'hello from Redis'", redis.text),
        });
        [Command { what: "Publish with curl", text: publish }]
            .into_iter()
            .chain(redis)
            .chain([Command { what: "Read the stream", text: read }])
            .collect()
    }

    /// The addresses as JSON. The page makes commands of them, for the channel in its form. Any user of this machine can read the
    /// page, so a Redis with a password is left out.
    pub(super) fn json(&self) -> String {
        let redis = self.redis.as_ref().filter(|redis| !redis.secret);
        let url = redis.and(self.redis_url.as_ref());
        let cli = redis.map(|redis| &redis.text);
        serde_json::json!({ "admin": self.admin, "redisCli": cli, "redisUrl": url }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_sent_to_the_page() {
        let places = |url: Option<&str>| Places {
            port: 80,
            admin: "/tmp/d/admin.sock".into(),
            redis: url.map(redis::command),
            redis_url: url.map(str::to_owned),
        };
        assert_eq!(places(None).json(), r#"{"admin":"/tmp/d/admin.sock","redisCli":null,"redisUrl":null}"#);
        let plain = places(Some("redis://h:1")).json();
        assert!(plain.contains(r#""redisCli":"redis-cli -u redis://h:1","redisUrl":"redis://h:1""#), "{plain}");
        let secret = places(Some("redis://:secret@h"));
        assert!(!secret.json().contains("secret") && secret.commands()[1].text.contains("secret"));
    }
}
