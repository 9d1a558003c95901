//! What registers might mean. Pure. A guess is for a person to confirm: it marks what looks like a
//! measurement, and says nothing of the rest.

use std::collections::BTreeMap;

/// Where the two registers of a 32-bit value stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// The high register first.
    Abcd,
    /// The low register first.
    Cdab,
}

/// What an address most likely holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Guess {
    /// A 32-bit float that looks like a measurement.
    Float(Order, f32),
    /// Text of so many registers.
    Text(u16, String),
    /// A negative 16-bit integer.
    Signed(i16),
    /// A 16-bit integer.
    Unsigned(u16),
}

impl Order {
    /// As the configuration's `byte_order` has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Abcd => "ABCD",
            Self::Cdab => "CDAB",
        }
    }

    /// Two registers as a 32-bit pattern.
    pub fn pattern(self, first: u16, second: u16) -> u32 {
        let (high, low) = match self {
            Self::Abcd => (first, second),
            Self::Cdab => (second, first),
        };
        u32::from(high) << 16 | u32::from(low)
    }
}

impl Guess {
    /// Registers it takes.
    pub fn width(&self) -> u16 {
        match self {
            Self::Float(..) => 2,
            Self::Text(registers, _) => *registers,
            Self::Signed(_) | Self::Unsigned(_) => 1,
        }
    }
}

/// Does this look like a measurement? Small integers read as floats are tiny or huge, so most wrong
/// readings fall outside.
pub fn is_plausible(value: f32) -> bool {
    (1e-3..1e7).contains(&value.abs())
}

/// The two characters of a register, if both could stand in a name.
pub fn characters(word: u16) -> Option<[char; 2]> {
    let pair = word.to_be_bytes();
    let is_text = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    pair.iter().all(|byte| is_text(*byte)).then(|| pair.map(char::from))
}

/// One guess for each value in `words`, by its first address. All floats have one order, the one that
/// gives more of them.
pub fn guesses(words: &BTreeMap<u16, u16>) -> BTreeMap<u16, Guess> {
    let [abcd, cdab] = [Order::Abcd, Order::Cdab].map(|order| walk(words, order));
    let floats = |guesses: &BTreeMap<u16, Guess>| {
        guesses.values().filter(|guess| matches!(guess, Guess::Float(..))).count()
    };
    if floats(&cdab) > floats(&abcd) { cdab } else { abcd }
}

fn walk(words: &BTreeMap<u16, u16>, order: Order) -> BTreeMap<u16, Guess> {
    let mut guesses = BTreeMap::new();
    let mut free = 0;
    for (&address, &word) in words {
        if u32::from(address) < free {
            continue;
        }
        let guess = text_at(words, address)
            .or_else(|| {
                let next = address.checked_add(1)?;
                let second = *words.get(&next)?;
                if text_at(words, next).is_some() {
                    return None;
                }
                let value = f32::from_bits(order.pattern(word, second));
                is_plausible(value).then_some(Guess::Float(order, value))
            })
            .unwrap_or(match word.cast_signed() {
                negative @ ..0 => Guess::Signed(negative),
                _ => Guess::Unsigned(word),
            });
        free = u32::from(address) + u32::from(guess.width());
        guesses.insert(address, guess);
    }
    guesses
}

/// Four letters in a row or more are text, up to the NULs that fill its field.
fn text_at(words: &BTreeMap<u16, u16>, address: u16) -> Option<Guess> {
    let mut text = String::new();
    let mut registers = 0;
    let mut run = (address..=u16::MAX).map_while(|at| words.get(&at)).peekable();
    while let Some(pair) = run.peek().and_then(|word| characters(**word)) {
        run.next();
        text.extend(pair);
        registers += 1;
    }
    // A last single letter.
    if let Some([letter, 0]) =
        run.peek().map(|word| word.to_be_bytes()).filter(|pair| pair[0].is_ascii_graphic())
    {
        text.push(char::from(letter));
        registers += 1;
    }
    let letters = text.chars().filter(|letter| letter.is_ascii_alphanumeric()).count();
    (letters >= 4).then(|| Guess::Text(registers, text.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(from: u16, list: &[u16]) -> BTreeMap<u16, u16> {
        (from..).zip(list.iter().copied()).collect()
    }

    fn float(order: Order, value: f32) -> [u16; 2] {
        let [high, low] = [value.to_bits() >> 16, value.to_bits() & 0xffff].map(|half| half as u16);
        match order {
            Order::Abcd => [high, low],
            Order::Cdab => [low, high],
        }
    }

    #[test]
    fn floats_are_found_in_either_order() {
        for order in [Order::Abcd, Order::Cdab] {
            let map = words(10, &[float(order, 21.5), float(order, -3.25), float(order, 1013.2)].concat());
            let expected =
                [(10, 21.5), (12, -3.25), (14, 1013.2)].map(|(at, value)| (at, Guess::Float(order, value)));
            assert_eq!(guesses(&map), BTreeMap::from(expected));
        }
    }

    #[test]
    fn small_integers_are_no_floats_and_negative_ones_are_signed() {
        let expected = [
            (0, Guess::Unsigned(5)),
            (1, Guess::Unsigned(230)),
            (2, Guess::Signed(-12)),
            (3, Guess::Unsigned(0)),
        ];
        assert_eq!(guesses(&words(0, &[5, 230, 0xfff4, 0])), BTreeMap::from(expected));
    }

    #[test]
    fn text_is_found_with_its_end() {
        let map = words(0, &[0x5055, 0x4d50, 0x3700, 0, 7]);
        let expected =
            [(0, Guess::Text(3, "PUMP7".into())), (3, Guess::Unsigned(0)), (4, Guess::Unsigned(7))];
        assert_eq!(guesses(&map), BTreeMap::from(expected));
    }

    #[test]
    fn nothing_is_joined_over_a_hole_or_beyond_the_last_address() {
        let mut map = words(0, &float(Order::Abcd, 21.5));
        let second = map.remove(&1).unwrap();
        map.insert(2, second);
        map.insert(u16::MAX, 0x41ac);
        assert!(guesses(&map).values().all(|guess| guess.width() == 1));
    }
}
