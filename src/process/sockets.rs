//! The public and the admin sockets of the daemon: passed by the service manager under their names, or bound. Accepts nothing.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    path::PathBuf,
};

use super::{
    control_channel::InheritedFd,
    inherit::Inherited,
    listen::{self, ListenError, Listener, ListeningSocket},
};
use crate::config::{self, Address, Config};

/// All sockets, listening.
#[derive(Debug)]
pub struct Sockets {
    /// Where nginx connects.
    pub public: Listener,
    /// Where publishers connect: one at least.
    pub admin: Vec<Listener>,
}

/// The descriptors that the predecessor has passed on, sorted.
#[derive(Debug)]
pub struct HandedOver {
    /// All sockets: passed by the service manager, or bound where the configuration names another address.
    pub sockets: Sockets,
    /// The pidfile and its path, which may no longer be the one that is configured.
    pub pidfile: Option<(PathBuf, OwnedFd)>,
    /// The channel to the supervising process, where there is one.
    pub supervisor: Option<OwnedFd>,
    /// Sockets at addresses that are no longer configured. Their files go with them once they are owned: [`Listener::own_file`].
    pub former: Vec<Listener>,
}

impl HandedOver {
    /// Sorts `fds` by what `config` says.
    ///
    /// # Errors
    /// A new address can't be bound.
    pub fn sort(fds: Vec<(InheritedFd, OwnedFd)>, config: &Config) -> Result<Self, ListenError> {
        let (mut public, mut admin, mut pidfile, mut supervisor) = (Vec::new(), Vec::new(), None, None);
        for (what, fd) in fds {
            match what {
                InheritedFd::Public { address, made, by_manager } => {
                    public.push(inherited("public", fd, address, made, by_manager)?);
                }
                InheritedFd::Admin { address, made, by_manager } => {
                    admin.push(inherited("admin", fd, address, made, by_manager)?);
                }
                InheritedFd::Pidfile(path) => pidfile = Some((PathBuf::from(path), fd)),
                InheritedFd::Supervisor => supervisor = Some(fd),
            }
        }
        // A socket of the service manager stays, whatever the configuration says.
        let stays = |listener: &Listener, configured: &[String]| {
            listener.configured_address().is_none_or(|address| configured.iter().any(|other| other == address))
        };
        let addresses = [config.listen.public.to_string()];
        let (public, mut former): (Vec<_>, Vec<_>) = public.into_iter().partition(|socket| stays(socket, &addresses));
        let addresses: Vec<_> = config.listen.admin.iter().map(ToString::to_string).collect();
        let (admin, others): (Vec<_>, Vec<_>) = admin.into_iter().partition(|socket| stays(socket, &addresses));
        former.extend(others);
        Ok(Self { sockets: Sockets::complete(public.into_iter().next(), admin, config)?, pidfile, supervisor, former })
    }
}

/// A socket that the predecessor has passed on.
fn inherited(
    name: &str,
    fd: OwnedFd,
    address: String,
    made: bool,
    by_manager: Option<bool>,
) -> Result<Listener, ListenError> {
    let listener = Listener::from_fd(name, fd)?;
    let is_unix = matches!(listener.socket(), ListeningSocket::Unix(_));
    let by_manager = by_manager.unwrap_or(is_unix && !made);
    Ok(if by_manager { listener } else { listener.bound_by_ssecast(address, made) })
}

impl Sockets {
    /// Binds all as configured; see [`listen::bind`].
    ///
    /// # Errors
    /// One of the sockets can't be bound.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        Self::open(Inherited::default(), config)
    }

    /// Takes each socket that was passed as `public` or `admin` (or `ssecast-public` and `ssecast-admin`). Binds the public
    /// socket as configured if it was not passed, and the admin sockets if none was.
    ///
    /// # Errors
    /// A socket that was passed under another name, or is not a listening one; two public ones; or a socket that can't be
    /// bound.
    pub fn open(inherited: Inherited, config: &Config) -> Result<Self, ListenError> {
        let (mut public, mut admin) = (None, Vec::new());
        for (name, fd) in inherited.0 {
            match name.strip_prefix("ssecast-").unwrap_or(&name) {
                "public" if public.is_some() => return Err(ListenError::Twice(name)),
                "public" => public = Some(Listener::from_fd(&name, fd)?),
                "admin" => admin.push(Listener::from_fd(&name, fd)?),
                _ => return Err(ListenError::UnknownName(name)),
            }
        }
        Self::complete(public, admin, config)
    }

    /// Binds those that do not exist yet, and checks the others against the configuration. Sockets of the service manager take
    /// the place of all that are configured.
    fn complete(public: Option<Listener>, mut admin: Vec<Listener>, config: &Config) -> Result<Self, ListenError> {
        let (listen, owner) = (&config.listen, config.process.user.as_ref());
        let public = match public {
            Some(listener) => {
                warn_of_unused("public", &[&listen.public], std::slice::from_ref(&listener));
                listener.apply_mode("public", listen.public_mode, listen.public_group.as_deref());
                listener
            }
            None => listen::bind(&listen.public, listen.public_mode, listen.public_group.as_deref(), owner)?,
        };
        warn_of_unused("admin", &listen.admin.iter().collect::<Vec<_>>(), &admin);
        for listener in &admin {
            listener.apply_mode("admin", listen.admin_mode, listen.admin_group.as_deref());
        }
        if !admin.iter().any(Listener::is_service_managers) {
            for address in listen.admin.iter() {
                let configured = address.to_string();
                if admin.iter().all(|listener| listener.configured_address() != Some(&configured)) {
                    admin.push(listen::bind(address, listen.admin_mode, listen.admin_group.as_deref(), owner)?);
                }
            }
        }
        for listener in &admin {
            check_publishers(listener, &config.publish)?;
        }
        Ok(Self { public, admin })
    }

    /// The sockets as a successor inherits them.
    #[must_use]
    pub fn to_inherit(&self) -> Vec<(InheritedFd, RawFd)> {
        let describe = |listener: &Listener| {
            let address = listener.configured_address().map_or_else(|| listener.address(), str::to_owned);
            (address, listener.is_made(), Some(listener.is_service_managers()), listener.as_fd().as_raw_fd())
        };
        let (address, made, by_manager, fd) = describe(&self.public);
        let mut all = vec![(InheritedFd::Public { address, made, by_manager }, fd)];
        all.extend(self.admin.iter().map(|listener| {
            let (address, made, by_manager, fd) = describe(listener);
            (InheritedFd::Admin { address, made, by_manager }, fd)
        }));
        all
    }

    /// From now on this process removes the files of the sockets.
    pub fn own_files(&mut self) {
        self.public.own_file();
        self.admin.iter_mut().for_each(Listener::own_file);
    }

    /// Closes the sockets in this process and leaves their files to the process that has taken them over.
    pub fn leave(self) {
        self.public.leave();
        self.admin.into_iter().for_each(Listener::leave);
    }
}

/// Logs a warning where the service manager has bound the sockets, and not at every address that is configured.
fn warn_of_unused(name: &str, configured: &[&Address], listeners: &[Listener]) {
    let bound: Vec<_> =
        listeners.iter().filter(|listener| listener.is_service_managers()).map(Listener::address).collect();
    if bound.is_empty() {
        return;
    }
    for address in configured.iter().map(ToString::to_string).filter(|address| !bound.contains(address)) {
        tracing::warn!(
            configured = %address,
            bound = %bound.join(", "),
            "listen.{name} has no effect: the service manager has bound the socket; change ListenStream= in its unit, or set \
             listen.{name} to what is bound, so that `ssecast publish` and others find it"
        );
    }
}

/// Checks that not everybody who reaches an admin socket may publish. A service manager may have bound the socket; the check of
/// the configuration sees `listen.admin` only.
fn check_publishers(admin: &Listener, publish: &config::Publish) -> Result<(), ListenError> {
    let ListeningSocket::Tcp(listener) = admin.socket() else { return Ok(()) };
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
        let listen =
            config::Listen { public: path("public"), admin: path("admin").into(), ..config::Listen::default() };
        Config { listen, ..Config::default() }
    }

    fn passed(folder: &tempfile::TempDir, names: &[&str]) -> Inherited {
        let socket = |name: &&str| ((*name).to_owned(), UnixListener::bind(folder.path().join(name)).unwrap().into());
        Inherited(names.iter().map(socket).collect())
    }

    #[test]
    fn what_the_service_manager_passes_is_not_bound() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = Sockets::open(passed(&folder, &["ssecast-admin"]), &config(&folder)).unwrap();
        assert!(folder.path().join("public").exists() && !folder.path().join("admin").exists());
        drop(sockets);
        assert!(!folder.path().join("public").exists() && folder.path().join("ssecast-admin").exists());
    }

    #[test]
    fn a_socket_without_a_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Sockets::open(passed(&folder, &["public", "ssecast.socket"]), &config(&folder)).unwrap_err();
        assert!(matches!(error, ListenError::UnknownName(_)), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = Sockets::open(passed(&folder, &["public", "ssecast-public"]), &config(&folder)).unwrap_err();
        assert!(matches!(error, ListenError::Twice(_)), "{error}");
    }

    /// 0.0.0.0 from the service manager, and no keys: anybody could publish.
    #[test]
    fn an_admin_socket_on_tcp_of_the_service_manager_needs_a_key_unless_it_is_loopback() {
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
    fn a_socket_that_ssecast_has_bound_gets_the_mode_that_is_configured_now() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder);
        let sockets = Sockets::bind(&config).unwrap();
        let mode = || folder.path().join("public").metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o660);
        config.listen.public_mode = 0o600;
        HandedOver::sort(duplicates(&sockets), &config).unwrap();
        assert_eq!(mode(), 0o600);
    }

    /// Returns copies of the descriptors that a successor gets.
    fn duplicates(sockets: &Sockets) -> Vec<(InheritedFd, OwnedFd)> {
        let fds = [&sockets.public].into_iter().chain(&sockets.admin);
        let fds = fds.map(|listener| listener.as_fd().try_clone_to_owned().unwrap());
        sockets.to_inherit().into_iter().map(|(what, _)| what).zip(fds).collect()
    }

    fn addresses(listeners: &[Listener]) -> Vec<String> {
        listeners.iter().map(Listener::address).collect()
    }

    /// Two sockets with the name `admin` were refused, so that a publisher on TCP and one on the package's socket excluded each other.
    #[test]
    fn several_admin_sockets_of_the_service_manager_are_taken_and_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = format!("tcp://{}", tcp.local_addr().unwrap());
        let mut inherited = passed(&folder, &["admin"]);
        inherited.0.push(("admin".into(), tcp.into()));
        let sockets = Sockets::open(inherited, &config).unwrap();
        let expected = [folder.path().join("admin").display().to_string(), port];
        assert_eq!(addresses(&sockets.admin), expected);
        let HandedOver { sockets, former, .. } = HandedOver::sort(duplicates(&sockets), &config).unwrap();
        assert_eq!(addresses(&sockets.admin), expected);
        assert!(sockets.admin.iter().all(Listener::is_service_managers) && former.is_empty());
    }

    /// It was closed at a reload, and the address that is configured was bound instead.
    #[test]
    fn a_tcp_socket_of_the_service_manager_stays_at_a_reload() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = format!("tcp://{}", tcp.local_addr().unwrap());
        let sockets = Sockets::open(Inherited(vec![("admin".into(), tcp.into())]), &config).unwrap();
        let HandedOver { sockets, former, .. } = HandedOver::sort(duplicates(&sockets), &config).unwrap();
        assert_eq!(addresses(&sockets.admin), [port]);
        assert!(former.is_empty() && !folder.path().join("admin").exists());
    }

    #[test]
    fn admin_addresses_are_added_and_taken_out_by_a_reload() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder);
        let path = config.listen.admin.first.clone();
        let port: Address = "tcp://127.0.0.1:0".parse().unwrap();
        let sockets = Sockets::bind(&config).unwrap();
        config.listen.admin.others.push(port.clone());
        let both = HandedOver::sort(duplicates(&sockets), &config).unwrap();
        assert_eq!(both.sockets.admin.len(), 2);
        assert_eq!(both.sockets.admin[0].address(), path.to_string());
        let bound = both.sockets.admin[1].address();
        config.listen.admin = port.into();
        let one = HandedOver::sort(duplicates(&both.sockets), &config).unwrap();
        assert_eq!(addresses(&one.sockets.admin), [bound]);
        assert_eq!(addresses(&one.former), [path.to_string()]);
    }

    /// A predecessor of version 1 did not state who had bound a socket.
    #[test]
    fn a_unix_socket_that_version_1_has_not_made_is_the_service_managers() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let sockets = Sockets::open(passed(&folder, &["ssecast-public", "ssecast-admin"]), &config).unwrap();
        let mut fds = duplicates(&sockets);
        for (what, _) in &mut fds {
            if let InheritedFd::Public { by_manager, .. } | InheritedFd::Admin { by_manager, .. } = what {
                *by_manager = None;
            }
        }
        let HandedOver { sockets, former, .. } = HandedOver::sort(fds, &config).unwrap();
        assert!(sockets.public.is_service_managers() && sockets.admin[0].is_service_managers() && former.is_empty());
    }
}
