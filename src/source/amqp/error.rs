//! Errors of AMQP as texts for people. It does no I/O.

use lapin::ErrorKind;

use super::config::KEYS;
use crate::source::tls;

/// Why there is no connection, or no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The client library's error.
    #[error("{}", explain(.0))]
    Library(#[from] lapin::Error),
    /// The server can't be reached or is silent.
    #[error("{0}")]
    Broken(String),
}

/// Reply codes of AMQP 0-9-1 (section 1.2), and of RabbitMQ.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

impl Failure {
    /// Whether the server refuses the login, and would again.
    pub(super) fn is_login_refused(&self) -> bool {
        // Where a method is refused, the connection stays, and who asked for it looks for that.
        matches!(self.code(), Some(ACCESS_REFUSED | NOT_ALLOWED))
    }

    /// Whether the user lacks a permission.
    pub(super) fn is_forbidden(&self) -> bool {
        self.code() == Some(ACCESS_REFUSED)
    }

    /// Whether there is no such queue or exchange.
    pub(super) fn is_not_found(&self) -> bool {
        self.code() == Some(NOT_FOUND)
    }

    /// Whether there is one with other arguments.
    pub(super) fn is_different(&self) -> bool {
        self.code() == Some(PRECONDITION_FAILED)
    }

    /// Whether the library can't read what the server has sent.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Library(error) if matches!(error.kind(), ErrorKind::ParsingError(_)))
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Library(error) => match error.kind() {
                ErrorKind::ProtocolError(error) => Some(error.get_id()),
                _ => None,
            },
            Self::Broken(_) => None,
        }
    }
}

/// A loss of the connection that has no other reason.
pub(super) fn closed() -> Failure {
    Failure::Broken("the connection was closed".to_owned())
}

fn explain(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            let text = error.get_message().as_str();
            if text.contains("Login was refused") {
                return "the server does not take the user or the password of amqp.url (ACCESS_REFUSED)".to_owned();
            }
            if text.contains("vhost") && error.get_id() == NOT_ALLOWED {
                return format!("{text}; the virtual host is what follows the port in amqp.url");
            }
            text.to_owned()
        }
        ErrorKind::IOError(error) => tls::explain(&KEYS, &error.to_string()),
        ErrorKind::ParsingError(_) => "the server has sent something that is not AMQP 0-9-1".to_owned(),
        ErrorKind::MissingHeartbeatError => "the server was silent for too long".to_owned(),
        ErrorKind::InvalidChannel(_)
        | ErrorKind::InvalidChannelState(..)
        | ErrorKind::InvalidConnectionState(_)
        | ErrorKind::RuntimeShutdownError(_) => closed().to_string(),
        _ => error.to_string(),
    }
}
