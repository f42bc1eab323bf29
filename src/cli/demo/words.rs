//! What the demo says: where the page is, and lines that can be pasted into a terminal.

use std::io::{self, Write};

use super::{DemoArgs, door::Door, folder::Folder, lines::lines, source::Source};

/// All that there is to tell.
pub(super) struct Words<'a> {
    pub(super) args: &'a DemoArgs,
    pub(super) door: &'a Door,
    pub(super) folder: &'a Folder,
    pub(super) source: &'a Source,
}

impl Words<'_> {
    /// Tells it.
    ///
    /// # Errors
    /// What the system says of `out`.
    pub(super) fn tell(&self, out: &mut impl Write) -> io::Result<()> {
        let page = self.door.page();
        writeln!(out, "\nOpen this page:\n\n    {page}\n\nand publish there, or paste into another terminal:\n")?;
        for line in lines(self.folder, self.source, &page) {
            writeln!(out, "  {}\n    {}\n", line.what, line.text)?;
        }
        match (self.door.nginx(), self.args.no_nginx) {
            (Some(nginx), _) => writeln!(out, "Through {nginx}, with the snippet nginx/ssecast.conf.")?,
            (None, true) => writeln!(out, "Without nginx: ssecast serves the page itself.")?,
            (None, false) => writeln!(
                out,
                "There is no nginx here, so ssecast serves the page itself. With it, this is the real thing:\n\n    \
                 apt install nginx\n"
            )?,
        }
        match (&self.source.url, &self.source.remark) {
            (Some(_), _) => writeln!(out, "Publishes go through Redis, from the page and from curl, too.")?,
            (None, Some(remark)) => writeln!(out, "Note: {remark}.")?,
            (None, None) if self.args.no_redis => {}
            (None, None) => writeln!(out, "No Redis on 127.0.0.1:6379: events come from the admin socket alone.")?,
        }
        writeln!(out, "Ctrl-C ends it and leaves nothing behind.")?;
        out.flush()
    }
}
