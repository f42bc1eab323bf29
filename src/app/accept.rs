//! Accepting on the two sockets, in a way that can be paused and taken up again.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::{
    admin::Admin,
    process::listen::{Listener, ListenerKind},
    shard::{Op, Queue},
    stream::{Socket, Stream},
};

/// How long accepting rests when the process has no descriptors left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Accepts on both sockets until it is paused.
pub(super) struct Accepting {
    stop: watch::Sender<bool>,
    public: JoinHandle<()>,
    admin: JoinHandle<Vec<Stream>>,
}

impl Accepting {
    /// Takes connections up: new ones, and `inherited` ones of the admin socket.
    pub(super) fn start(
        public: &Listener,
        admin: &Listener,
        queues: Vec<Arc<Queue>>,
        service: Arc<Admin>,
        inherited: Vec<Stream>,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (public, admin) = (duplicate(public)?, duplicate(admin)?);
        let public = tokio::spawn(accept_public(public, queues, stopped.clone()));
        let admin = tokio::spawn(accept_admin(admin, service, inherited, stopped));
        Ok(Self { stop, public, admin })
    }

    /// Stops accepting, and resolves when no publish is under way. Gives back the connections of the admin socket on which
    /// no request is under way.
    pub(super) async fn pause(self) -> Vec<Stream> {
        let _ = self.stop.send(true); // Nobody listens who has ended already.
        let _ = self.public.await;
        self.admin.await.unwrap_or_default()
    }
}

/// A second descriptor of a listening socket, so that the first one outlives the accepting.
fn duplicate(listener: &Listener) -> io::Result<ListenerKind> {
    let fd = listener.kind.as_fd().try_clone_to_owned()?;
    Ok(match &listener.kind {
        ListenerKind::Unix(_) => ListenerKind::Unix(fd.into()),
        ListenerKind::Tcp(_) => ListenerKind::Tcp(fd.into()),
    })
}

/// Accepts on the public socket and gives the connections to the shards by turns.
async fn accept_public(listener: ListenerKind, queues: Vec<Arc<Queue>>, stopped: watch::Receiver<bool>) {
    let mut turn = 0;
    accept(listener, stopped, |stream| {
        turn = (turn + 1) % queues.len();
        queues[turn].push([Op::Accept(stream)]);
    })
    .await;
}

/// Accepts on the admin socket, and serves there until all publishes under way are answered.
async fn accept_admin(
    listener: ListenerKind,
    admin: Arc<Admin>,
    inherited: Vec<Stream>,
    stopped: watch::Receiver<bool>,
) -> Vec<Stream> {
    let mut serving: JoinSet<Option<Stream>> = JoinSet::new();
    let mut left = Vec::new();
    let serve = |serving: &mut JoinSet<Option<Stream>>, stream: Stream| {
        let mut stop = stopped.clone();
        let stopped = async move {
            // An error says that the sender is gone, and with it everything.
            let _ = stop.wait_for(|stopped| *stopped).await;
        };
        match stream.attach() {
            Ok(stream) => {
                serving.spawn(Arc::clone(&admin).serve(stream, stopped));
            }
            Err(error) => tracing::warn!(%error, "a connection on the admin socket was dropped"),
        }
    };
    inherited.into_iter().for_each(|stream| serve(&mut serving, stream));
    accept(listener, stopped.clone(), |stream| {
        while let Some(ended) = serving.try_join_next() {
            left.extend(ended.ok().flatten());
        }
        serve(&mut serving, stream);
    })
    .await;
    // A request that waits for the outcome of this very pause is answered later.
    while serving.len() > admin.waiting_for_reload() {
        match serving.join_next().await {
            Some(ended) => left.extend(ended.ok().flatten()),
            None => break,
        }
    }
    serving.detach_all();
    left
}

async fn accept(listener: ListenerKind, mut stopped: watch::Receiver<bool>, mut each: impl FnMut(Stream)) {
    let accepting = async {
        if let Err(error) = accept_from(listener, &mut each).await {
            tracing::error!(%error, "a listening socket is lost");
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

async fn accept_from(listener: ListenerKind, each: &mut impl FnMut(Stream)) -> io::Result<()> {
    match listener {
        ListenerKind::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => each(Stream::new(Socket::Unix(stream.into_std()?))),
                    Err(error) => rest(&error).await,
                }
            }
        }
        ListenerKind::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => each(Stream::new(Socket::Tcp(stream.into_std()?))),
                    Err(error) => rest(&error).await,
                }
            }
        }
    }
}

/// A failed accept is one connection's, or there are no descriptors: then some may end meanwhile.
async fn rest(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted; if files are short, raise LimitNOFILE");
    sleep(OUT_OF_DESCRIPTORS).await;
}
