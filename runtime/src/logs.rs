//! Logs: one line an event on standard error, for people or for machines.

use std::error::Error;
use std::fmt;

use tracing_subscriber::EnvFilter;

/// The flags of logging.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// How log lines are written: text for people, json for machines.
    #[arg(long, env = "FETTLE_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: a level, or levels by module (info,kube=debug).
    #[arg(long, env = "FETTLE_LOG_FILTER", default_value = "info")]
    pub log_filter: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("--log-filter {filter:?} cannot be read")]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("logs cannot be set up")]
    Init(#[source] Box<dyn Error + Send + Sync>),
}

impl LogArgs {
    /// Sets logging up, for the whole program, once.
    ///
    /// # Errors
    /// [`LogsError`]: the filter cannot be read, or logging is set up already.
    pub fn init(&self) -> Result<(), LogsError> {
        let filter = EnvFilter::try_new(self.filter())
            .map_err(|source| LogsError::Filter { filter: self.log_filter.clone(), source })?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        match self.log_format {
            LogFormat::Text => builder.with_ansi(colours).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        }
        .map_err(LogsError::Init)
    }

    /// kube logs each failed request as an error of its own. Whoever made the request says more, and knows how bad it is.
    fn filter(&self) -> String {
        if self.log_filter.contains("kube_client") {
            self.log_filter.clone()
        } else {
            format!("{},kube_client::client::builder=off", self.log_filter)
        }
    }
}

/// An error with all that caused it, in one line: `what: why: because`.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl fmt::Display + 'a {
    Chain(error)
}

struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = String::new();
        let mut next = Some(self.0);
        while let Some(error) = next {
            // kube prints the answer of the API server three times over; once is enough.
            let (text, source) = match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) => {
                    (format!("{} ({} {})", status.message, status.code, status.reason), None)
                }
                _ => (error.to_string(), error.source()),
            };
            // Some libraries repeat their source in their own text.
            if last.is_empty() {
                f.write_str(&text)?;
            } else if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            next = source;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Option<Box<Layer>> {
        let (text, rest) = texts.split_first()?;
        Some(Box::new(Layer { text, source: layers(rest) }))
    }

    #[test]
    fn what_the_api_server_answered_is_printed_once() {
        let status = kube::core::Status::failure("it is full", "TooManyRequests").with_code(429);
        let error = kube::Error::Api(status.boxed());
        assert_eq!(chain(&error).to_string(), "it is full (429 TooManyRequests)");
    }

    #[test]
    fn a_filter_leaves_out_what_is_logged_twice_unless_it_asks_for_it() {
        let filter = |text: &str| LogArgs { log_format: LogFormat::Text, log_filter: text.to_owned() }.filter();
        assert_eq!(filter("info"), "info,kube_client::client::builder=off");
        assert_eq!(filter("info,kube_client=debug"), "info,kube_client=debug");
    }

    #[test]
    fn an_error_is_printed_with_its_causes_and_none_of_them_twice() {
        let error = layers(&["the lease was not renewed", "request failed: refused", "refused"]).unwrap();
        assert_eq!(chain(error.as_ref()).to_string(), "the lease was not renewed: request failed: refused");
    }
}
