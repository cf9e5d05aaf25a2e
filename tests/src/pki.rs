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

impl Pki {
    /// Writes all files into `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut ca_params = named("fettle test control plane", None);
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca_key = KeyPair::generate()?;
        let ca_pem = ca_params.self_signed(&ca_key)?.pem();
        let ca = Issuer::new(ca_params, ca_key);

        let mut server = named("kube-apiserver", None);
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.subject_alt_names =
            vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)), SanType::DnsName("localhost".try_into()?)];
        let server_key = KeyPair::generate()?;
        let server_certificate = server.signed_by(&server_key, &ca)?;

        // the group that Kubernetes binds to cluster-admin
        let mut admin = named("admin", Some("system:masters"));
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let admin_key = KeyPair::generate()?;
        let admin_certificate = admin.signed_by(&admin_key, &ca)?;

        let token_key = KeyPair::generate()?;

        let write = |name: &str, pem: String| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, pem)?;
            Ok(path)
        };
        Ok(Pki {
            ca: write("ca.crt", ca_pem.clone())?,
            server_certificate: write("server.crt", server_certificate.pem())?,
            server_key: write("server.key", server_key.serialize_pem())?,
            token_key: write("tokens.key", token_key.serialize_pem())?,
            token_public_key: write("tokens.pub", token_key.public_key_pem())?,
            ca_pem,
            admin_certificate_pem: admin_certificate.pem(),
            admin_key_pem: admin_key.serialize_pem(),
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
