//! How a webhook is signed: Standard Webhooks 1.0.0 (standardwebhooks.com), HMAC-SHA-256 over the id, the
//! time and the body, so that a receiver knows who sends, and that it is no repetition from last week.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// `v1,` and the signature in Base64. `seconds` since 1970. A secret that begins with `whsec_` is the
/// Base64 of the key; any other is the key itself.
pub fn sign(secret: &str, id: &str, seconds: i64, body: &[u8]) -> String {
    let decoded = secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(secret.as_bytes()));
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard's own libraries.
    #[test]
    fn the_standards_example_is_signed_as_it_says() {
        let signature = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let other = sign("another secret of ours", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"");
        assert_ne!(other, signature);
    }
}
