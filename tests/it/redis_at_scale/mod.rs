//! Redis with TLS, with users of few rights, behind Sentinel, and as a cluster.

mod acl;
mod deaf;
mod numbers;
mod sentinel;
mod tls;
