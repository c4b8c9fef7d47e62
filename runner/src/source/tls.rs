//! TLS as libpq's `sslmode` means it: `require` encrypts and checks no certificate, `verify-ca` checks the chain,
//! `verify-full` the name too. Roots are the system's, for us and (as a file) for pg_dump.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use walwarden_contract::{dsn::SslMode, failure::FailureClass};

use crate::fault::Fault;

/// Root certificates of this machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Roots(Vec<CertificateDer<'static>>);

impl Roots {
    /// The system's, where `mode` needs any.
    pub(super) fn load(mode: SslMode) -> Result<Self, Fault> {
        if mode < SslMode::VerifyCa {
            return Ok(Self::default());
        }
        let found = rustls_native_certs::load_native_certs().certs;
        if found.is_empty() {
            let what = "the runner's machine has no root certificates to check the server's with";
            return Err(Fault::new(FailureClass::SourceTlsFailed, what));
        }
        Ok(Self(found))
    }

    /// The same as a PEM file's text, for libpq before 16 (which does not know `system`). Empty if none are needed.
    pub(super) fn pem(&self) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let mut pem = String::new();
        for root in &self.0 {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            let text = STANDARD.encode(root);
            for line in text.as_bytes().chunks(64) {
                pem.push_str(&String::from_utf8_lossy(line));
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        pem
    }
}

/// What connects with TLS under `mode`.
pub(super) fn connector(mode: SslMode, roots: &Roots) -> Result<MakeRustlsConnect, Fault> {
    let failed = |e: anyhow::Error| Fault::new(FailureClass::SourceTlsFailed, "TLS could not be set up").because(e);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.into()))?;
    let check: Arc<dyn ServerCertVerifier> = if mode < SslMode::VerifyCa {
        Arc::new(Unchecked(provider))
    } else {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.0.iter().cloned());
        let full = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|e| failed(e.into()))?;
        if mode == SslMode::VerifyCa { Arc::new(ChainOnly(full)) } else { full }
    };
    let config = builder.dangerous().with_custom_certificate_verifier(check).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// `require`: any certificate, as libpq without a root certificate file.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
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

/// `verify-ca`: the chain, whatever name the certificate is for.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is looked at last, after the chain was found good.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
