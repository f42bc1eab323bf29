//! `[listen]`, and the check that its two sockets have different addresses.

use std::net::SocketAddr;

use crate::config::{
    address::Address,
    errors::Problem,
    reader::Reader,
    table::table,
    values::{address, group_name, mode},
};

table! {
    /// `[listen]`: the two sockets.
    pub struct Listen from [listen] {
        /// Where nginx connects: a path, or `"tcp://127.0.0.1:8888"`.
        pub public: Address = address("/run/ssecast/ssecast.sock");
        /// File mode of the public socket.
        pub public_mode: u32 = mode("0660");
        /// Group of the public socket; empty: the process's own.
        pub public_group: Option<String> = group_name("");
        /// Where publishers connect: a path, or a TCP address.
        pub admin: Address = address("/run/ssecast/admin.sock");
        /// File mode of the admin socket.
        pub admin_mode: u32 = mode("0660");
        /// Group of the admin socket; empty: the process's own.
        pub admin_group: Option<String> = group_name("");
    }
}

impl Listen {
    /// Checks that the two sockets can be listened on at the same time.
    pub(in crate::config) fn check(&self, reader: &mut Reader<'_>) {
        let clash = match (&self.public, &self.admin) {
            (Address::Unix(public), Address::Unix(admin)) => public == admin,
            (Address::Tcp(public), Address::Tcp(admin)) => clash(public, admin),
            _ => false,
        };
        if clash {
            let problem = Problem::new(
                format!("both sockets would be {}", self.admin),
                "give listen.public and listen.admin different addresses: anyone who reaches the admin socket can publish",
            );
            reader.refuse(&["public", "admin"], problem);
        }
    }
}

/// Whether a process can't listen on both addresses. Port 0 never clashes: it stands for any free port.
fn clash(one: &SocketAddr, other: &SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (any || one.ip() == other.ip())
}
