//! The two sockets of the daemon: handed over by the service manager under their names, or bound. Accepts nothing.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use super::{
    control_channel::InheritedFd,
    inherit::Inherited,
    listen::{self, ListenError, Listener},
};
use crate::config::{self, Address, Config};

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
    /// The pidfile and its path, which may no longer be the one that is configured.
    pub pidfile: Option<(PathBuf, OwnedFd)>,
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
        let listen = &config.listen;
        let (mut public, mut admin, mut pidfile, mut supervisor, mut former) = (None, None, None, None, Vec::new());
        for (part, fd) in parts {
            match part {
                InheritedFd::Public { address, made } => {
                    keep("public", (address, made, fd), &listen.public, &mut public, &mut former)?;
                }
                InheritedFd::Admin { address, made } => {
                    keep("admin", (address, made, fd), &listen.admin, &mut admin, &mut former)?;
                }
                InheritedFd::Pidfile(path) => pidfile = Some((PathBuf::from(path), fd)),
                InheritedFd::Supervisor => supervisor = Some(fd),
            }
        }
        Ok(Self { sockets: Sockets::complete(public, admin, config)?, pidfile, supervisor, former })
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
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        Self::open(Inherited::default(), config)
    }

    /// Takes each socket that was handed over as `public` or `admin` (`ssecast-public` and `ssecast-admin` will do), and binds the
    /// others as configured.
    ///
    /// # Errors
    /// A socket that was handed over under another name, or twice, or isn't one; or what is in the way of binding.
    pub fn open(inherited: Inherited, config: &Config) -> Result<Self, ListenError> {
        let (mut public, mut admin) = (None, None);
        for (name, fd) in inherited.0 {
            let place = match name.strip_prefix("ssecast-").unwrap_or(&name) {
                "public" => &mut public,
                "admin" => &mut admin,
                _ => return Err(ListenError::UnknownName(name)),
            };
            if place.replace(Listener::from_fd(&name, fd)?).is_some() {
                return Err(ListenError::Twice(name));
            }
        }
        Self::complete(public, admin, config)
    }

    /// Binds those that are not there, and checks those that are against the configuration.
    fn complete(public: Option<Listener>, admin: Option<Listener>, config: &Config) -> Result<Self, ListenError> {
        let (listen, owner) = (&config.listen, config.process.user.as_ref());
        let public = match public {
            Some(listener) => {
                listener.with_settings("public", &listen.public, listen.public_mode, &listen.public_group)
            }
            None => listen::bind(&listen.public, listen.public_mode, listen.public_group.as_deref(), owner)?,
        };
        let admin = match admin {
            Some(listener) => listener.with_settings("admin", &listen.admin, listen.admin_mode, &listen.admin_group),
            None => listen::bind(&listen.admin, listen.admin_mode, listen.admin_group.as_deref(), owner)?,
        };
        check_publishers(&admin, &config.publish)?;
        Ok(Self { public, admin })
    }
}

/// Checks that not anyone who reaches the admin socket may publish, wherever the socket comes from. The configuration's own check
/// sees `listen.admin` only.
fn check_publishers(admin: &Listener, publish: &config::Publish) -> Result<(), ListenError> {
    let Listener::Tcp(listener) = admin else { return Ok(()) };
    if !publish.key_files.keys.is_empty() {
        return Ok(());
    }
    let address = listener.local_addr().map_err(|source| ListenError::Io {
        doing: "find the address of",
        place: "the admin socket".to_owned(),
        source,
    })?;
    if !address.ip().is_loopback() {
        return Err(ListenError::AnyoneMayPublish(address));
    }
    if !publish.users.is_empty() || !publish.groups.is_empty() {
        return Err(ListenError::NoUsersOnTcp(address));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener};

    use super::*;

    fn config(folder: &tempfile::TempDir) -> Config {
        let path = |name| Address::Unix(folder.path().join(name));
        let listen = config::Listen { public: path("public"), admin: path("admin"), ..config::Listen::default() };
        Config { listen, ..Config::default() }
    }

    fn handed_over(folder: &tempfile::TempDir, names: &[&str]) -> Inherited {
        let socket = |name: &&str| ((*name).to_owned(), UnixListener::bind(folder.path().join(name)).unwrap().into());
        Inherited(names.iter().map(socket).collect())
    }

    #[test]
    fn what_is_handed_over_is_not_bound() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = Sockets::open(handed_over(&folder, &["ssecast-admin"]), &config(&folder)).unwrap();
        assert!(folder.path().join("public").exists() && !folder.path().join("admin").exists());
        drop(sockets);
        assert!(!folder.path().join("public").exists() && folder.path().join("ssecast-admin").exists());
    }

    #[test]
    fn a_socket_without_a_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Sockets::open(handed_over(&folder, &["public", "ssecast.socket"]), &config(&folder)).unwrap_err();
        assert!(matches!(error, ListenError::UnknownName(_)), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = Sockets::open(handed_over(&folder, &["public", "ssecast-public"]), &config(&folder)).unwrap_err();
        assert!(matches!(error, ListenError::Twice(_)), "{error}");
    }

    /// 0.0.0.0 from the service manager, and no keys: anybody could publish.
    #[test]
    fn an_admin_socket_on_tcp_that_is_handed_over_needs_a_key_unless_it_is_loopback() {
        let folder = tempfile::tempdir().unwrap();
        let open = |address: &str, change: fn(&mut config::Publish)| {
            let socket = TcpListener::bind(address).unwrap();
            let mut config = config(&folder);
            change(&mut config.publish);
            Sockets::open(Inherited(vec![("admin".into(), socket.into())]), &config)
        };
        assert!(matches!(open("0.0.0.0:0", |_| {}), Err(ListenError::AnyoneMayPublish(_))));
        open("0.0.0.0:0", |publish| publish.key_files.keys.push("key".into())).unwrap();
        open("127.0.0.1:0", |_| {}).unwrap();
        assert!(matches!(open("127.0.0.1:0", |publish| publish.users.push(0)), Err(ListenError::NoUsersOnTcp(_))));
    }

    /// A reload with another `listen.public_mode` said ok, and changed nothing.
    #[test]
    fn a_socket_of_ones_own_that_is_handed_on_gets_the_mode_that_is_configured_now() {
        use std::os::{fd::AsFd as _, unix::fs::MetadataExt as _};
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder);
        let sockets = Sockets::bind(&config).unwrap();
        let mode = || folder.path().join("public").metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o660);
        config.listen.public_mode = 0o600;
        let fd = sockets.public.as_fd().try_clone_to_owned().unwrap();
        let part = InheritedFd::Public { address: config.listen.public.to_string(), made: true };
        let admin = sockets.admin.as_fd().try_clone_to_owned().unwrap();
        let admin = (InheritedFd::Admin { address: config.listen.admin.to_string(), made: true }, admin);
        HandedOn::sort(vec![(part, fd), admin], &config).unwrap();
        assert_eq!(mode(), 0o600);
    }
}
