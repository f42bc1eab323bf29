//! `[listen]`, and the check that the public and the admin socket have different addresses.

use crate::config::{
    address::{Address, Addresses},
    errors::Problem,
    reader::Reader,
    table::table,
    values::{address, addresses, group_name, mode},
};

table! {
    /// `[listen]`: the public and the admin socket.
    pub struct Listen from [listen] {
        /// Where nginx connects: a path, or `"tcp://127.0.0.1:8888"`.
        pub public: Address = address("/run/ssecast/ssecast.sock");
        /// File mode of the public socket.
        pub public_mode: u32 = mode("0660");
        /// Group of the public socket; empty: the process's own.
        pub public_group: Option<String> = group_name("");
        /// Where publishers connect: a path, a TCP address, or a list of several.
        pub admin: Addresses = addresses("/run/ssecast/admin.sock");
        /// File mode of the admin socket.
        pub admin_mode: u32 = mode("0660");
        /// Group of the admin socket; empty: the process's own.
        pub admin_group: Option<String> = group_name("");
    }
}

impl Listen {
    /// Checks that the two sockets can be listened on at the same time.
    pub(in crate::config) fn check(&self, reader: &mut Reader<'_>) {
        if let Some(address) = self.admin.iter().find(|admin| self.public.excludes(admin)) {
            let problem = Problem::new(
                format!("both sockets would be {address}"),
                "give listen.public and listen.admin different addresses: anyone who reaches the admin socket can publish",
            );
            reader.refuse(&["public", "admin"], problem);
        }
    }
}
