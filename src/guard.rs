//! Lance panics at some damaged files. What it says then is an error like any other.

use std::{any::Any, panic::AssertUnwindSafe};

use futures::FutureExt;

use crate::error::{Error, Result};

/// Does `act`, which is to do what `doing` says.
///
/// # Errors
/// Its own; `Failed`, when it panicked.
pub(crate) async fn guarded<T>(doing: &str, act: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(Box::pin(act)).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(panicked(doing, panic.as_ref())),
    }
}

/// The error of what panicked while it was `doing` something.
fn panicked(doing: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text =
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why");
    let cause = std::io::Error::other(format!("a panic: {text}"));
    Error::failed(format!("cannot {doing}")).caused_by(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let error =
            guarded::<()>("read it", async { panic!("cut {}", "short") }).await.unwrap_err();
        assert_eq!(error.report(&[]), "cannot read it\n  because: a panic: cut short");
        assert_eq!(guarded("read it", async { Ok(7) }).await.unwrap(), 7);
    }
}
