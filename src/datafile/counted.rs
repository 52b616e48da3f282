//! A writer whose bytes are counted, for those who may write only so many a second.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use lance_io::object_writer::WriteResult;
use lance_io::traits::Writer;
use tokio::io::AsyncWrite;

use crate::budget::Throttle;

pub(super) struct Counted {
    pub(super) inner: Box<dyn Writer>,
    pub(super) throttle: Arc<Throttle>,
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.throttle.count(*count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Writer for Counted {
    async fn tell(&mut self) -> lance_core::Result<usize> {
        self.inner.tell().await
    }

    async fn shutdown(&mut self) -> lance_core::Result<WriteResult> {
        Writer::shutdown(self.inner.as_mut()).await
    }
}
