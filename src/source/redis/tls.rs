//! TLS to Redis: certificates and keys from files, and how a connection is made secure. Certificates are always checked. It opens
//! no connection.

use std::{fmt, fs, io, path::PathBuf, sync::Arc};

use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
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

/// How connections to Redis are made secure: `redis.ca_file`, `redis.cert_file` and `redis.key_file`.
///
/// # Errors
/// A certificate can't be used, the client's certificate and key don't belong together, or one of them is missing.
pub(super) fn connector(
    authorities: Option<&Certificates>,
    own: Option<&Certificates>,
    key: Option<&PrivateKey>,
) -> Result<TlsConnector, SourceError> {
    let refused = |key, why: String| SourceError { key, why };
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("redis.url", format!("TLS can't be used: {error}")))?
        .with_root_certificates(roots(authorities)?);
    let client = match (own, key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(own), Some(key)) => {
            builder.with_client_auth_cert(own.certificates.clone(), key.key.clone_key()).map_err(|error| {
                let why =
                    format!("the certificate in {:?} and the key in {:?} can't be used: {error}", own.path, key.path);
                refused("redis.cert_file", why)
            })?
        }
        (Some(_), None) => return Err(refused("redis.cert_file", "redis.key_file is missing".to_owned())),
        (None, Some(_)) => return Err(refused("redis.key_file", "redis.cert_file is missing".to_owned())),
    };
    Ok(TlsConnector::from(Arc::new(client)))
}

/// The authorities that may have signed the server's certificate: those of the file or, without one, the system's.
fn roots(file: Option<&Certificates>) -> Result<RootCertStore, SourceError> {
    let mut store = RootCertStore::empty();
    if let Some(Certificates { path, certificates }) = file {
        for certificate in certificates {
            store.add(certificate.clone()).map_err(|error| {
                let why = format!("a certificate in {path:?} can't be used: {error}");
                SourceError { key: "redis.ca_file", why }
            })?;
        }
        return Ok(store);
    }
    let found = rustls_native_certs::load_native_certs();
    // A single old certificate among the system's that can't be read is no reason to refuse.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why =
            "this machine has no certificate authorities: install ca-certificates, or set redis.ca_file".to_owned();
        return Err(SourceError { key: "redis.url", why });
    }
    Ok(store)
}

/// Why TLS failed, for people.
pub(super) fn explain(error: &io::Error) -> String {
    let text = error.to_string();
    let fix = if text.contains("UnknownIssuer") {
        "; its certificate comes from another authority than those of redis.ca_file or, without that, of the system"
    } else if text.contains("CaUsedAsEndEntity") {
        "; its certificate is that of an authority: sign one for the server with it, whose basicConstraints say CA:FALSE"
    } else if text.contains("not valid for name") {
        "; redis.url needs the host's name as it stands in the certificate"
    } else if text.contains("corrupt message") {
        "; perhaps this port has no TLS"
    } else {
        ""
    };
    format!("{text}{fix}")
}
