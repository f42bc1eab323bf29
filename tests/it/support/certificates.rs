//! Certificates for a test, made by the program openssl: an authority, and what it has signed for 127.0.0.1.

use std::{path::PathBuf, process::Command};

use super::{Folder, program_in_path};

/// An authority in a test's folder.
pub(crate) struct Authority<'f> {
    folder: &'f Folder,
    name: &'static str,
}

/// A certificate and its key, as files.
pub(crate) struct Signed {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl<'f> Authority<'f> {
    /// Makes an authority. Its files begin with `name`.
    pub(crate) fn new(folder: &'f Folder, name: &'static str) -> Self {
        let this = Self { folder, name };
        let subject = format!("/CN={name}");
        let key = this.folder.path(&format!("{name}.key"));
        openssl(
            &["req", "-x509", "-days", "2", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
            &[("-subj", subject.as_ref()), ("-keyout", &key), ("-out", &this.certificate())],
        );
        this
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path(&format!("{}.crt", self.name))
    }

    /// Signs a certificate for 127.0.0.1. Its files begin with `name`.
    pub(crate) fn sign(&self, name: &str) -> Signed {
        let path = |end: &str| self.folder.path(&format!("{name}.{end}"));
        let (request, signed) = (path("csr"), Signed { certificate: path("crt"), key: path("key") });
        let subject = format!("/CN={name}");
        openssl(
            &["req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
            &[("-subj", subject.as_ref()), ("-keyout", &signed.key), ("-out", &request)],
        );
        let extensions = self.folder.write(&format!("{name}.ext"), "subjectAltName=IP:127.0.0.1\n");
        let own_key = self.folder.path(&format!("{}.key", self.name));
        openssl(
            &["x509", "-req", "-days", "2", "-CAcreateserial"],
            &[
                ("-in", &request),
                ("-CA", &self.certificate()),
                ("-CAkey", &own_key),
                ("-extfile", &extensions),
                ("-out", &signed.certificate),
            ],
        );
        signed
    }
}

fn openssl(words: &[&str], options: &[(&str, &std::path::Path)]) {
    let mut command = Command::new(program_in_path("openssl"));
    command.args(words);
    for (option, value) in options {
        command.arg(option).arg(value);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
