//! The letters of short names.
//!
//! A short name is in the code page of the machine that wrote it, and the volume does not say which that was. Code page
//! 850 is taken: it is that of Western Europe, and has the letters of 437 (the United States) at the same places; the
//! two differ where 437 has box drawings and mathematical signs, which names seldom have.

/// The upper half of code page 850.
const UPPER: [char; 128] = [
    'Ç', 'ü', 'é', 'â', 'ä', 'à', 'å', 'ç', 'ê', 'ë', 'è', 'ï', 'î', 'ì', 'Ä', 'Å', 'É', 'æ', 'Æ', 'ô', 'ö', 'ò', 'û',
    'ù', 'ÿ', 'Ö', 'Ü', 'ø', '£', 'Ø', '×', 'ƒ', 'á', 'í', 'ó', 'ú', 'ñ', 'Ñ', 'ª', 'º', '¿', '®', '¬', '½', '¼', '¡',
    '«', '»', '░', '▒', '▓', '│', '┤', 'Á', 'Â', 'À', '©', '╣', '║', '╗', '╝', '¢', '¥', '┐', '└', '┴', '┬', '├', '─',
    '┼', 'ã', 'Ã', '╚', '╔', '╩', '╦', '╠', '═', '╬', '¤', 'ð', 'Ð', 'Ê', 'Ë', 'È', 'ı', 'Í', 'Î', 'Ï', '┘', '┌', '█',
    '▄', '¦', 'Ì', '▀', 'Ó', 'ß', 'Ô', 'Ò', 'õ', 'Õ', 'µ', 'þ', 'Þ', 'Ú', 'Û', 'Ù', 'ý', 'Ý', '¯', '´', '\u{ad}', '±',
    '‗', '¾', '¶', '§', '÷', '¸', '°', '¨', '·', '¹', '³', '²', '■', '\u{a0}',
];

/// The letter that `byte` stands for.
pub fn letter(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        Some(upper) => UPPER.get(usize::from(upper)).copied().unwrap_or(char::REPLACEMENT_CHARACTER),
        None => char::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked by `iconv -f CP850`.
    #[test]
    fn letters_are_those_of_code_page_850() {
        let text: String = [0x8e, 0x9a, 0xe1, 0x90, 0x41, 0xb5, 0xd0, 0xef, 0xff].into_iter().map(letter).collect();
        assert_eq!(text, "ÄÜßÉAÁð´\u{a0}");
    }
}
