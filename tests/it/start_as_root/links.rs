//! Links in a folder of the daemon's user can't make root change the owner, mode or place of another file.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, lchown, symlink},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::{
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    sys::signal::Signal,
    unistd::User,
};

use super::site::{DaemonProcess, Site, refusal};

/// Root bound the socket, and then set owner and mode by its path. A link put there in between gave one of root's files to the user.
#[test]
fn a_link_in_place_of_a_new_socket_changes_the_owner_of_no_file() {
    const STARTS: usize = 20;
    let Some(site) = Site::new("a socket exchanged for a link") else { return };
    fs::write(site.path("victim"), "root's").unwrap();
    fs::set_permissions(site.path("victim"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let victim = || {
        let meta = fs::metadata(site.path("victim")).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    // The first start makes the folder, and gives it to the user.
    site.started(&[]).end(Signal::SIGTERM);
    let (socket, link) = (site.path("run/public"), site.path("run/link"));
    symlink(site.path("victim"), &link).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Fails while there is no socket.
                let _ = renameat2(AT_FDCWD, &socket, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE);
            }
        });
        for _ in 0..STARTS {
            let output = site.daemon(&[]);
            if output.status.success() {
                DaemonProcess(site.read("run/pid").trim().parse().unwrap()).end(Signal::SIGKILL);
            }
            // The two names may have been exchanged any number of times.
            let _ = (fs::remove_file(&socket), fs::remove_file(&link));
            let _ = fs::remove_file(&socket);
            symlink(site.path("victim"), &link).unwrap();
            if victim() != (0, 0, 0o600) {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(victim(), (0, 0, 0o600), "the owner or mode of root's file has changed");
}

#[test]
fn root_follows_no_directory_link_of_another_user() {
    let Some(site) = Site::new("a directory link") else { return };
    let nobody = User::from_name("nobody").unwrap().unwrap();
    fs::create_dir(site.path("roots")).unwrap();
    symlink("roots", site.path("run")).unwrap();
    lchown(site.path("run"), Some(nobody.uid.as_raw()), None).unwrap();
    let error = refusal(&site.daemon(&[]));
    assert!(error.contains(r#""run" in its path is a symbolic link of user"#), "{error}");
    assert_eq!(fs::read_dir(site.path("roots")).unwrap().count(), 0, "nothing is made behind the link");
    // Root's own links, such as /var/run, are followed.
    lchown(site.path("run"), Some(0), None).unwrap();
    let daemon = site.started(&[]);
    assert!(site.serves() && site.path("roots/public").exists());
    daemon.end(Signal::SIGTERM);
}
