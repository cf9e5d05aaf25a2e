//! The certificates and keys of one control plane, made anew for each and never used elsewhere.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// Where the files lie, and the administrator's identity as text.
#[derive(Clone, Debug)]
pub struct Pki {
    pub ca: PathBuf,
    pub server_certificate: PathBuf,
    pub server_key: PathBuf,
    /// Signs the tokens of service accounts.
    pub token_key: PathBuf,
    /// Verifies them.
    pub token_public_key: PathBuf,
    pub ca_pem: String,
    pub admin_certificate_pem: String,
    pub admin_key_pem: String,
}

/// An authority of its own, whose key is never written.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, as text.
pub struct Issued {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Where a server that has a certificate is called.
#[derive(Clone, Debug)]
pub enum Place {
    Address(IpAddr),
    Name(String),
}

impl Authority {
    pub fn new() -> Result<Self> {
        let mut params = named("fettle test control plane", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate for somebody who calls.
    pub fn client(&self, name: &str, group: Option<&str>) -> Result<Issued> {
        let mut params = named(name, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    /// A certificate for somebody who is called at these places, and who may call, too.
    pub fn server(&self, name: &str, group: Option<&str>, places: &[Place]) -> Result<Issued> {
        let mut params = named(name, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        for place in places {
            params.subject_alt_names.push(match place {
                Place::Address(address) => SanType::IpAddress(*address),
                Place::Name(name) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        self.issue(&params)
    }

    fn issue(&self, params: &CertificateParams) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

impl Pki {
    /// Writes all files into `folder`, for an API server on loopback.
    pub fn create(folder: &Path) -> Result<Self> {
        let places = [Place::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)), Place::Name("localhost".to_owned())];
        Self::issue(&Authority::new()?, folder, &places)
    }

    /// Writes all files into `folder`, for an API server that is called at `places`.
    pub fn issue(authority: &Authority, folder: &Path, places: &[Place]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let server = authority.server("kube-apiserver", None, places)?;
        // the group that Kubernetes binds to cluster-admin
        let admin = authority.client("admin", Some("system:masters"))?;
        let token_key = KeyPair::generate()?;

        let write = |name: &str, pem: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, pem)?;
            Ok(path)
        };
        Ok(Pki {
            ca: write("ca.crt", &authority.pem)?,
            server_certificate: write("server.crt", &server.certificate_pem)?,
            server_key: write("server.key", &server.key_pem)?,
            token_key: write("tokens.key", &token_key.serialize_pem())?,
            token_public_key: write("tokens.pub", &token_key.public_key_pem())?,
            ca_pem: authority.pem.clone(),
            admin_certificate_pem: admin.certificate_pem,
            admin_key_pem: admin.key_pem,
        })
    }
}

fn named(common_name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        params.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    params
}
