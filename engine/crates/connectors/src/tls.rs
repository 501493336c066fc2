//! TLS of clients that use rustls: whom they trust, and who they are.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use streamjob_core::config::TlsConfig;
use streamjob_core::{Error, Result};

/// What a connection is encrypted with. `place` names the member of the job.
///
/// # Errors
/// `user` where a file is not what it should be; `outside` where the system has no trusted certificates.
pub(crate) fn client_config(place: &str, tls: &TlsConfig) -> Result<ClientConfig> {
    // Named, as with several linked in the process-wide default of rustls panics.
    let provider: Arc<CryptoProvider> = rustls::crypto::ring::default_provider().into();
    let roots: Arc<RootCertStore> = match &tls.ca_file {
        Some(file) => authorities(place, file)?.into(),
        None => authorities_of_system(place)?.into(),
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| Error::user(format!("{place}.tls.caFile: {error}; name a file with the authority's certificate")))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(match tls.verify_hostname {
            true => verifier,
            false => Arc::new(AnyName(verifier)),
        });
    let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&format!("{place}.tls.certificateFile"), certificate)?;
    let wrong = |error: &dyn std::fmt::Display| {
        Error::user(format!("{place}.tls.keyFile: {key}: {error}; name a file with the certificate's key, PEM, not encrypted"))
    };
    let key = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| wrong(&error))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| wrong(&error))
}

fn certificates(member: &str, file: &str) -> Result<Vec<CertificateDer<'static>>> {
    let wrong =
        |error: &dyn std::fmt::Display| Error::user(format!("{member}: {file}: {error}; name a file of certificates, PEM"));
    let found = CertificateDer::pem_file_iter(Path::new(file)).map_err(|error| wrong(&error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    if found.is_empty() { Err(wrong(&"it holds no certificate")) } else { Ok(found) }
}

fn authorities(place: &str, file: &str) -> Result<RootCertStore> {
    let member = format!("{place}.tls.caFile");
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&member, file)? {
        roots.add(certificate).map_err(|error| Error::user(format!("{member}: {file}: {error}; name another file")))?;
    }
    Ok(roots)
}

fn authorities_of_system(place: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Error::outside(format!(
            "{place}.tls: this system has no trusted certificates; install the package ca-certificates, set SSL_CERT_FILE or give \
             caFile"
        )));
    }
    Ok(roots)
}

/// What a person must do where an error, or one of its causes, is of TLS.
pub(crate) fn hint_of(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(found) = cause {
        let inner = found.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref()).or_else(|| found.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidMessage(_)) => return Some("remove tls, or let the server use it"),
            Some(rustls::Error::InvalidCertificate(_)) => {
                return Some("check tls: the authority that signed the server's certificate, and the host's name in it");
            }
            Some(_) => return Some("check tls against what the server wants"),
            None => cause = found.source(),
        }
    }
    None
}

/// Trusts a certificate that an authority has signed, whatever name it is for.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, once the signatures are right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
