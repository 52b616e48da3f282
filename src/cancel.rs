//! Asks a running migration to stop.

use std::sync::Arc;

use tokio::sync::watch;

/// A request to stop, shared by whoever asks and whoever runs.
#[derive(Debug, Clone)]
pub struct Cancel {
    asked: Arc<watch::Sender<bool>>,
}

impl Default for Cancel {
    fn default() -> Self {
        Self { asked: Arc::new(watch::Sender::new(false)) }
    }
}

impl Cancel {
    /// Asks. The migration stops at the next safe place, within a second or two, and keeps what is done.
    pub fn cancel(&self) {
        self.asked.send_replace(true);
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        *self.asked.borrow()
    }

    /// Waits until it is asked.
    pub async fn cancelled(&self) {
        let mut asked = self.asked.subscribe();
        // The sender lives as long as this, so waiting cannot fail.
        let _ = asked.wait_for(|asked| *asked).await;
    }
}
