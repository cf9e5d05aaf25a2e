//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is kept from device connections: file transfers (two sockets and a file each), the API server, the cache, probes.
const RESERVED: usize = 1024;

/// Raises the limit as far as the system lets this process, and says what it is then.
pub fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "limit of open files not raised");
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many device connections fit, where `wanted` are wanted and `limit` files may be open. With a limit that is hardly
/// enough for anything, devices get half.
pub fn connections(wanted: usize, limit: usize) -> usize {
    wanted.min(limit.saturating_sub(RESERVED).max(limit / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_files_and_for_the_api_server() {
        assert_eq!(connections(100_000, usize::MAX), 100_000);
        assert_eq!(connections(100_000, 20_000), 18_976);
        assert_eq!(connections(100_000, 1024), 512);
        assert_eq!(connections(100, 1024), 100);
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let limit = raise();
        assert!(limit > 0);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }
}
