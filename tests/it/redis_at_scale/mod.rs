//! Redis with TLS, with users of few rights, behind Sentinel, and as a cluster.

mod acl;
mod cluster;
mod moved_address;
mod numbers;
mod sentinel;
mod tls;
mod too_old;
