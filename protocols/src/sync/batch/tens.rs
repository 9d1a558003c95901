//! Powers of ten, and rounding by them.

/// Ten to the 0, 1, 2 ... 12. Each is a float without a remainder.
pub(super) const POWERS: [f64; 13] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12];
/// Adding and taking away 1.5 * 2^52 rounds a smaller number to a whole one without a library call.
const ROUNDING: f64 = 6_755_399_441_055_744.0;

/// `value * power`, rounded to a whole number (a half to the even one). Good below 2^51; NaN stays NaN.
pub(super) fn rounded(value: f64, power: f64) -> f64 {
    (value * power + ROUNDING) - ROUNDING
}
