//! What browsers reach on loopback: nginx, or this process where there is none.

use super::{
    folder::Folder,
    front::Front,
    nginx::{Nginx, Program},
    source::Source,
};

/// The one that is open.
pub(super) enum Door {
    Nginx(Box<Nginx>),
    Own(Front),
}

impl Door {
    /// Opens it on `port` of 127.0.0.1, or on any that is free. The sockets in `folder` are served already.
    ///
    /// # Errors
    /// The port is taken, or what nginx says.
    pub(super) async fn open(
        nginx: Option<&Program>,
        folder: &Folder,
        source: &Source,
        port: Option<u16>,
    ) -> anyhow::Result<Self> {
        Ok(match nginx {
            Some(program) => Self::Nginx(Box::new(Nginx::start(program, folder, source, port).await?)),
            None => Self::Own(Front::open(folder, source, port).await?),
        })
    }

    /// The page's address.
    pub(super) fn page(&self) -> String {
        match self {
            Self::Nginx(nginx) => page_at(nginx.port()),
            Self::Own(front) => page_at(front.port()),
        }
    }

    /// The nginx, by version and path.
    pub(super) fn nginx(&self) -> Option<&str> {
        match self {
            Self::Nginx(nginx) => Some(nginx.name()),
            Self::Own(_) => None,
        }
    }

    /// Resolves when it has ended by itself, with the reason.
    pub(super) async fn broken(&mut self) -> anyhow::Error {
        match self {
            Self::Nginx(nginx) => nginx.ended().await,
            Self::Own(front) => front.ended().await,
        }
    }

    /// Closes it, and waits until it is closed.
    pub(super) async fn close(self) {
        match self {
            Self::Nginx(nginx) => nginx.stop().await,
            Self::Own(front) => front.stop().await,
        }
    }
}

/// The page's address on a port.
pub(super) fn page_at(port: u16) -> String {
    format!("http://127.0.0.1:{port}/")
}
