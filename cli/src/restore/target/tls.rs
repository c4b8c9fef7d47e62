//! TLS as libpq means it: `require` encrypts and checks nothing, unless an authority is named;
//! `verify-ca` checks the chain; `verify-full` also the name.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use walwarden_contract::dsn::SslMode;

use crate::{failure::Failure, files};

/// Certificates of authorities to trust.
#[derive(Clone)]
pub struct Roots {
    certificates: Arc<Vec<CertificateDer<'static>>>,
    named: bool,
}

impl Roots {
    /// A file's, or the system's where none or `system` is named. Empty where nothing is checked.
    pub fn load(sslrootcert: Option<&str>, mode: SslMode) -> Result<Self, Failure> {
        let named = sslrootcert.is_some();
        let certificates = match sslrootcert {
            Some(file) if file != "system" => {
                let refuse = |why: String| {
                    Failure::user(
                        "sslrootcert_invalid",
                        format!("sslrootcert: {} {why}", walwarden_verifier::ids::shown(file)),
                    )
                    .hint("name a PEM file with certificates, or `system`")
                };
                let read =
                    CertificateDer::pem_file_iter(file).map_err(|error| refuse(format!("cannot be read: {error}")))?;
                let certificates: Result<Vec<_>, _> = read.collect();
                certificates.map_err(|error| refuse(format!("is not PEM: {error}")))?
            }
            None if mode < SslMode::VerifyCa => Vec::new(),
            _ => {
                let native = rustls_native_certs::load_native_certs().certs;
                if native.is_empty() {
                    return Err(Failure::user(
                        "no_system_roots",
                        "this system has no certificate authorities to trust",
                    )
                    .hint("install ca-certificates, or name a file with sslrootcert"));
                }
                native
            }
        };
        Ok(Self { certificates: Arc::new(certificates), named })
    }

    /// Writes them where a child's libpq can read them: older ones do not know `system`.
    pub fn write(&self, directory: &Path) -> Result<PathBuf, Failure> {
        let mut pem = String::new();
        for certificate in self.certificates.iter() {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            let text = STANDARD.encode(certificate);
            for line in text.as_bytes().chunks(64) {
                pem.push_str(&String::from_utf8_lossy(line));
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        let path = directory.join("roots.pem");
        files::write_private(&path, pem.as_bytes()).map_err(|error| Failure::file("write", &path, &error))?;
        Ok(path)
    }
}

/// The configuration of a mode.
pub fn client_config(mode: SslMode, roots: &Roots) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let failed = |error: String| Failure::internal(format!("TLS cannot be set up: {error}"));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?;
    // libpq checks the chain under `require` too once an authority is named.
    let check_chain = mode >= SslMode::VerifyCa || (mode == SslMode::Require && roots.named);
    if !check_chain {
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            .with_no_client_auth());
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.certificates.iter().cloned());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let checked =
        Checked { chain: verifier, roots: roots.certificates.clone(), check_name: mode == SslMode::VerifyFull };
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(checked)).with_no_client_auth())
}

#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The chain always, the name if asked for.
#[derive(Debug)]
struct Checked {
    chain: Arc<WebPkiServerVerifier>,
    roots: Arc<Vec<CertificateDer<'static>>>,
    check_name: bool,
}

impl Checked {
    /// Many a Postgres server has one self-signed certificate that is also the authority to trust. OpenSSL takes that;
    /// webpki finds everything else right and then wants no authority to be a server.
    fn is_own_authority(&self, cert: &CertificateDer<'_>, error: &Error) -> bool {
        let Error::InvalidCertificate(CertificateError::Other(reason)) = error else { return false };
        format!("{reason:?}").contains("CaUsedAsEndEntity") && self.roots.iter().any(|root| root == cert)
    }
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.chain.verify_server_cert(cert, chain, name, ocsp, now) {
            // The chain is checked before the name.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            Err(error) if self.is_own_authority(cert, &error) => {
                if self.check_name {
                    verify_server_name(&ParsedCertificate::try_from(cert)?, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
