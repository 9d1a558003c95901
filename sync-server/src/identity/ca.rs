//! One CA as it lies in `ca.pem`: its key and certificate in one file, so that one is never without
//! the other, and while it takes the place of another CA, that one's certificate and its signature
//! under the new key. The former key is gone from the moment of the change: nobody can sign with it.
//!
//! ```text
//! Generation: 1                            (if it is not 0)
//! Former CA until: 2027-02-27T00:00:00Z    (while there is one)
//! (empty)
//! PRIVATE KEY, CERTIFICATE (this CA), CERTIFICATE (its key, signed by the former CA), CERTIFICATE (the former CA)
//! ```
//! An operator's own CA is a key and a certificate and nothing else.

use std::sync::Arc;
use std::time::Duration;

use forebay_protocols::sync::tls;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;

use super::now_seconds;
use super::tickets::Tickets;

pub(super) const DAY: i64 = 86_400;
const CA_LIFE: i64 = 20 * 365 * DAY;
const GENERATION: &str = "Generation: ";
const UNTIL: &str = "Former CA until: ";

/// The CA, ready to sign.
pub(super) struct Ca {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// Derived from its key and from no former one's: a key that was stolen, and was changed for that, shall
    /// open no session any more, and make none.
    pub(super) tickets: Arc<Tickets>,
    generation: u32,
    former: Option<Former>,
}

/// The CA before it.
#[derive(Clone, Debug)]
pub(super) struct Former {
    /// Its certificate.
    pub(super) certificate: CertificateDer<'static>,
    /// The new CA's key and name, signed by it: a way from the new CA to whoever knows only this one.
    pub(super) cross: CertificateDer<'static>,
    /// Until when it is shown and trusted, in seconds since 1970.
    pub(super) until: i64,
}

impl Ca {
    /// A new one.
    pub(super) fn generate() -> Result<Self, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        // The number tells the CAs of two servers apart in a list.
        let number = getrandom::u32().map_err(|error| error.to_string())?;
        let params = params(&format!("Forebay CA {number:08x}"))?;
        let certificate = params.self_signed(&key).map_err(|error| error.to_string())?.der().clone();
        Self::of(certificate, key)
    }

    fn of(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| format!("certificate: {error}"))?;
        if !parsed.is_ca() {
            return Err("its certificate is not a CA's".into());
        }
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err("its key does not belong to its certificate".into());
        }
        let tickets = Arc::new(Tickets::new(key.serialized_der()));
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| error.to_string())?;
        Ok(Self { certificate, issuer, tickets, generation: 0, former: None })
    }

    /// Reads `ca.pem`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(text).map_err(|error| format!("key: {error}"))?;
        let mut certificates = CertificateDer::pem_slice_iter(text.as_bytes())
            .map(|found| found.map(CertificateDer::into_owned))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("certificate: {error}"))?
            .into_iter();
        let certificate = certificates.next().ok_or("certificate: there is none")?;
        let mut ca = Self::of(certificate, key)?;
        let line = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
        if let Some(number) = line(GENERATION) {
            ca.generation = number.parse().map_err(|_| format!("`{GENERATION}{number}` is no number"))?;
        }
        if let Some(until) = line(UNTIL) {
            let moment: jiff::Timestamp = until
                .parse()
                .map_err(|_| format!("`{UNTIL}{until}` is no time like 2027-02-27T00:00:00Z"))?;
            let (Some(cross), Some(former)) = (certificates.next(), certificates.next()) else {
                return Err("the certificates of the former CA are missing".into());
            };
            ca.former = Some(Former { certificate: former, cross, until: moment.as_second() });
        }
        Ok(ca)
    }

    /// As it lies in `ca.pem`.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        if self.generation != 0 {
            text.push_str(&format!("{GENERATION}{}\n", self.generation));
        }
        if let Some(former) = &self.former {
            let until = jiff::Timestamp::from_second(former.until).unwrap_or(jiff::Timestamp::MAX);
            text.push_str(&format!("{UNTIL}{until}\n"));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&tls::pem_block("PRIVATE KEY", self.issuer.key().serialized_der()));
        text.push_str(&tls::pem_block("CERTIFICATE", &self.certificate));
        if let Some(former) = &self.former {
            text.push_str(&tls::pem_block("CERTIFICATE", &former.cross));
            text.push_str(&tls::pem_block("CERTIFICATE", &former.certificate));
        }
        text
    }

    /// The CA that takes its place: `next`, or a new one, with this one beside it until `until`.
    pub(super) fn succeeded_by(&self, next: Option<Self>, until: i64) -> Result<Self, String> {
        let mut next = next.map_or_else(Self::generate, Ok)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&next.certificate)
            .map_err(|error| format!("certificate: {error}"))?;
        let key = next.issuer.key();
        // The same subject, by which a chain is found, of an issuer that others know.
        let mut cross = params("")?;
        cross.distinguished_name = subject(&parsed)?;
        date(&mut cross, tls::ALWAYS_VALID_FROM, parsed.validity().not_after.timestamp())?;
        let cross = cross.signed_by(key, &self.issuer).map_err(|error| error.to_string())?.der().clone();
        let (_, signed) = x509_parser::parse_x509_certificate(&cross).map_err(|error| error.to_string())?;
        if signed.subject().as_raw() != parsed.subject().as_raw() {
            return Err(
                "its subject is written in a way that cannot be repeated; give it a plain common name".into(),
            );
        }
        next.generation = self.generation_at(now_seconds()).saturating_add(1);
        next.former = Some(Former { certificate: self.certificate.clone(), cross, until });
        Ok(next)
    }

    /// The same without the former one.
    pub(super) fn alone(mut self) -> Self {
        if self.former.take().is_some() {
            self.generation = self.generation.saturating_add(1);
        }
        self
    }

    /// The former one, while it is trusted.
    pub(super) fn former_at(&self, now: i64) -> Option<&Former> {
        self.former.as_ref().filter(|former| now < former.until)
    }

    /// Counts the changes of what agents should trust: each CA, and each end of a former one.
    pub(super) fn generation_at(&self, now: i64) -> u32 {
        let is_over = self.former.is_some() && self.former_at(now).is_none();
        self.generation.saturating_add(u32::from(is_over))
    }

    /// The generation in which this CA began.
    pub(super) fn born(&self) -> u32 {
        // The end of a former CA is a generation of its own.
        if self.former.is_some() { self.generation } else { self.generation.saturating_sub(1) }
    }

    /// For who shows a certificate of it: it, and what leads from it to those who know the former CA.
    pub(super) fn chain(&self, now: i64) -> Vec<CertificateDer<'static>> {
        let mut chain = vec![self.certificate.clone()];
        if let Some(former) = self.former_at(now) {
            chain.extend([former.cross.clone(), former.certificate.clone()]);
        }
        chain
    }
}

fn params(name: &str) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    date(&mut params, tls::ALWAYS_VALID_FROM, now_seconds().saturating_add(CA_LIFE))?;
    Ok(params)
}

/// The subject of a certificate, for another one of the same subject.
fn subject(of: &X509Certificate<'_>) -> Result<DistinguishedName, String> {
    let mut name = DistinguishedName::new();
    for attribute in of.subject().iter_attributes() {
        let odd = || format!("its subject {} is of a kind that is not known here", of.subject());
        let oid: Vec<u64> = attribute.attr_type().iter().ok_or_else(odd)?.collect();
        let text = attribute.as_str().map_err(|_| odd())?;
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into().map_err(|_| odd())?),
            _ => return Err(odd()),
        };
        name.push(DnType::from_oid(&oid), value);
    }
    Ok(name)
}

pub(super) fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Sets the dates (seconds since 1970) and a random serial number: rcgen's own is the key's hash,
/// the same for every certificate of one key.
pub(super) fn date(params: &mut CertificateParams, from: i64, until: i64) -> Result<(), String> {
    let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.max(0) as u64);
    (params.not_before, params.not_after) = (at(from), at(until));
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| error.to_string())?;
    serial[0] &= 0x7F; // serial numbers are positive (RFC 5280, 4.1.2.2)
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_with_the_one_before_it_survives_its_file() {
        let first = Ca::generate().unwrap();
        assert!(first.to_text().starts_with("-----BEGIN PRIVATE KEY"), "as every version wrote it");
        let until = now_seconds() + DAY;
        let second = first.succeeded_by(None, until).unwrap();
        let read = Ca::parse(&second.to_text()).unwrap();
        assert_eq!(read.to_text(), second.to_text());
        assert_eq!((read.generation_at(until - 1), read.generation_at(until)), (1, 2));
        assert_eq!(read.former_at(until - 1).unwrap().certificate, first.certificate);
        assert!(read.former_at(until).is_none());
        assert_eq!((read.chain(until - 1).len(), read.chain(until).len()), (3, 1));
        let third = read.succeeded_by(None, until).unwrap();
        assert_eq!(third.generation_at(until - 1), 2);
        assert_eq!(Ca::parse(&third.alone().to_text()).unwrap().generation_at(0), 3);
    }

    #[test]
    fn an_operators_own_ca_can_take_over() {
        let (first, own) = (Ca::generate().unwrap(), Ca::generate().unwrap());
        let text = own.to_text();
        let next = first.succeeded_by(Some(Ca::parse(&text).unwrap()), now_seconds() + DAY).unwrap();
        assert_eq!(next.certificate, own.certificate);
        assert!(next.to_text().ends_with(&tls::pem_block("CERTIFICATE", &first.certificate)));
    }
}
