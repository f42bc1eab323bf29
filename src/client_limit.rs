//! The limits on connections of the public socket (open files) and on clients (`stream.max_clients`), over all shards. It
//! counts; it closes nothing.
//!
//! Invariant: a client is one of the connections, and a connection counts from when it is accepted until it is closed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Numbers of connections and of clients, and the limits on both. Like a semaphore, except that connections inherited from a
/// predecessor are counted even over the limit.
#[derive(Debug)]
pub struct ClientLimit {
    connections: AtomicUsize,
    clients: AtomicUsize,
    max_connections: usize,
    max_clients: usize,
}

/// The right to be one of the connections. Dropping it releases it.
#[derive(Debug)]
pub struct ConnectionPermit(Option<Arc<ClientLimit>>);

/// The right to be one of the clients, and so one of the connections. Dropping it releases it.
#[derive(Debug)]
pub struct ClientPermit(Option<Arc<ClientLimit>>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(limit) = &self.0 {
            limit.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        if let Some(limit) = &self.0 {
            limit.clients.fetch_sub(1, Ordering::Relaxed);
            limit.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl ConnectionPermit {
    /// Makes the connection a client.
    ///
    /// # Errors
    /// The permit itself if the limit on clients is reached.
    pub fn into_client(mut self) -> Result<ClientPermit, Self> {
        match self.0.take() {
            Some(limit) if add_below(&limit.clients, limit.max_clients) => Ok(ClientPermit(Some(limit))),
            limit => Err(Self(limit)),
        }
    }
}

impl ClientPermit {
    /// Makes the client a plain connection again, which may become a client later.
    #[must_use]
    pub fn into_connection(mut self) -> ConnectionPermit {
        let limit = self.0.take();
        if let Some(limit) = &limit {
            limit.clients.fetch_sub(1, Ordering::Relaxed);
        }
        ConnectionPermit(limit)
    }
}

/// Adds one to `number` if it is less than `max`.
fn add_below(number: &AtomicUsize, max: usize) -> bool {
    number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| (number < max).then_some(number + 1)).is_ok()
}

impl ClientLimit {
    /// A limit of `max_clients` clients and `max_connections` connections.
    #[must_use]
    pub fn new(max_clients: usize, max_connections: usize) -> Arc<Self> {
        let (connections, clients) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { connections, clients, max_connections, max_clients: max_clients.min(max_connections) })
    }

    /// A permit for a connection, or `None` if the limit is reached.
    #[must_use]
    pub fn acquire_connection(self: &Arc<Self>) -> Option<ConnectionPermit> {
        add_below(&self.connections, self.max_connections).then(|| ConnectionPermit(Some(Arc::clone(self))))
    }

    /// A permit for a connection that is open already, even over the limit.
    #[must_use]
    pub fn acquire_connection_over_limit(self: &Arc<Self>) -> ConnectionPermit {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionPermit(Some(Arc::clone(self)))
    }

    /// A permit for a client that is connected already, even over the limit.
    #[must_use]
    pub fn acquire_over_limit(self: &Arc<Self>) -> ClientPermit {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.clients.fetch_add(1, Ordering::Relaxed);
        ClientPermit(Some(Arc::clone(self)))
    }

    /// Number of clients.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Number of connections, clients included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The limit on clients.
    #[must_use]
    pub fn max_clients(&self) -> usize {
        self.max_clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_refused_at_the_limit_and_released_when_dropped() {
        let limit = ClientLimit::new(1, 2);
        let (first, second) = (limit.acquire_connection().unwrap(), limit.acquire_connection().unwrap());
        assert!(limit.acquire_connection().is_none());
        let client = first.into_client().unwrap();
        let second = second.into_client().unwrap_err();
        assert_eq!((limit.clients(), limit.connections()), (1, 2));
        drop(client);
        assert_eq!((limit.clients(), limit.connections()), (0, 1));
        let client = second.into_client().unwrap();
        drop(client.into_connection());
        assert_eq!((limit.clients(), limit.connections()), (0, 0));
    }

    #[test]
    fn inherited_connections_are_counted_over_the_limit() {
        let limit = ClientLimit::new(9, 1);
        assert_eq!(limit.max_clients(), 1);
        let (client, connection) = (limit.acquire_over_limit(), limit.acquire_connection_over_limit());
        assert_eq!((limit.clients(), limit.connections()), (1, 2));
        drop(client);
        assert!(limit.acquire_connection().is_none());
        drop(connection);
        assert!(limit.acquire_connection().is_some());
    }
}
