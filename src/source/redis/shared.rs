//! One connection that many tasks share. It is made when it is first needed, and again by the first one who needs it after it was
//! lost. It never repeats a command.

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisResult};
use tokio::sync::watch;

use super::{
    error::{broken, explain},
    server::{Connection, Server},
    slots::slot,
    url::{Address, Topology},
};

/// The result of an attempt to connect.
type Attempt = Result<Live, Arc<str>>;

/// A connection that has been made.
#[derive(Clone)]
struct Live {
    connection: Arc<Connection>,
    /// Set when it is closed.
    gone: Arc<AtomicBool>,
}

#[derive(Default)]
enum State {
    #[default]
    None,
    /// One attempt is under way, and all wait for it.
    Connecting(watch::Receiver<Option<Attempt>>),
    Live(Live),
}

/// See the module.
pub(in crate::source) struct SharedConnection {
    server: Server,
    /// In a cluster, it is made to the node of these keys.
    keys: Arc<[String]>,
    /// Locked for moments only.
    state: Arc<Mutex<State>>,
}

impl SharedConnection {
    /// No connection yet. In a cluster, it will be one to the node of `keys`.
    pub(in crate::source) fn new(server: Server, keys: &[String]) -> Self {
        Self { server, keys: keys.into(), state: Arc::default() }
    }

    /// Returns the connection, which it makes first if there is none.
    ///
    /// # Errors
    /// The reason why there is none, for people.
    pub(in crate::source) async fn get(&self) -> Result<Arc<Connection>, Arc<str>> {
        let mut attempt = match &mut *crate::lock::lock(&self.state) {
            State::Live(live) if !live.gone.load(Ordering::Acquire) => return Ok(Arc::clone(&live.connection)),
            State::Connecting(attempt) => attempt.clone(),
            state => {
                let (result, attempt) = watch::channel(None);
                *state = State::Connecting(attempt.clone());
                let (server, keys, state) = (self.server.clone(), Arc::clone(&self.keys), Arc::clone(&self.state));
                // A task of its own: it continues if the one who began it is given up.
                tokio::spawn(async move {
                    let made = connect(&server, &keys).await.map_err(|error| Arc::from(explain(&error)));
                    *crate::lock::lock(&state) = made.clone().map_or(State::None, State::Live);
                    let _ = result.send(Some(made)); // Nobody may be waiting any more.
                });
                attempt
            }
        };
        match attempt.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(made)) => made.clone().map(|live| live.connection),
            _ => Err("the attempt to connect was given up".into()),
        }
    }

    /// Closes the connection, since it can't be relied on: the next one who needs it makes another.
    pub(in crate::source) fn discard(&self) {
        let mut state = crate::lock::lock(&self.state);
        if let State::Live(_) = *state {
            drop(mem::take(&mut *state));
        }
    }
}

/// The address of the server that has all these keys.
///
/// # Errors
/// As [`Server::find`]; or the keys are on several nodes of a cluster.
pub(in crate::source) async fn owner(server: &Server, keys: &[String]) -> RedisResult<Address> {
    if !matches!(server.topology(), Topology::Cluster(_)) {
        return server.find().await;
    }
    let (slots, _) = server.slots().await?;
    let mut owner = None;
    for key in keys {
        let node = slots.owner(slot(key.as_bytes()));
        let node = node.ok_or_else(|| broken(format!("no node of the cluster has the slot of the key {key}")))?;
        if owner.is_some_and(|owner| owner != node) {
            let keys = keys.join(", ");
            return Err(broken(format!(
                "the keys {keys} are on several nodes of the cluster: give them the same part in braces"
            )));
        }
        owner = Some(node);
    }
    owner.cloned().ok_or_else(|| broken("no key is given"))
}

async fn connect(server: &Server, keys: &[String]) -> RedisResult<Live> {
    let gone = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&gone);
    let options = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            watched.store(true, Ordering::Release);
        }
        Ok::<(), ()>(())
    });
    let connection = server.open(&owner(server, keys).await?, &options, |stream| stream).await?;
    Ok(Live { connection: Arc::new(connection), gone })
}
