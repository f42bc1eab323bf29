//! Tests of entries, the files and sockets made at them, and the directories on the way.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn missing_directories_are_made_and_existing_ones_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/file");
    assert_eq!(Entry::find(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    let entry = Entry::create(&path, None).unwrap();
    assert!(folder.path().join("a/b").is_dir() && entry.status().unwrap().is_none());
    Entry::create(&path, None).unwrap();
    fs::write(folder.path().join("f"), "").unwrap();
    assert_eq!(Entry::create(&folder.path().join("f/file"), None).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    Entry::find(Path::new("file")).unwrap();
    Entry::find(Path::new("/")).unwrap_err();
}

/// `ss -xl` showed a path under /proc/self/fd, by which nobody could find the socket.
#[test]
fn a_socket_has_its_path_as_address_unless_another_user_could_change_where_it_leads() {
    let folder = tempfile::tempdir().unwrap();
    let bound = |path: &Path| {
        let entry = Entry::create(path, None).unwrap();
        let socket =
            socket::socket(socket::AddressFamily::Unix, socket::SockType::Stream, socket::SockFlag::SOCK_CLOEXEC, None);
        let socket = socket.unwrap();
        let file = entry.bind(socket.as_fd(), 0o600, None, None).unwrap();
        assert!(entry.status().unwrap().is_some_and(|status| status.st_ino == file.status().unwrap().st_ino));
        let address: UnixAddr = socket::getsockname(socket.as_raw_fd()).unwrap();
        address.path().unwrap().to_owned()
    };
    let path = folder.path().join("a/s");
    assert_eq!(bound(&path), path);
    symlink(folder.path().join("a"), folder.path().join("link")).unwrap();
    assert_eq!(bound(&folder.path().join("link/t")), folder.path().join("link/t"));
    // The last directory may be anybody's, since the last name is not followed. One before it may not.
    let open = folder.path().join("open");
    let inner = open.join("inner");
    fs::create_dir_all(&inner).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(bound(&open.join("s")), open.join("s"));
    assert!(bound(&inner.join("s")).starts_with("/proc/self/fd"));
    assert!(inner.join("s").exists());
    let long = folder.path().join("l".repeat(100)).join("s");
    assert!(bound(&long).starts_with("/proc/self/fd") && long.exists());
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    let entry = Entry::find(&folder.path().join("dangling")).unwrap();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert!(entry.bind(socket.as_fd(), 0o600, None, None).is_err(), "the last name is not followed");
    assert!(!folder.path().join("nowhere").exists());
}

#[test]
fn an_entry_is_fixed_where_only_root_and_this_user_can_replace_it() {
    let status = |mode, uid| {
        let folder = tempfile::tempdir().unwrap();
        let mut status = fstat(File::open(folder.path()).unwrap()).unwrap();
        (status.st_mode, status.st_uid) = (libc::S_IFDIR | mode, uid);
        status
    };
    let is_fixed = |directory, entry| is_fixed_in(&directory, &entry, 7);
    assert!(is_fixed(status(0o755, 0), status(0o755, 9)));
    assert!(is_fixed(status(0o755, 7), status(0o755, 9)));
    assert!(!is_fixed(status(0o755, 9), status(0o755, 7)));
    assert!(!is_fixed(status(0o777, 0), status(0o755, 0)) && !is_fixed(status(0o775, 0), status(0o755, 0)));
    assert!(is_fixed(status(0o1777, 0), status(0o755, 7)), "sticky, as /tmp");
    assert!(!is_fixed(status(0o1777, 0), status(0o755, 9)) && !is_fixed(status(0o1777, 9), status(0o755, 7)));
}

#[test]
fn a_link_of_this_user_on_the_way_is_followed_and_a_circle_of_links_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("real/deep")).unwrap();
    symlink("real/../real", folder.path().join("relative")).unwrap();
    symlink(folder.path().join("relative"), folder.path().join("absolute")).unwrap();
    Entry::find(&folder.path().join("absolute/deep/file")).unwrap().open(OFlag::O_RDWR, 0o600, None).unwrap();
    assert!(folder.path().join("real/deep/file").exists());
    symlink("circle", folder.path().join("circle")).unwrap();
    let error = Entry::find(&folder.path().join("circle/file")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
}

#[test]
fn only_a_file_with_one_name_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let open = |name: &str| Entry::find(&path(name)).unwrap().open(OFlag::O_WRONLY, 0o600, None);
    let refused = |name: &str| match open(name) {
        Err(OpenError::NotAFile(what)) => what,
        other => panic!("{name}: {other:?}"),
    };
    open("victim").unwrap();
    open("victim").unwrap();
    fs::hard_link(path("victim"), path("second")).unwrap();
    assert_eq!(refused("second"), "it has a second name (a hard link)");
    symlink(path("victim"), path("link")).unwrap();
    assert_eq!(refused("link"), "it is a symbolic link");
    symlink(path("nowhere"), path("dangling")).unwrap();
    assert_eq!(refused("dangling"), "it is a symbolic link");
    fs::create_dir(path("directory")).unwrap();
    assert_eq!(refused("directory"), "it is a directory");
    nix::unistd::mkfifo(&path("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    assert_eq!(refused("pipe"), "it is a pipe or a socket");
    Entry::find(Path::new("/dev/null")).unwrap().open(OFlag::O_WRONLY, 0o600, None).unwrap();
}
