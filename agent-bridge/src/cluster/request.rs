//! Requests to the API server: each has an end, and an answer that says whose fault a failure is.

use std::time::Duration;

use fettle_runtime::REQUEST_DEADLINE;
use kube::api::PatchParams;

use super::FIELD_MANAGER;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("the API server refused or could not be asked")]
    Kube(#[source] Box<kube::Error>),
    #[error("the API server did not answer in time")]
    Deadline,
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

impl ApiError {
    /// The status of the answer, where there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(error) => match &**error {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Deadline => None,
        }
    }

    /// Whether the API server understood and will not: a permission is missing, or what was sent is not valid. The same
    /// again brings the same again, until a person changes something.
    pub fn is_refusal(&self) -> bool {
        match self.code() {
            Some(404 | 408 | 409 | 410 | 429) | None => false,
            Some(code) => (400..500).contains(&code),
        }
    }
}

/// The answer to a request, within the deadline that all have: the client's own covers the head of the answer alone.
pub(super) async fn request<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    request_within(REQUEST_DEADLINE, request).await
}

/// The answer to a request within `deadline`.
pub(super) async fn request_within<T>(
    deadline: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    tokio::time::timeout(deadline, request).await.map_err(|_| ApiError::Deadline)?.map_err(ApiError::from)
}

/// How everything is patched.
pub(super) fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// How long to wait before trying for the `failures`-th time again (from 1): twice as long each time, from `first` to
/// `last`; up to a quarter less, so that what failed together does not come back together.
pub(super) fn backoff(first: Duration, last: Duration, failures: u32) -> Duration {
    let delay = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(last);
    delay.mul_f64(1.0 - rand::random::<f64>() / 4.0)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16) -> ApiError {
        kube::Error::Api(Box::new(Status { code, ..Status::default() })).into()
    }

    #[test]
    fn what_only_a_person_can_change_is_a_refusal() {
        for code in [400, 401, 403, 413, 422] {
            assert!(api(code).is_refusal(), "{code}");
        }
        for code in [404, 408, 409, 429, 500, 503, 504] {
            assert!(!api(code).is_refusal(), "{code}");
        }
        assert!(!ApiError::Deadline.is_refusal());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_answered_ends() {
        let answer = request(std::future::pending::<kube::Result<()>>()).await;
        assert!(matches!(answer, Err(ApiError::Deadline)));
    }

    #[test]
    fn delays_double_up_to_the_last_and_never_come_together() {
        let (first, last) = (Duration::from_secs(1), Duration::from_secs(60));
        for (failures, most) in [(1, 1), (2, 2), (3, 4), (7, 60), (1000, 60)] {
            let most = Duration::from_secs(most);
            let delay = backoff(first, last, failures);
            assert!(delay <= most && delay >= most.mul_f64(0.74), "{failures}: {delay:?}");
        }
    }
}
