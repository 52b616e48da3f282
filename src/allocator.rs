//! The allocator, which the command and the Python module have in common: the library leaves it to its user.

use std::ffi::{c_int, c_long};
use std::time::Duration;

/// Lance allocates a batch's buffers on one thread and frees them on another, over and over: the
/// system's allocator gives the pages back each time and faults them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in mimalloc's `mimalloc.h`.
const PURGE_DELAY: c_int = 15;

/// Its value, in milliseconds, when nobody set it: `options.c`.
const PURGE_DELAY_DEFAULT: c_long = 1000;

// Of mimalloc, which is linked in as the allocator; its Rust crate does not declare them.
#[allow(unsafe_code, reason = "the allocator's options can be set by its C functions only")]
unsafe extern "C" {
    fn mi_option_get(option: c_int) -> c_long;
    fn mi_option_set(option: c_int, value: c_long);
}

/// Has mimalloc keep freed memory for `delay`, from now on: it looks at the option each time that it frees
/// pages. An option that does not have the default is left alone: somebody set it, or a newer mimalloc has
/// another option under this number.
#[allow(unsafe_code, reason = "the allocator's options can be set by its C functions only")]
pub(crate) fn keep_freed(delay: Duration) {
    let Ok(millis) = c_long::try_from(delay.as_millis()) else { return };
    // SAFETY: Both take plain numbers and check the option's number themselves. It is called before a
    // thread of relance's starts, so nobody reads the option at the same time.
    unsafe {
        if mi_option_get(PURGE_DELAY) == PURGE_DELAY_DEFAULT {
            mi_option_set(PURGE_DELAY, millis);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "to see what the allocator was told")]
    fn the_allocator_takes_the_delay() {
        // SAFETY: It takes a plain number, and nothing else sets options here.
        let option = || unsafe { mi_option_get(PURGE_DELAY) };
        // Fails when a newer mimalloc numbers its options differently.
        assert_eq!(option(), PURGE_DELAY_DEFAULT);
        keep_freed(Duration::from_millis(200));
        assert_eq!(option(), 200);
    }
}
