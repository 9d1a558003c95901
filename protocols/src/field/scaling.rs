//! Scaling: `raw * scale + offset`, so that 3 tenths are 0.3. Pure.

/// How raw numbers become values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scaling {
    factor: Factor,
    offset: f64,
}

/// 3 * 0.1 is 0.30000000000000004, and 3 / 10 is 0.3. A scale that is one over a whole number
/// divides, so that values come out as short as the device meant them; the codec lives on that.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Factor {
    Times(f64),
    Over(f64),
}

impl Scaling {
    /// `None` if the configuration asks for neither: then an integer stays one.
    pub(super) fn new(scale: Option<f64>, offset: Option<f64>) -> Option<Self> {
        if scale.is_none() && offset.is_none() {
            return None;
        }
        let scale = scale.unwrap_or(1.0);
        let inverse = (1.0 / scale).round();
        let factor = if inverse.abs() > 1.0 && inverse.is_finite() && 1.0 / inverse == scale {
            Factor::Over(inverse)
        } else {
            Factor::Times(scale)
        };
        Some(Self { factor, offset: offset.unwrap_or(0.0) })
    }

    /// The value of a raw number.
    pub(super) fn apply(self, raw: f64) -> f64 {
        let scaled = match self.factor {
            Factor::Times(scale) => raw * scale,
            Factor::Over(inverse) => raw / inverse,
        };
        scaled + self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_and_thousandths_come_out_as_the_device_meant_them() {
        for (scale, digits) in [(0.1, 1), (0.001, 3), (-0.01, 2)] {
            let scaling = Scaling::new(Some(scale), None).unwrap();
            for raw in 0..1000u32 {
                let meant = f64::from(raw) / 10f64.powi(digits) * scale.signum();
                assert_eq!(scaling.apply(raw.into()), meant, "{raw} at {scale}");
            }
        }
    }

    #[test]
    fn other_scales_multiply_and_the_offset_comes_after() {
        assert_eq!(Scaling::new(Some(1.8), Some(32.0)).map(|scaling| scaling.apply(100.0)), Some(212.0));
        assert_eq!(Scaling::new(None, Some(-0.5)).map(|scaling| scaling.apply(2.0)), Some(1.5));
        // One over it is beyond all floats.
        assert_eq!(Scaling::new(Some(5e-324), None).map(|scaling| scaling.apply(2.0)), Some(1e-323));
        assert_eq!(Scaling::new(None, None), None);
    }
}
