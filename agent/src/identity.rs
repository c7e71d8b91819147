//! `Identity`: who this agent is: its own CA, and the server certificate that the CA signed.
//!
//! It lies in `identity/` below the state directory, beside the peers and the codes: the one part of the state that is no cache.

use crate::clock;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::{Fingerprint, SERVER_NAME, WRITTEN_AT};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject};
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long certificates hold.
pub const VALIDITY: Duration = Duration::from_secs(3653 * 24 * 60 * 60);

/// From when on certificates hold: a device that starts without a clock must not take them for those of the future.
const NOT_BEFORE: (i32, u8, u8) = (2000, 1, 1);

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server.key";

/// The files that nobody but the agent may read.
pub const KEYS: [&str; 2] = [CA_KEY, SERVER_KEY];

/// An agent's identity.
pub struct Identity {
    dir: PathBuf,
    ca: CertificateDer<'static>,
    ca_key: KeyPair,
    server: CertificateDer<'static>,
    server_key: PrivateKeyDer<'static>,
}

/// A client certificate that was just made.
pub struct Certified {
    /// In DER.
    pub certificate: CertificateDer<'static>,
    /// Of it.
    pub fingerprint: Fingerprint,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Where the identity of the agent with this state directory lies.
pub fn dir_of(state_dir: &Path) -> PathBuf {
    state_dir.join("identity")
}

impl Identity {
    /// Reads the identity below `state_dir`.
    pub fn open(state_dir: &Path) -> Result<Self, Fault> {
        let dir = dir_of(state_dir);
        let mends = "bring that file back; or remove the directory and run `pullback-agent init`: then every puller has to be paired again";
        let text = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    // What is left of one is not for `init` to touch.
                    let hint = if dir.symlink_metadata().is_ok() {
                        mends
                    } else {
                        "`pullback-agent init` makes one"
                    };
                    let why = format!("this agent has no identity: there is no `{}`", path.display());
                    Fault::new(Kind::Config, why).hint(hint)
                }
                _ => Fault::io(format!("`{}`", path.display()), &error),
            })
        };
        let wrong = |name: &str| {
            Fault::new(Kind::Config, format!("`{}` holds no key or certificate", dir.join(name).display()))
                .hint(mends)
        };
        let certificate = |name: &str| CertificateDer::from_pem_slice(&text(name)?).map_err(|_| wrong(name));
        let ca_key = String::from_utf8(text(CA_KEY)?).map_err(|_| wrong(CA_KEY))?;
        Ok(Self {
            ca: certificate(CA)?,
            ca_key: KeyPair::from_pem(&ca_key).map_err(|_| wrong(CA_KEY))?,
            server: certificate(SERVER)?,
            server_key: PrivateKeyDer::from_pem_slice(&text(SERVER_KEY)?).map_err(|_| wrong(SERVER_KEY))?,
            dir,
        })
    }

    /// The identity below `state_dir`, made where there is none. Whether it was made.
    pub fn open_or_make(state_dir: &Path) -> Result<(Self, bool), Fault> {
        let dir = dir_of(state_dir);
        let is_there = dir.symlink_metadata().is_ok();
        if !is_there {
            make(state_dir, &dir)?;
        }
        Ok((Self::open(state_dir)?, !is_there))
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its name: that of its CA.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.ca)
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// What a server shows, its own certificate and then the CA's, and the key to it.
    pub fn server(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.server.clone(), self.ca.clone()], self.server_key.clone_key())
    }

    /// A client certificate for the key of `request`, a PKCS#10 request in DER that proves that the asker has the key. What
    /// else the request wishes for is not taken over.
    pub fn certify(&self, request: &[u8], name: &str) -> Result<Certified, Fault> {
        let wrong =
            |_| Fault::new(Kind::Protocol, "the puller's request for a certificate cannot be understood");
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request).map_err(wrong)?;
        let expires_at = expiry();
        let mut params = params(name, expires_at);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let failed = |error: rcgen::Error| {
            Fault::new(Kind::Internal, format!("no certificate could be made: {error}"))
        };
        let issuer = Issuer::from_ca_cert_der(&self.ca, &self.ca_key).map_err(failed)?;
        let certificate = params.signed_by(&request.public_key, &issuer).map_err(failed)?;
        let certificate = certificate.der().clone();
        Ok(Certified { fingerprint: Fingerprint::of(&certificate), certificate, expires_at })
    }
}

/// What every certificate of ours has in common.
fn params(common_name: &str, expires_at: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let (year, month, day) = NOT_BEFORE;
    params.not_before = rcgen::date_time_ymd(year, month, day);
    params.not_after =
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(expires_at.as_second().unsigned_abs());
    params
}

/// When a certificate that is made now ends.
fn expiry() -> Timestamp {
    let written = Timestamp::from_second(WRITTEN_AT).expect("BUG: no time");
    clock::later(clock::now().max(written), VALIDITY)
}

/// Makes the files aside and gives the whole directory its name, so that half an identity is none.
fn make(state_dir: &Path, dir: &Path) -> Result<(), Fault> {
    let io = |error: std::io::Error| Fault::io(format!("the identity in `{}`", dir.display()), &error);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(io)?;
    let failed =
        |error: rcgen::Error| Fault::new(Kind::Internal, format!("no identity could be made: {error}"));
    let expires_at = expiry();
    let ca_key = KeyPair::generate().map_err(failed)?;
    let mut ca = params("Pullback agent CA", expires_at);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key).map_err(failed)?;
    let server_key = KeyPair::generate().map_err(failed)?;
    let mut server = params("Pullback agent", expires_at);
    server.subject_alt_names =
        CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(failed)?.subject_alt_names;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_certificate =
        server.signed_by(&server_key, &Issuer::from_params(&ca, &ca_key)).map_err(failed)?;
    let mut aside = tempfile::Builder::new();
    let aside = aside.prefix(".identity-").permissions(Permissions::from_mode(0o700));
    let aside = aside.tempdir_in(state_dir).map_err(io)?;
    for (name, text) in [
        (CA, ca_certificate.pem()),
        (CA_KEY, ca_key.serialize_pem()),
        (SERVER, server_certificate.pem()),
        (SERVER_KEY, server_key.serialize_pem()),
    ] {
        let mut options = File::options();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(aside.path().join(name)).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    }
    File::open(aside.path()).and_then(|dir| dir.sync_all()).map_err(io)?;
    match std::fs::rename(aside.path(), dir) {
        Ok(()) => {
            // It has another name now; there is nothing to remove.
            let _ = aside.keep();
            File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(io)
        }
        // Another process was faster: then that is the identity.
        Err(_) if dir.is_dir() => Ok(()),
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PublicKeyData;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_made_once_and_its_keys_are_private() {
        let state = tempfile::tempdir().unwrap();
        let missing = Identity::open(state.path()).err().unwrap();
        assert_eq!(missing.kind, Kind::Config, "{missing:?}");
        let (first, made) = Identity::open_or_make(state.path()).unwrap();
        assert!(made);
        let (again, made) = Identity::open_or_make(state.path()).unwrap();
        assert!(!made && again.fingerprint() == first.fingerprint());
        for key in KEYS {
            let mode = first.dir().join(key).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        assert_eq!(first.dir().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_left_of_an_identity_is_not_said_to_be_made_whole_by_init() {
        let state = tempfile::tempdir().unwrap();
        let (identity, _) = Identity::open_or_make(state.path()).unwrap();
        std::fs::remove_file(identity.dir().join(SERVER)).unwrap();
        let fault = Identity::open_or_make(state.path()).err().unwrap();
        assert!(fault.kind == Kind::Config && fault.hint.contains("bring that file back"), "{fault:?}");
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join("gone"), elsewhere.path().join("identity")).unwrap();
        let fault = Identity::open_or_make(elsewhere.path()).err().unwrap();
        assert!(fault.hint.contains("bring that file back"), "{fault:?}");
    }

    #[test]
    fn a_request_gets_a_certificate_for_its_key_and_nothing_else_it_wishes_for() {
        let state = tempfile::tempdir().unwrap();
        let (identity, _) = Identity::open_or_make(state.path()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["agent.pullback.invalid".to_owned()]).unwrap();
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let request = wish.serialize_request(&key).unwrap();
        let certified = identity.certify(request.der(), "mac").unwrap();
        let text = certified.certificate.as_ref();
        let holds = |bytes: &[u8]| text.windows(bytes.len()).any(|window| window == bytes);
        assert!(holds(&key.subject_public_key_info()) && holds(b"mac"));
        assert!(!holds(b"agent.pullback.invalid"));
        assert!(certified.expires_at.as_second() > WRITTEN_AT + VALIDITY.as_secs() as i64 - 1);
        let fault = identity.certify(b"\x30\x03\x02\x01", "mac").err().unwrap();
        assert_eq!(fault.kind, Kind::Protocol);
    }
}
