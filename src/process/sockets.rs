//! The two sockets of the daemon: handed over by the service manager under their names, or bound. Accepts nothing.

use std::{os::fd::OwnedFd, path::Path};

use super::{
    control_channel::InheritedFd,
    inherit::Inherited,
    listen::{self, ListenError, Listener},
};
use crate::config::{self, Account, Address, Config};

/// Both sockets, listening.
#[derive(Debug)]
pub struct Sockets {
    /// Where nginx connects.
    pub public: Listener,
    /// Where publishers connect.
    pub admin: Listener,
}

/// What another process has handed on, sorted.
#[derive(Debug)]
pub struct HandedOn {
    /// Both sockets: handed on, or bound where the configuration names another place.
    pub sockets: Sockets,
    /// The pidfile, if it is still the one that is configured.
    pub pidfile: Option<OwnedFd>,
    /// The channel to the supervising process, where there is one.
    pub supervisor: Option<OwnedFd>,
    /// Sockets at places that are configured no longer. Their files go with them once they are owned: [`Listener::own_file`].
    pub former: Vec<Listener>,
}

impl HandedOn {
    /// Sorts `parts` by what `config` says.
    ///
    /// # Errors
    /// What is in the way of binding at a new place.
    pub fn sort(parts: Vec<(InheritedFd, OwnedFd)>, config: &Config) -> Result<Self, ListenError> {
        let (listen, owner) = (&config.listen, config.process.user.as_ref());
        let (mut public, mut admin, mut pidfile, mut supervisor, mut former) = (None, None, None, None, Vec::new());
        for (part, fd) in parts {
            match part {
                InheritedFd::Public { address, made } => {
                    keep("public", (address, made, fd), &listen.public, &mut public, &mut former)?;
                }
                InheritedFd::Admin { address, made } => {
                    keep("admin", (address, made, fd), &listen.admin, &mut admin, &mut former)?;
                }
                InheritedFd::Pidfile(path) => {
                    let same =
                        config.process.pidfile.as_ref().is_some_and(|pidfile| pidfile.display().to_string() == path);
                    pidfile = same.then_some(fd);
                }
                InheritedFd::Supervisor => supervisor = Some(fd),
            }
        }
        Ok(Self { sockets: Sockets::complete(public, admin, listen, owner)?, pidfile, supervisor, former })
    }
}

/// Keeps a socket that was handed on, if it is at the place that is configured or somebody else has made it.
fn keep(
    name: &str,
    (address, made, fd): (String, bool, OwnedFd),
    configured: &Address,
    place: &mut Option<Listener>,
    former: &mut Vec<Listener>,
) -> Result<(), ListenError> {
    let mut listener = Listener::from_fd(name, fd)?;
    let by_manager = !made && matches!(listener, Listener::Unix(..));
    if made {
        listener = listener.with_file(Path::new(&address));
    }
    if by_manager || address == configured.to_string() {
        *place = Some(listener);
    } else {
        former.push(listener);
    }
    Ok(())
}

impl Sockets {
    /// Binds both as configured; see [`listen::bind`].
    ///
    /// # Errors
    /// What is in the way of one of them.
    pub fn bind(listen: &config::Listen, owner: Option<&Account>) -> Result<Self, ListenError> {
        Self::open(Inherited::default(), listen, owner)
    }

    /// Takes each socket that was handed over as `public` or `admin` (`ssecast-public` and `ssecast-admin` will do), and binds the
    /// others as configured.
    ///
    /// # Errors
    /// A socket that was handed over under another name, or twice, or isn't one; or what is in the way of binding.
    pub fn open(inherited: Inherited, listen: &config::Listen, owner: Option<&Account>) -> Result<Self, ListenError> {
        let (mut public, mut admin) = (None, None);
        for (name, fd) in inherited.0 {
            let place = match name.strip_prefix("ssecast-").unwrap_or(&name) {
                "public" => &mut public,
                "admin" => &mut admin,
                _ => return Err(ListenError::UnknownName(name)),
            };
            if place.replace(Listener::from_fd(&name, fd)?).is_some() {
                return Err(ListenError::UnknownName(name));
            }
        }
        Self::complete(public, admin, listen, owner)
    }

    /// Binds those that are not there.
    fn complete(
        public: Option<Listener>,
        admin: Option<Listener>,
        listen: &config::Listen,
        owner: Option<&Account>,
    ) -> Result<Self, ListenError> {
        let public = match public {
            Some(listener) => listener,
            None => listen::bind(&listen.public, listen.public_mode, listen.public_group.as_deref(), owner)?,
        };
        let admin = match admin {
            Some(listener) => listener,
            None => listen::bind(&listen.admin, listen.admin_mode, listen.admin_group.as_deref(), owner)?,
        };
        Ok(Self { public, admin })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listen(folder: &tempfile::TempDir) -> config::Listen {
        let path = |name| Address::Unix(folder.path().join(name));
        config::Listen { public: path("public"), admin: path("admin"), ..config::Listen::default() }
    }

    fn handed_over(folder: &tempfile::TempDir, names: &[&str]) -> Inherited {
        let socket = |name: &&str| ((*name).to_owned(), UnixListener::bind(folder.path().join(name)).unwrap().into());
        Inherited(names.iter().map(socket).collect())
    }

    #[test]
    fn what_is_handed_over_is_not_bound() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = Sockets::open(handed_over(&folder, &["ssecast-admin"]), &listen(&folder), None).unwrap();
        assert!(folder.path().join("public").exists() && !folder.path().join("admin").exists());
        drop(sockets);
        assert!(!folder.path().join("public").exists() && folder.path().join("ssecast-admin").exists());
    }

    #[test]
    fn a_socket_without_a_use_is_refused() {
        for names in [&["public", "ssecast.socket"][..], &["public", "ssecast-public"]] {
            let folder = tempfile::tempdir().unwrap();
            let error = Sockets::open(handed_over(&folder, names), &listen(&folder), None).unwrap_err();
            assert!(matches!(error, ListenError::UnknownName(_)), "{error}");
        }
    }
}
