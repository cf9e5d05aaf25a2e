//! Authorities, and certificates of theirs for servers on loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};

pub struct Authority {
    /// What is trusted.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// How a certificate is to be.
#[derive(Clone, Copy, PartialEq)]
pub enum Is {
    Good,
    Expired,
    OfAnotherName,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes a certificate and its key into `folder`.
    pub fn certificate(&self, folder: &Path, name: &str, is: Is) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = match is {
            Is::OfAnotherName => vec![SanType::DnsName("images.example".try_into().unwrap())],
            Is::Good | Is::Expired => vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))],
        };
        if is == Is::Expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
        }
        let key = KeyPair::generate().unwrap();
        let write = |suffix: &str, pem: String| {
            let path = folder.join(format!("{name}.{suffix}"));
            std::fs::write(&path, pem).unwrap();
            path
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (write("crt", certificate.pem()), write("key", key.serialize_pem()))
    }
}
