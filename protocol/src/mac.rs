//! The MAC address: the identity of a device on the wire.

use std::fmt;
use std::str::FromStr;

/// A 48-bit MAC address. Displayed in lower case with colons; parsed without regard to case, with `:` or `-`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

/// The text is not six two-digit hexadecimal numbers joined by colons or dashes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address: want six hexadecimal pairs, such as 02:00:5e:00:53:0e")]
pub struct ParseMacError(String);

impl Mac {
    /// The six octets in transmission order.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The six octets in transmission order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The address as a DNS label (`02-00-5e-00-53-0e`): what a recorded device is named in Kubernetes.
    pub fn dns_label(self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_without_regard_to_case_and_written_in_lower_case() {
        let mac: Mac = "02:00:5E:00:53:0e".parse().unwrap();
        assert_eq!(mac.octets(), [2, 0, 0x5e, 0, 0x53, 0x0e]);
        assert_eq!(mac.to_string(), "02:00:5e:00:53:0e");
        assert_eq!("02-00-5e-00-53-0E".parse(), Ok(mac));
        assert_eq!(mac.dns_label(), "02-00-5e-00-53-0e");
    }

    #[test]
    fn anything_else_is_refused_with_what_is_wanted() {
        for text in [
            "",
            "02",
            "02:00:5e:00:53",
            "02:00:5e:00:53:0e:01",
            "2:0:5e:0:53:e",
            "02:00:5e:00:53:zz",
            "+2:00:5e:00:53:0e",
        ] {
            let error = text.parse::<Mac>().unwrap_err().to_string();
            assert!(error.contains("six hexadecimal pairs"), "{text}: {error}");
        }
    }
}
