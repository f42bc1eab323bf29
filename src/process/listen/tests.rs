//! Sockets from outside: what is bound, what is taken, whose file goes when.

use std::os::unix::net::UnixDatagram;

use super::*;

#[test]
fn only_what_listens_is_taken_for_a_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let taken = Listener::from_fd("public", listener.into()).unwrap();
    assert!(matches!(taken.kind, ListenerKind::Unix(_)) && !taken.removes_file());
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(matches!(Listener::from_fd("public", port.into()).unwrap().kind, ListenerKind::Tcp(_)));
    let refused = |fd: OwnedFd| matches!(Listener::from_fd("public", fd), Err(ListenError::NotListening(_)));
    assert!(refused(client.into()));
    assert!(refused(UnixDatagram::unbound().unwrap().into()));
    assert!(refused(fs::File::open("/dev/null").unwrap().into()));
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let address = Address::Unix(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    let listener = bind(&address, 0o600, None, None).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(bind(&address, 0o600, None, None), Err(ListenError::Busy(_))));
    drop(listener);
    assert!(!path.exists(), "the socket goes with its listener");
    fs::write(&path, "mine").unwrap();
    assert!(matches!(bind(&address, 0o600, None, None), Err(ListenError::NotASocket(_))));
}

#[test]
fn a_file_that_was_handed_on_goes_with_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut first = bind(&Address::Unix(path.clone()), 0o600, None, None).unwrap();
    let fd = first.kind.as_fd().try_clone_to_owned().unwrap();
    first.leave_file();
    drop(first);
    let next = Listener::from_fd("public", fd).unwrap().adopt_file();
    assert!(path.exists() && next.removes_file());
    drop(next);
    assert!(!path.exists());
}
