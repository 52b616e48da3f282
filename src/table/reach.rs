//! What to do about a store that cannot be reached, or does not let us in.

use crate::error::{Error, causes};
use crate::location::Location;
use crate::retry::{Answer, Away, NO_CREDENTIALS};

/// `error`, with what to do about it, where the store at `location` is its reason.
pub(crate) fn advised(error: Error, location: &Location) -> Error {
    match advice(&error, location) {
        Some(advice) => error.with_advice(&advice),
        None => error,
    }
}

fn advice(error: &Error, location: &Location) -> Option<String> {
    causes(error).find_map(|error| {
        if error.is::<Away>() {
            let endpoint = location.endpoint().map(|endpoint| format!(" {endpoint}"));
            let endpoint = endpoint.unwrap_or_default();
            return Some(format!(
                "look whether the endpoint{endpoint}, the region and the network are right"
            ));
        }
        let answer = error.downcast_ref::<Answer>()?;
        advice_on(&answer.text).map(str::to_owned)
    })
}

/// What to do about this answer of a store.
fn advice_on(answer: &str) -> Option<&'static str> {
    if answer.contains("Expired") {
        Some("the credentials have expired: get new ones")
    } else if answer.contains("NoSuchBucket") || answer.contains("ContainerNotFound") {
        Some("look whether the bucket is spelt right, and there")
    } else if answer.contains(NO_CREDENTIALS) {
        Some("give them with --storage-option, or in the environment")
    } else if answer.starts_with("40") || answer.starts_with("AccessDenied") {
        Some(
            "look whether the credentials are right, and allow reading and writing there: \
             --storage-option, or the environment",
        )
    } else {
        None
    }
}
