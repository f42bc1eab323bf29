//! The pidfile from outside: who gets it, who is refused, and what is left of it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};

use super::*;

#[test]
fn the_first_is_named_to_the_second_and_a_stale_number_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/x.pid");
    let mut first = Pidfile::lock(&path, None).unwrap();
    assert!(matches!(Pidfile::lock(&path, None), Err(PidfileError::HeldByUnknown(_))));
    first.write().unwrap();
    let Err(PidfileError::Held { pid, .. }) = Pidfile::lock(&path, None) else { panic!("two hold it") };
    assert_eq!(pid, process::id());
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    drop(first);
    assert!(!path.exists());

    // The number of a living process, and longer than the next one: only the lock counts.
    fs::write(&path, "1\n000000000\n").unwrap();
    let mut second = Pidfile::lock(&path, None).unwrap();
    second.write().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
}

#[test]
fn what_is_handed_on_stays_locked_and_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pid");
    let mut first = Pidfile::lock(&path, None).unwrap();
    first.write().unwrap();
    let fd = first.as_fd().try_clone_to_owned().unwrap();
    first.leave();
    let mut next = Pidfile::adopt(&path, fd).unwrap();
    assert!(matches!(Pidfile::lock(&path, None), Err(PidfileError::Held { .. })));
    next.write().unwrap();
    drop(next);
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_another_one_by_now_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pid");
    let mut first = Pidfile::lock(&path, None).unwrap();
    first.write().unwrap();
    fs::remove_file(&path).unwrap();
    let second = Pidfile::lock(&path, None).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
}

#[test]
fn nothing_is_written_through_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (victim, path) = (folder.path().join("victim"), folder.path().join("x.pid"));
    fs::write(&victim, "mine").unwrap();
    symlink(&victim, &path).unwrap();
    assert!(matches!(Pidfile::lock(&path, None), Err(PidfileError::NotAFile(_))));
    fs::remove_file(&path).unwrap();
    fs::hard_link(&victim, &path).unwrap();
    assert!(matches!(Pidfile::lock(&path, None), Err(PidfileError::NotAFile(_))));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(Pidfile::lock(&path, None), Err(PidfileError::NotAFile(_))));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
}
