//! The data of one message: looked up in a frame by number, and put into a frame in the order of the table.
//!
//! Knows how each datum is written, and not which message has which.

use super::{Difference, Download, ErrorDetail, Location, MessageError, UpgradeAt};
use crate::datum::{self, DifferenceKind, DownloadResult, ExecutionResult, Transfer, number};
use crate::frame::Frame;
use crate::proof::LogKey;

/// The data of one frame, looked up by number.
pub(super) struct Data<'a> {
    message: u8,
    data: &'a [(u8, Vec<u8>)],
}

impl<'a> Data<'a> {
    pub(super) fn of(frame: &'a Frame) -> Self {
        Self { message: frame.message, data: &frame.data }
    }

    pub(super) fn optional(&self, datum: u8) -> Result<Option<&'a [u8]>, MessageError> {
        let mut values = self.data.iter().filter(|(number, _)| *number == datum).map(|(_, value)| value.as_slice());
        let value = values.next();
        match values.next() {
            None => Ok(value),
            Some(_) => Err(MessageError::Repeated { message: self.message, datum }),
        }
    }

    pub(super) fn parsed<T>(
        &self,
        datum: u8,
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, MessageError> {
        let Some(value) = self.optional(datum)? else { return Ok(None) };
        parse(value).map(Some).ok_or(MessageError::ValueLength { message: self.message, datum, len: value.len() })
    }

    pub(super) fn required<T>(&self, datum: u8, parse: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, MessageError> {
        self.parsed(datum, parse)?.ok_or(MessageError::Missing { message: self.message, datum })
    }

    pub(super) fn bad_value(&self, datum: u8) -> MessageError {
        MessageError::Value { message: self.message, datum }
    }

    pub(super) fn text(&self, datum: u8) -> Result<String, MessageError> {
        self.required(datum, |value| Some(datum::text(value)))
    }

    pub(super) fn optional_text(&self, datum: u8) -> Result<Option<String>, MessageError> {
        self.parsed(datum, |value| Some(datum::text(value)))
    }

    pub(super) fn download_result(&self) -> Result<DownloadResult, MessageError> {
        self.required(number::DOWNLOAD_RESULT, datum::u32_value).map(DownloadResult::from_code)
    }

    pub(super) fn execution_result(&self) -> Result<ExecutionResult, MessageError> {
        self.required(number::EXECUTION_RESULT, datum::u32_value).map(ExecutionResult::from_code)
    }

    pub(super) fn error_detail(&self) -> Result<ErrorDetail, MessageError> {
        Ok(ErrorDetail {
            code: self.parsed(number::ERROR_CODE, datum::u32_value)?,
            text: self.optional_text(number::ERROR_TEXT)?,
        })
    }

    pub(super) fn location(&self) -> Result<Location, MessageError> {
        let transfer = match self.required(number::TRANSFER, datum::u32_value)? {
            0 => Transfer::Ftp,
            1 => Transfer::Tftp,
            2 => Transfer::Http,
            _ => return Err(self.bad_value(number::TRANSFER)),
        };
        Ok(Location {
            transfer,
            server: self.required(number::SERVER_ADDRESS, |value| value.try_into().ok())?,
            path: self.text(number::PATH)?,
            file: self.text(number::FILE_NAME)?,
            user: self.text(number::USER_NAME)?,
            password: self.text(number::PASSWORD)?,
            port: match self.parsed(number::SERVER_PORT, datum::u32_value)? {
                None => None,
                Some(port) => match u16::try_from(port) {
                    Ok(port @ 1..) => Some(port),
                    Ok(0) | Err(_) => return Err(self.bad_value(number::SERVER_PORT)),
                },
            },
            url: match transfer {
                Transfer::Ftp | Transfer::Tftp => None,
                Transfer::Http => Some(self.text(number::URL)?),
            },
            log_key: self.parsed(number::LOG_KEY, |value| value.try_into().ok().map(LogKey::new))?,
        })
    }

    pub(super) fn download(&self, config: Option<String>) -> Result<Download, MessageError> {
        Ok(Download {
            location: self.location()?,
            crc: self.required(number::CRC, datum::u32_value)?,
            config,
            attempt: self.parsed(number::ATTEMPT, datum::u32_value)?,
            size: self.parsed(number::FILE_SIZE, datum::u64_value)?,
            sha256: self.parsed(number::SHA256, |value| value.try_into().ok())?,
            signature: None,
            difference: None,
        })
    }

    /// Data 73 and 74: both, or neither.
    pub(super) fn difference(&self) -> Result<Option<Box<Difference>>, MessageError> {
        match self.parsed(number::DIFFERENCE_KIND, datum::u32_value)? {
            Some(kind) => {
                let base = self.text(number::BASE_VERSION)?;
                Ok(Some(Box::new(Difference { base, kind: DifferenceKind::from_code(kind) })))
            }
            None if self.optional_text(number::BASE_VERSION)?.is_some() => {
                Err(MessageError::Missing { message: self.message, datum: number::DIFFERENCE_KIND })
            }
            None => Ok(None),
        }
    }

    pub(super) fn upgrade_at(&self) -> Result<UpgradeAt, MessageError> {
        match self.required(number::UPGRADE_MODE, datum::u32_value)? {
            0 => Ok(UpgradeAt::Immediately),
            1 => {
                let time: [u8; TIME_LEN] = self.required(number::UPGRADE_TIME, |value| value.try_into().ok())?;
                let time = std::str::from_utf8(&time).ok().and_then(parse_time);
                time.map(UpgradeAt::Time).ok_or(self.bad_value(number::UPGRADE_TIME))
            }
            _ => Err(self.bad_value(number::UPGRADE_MODE)),
        }
    }
}

/// Bytes of `yyyy-mm-dd hh:mm:ss`.
const TIME_LEN: usize = 19;
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

pub(super) fn parse_time(text: &str) -> Option<jiff::civil::DateTime> {
    let time = jiff::civil::DateTime::strptime(TIME_FORMAT, text).ok()?;
    // The parser is lenient about width, padding and signs; the table is not.
    (time.year() >= 0 && format_time(time) == text).then_some(time)
}

fn format_time(time: jiff::civil::DateTime) -> String {
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// Builds the data of a frame in the order in which they are added.
pub(super) struct Builder(Frame);

impl Builder {
    pub(super) fn new(message: u8) -> Self {
        Self(Frame { message, data: Vec::new() })
    }

    pub(super) fn build(self) -> Frame {
        self.0
    }

    pub(super) fn bytes(mut self, datum: u8, value: &[u8]) -> Self {
        self.0.data.push((datum, value.to_vec()));
        self
    }

    pub(super) fn text(self, datum: u8, value: &str) -> Self {
        self.bytes(datum, value.as_bytes())
    }

    pub(super) fn int(self, datum: u8, value: u32) -> Self {
        self.bytes(datum, &value.to_be_bytes())
    }

    pub(super) fn time(self, datum: u8, time: jiff::civil::DateTime) -> Self {
        self.text(datum, &format_time(time))
    }

    pub(super) fn maybe<T>(self, value: Option<T>, add: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => add(self, value),
            None => self,
        }
    }

    pub(super) fn error_detail(self, detail: &ErrorDetail) -> Self {
        self.maybe(detail.code, |b, code| b.int(number::ERROR_CODE, code))
            .maybe(detail.text.as_deref(), |b, text| b.text(number::ERROR_TEXT, text))
    }

    pub(super) fn location(self, location: &Location) -> Self {
        self.int(number::TRANSFER, location.transfer.code())
            .bytes(number::SERVER_ADDRESS, &location.server)
            .text(number::PATH, &location.path)
            .text(number::FILE_NAME, &location.file)
            .text(number::USER_NAME, &location.user)
            .text(number::PASSWORD, &location.password)
    }

    /// What says more closely where the server is than data 5–7 do.
    pub(super) fn reached_at(self, location: &Location) -> Self {
        let with_port = self.maybe(location.port, |b, port| b.int(number::SERVER_PORT, u32::from(port)));
        match location.transfer {
            Transfer::Ftp | Transfer::Tftp => with_port,
            Transfer::Http => with_port.text(number::URL, location.url.as_deref().unwrap_or_default()),
        }
    }

    /// By what the server is known over UDP.
    pub(super) fn known_by(self, location: &Location) -> Self {
        self.maybe(location.log_key, |b, key| b.bytes(number::LOG_KEY, key.bytes()))
    }

    pub(super) fn download(
        self,
        download: &Download,
        config: Option<&str>,
        signature: Option<&[u8; 64]>,
        difference: Option<&Difference>,
    ) -> Self {
        self.location(&download.location)
            .int(number::CRC, download.crc)
            .maybe(config, |b, config| b.text(number::CONFIG_VERSION, config))
            .maybe(download.attempt, |b, attempt| b.int(number::ATTEMPT, attempt))
            .maybe(download.size, |b, size| b.bytes(number::FILE_SIZE, &size.to_be_bytes()))
            .maybe(download.sha256, |b, sha256| b.bytes(number::SHA256, &sha256))
            .maybe(signature, |b, signature| b.bytes(number::SIGNATURE, signature))
            .reached_at(&download.location)
            .maybe(difference, |b, Difference { base, kind }| {
                b.text(number::BASE_VERSION, base).int(number::DIFFERENCE_KIND, kind.code())
            })
            .known_by(&download.location)
    }
}
