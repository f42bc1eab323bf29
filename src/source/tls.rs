//! What sources with a server share: TLS, with certificates and keys from files, and passwords from files. Certificates are always
//! checked. It opens no connection.

use std::{fmt, fs, path::PathBuf, sync::Arc};

use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{
    config::{
        errors::{Problem, reason},
        value::Value,
        values::{optional_path, text},
    },
    source::SourceError,
};

/// A file with certificates, and the certificates in it. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
}

/// A file with a private key, and the key. It is not printed.
#[derive(PartialEq, Eq)]
pub struct PrivateKey {
    path: PathBuf,
    key: PrivateKeyDer<'static>,
}

impl Clone for PrivateKey {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.path)
    }
}

/// Reads a file with certificates in PEM; `None` for the empty text.
pub(super) fn certificates(value: &Value) -> Result<Option<Certificates>, Problem> {
    let Some((path, pem)) = read(value, "a file with certificates in PEM")? else { return Ok(None) };
    let fix = "write the certificates into it as PEM, which begins with -----BEGIN CERTIFICATE-----";
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::new(format!("{path:?} is not PEM ({error})"), fix))?;
    if certificates.is_empty() {
        return Err(Problem::new(format!("{path:?} has no certificate"), fix));
    }
    Ok(Some(Certificates { path, certificates }))
}

/// Reads a file with a private key in PEM; `None` for the empty text.
pub(super) fn private_key(value: &Value) -> Result<Option<PrivateKey>, Problem> {
    let Some((path, pem)) = read(value, "a file with a private key in PEM")? else { return Ok(None) };
    let fix = "write the key into it as PEM, without a passphrase: it begins with -----BEGIN PRIVATE KEY-----";
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| Problem::new(format!("{path:?} has no private key that can be read"), fix))?;
    Ok(Some(PrivateKey { path, key }))
}

/// A file with a secret, and the secret. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    path: PathBuf,
    secret: String,
}

impl Secret {
    /// The secret.
    pub(super) fn expose(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.path)
    }
}

/// The first line of a file; `None` for the empty text.
pub(super) fn secret(value: &Value) -> Result<Option<Secret>, Problem> {
    let Some((path, content)) = read(value, "a file with a password")? else { return Ok(None) };
    let line = std::str::from_utf8(&content).ok().and_then(|content| content.lines().next()).map(str::trim_end);
    match line {
        Some(secret) if !secret.is_empty() => Ok(Some(Secret { path, secret: secret.to_owned() })),
        _ => Err(Problem::new(format!("{path:?} has no password"), "write it into the file's first line, as text")),
    }
}

/// A file and what is in it; `None` for the empty text.
pub(super) fn read(value: &Value, what: &str) -> Result<Option<(PathBuf, Vec<u8>)>, Problem> {
    text(value, &format!("write the path of {what}, in quotes"))?;
    let Some(path) = optional_path(value)? else { return Ok(None) };
    let content = fs::read(&path).map_err(|error| {
        let fix = format!("write the path of {what}, which ssecast may read");
        Problem::new(format!("{path:?} can't be read ({})", reason(&error)), fix)
    })?;
    Ok(Some((path, content)))
}

/// The names of a source's keys, for errors.
pub(super) struct Keys {
    pub(super) url: &'static str,
    pub(super) ca_file: &'static str,
    pub(super) cert_file: &'static str,
    pub(super) key_file: &'static str,
}

/// What a source's table says about TLS.
pub(super) struct Files<'a> {
    /// The authorities that may have signed the server's certificate; without them, the system's.
    pub(super) authorities: Option<&'a Certificates>,
    /// The client's certificate.
    pub(super) own: Option<&'a Certificates>,
    /// The client's private key.
    pub(super) key: Option<&'a PrivateKey>,
}

/// How connections to a server are made secure.
///
/// # Errors
/// A certificate can't be used, the client's certificate and key don't belong together, or one of them is missing.
pub(super) fn client(
    keys: &Keys,
    Files { authorities, own, key }: Files<'_>,
) -> Result<Arc<ClientConfig>, SourceError> {
    let refused = |key, why: String| SourceError { key, why };
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(keys.url, format!("TLS can't be used: {error}")))?
        .with_root_certificates(roots(keys, authorities)?);
    let client = match (own, key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(own), Some(key)) => {
            builder.with_client_auth_cert(own.certificates.clone(), key.key.clone_key()).map_err(|error| {
                let why =
                    format!("the certificate in {:?} and the key in {:?} can't be used: {error}", own.path, key.path);
                refused(keys.cert_file, why)
            })?
        }
        (Some(_), None) => return Err(refused(keys.cert_file, format!("{} is missing", keys.key_file))),
        (None, Some(_)) => return Err(refused(keys.key_file, format!("{} is missing", keys.cert_file))),
    };
    Ok(Arc::new(client))
}

/// The authorities that may have signed the server's certificate: those of the file or, without one, the system's.
fn roots(keys: &Keys, file: Option<&Certificates>) -> Result<RootCertStore, SourceError> {
    let mut store = RootCertStore::empty();
    if let Some(Certificates { path, certificates }) = file {
        for certificate in certificates {
            store.add(certificate.clone()).map_err(|error| {
                let why = format!("a certificate in {path:?} can't be used: {error}");
                SourceError { key: keys.ca_file, why }
            })?;
        }
        return Ok(store);
    }
    let found = rustls_native_certs::load_native_certs();
    // A single old certificate among the system's that can't be read is no reason to refuse.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why =
            format!("this machine has no certificate authorities: install ca-certificates, or set {}", keys.ca_file);
        return Err(SourceError { key: keys.url, why });
    }
    Ok(store)
}

/// Why TLS failed, for people.
pub(super) fn explain(keys: &Keys, text: &str) -> String {
    let Keys { url, ca_file, .. } = keys;
    if text.contains("UnknownIssuer") {
        let of = format!("those of {ca_file} or, without that, of the system");
        format!("{text}; its certificate comes from another authority than {of}")
    } else if text.contains("CaUsedAsEndEntity") {
        let fix = "sign one for the server with it, whose basicConstraints say CA:FALSE";
        format!("{text}; its certificate is that of an authority: {fix}")
    } else if text.contains("not valid for name") {
        format!("{text}; {url} needs the host's name as it stands in the certificate")
    } else if text.contains("corrupt message") {
        format!("{text}; perhaps this port has no TLS")
    } else {
        text.to_owned()
    }
}
