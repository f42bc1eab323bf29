//! The control channel on a runtime: no call blocks a thread, and each can be cancelled at any time.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use nix::errno::Errno;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

use super::{
    Message,
    channel::{ControlChannel, ControlError, encode},
};

/// One end of the control channel, driven by the current runtime.
#[derive(Debug)]
pub struct AsyncControlChannel(AsyncFd<ControlChannel>);

impl AsyncControlChannel {
    /// Registers the channel with the current runtime.
    ///
    /// # Errors
    /// The runtime can't watch it.
    pub fn new(channel: ControlChannel) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "the only way to wait for a descriptor of one's own")]
        // SAFETY: the channel owns its descriptor, which stays open and the same until it is dropped with the AsyncFd.
        let channel = unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE | Interest::WRITABLE) }?;
        Ok(Self(channel))
    }

    /// Sends `message`, with descriptors, which stay open here.
    ///
    /// # Errors
    /// As [`ControlChannel::send`].
    pub async fn send(&self, message: &Message, fds: &[RawFd], within: Duration) -> Result<(), ControlError> {
        let text = encode(message)?;
        let sent = timeout(within, async {
            loop {
                let mut ready = self.0.writable().await?;
                match self.0.get_ref().try_send(&text, fds) {
                    Err(Errno::EAGAIN) => ready.clear_ready(),
                    sent => return Ok(sent?),
                }
            }
        });
        sent.await.unwrap_or(Err(ControlError::TimedOut(within)))
    }

    /// Receives the next message, and the descriptors that come with it.
    ///
    /// # Errors
    /// As [`ControlChannel::recv`].
    pub async fn recv(&self, within: Duration) -> Result<(Message, Vec<OwnedFd>), ControlError> {
        let received = timeout(within, async {
            loop {
                let mut ready = self.0.readable().await?;
                match self.0.get_ref().try_recv()? {
                    None => ready.clear_ready(),
                    Some(received) => return Ok(received),
                }
            }
        });
        received.await.unwrap_or(Err(ControlError::TimedOut(within)))
    }

    /// Receives a message if one has arrived. It does not wait.
    ///
    /// # Errors
    /// As [`ControlChannel::recv`], but for the time.
    pub fn try_recv(&self) -> Result<Option<(Message, Vec<OwnedFd>)>, ControlError> {
        self.0.get_ref().try_recv()
    }

    /// Resolves when the other process has sent something or closed its end, and takes nothing away.
    pub async fn has_news(&self) {
        while let Ok(mut ready) = self.0.readable().await {
            if self.0.get_ref().has_news() {
                return;
            }
            ready.clear_ready();
        }
    }

    /// See [`ControlChannel::shut`].
    pub fn shut(&self) {
        self.0.get_ref().shut();
    }

    /// See [`ControlChannel::fail`].
    pub fn fail(&self, reason: &str) {
        self.0.get_ref().fail(reason);
    }

    /// Takes the channel back from the runtime.
    #[must_use]
    pub fn into_inner(self) -> ControlChannel {
        self.0.into_inner()
    }
}

impl AsRawFd for AsyncControlChannel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.get_ref().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_wait_ends_with_a_message_or_with_the_other_end() {
        let (ours, theirs) = ControlChannel::pair().unwrap();
        let ours = AsyncControlChannel::new(ours).unwrap();
        let theirs = AsyncControlChannel::new(ControlChannel::from_fd(theirs)).unwrap();
        assert!(timeout(Duration::from_millis(20), ours.has_news()).await.is_err());
        theirs.send(&Message::Ready, &[], SOON).await.unwrap();
        ours.has_news().await;
        ours.has_news().await;
        assert_eq!(ours.recv(SOON).await.unwrap().0, Message::Ready);
        assert!(ours.try_recv().unwrap().is_none());
        drop(theirs);
        ours.has_news().await;
        assert!(matches!(ours.recv(SOON).await, Err(ControlError::Closed)));
    }

    #[tokio::test]
    async fn sending_to_a_process_that_takes_nothing_has_a_limit() {
        let (ours, _theirs) = ControlChannel::pair().unwrap();
        let ours = AsyncControlChannel::new(ours).unwrap();
        let error = loop {
            if let Err(error) = ours.send(&Message::Descriptors, &[], Duration::from_millis(20)).await {
                break error;
            }
        };
        assert!(matches!(error, ControlError::TimedOut(_)), "{error}");
    }
}
