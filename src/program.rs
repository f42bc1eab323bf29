//! The program as a library: `App`, with the sources, the authorizer and the configuration tables that a program adds to ssecast's
//! own. It parses no argument and starts nothing itself.

use std::{process::ExitCode, sync::Arc};

use crate::{
    access::Authorizer,
    app::{BoxError, Extensions},
    cli,
    config::{Config, Definition},
    source::Source,
};

/// A program that is ssecast, with sources and an authorizer of its own. The program `ssecast` is an `App` that adds nothing.
///
/// It has every subcommand of ssecast: `serve`, `check`, `reload`, `publish` and the others. It is upgraded as ssecast is, by
/// `reload`, SIGHUP or `systemctl reload`: a new process is started from the program's path, with the same arguments, and takes over
/// every client.
///
/// ```no_run
/// use std::{process::ExitCode, sync::Arc};
///
/// use ssecast::{App, Authorizer, Authorizing, Denied, Grant, Subscriber};
///
/// /// Lets everybody read the channels whose names begin with `public.`.
/// struct Public;
///
/// impl Authorizer for Public {
///     fn authorize<'a>(&'a self, subscriber: Subscriber<'a>) -> Authorizing<'a> {
///         Box::pin(async move {
///             match subscriber.channels.iter().find(|name| !name.as_str().starts_with("public.")) {
///                 Some(name) => Err(Denied::Forbidden(format!("channel {name} is not public"))),
///                 None => Ok(Grant::new(subscriber.channels)),
///             }
///         })
///     }
/// }
///
/// fn main() -> ExitCode {
///     App::new().authorizer(|_config| Ok(Arc::new(Public))).run()
/// }
/// ```
#[derive(Default)]
#[must_use = "it does nothing before `run`"]
pub struct App {
    extensions: Extensions,
}

impl App {
    /// ssecast, with nothing added: its own sources, where the configuration turns them on, and everybody may read every channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table to the configuration file. `check`, `check --defaults` and the manual pages know it too. Its values are in
    /// [`Config::settings`].
    ///
    /// ```
    /// use ssecast::{App, Key, Table};
    ///
    /// static CLOCK: Table = Table::new("clock", &[Key::new("every", "\"1s\"", "Time between two events.")])
    ///     .optional("Without this table there is no clock.");
    ///
    /// let app = App::new().table(&CLOCK);
    /// # drop(app);
    /// ```
    pub fn table(mut self, table: &'static Definition) -> Self {
        self.extensions.add_table(table);
        self
    }

    /// Adds a source. `make` makes it of the configuration, or returns `None` where the configuration does not turn it on. It is
    /// called at each start, at each upgrade and by `check`, and must not connect to anything: [`Source::run`] does that.
    ///
    /// Publishes on the admin socket go through the first source that has a route ([`Source::publisher`]): ssecast's own come first,
    /// then those that were added, in this order.
    ///
    /// An error of `make` is printed or logged, and the program does not start; at an upgrade the predecessor serves on.
    pub fn source(
        mut self,
        make: impl Fn(&Config) -> Result<Option<Box<dyn Source>>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.extensions.add_source(make);
        self
    }

    /// Sets the authorizer, which decides for each client what it may read. `make` makes it of the configuration, as a source is
    /// made. Without this, everybody may read every channel.
    pub fn authorizer(
        mut self,
        make: impl Fn(&Config) -> Result<Arc<dyn Authorizer>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.extensions.set_authorizer(make);
        self
    }

    /// Runs the program with the arguments it was started with. Errors go to standard error; the exit code is 0, 1 or one of
    /// [`exit`](crate::exit).
    ///
    /// Call it first in `main`, outside of a tokio runtime and before any thread is started or file is opened: `serve` may put itself
    /// into the background, gives up root's rights, and takes the sockets that it was started with. After an upgrade this may end the
    /// process without returning.
    #[must_use = "it is the exit code of the program"]
    pub fn run(self) -> ExitCode {
        cli::run(self.extensions)
    }
}
